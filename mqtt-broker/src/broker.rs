//! The broker as a whole: its realms, and what they share.

use crate::bus::Bus;
use crate::codec::ReasonCode;
use crate::hook::{Access, Hook};
use crate::incarnation::Incarnation;
use crate::metrics::Metrics;
use crate::realm::{Realm, published_by};
use crate::record::Message;
use crate::settings::Settings;
use crate::store::{Restored, Store};
use crate::upstream::Upstream;
use bulkhead_control::listen::Connections;
use bulkhead_control::usage::Gauges;
use bulkhead_policy::{DenyReason, Scope, TenantId, Verdict};
use bytes::Bytes;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often is looked at what is due.
const TICK: Duration = Duration::from_millis(100);

/// How long clients may take to go when the broker stops.
const FAREWELL: Duration = Duration::from_secs(3);

/// Ticks between two looks at what has expired.
const TICKS_PER_SWEEP: u32 = 50;

/// What all realms and connections share.
pub(crate) struct Shared {
    pub(crate) hook: Box<dyn Hook>,
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Whether or not they have come to their CONNECT.
    pub(crate) connections: Arc<Connections>,
    /// The broker behind this one, which then has no realms.
    pub(crate) upstream: Option<Arc<Upstream>>,
    /// Where what survives a restart is kept.
    pub(crate) store: Option<Store>,
    bus: Option<Bus>,
    /// Which tenant has a name now.
    incarnations: Box<Incarnations>,
    tenants: RwLock<HashMap<TenantId, Arc<Realm>>>,
    /// Realms of tenants that are gone, until nobody uses them any more.
    leaving: Mutex<Vec<Arc<Realm>>>,
    services: OnceLock<Arc<Realm>>,
    serials: AtomicU64,
}

/// Says which tenant has a name now.
pub(crate) type Incarnations = dyn Fn(&TenantId) -> Incarnation + Send + Sync;

/// What keeps sessions and messages.
pub(crate) enum Behind {
    /// This broker itself, with so many routers, and maybe a store.
    Routers(usize, Option<(Store, Restored)>),
    /// Another broker.
    Upstream(Arc<Upstream>),
}

impl Shared {
    pub(crate) fn start(
        hook: Box<dyn Hook>,
        incarnations: Box<Incarnations>,
        settings: Settings,
        behind: Behind,
        metrics: Metrics,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Option<Arc<Self>> {
        let (bus, store, upstream) = match behind {
            Behind::Routers(routers, store) => {
                (Some(Bus::start(routers, tasks, stop)), store, None)
            }
            Behind::Upstream(upstream) => (None, None, Some(upstream)),
        };
        let (store, restored) = store.unzip();
        let shared = Arc::new(Self {
            hook,
            connections: Arc::new(Connections::new(settings.max_connections)),
            settings,
            metrics,
            stop: stop.clone(),
            tasks: tasks.clone(),
            store,
            bus,
            upstream,
            incarnations,
            tenants: RwLock::default(),
            leaving: Mutex::default(),
            services: OnceLock::new(),
            serials: AtomicU64::new(1),
        });
        if let Some(upstream) = &shared.upstream {
            upstream.start(&shared);
            return Some(shared);
        }
        let services = shared.open_realm(None, "", Incarnation::Unknown)?;
        shared.services.set(services).ok()?;
        shared.restore(restored.unwrap_or_default())?;
        tasks.spawn(Arc::clone(&shared).keep_house());
        Some(shared)
    }

    pub(crate) fn next_serial(&self) -> u64 {
        self.serials.fetch_add(1, Ordering::Relaxed)
    }

    /// The realm of the platform's services, once it has started.
    pub(crate) fn services(&self) -> Option<&Arc<Realm>> {
        self.services.get()
    }

    /// The realm that a client belongs to.
    ///
    /// # Errors
    /// [`DenyReason::TenantUnknown`] if its tenant is gone meanwhile.
    pub(crate) fn realm(self: &Arc<Self>, access: &dyn Access) -> Verdict<Arc<Realm>> {
        match access.scope() {
            Scope::Service => self.services().cloned().ok_or(DenyReason::Internal),
            Scope::Tenant(tenant) => self.realm_named(tenant),
        }
    }

    /// The realm of a tenant.
    ///
    /// # Errors
    /// [`DenyReason::TenantUnknown`] if it is gone.
    pub(crate) fn realm_named(self: &Arc<Self>, tenant: &TenantId) -> Verdict<Arc<Realm>> {
        let now = (self.incarnations)(tenant);
        let known = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(realm) = known.get(tenant).filter(|realm| realm.belongs_to(now)) {
            return Ok(Arc::clone(realm));
        }
        drop(known);
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        // Nothing that is older than what the map shows by now may take its place.
        let now = (self.incarnations)(tenant);
        if let Some(realm) = tenants.get(tenant).filter(|realm| realm.belongs_to(now)) {
            return Ok(Arc::clone(realm));
        }
        if let Some(realm) = tenants.remove(tenant) {
            self.dismiss(realm);
        }
        if now == Incarnation::Gone {
            return Err(DenyReason::TenantUnknown);
        }
        let realm = self.open_realm(Some(tenant.clone()), &self.hook.mount(tenant), now);
        let realm = realm.ok_or(DenyReason::Internal)?;
        tenants.insert(tenant.clone(), Arc::clone(&realm));
        Ok(realm)
    }

    /// Leaves nothing of a realm. Messages that are under way there are handed to nobody, and nobody
    /// gets in any more.
    fn dismiss(&self, realm: Arc<Realm>) {
        realm.clear();
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).push(realm);
    }

