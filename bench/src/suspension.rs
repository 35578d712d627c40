//! How long a suspended tenant's connections live on, whatever they are made to.

use crate::case::Case;
use crate::report::Measured;
use crate::stats::median;
use bulkhead_control::directory::Store;
use bulkhead_policy::{Status, TenantId};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Connections of the tenant that is suspended.
const CUT: usize = 1_000;

/// Connections of the tenant that is not.
const STAYING: usize = 100;

/// How long the last connection may take to be cut, or the tenant to be admitted again, before the
/// run is given up.
pub const GIVE_UP: Duration = Duration::from_secs(20);

/// The tenant that is suspended, and the one that is not.
pub fn tenants() -> [TenantId; 2] {
    ["acme", "globex"].map(|id| TenantId::parse(id).unwrap())
}

/// Where tenants connect to.
pub trait Scene {
    /// Connects so many devices of a tenant and holds them. Each says when it was cut.
    fn hold(&self, tenant: &TenantId, count: usize) -> Vec<JoinHandle<Instant>>;

    /// Whether a device of the tenant is refused; it is the service that refuses it.
    fn refuses(&self, tenant: &TenantId) -> bool;

    /// Connects until a device of the tenant is admitted.
    fn until_admitted(&self, tenant: &TenantId);
}

/// Suspends a tenant so often. After `last_look` the service looks for nobody to cut any more.
pub fn measure(
    runtime: &Runtime,
    store: &Store,
    scene: &impl Scene,
    case: Case,
    runs: u64,
    last_look: Duration,
) -> Measured {
    let [acme, globex] = tenants();
    let set = |status| {
        runtime.block_on(store.update(&acme, |tenant| tenant.status = status)).unwrap();
        Instant::now()
    };
    let (mut first, mut half, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        let others = scene.hold(&globex, STAYING);
        let crowd = scene.hold(&acme, CUT);
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
        assert!(scene.refuses(&acme), "a suspended tenant connected");
        if run + 1 == runs {
            std::thread::sleep(last_look);
        }
        assert!(!others.iter().any(JoinHandle::is_finished), "another tenant was cut off");
        others.iter().for_each(JoinHandle::abort);
        set(Status::Active);
        scene.until_admitted(&acme);
    }
    Measured::new(case, last).detail("first_s", median(&first)).detail("half_s", median(&half))
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
