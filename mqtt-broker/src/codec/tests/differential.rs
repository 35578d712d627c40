//! The same bytes read by `mqtt-proto`: the same packets come out of them, but for the differences
//! that are listed here.

use super::{packet, samples};
use crate::codec::{
    DecodeError, Packet, Properties, Property, ReasonCode, ServerPacket, TopicFilter, Version,
};
use mqtt_proto::{v3, v5};
use proptest::prelude::*;

/// What `mqtt-proto` takes and this codec refuses, with the rule that is broken.
const ONLY_THEIRS: [(DecodeError, Version, &[u8]); 14] = [
    // §2.1.4: a packet ends where its length says. They leave what follows the last field unread.
    (
        DecodeError::Malformed("the packet has bytes after its last field"),
        Version::V311,
        &[0x40, 3, 0, 1, 2],
    ),
    // §1.5.4, MQTT-1.5.4-2. They look for U+0000 in topics alone.
    (
        DecodeError::Malformed("a text holds U+0000"),
        Version::V311,
        b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01\0",
    ),
    // MQTT-3.1.2-11 and MQTT-3.1.2-13 of 3.1.1.
    (
        DecodeError::Malformed("connect flags describe a will that is not there"),
        Version::V311,
        b"\x10\x0C\0\x04MQTT\x04\x20\0\0\0\0",
    ),
    // MQTT-3.1.2-22 of 3.1.1.
    (
        DecodeError::Malformed("MQTT 3.1.1 has no password without a user name"),
        Version::V311,
        b"\x10\x0E\0\x04MQTT\x04\x40\0\0\0\0\0\0",
    ),
    // MQTT-4.7.3-1.
    (DecodeError::TopicName, Version::V311, &[0x30, 2, 0, 0]),
    // §3.3.2.1 with MQTT-4.7.3-1.
    (
        DecodeError::Protocol("a PUBLISH has neither a topic nor an alias"),
        Version::V5,
        &[0x30, 3, 0, 0, 0],
    ),
    // MQTT-3.3.2-8.
    (DecodeError::TopicAlias, Version::V5, b"\x30\x07\0\x01a\x03\x23\0\0"),
    // MQTT-3.3.1-2.
    (
        DecodeError::Malformed("a PUBLISH of QoS 0 is marked as a duplicate"),
        Version::V311,
        b"\x38\x03\0\x01a",
    ),
    // MQTT-3.2.2-6.
    (DecodeError::Protocol("a refused connection has no session"), Version::V311, &[0x20, 2, 1, 2]),
    // §3.2.2.3.3.
    (
        DecodeError::Protocol("a receive maximum is not 0"),
        Version::V5,
        &[0x20, 6, 0, 0, 3, 0x21, 0, 0],
    ),
    // §3.2.2.3.6.
    (
        DecodeError::Protocol("a maximum packet size is not 0"),
        Version::V5,
        &[0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 0],
    ),
    // MQTT-3.8.3-4.
    (
        DecodeError::Protocol("a shared subscription has the option no-local"),
        Version::V5,
        b"\x82\x10\0\x01\0\0\x0A$share/g/a\x04",
    ),
    // MQTT-3.8.3-2 with MQTT-3.9.3-1.
    (
        DecodeError::Protocol("an answer to topic filters has no reason codes"),
        Version::V5,
        &[0x90, 3, 0, 1, 0],
    ),
    // §3.14.2: they have one DISCONNECT, in which a client's reason goes with a server's property.
    (
        DecodeError::Protocol("a property is sent by the wrong side"),
        Version::V5,
        b"\xE0\x06\x04\x04\x1C\0\x01a",
    ),
];

/// What this codec takes and `mqtt-proto` refuses.
fn only_ours(why: &str) -> bool {
    // One invalid filter refuses one subscription (§3.9.3) and is left to the broker.
    why.contains("InvalidTopicFilter")
        // A message for several subscriptions has an identifier of each (MQTT-3.3.4-4).
        || why == "DuplicatedProperty(SubscriptionIdentifier)"
        // The receiver may look at the payload (§3.3.2.3.2), and need not.
        || why == "InvalidPayloadFormat"
        // A server without v5 refuses it in the words of 3.1.1.
        || why == "InvalidReasonCode(Connack, 1)"
        // Bad authentication method, which the table of §2.4 gives to DISCONNECT.
        || why == "InvalidReasonCode(Disconnect, 140)"
}

/// Errors that say no more than that the packet belongs to the other side.
fn is_of_other_side(error: &DecodeError) -> bool {
    matches!(
        error,
        DecodeError::Protocol(
            "this packet is sent by servers only" | "this packet is sent by clients only"
        )
    )
}

