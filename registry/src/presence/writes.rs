use super::{Place, Presence};
use crate::store::Lease;
use crate::wire::Transition;
use bulkhead_policy::DeviceId;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// Bytes of documents in one write: etcd takes 1.5 MiB in all.
pub(crate) const MAX_WRITE_BYTES: usize = 1024 * 1024;

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
    version: u64,
}

/// What follows from a write: what can be told, and who waited for it.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) event: Option<Event>,
    pub(crate) waiting: Vec<oneshot::Sender<()>>,
}

/// What can be told once it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Online { device: DeviceId },
    Offline { device: DeviceId, device_type: Option<Box<str>> },
    Changed { device: DeviceId },
}

impl Write {
    /// Bytes that the store takes, but for what it adds itself.
    pub(crate) fn bytes(&self) -> usize {
        let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.device.as_str().len() + of(&self.document) + of(&self.remember)
    }
}

impl Event {
    /// What others are told of it; a change of status is not.
    pub(crate) fn transition(&self) -> Option<Transition> {
        match self {
            Self::Online { .. } => Some(Transition::Online),
            Self::Offline { .. } => Some(Transition::Offline),
            Self::Changed { .. } => None,
        }
    }
}

/// What has its turn to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Who comes and goes.
    Urgent,
    /// Everything that waits.
    All,
}

impl Presence {
    /// Since when somebody waits who comes or goes.
    pub(crate) fn urgent_since(&self) -> Option<Instant> {
        let (place, first) = self.queue.first_key_value()?;
        (!place.may_wait).then(|| self.pending_since(first))?
    }

    /// Since when something waits that has merely changed.
    pub(crate) fn changed_since(&self) -> Option<Instant> {
        let (_, first) = self.queue.range(Place { may_wait: true, number: 0 }..).next()?;
        self.pending_since(first)
    }

    fn pending_since(&self, id: &DeviceId) -> Option<Instant> {
        Some(self.devices.get(id)?.pending.as_ref()?.since)
    }

    /// How many devices wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The first of what has its turn, at most so many. They go on waiting until they are
    /// [`written`](Self::written).
    pub(crate) fn writes(&mut self, most: usize, turn: Turn) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut bytes = 0;
        let mut settled = Vec::new();
        for (place, id) in &self.queue {
            if writes.len() >= most || bytes > MAX_WRITE_BYTES {
                break;
            }
            if place.may_wait && turn == Turn::Urgent {
                break;
            }
            let Some(device) = self.devices.get(id) else {
                settled.push(*place);
                continue;
            };
            if device.leaving && !device.told && !device.handed {
                // It came and went while nothing could be written.
                settled.push(*place);
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
        for place in settled {
            if let Some(id) = self.queue.remove(&place) {
                self.remove(&id);
            }
        }
        for write in &writes {
            if let Some(device) = self.devices.get_mut(&write.device) {
                device.handed = true;
            }
        }
        writes
    }

    /// Learns that these were written, each under its lease, and says what follows.
    pub(crate) fn written(
        &mut self,
        writes: Vec<Write>,
        leases: Vec<Option<Arc<Lease>>>,
        now: Instant,
    ) -> Vec<Written> {
        let mut all = Vec::with_capacity(writes.len());
        for (write, lease) in writes.into_iter().zip(leases) {
            let Some(device) = self.devices.get_mut(&write.device) else { continue };
            device.lease = lease;
            all.push(match write.document {
                Some(_) => self.put(&write, now),
                None => self.deleted(&write.device, now),
            });
        }
        all
    }

    fn put(&mut self, write: &Write, now: Instant) -> Written {
        let id = &write.device;
        let Some(device) = self.devices.get_mut(id) else {
            return Written { event: None, waiting: Vec::new() };
        };
        let is_current = !device.leaving && device.version == write.version;
        let mut waiting = Vec::new();
        let mut announced = false;
        if let Some(pending) = &mut device.pending {
            announced = pending.announce.is_some_and(|version| version <= write.version);
            if announced {
                pending.announce = None;
            }
            let (done, rest) = std::mem::take(&mut pending.waiting)
                .into_iter()
                .partition(|w| w.0 <= write.version);
            pending.waiting = rest;
            let done: Vec<(u64, oneshot::Sender<()>)> = done;
            waiting = done.into_iter().map(|(_, sender)| sender).collect();
        }
        device.told |= announced;
        let event = match announced {
            true => Some(Event::Online { device: id.clone() }),
            false => device.told.then(|| Event::Changed { device: id.clone() }),
        };
        if is_current {
            self.settle(id)
        } else {
            self.requeue(id, now)
        }
        Written { event, waiting }
    }

    fn deleted(&mut self, id: &DeviceId, now: Instant) -> Written {
        let mut event = None;
        if let Some(device) = self.devices.get_mut(id) {
            if std::mem::take(&mut device.told) {
                let device_type = device.device_type.clone();
                event = Some(Event::Offline { device: id.clone(), device_type });
            }
            device.handed = false;
            if device.leaving {
                self.remove(id);
            } else {
                // It came back while its end was being written.
                let version = device.version;
                if let Some(pending) = &mut device.pending {
                    pending.announce.get_or_insert(version);
                }
                self.requeue(id, now);
            }
        }
        Written { event, waiting: Vec::new() }
    }

    /// Has what changed while it was being written wait for its turn again.
    fn requeue(&mut self, id: &DeviceId, now: Instant) {
        let Some(device) = self.devices.get_mut(id) else { return };
        let Some(pending) = &mut device.pending else { return };
        self.queue.remove(&pending.place);
        self.places += 1;
        let may_wait = device.told && !device.leaving;
        pending.place = Place { may_wait, number: self.places };
        pending.since = now;
        self.queue.insert(pending.place, id.clone());
    }

    /// The lease of a device of which the store has what is here.
    pub(crate) fn settled_lease(&self, id: &DeviceId) -> Option<Arc<Lease>> {
        let device = self.devices.get(id)?;
        device.lease.clone().filter(|_| device.told && device.pending.is_none())
    }

    /// Lets a device go that somebody else has removed from the store.
    pub(crate) fn evict(&mut self, id: &DeviceId, now: Instant) {
        let Some(device) = self.devices.get_mut(id) else { return };
        if device.pending.is_none() {
            device.leaving = true;
            self.membership += 1;
            self.mark(id, now, true, |_| {});
        }
    }

    /// Takes a device out of the queue. Whoever still waits for it hears that in vain.
    fn settle(&mut self, id: &DeviceId) {
        let pending = self.devices.get_mut(id).and_then(|device| device.pending.take());
        if let Some(pending) = pending {
            self.queue.remove(&pending.place);
        }
    }

    fn remove(&mut self, id: &DeviceId) {
        self.settle(id);
        if let Some(device) = self.devices.remove(id) {
            self.membership += 1;
            self.bytes = self.bytes.saturating_sub(device.document.len());
            if let Some(at) = device.scheduled {
                self.deadlines.remove(&(at, id.clone()));
            }
        }
    }
}
