//! What a client may send.

use super::connect::Connect;
use super::property::Scope;
use super::read::Reader;
use super::subscribe::{Subscribe, Unsubscribe};
use super::{DecodeError, Frame, Properties, QoS, ReasonCode, Version, topic};

/// What a client may send (§2.1.2). Everything borrows from the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// The first packet of a connection.
    Connect(Box<Connect<'a>>),
    /// A message.
    Publish(Publish<'a>),
    /// A QoS 1 message is taken.
    PubAck(Ack<'a>),
    /// A QoS 2 message is received.
    PubRec(Ack<'a>),
    /// A QoS 2 message is released.
    PubRel(Ack<'a>),
    /// A QoS 2 message is complete.
    PubComp(Ack<'a>),
    /// Subscriptions are wanted.
    Subscribe(Subscribe<'a>),
    /// Subscriptions are no longer wanted.
    Unsubscribe(Unsubscribe<'a>),
    /// Is anybody there?
    PingReq,
    /// The last packet of a connection.
    Disconnect(Disconnect<'a>),
    /// A step of an authentication.
    Auth(Auth<'a>),
}

/// A message (§3.3).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// It may have been sent before; never at QoS 0.
    pub dup: bool,
    /// How often it may arrive.
    pub qos: QoS,
    /// It is to be kept, or has been kept, for later subscribers.
    pub retain: bool,
    /// A topic name; in v5 it is empty where a topic alias stands for it.
    pub topic: &'a str,
    /// 0 at QoS 0 and never otherwise.
    pub packet_id: u16,
    /// Its properties.
    pub properties: Properties<'a>,
    /// The message proper.
    pub payload: &'a [u8],
}

/// A PUBACK, PUBREC, PUBREL or PUBCOMP (§3.4 to §3.7).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The message that it is about, not 0.
    pub packet_id: u16,
    /// Always success in 3.1.1.
    pub reason: ReasonCode,
    /// Its properties.
    pub properties: Properties<'a>,
}

/// The end of a connection (§3.14).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Always the normal end in 3.1.1.
    pub reason: ReasonCode,
    /// Its properties.
    pub properties: Properties<'a>,
}

/// A step of an authentication (§3.15), in v5 only. Its properties name a method, unless it says
/// nothing but success.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Continue or begin again from a client; continue or success from a server.
    pub reason: ReasonCode,
    /// Its properties.
    pub properties: Properties<'a>,
}

impl<'a> Packet<'a> {
    /// Reads a packet of a connection that speaks `version`. A CONNECT says itself which version it
    /// has.
    ///
    /// Topic filters are not judged here, since one that is invalid refuses one subscription and
    /// not the packet: see [`TopicFilter::parse`](super::TopicFilter::parse).
    ///
    /// # Errors
    /// [`DecodeError`] for everything that the specification calls malformed or a protocol error
    /// and that the packet alone shows. A packet that only servers send is a protocol error.
    #[inline]
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, DecodeError> {
        match frame.kind() {
            3 => Publish::decode(frame, version, Scope::CLIENT_PUBLISH).map(Self::Publish),
            4 => Ack::decode(frame, version, 0, ReasonCode::is_of_puback).map(Self::PubAck),
            5 => Ack::decode(frame, version, 0, ReasonCode::is_of_puback).map(Self::PubRec),
            6 => Ack::decode(frame, version, 2, ReasonCode::is_of_pubrel).map(Self::PubRel),
            7 => Ack::decode(frame, version, 0, ReasonCode::is_of_pubrel).map(Self::PubComp),
            _ => Self::decode_rare(frame, version),
        }
    }

    #[inline(never)]
    fn decode_rare(frame: &Frame<'a>, version: Version) -> Result<Self, DecodeError> {
        match frame.kind() {
            1 => Connect::decode(frame).map(|connect| Self::Connect(Box::new(connect))),
            8 => Subscribe::decode(frame, version).map(Self::Subscribe),
            10 => Unsubscribe::decode(frame, version).map(Self::Unsubscribe),
            12 => decode_empty(frame).map(|()| Self::PingReq),
            14 => {
                Disconnect::decode(frame, version, Scope::CLIENT_DISCONNECT).map(Self::Disconnect)
            }
            15 => Auth::decode(frame, version, |r| {
                matches!(r, ReasonCode::CONTINUE_AUTHENTICATION | ReasonCode::REAUTHENTICATE)
            })
            .map(Self::Auth),
            0 => Err(DecodeError::Malformed("packet type 0 is reserved")),
            _ => Err(DecodeError::Protocol("this packet is sent by servers only")),
        }
    }
}

/// PINGREQ and PINGRESP (§3.12, §3.13).
pub(super) fn decode_empty(frame: &Frame<'_>) -> Result<(), DecodeError> {
    frame.expect_flags(0)?;
    Reader::new(frame.body).end()
}

impl<'a> Publish<'a> {
    #[inline]
    pub(super) fn decode(
        frame: &Frame<'a>,
        version: Version,
        scope: Scope,
    ) -> Result<Self, DecodeError> {
        let flags = frame.flags();
        let qos =
            QoS::from_bits(flags >> 1 & 3).ok_or(DecodeError::Malformed("a PUBLISH has QoS 3"))?;
        let dup = flags & 8 != 0;
        if dup && qos == QoS::AtMostOnce {
            return Err(DecodeError::Malformed("a PUBLISH of QoS 0 is marked as a duplicate"));
        }
        let mut reader = Reader::new(frame.body);
        let topic = reader.text()?;
        let packet_id = if qos == QoS::AtMostOnce { 0 } else { reader.packet_id()? };
        let properties = match version {
            Version::V311 => Properties::default(),
            Version::V5 => Properties::read(&mut reader, scope)?,
        };
        if !topic::is_topic_name(topic) {
            if !topic.is_empty() || version == Version::V311 {
                return Err(DecodeError::TopicName);
            }
            if properties.topic_alias().is_none() {
                return Err(DecodeError::Protocol("a PUBLISH has neither a topic nor an alias"));
            }
        }
        let payload = reader.rest();
        Ok(Self { dup, qos, retain: flags & 1 != 0, topic, packet_id, properties, payload })
    }
}

impl<'a> Ack<'a> {
    #[inline]
    pub(super) fn decode(
        frame: &Frame<'a>,
        version: Version,
        flags: u8,
        allowed: fn(ReasonCode) -> bool,
    ) -> Result<Self, DecodeError> {
        frame.expect_flags(flags)?;
        let mut reader = Reader::new(frame.body);
        let packet_id = reader.packet_id()?;
        let mut ack =
            Self { packet_id, reason: ReasonCode::SUCCESS, properties: Properties::default() };
        if version == Version::V5 && !reader.is_empty() {
            ack.reason = read_reason(&mut reader, allowed)?;
            if !reader.is_empty() {
                ack.properties = Properties::read(&mut reader, Scope::ACK)?;
            }
        }
        reader.end()?;
        Ok(ack)
    }
}

impl<'a> Disconnect<'a> {
    pub(super) fn decode(
        frame: &Frame<'a>,
        version: Version,
        scope: Scope,
    ) -> Result<Self, DecodeError> {
        frame.expect_flags(0)?;
        let mut reader = Reader::new(frame.body);
        let mut disconnect =
            Self { reason: ReasonCode::NORMAL_DISCONNECTION, properties: Properties::default() };
        if version == Version::V5 && !reader.is_empty() {
            let allowed = if scope == Scope::CLIENT_DISCONNECT {
                ReasonCode::is_of_client_disconnect
            } else {
                ReasonCode::is_of_server_disconnect
            };
            disconnect.reason = read_reason(&mut reader, allowed)?;
            if !reader.is_empty() {
                disconnect.properties = Properties::read(&mut reader, scope)?;
            }
        }
        reader.end()?;
        Ok(disconnect)
    }
}

impl<'a> Auth<'a> {
    pub(super) fn decode(
        frame: &Frame<'a>,
        version: Version,
        allowed: fn(ReasonCode) -> bool,
    ) -> Result<Self, DecodeError> {
        if version == Version::V311 {
            return Err(DecodeError::Protocol("MQTT 3.1.1 has no AUTH"));
        }
        frame.expect_flags(0)?;
        let mut reader = Reader::new(frame.body);
        let auth = if reader.is_empty() {
            Self { reason: ReasonCode::SUCCESS, properties: Properties::default() }
        } else {
            let reason = ReasonCode(reader.byte()?);
            Self { reason, properties: Properties::read(&mut reader, Scope::AUTH)? }
        };
        reader.end()?;
        if !allowed(auth.reason) {
            return Err(UNFIT_REASON);
        }
        let says_success = auth.reason == ReasonCode::SUCCESS && auth.properties.is_empty();
        if !says_success && auth.properties.authentication_method().is_none() {
            return Err(DecodeError::Protocol("an AUTH names no authentication method"));
        }
        Ok(auth)
    }
}

const UNFIT_REASON: DecodeError =
    DecodeError::Protocol("a packet has a reason code that is not one of its own");

pub(super) fn read_reason(
    reader: &mut Reader<'_>,
    allowed: fn(ReasonCode) -> bool,
) -> Result<ReasonCode, DecodeError> {
    let reason = ReasonCode(reader.byte()?);
    if allowed(reason) { Ok(reason) } else { Err(UNFIT_REASON) }
}
