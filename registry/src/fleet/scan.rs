//! Questions for which all of a tenant's devices are looked at.

use super::{Fleet, lock};
use crate::presence::{Describer, Device, Lister, Sight};
use crate::wire::{Filter, Page, seconds};
use bulkhead_policy::DeviceId;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

/// Devices that are looked at in one go: a fraction of a millisecond. Between two, heartbeats and other
/// tenants have their turn.
const STRIDE: usize = 1024;

impl Fleet {
    /// The result of `discovery/listDevices`; `None` if it is larger than `most` bytes and cannot be cut.
    pub(super) async fn list(
        &self,
        filter: &Filter,
        page: Option<Page>,
        sight: &Sight,
        most: usize,
    ) -> Option<String> {
        let scan = self.scanning.acquire().await;
        let version = lock(&self.presence).membership();
        let from =
            page.and_then(|page| lock(&self.memory).page(version, filter, sight, page.offset));
        let mut lister = Lister::new(filter, sight, page, most, from.as_ref());
        let after = from.map(|mark| mark.after);
        let is_steady = self.walk(after, version, |id, device| lister.visit(id, device)).await;
        drop(scan);
        let listed = lister.finish()?;
        if let Some((offset, mark)) = listed.next.filter(|_| is_steady) {
            lock(&self.memory).note_page(version, filter, sight, offset, mark);
        }
        if let Some(device) = listed.left_out
            && !self.has_left_out.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                tenant = %self.tenant, %device, most,
                "a device is left out of pages that it is too large for; lower \
                 registry.max_document_bytes, or raise what the broker's messages may have"
            );
        }
        Some(listed.text)
    }

    /// The result of `discovery/describeFleet`; `None` if it is larger than `most` bytes.
    pub(super) async fn describe(&self, sight: &Sight, most: usize) -> Option<String> {
        let _scan = self.scanning.acquire().await;
        let version = lock(&self.presence).membership();
        let known = lock(&self.memory).description(version, sight);
        if known.is_some() {
            return known.filter(|text| text.len() <= most);
        }
        let mut describer = Describer::new(most);
        let look = |id: &DeviceId, device: &Device| {
            if sight.sees(id, device) { describer.visit(device) } else { ControlFlow::Continue(()) }
        };
        let is_steady = self.walk(None, version, look).await;
        let text = describer.finish()?;
        if is_steady {
            lock(&self.memory).note_description(version, sight, &text);
        }
        Some(text)
    }

    /// What people see of the devices: type, location, and when each was last heard of.
    pub(crate) async fn listing(&self, sight: &Sight) -> Vec<Value> {
        let _scan = self.scanning.acquire().await;
        let mut all = Vec::new();
        let look = |id: &DeviceId, device: &Device| {
            if sight.sees(id, device) {
                all.push(json!({"tenant": self.tenant, "device": id, "type": device.device_type,
                    "location": device.location, "seen": seconds(device.seen_at())}));
            }
            ControlFlow::Continue(())
        };
        self.walk(None, 0, look).await;
        all
    }

    /// Shows all devices after one. Returns whether the membership was this one all the while.
    async fn walk(
        &self,
        mut after: Option<DeviceId>,
        version: u64,
        mut visit: impl FnMut(&DeviceId, &Device) -> ControlFlow<()>,
    ) -> bool {
        let mut is_steady = true;
        loop {
            {
                let presence = lock(&self.presence);
                after = presence.walk(after.as_ref(), STRIDE, &mut visit);
                is_steady &= presence.membership() == version;
            }
            if after.is_none() {
                return is_steady;
            }
            tokio::task::yield_now().await;
        }
    }
}
