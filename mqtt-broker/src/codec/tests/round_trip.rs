//! What is written is what is read.

use super::samples::{self, MESSAGE};
use super::{VERSIONS, decode};
use crate::codec::{
    AckKind, Connect, MAX_FRAME, Packet, Properties, PropertiesBuf, Property, PublishHeader, QoS,
    ReasonCode, Version, ack, auth, connack, connect, disconnect, publish, publish_len, subscribe,
    unsubscribe, v311_return_code,
};
use proptest::prelude::*;

#[test]
fn every_packet_is_read_as_it_was_written() {
    assert_eq!(samples::client_packets().len(), 39);
    assert_eq!(samples::server_packets().len(), 37);
}

#[test]
fn packets_have_the_bytes_of_the_specification() {
    let mut out = Vec::new();
    connack(&mut out, Version::V311, true, ReasonCode::SUCCESS, &[]);
    assert_eq!(out, [0x20, 2, 1, 0]);
    out.clear();
    connack(&mut out, Version::V5, false, ReasonCode::SUCCESS, &[Property::ReceiveMaximum(258)]);
    assert_eq!(out, [0x20, 6, 0, 0, 3, 0x21, 1, 2]);
    out.clear();
    ack(&mut out, Version::V5, AckKind::PubRel, 258, ReasonCode::SUCCESS);
    ack(&mut out, Version::V5, AckKind::PubComp, 258, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
    ack(&mut out, Version::V311, AckKind::PubRec, 258, ReasonCode::QUOTA_EXCEEDED);
    assert_eq!(out, [0x62, 2, 1, 2, 0x70, 3, 1, 2, 0x92, 0x50, 2, 1, 2]);
    out.clear();
    disconnect(&mut out, Version::V311, ReasonCode::SERVER_BUSY, &[]);
    assert!(out.is_empty());
    disconnect(&mut out, Version::V5, ReasonCode::SERVER_BUSY, &[]);
    assert_eq!(out, [0xE0, 2, 0x89, 0]);
    out.clear();
    auth(&mut out, ReasonCode::SUCCESS, &[]);
    assert_eq!(out, [0xF0, 0]);
    out.clear();
    // MQTT 5 §3.1.2.12 with the name and level of §3.1.2.1 and §3.1.2.2.
    let packet = Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 10,
        client_id: "",
        properties: Properties::default(),
        will: None,
        user_name: None,
        password: None,
    };
    connect(&mut out, &packet);
    assert_eq!(out, [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 10, 0, 0, 0]);
}

#[test]
fn refusals_are_told_in_the_words_of_3_1_1() {
    for (reason, code) in [
        (ReasonCode::SUCCESS, 0),
        (ReasonCode::UNSUPPORTED_PROTOCOL_VERSION, 1),
        (ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, 2),
        (ReasonCode::SERVER_BUSY, 3),
        (ReasonCode::UNSPECIFIED_ERROR, 3),
        (ReasonCode::BAD_USER_NAME_OR_PASSWORD, 4),
        (ReasonCode::NOT_AUTHORIZED, 5),
        (ReasonCode::BANNED, 5),
    ] {
        assert_eq!(v311_return_code(reason), code, "{reason}");
    }
}

#[test]
fn what_no_packet_can_hold_is_not_written() {
    let long = "x".repeat(65_536);
    let mut out = Vec::new();
    for version in VERSIONS {
        let header = PublishHeader { topic: &long, ..samples::header(QoS::AtMostOnce) };
        publish(&mut out, version, header, &[], &[], b"");
        let packet = Connect {
            version,
            clean_start: true,
            keep_alive: 0,
            client_id: "c",
            properties: Properties::default(),
            will: None,
            user_name: Some(&long),
            password: None,
        };
        connect(&mut out, &packet);
        subscribe(
            &mut out,
            version,
            1,
            &[],
            &[("a", samples::options()), (&long, samples::options())],
        );
        unsubscribe(&mut out, version, 1, &[], &["a", &long]);
    }
    assert!(out.is_empty());
    connack(
        &mut out,
        Version::V5,
        false,
        ReasonCode::SUCCESS,
        &[
            Property::ReasonString(&long),
            Property::MaximumQos(QoS::ExactlyOnce),
            Property::UserProperty("a\0", "b"),
        ],
    );
    assert_eq!(out, [0x20, 3, 0, 0, 0]);
    let buf: PropertiesBuf =
        [Property::ReasonString(&long), Property::TopicAlias(1)].into_iter().collect();
    assert!(buf.as_properties().iter().eq([Property::TopicAlias(1)]));
}