/// A packet apart from its properties, and those in an order of their own: theirs have one too.
type Content<'a> = (String, Vec<Vec<Property<'a>>>);

/// Theirs are packets of both sides at once.
fn ours(bytes: &[u8], version: Version) -> Result<Content<'_>, Vec<DecodeError>> {
    match (super::decode(bytes, version), super::decode_server(bytes, version)) {
        (Ok(packet), _) => Ok(content(packet)),
        (_, Ok(packet)) => Ok(server_content(packet)),
        (Err(client), Err(server)) => {
            let mut errors = vec![client, server];
            errors.retain(|error| !is_of_other_side(error));
            Err(errors)
        }
    }
}

fn sorted<'a>(properties: &mut Properties<'a>) -> Vec<Property<'a>> {
    let mut all: Vec<_> = std::mem::take(properties).iter().collect();
    all.sort_by_key(|property| property.id() as u8);
    all
}

fn content(mut packet: Packet<'_>) -> Content<'_> {
    let properties = match &mut packet {
        Packet::Connect(connect) => {
            let will = connect.will.as_mut().map(|will| sorted(&mut will.properties));
            [Some(sorted(&mut connect.properties)), will].into_iter().flatten().collect()
        }
        Packet::Publish(publish) => vec![sorted(&mut publish.properties)],
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            vec![sorted(&mut ack.properties)]
        }
        Packet::Subscribe(subscribe) => vec![sorted(&mut subscribe.properties)],
        Packet::Unsubscribe(unsubscribe) => vec![sorted(&mut unsubscribe.properties)],
        Packet::PingReq => vec![],
        Packet::Disconnect(disconnect) => vec![sorted(&mut disconnect.properties)],
        Packet::Auth(auth) => vec![sorted(&mut auth.properties)],
    };
    let password = match &packet {
        Packet::Connect(connect) => connect.password,
        _ => None,
    };
    (format!("{packet:?} {password:?}"), properties)
}

