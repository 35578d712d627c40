//! The registry within a running [`Control`].

use crate::backend::{Backend, BackendError, Mqtt, Nats, Zenoh};
use crate::fleet::{Common, Fleet};
use crate::metrics::Metrics;
use crate::ownership::{self, Fence, Owned, Replica, Shares, partition_of};
use crate::presence::Limits;
use crate::store::{REMOVALS, Removed, Store, StoreError};
use crate::strays::Strays;
use crate::watch::{self as watching, Changes};
use bulkhead_control::Control;
use bulkhead_control::config::{Config, RegistryConfig};
use bulkhead_control::directory::Snapshot;
use bulkhead_policy::{DeviceId, TenantId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How often numbers of all tenants are summed up.
const COUNT: Duration = Duration::from_secs(1);

/// How often what was remembered for long enough is removed.
const TIDY: Duration = Duration::from_secs(3600);

/// How long a tenant may take to write what waits at its end.
const ENDING: Duration = Duration::from_secs(2);

/// How often, and with which pause, a deleted tenant's devices are tried to be removed.
const FORGET_TRIES: usize = 30;
const FORGET_PAUSE: Duration = Duration::from_secs(2);

/// Why the registry cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No `[registry]`.
    #[error("[registry] is not configured; set registry.store")]
    NotConfigured,
    /// The store.
    #[error("{0}")]
    Store(String),
    /// A backend.
    #[error("{0}")]
    Backend(String),
    /// The metrics.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl From<StoreError> for RegistryError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

impl From<BackendError> for RegistryError {
    fn from(error: BackendError) -> Self {
        Self::Backend(error.to_string())
    }
}

/// Starts the registry of a process, which ends with its [`Control`].
///
/// # Errors
/// [`RegistryError`] for a configuration that cannot be used. Brokers and stores that are away are waited
/// for.
pub async fn start(control: &Control) -> Result<(), RegistryError> {
    let config = control.config();
    let own = config.registry.as_ref().ok_or(RegistryError::NotConfigured)?;
    let metrics = Metrics::new(control.auth().metrics().registry())?;
    let stop = control.stop();
    let store = Store::open(own, &metrics)?;
    let backends = backends(config, own, stop).await?;
    let changes = Changes::new();
    let Shares { owned, elsewhere, released } = ownership(control, own, &store, &metrics);
    let (removals, removed) = mpsc::channel(REMOVALS);
    if let Store::Etcd(etcd) = &store {
        control.tasks().spawn(Arc::clone(etcd).watch_removals(removals, stop.clone()));
    }
    let common = Arc::new(Common {
        store,
        backends,
        auth: Arc::clone(control.auth()),
        metrics,
        changes: changes.clone(),
        limits: Limits {
            devices: own.max_devices,
            bytes: own.max_bytes,
            document: own.max_document_bytes,
        },
        window: duration(own.window),
        written_per_second: own.max_written_bytes_per_second,
    });
    let auth = Arc::clone(control.auth());
    control.extension().serve(watching::routes(changes, auth, elsewhere, stop.clone()));
    for backend in &common.backends {
        let backend = Arc::clone(backend);
        let name = backend.name();
        control.readiness().require(name, move || backend.is_heard());
    }
    let settled = Arc::new(AtomicBool::new(false));
    let is_settled = Arc::clone(&settled);
    control.readiness().require("registry", move || is_settled.load(Ordering::Acquire));
    let tenants = Tenants {
        common,
        served: BTreeMap::new(),
        forgetting: BTreeMap::new(),
        strays: Strays::new(),
        released,
        removed,
        settled,
        stop: stop.clone(),
    };
    let directory = control.auth().directory().changes();
    control.tasks().spawn(tenants.follow(directory, owned));
    Ok(())
}

fn duration(signed: jiff::SignedDuration) -> Duration {
    signed.try_into().unwrap_or_default()
}

fn ownership(control: &Control, own: &RegistryConfig, store: &Store, metrics: &Metrics) -> Shares {
    let Store::Etcd(etcd) = store else {
        metrics.store_up.set(1);
        metrics.partitions.set(ownership::PARTITIONS.into());
        return Shares::alone();
    };
    let ttl = duration(own.takeover_after);
    let admin_port = control.admin_address().port();
    let (replica, shares) = Replica::new(Arc::clone(etcd), ttl, admin_port, metrics);
    control.tasks().spawn(replica.run(control.stop().clone()));
    let (keeper, stop) = (Arc::clone(etcd), control.stop().clone());
    control.tasks().spawn(async move { keeper.keep_leases(stop).await });
    let (watcher, stop) = (Arc::clone(etcd), control.stop().clone());
    control.tasks().spawn(async move { watcher.watch_space(stop).await });
    shares
}

async fn backends(
    config: &Config,
    own: &RegistryConfig,
    stop: &CancellationToken,
) -> Result<Vec<Arc<dyn Backend>>, RegistryError> {
    let mut backends: Vec<Arc<dyn Backend>> = Vec::new();
    let in_operator_mode = config.nats.as_ref().is_some_and(|nats| nats.operator.is_some());
    if own.nats.is_some() || in_operator_mode {
        let nats = own.nats.clone().unwrap_or_default();
        backends.push(Arc::new(Nats::start(config, &nats, stop.clone()).await?));
    }
    if let Some(mqtt) = &own.mqtt {
        backends.push(Arc::new(Mqtt::start(mqtt, stop.clone())?));
    }
    if let Some(zenoh) = &own.zenoh {
        backends.push(Arc::new(Zenoh::start(zenoh, stop.clone())?));
    }
    Ok(backends)
}

/// The tenants that are served here.
struct Tenants {
    common: Arc<Common>,
    served: BTreeMap<TenantId, Served>,
    /// Tenants that were deleted, and whose devices are being removed.
    forgetting: BTreeMap<TenantId, JoinHandle<()>>,
    strays: Strays,
    released: Option<mpsc::Sender<u8>>,
    removed: mpsc::Receiver<Removed>,
    settled: Arc<AtomicBool>,
    stop: CancellationToken,
}

struct Served {
    fleet: Arc<Fleet>,
    /// Of the tenants that have had the name, the one that was created then.
    created: Option<jiff::Timestamp>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Tenants {
    async fn follow(
        mut self,
        mut directory: watch::Receiver<Arc<Snapshot>>,
        mut owned: watch::Receiver<Arc<Owned>>,
    ) {
        let mut before = Owned::new();
        let mut count = tokio::time::interval(COUNT);
        let mut tidy = tokio::time::interval_at(tokio::time::Instant::now() + TIDY, TIDY);
        loop {
            let (now, snapshot) = {
                let now = Arc::clone(&owned.borrow_and_update());
                let snapshot = Arc::clone(&directory.borrow_and_update());
                (now, snapshot)
            };
            self.adjust(&snapshot, &now).await;
            let given_up: Vec<u8> =
                before.keys().filter(|partition| !now.contains_key(partition)).copied().collect();
            self.report(given_up).await;
            if now.keys().any(|partition| !before.contains_key(partition)) {
                self.strays.expect();
            }
            self.count();
            before.clone_from(&now);
            let stop = self.stop.clone();
            loop {
                tokio::select! {
                    () = stop.cancelled() => return self.end(&snapshot).await,
                    // Where there is one replica, nobody says any more what it has.
                    Ok(()) = directory.changed() => break,
                    Ok(()) = owned.changed() => break,
                    Some((tenant, device)) = self.removed.recv() => self.look_at(&tenant, device),
                    strays = self.strays.next(&self.common) => self.forget_strays(strays, &now),
                    _ = count.tick() => {
                        self.count();
                        self.strays.look(&self.common);
                    }
                    _ = tidy.tick() => {
                        self.tidy();
                        self.strays.expect();
                    }
                }
            }
        }
    }

    /// Serves who is to be served, and nobody else.
    async fn adjust(&mut self, snapshot: &Snapshot, owned: &Owned) {
        let is_right = |id: &TenantId, served: &Served| {
            let tenant = snapshot.get(id).filter(|_| owned.contains_key(&partition_of(id)));
            // Another tenant may have the name by now: it finds nothing of the one before.
            tenant.is_some_and(|tenant| tenant.created == served.created)
        };
        let wrong = self.served.iter().filter(|(id, served)| !is_right(id, served));
        let wrong: Vec<TenantId> = wrong.map(|(id, _)| id.clone()).collect();
        let wrong = wrong.into_iter().filter_map(|id| self.served.remove_entry(&id)).collect();
        self.stop_serving(wrong, snapshot).await;
        for (id, tenant) in snapshot.iter() {
            let Some(fence) = owned.get(&partition_of(id)) else { continue };
            if let Some(served) = self.served.get(id) {
                served.fleet.refence(fence);
                continue;
            }
            if let Some(forgetting) = self.forgetting.remove(id) {
                forgetting.abort();
                let _ = forgetting.await;
            }
            let (created, common) = (tenant.created, Arc::clone(&self.common));
            let fleet = Fleet::new(id.clone(), created, common, fence.clone());
            let stop = CancellationToken::new();
            let task = tokio::spawn(Arc::clone(&fleet).run(stop.clone()));
            self.served.insert(id.clone(), Served { fleet, created, stop, task });
        }
    }

    /// Ends these, all at a time.
    async fn stop_serving(&mut self, ended: Vec<(TenantId, Served)>, snapshot: &Snapshot) {
        for (_, served) in &ended {
            served.stop.cancel();
        }
        let all = ended.into_iter().map(|(id, mut served)| async move {
            if tokio::time::timeout(ENDING, &mut served.task).await.is_err() {
                tracing::warn!(tenant = %id, "what waits of a tenant could not be written in time");
                // It must not write any more, once another has the tenant.
                served.task.abort();
                let _ = served.task.await;
                served.fleet.common.changes.gone(&served.fleet);
            }
            (id, served.fleet)
        });
        self.forgetting.retain(|_, forgetting| !forgetting.is_finished());
        for (id, fleet) in futures::future::join_all(all).await {
            if snapshot.get(&id).is_none() {
                let common = Arc::clone(&self.common);
                let forgetting = forget(common, id.clone(), move || fleet.fence());
                self.forgetting.insert(id, tokio::spawn(forgetting));
            }
        }
    }

    /// Removes what the store has of tenants that nobody serves, as far as that is this replica's.
    fn forget_strays(&mut self, strays: Vec<TenantId>, owned: &Owned) {
        self.forgetting.retain(|_, forgetting| !forgetting.is_finished());
        for id in strays {
            let Some(fence) = owned.get(&partition_of(&id)).cloned() else { continue };
            if self.served.contains_key(&id) || self.forgetting.contains_key(&id) {
                continue;
            }
            tracing::info!(tenant = %id, "a tenant that was deleted meanwhile is forgotten");
            let forgetting = forget(Arc::clone(&self.common), id.clone(), move || fence.clone());
            self.forgetting.insert(id, tokio::spawn(forgetting));
        }
    }

    fn look_at(&self, tenant: &TenantId, device: DeviceId) {
        if let Some(served) = self.served.get(tenant) {
            let fleet = Arc::clone(&served.fleet);
            tokio::spawn(async move { fleet.removed(&device).await });
        }
    }

    /// Says of partitions that their tenants have written what they had.
    async fn report(&self, given_up: Vec<u8>) {
        let Some(released) = &self.released else { return };
        for partition in given_up {
            let _ = released.send(partition).await;
        }
    }

    fn count(&self) {
        let (mut devices, mut waiting, mut inbox, mut pulls) = (0, 0, 0, 0);
        for served in self.served.values() {
            let count = served.fleet.count();
            devices += count.devices;
            waiting += count.waiting;
            pulls += count.pulls;
            // Each tenant has an inbox, with a bound of its own.
            inbox = inbox.max(count.inbox_peak);
        }
        let metrics = &self.common.metrics;
        for (gauge, number) in [
            (&metrics.devices, devices),
            (&metrics.waiting, waiting),
            (&metrics.inbox, inbox),
            (&metrics.pulls_pending, pulls),
        ] {
            gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
        }
        for backend in &self.common.backends {
            let up = metrics.backend_up.with_label_values(&[backend.via().label()]);
            up.set(backend.is_heard().into());
        }
        // Once it was, an etcd that is away makes no difference: what is known is served.
        let has_loaded = self.served.values().all(|served| served.fleet.has_loaded());
        if metrics.store_up.get() == 1 && has_loaded {
            self.settled.store(true, Ordering::Release);
        }
    }

    fn tidy(&self) {
        for (id, served) in &self.served {
            let (id, fleet) = (id.clone(), Arc::clone(&served.fleet));
            tokio::spawn(async move {
                let present = fleet.present();
                match fleet.common.store.tidy(&id, &fleet.fence(), present).await {
                    Ok(0) => {}
                    Ok(removed) => tracing::info!(tenant = %id, removed, "devices are forgotten"),
                    Err(StoreError::Fenced) => {
                        tracing::debug!(tenant = %id, "another replica tidies")
                    }
                    Err(error) => tracing::warn!(
                        tenant = %id, %error, "what is remembered of devices could not be tidied"
                    ),
                }
            });
        }
    }

    async fn end(mut self, snapshot: &Snapshot) {
        let all = std::mem::take(&mut self.served).into_iter().collect();
        self.stop_serving(all, snapshot).await;
        self.report((0..ownership::PARTITIONS).collect()).await;
    }
}

/// Removes what the store has of a tenant that was deleted. What stays nevertheless is removed before
/// another of the name is served.
async fn forget(common: Arc<Common>, tenant: TenantId, fence: impl Fn() -> Fence) {
    for _ in 0..FORGET_TRIES {
        match common.store.forget(&tenant, &fence()).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%tenant, %error, "a deleted tenant's devices are still in the store");
            }
        }
        tokio::time::sleep(FORGET_PAUSE).await;
    }
}
