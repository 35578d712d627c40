//! Bytes that are cut, damaged or made up: an error at worst.

use super::samples;
use crate::codec::{Frame, Packet, Properties, ServerPacket, TopicFilter, Version, matches};
use proptest::prelude::*;

/// Reads `bytes` in every way there is and everything of what comes out.
fn read(bytes: &[u8]) {
    let Ok(Some(frame)) = Frame::find(bytes, 1 << 20) else { return };
    for version in super::VERSIONS {
        if let Ok(packet) = Packet::decode(&frame, version) {
            assert!(!format!("{packet:?}").is_empty());
            match packet {
                Packet::Connect(connect) => {
                    all_of(connect.properties);
                    connect.will.iter().for_each(|will| all_of(will.properties));
                }
                Packet::Publish(publish) => all_of(publish.properties),
                Packet::Subscribe(subscribe) => {
                    all_of(subscribe.properties);
                    assert!(subscribe.filters().count() > 0);
                    let bytes: usize = subscribe.filters().map(|(f, _)| f.len() + 3).sum();
                    assert!(bytes < frame.len);
                }
                Packet::Unsubscribe(unsubscribe) => {
                    all_of(unsubscribe.properties);
                    assert!(unsubscribe.filters().count() > 0);
                }
                _ => {}
            }
        }
        if let Ok(packet) = ServerPacket::decode(&frame, version) {
            assert!(!format!("{packet:?}").is_empty());
        }
    }
}

/// Whatever is checked can be read to its end.
fn all_of(properties: Properties<'_>) {
    let ids: Vec<_> = properties.iter().map(|property| property.id()).collect();
    assert!(properties.raw_items().map(|(id, _)| id).eq(ids));
    assert_eq!(
        properties.raw_items().map(|(_, item)| item.len()).sum::<usize>(),
        properties.raw().len()
    );
}

fn samples() -> impl Iterator<Item = (Version, Vec<u8>)> {
    samples::client_packets().into_iter().chain(samples::server_packets())
}

#[test]
fn a_packet_that_is_cut_is_waited_for() {
    for (_, bytes) in samples() {
        for cut in 0..bytes.len() {
            assert_eq!(Frame::find(&bytes[..cut], 1 << 20), Ok(None), "{bytes:x?} at {cut}");
        }
    }
}

#[test]
fn a_packet_that_is_shorter_than_it_says_is_refused_or_another_one() {
    for (_, bytes) in samples() {
        let body = bytes.len() - 2;
        for cut in 0..body {
            read(&super::packet(bytes[0], &bytes[2..2 + cut]));
        }
    }
}

#[test]
fn any_one_byte_can_be_any_other() {
    for (_, bytes) in samples() {
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            for byte in 0..=u8::MAX {
                damaged[at] = byte;
                read(&damaged);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_can_come(first: u8, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        read(&super::packet(first, &body));
        read(&body);
    }

    #[test]
    fn any_texts_can_be_filters(filter in "[a$/+#\0é]{0,8}|\\$share/[a/+#]{0,6}", topic in "[a$/é]{0,8}") {
        if let Some(read) = TopicFilter::parse(&filter) {
            prop_assert!(filter.ends_with(read.filter));
            let _ = matches(read.filter, &topic);
            prop_assert_eq!(matches(read.filter, read.filter) || read.filter.starts_with('$')
                || read.filter.contains(['+', '#']), true);
        }
        let _ = matches(&filter, &topic);
        let _ = matches(&topic, &filter);
    }
}
