//! How long a suspended tenant's sessions live on.

use super::crowd;
use super::routers::{Gated, Target};
use crate::case::{Case, Goal};
use crate::session::Session;
use crate::suspension::{self, GIVE_UP, Scene};
use bulkhead_policy::TenantId;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The case. The directory is a file, which the gate looks at again and again.
pub const CASE: Case =
    Case { name: "zenoh.suspend.1000", unit: "s", goal: Some(Goal::ValueAtMost(1.0)) };

/// How long the gate goes on looking for sessions to cut: past it, who is there stays.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Measures the case if it is wanted.
pub fn run(session: &mut Session, runtime: &Runtime) {
    if !session.wants(CASE.name) {
        return;
    }
    session.note(CASE.name);
    let runs = session.effort().choose(5, 1);
    let gated = Gated::start(&suspension::tenants());
    let store = gated.store(runtime);
    let gate = Gate { runtime, target: gated.target() };
    let measured = suspension::measure(runtime, &store, &gate, CASE, runs, LAST_LOOK);
    session.record(measured);
}

struct Gate<'a> {
    runtime: &'a Runtime,
    target: Target<'a>,
}

impl Gate<'_> {
    fn is_admitted(&self, tenant: &TenantId) -> bool {
        let token = self.target.token(tenant, "cam-0");
        self.runtime.block_on(async {
            match crowd::open(&self.target.endpoint(), token).await {
                Ok(member) => {
                    member.close().await;
                    true
                }
                Err(_) => false,
            }
        })
    }
}

impl Scene for Gate<'_> {
    fn hold(&self, tenant: &TenantId, count: usize) -> Vec<JoinHandle<Instant>> {
        let devices: Vec<_> = (0..count).map(|i| format!("cam-{i}")).collect();
        let members = crowd::open_all(self.runtime, self.target, tenant, &devices);
        members.into_iter().map(|member| member.hold(self.runtime)).collect()
    }

    fn refuses(&self, tenant: &TenantId) -> bool {
        !self.is_admitted(tenant)
    }

    fn until_admitted(&self, tenant: &TenantId) {
        let started = Instant::now();
        while !self.is_admitted(tenant) {
            assert!(started.elapsed() < GIVE_UP, "nobody is admitted");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
