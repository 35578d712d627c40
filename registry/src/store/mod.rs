//! Where presence is kept: in an etcd that replicas share, or in a file of one process.
//!
//! A device's key is there while the device is present. In etcd it is always under a lease, so that it
//! goes when every replica is gone; devices share leases. What is remembered of a device that cannot
//! be asked for its document stands apart, without a lease.

mod contact;
mod etcd;
mod file;
mod leases;
mod removals;
mod space;
mod tenants;
mod tidy;

pub(crate) use etcd::EtcdStore;
pub(crate) use file::FileStore;
pub(crate) use leases::Lease;
pub(crate) use removals::{Removed, WAITING as REMOVALS};

use crate::metrics::Metrics;
use crate::ownership::Fence;
use crate::presence::{Document, Write};
use bulkhead_control::config::RegistryConfig;
use bulkhead_policy::{DeviceId, TenantId};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// Where presence is kept.
pub(crate) enum Store {
    Etcd(Arc<EtcdStore>),
    File(FileStore),
}

/// A device in the store.
pub(crate) struct Stored {
    pub(crate) device: DeviceId,
    pub(crate) document: Document,
    pub(crate) lease: Option<Arc<Lease>>,
}

/// Why something could not be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Another replica has the tenant now. Nothing was written.
    #[error("another replica has the tenant")]
    Fenced,
    /// etcd.
    #[error("etcd: {0}")]
    Etcd(#[from] etcd_client::Error),
    /// The file.
    #[error("{0}")]
    File(String),
}

/// What is remembered of a device that cannot be asked.
#[derive(Deserialize, Serialize)]
pub(crate) struct Remembered<'a> {
    /// When it registered, or was last present.
    at: Timestamp,
    #[serde(borrow)]
    document: &'a RawValue,
}

/// What becomes of something that is remembered.
enum Outlook {
    Stays,
    /// It is written again, with the time of now.
    Renewed(String),
    Over,
}

impl Remembered<'_> {
    /// What is written of a document.
    fn write(document: &str, at: Timestamp) -> Option<String> {
        let document = serde_json::from_str(document).ok()?;
        serde_json::to_string(&Remembered { at, document }).ok()
    }

    /// What becomes of it when it is looked at after a while. A device that is present has not to change
    /// to be remembered.
    fn outlook(text: &[u8], keep: SignedDuration, is_present: bool) -> Outlook {
        let Ok(remembered) = serde_json::from_slice::<Remembered<'_>>(text) else {
            return Outlook::Over;
        };
        let age = Timestamp::now().duration_since(remembered.at);
        if !is_present {
            return if age <= keep { Outlook::Stays } else { Outlook::Over };
        }
        if age <= keep / 2 {
            return Outlook::Stays;
        }
        let renewed = Remembered { at: Timestamp::now(), ..remembered };
        serde_json::to_string(&renewed).map_or(Outlook::Stays, Outlook::Renewed)
    }

    /// The document, unless it is older than what is remembered.
    fn read(text: &[u8], keep: SignedDuration) -> Option<Document> {
        let remembered: Remembered<'_> = serde_json::from_slice(text).ok()?;
        let age = Timestamp::now().duration_since(remembered.at);
        (age <= keep).then(|| Document::parse(remembered.document.get().as_bytes()))?
    }
}

impl Store {
    /// Opens the configured store.
    ///
    /// # Errors
    /// [`StoreError::File`]; an etcd that is away is waited for later.
    pub(crate) fn open(config: &RegistryConfig, metrics: &Metrics) -> Result<Self, StoreError> {
        match (&config.store.etcd, &config.store.file) {
            (Some(etcd), _) => {
                let ttl = config.takeover_after.try_into().unwrap_or_default();
                Ok(Self::Etcd(EtcdStore::new(etcd.clone(), config.remember, ttl, metrics)))
            }
            (None, Some(file)) => Ok(Self::File(FileStore::open(file, config.remember)?)),
            (None, None) => Err(StoreError::File("registry.store is not set".to_owned())),
        }
    }

