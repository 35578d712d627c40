use super::delivery::{Delivered, Handover, QueueLimits};
use super::outgoing::Outgoing;
use super::session::State;
use super::trie::{Group, Match, Subscriber};
use super::window::Terms;
use super::{Inside, Realm, Session};
use crate::bus::Batch;
use crate::codec::{AckKind, QoS, ReasonCode, Version, ack};
use crate::hook::Operation;
use crate::record::{Message, records};
use crate::store::{After, Steps};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a tenant's publishers wait for one of its clients that does not keep up. After that
/// nobody waits for it until it has caught up.
const PATIENCE: Duration = Duration::from_millis(50);

/// What came of routing some messages.
#[derive(Default)]
struct Routed {
    /// Sessions whose connections have something to send.
    wake: Vec<Arc<Session>>,
    /// Sessions that do not keep up.
    behind: Vec<Arc<Session>>,
    delivered: u64,
    dropped: u64,
    /// What is to be written down.
    steps: Steps,
}

/// Who gets a message, and the group for which it does.
type Found<'a> = (&'a Subscriber<Arc<Session>>, Option<&'a Arc<str>>);

/// What a publisher is told.
struct Answer {
    qos: QoS,
    packet_id: u16,
    reason: ReasonCode,
}

impl Realm {
    /// Hands messages to everybody who subscribes to them, then tells their publisher. Returns the
    /// sessions that do not keep up.
    pub(super) fn route(&self, batch: &Batch) -> Vec<Arc<Session>> {
        let mut routed = Routed::default();
        let mut answers = Vec::new();
        {
            let mut inside = self.lock();
            for (message, raw) in records(&batch.records) {
                let (reason, receivers) =
                    self.publish(&mut inside, &message, raw, batch, &mut routed);
                if message.qos != QoS::AtMostOnce {
                    let reason = match (reason, receivers) {
                        (ReasonCode::SUCCESS, 0) => ReasonCode::NO_MATCHING_SUBSCRIBERS,
                        (reason, _) => reason,
                    };
                    answers.push(Answer { qos: message.qos, packet_id: message.packet_id, reason });
                }
            }
        }
        self.route_beyond(batch, &mut answers, &mut routed);
        let bytes = batch.records.len();
        match &self.shared.store {
            Some(store) => {
                let mut steps = std::mem::take(&mut routed.steps);
                if let Some(publisher) = batch.publisher.as_ref().filter(|_| !answers.is_empty()) {
                    answer_later(publisher, &answers, &mut steps);
                }
                steps.after(After::Room { lane: Arc::clone(&self.lane), bytes });
                store.take(steps);
            }
            None => {
                if let Some(publisher) = batch.publisher.as_ref().filter(|_| !answers.is_empty()) {
                    answer(publisher, &answers, &mut routed);
                }
                self.lane.routed(bytes);
            }
        }
        for session in &routed.wake {
            session.wake.notify_one();
        }
        self.shared.metrics.routed(routed.delivered, routed.dropped);
        routed.behind
    }

    /// Keeps a message if it is to be retained, and delivers it. Says how many it was delivered to.
    fn publish(
        &self,
        inside: &mut Inside,
        message: &Message<'_>,
        raw: &[u8],
        batch: &Batch,
        routed: &mut Routed,
    ) -> (ReasonCode, u64) {
        let publisher = batch.publisher.as_ref();
        // What a service says to a tenant is kept with the tenant alone.
        let is_kept_there = || self.tenant.is_none() && batch.tenant_of(message.topic).is_some();
        if inside.is_over {
            return (ReasonCode::NOT_AUTHORIZED, 0);
        }
        if message.retain && !is_kept_there() {
            let record = Bytes::copy_from_slice(raw);
            let quotas = self.quotas.load();
            let kept = inside.retained.put(message, record.clone(), &quotas);
            if let (Some(store), Ok(())) = (&self.shared.store, kept) {
                let mut steps = Steps::default();
                if message.payload.is_empty() {
                    steps.release(self.name(), message.topic);
                } else {
                    steps.retain(self.name(), message.topic, record);
                }
                // At once, so that it comes before what the end of the tenant takes away.
                store.take(steps);
            }
            if let Err(reason) = kept {
                match publisher {
                    Some(publisher) => {
                        let access = Arc::clone(&publisher.lock().access);
                        self.denied(&*access, Operation::Retain, reason);
                    }
                    None => self.shared.metrics.denied(Operation::Retain, reason, 1),
                }
                return (ReasonCode::QUOTA_EXCEEDED, 0);
            }
        }
        let before = routed.delivered;
        self.deliver(inside, message, raw, publisher, routed);
        (ReasonCode::SUCCESS, routed.delivered - before)
    }

