//! Packets of a server of any bytes: no panic, and what is read is what is written again.

#![no_main]

use bulkhead_mqtt_broker::codec::{
    Ack, AckKind, Frame, Properties, Property, PublishHeader, ReasonCode, ServerPacket, Version,
    ack, auth, connack, disconnect, pingresp, publish, suback, unsuback,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(Some(frame)) = Frame::find(input, 1 << 20) else { return };
    for version in [Version::V311, Version::V5] {
        let Ok(packet) = ServerPacket::decode(&frame, version) else { continue };
        let mut out = Vec::new();
        write(&mut out, version, &packet);
        let again = Frame::find(&out, out.len()).unwrap().unwrap();
        assert_eq!(again.len, out.len());
        assert_eq!(
            ServerPacket::decode(&again, version).unwrap(),
            without_unwritten_properties(packet)
        );
    }
});

fn list<'a>(properties: Properties<'a>) -> Vec<Property<'a>> {
    let all: Vec<_> = properties.iter().collect();
    assert!(properties.raw_items().map(|(id, _)| id).eq(all.iter().map(Property::id)));
    assert!(properties.raw_items().flat_map(|(_, item)| item).eq(properties.raw()));
    all
}

fn write(out: &mut Vec<u8>, version: Version, packet: &ServerPacket<'_>) {
    let acknowledge = |out: &mut Vec<u8>, kind, read: &Ack<'_>| {
        list(read.properties);
        ack(out, version, kind, read.packet_id, read.reason);
    };
    let reasons = |codes: &[u8]| codes.iter().copied().map(ReasonCode).collect::<Vec<_>>();
    match packet {
        ServerPacket::ConnAck { session_present, reason, properties } => {
            connack(out, version, *session_present, *reason, &list(*properties));
        }
        ServerPacket::Publish(packet) => {
            let header = PublishHeader {
                dup: packet.dup,
                qos: packet.qos,
                retain: packet.retain,
                topic: packet.topic,
                packet_id: packet.packet_id,
            };
            publish(out, version, header, &[], &list(packet.properties), packet.payload);
        }
        ServerPacket::PubAck(read) => acknowledge(out, AckKind::PubAck, read),
        ServerPacket::PubRec(read) => acknowledge(out, AckKind::PubRec, read),
        ServerPacket::PubRel(read) => acknowledge(out, AckKind::PubRel, read),
        ServerPacket::PubComp(read) => acknowledge(out, AckKind::PubComp, read),
        ServerPacket::SubAck { packet_id, codes, .. } => {
            suback(out, version, *packet_id, &reasons(codes));
        }
        ServerPacket::UnsubAck { packet_id, codes, .. } => {
            unsuback(out, version, *packet_id, &reasons(codes));
        }
        ServerPacket::PingResp => pingresp(out),
        ServerPacket::Disconnect(packet) => {
            disconnect(out, version, packet.reason, &list(packet.properties));
        }
        ServerPacket::Auth(packet) => auth(out, packet.reason, &list(packet.properties)),
    }
}

/// An acknowledgement is written without properties.
fn without_unwritten_properties(mut packet: ServerPacket<'_>) -> ServerPacket<'_> {
    match &mut packet {
        ServerPacket::PubAck(Ack { properties, .. })
        | ServerPacket::PubRec(Ack { properties, .. })
        | ServerPacket::PubRel(Ack { properties, .. })
        | ServerPacket::PubComp(Ack { properties, .. })
        | ServerPacket::SubAck { properties, .. }
        | ServerPacket::UnsubAck { properties, .. } => *properties = Properties::default(),
        _ => {}
    }
    packet
}