    /// Every device of a tenant that is present.
    pub(crate) async fn load(&self, tenant: &TenantId) -> Result<Vec<Stored>, StoreError> {
        match self {
            Self::Etcd(etcd) => etcd.load(tenant).await,
            Self::File(file) => file.load(tenant).await,
        }
    }

    /// Writes these, all or none. Returns the lease that each is under now.
    pub(crate) async fn commit(
        &self,
        tenant: &TenantId,
        fence: &Fence,
        writes: &[Write],
    ) -> Result<Vec<Option<Arc<Lease>>>, StoreError> {
        match self {
            Self::Etcd(etcd) => etcd.commit(tenant, fence, writes).await,
            Self::File(file) => file.commit(tenant, writes).await,
        }
    }

    /// What is remembered of a device that cannot be asked.
    pub(crate) async fn remembered(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
    ) -> Result<Option<Document>, StoreError> {
        match self {
            Self::Etcd(etcd) => etcd.remembered(tenant, device).await,
            Self::File(file) => file.remembered(tenant, device).await,
        }
    }

    /// Removes everything of a tenant that is no more.
    pub(crate) async fn forget(&self, tenant: &TenantId, fence: &Fence) -> Result<(), StoreError> {
        match self {
            Self::Etcd(etcd) => etcd.forget(tenant, fence).await,
            Self::File(file) => file.forget(tenant).await,
        }
    }

    /// Makes sure that what is here of a tenant is of the one that was created then.
    pub(crate) async fn enter(
        &self,
        tenant: &TenantId,
        created: Timestamp,
        fence: &Fence,
    ) -> Result<(), StoreError> {
        match self {
            Self::Etcd(etcd) => etcd.enter(tenant, created, fence).await,
            Self::File(file) => file.enter(tenant, created).await,
        }
    }

    /// Every tenant whose devices may be here.
    pub(crate) async fn tenants(&self) -> Result<Vec<TenantId>, StoreError> {
        match self {
            Self::Etcd(etcd) => etcd.tenants().await,
            Self::File(file) => file.tenants().await,
        }
    }

    /// Whether a key that is under no lease would stay for ever.
    pub(crate) fn needs_leases(&self) -> bool {
        matches!(self, Self::Etcd(_))
    }

    /// Removes what was remembered for long enough, but of devices that are present. Returns how much that
    /// was.
    pub(crate) async fn tidy(
        &self,
        tenant: &TenantId,
        fence: &Fence,
        present: HashSet<DeviceId>,
    ) -> Result<usize, StoreError> {
        match self {
            Self::Etcd(etcd) => etcd.tidy(tenant, fence, &present).await,
            Self::File(file) => file.tidy(tenant, present).await,
        }
    }

    /// Whether a device's key is gone although its lease is not: somebody has removed it.
    pub(crate) async fn is_removed(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
        lease: &Lease,
    ) -> Result<bool, StoreError> {
        match self {
            Self::Etcd(etcd) => etcd.is_removed(tenant, device, lease).await,
            Self::File(_) => Ok(false),
        }
    }

    /// Since when what is here cannot be compared with the store; `None` while it can.
    pub(crate) fn away_since(&self) -> Option<Instant> {
        match self {
            Self::Etcd(etcd) => etcd.contact().away_since(),
            Self::File(_) => None,
        }
    }

    /// Whether another replica may serve by now what is served here, because this one is cut off.
    pub(crate) fn is_doubtful(&self) -> bool {
        match self {
            Self::Etcd(etcd) => etcd.contact().is_doubtful(),
            Self::File(_) => false,
        }
    }

    /// Whether there is little room left, so that what can wait is written more rarely.
    pub(crate) fn is_short(&self) -> bool {
        match self {
            Self::Etcd(etcd) => etcd.space().is_short(),
            Self::File(_) => false,
        }
    }

    /// Is told when leases are lost: what is under one is to be written again.
    pub(crate) fn losses(&self) -> Option<watch::Receiver<u64>> {
        match self {
            Self::Etcd(etcd) => Some(etcd.leases().losses()),
            Self::File(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
