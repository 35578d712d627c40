//! What a session costs in memory that does nothing.

use super::crowd;
use super::routers::{Gated, Plain, TENANT, Target};
use crate::case::{Case, Goal};
use crate::memory;
use crate::report::Measured;
use crate::session::Session;
use bulkhead_policy::TenantId;
use std::time::Duration;
use tokio::runtime::Runtime;

/// The case.
pub const CASE: Case =
    Case { name: "zenoh.idle_session", unit: "KB", goal: Some(Goal::ValueAtMost(64.0)) };

/// Sessions.
const SESSIONS: usize = 1_000;

/// Sessions opened before anything is measured, so that what is made once is there.
const FIRST: usize = 50;

/// How long everything has to come to rest.
const REST: Duration = Duration::from_millis(500);

/// Bytes of a kilobyte.
const KB: f64 = 1024.0;

/// Measures the case if it is wanted.
pub fn run(session: &mut Session, runtime: &Runtime) {
    if !session.wants(CASE.name) {
        return;
    }
    session.note(CASE.name);
    let sessions = session.effort().choose(SESSIONS, 200);
    let tenant = TenantId::parse(TENANT).unwrap();
    let ours = {
        let gated = Gated::start(std::slice::from_ref(&tenant));
        measure(runtime, gated.target(), &tenant, sessions)
    };
    let peer = measure(runtime, Plain::start().target(), &tenant, sessions);
    session.record(
        Measured::new(CASE, vec![ours])
            .against("zenohd alone", vec![peer])
            .detail("sessions", sessions as f64),
    );
}

fn measure(runtime: &Runtime, target: Target<'_>, tenant: &TenantId, sessions: usize) -> f64 {
    let resident = || {
        std::thread::sleep(REST);
        memory::resident(target.pid())
    };
    let devices: Vec<_> = (0..FIRST + sessions).map(|i| format!("cam-{i}")).collect();
    let (first, rest) = devices.split_at(FIRST);
    let mut open = crowd::open_all(runtime, target, tenant, first);
    let before = resident();
    open.extend(crowd::open_all(runtime, target, tenant, rest));
    let each = (resident() - before) / KB / sessions as f64;
    runtime.block_on(async {
        for member in open {
            member.close().await;
        }
    });
    each
}
