//! How long a suspended tenant's thousand connections live on.

use super::brokers::Target;
use super::crowd;
use super::site::Site;
use super::wire::{self, ConnectError};
use crate::case::{Case, Goal};
use crate::session::Session;
use crate::suspension::{self, GIVE_UP, Scene};
use bulkhead_policy::TenantId;
use std::net::TcpStream;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The case. The directory is a file, which the service looks at again and again.
pub const CASE: Case =
    Case { name: "mqtt.suspend.1000", unit: "s", goal: Some(Goal::ValueAtMost(1.0)) };

/// How long the broker goes on looking for connections to cut: past it, who is there stays.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Measures the case if it is wanted.
pub fn run(session: &mut Session, runtime: &Runtime) {
    if !session.wants(CASE.name) {
        return;
    }
    session.note(CASE.name);
    let runs = session.effort().choose(7, 2);
    let site = Site::start(&suspension::tenants());
    let store = site.store(runtime);
    let broker = OurBroker { runtime, target: Target::of_site(&site) };
    let measured = suspension::measure(runtime, &store, &broker, CASE, runs, LAST_LOOK);
    session.record(measured);
}

struct OurBroker<'a> {
    runtime: &'a Runtime,
    target: Target<'a>,
}

impl Scene for OurBroker<'_> {
    fn hold(&self, tenant: &TenantId, count: usize) -> Vec<JoinHandle<Instant>> {
        let clients: Vec<_> = (0..count).map(|i| format!("cam-{i}")).collect();
        let streams = crowd::connect(self.target, tenant, &clients);
        streams.into_iter().map(|stream| self.runtime.spawn(held(stream))).collect()
    }

    fn refuses(&self, tenant: &TenantId) -> bool {
        let hello = self.target.hello(tenant, "cam-0");
        matches!(wire::connect(self.target.address, &hello), Err(ConnectError::Refused(_)))
    }

    fn until_admitted(&self, tenant: &TenantId) {
        let (started, hello) = (Instant::now(), self.target.hello(tenant, "cam-0"));
        while let Err(error) = wire::connect(self.target.address, &hello) {
            assert!(matches!(error, ConnectError::Refused(_)), "a connection failed: {error:?}");
            assert!(started.elapsed() < GIVE_UP, "nobody is admitted: {error:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Holds a connection until the broker ends it, and says when that was.
async fn held(stream: TcpStream) -> Instant {
    stream.set_nonblocking(true).unwrap();
    let mut stream = tokio::net::TcpStream::from_std(stream).unwrap();
    let mut buffer = [0; 64];
    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    Instant::now()
}
