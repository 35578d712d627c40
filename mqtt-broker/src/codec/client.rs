//! The other side: packets that a client sends and what it gets back, for connections to another
//! broker.
//!
//! The rule of what does not fit is that of the server's packets: a whole packet is appended, or
//! nothing.

use super::connect::{CLEAN_START, PASSWORD, USER_NAME, WILL, WILL_QOS_SHIFT, WILL_RETAIN};
use super::encode::{reason_and_properties, write_block, write_length};
use super::packet::{decode_empty, read_reason};
use super::property::{Scope, block_len, items_len};
use super::read::Reader;
use super::{
    Ack, Auth, Connect, DecodeError, Disconnect, Frame, Properties, Property, Publish, ReasonCode,
    SubscriptionOptions, Version, Will, write,
};

/// What a server may send (§2.1.2). Everything borrows from the frame.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ServerPacket<'a> {
    /// The answer to a CONNECT.
    ConnAck {
        /// The server has a session of before.
        session_present: bool,
        /// Whether the connection is accepted. The return codes of 3.1.1 come as those of v5 that
        /// mean the same.
        reason: ReasonCode,
        /// Its properties.
        properties: Properties<'a>,
    },
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
    /// The answer to a SUBSCRIBE.
    SubAck {
        /// The SUBSCRIBE, not 0.
        packet_id: u16,
        /// Its properties.
        properties: Properties<'a>,
        /// A reason code for every filter, one at least.
        codes: &'a [u8],
    },
    /// The answer to an UNSUBSCRIBE.
    UnsubAck {
        /// The UNSUBSCRIBE, not 0.
        packet_id: u16,
        /// Its properties.
        properties: Properties<'a>,
        /// A reason code for every filter, one at least; in 3.1.1 there are none.
        codes: &'a [u8],
    },
    /// Somebody is there.
    PingResp,
    /// The server ends the connection; only in v5.
    Disconnect(Disconnect<'a>),
    /// A step of an authentication; only in v5.
    Auth(Auth<'a>),
}

impl<'a> ServerPacket<'a> {
    /// Reads a packet of a connection that speaks `version`.
    ///
    /// # Errors
    /// As for [`Packet::decode`](super::Packet::decode); a packet that only clients send is a
    /// protocol error.
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, DecodeError> {
        match frame.kind() {
            2 => decode_connack(frame, version),
            3 => Publish::decode(frame, version, Scope::SERVER_PUBLISH).map(Self::Publish),
            4 => Ack::decode(frame, version, 0, ReasonCode::is_of_puback).map(Self::PubAck),
            5 => Ack::decode(frame, version, 0, ReasonCode::is_of_puback).map(Self::PubRec),
            6 => Ack::decode(frame, version, 2, ReasonCode::is_of_pubrel).map(Self::PubRel),
            7 => Ack::decode(frame, version, 0, ReasonCode::is_of_pubrel).map(Self::PubComp),
            9 => decode_suback(frame, version),
            11 => decode_unsuback(frame, version),
            13 => decode_empty(frame).map(|()| Self::PingResp),
            14 if version == Version::V5 => {
                Disconnect::decode(frame, version, Scope::SERVER_DISCONNECT).map(Self::Disconnect)
            }
            15 => Auth::decode(frame, version, |r| {
                matches!(r, ReasonCode::SUCCESS | ReasonCode::CONTINUE_AUTHENTICATION)
            })
            .map(Self::Auth),
            0 => Err(DecodeError::Malformed("packet type 0 is reserved")),
            _ => Err(DecodeError::Protocol("this packet is sent by clients only")),
        }
    }
}

fn decode_connack<'a>(
    frame: &Frame<'a>,
    version: Version,
) -> Result<ServerPacket<'a>, DecodeError> {
    frame.expect_flags(0)?;
    let mut reader = Reader::new(frame.body);
    let session_present = match reader.byte()? {
        0 => false,
        1 => true,
        _ => return Err(DecodeError::Malformed("a reserved flag of a CONNACK is set")),
    };
    let (reason, properties) = match (version, frame.body) {
        // A server that knows nothing of v5 refuses it in the words of 3.1.1.
        (Version::V311, _) | (Version::V5, [0, 1]) => {
            (reason_of_v311(reader.byte()?)?, Properties::default())
        }
        (Version::V5, _) => (
            read_reason(&mut reader, ReasonCode::is_of_connack)?,
            Properties::read(&mut reader, Scope::CONNACK)?,
        ),
    };
    reader.end()?;
    if session_present && reason.is_error() {
        return Err(DecodeError::Protocol("a refused connection has no session"));
    }
    Ok(ServerPacket::ConnAck { session_present, reason, properties })
}

