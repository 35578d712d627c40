//! How long a suspended tenant's thousand connections live on.

use super::brokers::Target;
use super::crowd;
use super::site::Site;
use super::wire::{self, ConnectError};
use crate::case::{Case, Goal};
use crate::report::Measured;
use crate::session::Session;
use crate::stats::median;
use bulkhead_policy::{Status, TenantId};
use std::net::TcpStream;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// The case. The directory is a file, which the service looks at again and again.
pub const CASE: Case =
    Case { name: "mqtt.suspend.1000", unit: "s", goal: Some(Goal::ValueAtMost(1.0)) };

/// Connections of the tenant that is suspended.
const CUT: usize = 1_000;

/// Connections of the tenant that is not.
const STAYING: usize = 100;

/// How long the last connection may take to be cut, or the tenant to be admitted again, before the
/// run is given up.
const GIVE_UP: Duration = Duration::from_secs(20);

/// How long the broker goes on looking for connections to cut: past it, who is there stays.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Measures the case if it is wanted.
pub fn run(session: &mut Session, runtime: &Runtime) {
    if !session.wants(CASE.name) {
        return;
    }
    session.note(CASE.name);
    let runs = session.effort().choose(7, 2);
    let [acme, globex] = ["acme", "globex"].map(|id| TenantId::parse(id).unwrap());
    let site = Site::start(&[acme.clone(), globex.clone()]);
    let target = Target::of_site(&site);
    let store = site.store(runtime);
    let set = |status| {
        runtime.block_on(store.update(&acme, |tenant| tenant.status = status)).unwrap();
        Instant::now()
    };
    let again = target.hello(&acme, "cam-0");
    let (mut first, mut half, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        let others = hold(runtime, target, &globex, STAYING);
        let crowd = hold(runtime, target, &acme, CUT);
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
        let refused = wire::connect(target.address, &again);
        assert!(matches!(refused, Err(ConnectError::Refused(_))), "a suspended tenant connected");
        if run + 1 == runs {
            std::thread::sleep(LAST_LOOK);
        }
        assert!(!others.iter().any(JoinHandle::is_finished), "another tenant was cut off");
        others.iter().for_each(JoinHandle::abort);
        set(Status::Active);
        until_admitted(target, &again);
    }
    session.record(
        Measured::new(CASE, last).detail("first_s", median(&first)).detail("half_s", median(&half)),
    );
}

/// Connects so many devices of a tenant and holds the connections.
fn hold(
    runtime: &Runtime,
    target: Target<'_>,
    tenant: &TenantId,
    count: usize,
) -> Vec<JoinHandle<Instant>> {
    let clients: Vec<_> = (0..count).map(|i| format!("cam-{i}")).collect();
    let streams = crowd::connect(target, tenant, &clients);
    streams.into_iter().map(|stream| runtime.spawn(held(stream))).collect()
}

/// Holds a connection until the broker ends it, and says when that was.
async fn held(stream: TcpStream) -> Instant {
    stream.set_nonblocking(true).unwrap();
    let mut stream = tokio::net::TcpStream::from_std(stream).unwrap();
    let mut buffer = [0; 64];
    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    Instant::now()
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

/// Connects again and again until it is admitted.
fn until_admitted(target: Target<'_>, hello: &[u8]) {
    let started = Instant::now();
    while let Err(error) = wire::connect(target.address, hello) {
        assert!(matches!(error, ConnectError::Refused(_)), "a connection failed: {error:?}");
        assert!(started.elapsed() < GIVE_UP, "nobody is admitted: {error:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
