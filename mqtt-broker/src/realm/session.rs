use super::outgoing::Outgoing;
use super::window::{Flight, Stage, Terms, Waiting, Window};
use crate::clock::Deadline;
use crate::codec::{
    AckKind, Property, PublishHeader, QoS, ReasonCode, SubscriptionOptions, Version, ack, publish,
};
use crate::hook::Access;
use crate::record::Message;
use bulkhead_policy::DeviceId;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

/// Bytes that may wait for the socket before messages wait in the session's queue instead.
pub(crate) const OUT_BYTES: usize = 256 * 1024;

/// Bytes that may wait for the socket before messages of QoS 0 are dropped.
const OUT_MAX_BYTES: usize = 1024 * 1024;

/// Bytes that may wait for a client that keeps up before its tenant's publishers are slowed down.
const BACKLOG_BYTES: usize = 128 * 1024;

/// What a waiting message weighs beyond its record.
const OVERHEAD: usize = 96;

/// Whose session it is. Client ids are names that clients choose, so they are their device's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionKey {
    /// The device, if the token names one.
    pub(crate) device: Option<DeviceId>,
    /// The client id.
    pub(crate) client_id: Arc<str>,
}

/// A client's session (MQTT 5 §4.1), connected or not.
#[derive(Debug)]
pub(crate) struct Session {
    /// Whose it is.
    pub(crate) key: SessionKey,
    /// Different from that of every other session of this process.
    pub(crate) serial: u64,
    /// Tells the connection that there is something to send, or to end.
    pub(crate) wake: Notify,
    /// Tells the dispatcher that the client has caught up.
    pub(crate) drained: Notify,
    /// Counts the changes of its rights, so that its connection need not lock to see that there was
    /// none.
    pub(crate) rights: AtomicU64,
    state: Mutex<State>,
}

/// What is true of a session now.
pub(crate) struct State {
    /// What its client may do.
    pub(crate) access: Arc<dyn Access>,
    /// Its connection.
    pub(crate) link: Option<Link>,
    /// Counts its connections, so that an old one knows that it is.
    pub(crate) generation: u64,
    /// Seconds for which it outlives its connection; `u32::MAX` is for ever.
    pub(crate) expiry: u32,
    /// Its subscriptions, by filter as the client wrote it, `$share/…` included.
    pub(crate) subscriptions: BTreeMap<Box<str>, Subscription>,
    /// Its will.
    pub(crate) will: Option<Will>,
    /// When something happens to it while it is away.
    pub(crate) timers: Vec<Instant>,
    /// Messages of QoS 2 that it published and has not released.
    pub(crate) received: HashSet<u16>,
    window: Window,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    /// What waits for all clients of the tenant, in bytes.
    tenant_queued: Arc<AtomicU64>,
    next_number: u64,
    /// It did not keep up, so nobody waits for it.
    is_slow: bool,
}

/// How it subscribes to one filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// Its options.
    pub(crate) options: SubscriptionOptions,
    /// Its identifier.
    pub(crate) id: Option<u32>,
}

/// What is published when its connection ends without DISCONNECT (MQTT 5 §3.1.2.5).
#[derive(Clone, Debug)]
pub(crate) struct Will {
    /// The message, as a [`record`](crate::record).
    pub(crate) record: Bytes,
    /// Seconds that a message lives once it is published.
    pub(crate) expiry: Option<u32>,
    /// Seconds to wait before.
    pub(crate) delay: u32,
}

/// The connection that a session has.
#[derive(Debug)]
pub(crate) struct Link {
    /// What it speaks.
    pub(crate) version: Version,
    /// Packets for it, whole.
    pub(crate) out: Vec<u8>,
    /// Why it has to end.
    pub(crate) close: Option<ReasonCode>,
    /// Largest packet that the client takes, in bytes.
    pub(crate) max_packet: usize,
    /// Messages that it takes at a time.
    pub(crate) receive_maximum: u16,
    /// Topic aliases that it takes, and those given.
    pub(crate) alias_maximum: u16,
    pub(crate) aliases: HashMap<Box<str>, u16>,
    /// Its publishes of QoS 1 that were not acknowledged.
    pub(crate) unacknowledged: u16,
}

