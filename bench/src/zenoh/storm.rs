//! What it costs to refuse those who come again and again.

use super::crowd;
use super::routers::{Gated, Plain, TENANT};
use crate::case::{Case, Goal};
use crate::cpu;
use crate::report::Measured;
use crate::session::Session;
use bulkhead_policy::{Status, TenantId};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The case: CPU time of the router's process for one attempt.
pub const CASE: Case = Case { name: "zenoh.storm", unit: "us", goal: Some(Goal::RatioAtMost(1.0)) };

/// Attempts at a time.
const AT_ONCE: usize = 16;

/// How long the gate has to hear of the suspension.
const HEARD: Duration = Duration::from_secs(5);

/// Measures the case if it is wanted.
pub fn run(session: &mut Session, runtime: &Runtime) {
    if !session.wants(CASE.name) {
        return;
    }
    session.note(CASE.name);
    let attempts = session.effort().choose(5_000, 500);
    let runs = session.effort().choose(5, 2);
    let tenant = TenantId::parse(TENANT).unwrap();
    let gated = Gated::start(std::slice::from_ref(&tenant));
    let target = gated.target();
    let tokens: Vec<_> =
        (0..attempts).map(|i| target.token(&tenant, &format!("cam-{i}"))).collect();
    let store = gated.store(runtime);
    runtime.block_on(store.update(&tenant, |tenant| tenant.status = Status::Suspended)).unwrap();
    let began = Instant::now();
    while runtime.block_on(crowd::open(&target.endpoint(), tokens[0].clone())).is_ok() {
        assert!(began.elapsed() < HEARD, "a suspended tenant is let in");
    }
    // The first time a token's signature is verified; then it is known.
    let first = measure(runtime, &target.endpoint(), target.pid(), &tokens);
    let ours = (0..runs).map(|_| measure(runtime, &target.endpoint(), target.pid(), &tokens));
    let ours = ours.collect();
    let plain = Plain::with_password();
    let (target, nobody) = (plain.target(), vec![Some("nobody".to_owned()); attempts]);
    let peer = (0..runs).map(|_| measure(runtime, &target.endpoint(), target.pid(), &nobody));
    let peer = peer.collect();
    session.record(
        Measured::new(CASE, ours)
            .against("zenohd with a password", peer)
            .detail("first_us", first)
            .detail("attempts", attempts as f64),
    );
}

/// Microseconds of CPU for each attempt, all of which are refused.
fn measure(runtime: &Runtime, endpoint: &str, pid: u32, users: &[Option<String>]) -> f64 {
    let before = cpu::of_process(pid);
    for some in users.chunks(AT_ONCE) {
        let open = |user: &Option<String>| {
            let (endpoint, user) = (endpoint.to_owned(), user.clone());
            runtime.spawn(async move { crowd::open(&endpoint, user).await.is_err() })
        };
        let opening: Vec<_> = some.iter().map(open).collect();
        for refused in opening {
            assert!(runtime.block_on(refused).unwrap(), "somebody was let in");
        }
    }
    (cpu::of_process(pid) - before) * 1e6 / users.len() as f64
}
