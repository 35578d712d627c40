//! Where processes tell each other what they have counted.

use super::book::Gauges;
use super::etcd::EtcdStore;
use super::files::{FileStore, LOOK};
use crate::config::{DirectoryConfig, Source, UsageConfig};
use bulkhead_policy::{Amounts, Day, Mark, Resource, TenantId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Processes at a time that can count for one directory.
pub(super) const MAX_PROCESSES: u32 = 4096;

/// Where it is kept.
#[derive(Debug)]
pub(super) enum Store {
    Etcd(Box<EtcdStore>),
    Files(Arc<Mutex<FileStore>>, tokio::time::Interval),
}

/// Why it cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// etcd.
    #[error(
        "etcd: {0}; check directory.etcd, that it is running, and that its user may read and write \
         /bulkhead/usage/"
    )]
    Etcd(#[from] etcd_client::Error),
    /// A file.
    #[error("{0}; check usage.folder and its permissions")]
    File(#[from] io::Error),
    /// What a file holds.
    #[error("{file}: {cause}; move the file away, and what it counts begins anew")]
    Content {
        /// The file.
        file: String,
        /// What is wrong.
        cause: serde_json::Error,
    },
    /// No number is free.
    #[error(
        "{MAX_PROCESSES} processes count already; are several deployments sharing one directory?"
    )]
    Full,
    /// Another process has taken this one's number.
    #[error("this process was silent for too long, and begins under another number")]
    Lost,
}

/// Something that is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Count { day: Day, tenant: TenantId, process: u32, amounts: Amounts },
    Mark { counter: String, tenant: TenantId, mark: Mark },
}

impl Heard {
    pub(super) fn tenant(&self) -> &TenantId {
        match self {
            Self::Count { tenant, .. } | Self::Mark { tenant, .. } => tenant,
        }
    }
}

/// What is to be written of one tenant, all at once or nothing.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) tenant: TenantId,
    pub(super) counts: Vec<(Day, Amounts)>,
    pub(super) marks: Vec<(String, Mark)>,
    pub(super) gauges: Option<Gauges>,
}

impl Write {
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.marks.is_empty() && self.gauges.is_none()
    }
}

/// What a process says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct About {
    /// The resources of which it says what tenants have.
    pub(super) resources: Vec<String>,
}

impl About {
    pub(super) fn of(resources: impl IntoIterator<Item = Resource>) -> Self {
        let mut resources: Vec<_> = resources.into_iter().map(|r| r.name().to_owned()).collect();
        resources.sort();
        resources.dedup();
        Self { resources }
    }
}

/// What everybody has written of one tenant: its records of a day, its gauges, and what the processes say
/// that are there.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) counts: Vec<Amounts>,
    pub(super) gauges: Vec<Gauges>,
    pub(super) about: Vec<About>,
}

/// Gauges as they are written.
pub(super) fn named(gauges: &Gauges) -> BTreeMap<&'static str, u64> {
    gauges.iter().map(|(resource, n)| (resource.name(), *n)).collect()
}

/// Gauges as they are read. A name that this release does not know is another's.
pub(super) fn unnamed(named: &BTreeMap<String, u64>) -> Gauges {
    named.iter().filter_map(|(name, n)| Some((Resource::parse(name)?, *n))).collect()
}

impl Store {
    pub(super) fn of(directory: &DirectoryConfig, config: &UsageConfig) -> Option<Self> {
        match directory.source()? {
            Source::Etcd(etcd) => {
                Some(Self::Etcd(Box::new(EtcdStore::new(etcd.clone(), config.interval()))))
            }
            Source::File(_) => {
                let store = FileStore::new(config.folder(directory)?);
                let mut look = tokio::time::interval(LOOK);
                look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                Some(Self::Files(Arc::new(Mutex::new(store)), look))
            }
        }
    }

    /// Takes a number for this process, which nobody else has, and reads everything.
    pub(super) async fn open(&mut self, today: Day) -> Result<(u32, Vec<Heard>), UsageError> {
        match self {
            Self::Etcd(store) => store.open(today).await,
            Self::Files(store, _) => with(store, FileStore::open).await,
        }
    }

    /// Waits until others may have written something, and says what if it is known by then; else
    /// [`Store::others`] does. Nothing is lost if this is dropped before it is done.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Heard>>, UsageError> {
        match self {
            Self::Etcd(store) => store.next().await.map(Some),
            Self::Files(_, look) => {
                look.tick().await;
                Ok(None)
            }
        }
    }

    /// What others have written since the last time.
    pub(super) async fn others(&mut self) -> Result<Vec<Heard>, UsageError> {
        match self {
            Self::Etcd(_) => Ok(Vec::new()),
            Self::Files(store, _) => with(store, FileStore::others).await,
        }
    }

    /// Writes, and says of which of these counters this process is the reader.
    pub(super) async fn write(
        &mut self,
        about: About,
        writes: &[Write],
        counters: Vec<String>,
        today: Day,
    ) -> Result<HashSet<String>, UsageError> {
        match self {
            Self::Etcd(store) => store.write(about, writes, counters, today).await,
            Self::Files(store, _) => {
                let writes = writes.to_vec();
                with(store, move |store| store.write(about, writes, counters, today)).await
            }
        }
    }

    /// Gives the number back.
    pub(super) async fn close(self) {
        match self {
            Self::Etcd(store) => store.close().await,
            // The locks go with it.
            Self::Files(..) => {}
        }
    }
}

/// Runs what waits for a disk where it holds nobody up.
async fn with<T: Send + 'static>(
    store: &Arc<Mutex<FileStore>>,
    run: impl FnOnce(&mut FileStore) -> Result<T, UsageError> + Send + 'static,
) -> Result<T, UsageError> {
    let store = Arc::clone(store);
    let ran = tokio::task::spawn_blocking(move || {
        run(&mut store.lock().unwrap_or_else(PoisonError::into_inner))
    });
    ran.await.map_err(io::Error::other)?
}
