//! One tenant's devices: who is present, what has changed and is still to be written, and what may be
//! told to others once it is. No I/O, and no clock of its own.
//!
//! A device that has changed stands in a queue until its state is written. What is written is what it
//! is then: however often it changes meanwhile, and however long the store is away, it stands there
//! once, so the queue is bounded by the devices.

mod description;
mod device;
mod document;
mod fleet;
mod listing;
mod memory;
#[cfg(test)]
mod tests;
mod writes;

pub(crate) use description::Describer;
pub(crate) use device::{Device, Via};
pub(crate) use document::Document;
pub(crate) use listing::Lister;
pub(crate) use memory::{Memory, Sight};
pub(crate) use writes::{Event, MAX_WRITE_BYTES, Turn, Write, Written};

use crate::store::{Lease, Stored};
use crate::wire::Registration;
use bulkhead_policy::DeviceId;
use jiff::Timestamp;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use uuid::Uuid;

/// How soon a device is looked at again that is silent while its broker is.
const RECHECK: Duration = Duration::from_millis(250);

/// What one tenant may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Devices at a time.
    pub(crate) devices: usize,
    /// Bytes of all documents.
    pub(crate) bytes: usize,
    /// Bytes of one document.
    pub(crate) document: usize,
}

/// Why a tenant cannot have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    #[error("the tenant has as many devices as it may have (registry.max_devices)")]
    Devices,
    #[error(
        "the documents of the tenant's devices are as large as they may be (registry.max_bytes)"
    )]
    Bytes,
    #[error("the device's document is larger than it may be (registry.max_document_bytes)")]
    Document,
    #[error("this replica gives the tenant to another; try again")]
    Closed,
}

/// What a heartbeat comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// The device is present, and as it was.
    Unchanged,
    /// The device is present, and has changed.
    Changed,
    /// The device is present; what it says of itself is too large, and was left out.
    TooLarge,
    /// The device is not known.
    Unknown,
}

/// Who is present of one tenant.
pub(crate) struct Presence {
    devices: BTreeMap<DeviceId, Device>,
    /// Not before when each device can have been silent for too long. A beat leaves it as it is: when
    /// the time comes it is looked at again.
    deadlines: BTreeSet<(Instant, DeviceId)>,
    /// Devices whose state is to be written, in the order of their places.
    queue: BTreeMap<Place, DeviceId>,
    /// How many places there have been.
    places: u64,
    bytes: usize,
    /// Changes with who is there, of which type and where.
    membership: u64,
    limits: Limits,
    is_closed: bool,
}

/// A place in the queue: who comes or goes is before whoever merely changes, and the first that does first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    may_wait: bool,
    number: u64,
}

/// What stands in the queue about a device.
pub(crate) struct Pending {
    since: Instant,
    place: Place,
    /// Others are to be told that it is there, once this version is written.
    announce: Option<u64>,
    /// Who waits until a version is written.
    waiting: Vec<(u64, oneshot::Sender<()>)>,
}

