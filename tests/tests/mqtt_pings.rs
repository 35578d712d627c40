//! What answers the pings of a WebSocket's client that reads nothing is not kept.
//!
//! The only test of its program, whose memory it measures: the broker runs in it.

#![allow(clippy::unwrap_used, reason = "a test stops at a surprise")]

use bulkhead_tests::mqtt::Mode;
use bulkhead_tests::{Stack, Transport, ping_and_read_nothing};

/// Bytes by which the process may grow meanwhile. All answers are 120 MB.
const GROWTH: u64 = 24 << 20;

/// Memory of this process that is in use, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_of_whoever_does_not_read_are_not_kept() {
    let stack = Stack::mqtt_in(Mode::Embedded).start().await;
    let address = stack.door(Transport::Ws).address;
    let before = resident();
    let pinging = tokio::task::spawn_blocking(move || ping_and_read_nothing(address, "mqtt"));
    let _open = pinging.await.unwrap();
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH, "it took {grown} bytes more");
}
