//! What clients acknowledge, and what of it is kept.

use super::delivery::{OVERHEAD, stored};
use super::session::{Queued, Session, State};
use super::window::{Flight, Stage, Terms, Waiting};
use crate::codec::{AckKind, ReasonCode, ack};
use crate::record::Message;
use crate::store::{After, SessionStore, Stage as Kept, Steps, StoredMessage};
use bytes::Bytes;
use std::sync::Arc;

impl State {
    /// PUBACK of the client.
    pub(crate) fn puback(&mut self, id: u16) {
        let flight = self.window.acknowledged(id);
        self.forget(flight);
    }

    /// PUBREC of the client, answered with PUBREL once it is certain that the message is never
    /// published again (MQTT 5 §4.3.3).
    pub(crate) fn pubrec(&mut self, session: &Arc<Session>, id: u16, reason: ReasonCode) {
        if reason.is_error() {
            let flight = self.window.refused(id);
            return self.forget(flight);
        }
        let released = self.window.received(id);
        let answer = if released.is_some() || self.window.is_released(id) {
            ReasonCode::SUCCESS
        } else {
            ReasonCode::PACKET_IDENTIFIER_NOT_FOUND
        };
        let mut steps = Steps::default();
        if let (Some(store), Some(number)) = (&self.store, released) {
            let nothing = Waiting { record: Bytes::new(), terms: Terms::default() };
            store.put(&mut steps, number, &stored(&nothing, Kept::Released(id)));
        }
        self.answer(session, AckKind::PubRel, id, answer, steps);
    }

    /// PUBREL of the client, answered with PUBCOMP once its packet id is certainly free.
    pub(crate) fn pubrel(&mut self, session: &Arc<Session>, id: u16) {
        let mut steps = Steps::default();
        let answer = if self.received.remove(&id) {
            if let Some(store) = &self.store {
                store.released(&mut steps, id);
            }
            ReasonCode::SUCCESS
        } else {
            ReasonCode::PACKET_IDENTIFIER_NOT_FOUND
        };
        self.answer(session, AckKind::PubComp, id, answer, steps);
    }

    /// PUBCOMP of the client.
    pub(crate) fn pubcomp(&mut self, id: u16) {
        let flight = self.window.completed(id);
        self.forget(flight);
    }

    fn forget(&self, flight: Option<Flight>) {
        if let (Some(store), Some(flight)) = (&self.store, flight) {
            let mut steps = Steps::default();
            store.remove(&mut steps, flight.number);
            store.take(steps);
        }
    }

    /// Says something to the client when what it is about is on disk.
    fn answer(
        &mut self,
        session: &Arc<Session>,
        kind: AckKind,
        id: u16,
        reason: ReasonCode,
        steps: Steps,
    ) {
        if let Some(link) = &self.link {
            let mut packets = Vec::new();
            ack(&mut packets, link.version, kind, id, reason);
            self.tell(session, &packets, steps);
        }
    }

    /// Sends packets to the client when what they are about is on disk.
    pub(crate) fn tell(&mut self, session: &Arc<Session>, packets: &[u8], mut steps: Steps) {
        let Some(store) = &self.store else {
            if let Some(link) = &mut self.link {
                link.out.extend_from_slice(packets);
            }
            return;
        };
        let (session, generation, packets) =
            (Arc::clone(session), self.generation, packets.to_vec());
        steps.after(After::Say { session, generation, packets, acknowledged: 0 });
        store.take(steps);
    }

    /// Where it is kept.
    pub(crate) fn store(&self) -> Option<&SessionStore> {
        self.store.as_ref()
    }

    /// Drops waiting messages that the client may not have (any more). Says how many.
    pub(super) fn filter_waiting(&mut self, may_have: impl Fn(&str) -> bool) -> usize {
        let is_allowed = |waiting: &Waiting| {
            Message::read(&waiting.record).is_some_and(|(message, _)| may_have(message.topic))
        };
        let mut gone = Vec::new();
        self.queue.retain(|Queued { waiting, number }| {
            let keeps = is_allowed(waiting);
            gone.extend((!keeps).then_some(*number));
            keeps
        });
        let bytes = self.queue.iter().map(|queued| queued.waiting.record.len() + OVERHEAD).sum();
        self.set_queued(bytes);
        self.window.retain(|flight| {
            let keeps = match &flight.stage {
                Stage::Published1(Some(kept)) | Stage::Published2(Some(kept)) => is_allowed(kept),
                _ => true,
            };
            gone.extend((!keeps).then_some(flight.number));
            keeps
        });
        if let Some(store) = &self.store {
            let mut steps = Steps::default();
            gone.iter().for_each(|number| store.remove(&mut steps, *number));
            store.take(steps);
        }
        gone.len()
    }

    /// Writes steps down, if the session is kept.
    pub(super) fn write_down(&self, steps: Steps) {
        if let Some(store) = &self.store {
            store.take(steps);
        }
    }

    /// Keeps the session from now on.
    pub(super) fn keep_in(&mut self, store: SessionStore) {
        self.store = Some(store);
    }

    /// Forgets what is kept of it.
    pub(super) fn keep_no_longer(&mut self) {
        if let Some(store) = self.store.take() {
            let mut steps = Steps::default();
            store.forget(&mut steps);
            store.take(steps);
        }
    }

    /// Puts back what a store kept, in the order of its numbers.
    pub(super) fn restore(
        &mut self,
        store: SessionStore,
        messages: Vec<(u64, StoredMessage)>,
        received: Vec<u16>,
    ) {
        for (number, message) in messages {
            self.next_number = self.next_number.max(number + 1);
            let StoredMessage { stage, qos, retain, ids, group, record } = message;
            let waiting = Waiting { record, terms: Terms { qos, retain, ids, group } };
            match stage {
                Kept::Waiting => {
                    self.set_queued(self.queued_bytes + waiting.record.len() + OVERHEAD);
                    self.queue.push_back(Queued { waiting, number });
                }
                Kept::Published(id) => {
                    self.window.add(Flight { id, stage: Stage::Published2(Some(waiting)), number });
                }
                Kept::Released(id) => {
                    self.window.add(Flight { id, stage: Stage::Released, number });
                }
            }
        }
        self.received.extend(received);
        self.store = Some(store);
    }
}
