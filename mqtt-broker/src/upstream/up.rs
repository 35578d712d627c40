//! From the client to the broker.

use super::names::{Names, Placed};
use super::relay::{End, Relay};
use super::requests::Asked;
use crate::aliases::TopicAliases;
use crate::codec::{
    self, Auth, Disconnect, Packet, Properties, Property, PropertyId, Publish, PublishHeader,
    ReasonCode, Subscribe, SubscriptionOptions, TopicFilter, Unsubscribe, ack, client_disconnect,
    pingresp, publish, publish_len, suback, unsuback,
};
use crate::connection::METHOD;
use crate::hook::{Attempt, Operation, may_publish};
use crate::realm::MAX_LEVELS;
use crate::refusal::Refusal;
use crate::settings::FALLBACK;
use bulkhead_control::usage::Uncounted;
use bulkhead_policy::service::of_tenant;
use bulkhead_policy::{DenyReason, Verdict};
use std::borrow::Cow;

/// What is known of the client's side of a relay.
#[derive(Debug, Default)]
pub(super) struct Up {
    /// A token that came by AUTH and waits to be looked at.
    pub(super) reauthentication: Option<Vec<u8>>,
    /// Topic aliases that the client has set up (MQTT 5 §3.3.2.3.4). The broker never hears of them.
    aliases: TopicAliases,
    /// The last topic that it was allowed to publish to: most clients have few.
    allowed: String,
    /// What is not counted against the tenant's day yet.
    pub(super) uncounted: Uncounted,
}

impl Up {
    /// What was allowed is asked again.
    pub(super) fn forget_decisions(&mut self) {
        self.allowed.clear();
    }
}

/// A client's filter as it goes to the broker.
///
/// # Errors
/// [`DenyReason::NameInvalid`].
pub(super) fn wanted(names: &Names, filter: &str) -> Verdict<Placed<'static>> {
    names.filter(TopicFilter::parse(filter).ok_or(DenyReason::NameInvalid)?)
}