    /// Offers a tenant's messages to the services, and a service's to the tenants that they name.
    fn route_beyond(&self, batch: &Batch, answers: &mut [Answer], routed: &mut Routed) {
        if self.tenant.is_some() {
            let services = self.shared.services();
            if let Some(services) = services.filter(|s| s.usage.subscriptions.get() > 0) {
                let inside = services.lock();
                for (message, _) in records(&batch.records) {
                    let mut is_wanted = false;
                    inside.subscriptions.matches(message.topic, |_| is_wanted = true);
                    if !is_wanted {
                        continue;
                    }
                    let told = batch.for_services(&message);
                    for (message, raw) in records(&told) {
                        services.deliver(&inside, &message, raw, batch.publisher.as_ref(), routed);
                    }
                }
            }
            return;
        }
        let mut outcomes: HashMap<u16, ReasonCode> = HashMap::new();
        for (message, raw) in records(&batch.records) {
            let tenant = batch.tenant_of(message.topic);
            let Some(realm) = tenant.and_then(|tenant| self.shared.realm_named(&tenant).ok())
            else {
                continue;
            };
            let renamed = realm.named_here(&message);
            let said = renamed.as_deref().and_then(|renamed| records(renamed).next());
            let (message, raw) = said.unwrap_or((message, raw));
            let mut inside = realm.lock();
            let (reason, receivers) = realm.publish(&mut inside, &message, raw, batch, routed);
            if reason.is_error() || receivers > 0 {
                outcomes.insert(message.packet_id, reason);
            }
        }
        for answer in answers {
            if let Some(reason) = outcomes.get(&answer.packet_id) {
                answer.reason = *reason;
            }
        }
    }

    fn deliver(
        &self,
        inside: &Inside,
        message: &Message<'_>,
        raw: &[u8],
        publisher: Option<&Arc<Session>>,
        routed: &mut Routed,
    ) {
        let mut found: Vec<Found<'_>> = Vec::new();
        inside.subscriptions.matches(message.topic, |matched| match matched {
            Match::One(subscriber) => {
                // MQTT 5 §3.8.3.1: what a client publishes does not come back to it.
                let own = publisher.is_some_and(|publisher| *publisher == subscriber.who);
                if !(subscriber.options.no_local && own) {
                    found.push((subscriber, None));
                }
            }
            Match::Shared(group) => {
                found.extend(choose(group, None).map(|chosen| (chosen, Some(group.name()))));
            }
        });
        let limits = limits(self);
        let mut outgoing = Outgoing::new(*message, raw);
        if found.len() > 1 {
            found.sort_by_key(|(subscriber, group)| (subscriber.who.serial, group.is_some()));
        }
        // A client gets a message once, however many of its own subscriptions match.
        for same in found.chunk_by(|(a, one), (b, other)| {
            a.who.serial == b.who.serial && one.is_none() && other.is_none()
        }) {
            let Some((first, group)) = same.first() else { continue };
            let qos = same.iter().map(|(s, _)| s.options.qos).max().unwrap_or(first.options.qos);
            let terms = Terms {
                qos: message.qos.min(qos) as u8,
                retain: message.retain && same.iter().any(|(s, _)| s.options.retain_as_published),
                ids: same.iter().filter_map(|(s, _)| s.id).collect(),
                group: group.cloned(),
            };
            hand_over(&first.who, &mut outgoing, &terms, limits, routed);
        }
    }

    /// Delivers a message to a member of a group other than the one that had it.
    pub(super) fn deliver_to_group(
        &self,
        inside: &Inside,
        from: &Arc<Session>,
        message: &Message<'_>,
        record: &Bytes,
        group: &str,
        steps: &mut Steps,
    ) {
        let mut chosen = None;
        inside.subscriptions.matches(message.topic, |matched| {
            if let Match::Shared(candidate) = matched
                && **candidate.name() == *group
            {
                chosen = chosen.or_else(|| choose(candidate, Some(from)));
            }
        });
        let Some(subscriber) = chosen else { return };
        let terms = Terms {
            qos: message.qos.min(subscriber.options.qos) as u8,
            ids: subscriber.id.into_iter().collect(),
            group: Some(group.into()),
            ..Terms::default()
        };
        let mut routed = Routed::default();
        let mut outgoing = Outgoing::of_record(*message, record);
        std::mem::swap(steps, &mut routed.steps);
        hand_over(&subscriber.who, &mut outgoing, &terms, limits(self), &mut routed);
        std::mem::swap(steps, &mut routed.steps);
        subscriber.who.wake.notify_one();
    }
}

