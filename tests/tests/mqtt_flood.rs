//! A million topics, filters and retained messages of one tenant cost no more than its quotas allow.
//!
//! The only test of its program, whose memory it measures: the broker runs in it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_policy::Quotas;
use bulkhead_tests::mqtt::codec::{
    self, PublishHeader, QoS, ReasonCode, SubscriptionOptions, Version,
};
use bulkhead_tests::mqtt::{Client, Mode};
use bulkhead_tests::{Stack, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MILLION: u32 = 1_000_000;

/// What acme may have of each.
const QUOTA: u32 = 1000;

/// Messages or filters that are sent at a time.
const BATCH: u32 = 1000;

/// Digits of the number in each name.
const DIGITS: usize = 7;

/// Bytes by which a process may grow meanwhile: what is under way for a few clients, several times
/// over. A million names alone are [`NAME`] MB, and what is kept costs more than its name.
const GROWTH: u64 = 32 << 20;

/// Bytes of a name.
const NAME: usize = 40;

/// Memory of a process that is in use, in bytes.
fn resident(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// A thousand packets or filters that differ in a number, and where these are.
struct Batch {
    bytes: Vec<u8>,
    numbers: Vec<usize>,
}

impl Batch {
    /// Writes packets with a function that is given the name to put into them.
    fn new(kind: &str, write: impl FnOnce(&mut Vec<u8>, &[String])) -> Self {
        let start = format!("device-connect/acme/{kind}/");
        let rest = "x".repeat(NAME - start.len() - DIGITS - 1);
        let name = format!("{start}{}/{rest}", "#".repeat(DIGITS)).replace('#', "0");
        let mut bytes = Vec::new();
        write(&mut bytes, &vec![name.clone(); BATCH as usize]);
        let found = bytes.windows(NAME).enumerate().filter(|(_, text)| *text == name.as_bytes());
        let numbers: Vec<_> = found.map(|(at, _)| at + start.len()).collect();
        assert_eq!(numbers.len(), BATCH as usize);
        Self { bytes, numbers }
    }

    /// With the numbers from this one.
    fn from(&mut self, first: u32) -> &[u8] {
        for (at, n) in self.numbers.iter().zip(first..) {
            self.bytes[*at..at + DIGITS].copy_from_slice(format!("{n:07}").as_bytes());
        }
        &self.bytes
    }
}

/// Publishes to a million topics with QoS 0.
async fn publish(client: &mut Client, kind: &str, retain: bool) {
    let mut batch = Batch::new(kind, |out, topics| {
        for topic in topics {
            let qos = QoS::AtMostOnce;
            let header = PublishHeader { dup: false, qos, retain, topic, packet_id: 0 };
            codec::publish(out, Version::V5, header, &[], &[], b"x");
        }
    });
    for first in (0..MILLION).step_by(BATCH as usize) {
        client.send(batch.from(first)).await;
    }
    client.ping().await;
}

/// Asks for a million subscriptions, and says how many were granted.
async fn subscribe(client: &mut Client) -> usize {
    let options = SubscriptionOptions::of_qos(QoS::AtMostOnce);
    let mut batch = Batch::new("filter", |out, filters| {
        let filters: Vec<_> = filters.iter().map(|filter| (filter.as_str(), options)).collect();
        codec::subscribe(out, Version::V5, 1, &[], &filters);
    });
    let mut granted = 0;
    for first in (0..MILLION).step_by(BATCH as usize) {
        client.send(batch.from(first)).await;
        let codes = client.suback(1).await;
        granted += codes.iter().filter(|code| !code.is_error()).count();
        assert!(codes.iter().all(|code| !code.is_error() || *code == ReasonCode::QUOTA_EXCEEDED));
    }
    granted
}

async fn a_million_of_each(mode: Mode) {
    let mut stack =
        Stack::mqtt_in(mode).mqtt("max_subscriptions_per_session = 100000").start().await;
    let quotas = Quotas {
        subscriptions: Some(QUOTA.into()),
        retained_messages: Some(QUOTA.into()),
        ..Quotas::default()
    };
    stack.change("acme", |t| t.quotas = quotas).await;
    let acme = "acme".parse().unwrap();
    let directory = stack.control().auth().directory();
    eventually("the quotas are known", || directory.tenant(&acme).unwrap().quotas == quotas).await;
    let mut witness = stack.witness("globex").await;
    let mut processes = vec!["self".to_owned()];
    if !mode.is_embedded() {
        processes.push(stack.mosquitto().pid().to_string());
    }
    let over = Arc::new(AtomicBool::new(false));
    let witnessing = tokio::spawn({
        let over = Arc::clone(&over);
        async move {
            let before: Vec<_> = processes.iter().map(|process| resident(process)).collect();
            let mut n = 0_u64;
            while !over.load(Ordering::Relaxed) {
                witness.published("device-connect/globex/x", &n.to_string()).await;
                assert_eq!(witness.payload().await, n.to_string());
                n += 1;
                for (process, before) in processes.iter().zip(&before) {
                    let grown = resident(process).saturating_sub(*before);
                    assert!(grown < GROWTH, "{process} has grown by {grown} bytes");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            n
        }
    });
    let mut flood = stack.member("acme", "flood").await;
    publish(&mut flood, "topic", false).await;
    assert_eq!(subscribe(&mut flood).await, QUOTA as usize);
    let refused = u64::from(MILLION - QUOTA);
    assert_eq!(stack.refusals("subscribe", "subscription_quota_exceeded"), refused);
    if mode.is_embedded() {
        publish(&mut flood, "retained", true).await;
        eventually("all are refused but so many", || {
            stack.refusals("retain", "retained_quota_exceeded") == refused
        })
        .await;
        eventually("these are kept", || {
            stack.metric("bulkhead_mqtt_retained_messages") == u64::from(QUOTA)
        })
        .await;
    }
    over.store(true, Ordering::Relaxed);
    assert!(witnessing.await.unwrap() > 0, "globex went on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_of_everything_stays_within_the_tenants_quotas() {
    for mode in [Mode::Embedded, Mode::Upstream] {
        a_million_of_each(mode).await;
    }
}
