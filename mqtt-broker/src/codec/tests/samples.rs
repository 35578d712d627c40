//! One packet of every kind, with everything that it can carry.

use super::VERSIONS;
use crate::codec::{
    Ack, AckKind, Auth, Connect, Disconnect, Frame, Packet, Properties, PropertiesBuf, Property,
    Publish, PublishHeader, QoS, ReasonCode, RetainHandling, ServerPacket, SubscriptionOptions,
    Version, Will, ack, auth, client_disconnect, connack, connect, disconnect, pingreq, pingresp,
    publish, suback, subscribe, unsuback, unsubscribe,
};

pub(super) const MESSAGE: &[Property<'static>] = &[
    Property::PayloadFormat(1),
    Property::MessageExpiry(60),
    Property::ContentType("text/plain"),
    Property::ResponseTopic("re/ply"),
    Property::CorrelationData(&[0, 1, 0xFF]),
    Property::UserProperty("name", "wert €"),
    Property::UserProperty("name", ""),
];

const CONNECT: &[Property<'static>] = &[
    Property::SessionExpiry(u32::MAX),
    Property::AuthenticationMethod("SCRAM"),
    Property::AuthenticationData(b"n,,n=u"),
    Property::RequestProblemInformation(false),
    Property::RequestResponseInformation(true),
    Property::ReceiveMaximum(10),
    Property::TopicAliasMaximum(16),
    Property::MaximumPacketSize(65_536),
    Property::UserProperty("a", "b"),
];

const CONNACK: &[Property<'static>] = &[
    Property::SessionExpiry(0),
    Property::AssignedClientId("auto-1"),
    Property::ServerKeepAlive(30),
    Property::AuthenticationMethod("SCRAM"),
    Property::AuthenticationData(b"v="),
    Property::ResponseInformation("re"),
    Property::ServerReference("other:1883"),
    Property::ReasonString("because"),
    Property::ReceiveMaximum(1),
    Property::TopicAliasMaximum(0),
    Property::MaximumQos(QoS::AtLeastOnce),
    Property::RetainAvailable(true),
    Property::MaximumPacketSize(1),
    Property::WildcardSubscriptionAvailable(false),
    Property::SubscriptionIdentifiersAvailable(true),
    Property::SharedSubscriptionAvailable(false),
    Property::UserProperty("", ""),
];

const AUTH: &[Property<'static>] = &[
    Property::AuthenticationMethod("SCRAM"),
    Property::AuthenticationData(b"c="),
    Property::ReasonString("step"),
    Property::UserProperty("a", "b"),
];

pub(super) fn options() -> SubscriptionOptions {
    SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::SendIfNew,
    }
}

pub(super) fn header(qos: QoS) -> PublishHeader<'static> {
    PublishHeader {
        dup: qos != QoS::AtMostOnce,
        qos,
        retain: true,
        topic: "a/b/ü",
        packet_id: if qos == QoS::AtMostOnce { 0 } else { 0x0102 },
    }
}

fn write(with: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    with(&mut out);
    out
}

