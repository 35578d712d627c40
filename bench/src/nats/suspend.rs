//! How long a suspended tenant's thousand connections live on.

use super::site::{DirectoryIn, Site};
use super::wire::{self, ConnectError};
use crate::case::{Case, Goal};
use crate::report::Measured;
use crate::session::Session;
use crate::stats::median;
use bulkhead_policy::{Status, TenantId};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// The directory in a file, which the service looks at again and again.
pub const CASE: Case =
    Case { name: "nats.suspend.1000", unit: "s", goal: Some(Goal::ValueAtMost(1.0)) };

/// The directory in etcd, which tells the service.
pub const CASE_ETCD: Case = Case { name: "nats.suspend.1000.etcd", unit: "s", goal: None };

/// Connections of the tenant that is suspended.
const CUT: usize = 1_000;

/// Connections of the tenant that is not.
const STAYING: usize = 100;

/// Threads that connect.
const CONNECTORS: usize = 4;

/// How long the last connection may take to be cut before the run is given up.
const GIVE_UP: Duration = Duration::from_secs(20);

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
    let [acme, globex] = ["acme", "globex"].map(|id| TenantId::parse(id).unwrap());
    let site = Site::start(runtime, directory, &[acme.clone(), globex.clone()]);
    let store = site.store(runtime);
    let set = |status| {
        runtime.block_on(store.update(&acme, |tenant| tenant.status = status)).unwrap();
        Instant::now()
    };
    let hellos = |tenant: &TenantId, count: usize| -> Vec<Vec<u8>> {
        (0..count).map(|i| site.hello(tenant, &format!("cam-{i}"))).collect()
    };
    let (leaving, staying) = (hellos(&acme, CUT), hellos(&globex, STAYING));
    let (mut first, mut half, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        let others = hold(runtime, &site, &staying);
        let crowd = hold(runtime, &site, &leaving);
        // The service's looks at the directory keep their own time; repetitions meet it anywhere.
        std::thread::sleep(Duration::from_millis(300 + 43 * run));
        assert!(!crowd.iter().any(JoinHandle::is_finished), "a connection ended by itself");
        let returned = set(Status::Suspended);
        let mut ends = runtime.block_on(all(crowd));
        ends.sort_unstable();
        let seconds = |end: &Instant| end.saturating_duration_since(returned).as_secs_f64();
        first.push(seconds(&ends[0]));
        half.push(seconds(&ends[ends.len() / 2]));
        last.push(seconds(&ends[ends.len() - 1]));
        let refused = wire::connect(site.address(), &leaving[0]);
        assert!(matches!(refused, Err(ConnectError::Refused(_))), "a suspended tenant connected");
        if run + 1 == runs {
            std::thread::sleep(LAST_LOOK);
        }
        assert!(!others.iter().any(JoinHandle::is_finished), "another tenant was cut off");
        others.iter().for_each(JoinHandle::abort);
        set(Status::Active);
        wire::until_admitted(site.address(), &leaving[0]);
    }
    Measured::new(case, last).detail("first_s", median(&first)).detail("half_s", median(&half))
}

/// Connects with each of these and holds the connections.
fn hold(runtime: &Runtime, site: &Site, hellos: &[Vec<u8>]) -> Vec<JoinHandle<Instant>> {
    let address = site.address();
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
    streams.into_iter().map(|stream| runtime.spawn(wire::held(stream))).collect()
}

async fn all(crowd: Vec<JoinHandle<Instant>>) -> Vec<Instant> {
    let ends = async {
        let mut ends = Vec::with_capacity(crowd.len());
        for connection in crowd {
            ends.push(connection.await.unwrap());
        }
        ends
    };
    timeout(GIVE_UP, ends).await.expect("every connection is cut in time")
}
