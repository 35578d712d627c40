//! From the broker to the client.

use super::metrics::{DENIED, FOREIGN, TOO_LARGE};
use super::relay::{End, Relay};
use super::up::without;
use crate::codec::{
    Ack, AckKind, Property, Publish, PublishHeader, QoS, ReasonCode, ServerPacket, ack, publish,
    publish_len,
};
use crate::hook::Operation;
use bulkhead_policy::DenyReason;

/// Why a message is withheld.
#[derive(Clone, Copy, Debug)]
enum Withheld {
    /// It is none of the client's names.
    Foreign,
    /// The client may not receive it (any more).
    Denied,
    /// It is larger than the client takes (MQTT 5 §3.1.2.11.4).
    TooLarge,
}

impl Relay {
    /// Does what a packet of the broker asks for. `whole` is the packet.
    pub(super) fn take_from_broker(
        &mut self,
        packet: ServerPacket<'_>,
        whole: &[u8],
    ) -> Result<(), End> {
        match packet {
            ServerPacket::Publish(message) => return self.publish_down(&message, whole),
            ServerPacket::PubAck(_) | ServerPacket::PubRec(_) | ServerPacket::PubComp(_) => {
                self.client.out().extend_from_slice(whole);
            }
            ServerPacket::PubRel(released) => self.pubrel(&released, whole),
            ServerPacket::SubAck { packet_id, codes, .. } => {
                let unfit = End::BrokerBroken("a SUBACK does not fit its SUBSCRIBE");
                let (answer, failed) = self.requests.suback(packet_id, codes).map_err(|_| unfit)?;
                for filter in failed {
                    self.open.remove(&filter, &self.seat.tenancy.usage.subscriptions);
                }
                answer.suback(self.client.out(), self.version, packet_id, whole);
            }
            ServerPacket::UnsubAck { packet_id, codes, .. } => {
                let unfit = End::BrokerBroken("an UNSUBACK does not fit its UNSUBSCRIBE");
                let answer = self.requests.unsuback(packet_id, codes, self.version);
                let answer = answer.map_err(|_| unfit)?;
                answer.unsuback(self.client.out(), self.version, packet_id, whole);
            }
            // The answer to the front's own.
            ServerPacket::PingResp => {}
            ServerPacket::Disconnect(disconnect) => {
                return Err(End::BrokerClosed(match disconnect.reason {
                    // It would lead the client past the front.
                    ReasonCode::USE_ANOTHER_SERVER | ReasonCode::SERVER_MOVED => {
                        ReasonCode::SERVER_SHUTTING_DOWN
                    }
                    // A server has no normal end for a client that is still there.
                    ReasonCode::NORMAL_DISCONNECTION => ReasonCode::SERVER_SHUTTING_DOWN,
                    reason => reason,
                }));
            }
            ServerPacket::ConnAck { .. } | ServerPacket::Auth(_) => {
                return Err(End::BrokerBroken("a packet is out of place"));
            }
        }
        Ok(())
    }

    fn publish_down(&mut self, message: &Publish<'_>, whole: &[u8]) -> Result<(), End> {
        if message.properties.topic_alias().is_some() {
            return Err(End::BrokerBroken("a topic alias was not asked for"));
        }
        if message.qos == QoS::ExactlyOnce && self.withheld.contains(&message.packet_id) {
            // It is the same again (§4.3.3).
            ack(
                self.broker.out(),
                self.version,
                AckKind::PubRec,
                message.packet_id,
                ReasonCode::SUCCESS,
            );
            return Ok(());
        }
        match self.deliver(message, whole) {
            Ok(()) => self.shared.metrics.routed(1, 0),
            Err(why) => self.withhold(message, why),
        }
        Ok(())
    }

    /// Hands a message to the client, if it may receive it.
    fn deliver(&mut self, message: &Publish<'_>, whole: &[u8]) -> Result<(), Withheld> {
        let topic = self.names.heard(message.topic).ok_or(Withheld::Foreign)?;
        if self.heard != message.topic {
            if !topic.is_of_its_place(&*self.access) {
                return Err(Withheld::Foreign);
            }
            if !self.access.receives(topic.mounted) {
                return Err(Withheld::Denied);
            }
            self.heard.clear();
            self.heard.push_str(message.topic);
        }
        let said = message.properties.response_topic();
        // One that the client has no name for is of no use to it.
        let response = said.and_then(|said| self.names.heard(said));
        let response = response.filter(|said| said.is_of_its_place(&*self.access));
        if topic.name == message.topic && response.map(|response| response.name) == said {
            if whole.len() > self.limits.client {
                return Err(Withheld::TooLarge);
            }
            self.client.out().extend_from_slice(whole);
            return Ok(());
        }
        let kept = without(message.properties, said.is_some());
        let extra = response.map(|response| Property::ResponseTopic(response.name));
        let extra = extra.as_slice();
        let len = publish_len(
            self.version,
            topic.name.len(),
            message.qos,
            kept.len(),
            extra,
            message.payload.len(),
        );
        if len > self.limits.client {
            return Err(Withheld::TooLarge);
        }
        let header = PublishHeader {
            dup: message.dup,
            qos: message.qos,
            retain: message.retain,
            topic: topic.name,
            packet_id: message.packet_id,
        };
        publish(self.client.out(), self.version, header, &kept, extra, message.payload);
        Ok(())
    }

    /// Takes a message from the broker that the client does not get.
    fn withhold(&mut self, message: &Publish<'_>, why: Withheld) {
        let label = match why {
            Withheld::Foreign => FOREIGN,
            Withheld::Denied => {
                let reason = DenyReason::RightsChanged;
                self.shared.metrics.denied(Operation::Receive, reason, 1);
                DENIED
            }
            Withheld::TooLarge => TOO_LARGE,
        };
        self.upstream.metrics.withheld.with_label_values(&[label]).inc();
        let kind = match message.qos {
            QoS::AtMostOnce => return,
            QoS::AtLeastOnce => AckKind::PubAck,
            QoS::ExactlyOnce => {
                self.withheld.insert(message.packet_id);
                AckKind::PubRec
            }
        };
        ack(self.broker.out(), self.version, kind, message.packet_id, ReasonCode::SUCCESS);
    }

    fn pubrel(&mut self, released: &Ack<'_>, whole: &[u8]) {
        if self.withheld.remove(&released.packet_id) {
            let id = released.packet_id;
            ack(self.broker.out(), self.version, AckKind::PubComp, id, ReasonCode::SUCCESS);
        } else {
            self.client.out().extend_from_slice(whole);
        }
    }
}