fn of_version(version: Version, properties: &[Property<'static>]) -> PropertiesBuf {
    match version {
        Version::V311 => PropertiesBuf::new(),
        Version::V5 => properties.iter().copied().collect(),
    }
}

/// Checks that what a client sends is read as what was written, and returns its bytes.
fn client(version: Version, bytes: Vec<u8>, expected: &Packet<'_>) -> Vec<u8> {
    let frame = Frame::find(&bytes, bytes.len()).unwrap().unwrap();
    assert_eq!(frame.len, bytes.len());
    assert_eq!(Packet::decode(&frame, version).as_ref(), Ok(expected), "{bytes:x?}");
    bytes
}

fn server(version: Version, bytes: Vec<u8>, expected: ServerPacket<'_>) -> Vec<u8> {
    let frame = Frame::find(&bytes, bytes.len()).unwrap().unwrap();
    assert_eq!(frame.len, bytes.len());
    assert_eq!(ServerPacket::decode(&frame, version), Ok(expected), "{bytes:x?}");
    bytes
}

/// A packet of every kind that a client sends.
pub(super) fn client_packets() -> Vec<(Version, Vec<u8>)> {
    VERSIONS.into_iter().flat_map(|v| of_client(v).into_iter().map(move |b| (v, b))).collect()
}

/// A packet of every kind that a server sends.
pub(super) fn server_packets() -> Vec<(Version, Vec<u8>)> {
    VERSIONS.into_iter().flat_map(|v| of_server(v).into_iter().map(move |b| (v, b))).collect()
}

fn of_client(version: Version) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let properties = of_version(version, CONNECT);
    let mut will_properties: Vec<_> = MESSAGE.to_vec();
    will_properties.push(Property::WillDelay(5));
    let will_properties = of_version(version, &will_properties);
    let plain = Connect {
        version,
        clean_start: false,
        keep_alive: 0,
        client_id: "",
        properties: Properties::default(),
        will: None,
        user_name: None,
        password: None,
    };
    let full = Connect {
        clean_start: true,
        keep_alive: 60,
        client_id: "cam-1",
        properties: properties.as_properties(),
        will: Some(Will {
            qos: QoS::AtLeastOnce,
            retain: true,
            topic: "gone",
            properties: will_properties.as_properties(),
            payload: b"bye",
        }),
        user_name: Some("user"),
        password: Some(b"\0pass"),
        ..plain
    };
    for packet in [plain, full, Connect { user_name: Some(""), ..plain }] {
        let bytes = write(|out| connect(out, &packet));
        all.push(client(version, bytes, &Packet::Connect(Box::new(packet))));
    }
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let properties = of_version(version, MESSAGE);
        let (bytes, packet) = message(version, qos, &properties, &[]);
        all.push(client(version, bytes, &Packet::Publish(packet)));
    }
    for (kind, wrap) in [
        (AckKind::PubAck, Packet::PubAck as fn(Ack<'static>) -> Packet<'static>),
        (AckKind::PubRec, Packet::PubRec),
        (AckKind::PubRel, Packet::PubRel),
        (AckKind::PubComp, Packet::PubComp),
    ] {
        for (bytes, expected) in acks(version, kind) {
            all.push(client(version, bytes, &wrap(expected)));
        }
    }
    all.extend(of_client_filters(version));
    all.push(client(version, write(pingreq), &Packet::PingReq));
    for reason in [ReasonCode::NORMAL_DISCONNECTION, ReasonCode::DISCONNECT_WITH_WILL] {
        let reason = if version == Version::V5 { reason } else { ReasonCode::SUCCESS };
        let properties = [Property::SessionExpiry(9), Property::ReasonString("done")];
        let kept = of_version(version, &properties);
        let bytes = write(|out| client_disconnect(out, version, reason, &properties));
        let packet = Disconnect { reason, properties: kept.as_properties() };
        all.push(client(version, bytes, &Packet::Disconnect(packet)));
    }
    if version == Version::V5 {
        let kept = of_version(version, AUTH);
        let reason = ReasonCode::REAUTHENTICATE;
        let bytes = write(|out| auth(out, reason, AUTH));
        let packet = Auth { reason, properties: kept.as_properties() };
        all.push(client(version, bytes, &Packet::Auth(packet)));
    }
    all
}

fn of_client_filters(version: Version) -> Vec<Vec<u8>> {
    let properties = [Property::SubscriptionIdentifier(268_435_455), MESSAGE[5]];
    let kept = of_version(version, &properties);
    let shared = SubscriptionOptions { no_local: false, ..options() };
    let filters = [("a/+/#", options()), ("$share/g/x", shared)];
    let bytes = write(|out| subscribe(out, version, 7, &properties, &filters));
    let Ok(Packet::Subscribe(packet)) = super::decode(&bytes, version) else {
        panic!("not a SUBSCRIBE: {bytes:x?}")
    };
    assert_eq!((packet.packet_id, packet.properties), (7, kept.as_properties()));
    let read: Vec<_> = packet.filters().collect();
    match version {
        Version::V5 => assert_eq!(read, filters),
        Version::V311 => {
            let plain = SubscriptionOptions::of_qos(QoS::ExactlyOnce);
            assert_eq!(read, filters.map(|(filter, _)| (filter, plain)));
        }
    }

    let kept = of_version(version, &properties[1..]);
    let filters = ["a/+/#", "b"];
    let other = write(|out| unsubscribe(out, version, 8, &properties[1..], &filters));
    let Ok(Packet::Unsubscribe(packet)) = super::decode(&other, version) else {
        panic!("not an UNSUBSCRIBE: {other:x?}")
    };
    assert_eq!((packet.packet_id, packet.properties), (8, kept.as_properties()));
    assert!(packet.filters().eq(filters));
    vec![bytes, other]
}

