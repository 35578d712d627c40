//! What is no packet, and what the other side is told about it.

use super::{decode, decode_server, packet};
use crate::codec::Version::{V5, V311};
use crate::codec::{DecodeError, ReasonCode, Version};

const MALFORMED: ReasonCode = ReasonCode::MALFORMED_PACKET;
const PROTOCOL: ReasonCode = ReasonCode::PROTOCOL_ERROR;
const TOPIC: ReasonCode = ReasonCode::TOPIC_NAME_INVALID;

type Row<'a> = (&'a str, Version, u8, &'a [u8], ReasonCode);

fn refused(rows: &[Row<'_>]) {
    for (what, version, first, body, reason) in rows {
        let bytes = packet(*first, body);
        let told = decode(&bytes, *version).map_err(DecodeError::reason);
        assert_eq!(told.as_ref().err(), Some(reason), "{what}: {bytes:x?} is {told:?}");
    }
}

fn refused_from_server(rows: &[Row<'_>]) {
    for (what, version, first, body, reason) in rows {
        let bytes = packet(*first, body);
        let told = decode_server(&bytes, *version).map_err(DecodeError::reason);
        assert_eq!(told.as_ref().err(), Some(reason), "{what}: {bytes:x?} is {told:?}");
    }
}

#[test]
fn fixed_headers() {
    refused(&[
        ("type 0", V5, 0x00, &[], MALFORMED),
        ("CONNACK from a client", V5, 0x20, &[0, 0, 0], PROTOCOL),
        ("SUBACK from a client", V311, 0x90, &[0, 1, 0], PROTOCOL),
        ("UNSUBACK from a client", V311, 0xB0, &[0, 1], PROTOCOL),
        ("PINGRESP from a client", V311, 0xD0, &[], PROTOCOL),
        ("AUTH in 3.1.1", V311, 0xF0, &[], PROTOCOL),
        ("CONNECT flags", V5, 0x11, b"\0\x04MQTT\x05\x02\0\0\0\0\0", MALFORMED),
        ("PUBACK flags", V5, 0x41, &[0, 1], MALFORMED),
        ("PUBREC flags", V5, 0x52, &[0, 1], MALFORMED),
        ("PUBREL flags", V5, 0x60, &[0, 1], MALFORMED),
        ("PUBCOMP flags", V311, 0x74, &[0, 1], MALFORMED),
        ("SUBSCRIBE flags", V311, 0x80, b"\0\x01\0\x01a\0", MALFORMED),
        ("UNSUBSCRIBE flags", V311, 0xA3, b"\0\x01\0\x01a", MALFORMED),
        ("PINGREQ flags", V311, 0xC8, &[], MALFORMED),
        ("PINGREQ with a body", V5, 0xC0, &[0], MALFORMED),
        ("DISCONNECT flags", V311, 0xE1, &[], MALFORMED),
        ("AUTH flags", V5, 0xF2, &[], MALFORMED),
    ]);
}

#[test]
fn connects() {
    const V5_PLAIN: &[u8] = b"\0\x04MQTT\x05\x02\0\0\0\0\0";
    assert!(decode(&packet(0x10, V5_PLAIN), V311).is_ok());
    refused(&[
        ("empty", V5, 0x10, b"", MALFORMED),
        ("without client identifier", V5, 0x10, b"\0\x04MQTT\x04\x02\0\0", MALFORMED),
        ("reserved flag", V5, 0x10, b"\0\x04MQTT\x04\x03\0\0\0\0", MALFORMED),
        ("will QoS without will", V5, 0x10, b"\0\x04MQTT\x04\x0A\0\0\0\0", MALFORMED),
        ("will retain without will", V5, 0x10, b"\0\x04MQTT\x04\x22\0\0\0\0", MALFORMED),
        ("will QoS 3", V5, 0x10, b"\0\x04MQTT\x04\x1E\0\0\0\0\0\x01a\0\0", MALFORMED),
        ("will without topic", V5, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\0\0\0\0\0", TOPIC),
        ("will to a wildcard", V5, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\0\0\x01#\0\0", TOPIC),
        ("will without payload", V5, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\0\0\x01a", MALFORMED),
        ("3.1.1 password alone", V5, 0x10, b"\0\x04MQTT\x04\x42\0\0\0\0\0\x01p", MALFORMED),
        ("without the user name", V5, 0x10, b"\0\x04MQTT\x04\x82\0\0\0\0", MALFORMED),
        ("bytes at the end", V5, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\0x", MALFORMED),
        ("client identifier not UTF-8", V5, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01\xFF", MALFORMED),
        ("client identifier with NUL", V5, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01\0", MALFORMED),
        ("receive maximum 0", V5, 0x10, b"\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\0", PROTOCOL),
        (
            "maximum packet size 0",
            V5,
            0x10,
            b"\0\x04MQTT\x05\x02\0\0\x05\x27\0\0\0\0\0\0",
            PROTOCOL,
        ),
        ("a flag of 2", V5, 0x10, b"\0\x04MQTT\x05\x02\0\0\x02\x17\x02\0\0", PROTOCOL),
        ("data without method", V5, 0x10, b"\0\x04MQTT\x05\x02\0\0\x04\x16\0\x01x\0\0", PROTOCOL),
        ("a topic alias", V5, 0x10, b"\0\x04MQTT\x05\x02\0\0\x03\x23\0\x01\0\0", MALFORMED),
        ("will delay", V5, 0x10, b"\0\x04MQTT\x05\x02\0\0\x05\x18\0\0\0\x01\0\0", MALFORMED),
        (
            "session expiry twice",
            V5,
            0x10,
            b"\0\x04MQTT\x05\x02\0\0\x0A\x11\0\0\0\x01\x11\0\0\0\x01\0\0",
            PROTOCOL,
        ),
        (
            "subscription identifier in a will",
            V5,
            0x10,
            b"\0\x04MQTT\x05\x06\0\0\0\0\0\x02\x0B\x01\0\x01a\0\0",
            MALFORMED,
        ),
    ]);
    // 5.0 has tokens without a user.
    assert!(decode(&packet(0x10, b"\0\x04MQTT\x05\x42\0\0\0\0\0\0\x01p"), V5).is_ok());
}

#[test]
fn versions() {
    for (body, level) in [
        (&b"\0\x06MQIsdp\x03\x02\0\0\0\x01a"[..], 3),
        (b"\0\x04MQTT\x03\x02\0\0\0\0", 3),
        (b"\0\x04MQTT\x06\x02\0\0\0\0", 6),
        (b"\0\x04MQTT\x84\x02\0\0\0\0", 0x84),
        (b"\0\x04mqtt\x04\x02\0\0\0\0", 4),
        (b"\0\0\x04\x02\0\0\0\0", 4),
    ] {
        let bytes = packet(0x10, body);
        assert_eq!(decode(&bytes, V5), Err(DecodeError::UnsupportedVersion(level)));
    }
    assert_eq!(
        DecodeError::UnsupportedVersion(3).reason(),
        ReasonCode::UNSUPPORTED_PROTOCOL_VERSION
    );
}

#[test]
fn publishes() {
    refused(&[
        ("QoS 3", V5, 0x36, b"\0\x01a\0\x01\0", MALFORMED),
        ("QoS 3 in 3.1.1", V311, 0x36, b"\0\x01a\0\x01", MALFORMED),
        ("a duplicate of QoS 0", V5, 0x38, b"\0\x01a\0", MALFORMED),
        ("a duplicate of QoS 0 in 3.1.1", V311, 0x38, b"\0\x01a", MALFORMED),
        ("identifier 0", V5, 0x32, b"\0\x01a\0\0\0", PROTOCOL),
        ("identifier 0 in 3.1.1", V311, 0x34, b"\0\x01a\0\0", PROTOCOL),
        ("without identifier", V311, 0x32, b"\0\x01a\0", MALFORMED),
        ("empty", V311, 0x30, b"", MALFORMED),
        ("without properties", V5, 0x30, b"\0\x01a", MALFORMED),
        ("a topic longer than the packet", V311, 0x30, b"\0\x05a", MALFORMED),
        ("a wildcard", V5, 0x30, b"\0\x03a/+\0", TOPIC),
        ("a wildcard in 3.1.1", V311, 0x30, b"\0\x01#", TOPIC),
        ("a topic with NUL", V311, 0x30, b"\0\x02a\0", MALFORMED),
        ("a topic with a surrogate", V311, 0x30, b"\0\x03\xED\xA0\x80", MALFORMED),
        ("no topic in 3.1.1", V311, 0x30, b"\0\0", TOPIC),
        ("no topic and no alias", V5, 0x30, b"\0\0\0", PROTOCOL),
        ("alias 0", V5, 0x30, b"\0\x01a\x03\x23\0\0", ReasonCode::TOPIC_ALIAS_INVALID),
        ("alias twice", V5, 0x30, b"\0\x01a\x06\x23\0\x01\x23\0\x01", PROTOCOL),
        ("subscription identifier", V5, 0x30, b"\0\x01a\x02\x0B\x01", PROTOCOL),
        ("unknown property", V5, 0x30, b"\0\x01a\x02\x7F\x01", MALFORMED),
        ("property of a CONNECT", V5, 0x30, b"\0\x01a\x03\x21\0\x01", MALFORMED),
        ("a property that is cut", V5, 0x30, b"\0\x01a\x02\x23\0\x01", MALFORMED),
        ("properties over the end", V5, 0x30, b"\0\x01a\x04\x23\0\x01", MALFORMED),
        ("padded property length", V5, 0x30, b"\0\x01a\x80\0", MALFORMED),
        ("payload format 2", V5, 0x30, b"\0\x01a\x02\x01\x02", PROTOCOL),
        ("response topic with a wildcard", V5, 0x30, b"\0\x01a\x04\x08\0\x01+", PROTOCOL),
        ("response topic that is empty", V5, 0x30, b"\0\x01a\x03\x08\0\0", PROTOCOL),
        ("content type not UTF-8", V5, 0x30, b"\0\x01a\x04\x03\0\x01\xC0", MALFORMED),
        ("user property with NUL", V5, 0x30, b"\0\x01a\x06\x26\0\x01\0\0\0", MALFORMED),
    ]);
}

#[test]
fn acknowledgements() {
    refused(&[
        ("identifier 0", V5, 0x40, &[0, 0], PROTOCOL),
        ("cut identifier", V5, 0x40, &[1], MALFORMED),
        ("a reason in 3.1.1", V311, 0x40, &[0, 1, 0], MALFORMED),
        ("a reason of another packet", V5, 0x40, &[0, 1, 0x92], PROTOCOL),
        ("an unknown reason", V5, 0x50, &[0, 1, 0x01], PROTOCOL),
        ("a PUBREL that fails for want of quota", V5, 0x62, &[0, 1, 0x97], PROTOCOL),
        ("bytes at the end", V5, 0x70, &[0, 1, 0, 0, 0], MALFORMED),
        ("a property of a PUBLISH", V5, 0x40, &[0, 1, 0, 2, 1, 1], MALFORMED),
    ]);
    for body in [&[0, 1][..], &[0, 1, 0x10], &[0, 1, 0, 0]] {
        assert!(decode(&packet(0x40, body), V5).is_ok(), "{body:x?}");
    }
}

#[test]
fn subscriptions() {
    refused(&[
        ("no filter", V5, 0x82, &[0, 1, 0], PROTOCOL),
        ("no filter in 3.1.1", V311, 0x82, &[0, 1], PROTOCOL),
        ("identifier 0", V311, 0x82, b"\0\0\0\x01a\0", PROTOCOL),
        ("a filter without options", V311, 0x82, b"\0\x01\0\x01a", MALFORMED),
        ("second filter cut", V311, 0x82, b"\0\x01\0\x01a\0\0\x02b", MALFORMED),
        ("QoS 3", V5, 0x82, b"\0\x01\0\0\x01a\x03", PROTOCOL),
        ("QoS 3 in 3.1.1", V311, 0x82, b"\0\x01\0\x01a\x03", PROTOCOL),
        ("no-local in 3.1.1", V311, 0x82, b"\0\x01\0\x01a\x04", MALFORMED),
        ("reserved bits", V5, 0x82, b"\0\x01\0\0\x01a\x40", MALFORMED),
        ("retain handling 3", V5, 0x82, b"\0\x01\0\0\x01a\x30", PROTOCOL),
        ("no-local when shared", V5, 0x82, b"\0\x01\0\0\x0A$share/g/a\x04", PROTOCOL),
        ("subscription identifier 0", V5, 0x82, b"\0\x01\x02\x0B\0\0\x01a\0", PROTOCOL),
        ("two identifiers", V5, 0x82, b"\0\x01\x04\x0B\x01\x0B\x02\0\x01a\0", PROTOCOL),
        (
            "an identifier of five bytes",
            V5,
            0x82,
            b"\0\x01\x06\x0B\x80\x80\x80\x80\x01\0\x01a\0",
            MALFORMED,
        ),
        ("a filter with NUL", V5, 0x82, b"\0\x01\0\0\x01\0\0", MALFORMED),
        ("UNSUBSCRIBE without filter", V5, 0xA2, &[0, 1, 0], PROTOCOL),
        ("UNSUBSCRIBE without filter in 3.1.1", V311, 0xA2, &[0, 1], PROTOCOL),
        ("UNSUBSCRIBE 0", V5, 0xA2, b"\0\0\0\0\x01a", PROTOCOL),
        ("UNSUBSCRIBE cut", V5, 0xA2, b"\0\x01\0\0\x01a\0", MALFORMED),
        ("identifier in UNSUBSCRIBE", V5, 0xA2, b"\0\x01\x02\x0B\x01\0\x01a", MALFORMED),
    ]);
}

#[test]
fn ends_and_authentications() {
    refused(&[
        ("3.1.1 DISCONNECT with a body", V311, 0xE0, &[0], MALFORMED),
        ("a server's reason", V5, 0xE0, &[0x8B], PROTOCOL),
        ("a server's property", V5, 0xE0, b"\0\x04\x1C\0\x01a", PROTOCOL),
        ("bytes at the end", V5, 0xE0, &[0, 0, 0], MALFORMED),
        ("AUTH with success", V5, 0xF0, &[], PROTOCOL),
        ("AUTH without properties", V5, 0xF0, &[0x18], MALFORMED),
        ("AUTH without method", V5, 0xF0, &[0x18, 0], PROTOCOL),
        ("AUTH with another reason", V5, 0xF0, b"\x80\x04\x15\0\x01m", PROTOCOL),
        ("AUTH with data alone", V5, 0xF0, b"\x18\x04\x16\0\x01m", PROTOCOL),
    ]);
    assert!(decode(&packet(0xE0, &[0x04]), V5).is_ok());
}

#[test]
fn servers() {
    refused_from_server(&[
        ("type 0", V5, 0, &[], MALFORMED),
        ("CONNECT", V311, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\0", PROTOCOL),
        ("SUBSCRIBE", V311, 0x82, b"\0\x01\0\x01a\0", PROTOCOL),
        ("PINGREQ", V311, 0xC0, &[], PROTOCOL),
        ("DISCONNECT in 3.1.1", V311, 0xE0, &[], PROTOCOL),
        ("reserved CONNACK flags", V311, 0x20, &[2, 0], MALFORMED),
        ("a session with a refusal", V311, 0x20, &[1, 5], PROTOCOL),
        ("reserved return code", V311, 0x20, &[0, 6], PROTOCOL),
        ("CONNACK with a byte too many", V311, 0x20, &[0, 0, 0], MALFORMED),
        ("CONNACK without properties", V5, 0x20, &[0, 0], MALFORMED),
        ("a client's property", V5, 0x20, &[0, 0, 2, 0x17, 0], MALFORMED),
        ("maximum QoS 2", V5, 0x20, &[0, 0, 2, 0x24, 2], PROTOCOL),
        ("SUBACK without codes", V5, 0x90, &[0, 1, 0], PROTOCOL),
        ("SUBACK with 3", V311, 0x90, &[0, 1, 3], PROTOCOL),
        ("SUBACK of v5 in 3.1.1", V311, 0x90, &[0, 1, 0x87], PROTOCOL),
        ("UNSUBACK with codes in 3.1.1", V311, 0xB0, &[0, 1, 0], MALFORMED),
        ("UNSUBACK without codes", V5, 0xB0, &[0, 1, 0], PROTOCOL),
        ("a session's end", V5, 0xE0, b"\0\x05\x11\0\0\0\x01", PROTOCOL),
        ("a client's reason", V5, 0xE0, &[4], PROTOCOL),
        ("subscription identifier 0", V5, 0x30, b"\0\x01a\x02\x0B\0", PROTOCOL),
        ("reauthentication", V5, 0xF0, b"\x19\x04\x15\0\x01m", PROTOCOL),
    ]);
}

#[test]
fn a_server_without_v5_says_so_in_its_own_words() {
    let bytes = packet(0x20, &[0, 1]);
    let told = decode_server(&bytes, V5);
    assert!(
        matches!(
            told,
            Ok(crate::codec::ServerPacket::ConnAck {
                reason: ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
                ..
            })
        ),
        "{told:?}"
    );
}