fn reason_of_v311(code: u8) -> Result<ReasonCode, DecodeError> {
    Ok(match code {
        0 => ReasonCode::SUCCESS,
        1 => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
        2 => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
        3 => ReasonCode::SERVER_UNAVAILABLE,
        4 => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        5 => ReasonCode::NOT_AUTHORIZED,
        _ => return Err(DecodeError::Protocol("a CONNACK has a reserved return code")),
    })
}

fn decode_suback<'a>(frame: &Frame<'a>, version: Version) -> Result<ServerPacket<'a>, DecodeError> {
    let (packet_id, properties, codes) = decode_codes(frame, version)?;
    let allowed = |code: u8| match version {
        Version::V311 => matches!(code, 0..=2 | 0x80),
        Version::V5 => ReasonCode(code).is_of_suback(),
    };
    check_codes(codes, allowed)?;
    Ok(ServerPacket::SubAck { packet_id, properties, codes })
}

fn decode_unsuback<'a>(
    frame: &Frame<'a>,
    version: Version,
) -> Result<ServerPacket<'a>, DecodeError> {
    let (packet_id, properties, codes) = decode_codes(frame, version)?;
    match version {
        Version::V311 => Reader::new(codes).end()?,
        Version::V5 => check_codes(codes, |code| ReasonCode(code).is_of_unsuback())?,
    }
    Ok(ServerPacket::UnsubAck { packet_id, properties, codes })
}

fn decode_codes<'a>(
    frame: &Frame<'a>,
    version: Version,
) -> Result<(u16, Properties<'a>, &'a [u8]), DecodeError> {
    frame.expect_flags(0)?;
    let mut reader = Reader::new(frame.body);
    let packet_id = reader.packet_id()?;
    let properties = match version {
        Version::V311 => Properties::default(),
        Version::V5 => Properties::read(&mut reader, Scope::ACK)?,
    };
    Ok((packet_id, properties, reader.rest()))
}

fn check_codes(codes: &[u8], allowed: impl Fn(u8) -> bool) -> Result<(), DecodeError> {
    if codes.is_empty() {
        return Err(DecodeError::Protocol("an answer to topic filters has no reason codes"));
    }
    if codes.iter().all(|code| allowed(*code)) {
        Ok(())
    } else {
        Err(DecodeError::Protocol("a reason code does not belong into this packet"))
    }
}

