//! Messages on their way from the router to one client.

use super::outgoing::Outgoing;
use super::session::{Queued, Session, State};
use super::window::{Flight, Stage, Terms, Waiting};
use crate::clock::Deadline;
use crate::codec::{AckKind, ReasonCode, ack};
use crate::record::Message;
use crate::store::{After, Stage as Kept, Steps, StoredMessage};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes that may wait for the socket before messages wait in the session's queue instead.
const OUT_BYTES: usize = 64 * 1024;

/// Bytes that may wait for the socket before messages of QoS 0 are dropped.
const OUT_MAX_BYTES: usize = 256 * 1024;

/// Bytes that may wait for the socket without being counted as waiting: that saves most of the counting.
const UNCOUNTED_BYTES: usize = 16 * 1024;

/// What a waiting message weighs beyond its record.
pub(super) const OVERHEAD: usize = 96;

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// It is on its way, or waits.
    Taken,
    /// The same, and there was nothing on its way before: the connection should be woken.
    Wake,
    /// It was dropped, because too much waits already.
    Dropped,
    /// Nothing was to be done: the client is away and does not want it later, or cannot take it.
    Skipped,
}

/// Bounds of a session's queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    /// Bytes that may wait for one client.
    pub(crate) bytes: usize,
    /// Bytes that may wait for all clients of the tenant.
    pub(crate) tenant_bytes: Option<u64>,
    /// Bytes before every topic that the client does not hear.
    pub(crate) mount: usize,
}

/// What every delivery of a moment has in common.
pub(super) struct Handover<'a> {
    /// Bounds.
    pub(super) limits: QueueLimits,
    /// What is to be written down.
    pub(super) steps: &'a mut Steps,
}

impl State {
    /// Hands a message to the client, or keeps it. `session` is whose state this is.
    pub(super) fn deliver(
        &mut self,
        session: &Arc<Session>,
        message: &mut Outgoing<'_>,
        terms: &Terms,
        handover: &mut Handover<'_>,
    ) -> Delivered {
        let Some(link) = &mut self.link else {
            if terms.qos == 0 || self.expiry == 0 {
                return Delivered::Skipped;
            }
            return self.enqueue(message, terms, handover);
        };
        let was_idle = link.out.is_empty();
        let mount = handover.limits.mount;
        let sent = if terms.qos == 0 {
            let waiting = link.out.len();
            let limit = handover.limits.tenant_bytes.filter(|_| waiting > UNCOUNTED_BYTES);
            if waiting > OUT_BYTES && (self.is_slow || waiting > OUT_MAX_BYTES)
                || limit.is_some_and(|limit| self.tenant_queued.load(Ordering::Relaxed) > limit)
            {
                return Delivered::Dropped;
            }
            let sent = link.write(message, terms, 0, mount);
            self.count_out();
            sent
        } else {
            let has_room = self.queue.is_empty() && link.out.len() < OUT_BYTES;
            let id = self.window.next_id(link.receive_maximum).filter(|_| has_room);
            let Some(id) = id else { return self.enqueue(message, terms, handover) };
            // What ends with its connection is never sent again, but a group has others.
            let kept = (self.expiry > 0 || terms.group.is_some())
                .then(|| Waiting { record: message.record(), terms: terms.clone() });
            let number = self.next_number;
            self.next_number += 1;
            if let (Some(store), Some(kept)) = (&self.store, &kept) {
                let stage = if terms.qos == 2 { Kept::Published(id) } else { Kept::Waiting };
                store.put(handover.steps, number, &stored(kept, stage));
            }
            self.send(
                session,
                message,
                terms,
                Flight { id, stage: published(terms, kept), number },
                mount,
                handover.steps,
            )
        };
        match (sent, was_idle) {
            (false, _) => Delivered::Skipped,
            (true, true) => Delivered::Wake,
            (true, false) => Delivered::Taken,
        }
    }

    /// Puts a message of QoS 1 or 2 on its way. One of QoS 2 that survives a restart leaves only when
    /// its packet id is on disk: sent again under another, it would arrive twice.
    fn send(
        &mut self,
        session: &Arc<Session>,
        message: &mut Outgoing<'_>,
        terms: &Terms,
        flight: Flight,
        mount: usize,
        steps: &mut Steps,
    ) -> bool {
        let Some(link) = &mut self.link else { return false };
        let sent = if self.store.is_some() && terms.qos == 2 {
            let mut packets = Vec::new();
            let fits = link.write_apart(&mut packets, &message.message(), terms, flight.id, mount);
            if fits {
                let (session, generation) = (Arc::clone(session), self.generation);
                steps.after(After::Say { session, generation, packets, acknowledged: 0 });
            }
            fits
        } else {
            link.write(message, terms, flight.id, mount)
        };
        match (sent, &self.store) {
            (true, _) => self.window.add(flight),
            (false, Some(store)) => store.remove(steps, flight.number),
            (false, None) => {}
        }
        sent
    }