    /// Puts back what survived a restart.
    fn restore(self: &Arc<Self>, restored: Restored) -> Option<()> {
        let Some(store) = &self.store else { return Some(()) };
        self.metrics.sessions.set(i64::try_from(restored.sessions.len()).unwrap_or(i64::MAX));
        // Whether it is theirs who have the names now is looked at when they come, and when the
        // directory was read.
        let created = restored.tenants;
        let realm_of = |tenant: &Option<TenantId>| {
            let Some(tenant) = tenant else { return self.services().cloned() };
            let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(realm) = tenants.get(tenant) {
                return Some(Arc::clone(realm));
            }
            let before =
                created.get(tenant).map_or(Incarnation::Unknown, |at| Incarnation::Created(*at));
            let realm = self.open_realm(Some(tenant.clone()), &self.hook.mount(tenant), before)?;
            tenants.insert(tenant.clone(), Arc::clone(&realm));
            Some(realm)
        };
        for (id, session) in restored.sessions {
            realm_of(&session.tenant)?.restore_session(session, store.known_session(id));
        }
        for (tenant, record) in restored.retained {
            realm_of(&tenant)?.restore_retained(record);
        }
        Some(())
    }

    fn open_realm(
        self: &Arc<Self>,
        tenant: Option<TenantId>,
        mount: &str,
        incarnation: Incarnation,
    ) -> Option<Arc<Realm>> {
        let name = tenant.as_ref().map_or("", TenantId::as_str);
        let (lane, drain) = self.bus.as_ref()?.lane(name)?;
        let stop = self.stop.child_token();
        let realm = Realm::new(tenant, mount, incarnation, lane, stop, Arc::clone(self));
        let realm = Arc::new(realm);
        let dispatch = Arc::clone(&realm).dispatch(drain);
        let stop = realm.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(dispatch).await });
        Some(realm)
    }

    /// What tenants have retained that a service's filter matches.
    pub(crate) fn retained_of_tenants(&self, filter: &str) -> Vec<Bytes> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        // Who published it is not kept, and what the publisher says of that is nobody's word.
        let told = |record: Bytes| Some(published_by(&Message::read(&record)?.0, None));
        tenants.values().flat_map(|realm| realm.retained(filter)).filter_map(told).collect()
    }

    /// What tenants have here; with another broker behind this one, what of it is known here.
    pub(crate) fn gauges(&self) -> HashMap<TenantId, Gauges> {
        if let Some(upstream) = &self.upstream {
            return upstream.gauges();
        }
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner).clone();
        tenants.into_iter().map(|(tenant, realm)| (tenant, realm.gauges())).collect()
    }

    fn all(&self) -> Vec<Arc<Realm>> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.values().chain(self.services.get()).cloned().collect()
    }

    /// Forgets everything of tenants that are gone, whether or not there are others of their names.
    pub(crate) fn forget_gone(&self) {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let gone = tenants
            .extract_if(|tenant, realm| !realm.belongs_to((self.incarnations)(tenant)))
            .map(|(_, realm)| realm);
        gone.for_each(|realm| self.dismiss(realm));
    }

    /// Asks again what clients may do: those of these tenants, or all.
    pub(crate) fn reassess(&self, tenant: Option<&TenantId>) -> HashMap<DenyReason, u64> {
        if let Some(upstream) = &self.upstream {
            return upstream.reassess(self, tenant);
        }
        let realms = match tenant {
            Some(tenant) => {
                let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
                tenants.get(tenant).cloned().into_iter().collect()
            }
            None => self.all(),
        };
        let mut cut = HashMap::new();
        for realm in realms {
            for (reason, n) in realm.reassess() {
                *cut.entry(reason).or_default() += n;
            }
        }
        cut
    }

    /// Forgets tenants of which nothing is left.
    fn retire(&self) {
        let is_needed = |realm: &Arc<Realm>| {
            // This list and its dispatcher have it; whoever else has it is about to use it, and
            // nobody gets it meanwhile.
            let is_idle = Arc::strong_count(realm) == 2 && realm.is_idle();
            if is_idle {
                realm.stop.cancel();
            }
            !is_idle
        };
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        tenants.retain(|_, realm| {
            let is_needed = is_needed(realm);
            if !is_needed {
                realm.forget_incarnation();
            }
            is_needed
        });
        drop(tenants);
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).retain(is_needed);
    }

    /// Does what is due, until it is told to stop; then says goodbye to everybody.
    async fn keep_house(self: Arc<Self>) {
        let mut ticks: u32 = 0;
        while self.stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
            let realms = self.all();
            let now = Instant::now();
            realms.iter().for_each(|realm| realm.tick(now));
            ticks = ticks.wrapping_add(1);
            if ticks.is_multiple_of(TICKS_PER_SWEEP) {
                realms.iter().for_each(|realm| realm.expire_retained());
            }
            let tenants = realms.len() - 1;
            let counts = realms.iter().map(|realm| realm.counts());
            let (sessions, retained) =
                counts.fold((0, 0), |(s, r), (sessions, retained)| (s + sessions, r + retained));
            self.metrics.sessions.set(i64::try_from(sessions).unwrap_or(i64::MAX));
            self.metrics.retained.set(i64::try_from(retained).unwrap_or(i64::MAX));
            self.metrics.tenants.set(i64::try_from(tenants).unwrap_or(i64::MAX));
            drop(realms);
            if ticks.is_multiple_of(TICKS_PER_SWEEP) {
                self.retire();
            }
        }
        for realm in self.all() {
            realm.close_all(ReasonCode::SERVER_SHUTTING_DOWN);
        }
        let gone = async {
            while self.connections.count() > 0 {
                tokio::time::sleep(TICK / 10).await;
            }
        };
        // Whoever does not go in time is left.
        let _ = tokio::time::timeout(FAREWELL, gone).await;
        if let Some(store) = self.store.clone() {
            let _ = tokio::task::spawn_blocking(move || store.close()).await;
        }
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Behind, Shared};
    use crate::bus::Batch;
    use crate::codec::QoS;
    use crate::hook::AllowAll;
    use crate::incarnation::Incarnation;
    use crate::metrics::Metrics;
    use crate::record::Message;
    use crate::settings::Settings;
    use crate::store::Store;
    use bulkhead_control::config::MqttConfig;
    use bulkhead_policy::TenantId;
    use jiff::Timestamp;
    use prometheus::Registry;
    use std::path::Path;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    /// A broker that keeps what it has in a folder, for tenants of which a test says whether they are
    /// there.
    struct Site {
        shared: Arc<Shared>,
        now: Arc<Mutex<Incarnation>>,
        tasks: TaskTracker,
        stop: CancellationToken,
    }

    fn acme() -> TenantId {
        TenantId::parse("acme").unwrap()
    }

    fn created(second: i64) -> Incarnation {
        Incarnation::Created(Timestamp::from_second(second).unwrap())
    }

    impl Site {
        fn start(folder: &Path, incarnation: Incarnation) -> Self {
            let now = Arc::new(Mutex::new(incarnation));
            let incarnations = Box::new({
                let now = Arc::clone(&now);
                move |_: &TenantId| *now.lock().unwrap()
            });
            let hook = Box::new(AllowAll::of(acme()));
            let settings = Settings::of(&MqttConfig::new(Vec::new()));
            let behind = Behind::Routers(1, Some(Store::open(folder).unwrap()));
            let metrics = Metrics::new(&Registry::new()).unwrap();
            let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
            let shared =
                Shared::start(hook, incarnations, settings, behind, metrics, &tasks, &stop);
            Self { shared: shared.unwrap(), now, tasks, stop }
        }

        fn becomes(&self, incarnation: Incarnation) {
            *self.now.lock().unwrap() = incarnation;
        }

        /// A message of acme that is to be retained, on its way. Nothing moves until the test waits.
        fn publish(&self) -> Arc<crate::realm::Realm> {
            let realm = self.shared.realm_named(&acme()).unwrap();
            let message = Message {
                topic: "kept",
                properties: &[],
                payload: b"of the one that is gone",
                qos: QoS::AtMostOnce,
                retain: true,
                packet_id: 0,
                deadline: None,
            };
            let records = message.to_bytes();
            realm.lane.push(Batch { publisher: None, access: None, records });
            realm
        }

        /// How many messages acme has retained, once everything that is under way has arrived.
        async fn retained(&self) -> usize {
            let realm = self.shared.realm_named(&acme()).unwrap();
            arrived(&realm).await;
            realm.counts().1
        }

        /// Stops it, and says how many messages are on disk.
        async fn end(self, folder: &Path) -> usize {
            self.stop.cancel();
            self.tasks.close();
            tokio::time::timeout(Duration::from_secs(30), self.tasks.wait()).await.unwrap();
            drop(self.shared);
            let (store, restored) = Store::open(folder).unwrap();
            store.close();
            restored.retained.len()
        }
    }

    async fn arrived(realm: &crate::realm::Realm) {
        let arriving = async {
            while !realm.lane.is_idle() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), arriving).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_under_way_when_its_tenant_goes_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::start(folder.path(), created(1));
        let gone = site.publish();
        site.becomes(Incarnation::Gone);
        site.shared.forget_gone();
        arrived(&gone).await;
        assert!(site.shared.realm_named(&acme()).is_err(), "there is no such tenant");
        site.becomes(created(2));
        assert_eq!(site.retained().await, 0);
        // Of the one that is there now it is kept.
        site.publish();
        assert_eq!(site.retained().await, 1);
        // Nobody needs to notice that there was none in between.
        let gone = site.publish();
        site.becomes(created(3));
        assert_eq!(site.retained().await, 0);
        arrived(&gone).await;
        assert_eq!(site.end(folder.path()).await, 0);
    }

    #[tokio::test]
    async fn what_is_on_disk_is_of_the_tenant_that_was_there_then() {
        for (first, then, kept) in [
            (created(1), created(1), 1),
            (created(1), created(2), 0),
            // An entry that does not say when it was created says nothing.
            (created(2), Incarnation::Unknown, 1),
            (Incarnation::Unknown, created(3), 1),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let site = Site::start(folder.path(), first);
            site.publish();
            assert_eq!(site.retained().await, 1);
            assert_eq!(site.end(folder.path()).await, 1);
            let site = Site::start(folder.path(), then);
            assert_eq!(site.retained().await, kept, "{first:?}, then {then:?}");
            assert_eq!(site.end(folder.path()).await, kept);
        }
    }
}
