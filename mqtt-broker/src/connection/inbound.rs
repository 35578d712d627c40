use super::{Connection, End};
use crate::aliases::TopicAliases;
use crate::bus::Batch;
use crate::clock::Deadline;
use crate::codec::{
    AckKind, Auth, Disconnect, Frame, Packet, Properties, PropertyId, Publish, QoS, ReasonCode,
    Subscribe, Unsubscribe, Version, ack, auth, is_topic_name, pingresp, suback, unsuback,
};
use crate::hook::{Attempt, Operation, may_publish};
use crate::realm::Subscription;
use crate::record::Message;
use crate::refusal::Refusal;
use crate::store::{Steps, Store};
use bulkhead_control::usage::Uncounted;
use bulkhead_policy::DenyReason;
use std::borrow::Cow;
use std::sync::Arc;
use tokio::time::Instant;

/// The name of the enhanced authentication that takes a tenant token (MQTT 5 §4.12).
pub(crate) const METHOD: &str = "JWT";

/// What is known of the client's side of a connection.
#[derive(Default)]
pub(super) struct Inbound {
    /// A token that came by AUTH and waits to be looked at.
    pub(super) reauthentication: Option<Vec<u8>>,
    /// Whether its tenant has too much under way.
    pub(super) waits_for_room: bool,
    /// Topic aliases that the client has set up (MQTT 5 §3.3.2.3.4).
    aliases: TopicAliases,
    /// The last topic that it was allowed to publish to: most clients have few.
    allowed: String,
}

/// Messages of one read on their way to the router.
#[derive(Default)]
struct Publishes {
    records: Vec<u8>,
    /// Messages.
    count: u64,
    /// Those that are not counted against the tenant's day yet.
    uncounted: Uncounted,
    /// Those of QoS 1.
    acknowledged: u16,
    /// How many more of those the client may have under way; looked up when it is needed.
    allowance: Option<u16>,
}

impl Inbound {
    /// What was allowed is asked again.
    pub(super) fn forget_decisions(&mut self) {
        self.allowed.clear();
    }
}