#[derive(Debug)]
struct Queued {
    waiting: Waiting,
    number: u64,
}

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

impl Session {
    pub(crate) fn new(
        key: SessionKey,
        serial: u64,
        access: Arc<dyn Access>,
        tenant_queued: Arc<AtomicU64>,
    ) -> Self {
        Self {
            key,
            serial,
            wake: Notify::new(),
            drained: Notify::new(),
            rights: AtomicU64::new(0),
            state: Mutex::new(State {
                access,
                link: None,
                generation: 0,
                expiry: 0,
                subscriptions: BTreeMap::new(),
                will: None,
                timers: Vec::new(),
                received: HashSet::new(),
                window: Window::new(),
                queue: VecDeque::new(),
                queued_bytes: 0,
                tenant_queued,
                next_number: 1,
                is_slow: false,
            }),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends its connection. Says whether it has one that was not to end anyway.
    pub(crate) fn close(&self, reason: ReasonCode) -> bool {
        let mut state = self.lock();
        let Some(link) = state.link.as_mut().filter(|link| link.close.is_none()) else {
            return false;
        };
        link.close = Some(reason);
        drop(state);
        self.wake.notify_one();
        true
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.set_queued(0);
    }
}

impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl State {
    /// Whether it has not kept up with its messages but may still do so.
    pub(crate) fn has_backlog(&self) -> bool {
        let out = self.link.as_ref().map_or(0, |link| link.out.len());
        self.link.is_some() && !self.is_slow && self.queued_bytes + out > BACKLOG_BYTES
    }

    /// Nobody waits for it until it has caught up.
    pub(crate) fn give_up_on(&mut self) {
        self.is_slow = true;
    }

    /// Hands a message to the client, or keeps it.
    pub(crate) fn deliver(
        &mut self,
        message: &mut Outgoing<'_>,
        terms: &Terms,
        limits: QueueLimits,
    ) -> Delivered {
        let Some(link) = &mut self.link else {
            if terms.qos == 0 || self.expiry == 0 {
                return Delivered::Skipped;
            }
            return self.enqueue(message, terms, limits);
        };
        let was_idle = link.out.is_empty();
        let sent = if terms.qos == 0 {
            if link.out.len() > OUT_BYTES && (self.is_slow || link.out.len() > OUT_MAX_BYTES) {
                return Delivered::Dropped;
            }
            link.write(message, terms, 0, limits.mount)
        } else {
            let max = link.receive_maximum;
            let id = self.window.next_id(max);
            let Some(id) = id.filter(|_| self.queue.is_empty() && link.out.len() < OUT_BYTES)
            else {
                return self.enqueue(message, terms, limits);
            };
            let sent = link.write(message, terms, id, limits.mount);
            if sent {
                // What ends with its connection is never sent again, but a group has others.
                let kept = (self.expiry > 0 || terms.group.is_some())
                    .then(|| Waiting { record: message.record(), terms: terms.clone() });
                let number = self.next_number;
                self.next_number += 1;
                self.window.add(Flight { id, stage: published(terms, kept), number });
            }
            sent
        };
        match (sent, was_idle) {
            (false, _) => Delivered::Skipped,
            (true, true) => Delivered::Wake,
            (true, false) => Delivered::Taken,
        }
    }

    fn enqueue(
        &mut self,
        message: &mut Outgoing<'_>,
        terms: &Terms,
        limits: QueueLimits,
    ) -> Delivered {
        let bytes = message.record_len() + OVERHEAD;
        let of_tenant = self.tenant_queued.load(Ordering::Relaxed) + bytes as u64;
        if self.queued_bytes + bytes > limits.bytes
            || limits.tenant_bytes.is_some_and(|limit| of_tenant > limit)
        {
            return Delivered::Dropped;
        }
        self.set_queued(self.queued_bytes + bytes);
        let waiting = Waiting { record: message.record(), terms: terms.clone() };
        self.queue.push_back(Queued { waiting, number: self.next_number });
        self.next_number += 1;
        Delivered::Taken
    }

    /// Moves messages from the queue to the client, as far as both have room.
    pub(crate) fn pump(&mut self, mount: usize) {
        let Some(link) = &mut self.link else { return };
        let mut freed = 0;
        while link.out.len() < OUT_BYTES {
            let Some(id) = self.window.next_id(link.receive_maximum) else { break };
            let Some(queued) = self.queue.pop_front() else { break };
            freed += queued.waiting.record.len() + OVERHEAD;
            let Waiting { record, terms } = &queued.waiting;
            let Some((message, _)) = Message::read(record) else { continue };
            if message.deadline.is_some_and(Deadline::has_passed) {
                continue;
            }
            let mut outgoing = Outgoing::of_record(message, record);
            if link.write(&mut outgoing, terms, id, mount) {
                let kept =
                    (self.expiry > 0 || terms.group.is_some()).then(|| queued.waiting.clone());
                let stage = published(terms, kept);
                self.window.add(Flight { id, stage, number: queued.number });
            }
        }
        if freed > 0 {
            self.set_queued(self.queued_bytes - freed);
            // What it took in a burst is not kept for ever.
            if self.queue.is_empty() {
                self.queue.shrink_to(16);
            }
        }
    }

    fn set_queued(&mut self, bytes: usize) {
        let (before, after) = (self.queued_bytes as u64, bytes as u64);
        self.queued_bytes = bytes;
        if after >= before {
            self.tenant_queued.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.tenant_queued.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// The connection, if it is this one.
    pub(crate) fn link_of(&mut self, generation: u64) -> Option<&mut Link> {
        self.link.as_mut().filter(|_| self.generation == generation)
    }

    /// Why the connection has to end, if it has to. `None` if it is not the session's any more.
    pub(crate) fn closing(&self, generation: u64) -> Option<Option<ReasonCode>> {
        self.link.as_ref().filter(|_| self.generation == generation).map(|link| link.close)
    }

    /// Gives the connection what there is for it, in exchange for an empty buffer. `None` if the
    /// connection is not the session's any more.
    pub(crate) fn take_out(
        &mut self,
        generation: u64,
        buffer: &mut Vec<u8>,
        mount: usize,
    ) -> Option<Option<ReasonCode>> {
        if self.generation != generation {
            return None;
        }
        self.pump(mount);
        let link = self.link.as_mut()?;
        std::mem::swap(&mut link.out, buffer);
        if self.queue.is_empty() {
            self.is_slow = false;
        }
        Some(link.close)
    }

    /// Sends again what a former connection has not acknowledged (MQTT 5 §4.4).
    pub(crate) fn resend(&mut self, mount: usize) {
        let Some(link) = &mut self.link else { return };
        for flight in self.window.iter() {
            match &flight.stage {
                Stage::Released => {
                    ack(
                        &mut link.out,
                        link.version,
                        AckKind::PubRel,
                        flight.id,
                        ReasonCode::SUCCESS,
                    );
                }
                Stage::Published1(kept) | Stage::Published2(kept) => {
                    let Some(Waiting { record, terms }) = kept else { continue };
                    let Some((message, _)) = Message::read(record) else { continue };
                    link.write_again(&message, terms, flight.id, mount);
                }
            }
        }
    }

    /// PUBACK of the client.
    pub(crate) fn puback(&mut self, id: u16) -> Option<u64> {
        self.window.acknowledged(id).map(|flight| flight.number)
    }

    /// PUBREC of the client. The answer is PUBREL, with this reason.
    pub(crate) fn pubrec(
        &mut self,
        id: u16,
        reason: ReasonCode,
    ) -> (Option<u64>, Option<ReasonCode>) {
        if reason.is_error() {
            return (self.window.refused(id).map(|flight| flight.number), None);
        }
        match self.window.received(id) {
            Some(number) => (Some(number), Some(ReasonCode::SUCCESS)),
            None if self.window.is_released(id) => (None, Some(ReasonCode::SUCCESS)),
            None => (None, Some(ReasonCode::PACKET_IDENTIFIER_NOT_FOUND)),
        }
    }

    /// PUBCOMP of the client.
    pub(crate) fn pubcomp(&mut self, id: u16) -> Option<u64> {
        self.window.completed(id).map(|flight| flight.number)
    }

    /// Drops waiting messages that the client may not have (any more).
    pub(crate) fn filter_waiting(&mut self, may_have: impl Fn(&str) -> bool) -> usize {
        let before = self.queue.len();
        let topic_of = |waiting: &Waiting| {
            Message::read(&waiting.record).is_some_and(|(message, _)| may_have(message.topic))
        };
        self.queue.retain(|queued| topic_of(&queued.waiting));
        let bytes = self.queue.iter().map(|queued| queued.waiting.record.len() + OVERHEAD).sum();
        self.set_queued(bytes);
        self.window.retain(|flight| match &flight.stage {
            Stage::Published1(Some(kept)) | Stage::Published2(Some(kept)) => topic_of(kept),
            _ => true,
        });
        before - self.queue.len()
    }

    /// Takes out everything that waits, for whoever comes after this session.
    pub(crate) fn take_waiting(&mut self) -> Vec<Waiting> {
        let in_flight: Vec<_> = self
            .window
            .iter()
            .filter_map(|flight| match &flight.stage {
                Stage::Published1(kept) => kept.clone(),
                _ => None,
            })
            .collect();
        self.window.clear();
        self.set_queued(0);
        in_flight.into_iter().chain(self.queue.drain(..).map(|queued| queued.waiting)).collect()
    }
}

fn published(terms: &Terms, kept: Option<Waiting>) -> Stage {
    if terms.qos == 1 { Stage::Published1(kept) } else { Stage::Published2(kept) }
}

impl Link {
    /// Writes a message. Says whether it did: what is larger than the client takes is left out
    /// (MQTT 5 §3.1.2.11.4).
    fn write(&mut self, message: &mut Outgoing<'_>, terms: &Terms, id: u16, mount: usize) -> bool {
        if self.alias_maximum == 0 && terms.ids.is_empty() {
            let before = self.out.len();
            message.append(&mut self.out, self.version, terms.qos, terms.retain, id, mount);
            let fits = self.out.len() - before <= self.max_packet;
            if !fits {
                self.out.truncate(before);
            }
            return fits;
        }
        let message = message.message();
        self.write_whole(&message, terms, id, false, mount)
    }

    fn write_again(&mut self, message: &Message<'_>, terms: &Terms, id: u16, mount: usize) {
        self.write_whole(message, terms, id, true, mount);
    }

    fn write_whole(
        &mut self,
        message: &Message<'_>,
        terms: &Terms,
        id: u16,
        dup: bool,
        mount: usize,
    ) -> bool {
        let topic = message.topic.get(mount..).unwrap_or_default();
        let mut extra: Vec<_> =
            terms.ids.iter().map(|id| Property::SubscriptionIdentifier(*id)).collect();
        if let Some(deadline) = message.deadline {
            extra.push(Property::MessageExpiry(deadline.remaining()));
        }
        let (known, alias) = self.alias(topic);
        extra.extend(alias.map(Property::TopicAlias));
        let header = PublishHeader {
            dup,
            qos: QoS::from_bits(terms.qos).unwrap_or(QoS::AtMostOnce),
            retain: terms.retain,
            topic: if known { "" } else { topic },
            packet_id: id,
        };
        let before = self.out.len();
        publish(&mut self.out, self.version, header, message.properties, &extra, message.payload);
        let fits = self.out.len() - before <= self.max_packet;
        if !fits {
            self.out.truncate(before);
            if alias.is_some() && !known {
                // The client has not heard of it.
                self.aliases.remove(topic);
            }
        }
        fits
    }

    /// The alias of a topic, and whether the client knows it already.
    fn alias(&mut self, topic: &str) -> (bool, Option<u16>) {
        if self.alias_maximum == 0 {
            return (false, None);
        }
        if let Some(alias) = self.aliases.get(topic) {
            return (true, Some(*alias));
        }
        let next = u16::try_from(self.aliases.len() + 1).ok();
        let alias = next.filter(|next| *next <= self.alias_maximum);
        if let Some(alias) = alias {
            self.aliases.insert(topic.into(), alias);
        }
        (false, alias)
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("queued_bytes", &self.queued_bytes).finish_non_exhaustive()
    }
}
