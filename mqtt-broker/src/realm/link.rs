use super::outgoing::Outgoing;
use super::window::Terms;
use crate::codec::{Property, PublishHeader, QoS, ReasonCode, Version, publish};
use crate::record::Message;
use std::collections::HashMap;

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

impl Link {
    /// Writes a message. Says whether it did: what is larger than the client takes is left out
    /// (MQTT 5 §3.1.2.11.4).
    pub(super) fn write(
        &mut self,
        message: &mut Outgoing<'_>,
        terms: &Terms,
        id: u16,
        mount: usize,
    ) -> bool {
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

    /// Writes a message that a former connection may have heard.
    pub(super) fn write_again(
        &mut self,
        message: &Message<'_>,
        terms: &Terms,
        id: u16,
        mount: usize,
    ) {
        self.write_whole(message, terms, id, true, mount);
    }

    /// Writes a message elsewhere, to be sent later. It takes no alias, which the client would have to
    /// hear of at once.
    pub(super) fn write_apart(
        &self,
        packets: &mut Vec<u8>,
        message: &Message<'_>,
        terms: &Terms,
        id: u16,
        mount: usize,
    ) -> bool {
        let mut extra: Vec<_> =
            terms.ids.iter().map(|id| Property::SubscriptionIdentifier(*id)).collect();
        extra.extend(message.deadline.map(|at| Property::MessageExpiry(at.remaining())));
        let header = PublishHeader {
            dup: false,
            qos: QoS::from_bits(terms.qos).unwrap_or(QoS::AtMostOnce),
            retain: terms.retain,
            topic: message.topic.get(mount..).unwrap_or_default(),
            packet_id: id,
        };
        publish(packets, self.version, header, message.properties, &extra, message.payload);
        packets.len() <= self.max_packet
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
