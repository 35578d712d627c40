use bulkhead_mqtt_broker::codec::{
    AckKind, Frame, Properties, PropertiesBuf, QoS, ReasonCode, ServerPacket, Version,
};

/// What the broker said, in memory of its own.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// The answer to CONNECT.
    ConnAck {
        /// Whether it has a session of before.
        present: bool,
        /// Whether the client is let in.
        reason: ReasonCode,
        /// The properties.
        properties: Owned,
    },
    /// A message.
    Publish(Message),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack(AckKind, u16, ReasonCode),
    /// The answer to SUBSCRIBE.
    SubAck(u16, Vec<u8>),
    /// The answer to UNSUBSCRIBE.
    UnsubAck(u16, Vec<u8>),
    /// The answer to PINGREQ.
    PingResp,
    /// Goodbye.
    Disconnect(ReasonCode),
    /// A step of an authentication.
    Auth(ReasonCode, Owned),
}

/// A message that arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Whether it may have come before.
    pub dup: bool,
    /// Its quality of service.
    pub qos: QoS,
    /// The retain flag.
    pub retain: bool,
    /// The topic, empty where an alias stands for it.
    pub topic: String,
    /// 0 at QoS 0.
    pub packet_id: u16,
    /// The properties.
    pub properties: Owned,
    /// The payload, as text.
    pub payload: String,
}

/// Properties in memory of their own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Owned(PropertiesBuf);

impl Owned {
    /// To read them.
    pub fn get(&self) -> Properties<'_> {
        self.0.as_properties()
    }
}

impl From<Properties<'_>> for Owned {
    fn from(properties: Properties<'_>) -> Self {
        Self(properties.iter().collect())
    }
}

impl Heard {
    /// Reads one packet. The broker never says what cannot be read.
    pub(super) fn read(frame: &Frame<'_>, version: Version) -> Self {
        match ServerPacket::decode(frame, version).unwrap() {
            ServerPacket::ConnAck { session_present: present, reason, properties } => {
                Self::ConnAck { present, reason, properties: properties.into() }
            }
            ServerPacket::Publish(publish) => Self::Publish(Message {
                dup: publish.dup,
                qos: publish.qos,
                retain: publish.retain,
                topic: publish.topic.to_owned(),
                packet_id: publish.packet_id,
                properties: publish.properties.into(),
                payload: String::from_utf8_lossy(publish.payload).into_owned(),
            }),
            ServerPacket::PubAck(ack) => Self::Ack(AckKind::PubAck, ack.packet_id, ack.reason),
            ServerPacket::PubRec(ack) => Self::Ack(AckKind::PubRec, ack.packet_id, ack.reason),
            ServerPacket::PubRel(ack) => Self::Ack(AckKind::PubRel, ack.packet_id, ack.reason),
            ServerPacket::PubComp(ack) => Self::Ack(AckKind::PubComp, ack.packet_id, ack.reason),
            ServerPacket::SubAck { packet_id, codes, .. } => {
                Self::SubAck(packet_id, codes.to_vec())
            }
            ServerPacket::UnsubAck { packet_id, codes, .. } => {
                Self::UnsubAck(packet_id, codes.to_vec())
            }
            ServerPacket::PingResp => Self::PingResp,
            ServerPacket::Disconnect(disconnect) => Self::Disconnect(disconnect.reason),
            ServerPacket::Auth(auth) => Self::Auth(auth.reason, auth.properties.into()),
        }
    }
}