impl Presence {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            devices: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            queue: BTreeMap::new(),
            places: 0,
            bytes: 0,
            membership: 0,
            limits,
            is_closed: false,
        }
    }

    /// Takes nobody in any more.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Takes a device in that registers. Returns the id of the registration, and what resolves when it
    /// is written.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn register(
        &mut self,
        registration: Registration,
        via: Via,
        now: Instant,
        at: Timestamp,
    ) -> Result<(Uuid, oneshot::Receiver<()>), Full> {
        let id = Uuid::new_v4();
        let device = registration.device.clone();
        let document = Document::new(registration, id, at);
        let written = self.admit(device, document, via, now)?;
        Ok((id, written))
    }

    /// Takes a device in again whose document was remembered.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn revive(
        &mut self,
        device: DeviceId,
        document: Document,
        via: Via,
        now: Instant,
    ) -> Result<(), Full> {
        self.admit(device, document, via, now).map(drop)
    }

    fn admit(
        &mut self,
        id: DeviceId,
        document: Document,
        via: Via,
        now: Instant,
    ) -> Result<oneshot::Receiver<()>, Full> {
        let len = document.len();
        let before = self.devices.get(&id).map(|device| device.document.len());
        if self.is_closed {
            return Err(Full::Closed);
        }
        if len > self.limits.document {
            return Err(Full::Document);
        }
        if before.is_none() && self.devices.len() >= self.limits.devices {
            return Err(Full::Devices);
        }
        let bytes = self.bytes - before.unwrap_or(0) + len;
        if bytes > self.limits.bytes {
            return Err(Full::Bytes);
        }
        self.bytes = bytes;
        let has_moved = match self.devices.get_mut(&id) {
            Some(device) => device.replace(document, via, now),
            None => {
                self.devices.insert(id.clone(), Device::new(document, via, now));
                true
            }
        };
        self.membership += u64::from(has_moved);
        self.schedule_end(&id);
        let (sender, receiver) = oneshot::channel();
        let version = self.devices.get(&id).map_or(0, |device| device.version);
        // Whoever registers again and again is there already: that is a change as any other.
        let is_new = self.devices.get(&id).is_some_and(|device| !device.told);
        self.mark(&id, now, is_new, |pending| {
            pending.announce = Some(version);
            // Whoever has gone on without is not kept, or a store that is away would let them heap up.
            pending.waiting.retain(|(_, waiting)| !waiting.is_closed());
            pending.waiting.push((version, sender));
        });
        Ok(receiver)
    }

    /// Hears a heartbeat.
    pub(crate) fn beat(
        &mut self,
        id: &DeviceId,
        status: &Map<String, Value>,
        via: Via,
        now: Instant,
    ) -> Beat {
        let Some(device) = self.devices.get_mut(id) else { return Beat::Unknown };
        device.last_seen = now;
        device.via = via;
        if device.leaving {
            // It was silent for too long, and is back before that was written.
            device.leaving = false;
            self.membership += 1;
            self.schedule_end(id);
        }
        let Some(device) = self.devices.get_mut(id) else { return Beat::Unknown };
        if status.is_empty() {
            return Beat::Unchanged;
        }
        let Some(merged) = device.document.merged(status) else { return Beat::Unchanged };
        let before = device.document.len();
        let len = before - device.document.status.len() + merged.len();
        let bytes = self.bytes - before + len;
        if len > self.limits.document || bytes > self.limits.bytes {
            return Beat::TooLarge;
        }
        self.bytes = bytes;
        device.document.status = merged.into();
        self.membership += u64::from(device.look());
        device.version += 1;
        self.mark(id, now, false, |_| {});
        Beat::Changed
    }

    /// Forgets everything: another has had the tenant, written what came and went, and told it. Whoever
    /// waits hears that in vain.
    pub(crate) fn clear(&mut self) {
        self.devices.clear();
        self.deadlines.clear();
        self.queue.clear();
        self.bytes = 0;
        self.membership += 1;
    }

    /// Takes over what the store has, as heard of just now; what is here already is newer. Returns how
    /// many there are now.
    pub(crate) fn restore(
        &mut self,
        stored: Vec<Stored>,
        needs_lease: bool,
        now: Instant,
    ) -> usize {
        self.membership += 1;
        let mut known: BTreeMap<DeviceId, Option<Arc<Lease>>> = BTreeMap::new();
        for Stored { device: id, document, lease } in stored {
            known.insert(id.clone(), lease.clone());
            if self.devices.contains_key(&id) {
                continue;
            }
            self.bytes += document.len();
            // Over which backend it comes is known with its next beat.
            let mut device = Device::new(document, Via::Unknown, now);
            device.lease = lease;
            device.told = true;
            device.handed = true;
            self.devices.insert(id.clone(), device);
            self.schedule_end(&id);
        }
        let mut lost = Vec::new();
        for (id, device) in &mut self.devices {
            match known.get(id) {
                // A key without a lease would stay for ever.
                Some(lease) if lease.is_some() || !needs_lease => device.lease.clone_from(lease),
                Some(_) | None => {
                    device.lease = None;
                    lost.push(id.clone());
                }
            }
        }
        for id in lost {
            self.mark(&id, now, true, |_| {});
        }
        self.devices.len()
    }

    /// Has every device written again whose lease the store no longer knows.
    pub(crate) fn renew_leases(&mut self, now: Instant) -> usize {
        let is_lost = |device: &Device| device.lease.as_ref().is_some_and(|lease| lease.is_lost());
        let lost: Vec<_> =
            self.devices.iter().filter(|(_, d)| is_lost(d)).map(|(id, _)| id.clone()).collect();
        for id in &lost {
            if let Some(device) = self.devices.get_mut(id) {
                device.lease = None;
            }
            self.mark(id, now, true, |_| {});
        }
        lost.len()
    }

    /// When the next device can have been silent for too long.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Notices who has been silent for too long, while it could be heard: `heard` says from when to when
    /// that was so of a way, `None` while nothing can be heard there. Returns how many they are.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        heard: impl Fn(Via) -> Option<(Instant, Instant)>,
    ) -> usize {
        let mut gone = 0;
        while self.deadlines.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, id)) = self.deadlines.pop_first() else { break };
            let Some(device) = self.devices.get_mut(&id) else { continue };
            device.scheduled = None;
            if device.leaving {
                continue;
            }
            // Silence counts from when it could have been broken.
            let until = match heard(device.via) {
                None => {
                    device.last_seen = now;
                    now
                }
                Some((since, until)) => {
                    device.last_seen = device.last_seen.max(since);
                    until
                }
            };
            let deadline = device.deadline();
            if deadline > now {
                self.schedule(&id, deadline);
            } else if deadline > until {
                // The broker itself has been silent since.
                self.schedule(&id, now + RECHECK);
            } else {
                device.leaving = true;
                self.membership += 1;
                gone += 1;
                self.mark(&id, now, true, |_| {});
            }
        }
        gone
    }

    /// Has a device looked at when its time is over.
    fn schedule_end(&mut self, id: &DeviceId) {
        if let Some(device) = self.devices.get(id) {
            let at = device.deadline();
            self.schedule(id, at);
        }
    }

    fn schedule(&mut self, id: &DeviceId, at: Instant) {
        let Some(device) = self.devices.get_mut(id) else { return };
        if let Some(before) = device.scheduled.replace(at) {
            self.deadlines.remove(&(before, id.clone()));
        }
        self.deadlines.insert((at, id.clone()));
    }

    fn mark(&mut self, id: &DeviceId, now: Instant, urgent: bool, note: impl FnOnce(&mut Pending)) {
        let Some(device) = self.devices.get_mut(id) else { return };
        let place = match &device.pending {
            Some(pending) if !urgent || !pending.place.may_wait => pending.place,
            // It goes before those that may wait.
            Some(pending) => {
                self.queue.remove(&pending.place);
                self.places += 1;
                Place { may_wait: false, number: self.places }
            }
            None => {
                self.places += 1;
                Place { may_wait: !urgent, number: self.places }
            }
        };
        let fresh = || Box::new(Pending { since: now, place, announce: None, waiting: Vec::new() });
        let pending = device.pending.get_or_insert_with(fresh);
        pending.place = place;
        self.queue.entry(place).or_insert_with(|| id.clone());
        note(pending);
    }
}