    /// Counts what waits for the socket, where it is much.
    pub(super) fn count_out(&mut self) {
        let waiting = self.link.as_ref().map_or(0, |link| link.out.len());
        let counted = if waiting > UNCOUNTED_BYTES { waiting } else { 0 };
        if counted > self.counted_out {
            let more = (counted - self.counted_out) as u64;
            self.tenant_queued.fetch_add(more, Ordering::Relaxed);
        } else if counted < self.counted_out {
            let fewer = (self.counted_out - counted) as u64;
            self.tenant_queued.fetch_sub(fewer, Ordering::Relaxed);
        }
        self.counted_out = counted;
    }

    fn enqueue(
        &mut self,
        message: &mut Outgoing<'_>,
        terms: &Terms,
        handover: &mut Handover<'_>,
    ) -> Delivered {
        let bytes = message.record_len() + OVERHEAD;
        let limits = handover.limits;
        let of_tenant = self.tenant_queued.load(Ordering::Relaxed) + bytes as u64;
        if self.queued_bytes + bytes > limits.bytes
            || limits.tenant_bytes.is_some_and(|limit| of_tenant > limit)
        {
            return Delivered::Dropped;
        }
        self.set_queued(self.queued_bytes + bytes);
        let waiting = Waiting { record: message.record(), terms: terms.clone() };
        if let Some(store) = &self.store {
            store.put(handover.steps, self.next_number, &stored(&waiting, Kept::Waiting));
        }
        self.queue.push_back(Queued { waiting, number: self.next_number });
        self.next_number += 1;
        Delivered::Taken
    }

    /// Moves messages from the queue to the client, as far as both have room.
    fn pump(&mut self, session: &Arc<Session>, mount: usize, steps: &mut Steps) {
        let mut freed = 0;
        while let Some(link) = self.link.as_ref().filter(|link| link.out.len() < OUT_BYTES) {
            let Some(id) = self.window.next_id(link.receive_maximum) else { break };
            let Some(Queued { waiting, number }) = self.queue.pop_front() else { break };
            freed += waiting.record.len() + OVERHEAD;
            let message = Message::read(&waiting.record).map(|(message, _)| message);
            let fresh = message.filter(|m| !m.deadline.is_some_and(Deadline::has_passed));
            let Some(message) = fresh else {
                if let Some(store) = &self.store {
                    store.remove(steps, number);
                }
                continue;
            };
            let terms = &waiting.terms;
            if let Some(store) = self.store.as_ref().filter(|_| terms.qos == 2) {
                store.put(steps, number, &stored(&waiting, Kept::Published(id)));
            }
            let kept = (self.expiry > 0 || terms.group.is_some()).then(|| waiting.clone());
            let flight = Flight { id, stage: published(terms, kept), number };
            let mut outgoing = Outgoing::of_record(message, &waiting.record);
            self.send(session, &mut outgoing, terms, flight, mount, steps);
        }
        if freed > 0 {
            self.set_queued(self.queued_bytes - freed);
            // What it took in a burst is not kept for ever.
            if self.queue.is_empty() {
                self.queue.shrink_to(16);
            }
        }
    }

    /// Gives the connection what there is for it, in exchange for an empty buffer, and the reason for
    /// which it has to end. `None` if the connection is not the session's any more.
    pub(crate) fn take_out(
        &mut self,
        session: &Arc<Session>,
        generation: u64,
        buffer: &mut Vec<u8>,
        mount: usize,
    ) -> Option<Option<ReasonCode>> {
        if self.generation != generation {
            return None;
        }
        let mut steps = Steps::default();
        self.pump(session, mount, &mut steps);
        self.write_down(steps);
        let link = self.link.as_mut()?;
        std::mem::swap(&mut link.out, buffer);
        self.count_out();
        let link = self.link.as_ref()?;
        if self.queue.is_empty() {
            self.is_slow = false;
        }
        Some(link.close)
    }

    /// Sends again what a former connection has not acknowledged (MQTT 5 §4.4).
    pub(super) fn resend(&mut self, mount: usize) {
        let Some(link) = &mut self.link else { return };
        for flight in self.window.iter() {
            match &flight.stage {
                Stage::Released => {
                    let kind = AckKind::PubRel;
                    ack(&mut link.out, link.version, kind, flight.id, ReasonCode::SUCCESS);
                }
                Stage::Published1(kept) | Stage::Published2(kept) => {
                    let Some(Waiting { record, terms }) = kept else { continue };
                    let Some((message, _)) = Message::read(record) else { continue };
                    link.write_again(&message, terms, flight.id, mount);
                }
            }
        }
    }
}

/// A message as the store keeps it.
pub(super) fn stored(waiting: &Waiting, stage: Kept) -> StoredMessage {
    let Waiting { record, terms } = waiting;
    StoredMessage {
        stage,
        qos: terms.qos,
        retain: terms.retain,
        ids: terms.ids.clone(),
        group: terms.group.clone(),
        record: record.clone(),
    }
}

fn published(terms: &Terms, kept: Option<Waiting>) -> Stage {
    if terms.qos == 1 { Stage::Published1(kept) } else { Stage::Published2(kept) }
}
