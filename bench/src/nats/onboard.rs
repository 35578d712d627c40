//! How long a new tenant waits for its first connection, when there are 999 others.

use super::site::{DirectoryIn, Site};
use super::wire::{self, ConnectError};
use crate::case::{Case, Goal};
use crate::report::Measured;
use crate::session::Session;
use crate::stats::median;
use bulkhead_policy::{Tenant, TenantId};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The directory in a file, which the service looks at again and again.
pub const CASE: Case =
    Case { name: "nats.onboard.1000", unit: "ms", goal: Some(Goal::ValueAtMost(50.0)) };

/// The directory in etcd, which tells the service.
pub const CASE_ETCD: Case = Case { name: "nats.onboard.1000.etcd", unit: "ms", goal: None };

/// Tenants that are there already.
const TENANTS: usize = 999;

/// Pause after a refused connection.
const PAUSE: Duration = Duration::from_millis(1);

/// How long the first connection may take before the run is given up.
const GIVE_UP: Duration = Duration::from_secs(20);

/// How long the service has to follow the removal of a tenant.
const SETTLE: Duration = Duration::from_millis(600);

/// Measures the cases that are wanted.
pub fn run(session: &mut Session, runtime: &Runtime) {
    for (case, directory) in [(CASE, DirectoryIn::File), (CASE_ETCD, DirectoryIn::Etcd)] {
        if session.wants(case.name) {
            session.note(&format!("{}: {TENANTS} tenants first", case.name));
            let measured = measure(session, runtime, case, directory);
            session.record(measured);
        }
    }
}

fn measure(session: &Session, runtime: &Runtime, case: Case, directory: DirectoryIn) -> Measured {
    let runs = session.effort().choose(15, 3);
    let tenants: Vec<_> =
        (0..TENANTS).map(|i| TenantId::parse(&format!("tenant-{i}")).unwrap()).collect();
    let site = Site::start(runtime, directory, &tenants);
    let store = site.store(runtime);
    let (mut waits, mut creations, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        let tenant = TenantId::parse(&format!("new-{run}")).unwrap();
        let hello = site.hello(&tenant, "cam-1");
        // The service's looks at the directory keep their own time; repetitions meet it anywhere.
        std::thread::sleep(SETTLE + Duration::from_millis(43 * run));
        let started = Instant::now();
        runtime.block_on(store.create(&tenant, Tenant::default())).unwrap();
        let created = Instant::now();
        let mut refused = 0_u32;
        loop {
            match wire::connect(site.address(), &hello) {
                Ok(_) => break,
                Err(ConnectError::Refused(_)) => refused += 1,
                Err(ConnectError::Io(error)) => panic!("a connection failed: {error}"),
            }
            assert!(created.elapsed() < GIVE_UP, "the new tenant is never admitted");
            std::thread::sleep(PAUSE);
        }
        waits.push(created.elapsed().as_secs_f64() * 1e3);
        creations.push((created - started).as_secs_f64() * 1e3);
        refusals.push(f64::from(refused));
        // The next one is the thousandth again.
        runtime.block_on(store.delete(&tenant)).unwrap();
    }
    Measured::new(case, waits)
        .detail("create_ms", median(&creations))
        .detail("refused_before", median(&refusals))
}