/// Appends a CONNECT (§3.1). 3.1.1 gets no properties, neither of the connection nor of the will.
pub fn connect(out: &mut Vec<u8>, connect: &Connect<'_>) {
    let properties_len = |properties: Properties<'_>| match connect.version {
        Version::V311 => 0,
        Version::V5 => block_len(properties.raw().len()),
    };
    let mut length =
        10 + properties_len(connect.properties) + write::data_len(connect.client_id.as_bytes());
    let mut flags = if connect.clean_start { CLEAN_START } else { 0 };
    let mut fits = write::fits(connect.client_id.as_bytes());
    if let Some(Will { qos, retain, topic, properties, payload }) = connect.will {
        flags |= WILL | (qos as u8) << WILL_QOS_SHIFT | if retain { WILL_RETAIN } else { 0 };
        length += properties_len(properties)
            + write::data_len(topic.as_bytes())
            + write::data_len(payload);
        fits &= write::fits(topic.as_bytes()) && write::fits(payload);
    }
    for (flag, field) in
        [(USER_NAME, connect.user_name.map(str::as_bytes)), (PASSWORD, connect.password)]
    {
        if let Some(bytes) = field {
            flags |= flag;
            length += write::data_len(bytes);
            fits &= write::fits(bytes);
        }
    }
    if !fits || !write::header(out, 0x10, length) {
        return;
    }
    let write_properties = |out: &mut Vec<u8>, properties: Properties<'_>| {
        if connect.version == Version::V5 {
            write_length(out, properties.raw().len());
            out.extend_from_slice(properties.raw());
        }
    };
    let level = match connect.version {
        Version::V311 => 4,
        Version::V5 => 5,
    };
    write::data(out, b"MQTT");
    out.extend_from_slice(&[level, flags]);
    out.extend_from_slice(&connect.keep_alive.to_be_bytes());
    write_properties(out, connect.properties);
    write::data(out, connect.client_id.as_bytes());
    if let Some(will) = connect.will {
        write_properties(out, will.properties);
        write::data(out, will.topic.as_bytes());
        write::data(out, will.payload);
    }
    for bytes in connect.user_name.map(str::as_bytes).into_iter().chain(connect.password) {
        write::data(out, bytes);
    }
}

/// Appends a SUBSCRIBE (§3.8) of one filter at least. 3.1.1 gets no properties, and of the options
/// the quality of service.
pub fn subscribe(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    properties: &[Property<'_>],
    filters: &[(&str, SubscriptionOptions)],
) {
    let payload = filters.iter().map(|(filter, _)| write::data_len(filter.as_bytes()) + 1).sum();
    let fits = filters.iter().all(|(filter, _)| write::fits(filter.as_bytes()));
    if fits && filters_head(out, 0x82, version, packet_id, properties, payload) {
        for (filter, options) in filters {
            write::data(out, filter.as_bytes());
            out.push(match version {
                Version::V311 => options.qos as u8,
                Version::V5 => options.to_bits(),
            });
        }
    }
}

/// Appends an UNSUBSCRIBE (§3.10) of one filter at least. 3.1.1 gets no properties.
pub fn unsubscribe(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    properties: &[Property<'_>],
    filters: &[&str],
) {
    let payload = filters.iter().map(|filter| write::data_len(filter.as_bytes())).sum();
    let fits = filters.iter().all(|filter| write::fits(filter.as_bytes()));
    if fits && filters_head(out, 0xA2, version, packet_id, properties, payload) {
        for filter in filters {
            write::data(out, filter.as_bytes());
        }
    }
}

fn filters_head(
    out: &mut Vec<u8>,
    first: u8,
    version: Version,
    packet_id: u16,
    properties: &[Property<'_>],
    payload: usize,
) -> bool {
    let items = items_len(properties);
    let block = if version == Version::V5 { block_len(items) } else { 0 };
    if !write::header(out, first, 2 + block + payload) {
        return false;
    }
    out.extend_from_slice(&packet_id.to_be_bytes());
    if version == Version::V5 {
        write_block(out, items, properties);
    }
    true
}

/// Appends a PINGREQ (§3.12).
pub fn pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xC0, 0]);
}

/// Appends a client's DISCONNECT (§3.14); 3.1.1 has no reasons and no properties.
pub fn client_disconnect(
    out: &mut Vec<u8>,
    version: Version,
    reason: ReasonCode,
    properties: &[Property<'_>],
) {
    match version {
        Version::V311 => out.extend_from_slice(&[0xE0, 0]),
        Version::V5 => reason_and_properties(out, 0xE0, reason, properties),
    }
}
