//! The MQTT broker, beside real mosquittos and stock rumqttd on loopback.
//!
//! ```text
//! Publisher threads ──▶ broker, a process of its own ──▶ Subscribers, one thread     throughput,
//!                                                                                    tenants
//! Crowd, many connections ──▶ the same                                               connect, idle,
//!                                                                                    suspend
//! ```

mod brokers;
mod connect;
mod crowd;
mod idle;
mod load;
mod publisher;
mod site;
mod subscribers;
mod suspend;
mod tally;
mod tenants;
mod throughput;
mod wire;

pub use brokers::{serve_open, serve_rumqttd};

use crate::case::Case;
use crate::limits::raise_file_limit;
use crate::session::Session;
use tokio::runtime::Runtime;

/// The cases of this group.
pub const CASES: &[Case] = &[
    throughput::VARIANTS[0].case,
    throughput::VARIANTS[1].case,
    throughput::VARIANTS[2].case,
    throughput::VARIANTS[3].case,
    throughput::VARIANTS[4].case,
    throughput::VARIANTS[5].case,
    throughput::VARIANTS[6].case,
    throughput::VARIANTS[7].case,
    throughput::VARIANTS[8].case,
    throughput::VARIANTS[9].case,
    throughput::VARIANTS[10].case,
    throughput::VARIANTS[11].case,
    throughput::VARIANTS[12].case,
    throughput::VARIANTS[13].case,
    throughput::SATURATED[0].0,
    throughput::SATURATED[1].0,
    connect::CASE,
    idle::CASE,
    suspend::CASE,
    tenants::CASE,
];

/// Measures the cases that are wanted.
pub fn run(session: &mut Session) {
    // Connections are open files, here and in the brokers.
    let file_limit = raise_file_limit();
    let runtime = Runtime::new().unwrap();
    throughput::run(session);
    connect::run(session);
    idle::run(session, file_limit);
    suspend::run(session, &runtime);
    tenants::run(session);
}