#[test]
fn secrets_are_not_in_what_is_printed() {
    let properties: PropertiesBuf =
        [Property::AuthenticationMethod("SCRAM"), Property::AuthenticationData(b"\x41\x42")]
            .into_iter()
            .collect();
    let packet = Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 0,
        client_id: "c",
        properties: properties.as_properties(),
        will: None,
        user_name: Some("u"),
        password: Some(b"\x41\x42"),
    };
    let printed = format!("{packet:?} {properties:?}");
    assert!(!printed.contains("65, 66") && printed.contains("SCRAM"), "{printed}");
}

#[test]
fn the_length_of_a_publish_is_known_before_it_is_written() {
    let raw: PropertiesBuf = MESSAGE.iter().copied().collect();
    let raw = raw.as_properties().raw();
    let extra = [Property::SubscriptionIdentifier(300)];
    for version in VERSIONS {
        for qos in [QoS::AtMostOnce, QoS::ExactlyOnce] {
            for size in [0, 100, 127, 128, 16_383, 2_097_152] {
                let header = samples::header(qos);
                let payload = vec![7; size];
                let mut out = Vec::new();
                publish(&mut out, version, header, raw, &extra, &payload);
                let len = publish_len(version, header.topic.len(), qos, raw.len(), &extra, size);
                assert_eq!(out.len(), len);
            }
        }
    }
    assert!(publish_len(Version::V311, 1, QoS::AtMostOnce, 0, &[], 268_435_452) == MAX_FRAME);
}

#[test]
fn a_publish_may_name_its_topic_by_alias_alone() {
    let header = PublishHeader { topic: "", ..samples::header(QoS::AtLeastOnce) };
    let mut out = Vec::new();
    publish(&mut out, Version::V5, header, &[], &[Property::TopicAlias(3)], b"x");
    let Ok(Packet::Publish(read)) = decode(&out, Version::V5) else { panic!("{out:x?}") };
    assert_eq!((read.topic, read.properties.topic_alias()), ("", Some(3)));
}

proptest! {
    #[test]
    fn any_publish_is_read_as_it_was_written(
        v5: bool,
        (dup, retain, qos) in (any::<bool>(), any::<bool>(), 0_u8..3),
        topic in "[^+#\0]{1,40}",
        id in 1..=u16::MAX,
        user in proptest::collection::vec(("[^\0]{0,20}", "[^\0]{0,20}"), 0..4),
        expiry: Option<u32>,
        data: Option<Vec<u8>>,
        payload: Vec<u8>,
    ) {
        let version = if v5 { Version::V5 } else { Version::V311 };
        let qos = QoS::from_bits(qos).unwrap();
        let has_id = qos != QoS::AtMostOnce;
        let header = PublishHeader {
            dup: dup && has_id,
            qos,
            retain,
            topic: &topic,
            packet_id: if has_id { id } else { 0 },
        };
        let mut extra: Vec<_> =
            user.iter().map(|(name, value)| Property::UserProperty(name, value)).collect();
        extra.extend(expiry.map(Property::MessageExpiry));
        extra.extend(data.as_deref().map(Property::CorrelationData));
        let mut out = Vec::new();
        publish(&mut out, version, header, &[], &extra, &payload);
        let Ok(Packet::Publish(read)) = decode(&out, version) else {
            return Err(TestCaseError::fail("refused"));
        };
        prop_assert_eq!(
            (read.dup, read.qos, read.retain, read.topic, read.packet_id, read.payload),
            (header.dup, qos, retain, &*topic, header.packet_id, &*payload)
        );
        if v5 {
            prop_assert!(read.properties.iter().eq(extra.iter().copied()));
            prop_assert_eq!(read.properties.message_expiry(), expiry);
            prop_assert_eq!(read.properties.correlation_data(), data.as_deref());
            let pairs = user.iter().map(|(name, value)| (&**name, &**value));
            prop_assert!(read.properties.user_properties().eq(pairs));
            let items: Vec<u8> =
                read.properties.raw_items().flat_map(|(_, item)| item).copied().collect();
            prop_assert_eq!(&*items, read.properties.raw());
        } else {
            prop_assert!(read.properties.is_empty());
        }
    }
}