fn server_content(mut packet: ServerPacket<'_>) -> Content<'_> {
    let properties = match &mut packet {
        ServerPacket::ConnAck { properties, .. }
        | ServerPacket::SubAck { properties, .. }
        | ServerPacket::UnsubAck { properties, .. } => sorted(properties),
        ServerPacket::Publish(publish) => sorted(&mut publish.properties),
        ServerPacket::PubAck(ack)
        | ServerPacket::PubRec(ack)
        | ServerPacket::PubRel(ack)
        | ServerPacket::PubComp(ack) => sorted(&mut ack.properties),
        ServerPacket::PingResp => vec![],
        ServerPacket::Disconnect(disconnect) => sorted(&mut disconnect.properties),
        ServerPacket::Auth(auth) => sorted(&mut auth.properties),
    };
    (format!("{packet:?}"), vec![properties])
}

/// What they have read, as they write it.
fn theirs(bytes: &[u8], version: Version) -> Result<Vec<u8>, String> {
    let written = match version {
        Version::V311 => v3::Packet::decode(bytes)
            .map_err(|error| format!("{error:?}"))?
            .map(|packet| packet.encode().unwrap()),
        Version::V5 => v5::Packet::decode(bytes)
            .map_err(|error| format!("{error:?}"))?
            .map(|packet| packet.encode().unwrap()),
    };
    written.map(|bytes| bytes.as_ref().to_vec()).ok_or_else(|| "cut".to_owned())
}

/// `None` if both say the same or the difference is listed.
fn difference(bytes: &[u8], version: Version) -> Option<String> {
    // Theirs are told the version of a CONNECT; ours read it.
    let body = super::frame(bytes).body;
    let version = match (bytes[0], body.get(6)) {
        (0x10, Some(5)) => Version::V5,
        (0x10, _) => Version::V311,
        _ => version,
    };
    let excused = match (ours(bytes, version), theirs(bytes, version)) {
        (Ok(read), Ok(written)) => {
            // The failure of a 3.1.1 SUBACK is 0x80 (§3.9.3 there). They read it and write 3.
            let fails = version == Version::V311 && bytes[0] == 0x90 && body.contains(&0x80);
            fails || ours(&written, version).as_ref() == Ok(&read)
        }
        (Err(_), Err(_)) => true,
        (Ok(_), Err(why)) => only_ours(&why),
        (Err(errors), Ok(_)) => errors.iter().all(|error| {
            let unfit = "a packet has a reason code that is not one of its own";
            // A DISCONNECT may be wrong for either side, and for each in another way.
            (bytes[0] == 0xE0 && *error == DecodeError::Protocol(unfit))
                || ONLY_THEIRS.iter().any(|(listed, ..)| listed == error)
        }),
    };
    if excused {
        return None;
    }
    let (ours, theirs) = (ours(bytes, version), theirs(bytes, version));
    Some(format!("{version:?} {bytes:02x?}\n ours: {ours:?}\n theirs: {theirs:?}"))
}

#[test]
fn the_listed_differences_are_there() {
    for (error, version, bytes) in ONLY_THEIRS {
        assert!(theirs(bytes, version).is_ok(), "{error}");
        assert!(ours(bytes, version).is_err_and(|errors| errors.contains(&error)), "{error}");
    }
    let of_message: &[u8] = b"\x30\x09\0\x01a\x04\x0B\x01\x0B\x02x";
    for (version, bytes) in [
        (Version::V311, &b"\x82\x07\0\x01\0\x02a#\0"[..]),
        (Version::V5, of_message),
        (Version::V5, b"\x30\x07\0\x01a\x02\x01\x01\xFF"),
        (Version::V5, &[0xE0, 1, ReasonCode::BAD_AUTHENTICATION_METHOD.0]),
    ] {
        assert!(ours(bytes, version).is_ok(), "{bytes:x?}");
        assert!(
            theirs(bytes, version)
                .is_err_and(|why| only_ours(&why) || why.starts_with("Common(Inv")),
            "{bytes:x?}"
        );
    }
}

#[test]
fn samples_are_read_alike() {
    for (version, bytes) in samples::client_packets().into_iter().chain(samples::server_packets()) {
        assert_eq!(difference(&bytes, version), None);
    }
}

#[derive(Clone, Debug)]
enum Edit {
    First(u8),
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Cut(prop::sample::Index),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let byte = || prop_oneof![0_u8..8, any::<u8>()];
    let at = any::<prop::sample::Index>;
    let edit = prop_oneof![
        1 => any::<u8>().prop_map(Edit::First),
        6 => (at(), byte()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        2 => (at(), byte()).prop_map(|(at, byte)| Edit::Insert(at, byte)),
        2 => at().prop_map(Edit::Remove),
        1 => at().prop_map(Edit::Cut),
    ];
    prop::collection::vec(edit, 1..4)
}

fn edited(bytes: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut first = bytes[0];
    let mut body = super::frame(bytes).body.to_vec();
    for edit in edits {
        let len = body.len();
        match edit {
            Edit::First(byte) => first = *byte,
            Edit::Insert(at, byte) => body.insert(at.index(len + 1), *byte),
            _ if len == 0 => {}
            Edit::Set(at, byte) => body[at.index(len)] = *byte,
            Edit::Remove(at) => drop(body.remove(at.index(len))),
            Edit::Cut(at) => body.truncate(at.index(len)),
        }
    }
    packet(first, &body)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn damaged_samples_are_read_alike(sample: prop::sample::Index, edits in edits()) {
        thread_local! {
            static SAMPLES: Vec<(Version, Vec<u8>)> =
                [samples::client_packets(), samples::server_packets()].concat();
        }
        let (version, bytes) = SAMPLES.with(|all| sample.get(all).clone());
        prop_assert_eq!(difference(&edited(&bytes, &edits), version), None);
    }

    #[test]
    fn short_packets_are_read_alike(
        first: u8,
        body in prop::collection::vec(prop_oneof![3 => 0_u8..5, 1 => any::<u8>()], 0..12),
        v5: bool,
    ) {
        let version = if v5 { Version::V5 } else { Version::V311 };
        prop_assert_eq!(difference(&packet(first, &body), version), None);
    }

    #[test]
    fn filters_are_read_alike(text in "(\\$share/)?[ab$/+#\0é]{0,8}") {
        let ours = TopicFilter::parse(&text);
        let theirs = mqtt_proto::TopicFilter::try_from(&*text);
        // MQTT-4.7.1-2: `+` has a level for itself. They do not look at the end of the last one.
        let tail = text.rsplit('/').next().is_some_and(|l| l.starts_with('+') && l.len() > 1);
        prop_assert_eq!(ours.is_some(), theirs.is_ok() && !tail);
        if let (Some(ours), Ok(theirs)) = (ours, theirs) {
            prop_assert_eq!(ours.share, theirs.shared_group_name());
            prop_assert_eq!(ours.filter, theirs.shared_filter().unwrap_or(&text));
        }
    }
}