/// Waits until a session has caught up, but not for long.
pub(super) async fn wait_for(session: &Session) {
    let caught_up = async {
        loop {
            let drained = session.drained.notified();
            if !session.lock().has_backlog() {
                return;
            }
            drained.await;
        }
    };
    if timeout(PATIENCE, caught_up).await.is_err() {
        session.lock().give_up_on();
    }
}

pub(super) fn limits(realm: &Realm) -> QueueLimits {
    QueueLimits {
        bytes: realm.shared.settings.session_queue_bytes,
        tenant_bytes: realm.quotas.load().queued_bytes,
        mount: realm.mount.len(),
    }
}

/// Whose turn it is in a group: the next that is connected, else the next.
fn choose<'a>(
    group: &'a Group<Arc<Session>>,
    but: Option<&Arc<Session>>,
) -> Option<&'a Subscriber<Arc<Session>>> {
    let mut away = None;
    for member in group.in_turn().filter(|member| but != Some(&member.who)) {
        if member.who.lock().link.is_some() {
            return Some(member);
        }
        away = away.or(Some(member));
    }
    away
}

fn hand_over(
    session: &Arc<Session>,
    outgoing: &mut Outgoing<'_>,
    terms: &Terms,
    limits: QueueLimits,
    routed: &mut Routed,
) {
    let mut state = session.lock();
    let mut handover = Handover { limits, steps: &mut routed.steps };
    let delivered = state.deliver(session, outgoing, terms, &mut handover);
    let is_behind = state.has_backlog();
    drop(state);
    match delivered {
        Delivered::Taken => routed.delivered += 1,
        Delivered::Wake => {
            routed.delivered += 1;
            routed.wake.push(Arc::clone(session));
        }
        Delivered::Dropped => routed.dropped += 1,
        Delivered::Skipped => {}
    }
    if is_behind && !routed.behind.contains(session) {
        routed.behind.push(Arc::clone(session));
    }
}

/// Tells a publisher what became of its messages (MQTT 5 §4.3).
fn answer(publisher: &Arc<Session>, answers: &[Answer], routed: &mut Routed) {
    let mut state = publisher.lock();
    forget_refused(&mut state, answers);
    let Some(link) = &mut state.link else { return };
    let was_idle = link.out.is_empty();
    link.unacknowledged = link.unacknowledged.saturating_sub(acknowledged(answers));
    write(&mut link.out, link.version, answers);
    if was_idle {
        routed.wake.push(Arc::clone(publisher));
    }
}

/// The same, when everything is on disk. The packet id of a message of QoS 2 is written with the
/// message itself, so that after a restart it is known to have been there if and only if it was.
fn answer_later(publisher: &Arc<Session>, answers: &[Answer], steps: &mut Steps) {
    let mut state = publisher.lock();
    forget_refused(&mut state, answers);
    if let Some(store) = state.store() {
        for answer in answers.iter().filter(|a| a.qos == QoS::ExactlyOnce && !a.reason.is_error()) {
            store.received(steps, answer.packet_id);
        }
    }
    let Some(link) = &state.link else { return };
    let mut packets = Vec::new();
    write(&mut packets, link.version, answers);
    let (session, generation) = (Arc::clone(publisher), state.generation);
    steps.after(After::Say { session, generation, packets, acknowledged: acknowledged(answers) });
}

/// A refused message may be sent again.
fn forget_refused(state: &mut State, answers: &[Answer]) {
    for answer in answers.iter().filter(|a| a.qos == QoS::ExactlyOnce && a.reason.is_error()) {
        state.received.remove(&answer.packet_id);
    }
}

/// How many messages of QoS 1 these are about.
fn acknowledged(answers: &[Answer]) -> u16 {
    let count = answers.iter().filter(|answer| answer.qos == QoS::AtLeastOnce).count();
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// Writes PUBACK or PUBREC of each message.
fn write(out: &mut Vec<u8>, version: Version, answers: &[Answer]) {
    for answer in answers {
        let kind = match answer.qos {
            QoS::ExactlyOnce => AckKind::PubRec,
            _ => AckKind::PubAck,
        };
        // MQTT 3.1.1 has no way to say no; the message is lost to its quota and not acknowledged.
        if version == Version::V5 || !answer.reason.is_error() {
            ack(out, version, kind, answer.packet_id, answer.reason);
        }
    }
}
