//! How long a suspended tenant's thousand connections live on.

use super::site::{DirectoryIn, Site};
use super::wire::{self, ConnectError};
use crate::case::{Case, Goal};
use crate::report::Measured;
use crate::session::Session;
use crate::suspension::{self, Scene};
use bulkhead_policy::TenantId;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The directory in a file, which the service looks at again and again.
pub const CASE: Case =
    Case { name: "nats.suspend.1000", unit: "s", goal: Some(Goal::ValueAtMost(1.0)) };

/// The directory in etcd, which tells the service.
pub const CASE_ETCD: Case = Case { name: "nats.suspend.1000.etcd", unit: "s", goal: None };

/// Threads that connect.
const CONNECTORS: usize = 4;

/// How long the service goes on looking for connections to cut: past it, who is there stays.
const LAST_LOOK: Duration = Duration::from_secs(3);

/// Measures the cases that are wanted.
pub fn run(session: &mut Session, runtime: &Runtime) {
    for (case, directory) in [(CASE, DirectoryIn::File), (CASE_ETCD, DirectoryIn::Etcd)] {
        if session.wants(case.name) {
            session.note(case.name);
            let measured = measure(session, runtime, case, directory);
            session.record(measured);
        }
    }
}

fn measure(session: &Session, runtime: &Runtime, case: Case, directory: DirectoryIn) -> Measured {
    let runs = session.effort().choose(9, 2);
    let site = Site::start(runtime, directory, &suspension::tenants());
    let store = site.store(runtime);
    let servers = Servers { runtime, site: &site };
    suspension::measure(runtime, &store, &servers, case, runs, LAST_LOOK)
}

struct Servers<'a> {
    runtime: &'a Runtime,
    site: &'a Site,
}

impl Scene for Servers<'_> {
    fn hold(&self, tenant: &TenantId, count: usize) -> Vec<JoinHandle<Instant>> {
        let address = self.site.address();
        let hellos: Vec<_> =
            (0..count).map(|i| self.site.hello(tenant, &format!("cam-{i}"))).collect();
        let streams: Vec<_> = std::thread::scope(|scope| {
            let share = hellos.len().div_ceil(CONNECTORS);
            let connectors: Vec<_> = hellos
                .chunks(share)
                .map(|own| {
                    scope.spawn(move || -> Vec<_> {
                        own.iter().map(|hello| wire::connect(address, hello).unwrap()).collect()
                    })
                })
                .collect();
            connectors.into_iter().flat_map(|connector| connector.join().unwrap()).collect()
        });
        streams.into_iter().map(|stream| self.runtime.spawn(wire::held(stream))).collect()
    }

    fn refuses(&self, tenant: &TenantId) -> bool {
        let hello = self.site.hello(tenant, "cam-0");
        matches!(wire::connect(self.site.address(), &hello), Err(ConnectError::Refused(_)))
    }

    fn until_admitted(&self, tenant: &TenantId) {
        wire::until_admitted(self.site.address(), &self.site.hello(tenant, "cam-0"));
    }
}
