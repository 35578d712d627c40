//! Packets of a client of any bytes: no panic, and what is read is what is written again.

#![no_main]

use bulkhead_mqtt_broker::codec::{
    Ack, AckKind, Frame, Packet, Properties, Property, PublishHeader, TopicFilter, Version, ack,
    auth, client_disconnect, connect, matches, pingreq, publish, publish_len, subscribe,
    unsubscribe,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(Some(frame)) = Frame::find(input, 1 << 20) else { return };
    for version in [Version::V311, Version::V5] {
        let Ok(packet) = Packet::decode(&frame, version) else { continue };
        let mut out = Vec::new();
        write(&mut out, version, &packet);
        let again = Frame::find(&out, out.len()).unwrap().unwrap();
        assert_eq!(again.len, out.len());
        assert_eq!(Packet::decode(&again, version).unwrap(), without_ack_properties(packet));
    }
});

fn list<'a>(properties: Properties<'a>) -> Vec<Property<'a>> {
    let all: Vec<_> = properties.iter().collect();
    assert!(properties.raw_items().map(|(id, _)| id).eq(all.iter().map(Property::id)));
    assert!(properties.raw_items().flat_map(|(_, item)| item).eq(properties.raw()));
    all
}

fn write(out: &mut Vec<u8>, version: Version, packet: &Packet<'_>) {
    let acknowledge = |out: &mut Vec<u8>, kind, read: &Ack<'_>| {
        list(read.properties);
        ack(out, version, kind, read.packet_id, read.reason);
    };
    match packet {
        Packet::Connect(packet) => {
            list(packet.properties);
            connect(out, packet);
        }
        Packet::Publish(packet) => {
            list(packet.properties);
            let header = PublishHeader {
                dup: packet.dup,
                qos: packet.qos,
                retain: packet.retain,
                topic: packet.topic,
                packet_id: packet.packet_id,
            };
            let raw = packet.properties.raw();
            publish(out, version, header, raw, &[], packet.payload);
            let (topic, payload) = (packet.topic.len(), packet.payload.len());
            assert_eq!(out.len(), publish_len(version, topic, packet.qos, raw.len(), &[], payload));
        }
        Packet::PubAck(read) => acknowledge(out, AckKind::PubAck, read),
        Packet::PubRec(read) => acknowledge(out, AckKind::PubRec, read),
        Packet::PubRel(read) => acknowledge(out, AckKind::PubRel, read),
        Packet::PubComp(read) => acknowledge(out, AckKind::PubComp, read),
        Packet::Subscribe(packet) => {
            let filters: Vec<_> = packet.filters().collect();
            for (text, _) in &filters {
                if let Some(read) = TopicFilter::parse(text) {
                    assert!(text.ends_with(read.filter));
                    let _ = matches(read.filter, text);
                }
            }
            subscribe(out, version, packet.packet_id, &list(packet.properties), &filters);
        }
        Packet::Unsubscribe(packet) => {
            let filters: Vec<_> = packet.filters().collect();
            unsubscribe(out, version, packet.packet_id, &list(packet.properties), &filters);
        }
        Packet::PingReq => pingreq(out),
        Packet::Disconnect(packet) => {
            client_disconnect(out, version, packet.reason, &list(packet.properties));
        }
        Packet::Auth(packet) => auth(out, packet.reason, &list(packet.properties)),
    }
}

/// An acknowledgement is written without properties.
fn without_ack_properties(mut packet: Packet<'_>) -> Packet<'_> {
    match &mut packet {
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack.properties = Properties::default();
        }
        _ => {}
    }
    packet
}
