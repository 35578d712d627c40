//! The broker as a whole: its realms, and what they share.

use crate::bus::Bus;
use crate::codec::ReasonCode;
use crate::hook::{Access, Hook};
use crate::metrics::Metrics;
use crate::realm::Realm;
use crate::settings::Settings;
use crate::store::{Restored, Store};
use crate::upstream::Upstream;
use bulkhead_policy::{DenyReason, Scope, TenantId};
use bytes::Bytes;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
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
    /// Connections, whether or not they have come to their CONNECT.
    pub(crate) open: AtomicUsize,
    /// The broker behind this one, which then has no realms.
    pub(crate) upstream: Option<Arc<Upstream>>,
    /// Where what survives a restart is kept.
    pub(crate) store: Option<Store>,
    bus: Option<Bus>,
    tenants: RwLock<HashMap<TenantId, Arc<Realm>>>,
    services: OnceLock<Arc<Realm>>,
    serials: AtomicU64,
}

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
            settings,
            metrics,
            stop: stop.clone(),
            tasks: tasks.clone(),
            open: AtomicUsize::new(0),
            store,
            bus,
            upstream,
            tenants: RwLock::default(),
            services: OnceLock::new(),
            serials: AtomicU64::new(1),
        });
        if let Some(upstream) = &shared.upstream {
            upstream.start(&shared);
            return Some(shared);
        }
        let services = shared.open_realm(None, "")?;
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
    pub(crate) fn realm(self: &Arc<Self>, access: &dyn Access) -> Option<Arc<Realm>> {
        let tenant = match access.scope() {
            Scope::Service => return self.services().cloned(),
            Scope::Tenant(tenant) => tenant,
        };
        self.realm_named(tenant)
    }

    /// The realm of a tenant.
    pub(crate) fn realm_named(self: &Arc<Self>, tenant: &TenantId) -> Option<Arc<Realm>> {
        let known = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(realm) = known.get(tenant) {
            return Some(Arc::clone(realm));
        }
        drop(known);
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(realm) = tenants.get(tenant) {
            return Some(Arc::clone(realm));
        }
        let realm = self.open_realm(Some(tenant.clone()), &self.hook.mount(tenant))?;
        tenants.insert(tenant.clone(), Arc::clone(&realm));
        Some(realm)
    }

    /// Puts back what survived a restart.
    fn restore(self: &Arc<Self>, restored: Restored) -> Option<()> {
        let Some(store) = &self.store else { return Some(()) };
        self.metrics.sessions.set(i64::try_from(restored.sessions.len()).unwrap_or(i64::MAX));
        for (id, session) in restored.sessions {
            let realm = self.realm_of(&session.meta.tenant)?;
            realm.restore_session(session, store.known_session(id));
        }
        for (tenant, _, record) in restored.retained {
            self.realm_of(&tenant)?.restore_retained(record);
        }
        Some(())
    }

    /// The realm of a name in the store.
    fn realm_of(self: &Arc<Self>, tenant: &str) -> Option<Arc<Realm>> {
        if tenant.is_empty() {
            return self.services().cloned();
        }
        self.realm_named(&TenantId::parse(tenant).ok()?)
    }

    fn open_realm(self: &Arc<Self>, tenant: Option<TenantId>, mount: &str) -> Option<Arc<Realm>> {
        let name = tenant.as_ref().map_or("", TenantId::as_str);
        let (lane, drain) = self.bus.as_ref()?.lane(name)?;
        let stop = self.stop.child_token();
        let realm = Arc::new(Realm::new(tenant, mount, lane, stop, Arc::clone(self)));
        let dispatch = Arc::clone(&realm).dispatch(drain);
        let stop = realm.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(dispatch).await });
        Some(realm)
    }

    /// What tenants have retained that a service's filter matches.
    pub(crate) fn retained_of_tenants(&self, filter: &str) -> Vec<Bytes> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.values().flat_map(|realm| realm.retained(filter)).collect()
    }

    fn all(&self) -> Vec<Arc<Realm>> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.values().chain(self.services.get()).cloned().collect()
    }

    /// Forgets everything of tenants that are gone.
    pub(crate) fn keep_only(&self, exists: impl Fn(&TenantId) -> bool) {
        for realm in self.all() {
            if realm.tenant.as_ref().is_some_and(|tenant| !exists(tenant)) {
                realm.clear();
            }
        }
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
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        tenants.retain(|_, realm| {
            // This map and its dispatcher have it; whoever else has it is about to use it, and
            // nobody gets it meanwhile.
            let is_idle = Arc::strong_count(realm) == 2 && realm.is_idle();
            if is_idle {
                realm.stop.cancel();
            }
            !is_idle
        });
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
            while self.open.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(TICK / 10).await;
            }
        };
        // Whoever does not go in time is left.
        let _ = tokio::time::timeout(FAREWELL, gone).await;
        if let Some(store) = self.store.clone() {
            let _ = tokio::task::spawn_blocking(move || store.close()).await;
        }
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}