impl Relay {
    /// Does what a packet of the client asks for. `whole` is the packet.
    pub(super) fn take_from_client(&mut self, packet: Packet<'_>, whole: &[u8]) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => return self.publish_up(&publish, whole),
            Packet::PubAck(_) | Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_) => {
                self.broker.out().extend_from_slice(whole);
            }
            Packet::Subscribe(subscribe) => self.subscribe(&subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe),
            // The front has its own way of finding out whether the broker is there.
            Packet::PingReq => pingresp(self.client.out()),
            Packet::Disconnect(disconnect) => return Err(self.disconnect(&disconnect)),
            Packet::Auth(auth) => return self.auth(&auth),
            // A second CONNECT (§3.1), or what no client sends.
            _ => return Err(End::Closed(ReasonCode::PROTOCOL_ERROR)),
        }
        Ok(())
    }

    fn publish_up(&mut self, message: &Publish<'_>, whole: &[u8]) -> Result<(), End> {
        let topic = self
            .up
            .aliases
            .topic(message)
            .map_err(|_| End::Closed(ReasonCode::TOPIC_ALIAS_INVALID))?;
        let decided = self.may_publish(&topic, message);
        let (topic, response) = match decided {
            Ok(names) => names,
            Err(reason) => return self.refuse(message, reason),
        };
        let is_as_it_was = *topic == *message.topic
            && response.as_deref() == message.properties.response_topic()
            && message.properties.topic_alias().is_none();
        if is_as_it_was {
            if whole.len() > self.limits.to_broker {
                return self.refuse(message, DenyReason::PayloadQuotaExceeded);
            }
            self.broker.out().extend_from_slice(whole);
        } else {
            let kept = without(message.properties, response.is_some());
            let extra = response.as_deref().map(Property::ResponseTopic);
            let extra = extra.as_slice();
            let (version, qos) = (self.version, message.qos);
            let len =
                publish_len(version, topic.len(), qos, kept.len(), extra, message.payload.len());
            if len > self.limits.to_broker.min(codec::MAX_FRAME) {
                return self.refuse(message, DenyReason::PayloadQuotaExceeded);
            }
            let header = PublishHeader {
                dup: message.dup,
                qos,
                retain: message.retain,
                topic: &topic,
                packet_id: message.packet_id,
            };
            publish(self.broker.out(), version, header, &kept, extra, message.payload);
        }
        self.shared.metrics.received.inc();
        Ok(())
    }

    /// Decides about a message. Returns topic and response topic as they are on the broker.
    fn may_publish<'a, 'm>(
        &mut self,
        name: &'a str,
        message: &Publish<'m>,
    ) -> Verdict<(Cow<'a, str>, Option<Cow<'m, str>>)> {
        let (hook, access) = (&*self.shared.hook, &*self.access);
        let topic = self.names.topic(hook, access, name)?;
        // A service that names a tenant has rights to the name in it, whatever the tenant's mount is.
        let names_tenant = self.names.is_service() && of_tenant(name).is_some();
        if names_tenant {
            may_publish(access, name)?;
        } else if self.up.allowed != *topic.wire {
            access.publish(topic.mounted())?;
            self.up.allowed.clear();
            self.up.allowed.push_str(&topic.wire);
        }
        let response = match message.properties.response_topic() {
            Some(response) => {
                // Whoever answers would publish there on the client's behalf.
                let denied = DenyReason::ResponseTopicDenied;
                let response = self.names.response(hook, access, name, response);
                let response = response.map_err(|_| denied)?;
                if !access.receives(response.mounted()) {
                    return Err(denied);
                }
                Some(response.wire)
            }
            None => None,
        };
        self.seat.tenancy.usage.publish(&self.access.quotas(), message.payload.len())?;
        self.access.spend(message.payload.len(), &mut self.up.uncounted)?;
        Ok((topic.wire, response))
    }

    /// Tells the client; the broker hears nothing of it.
    fn refuse(&mut self, message: &Publish<'_>, reason: DenyReason) -> Result<(), End> {
        self.denied(Operation::Publish, reason);
        let denied = self.shared.settings.denied_publish;
        match Refusal::of(self.version, message.qos, denied, reason) {
            Refusal::Close => return Err(End::Closed(ReasonCode::NOT_AUTHORIZED)),
            Refusal::Silence => {}
            Refusal::Answer(kind, code) => {
                ack(self.client.out(), self.version, kind, message.packet_id, code);
            }
        }
        Ok(())
    }

    fn subscribe(&mut self, packet: &Subscribe<'_>) {
        let mut asked = Vec::new();
        let mut filters: Vec<(Cow<'_, str>, SubscriptionOptions)> = Vec::new();
        for (filter, options) in packet.filters() {
            asked.push(match self.may_subscribe(filter) {
                Ok((wanted, is_new)) => {
                    filters.push((wanted.wire, options));
                    Asked::Broker(filter.into(), is_new)
                }
                Err(code) => Asked::Front(code),
            });
        }
        if filters.is_empty() {
            let codes = asked.iter().map(|asked| match asked {
                Asked::Front(code) => *code,
                Asked::Broker(..) => ReasonCode::UNSPECIFIED_ERROR,
            });
            let codes: Vec<_> = codes.collect();
            return suback(self.client.out(), self.version, packet.packet_id, &codes);
        }
        let filters: Vec<_> = filters.iter().map(|(f, options)| (&**f, *options)).collect();
        let properties: Vec<_> = packet.properties.iter().collect();
        let (version, id) = (self.version, packet.packet_id);
        codec::subscribe(self.broker.out(), version, id, &properties, &filters);
        self.requests.subscribe(id, asked);
    }

    /// Decides about a filter. Says too whether the client does not have it yet.
    ///
    /// # Errors
    /// The reason code for SUBACK.
    fn may_subscribe(&mut self, filter: &str) -> Result<(Placed<'static>, bool), ReasonCode> {
        // Some brokers end the connection of whoever names more levels than they know.
        let parsed = TopicFilter::parse(filter);
        let Some(parsed) = parsed.filter(|p| p.filter.split('/').count() <= MAX_LEVELS) else {
            return Err(ReasonCode::TOPIC_FILTER_INVALID);
        };
        let wanted = self.names.filter(parsed).and_then(|wanted| {
            self.access.subscribe(wanted.mounted())?;
            Ok(wanted)
        });
        let wanted = wanted.map_err(|reason| {
            self.denied(Operation::Subscribe, reason);
            ReasonCode::NOT_AUTHORIZED
        })?;
        let is_new = !self.open.has(filter);
        let (max, counter) =
            (self.shared.settings.max_subscriptions, &self.seat.tenancy.usage.subscriptions);
        let of_tenant = self.access.quotas().or(FALLBACK).subscriptions;
        if !self.open.add(filter, max, counter, of_tenant) {
            self.denied(Operation::Subscribe, DenyReason::SubscriptionQuotaExceeded);
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        Ok((wanted, is_new))
    }

    fn unsubscribe(&mut self, packet: &Unsubscribe<'_>) {
        let mut codes = Vec::new();
        let mut filters = Vec::new();
        for filter in packet.filters() {
            self.open.remove(filter, &self.seat.tenancy.usage.subscriptions);
            codes.push(match wanted(&self.names, filter) {
                Ok(wanted) => {
                    filters.push(wanted.wire);
                    None
                }
                Err(_) => Some(ReasonCode::TOPIC_FILTER_INVALID),
            });
        }
        let (version, id) = (self.version, packet.packet_id);
        if filters.is_empty() {
            let codes: Vec<_> = codes.into_iter().flatten().collect();
            return unsuback(self.client.out(), version, id, &codes);
        }
        let filters: Vec<_> = filters.iter().map(|filter| &**filter).collect();
        let properties: Vec<_> = packet.properties.iter().collect();
        codec::unsubscribe(self.broker.out(), version, id, &properties, &filters);
        self.requests.unsubscribe(id, codes);
    }

    fn disconnect(&mut self, packet: &Disconnect<'_>) -> End {
        let mut properties = Vec::new();
        if let Some(expiry) = packet.properties.session_expiry() {
            // §3.14.2.2.2: what was to end with its connection cannot be prolonged.
            if self.expiry == 0 && expiry > 0 {
                return End::Closed(ReasonCode::PROTOCOL_ERROR);
            }
            let expiry = expiry.min(self.shared.settings.max_session_expiry);
            properties.push(Property::SessionExpiry(expiry));
            self.expiry = expiry;
        }
        let wants_will = packet.reason != ReasonCode::NORMAL_DISCONNECTION;
        let reason = if wants_will && !self.leave_will() {
            ReasonCode::NORMAL_DISCONNECTION
        } else {
            packet.reason
        };
        client_disconnect(self.broker.out(), self.version, reason, &properties);
        End::Goodbye
    }

    /// A newer token (§4.12.1).
    fn auth(&mut self, packet: &Auth<'_>) -> Result<(), End> {
        let protocol = End::Closed(ReasonCode::PROTOCOL_ERROR);
        let method = self.method.as_deref().ok_or(protocol)?;
        if packet.reason != ReasonCode::REAUTHENTICATE
            || packet.properties.authentication_method() != Some(method)
            || method != METHOD
        {
            return Err(protocol);
        }
        let token = packet.properties.authentication_data().ok_or(protocol)?;
        self.up.reauthentication = Some(token.to_vec());
        Ok(())
    }

    /// Goes on with the rights of a newer token of the same principal.
    pub(super) async fn reauthenticate(&mut self, token: &[u8]) -> Result<(), End> {
        let attempt = Attempt {
            source: self.source,
            client_id: &self.client_id,
            user_name: None,
            tokens: &[token],
            certificate: self.certificate.as_deref(),
        };
        let access = self.shared.hook.connect(attempt).await.map_err(End::Denied)?;
        let same = access.scope() == self.access.scope() && access.device() == self.access.device();
        if !same {
            self.denied(Operation::Connect, DenyReason::CarrierConflict);
            return Err(End::Closed(ReasonCode::NOT_AUTHORIZED));
        }
        self.seat.handle.replace(access);
        // What has changed since the hook was asked found the rights of before.
        self.seat.handle.reassess();
        self.say_authenticated();
        Ok(())
    }
}

/// Properties of a message for the broker: not its alias, which is between client and front, and
/// not its response topic if that is to be another.
pub(super) fn without(properties: Properties<'_>, response: bool) -> Cow<'_, [u8]> {
    let is_dropped = |id: PropertyId| {
        id == PropertyId::TopicAlias || (response && id == PropertyId::ResponseTopic)
    };
    if properties.raw_items().all(|(id, _)| !is_dropped(id)) {
        return Cow::Borrowed(properties.raw());
    }
    let kept = properties.raw_items().filter(|(id, _)| !is_dropped(*id));
    Cow::Owned(kept.flat_map(|(_, raw)| raw.iter().copied()).collect())
}