fn of_server(version: Version) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (session_present, reason) in [
        (false, ReasonCode::SUCCESS),
        (true, ReasonCode::SUCCESS),
        (true, ReasonCode::NOT_AUTHORIZED),
    ] {
        let kept = of_version(version, CONNACK);
        let bytes = write(|out| connack(out, version, session_present, reason, CONNACK));
        let session_present = session_present && reason == ReasonCode::SUCCESS;
        let packet =
            ServerPacket::ConnAck { session_present, reason, properties: kept.as_properties() };
        all.push(server(version, bytes, packet));
    }
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let extra = [Property::SubscriptionIdentifier(1), Property::SubscriptionIdentifier(16_384)];
        let together = of_version(version, &[MESSAGE, &extra].concat());
        let raw = of_version(version, MESSAGE);
        let (_, packet) = message(version, qos, &together, &[]);
        let (bytes, _) = message(version, qos, &raw, &extra);
        all.push(server(version, bytes, ServerPacket::Publish(packet)));
    }
    for (kind, wrap) in [
        (AckKind::PubAck, ServerPacket::PubAck as fn(Ack<'static>) -> ServerPacket<'static>),
        (AckKind::PubRec, ServerPacket::PubRec),
        (AckKind::PubRel, ServerPacket::PubRel),
        (AckKind::PubComp, ServerPacket::PubComp),
    ] {
        for (bytes, expected) in acks(version, kind) {
            all.push(server(version, bytes, wrap(expected)));
        }
    }
    let none = PropertiesBuf::new();
    let properties = none.as_properties();
    let codes = [ReasonCode::GRANTED_QOS_2, ReasonCode::NOT_AUTHORIZED];
    let bytes = write(|out| suback(out, version, 7, &codes));
    let codes: &[u8] = if version == Version::V5 { &[2, 0x87] } else { &[2, 0x80] };
    all.push(server(version, bytes, ServerPacket::SubAck { packet_id: 7, properties, codes }));
    let codes = [ReasonCode::SUCCESS, ReasonCode::NO_SUBSCRIPTION_EXISTED];
    let bytes = write(|out| unsuback(out, version, 8, &codes));
    let codes: &[u8] = if version == Version::V5 { &[0, 0x11] } else { &[] };
    all.push(server(version, bytes, ServerPacket::UnsubAck { packet_id: 8, properties, codes }));
    all.push(server(version, write(pingresp), ServerPacket::PingResp));
    if version == Version::V5 {
        let told = [Property::ReasonString("moved"), Property::ServerReference("other")];
        let kept = of_version(version, &told);
        let reason = ReasonCode::SERVER_MOVED;
        let bytes = write(|out| disconnect(out, version, reason, &told));
        let packet = Disconnect { reason, properties: kept.as_properties() };
        all.push(server(version, bytes, ServerPacket::Disconnect(packet)));
        let kept = of_version(version, AUTH);
        for (reason, told, properties) in [
            (ReasonCode::CONTINUE_AUTHENTICATION, AUTH, kept.as_properties()),
            (ReasonCode::SUCCESS, &[][..], properties),
        ] {
            let bytes = write(|out| auth(out, reason, told));
            all.push(server(version, bytes, ServerPacket::Auth(Auth { reason, properties })));
        }
    }
    all
}

fn message<'a>(
    version: Version,
    qos: QoS,
    properties: &'a PropertiesBuf,
    extra: &[Property<'_>],
) -> (Vec<u8>, Publish<'a>) {
    let properties = properties.as_properties();
    let header = header(qos);
    let bytes = write(|out| {
        publish(out, version, header, properties.raw(), extra, b"payload");
    });
    let PublishHeader { dup, qos, retain, topic, packet_id } = header;
    (bytes, Publish { dup, qos, retain, topic, packet_id, properties, payload: b"payload" })
}

fn acks(version: Version, kind: AckKind) -> Vec<(Vec<u8>, Ack<'static>)> {
    let failure = match kind {
        AckKind::PubAck | AckKind::PubRec => ReasonCode::QUOTA_EXCEEDED,
        AckKind::PubRel | AckKind::PubComp => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
    };
    [ReasonCode::SUCCESS, failure]
        .into_iter()
        .map(|reason| {
            let bytes = write(|out| ack(out, version, kind, 0x0102, reason));
            let reason = if version == Version::V5 { reason } else { ReasonCode::SUCCESS };
            let properties = Properties::default();
            (bytes, Ack { packet_id: 0x0102, reason, properties })
        })
        .collect()
}