impl Connection {
    /// Takes bytes of the client, and does what its packets ask for.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.last_heard = Instant::now();
        // They may have changed while there was nothing to do.
        self.look_at_rights();
        let mut publishes = Publishes::default();
        let outcome = if self.partial.is_empty() {
            let (used, outcome) = self.packets(bytes, &mut publishes);
            self.partial = bytes.get(used..).unwrap_or_default().to_vec();
            outcome
        } else {
            let mut joined = std::mem::take(&mut self.partial);
            joined.extend_from_slice(bytes);
            let (used, outcome) = self.packets(&joined, &mut publishes);
            joined.drain(..used);
            self.partial = if joined.is_empty() { Vec::new() } else { joined };
            outcome
        };
        // What came before something wrong was right.
        self.send_on(publishes);
        let is_behind = self.shared.store.as_ref().is_some_and(Store::is_behind);
        self.inbound.waits_for_room |= is_behind;
        outcome
    }

    fn packets(&mut self, bytes: &[u8], publishes: &mut Publishes) -> (usize, Result<(), End>) {
        let mut used = 0;
        while self.inbound.reauthentication.is_none() {
            let rest = bytes.get(used..).unwrap_or_default();
            let frame = match Frame::find(rest, self.shared.settings.max_packet) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return (used, Err(End::Closed(error.reason()))),
            };
            used += frame.len;
            let outcome = match Packet::decode(&frame, self.version) {
                Ok(packet) => self.packet(packet, publishes),
                Err(error) => Err(End::Closed(error.reason())),
            };
            if outcome.is_err() {
                return (used, outcome);
            }
        }
        (used, Ok(()))
    }

    fn packet(&mut self, packet: Packet<'_>, publishes: &mut Publishes) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => self.publish(&publish, publishes)?,
            Packet::PubAck(ack) => self.session.lock().puback(ack.packet_id),
            Packet::PubRec(ack) => {
                self.session.lock().pubrec(&self.session, ack.packet_id, ack.reason);
            }
            Packet::PubRel(ack) => self.session.lock().pubrel(&self.session, ack.packet_id),
            Packet::PubComp(ack) => self.session.lock().pubcomp(ack.packet_id),
            Packet::Subscribe(subscribe) => self.subscribe(&subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe),
            Packet::PingReq => self.say(|out, _| pingresp(out)),
            Packet::Disconnect(disconnect) => return Err(self.disconnect(&disconnect)),
            Packet::Auth(auth) => self.auth(&auth)?,
            // A second CONNECT (§3.1), or what no client sends.
            _ => return Err(End::Closed(ReasonCode::PROTOCOL_ERROR)),
        }
        Ok(())
    }

    /// Writes something for the client, after what there is already.
    fn say(&self, write: impl FnOnce(&mut Vec<u8>, Version)) {
        let mut state = self.session.lock();
        // Another connection may have the session by now, and did not ask for this.
        if let Some(link) = state.link_of(self.generation) {
            write(&mut link.out, self.version);
        }
    }

    fn publish(&mut self, publish: &Publish<'_>, publishes: &mut Publishes) -> Result<(), End> {
        let topic = self
            .inbound
            .aliases
            .topic(publish)
            .map_err(|_| End::Closed(ReasonCode::TOPIC_ALIAS_INVALID))?;
        let topic: Cow<'_, str> = if self.realm.mount.is_empty() {
            topic
        } else {
            Cow::Owned(self.realm.mounted(&topic))
        };
        if publish.qos != QoS::AtMostOnce
            && self.version == Version::V5
            && !self.is_under_way(publish)
        {
            self.take_allowance(publishes)?;
        }
        if let Err(reason) = self.may_publish(&topic, publish, publishes) {
            return self.refuse(publish, reason);
        }
        if publish.qos == QoS::ExactlyOnce
            && !self.session.lock().received.insert(publish.packet_id)
        {
            // It is under way already (§4.3.3); its PUBREC may have been lost with a connection.
            self.say(|out, version| {
                ack(out, version, AckKind::PubRec, publish.packet_id, ReasonCode::SUCCESS);
            });
            return Ok(());
        }
        let deadline = publish.properties.message_expiry().map(Deadline::after);
        let kept = kept_properties(publish.properties);
        let message = Message {
            topic: &topic,
            properties: &kept,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            packet_id: publish.packet_id,
            deadline,
        };
        message.write(&mut publishes.records);
        publishes.count += 1;
        if publish.qos == QoS::AtLeastOnce {
            publishes.acknowledged += 1;
        }
        Ok(())
    }

    /// Whether a message of QoS 2 was received before and not released, so that it is counted
    /// already.
    fn is_under_way(&self, publish: &Publish<'_>) -> bool {
        publish.qos == QoS::ExactlyOnce && self.session.lock().received.contains(&publish.packet_id)
    }

    /// Counts a publish of QoS 1 or 2 against the client's Receive Maximum (§3.3.4).
    fn take_allowance(&self, publishes: &mut Publishes) -> Result<(), End> {
        let allowance = publishes.allowance.get_or_insert_with(|| {
            let state = self.session.lock();
            let waiting = state.link.as_ref().map_or(0, |link| link.unacknowledged);
            let received = u16::try_from(state.received.len()).unwrap_or(u16::MAX);
            self.shared.settings.max_in_flight.saturating_sub(waiting.saturating_add(received))
        });
        *allowance =
            allowance.checked_sub(1).ok_or(End::Closed(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED))?;
        Ok(())
    }

    fn may_publish(
        &mut self,
        topic: &str,
        publish: &Publish<'_>,
        publishes: &mut Publishes,
    ) -> Result<(), DenyReason> {
        if self.inbound.allowed != topic {
            may_publish(&*self.access, topic)?;
            self.inbound.allowed.clear();
            self.inbound.allowed.push_str(topic);
        }
        if let Some(response) = publish.properties.response_topic() {
            // Whoever answers would publish there on the client's behalf.
            let response = self.realm.mounted(response);
            if !is_topic_name(&response) || !self.access.receives(&response) {
                return Err(DenyReason::ResponseTopicDenied);
            }
        }
        self.realm.usage.publish(&self.access.quotas(), publish.payload.len())?;
        self.access.spend(publish.payload.len(), &mut publishes.uncounted)
    }

    /// Tells the client, before anything is acknowledged.
    fn refuse(&mut self, publish: &Publish<'_>, reason: DenyReason) -> Result<(), End> {
        self.realm.denied(&*self.access, Operation::Publish, reason);
        let denied = self.shared.settings.denied_publish;
        match Refusal::of(self.version, publish.qos, denied, reason) {
            Refusal::Close => return Err(End::Closed(ReasonCode::NOT_AUTHORIZED)),
            Refusal::Silence => {}
            Refusal::Answer(kind, code) => {
                self.say(|out, version| ack(out, version, kind, publish.packet_id, code));
            }
        }
        Ok(())
    }

    /// Gives messages to the router.
    fn send_on(&mut self, mut publishes: Publishes) {
        self.access.count(&mut publishes.uncounted);
        if publishes.records.is_empty() {
            return;
        }
        self.shared.metrics.received.inc_by(publishes.count);
        let mut state = self.session.lock();
        if let Some(link) = state.link.as_mut().filter(|_| publishes.acknowledged > 0) {
            // Before it can be acknowledged.
            link.unacknowledged = link.unacknowledged.saturating_add(publishes.acknowledged);
        }
        drop(state);
        let publisher = Some(Arc::clone(&self.session));
        let access = Some(Arc::clone(&self.access));
        self.realm.lane.push(Batch { publisher, access, records: publishes.records.into() });
        self.inbound.waits_for_room = !self.realm.lane.has_room();
    }

    fn subscribe(&self, subscribe: &Subscribe<'_>) {
        let id = subscribe.properties.subscription_identifier();
        let mut codes = Vec::new();
        let mut retained = Vec::new();
        for (filter, options) in subscribe.filters() {
            let subscription = Subscription { options, id };
            codes.push(match self.realm.subscribe(&self.session, filter, subscription) {
                Ok(found) => {
                    retained.push((found, subscription));
                    ReasonCode(options.qos as u8)
                }
                Err(reason) => reason,
            });
        }
        let mut packets = Vec::new();
        suback(&mut packets, self.version, subscribe.packet_id, &codes);
        self.session.lock().tell(&self.session, &packets, Steps::default());
        for (found, subscription) in retained {
            self.realm.send_retained(&self.session, &found, subscription);
        }
    }

    fn unsubscribe(&self, unsubscribe: &Unsubscribe<'_>) {
        let codes: Vec<_> = unsubscribe
            .filters()
            .map(|filter| self.realm.unsubscribe(&self.session, filter))
            .collect();
        let mut packets = Vec::new();
        unsuback(&mut packets, self.version, unsubscribe.packet_id, &codes);
        self.session.lock().tell(&self.session, &packets, Steps::default());
    }

    fn disconnect(&self, disconnect: &Disconnect<'_>) -> End {
        if let Some(expiry) = disconnect.properties.session_expiry() {
            let mut state = self.session.lock();
            // §3.14.2.2.2: what was to end with its connection cannot be prolonged.
            if state.expiry == 0 && expiry > 0 {
                return End::Closed(ReasonCode::PROTOCOL_ERROR);
            }
            state.expiry = expiry.min(self.shared.settings.max_session_expiry);
        }
        End::Goodbye { will: disconnect.reason == ReasonCode::DISCONNECT_WITH_WILL }
    }

    /// A newer token (§4.12.1).
    fn auth(&mut self, auth: &Auth<'_>) -> Result<(), End> {
        let protocol = End::Closed(ReasonCode::PROTOCOL_ERROR);
        let method = self.method.as_deref().ok_or(protocol)?;
        if auth.reason != ReasonCode::REAUTHENTICATE
            || auth.properties.authentication_method() != Some(method)
        {
            return Err(protocol);
        }
        let token = auth.properties.authentication_data().ok_or(protocol)?;
        self.inbound.reauthentication = Some(token.to_vec());
        Ok(())
    }

    /// Goes on with the rights of a newer token of the same principal.
    pub(super) async fn reauthenticate(&mut self, token: &[u8]) -> Result<(), End> {
        let client_id = Arc::clone(&self.session.key.client_id);
        let attempt = Attempt {
            source: self.source,
            client_id: &client_id,
            user_name: None,
            tokens: &[token],
            certificate: self.certificate.as_deref(),
        };
        let access = self.shared.hook.connect(attempt).await.map_err(End::Denied)?;
        let same = access.scope() == self.access.scope() && access.device() == self.access.device();
        if !same {
            self.realm.denied(&*self.access, Operation::Connect, DenyReason::CarrierConflict);
            return Err(End::Closed(ReasonCode::NOT_AUTHORIZED));
        }
        self.realm.renew(&self.session, access);
        // What has changed since the hook was asked found the rights of before.
        self.realm.reassess_session(&self.session);
        let method = self.method.clone().unwrap_or_default();
        let properties = [crate::codec::Property::AuthenticationMethod(&method)];
        self.say(|out, _| auth(out, ReasonCode::SUCCESS, &properties));
        Ok(())
    }
}

/// What subscribers get of a message's properties (§3.3.2.3): not its alias, which is this
/// connection's own, not its expiry, which they get with what is left of it, and not a will's delay.
pub(super) fn kept_properties(properties: Properties<'_>) -> Cow<'_, [u8]> {
    let is_dropped = |id: PropertyId| {
        matches!(id, PropertyId::TopicAlias | PropertyId::MessageExpiry | PropertyId::WillDelay)
    };
    if properties.raw_items().all(|(id, _)| !is_dropped(id)) {
        return Cow::Borrowed(properties.raw());
    }
    let kept = properties.raw_items().filter(|(id, _)| !is_dropped(*id));
    Cow::Owned(kept.flat_map(|(_, raw)| raw.iter().copied()).collect())
}
