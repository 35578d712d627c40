//! Packets that a server sends. Each is appended to what is in the buffer already.
//!
//! A function appends a whole packet or, where no packet can hold what it is given, nothing: a text
//! over 65,535 bytes or a body over 268,435,455. A single property that does not fit is left out,
//! by the rule of [`PropertiesBuf`](super::PropertiesBuf).

use super::property::{block_len, items_len, write_items};
use super::read::MAX_VARIABLE;
use super::{Property, QoS, ReasonCode, Version, write};

/// Longest packet, in bytes with its fixed header (§2.1.4).
pub const MAX_FRAME: usize = 5 + MAX_VARIABLE as usize;

/// Everything of a PUBLISH but properties and payload (§3.3).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct PublishHeader<'a> {
    /// It may have been sent before; only above QoS 0.
    pub dup: bool,
    /// How often it may arrive.
    pub qos: QoS,
    /// It is to be kept, or has been kept, for later subscribers.
    pub retain: bool,
    /// A topic name of up to 65,535 bytes. Only with a topic alias it is empty.
    pub topic: &'a str,
    /// Not 0, and written only above QoS 0.
    pub packet_id: u16,
}

/// The four packets that acknowledge a message, by their number (§2.1.2).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AckKind {
    /// A QoS 1 message is taken.
    PubAck = 4,
    /// A QoS 2 message is received.
    PubRec = 5,
    /// A QoS 2 message is released.
    PubRel = 6,
    /// A QoS 2 message is complete.
    PubComp = 7,
}

impl AckKind {
    const fn first(self) -> u8 {
        let flags = if matches!(self, Self::PubRel) { 2 } else { 0 };
        (self as u8) << 4 | flags
    }
}

