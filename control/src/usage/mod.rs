//! How much tenants use, over all processes of a deployment and over restarts.
//!
//! ```text
//!  broker ─▶ Meter ──┐ counts, and refuses beyond what is left of the day
//!                    ▼
//!                  Book ──every interval──▶ etcd, or files ──▶ other processes' Books
//!                    │ adds up the day, moves the meters' limits
//!                    └──▶ metrics, admin port, `bulkhead tenant show`
//! ```
//!
//! What two processes count at the same time is known to each other one interval later: so much more than a
//! daily quota can be used. While the store is away each goes on with what it knows. A process that has
//! not read the store since it began knows nothing, and lets nobody in who has a daily quota.

mod book;
mod collect;
mod etcd;
mod files;
mod keep;
mod meter;
mod rates;
mod report;
mod store;

pub use book::Gauges;
pub use meter::{Meter, Uncounted};
pub use rates::Rates;
pub use report::{Report, check, look};
pub use store::UsageError;

use crate::config::Config;
use crate::directory::Directory;
use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use book::Book;
use bulkhead_policy::{Amounts, Day, DenyReason, Mark, Quotas, Resource, TenantId, Verdict};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What tenants use. Cloning shares it.
#[derive(Clone)]
pub struct Usage {
    shared: Arc<Shared>,
}

struct Shared {
    started: Instant,
    interval: Duration,
    clock: Clock,
    book: Mutex<Book>,
    directory: Directory,
    defaults: ArcSwap<Quotas>,
    defaults_changes: watch::Sender<()>,
    /// Whether somebody adds up.
    is_kept: AtomicBool,
    /// Whether the store was read since the process began.
    is_known: AtomicBool,
    exhausted: watch::Sender<Arc<BTreeSet<TenantId>>>,
    sources: Mutex<Vec<Source>>,
    /// Counters that this process wants to read, and those of which it is the reader.
    counters: Mutex<(BTreeSet<String>, HashSet<String>)>,
    metrics: Metrics,
}

/// Who can say what tenants have.
struct Source {
    resources: &'static [Resource],
    read: Box<dyn Fn() -> HashMap<TenantId, Gauges> + Send + Sync>,
}

/// What one tenant uses, as one process knows it.
#[derive(Clone, Debug, Default)]
pub struct TenantUsage {
    /// What it has in this process, of those resources of which there is any.
    pub live: Gauges,
    /// What it has used today, everywhere.
    pub today: Amounts,
    /// What limits it.
    pub quotas: Quotas,
}

