//! The directory: which tenants exist, and what is true of them now.
//!
//! ```text
//! tenants.toml ──looked at──▶┐
//!                            ├─▶ Snapshot ──watch──▶ services re-evaluate live connections
//! etcd ─────────watched─────▶┘       └──────────────▶ Directory::admit, for each new one
//! ```
//!
//! A [`Directory`] reads; a [`Store`] writes, and needs no running service.

mod document;
mod etcd;
mod file;
mod snapshot;
mod store;

pub use document::DocumentError;
pub use snapshot::Snapshot;
pub use store::{Store, StoreError};

use crate::config::{DirectoryConfig, Source};
use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use bulkhead_policy::{DenyReason, Principal, Tenant, TenantId, Verdict};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the state's age is shown.
const SHOW: Duration = Duration::from_secs(1);

/// The current state of the directory, kept current in the background. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Directory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    current: ArcSwap<Snapshot>,
    changes: watch::Sender<Arc<Snapshot>>,
    started: Instant,
    /// Milliseconds from `started` to the last moment at which the state was known to be current,
    /// plus one; 0 is never.
    synced: AtomicU64,
    open: bool,
    allow_default: bool,
    stale_after: Duration,
    metrics: Metrics,
}

impl Directory {
    /// An empty directory that nothing keeps current yet; [`Directory::maintain`] does.
    pub fn new(config: &DirectoryConfig, metrics: &Metrics) -> Self {
        let empty = Arc::new(Snapshot::default());
        Self {
            shared: Arc::new(Shared {
                current: ArcSwap::new(Arc::clone(&empty)),
                changes: watch::Sender::new(empty),
                started: Instant::now(),
                synced: AtomicU64::new(0),
                open: config.open,
                allow_default: config.allow_default_tenant,
                stale_after: config.stale_after.unsigned_abs(),
                metrics: metrics.clone(),
            }),
        }
    }

    /// What the directory knows of the principal's tenant, if the principal is welcome.
    ///
    /// # Errors
    /// [`DenyReason::DirectoryUnavailable`] while the state is older than its limit, else why not.
    pub fn admit(&self, principal: &Principal) -> Verdict<Arc<Tenant>> {
        if !self.is_fresh() {
            return Err(DenyReason::DirectoryUnavailable);
        }
        let Some(id) = principal.tenant() else {
            return Ok(Arc::default());
        };
        let tenant = self.tenant(id)?;
        tenant.admit(principal)?;
        Ok(tenant)
    }

    /// What the directory knows of a tenant, whatever the age of the state: for connections that are
    /// already there, which an outage does not cut.
    ///
    /// # Errors
    /// [`DenyReason::TenantUnknown`].
    pub fn tenant(&self, id: &TenantId) -> Verdict<Arc<Tenant>> {
        if id.is_default() && !self.shared.allow_default {
            return Err(DenyReason::TenantUnknown);
        }
        match self.shared.current.load().get(id) {
            Some(tenant) => Ok(Arc::clone(tenant)),
            None if self.shared.open => Ok(Arc::default()),
            None => Err(DenyReason::TenantUnknown),
        }
    }

    /// The current state.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.current.load_full()
    }

    /// When what is known of a tenant now was learnt; of one that is gone, when anything last was.
    pub(crate) fn learned(&self, id: &TenantId) -> Option<Instant> {
        self.shared.current.load().learned(id)
    }

    /// A receiver of each new state. Who is slow sees the newest only.
    pub fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.shared.changes.subscribe()
    }

    /// Whether the state was current less than the configured limit ago.
    pub fn is_fresh(&self) -> bool {
        self.age().is_some_and(|age| age <= self.shared.stale_after)
    }

    /// Time since the state was last known to be current; `None` before the first.
    pub fn age(&self) -> Option<Duration> {
        let synced = self.shared.synced.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.shared.started.elapsed().saturating_sub(Duration::from_millis(synced)))
    }

    /// How old the state may grow.
    fn stale_after(&self) -> Duration {
        self.shared.stale_after
    }

    /// Keeps the state current until it is told to stop. Its age is shown meanwhile, whatever the source
    /// is waited for.
    pub async fn maintain(&self, config: &DirectoryConfig, stop: CancellationToken) {
        let follow = async {
            match config.source() {
                Some(Source::File(path)) => file::follow(self, path.clone()).await,
                Some(Source::Etcd(etcd)) => etcd::follow(self, etcd).await,
                None => {}
            }
        };
        let show = async {
            loop {
                self.show_age();
                tokio::time::sleep(SHOW).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow => {}
            () = show => {}
        }
    }

    /// Puts a new state in place of the present one and tells everybody.
    fn replace(&self, snapshot: Snapshot) {
        let shared = &self.shared;
        shared.metrics.directory_tenants.set(i64::try_from(snapshot.len()).unwrap_or(i64::MAX));
        let snapshot = Arc::new(snapshot);
        shared.current.store(Arc::clone(&snapshot));
        self.mark_synced();
        shared.changes.send_replace(snapshot);
    }

    /// Notes that the present state is current.
    fn mark_synced(&self) {
        let elapsed = self.shared.started.elapsed().as_millis();
        let synced = u64::try_from(elapsed).unwrap_or(u64::MAX - 1) + 1;
        self.shared.synced.store(synced, Ordering::Release);
        self.show_age();
    }

    /// Notes that the state could not be brought up to date.
    fn report(&self, kind: &str, error: &dyn std::fmt::Display) {
        tracing::warn!(kind, %error, "the last good directory stays in use");
        self.shared.metrics.directory_errors.with_label_values(&[kind]).inc();
        self.show_age();
    }

    /// Shows how old the state is.
    fn show_age(&self) {
        let age = self.age().map_or(-1, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        self.shared.metrics.directory_age.set(age);
    }
}
