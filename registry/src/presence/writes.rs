use super::Presence;
use crate::store::Lease;
use bulkhead_policy::DeviceId;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of documents in one write: etcd takes 1.5 MiB in all.
const MAX_WRITE_BYTES: usize = 1024 * 1024;

/// What is to be written about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) device: DeviceId,
    /// The document, or none if it is gone.
    pub(crate) document: Option<String>,
    /// Whether the document is to be remembered apart from the device's presence.
    pub(crate) remember: Option<String>,
    /// Seconds that a lease has to last.
    pub(crate) ttl: u32,
    /// What the key is under now.
    pub(crate) lease: Option<Arc<Lease>>,
    version: u32,
}

/// What can be told once it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Online { device: DeviceId },
    Offline { device: DeviceId, device_type: Option<Box<str>> },
    Changed { device: DeviceId },
}

impl Presence {
    /// When what waits is to be written: now, if somebody waits for it, else a window after it changed.
    pub(crate) fn next_write(&self, window: Duration) -> Option<Instant> {
        let first = self.queue.front()?;
        let since = self.devices.get(first)?.pending.as_ref()?.since;
        Some(if self.urgent > 0 { since } else { since + window })
    }

    /// How many devices wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The first of what waits, at most so many. They go on waiting until they are
    /// [`written`](Self::written).
    pub(crate) fn writes(&mut self, most: usize) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut bytes = 0;
        let mut settled = Vec::new();
        for id in &self.queue {
            if writes.len() >= most || bytes > MAX_WRITE_BYTES {
                break;
            }
            let Some(device) = self.devices.get(id) else {
                settled.push(id.clone());
                continue;
            };
            if device.leaving && !device.told {
                // It came and went while nothing could be written.
                settled.push(id.clone());
                continue;
            }
            let remember = (device.via.is_deaf()).then(|| device.document.text());
            let document = (!device.leaving).then(|| device.document.text());
            bytes += document.as_ref().map_or(0, String::len);
            bytes += remember.as_ref().map_or(0, String::len);
            if bytes > MAX_WRITE_BYTES && !writes.is_empty() {
                break;
            }
            writes.push(Write {
                device: id.clone(),
                document,
                remember,
                ttl: device.document.ttl(),
                lease: device.lease.clone(),
                version: device.version,
            });
        }
        for id in settled {
            self.remove(&id);
        }
        writes
    }

    /// Learns that these were written, each under its lease, and says what can be told now.
    pub(crate) fn written(
        &mut self,
        writes: Vec<Write>,
        leases: Vec<Option<Arc<Lease>>>,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        for (write, lease) in writes.into_iter().zip(leases) {
            let Some(device) = self.devices.get_mut(&write.device) else { continue };
            device.lease = lease;
            let is_current = if write.document.is_some() {
                !device.leaving && device.version == write.version
            } else {
                device.leaving
            };
            if write.document.is_none() {
                device.told = false;
                let device_type = device.device_type.clone();
                events.push(Event::Offline { device: write.device.clone(), device_type });
                if is_current {
                    self.remove(&write.device);
                } else if let Some(pending) = &mut device.pending {
                    // It came back while its end was being written.
                    pending.announce = true;
                }
                continue;
            }
            let pending = device.pending.as_mut();
            let announce = pending.is_some_and(|pending| std::mem::take(&mut pending.announce));
            device.told |= announce;
            events.push(match announce {
                true => Event::Online { device: write.device.clone() },
                false => Event::Changed { device: write.device.clone() },
            });
            if is_current {
                self.settle(&write.device);
            }
        }
        events
    }

    /// Takes a device out of the queue, and tells who waited for it.
    fn settle(&mut self, id: &DeviceId) {
        let pending = self.devices.get_mut(id).and_then(|device| device.pending.take());
        let Some(pending) = pending else { return };
        if pending.is_urgent {
            self.urgent = self.urgent.saturating_sub(1);
        }
        // What is written is nearly always at the front.
        if let Some(at) = self.queue.iter().position(|waiting| waiting == id) {
            self.queue.remove(at);
        }
        for waiting in pending.waiting {
            // Who no longer waits has gone on without.
            let _ = waiting.send(());
        }
    }

    fn remove(&mut self, id: &DeviceId) {
        self.settle(id);
        if let Some(device) = self.devices.remove(id) {
            self.bytes = self.bytes.saturating_sub(device.document.len());
            if let Some(at) = device.scheduled {
                self.deadlines.remove(&(at, id.clone()));
            }
        } else if let Some(at) = self.queue.iter().position(|waiting| waiting == id) {
            self.queue.remove(at);
        }
    }
}
