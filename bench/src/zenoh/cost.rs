//! What the gate costs, in CPU time.

use super::pair::Pair;
use super::routers::Routers;
use crate::case::{Case, Goal};
use crate::report::Measured;
use crate::session::Session;
use crate::stats::median;
use std::time::Duration;

/// The case: what the process with the gate uses more than the router alone, ÷ what that uses.
pub const CASE: Case = Case { name: "zenoh.cpu", unit: "us", goal: Some(Goal::RatioAtMost(0.5)) };

/// Bytes of a message.
const PAYLOAD: usize = 64;

/// Messages each millisecond, which every router carries with ease.
const EACH_MS: u64 = 10;

/// Measures the case if it is wanted.
pub fn run(session: &mut Session, routers: &Routers) {
    if !session.wants(CASE.name) {
        return;
    }
    session.note(CASE.name);
    let runs = session.effort().choose(5, 2);
    // CPU time comes in steps of 10 ms.
    let length = session.effort().choose(Duration::from_secs(5), Duration::from_secs(2));
    let pairs = [routers.gated(), routers.direct(), routers.acl()].map(Pair::connect);
    let mut used: [Vec<f64>; 3] = Default::default();
    for _ in 0..runs {
        for (pair, used) in pairs.iter().zip(&mut used) {
            let sample = pair.pace(PAYLOAD, EACH_MS, length);
            used.push(sample.cpu / sample.arrived * 1e6);
        }
    }
    let [gated, direct, acl] = used;
    let more = gated.iter().zip(&direct).map(|(gated, direct)| gated - direct).collect();
    session.record(
        Measured::new(CASE, more)
            .cpu_us_per_op(median(&gated))
            .detail("acl_us", median(&acl))
            .detail("messages_per_s", 1e3 * EACH_MS as f64)
            .against("zenohd alone", direct),
    );
}