impl Usage {
    /// Nothing is counted yet, and nobody adds up.
    pub(crate) fn new(
        config: &Config,
        directory: Directory,
        metrics: &Metrics,
        clock: Clock,
    ) -> prometheus::Result<Self> {
        let book = Book::new(clock());
        let usage = Self {
            shared: Arc::new(Shared {
                started: Instant::now(),
                interval: config.usage.interval(),
                exhausted: watch::Sender::new(Arc::clone(book.exhausted())),
                book: Mutex::new(book),
                clock,
                directory,
                defaults: ArcSwap::from_pointee(config.quotas),
                defaults_changes: watch::Sender::new(()),
                is_kept: AtomicBool::new(false),
                is_known: AtomicBool::new(false),
                sources: Mutex::default(),
                counters: Mutex::default(),
                metrics: metrics.clone(),
            }),
        };
        collect::register(&usage, metrics)?;
        Ok(usage)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.shared.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limits that hold for a tenant now; none for one that the directory does not know.
    fn limits(&self, id: &TenantId) -> Quotas {
        let Ok(tenant) = self.shared.directory.tenant(id) else { return Quotas::default() };
        tenant.quotas.or(**self.shared.defaults.load())
    }

    /// Counts an authentication of a tenant with these limits, and returns what counts whatever else it does.
    ///
    /// # Errors
    /// [`DenyReason::DailyQuotaExceeded`], [`DenyReason::UsageUnavailable`].
    pub(crate) fn admit(&self, id: &TenantId, quotas: &Quotas) -> Verdict<Arc<Meter>> {
        if quotas.has_daily() && !self.shared.is_known.load(Ordering::Acquire) {
            return Err(DenyReason::UsageUnavailable);
        }
        let meter = self.meter(id);
        meter.authenticate()?;
        Ok(meter)
    }

    /// Whether everybody can be let in: what was used today is known, or nobody has a daily quota.
    pub(crate) fn is_ready(&self) -> bool {
        let has_daily = || {
            let snapshot = self.shared.directory.snapshot();
            snapshot.iter().any(|(id, _)| self.limits(id).has_daily())
        };
        self.shared.is_known.load(Ordering::Acquire) || !has_daily()
    }

    /// What counts for a tenant.
    pub fn meter(&self, id: &TenantId) -> Arc<Meter> {
        self.book().meter(id, &|id| self.limits(id))
    }

    /// Whether a tenant may publish no more today, for a broker that has to be told by somebody else.
    pub fn is_exhausted(&self, id: &TenantId) -> bool {
        self.shared.exhausted.borrow().contains(id)
    }

    /// The tenants that may publish no more today, each time they are others.
    pub fn exhausted(&self) -> watch::Receiver<Arc<BTreeSet<TenantId>>> {
        self.shared.exhausted.subscribe()
    }

    /// Takes note of a counter of a tenant's messages that somebody else keeps, such as a server. Each
    /// has a name, and one process of the deployment is its reader: see [`Usage::reads`]. One that was
    /// never read before counts from its beginning if it has `begun_today`, else from now.
    pub fn read(
        &self,
        counter: &str,
        begun_today: bool,
        marks: impl IntoIterator<Item = (TenantId, Mark)>,
    ) {
        let mut book = self.book();
        for (id, mark) in marks {
            book.read(counter, &id, mark, begun_today, &|id| self.limits(id));
        }
        drop(book);
        self.tell();
    }

    /// Whether this process reads a counter. It is asked for by being wanted.
    pub fn reads(&self, counter: &str) -> bool {
        self.counters().1.contains(counter)
    }

    /// Says which counters this process could read.
    pub fn want(&self, counters: BTreeSet<String>) {
        self.counters().0 = counters;
    }

    fn counters(&self) -> MutexGuard<'_, (BTreeSet<String>, HashSet<String>)> {
        self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `read` asked, now and then, what tenants have of these resources here.
    pub fn report(
        &self,
        resources: &'static [Resource],
        read: impl Fn() -> HashMap<TenantId, Gauges> + Send + Sync + 'static,
    ) {
        let source = Source { resources, read: Box::new(read) };
        self.shared.sources.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    /// What tenants have in this process, and of which resources that is known.
    fn live(&self) -> (HashMap<TenantId, Gauges>, BTreeSet<Resource>) {
        let sources = self.shared.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: HashMap<TenantId, Gauges> = HashMap::new();
        for source in &*sources {
            for (tenant, gauges) in (source.read)() {
                let own = all.entry(tenant).or_default();
                for (resource, n) in gauges.into_iter().filter(|(_, n)| *n > 0) {
                    *own.entry(resource).or_default() += n;
                }
            }
        }
        let resources = sources.iter().flat_map(|source| source.resources).copied().collect();
        (all, resources)
    }

    /// What every tenant uses that uses anything here or has used anything today.
    pub fn all(&self) -> (Day, BTreeMap<TenantId, TenantUsage>) {
        let mut all: BTreeMap<TenantId, TenantUsage> = BTreeMap::new();
        for (tenant, live) in self.live().0 {
            all.entry(tenant).or_default().live = live;
        }
        let mut book = self.book();
        for (tenant, today, _) in book.today() {
            all.entry(tenant.clone()).or_default().today = today;
        }
        let day = book.day();
        drop(book);
        all.retain(|_, usage| !usage.live.is_empty() || !usage.today.is_zero());
        for (tenant, usage) in &mut all {
            usage.quotas = self.limits(tenant);
        }
        (day, all)
    }

    /// How often there is something new to be told.
    pub fn interval(&self) -> Duration {
        self.shared.interval
    }

    /// The present moment, by the clock that days go by.
    pub fn now(&self) -> Timestamp {
        (self.shared.clock)()
    }

    /// Takes over other default limits.
    pub(crate) fn replace_defaults(&self, quotas: Quotas) {
        self.shared.defaults.store(Arc::new(quotas));
        self.shared.defaults_changes.send_replace(());
    }

    /// Tells who is exhausted, if that has changed.
    fn tell(&self) {
        self.shared.exhausted.send_if_modified(|known| {
            // Asked within: two who tell at once do so in the order of what they saw.
            let now = Arc::clone(self.book().exhausted());
            let is_new = *known != now;
            *known = now;
            is_new
        });
    }
}

impl fmt::Debug for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Usage").finish_non_exhaustive()
    }
}
