//! A stock zenohd with the gate loaded, beside the same zenohd without it and with its own access control.
//!
//! ```text
//! Pair: publisher ──▶ zenohd, a process of its own ──▶ subscriber      throughput, cost
//! Echo: ping, pong; question, answer ──▶ the same                     latency
//! Crowd, many sessions ──▶ the same                                   idle, suspend, storm
//! ```

mod cost;
mod crowd;
mod idle;
mod latency;
mod pair;
mod routers;
mod storm;
mod suspend;
mod throughput;

use crate::case::Case;
use crate::limits::raise_file_limit;
use crate::session::Session;
use routers::Routers;
use tokio::runtime::Runtime;

/// The cases of this group.
pub const CASES: &[Case] = &[
    throughput::VARIANTS[0].case,
    throughput::VARIANTS[1].case,
    throughput::VARIANTS[2].case,
    throughput::VARIANTS[3].case,
    throughput::ACL,
    latency::ROUND_TRIP,
    latency::QUERY,
    cost::CASE,
    idle::CASE,
    suspend::CASE,
    storm::CASE,
];

/// Cases that share running routers.
const TOGETHER: usize = 8;

/// Measures the cases that are wanted.
pub fn run(session: &mut Session) {
    // Sessions are open files, here and in the routers.
    raise_file_limit();
    let runtime = Runtime::new().unwrap();
    if session.wants_any(CASES.iter().take(TOGETHER).map(|case| case.name)) {
        session.note("zenoh: building the plugin and starting the routers");
        let routers = Routers::start();
        throughput::run(session, &routers);
        latency::run(session, &routers);
        cost::run(session, &routers);
    }
    idle::run(session, &runtime);
    suspend::run(session, &runtime);
    storm::run(session, &runtime);
}
