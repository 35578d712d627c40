//! Keys of devices that somebody else removes. People and their tools do so to have a device forgotten, and
//! whoever is alive comes back by its next heartbeat.

use super::etcd::EtcdStore;
use super::{Lease, StoreError};
use bulkhead_control::etcd::PROGRESS;
use bulkhead_policy::{DeviceId, TenantId};
use etcd_client::{EventType, WatchFilterType, WatchOptions};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Everything of Device Connect.
const ROOT: &str = "/device-connect/";

/// Removals that wait to be looked at. What is lost beyond them is noticed when the registry starts anew.
pub(crate) const WAITING: usize = 4096;

/// A device whose key is gone.
pub(crate) type Removed = (TenantId, DeviceId);

impl EtcdStore {
    /// Hears of removals for ever, its own among them.
    pub(crate) async fn watch_removals(
        self: Arc<Self>,
        removed: mpsc::Sender<Removed>,
        stop: CancellationToken,
    ) {
        loop {
            if let Some(Err(error)) = stop.run_until_cancelled(self.hear_removals(&removed)).await {
                tracing::debug!(%error, "removals of keys cannot be heard");
            }
            if stop.run_until_cancelled(tokio::time::sleep(PROGRESS)).await.is_none() {
                return;
            }
        }
    }

    async fn hear_removals(&self, removed: &mpsc::Sender<Removed>) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let options = WatchOptions::new().with_prefix().with_filters([WatchFilterType::NoPut]);
        self.asked("watch");
        let mut events = client.watch(ROOT, Some(options)).await?;
        while let Some(message) = events.message().await? {
            if message.canceled() {
                break;
            }
            for event in message.events() {
                let is_delete = event.event_type() == EventType::Delete;
                let key = event.kv().filter(|_| is_delete).and_then(|one| of(one.key()));
                if let Some(key) = key {
                    // One too many is no harm: it is only looked at sooner or later.
                    let _ = removed.try_send(key);
                }
            }
        }
        Ok(())
    }

    /// Whether a device's key is gone although its lease is not.
    pub(crate) async fn is_removed(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
        lease: &Lease,
    ) -> Result<bool, StoreError> {
        let mut client = self.client().await?;
        self.asked("range");
        let key = format!("{ROOT}{tenant}/devices/{device}");
        if !client.get(key, None).await?.kvs().is_empty() {
            return Ok(false);
        }
        self.check(lease).await?;
        Ok(!lease.is_lost())
    }
}

fn of(key: &[u8]) -> Option<Removed> {
    let name = std::str::from_utf8(key).ok()?.strip_prefix(ROOT)?;
    let (tenant, device) = name.split_once("/devices/")?;
    Some((TenantId::parse(tenant).ok()?, DeviceId::parse(device).ok()?))
}