/// Appends a CONNACK (§3.2). A refusal never says that a session is present (§3.2.2.1.1).
pub fn connack(
    out: &mut Vec<u8>,
    version: Version,
    session_present: bool,
    reason: ReasonCode,
    properties: &[Property<'_>],
) {
    let present = u8::from(session_present && !reason.is_error());
    match version {
        Version::V311 => out.extend_from_slice(&[0x20, 2, present, v311_return_code(reason)]),
        Version::V5 => {
            let items = items_len(properties);
            if write::header(out, 0x20, 2 + block_len(items)) {
                out.extend_from_slice(&[present, reason.0]);
                write_block(out, items, properties);
            }
        }
    }
}

/// What a 3.1.1 client is told (MQTT 3.1.1 §3.2.2.3), 0 to 5. A refusal that 3.1.1 has no code for
/// is 3, server unavailable.
pub const fn v311_return_code(reason: ReasonCode) -> u8 {
    match reason {
        code if !code.is_error() => 0,
        ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => 1,
        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => 2,
        ReasonCode::BAD_USER_NAME_OR_PASSWORD | ReasonCode::BAD_AUTHENTICATION_METHOD => 4,
        ReasonCode::NOT_AUTHORIZED | ReasonCode::BANNED => 5,
        _ => 3,
    }
}

/// Appends a PUBLISH (§3.3), from either side. `raw_properties` are those of
/// [`Properties::raw`](super::Properties::raw), and `extra` goes after them; 3.1.1 gets neither.
pub fn publish(
    out: &mut Vec<u8>,
    version: Version,
    header: PublishHeader<'_>,
    raw_properties: &[u8],
    extra: &[Property<'_>],
    payload: &[u8],
) {
    let PublishHeader { dup, qos, retain, topic, packet_id } = header;
    let items = raw_properties.len() + items_len(extra);
    let length = publish_body_len(version, topic.len(), qos, items, payload.len());
    let has_id = qos != QoS::AtMostOnce;
    let first = 0x30 | u8::from(dup && has_id) << 3 | (qos as u8) << 1 | u8::from(retain);
    if !write::fits(topic.as_bytes()) || !write::header(out, first, length) {
        return;
    }
    write::data(out, topic.as_bytes());
    if has_id {
        out.extend_from_slice(&packet_id.to_be_bytes());
    }
    if version == Version::V5 {
        write_length(out, items);
        out.extend_from_slice(raw_properties);
        write_items(out, extra);
    }
    out.extend_from_slice(payload);
}

/// Bytes of the packet that [`publish`] appends, with its fixed header: what a client's maximum
/// packet size counts (§3.1.2.11.4). Over [`MAX_FRAME`] or with a topic over 65,535 bytes nothing
/// is appended.
pub fn publish_len(
    version: Version,
    topic_len: usize,
    qos: QoS,
    raw_properties_len: usize,
    extra: &[Property<'_>],
    payload_len: usize,
) -> usize {
    let items = raw_properties_len + items_len(extra);
    let length = publish_body_len(version, topic_len, qos, items, payload_len);
    1 + write::variable_len(length) + length
}

fn publish_body_len(
    version: Version,
    topic_len: usize,
    qos: QoS,
    items: usize,
    payload_len: usize,
) -> usize {
    let id = if qos == QoS::AtMostOnce { 0 } else { 2 };
    let properties = if version == Version::V5 { block_len(items) } else { 0 };
    2 + topic_len + id + properties + payload_len
}

/// Appends a PUBACK, PUBREC, PUBREL or PUBCOMP (§3.4 to §3.7), from either side. Success is said by
/// leaving the reason out, and 3.1.1 has none.
pub fn ack(out: &mut Vec<u8>, version: Version, kind: AckKind, packet_id: u16, reason: ReasonCode) {
    let [high, low] = packet_id.to_be_bytes();
    if version == Version::V311 || reason == ReasonCode::SUCCESS {
        out.extend_from_slice(&[kind.first(), 2, high, low]);
    } else {
        out.extend_from_slice(&[kind.first(), 3, high, low, reason.0]);
    }
}

/// Appends a SUBACK (§3.9) with a code for every filter. 3.1.1 gets 0x80 for every error.
pub fn suback(out: &mut Vec<u8>, version: Version, packet_id: u16, codes: &[ReasonCode]) {
    let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
    if write::header(out, 0x90, 2 + properties.len() + codes.len()) {
        out.extend_from_slice(&packet_id.to_be_bytes());
        out.extend_from_slice(properties);
        out.extend(codes.iter().map(|code| match version {
            Version::V311 if code.is_error() => ReasonCode::UNSPECIFIED_ERROR.0,
            _ => code.0,
        }));
    }
}

/// Appends an UNSUBACK (§3.11) with a code for every filter; in 3.1.1 it has none.
pub fn unsuback(out: &mut Vec<u8>, version: Version, packet_id: u16, codes: &[ReasonCode]) {
    let [high, low] = packet_id.to_be_bytes();
    match version {
        Version::V311 => out.extend_from_slice(&[0xB0, 2, high, low]),
        Version::V5 => {
            if write::header(out, 0xB0, 3 + codes.len()) {
                out.extend_from_slice(&[high, low, 0]);
                out.extend(codes.iter().map(|code| code.0));
            }
        }
    }
}

/// Appends a PINGRESP (§3.13).
pub fn pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xD0, 0]);
}

/// Appends a DISCONNECT (§3.14). In 3.1.1 a server has none, and nothing is appended.
pub fn disconnect(
    out: &mut Vec<u8>,
    version: Version,
    reason: ReasonCode,
    properties: &[Property<'_>],
) {
    if version == Version::V5 {
        reason_and_properties(out, 0xE0, reason, properties);
    }
}

/// Appends an AUTH (§3.15), from either side; only v5 has it.
pub fn auth(out: &mut Vec<u8>, reason: ReasonCode, properties: &[Property<'_>]) {
    reason_and_properties(out, 0xF0, reason, properties);
}

/// §3.14.2.1 and §3.15.2.1: success without properties is said by an empty body.
pub(super) fn reason_and_properties(
    out: &mut Vec<u8>,
    first: u8,
    reason: ReasonCode,
    properties: &[Property<'_>],
) {
    let items = items_len(properties);
    if reason == ReasonCode::SUCCESS && items == 0 {
        out.extend_from_slice(&[first, 0]);
    } else if write::header(out, first, 1 + block_len(items)) {
        out.push(reason.0);
        write_block(out, items, properties);
    }
}

/// The length of properties. What is too long for it is refused with the packet around it.
pub(super) fn write_length(out: &mut Vec<u8>, items: usize) {
    write::variable(out, u32::try_from(items).unwrap_or(MAX_VARIABLE));
}

pub(super) fn write_block(out: &mut Vec<u8>, items: usize, properties: &[Property<'_>]) {
    write_length(out, items);
    write_items(out, properties);
}
