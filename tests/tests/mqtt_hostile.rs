//! Bytes that no honest client sends, and clients that are slow or many.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use bulkhead_tests::mqtt::codec::{Property, QoS, ReasonCode, Version, connack, pingreq, suback};
use bulkhead_tests::mqtt::{Client, Door, Heard, Hello, Mode};
use bulkhead_tests::{Stack, Token, Transport, eventually, eventually_async};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TOPIC: &[u8] = b"device-connect/acme/x";

/// A packet with this first byte, its length, and these parts.
fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut out = vec![first];
    let mut length = body.len();
    loop {
        let byte = u8::try_from(length % 128).unwrap();
        length /= 128;
        out.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(&body);
    out
}

/// A text with its length before it.
fn text(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn failed(stack: &Stack, reason: &str) -> u64 {
    stack.metric(&format!("bulkhead_mqtt_handshakes_failed_total{{reason=\"{reason}\"}}"))
}

/// Whoever was not attacked goes on as if nothing had been.
async fn undisturbed(witness: &mut Client) {
    witness.nothing().await;
    witness.published("device-connect/globex/x", "undisturbed").await;
    assert_eq!(witness.payload().await, "undisturbed");
}

async fn whoever_does_not_begin_with_connect_is_closed_without_a_word(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut witness = stack.witness("globex").await;
    let globex = text(b"device-connect/globex/x");
    let beginnings = [
        packet(0x30, &[&globex, &[0], b"attack"]),
        packet(0x82, &[&[0, 1, 0], &text(b"#"), &[0]]),
        packet(0xa2, &[&[0, 1, 0], &text(b"#")]),
        packet(0x40, &[&[0, 1]]),
        packet(0x62, &[&[0, 1]]),
        packet(0xc0, &[]),
        packet(0xe0, &[]),
        packet(0xf0, &[&[0x18, 0]]),
        packet(0x20, &[&[0, 0, 0]]),
    ];
    for version in [Version::V311, Version::V5] {
        for bytes in &beginnings {
            let mut client = stack.tcp().open(version).await;
            client.send(bytes).await;
            assert_eq!(client.closed().await, None, "{bytes:x?}");
        }
    }
    assert_eq!(failed(&stack, "not_connect") + failed(&stack, "malformed"), 18);
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        &[0xff; 64],
        &[0x10, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x10, 0xff, 0xff, 0xff, 0x7f],
        &packet(0x11, &[&text(b"MQTT"), &[5, 2, 0, 60, 0], &text(b"x")]),
        &packet(0x10, &[&text(b"MQTT"), &[5, 3, 0, 60, 0], &text(b"x")]),
        &packet(0x10, &[&text(b"MQTT"), &[5, 2, 0, 60, 9], &text(b"x")]),
        &packet(0x10, &[&text(b"MQTT"), &[5, 2, 0, 60, 0], &text(b"x"), b"more"]),
        &packet(0x10, &[&text(b"MQTT"), &[5, 0x1e, 0, 60, 0], &text(b"x")]),
        &packet(0x10, &[&text(b"MQTT"), &[4, 0x42, 0, 60], &text(b"x"), &text(b"token")]),
        &packet(0x10, &[&text(b"MQTT"), &[5, 2, 0, 60, 0], &text(b"\xff")]),
        &packet(0x10, &[&text(b"MQTT"), &[5, 2, 0, 60, 0], &text(b"x\0")]),
    ] {
        let mut client = stack.tcp().open(Version::V5).await;
        client.send(bytes).await;
        assert_eq!(client.closed().await, None, "{bytes:x?}");
    }
    undisturbed(&mut witness).await;
}

async fn other_versions_are_told_that_they_are_not_spoken(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    for (name, level, version) in [
        (&b"MQIsdp"[..], 3, Version::V311),
        (b"MQTT", 3, Version::V311),
        (b"MQTT", 0, Version::V311),
        (b"MQTT", 6, Version::V5),
        (b"mqtt", 4, Version::V311),
    ] {
        let mut client = stack.tcp().open(version).await;
        client.send(&packet(0x10, &[&text(name), &[level, 2, 0, 60], &text(b"x")])).await;
        let Heard::ConnAck { reason, .. } = client.next().await else { panic!("no CONNACK") };
        assert_eq!(reason, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION);
        assert_eq!(client.closed().await, None);
    }
    assert_eq!(failed(&stack, "version"), 5);
}

async fn what_breaks_the_protocol_ends_the_connection_with_its_reason(mode: Mode) {
    const MALFORMED: u8 = 0x81;
    const PROTOCOL: u8 = 0x82;
    const TOPIC_NAME: u8 = 0x90;
    const ALIAS: u8 = 0x94;
    let stack = Stack::mqtt_in(mode).start().await;
    let mut witness = stack.witness("globex").await;
    let mut own = stack.witness("acme").await;
    let hello = stack.hello("attacker", &Token::role("acme", "member"));
    let topic = text(TOPIC);
    let publish = |first: u8, topic: &[u8], rest: &[u8]| packet(first, &[&text(topic), rest]);
    let (mut server_connack, mut server_suback) = (Vec::new(), Vec::new());
    connack(&mut server_connack, Version::V5, false, ReasonCode::SUCCESS, &[]);
    suback(&mut server_suback, Version::V5, 1, &[ReasonCode::SUCCESS]);
    let cases: Vec<(&str, u8, Vec<u8>)> = vec![
        ("a second CONNECT", PROTOCOL, hello.packet()),
        ("CONNACK", PROTOCOL, server_connack),
        ("SUBACK", PROTOCOL, server_suback),
        ("UNSUBACK", PROTOCOL, packet(0xb0, &[&[0, 1, 0, 0]])),
        ("PINGRESP", PROTOCOL, packet(0xd0, &[])),
        ("type 0", MALFORMED, packet(0x00, &[])),
        ("a wildcard", TOPIC_NAME, publish(0x30, b"device-connect/acme/#", &[0])),
        ("a wildcard in a level", TOPIC_NAME, publish(0x30, b"device-connect/acme/a+b", &[0])),
        (
            "a wildcard instead of the tenant",
            TOPIC_NAME,
            publish(0x30, b"device-connect/+/x", &[0]),
        ),
        ("no topic and no alias", PROTOCOL, publish(0x30, b"", &[0])),
        ("bytes that are no text", MALFORMED, publish(0x30, b"device-connect/acme/\xff", &[0])),
        ("an overlong slash", MALFORMED, publish(0x30, b"device-connect\xc0\xafacme/x", &[0])),
        ("U+0000", MALFORMED, publish(0x30, b"device-connect/acme/\0", &[0])),
        ("a surrogate", MALFORMED, publish(0x30, b"device-connect/acme/\xed\xa0\x80", &[0])),
        ("QoS 3", MALFORMED, publish(0x36, TOPIC, &[0, 1, 0])),
        ("packet id 0", PROTOCOL, publish(0x32, TOPIC, &[0, 0, 0])),
        ("a topic longer than the packet", MALFORMED, packet(0x30, &[&[0xff, 0xff], b"x"])),
        ("properties longer than the packet", MALFORMED, publish(0x30, TOPIC, &[9, 1, 0])),
        ("a property that is cut off", MALFORMED, publish(0x30, TOPIC, &[2, 2, 0])),
        ("no length of properties", MALFORMED, publish(0x30, TOPIC, &[])),
        ("a length without end", MALFORMED, publish(0x30, TOPIC, &[0x80, 0x80, 0x80, 0x80, 1])),
        ("an unknown property", MALFORMED, publish(0x30, TOPIC, &[2, 0x7e, 0])),
        ("a property of CONNECT", MALFORMED, publish(0x30, TOPIC, &[5, 0x11, 0, 0, 0, 1])),
        ("a property twice", PROTOCOL, publish(0x30, TOPIC, &[4, 1, 0, 1, 0])),
        ("a subscription identifier", PROTOCOL, publish(0x30, TOPIC, &[2, 0x0b, 1])),
        ("alias 0", ALIAS, publish(0x30, TOPIC, &[3, 0x23, 0, 0])),
        ("an alias above the maximum", ALIAS, publish(0x30, TOPIC, &[3, 0x23, 0, 33])),
        ("the highest alias", ALIAS, publish(0x30, TOPIC, &[3, 0x23, 0xff, 0xff])),
        ("an alias that stands for nothing", ALIAS, publish(0x30, b"", &[3, 0x23, 0, 7])),
        ("a response topic with a wildcard", PROTOCOL, publish(0x30, TOPIC, &[4, 8, 0, 1, b'#'])),
        ("SUBSCRIBE of nothing", PROTOCOL, packet(0x82, &[&[0, 1, 0]])),
        ("SUBSCRIBE without its flag", MALFORMED, packet(0x80, &[&[0, 1, 0], &topic, &[0]])),
        ("SUBSCRIBE with packet id 0", PROTOCOL, packet(0x82, &[&[0, 0, 0], &topic, &[0]])),
        ("SUBSCRIBE with QoS 3", PROTOCOL, packet(0x82, &[&[0, 1, 0], &topic, &[3]])),
        ("a reserved option", MALFORMED, packet(0x82, &[&[0, 1, 0], &topic, &[0x80]])),
        ("retain handling 3", PROTOCOL, packet(0x82, &[&[0, 1, 0], &topic, &[0x30]])),
        ("a filter without options", MALFORMED, packet(0x82, &[&[0, 1, 0], &topic])),
        (
            "no-local and shared",
            PROTOCOL,
            packet(0x82, &[&[0, 1, 0], &text(b"$share/g/device-connect/acme/x"), &[4]]),
        ),
        ("subscription identifier 0", PROTOCOL, packet(0x82, &[&[0, 1, 2, 0x0b, 0], &topic, &[0]])),
        ("UNSUBSCRIBE of nothing", PROTOCOL, packet(0xa2, &[&[0, 1, 0]])),
        ("PUBREL without its flag", MALFORMED, packet(0x60, &[&[0, 1]])),
        ("PUBACK with packet id 0", PROTOCOL, packet(0x40, &[&[0, 0]])),
        ("PUBACK with a foreign reason", PROTOCOL, packet(0x40, &[&[0, 1, 0x8e]])),
        ("PINGREQ with a body", MALFORMED, packet(0xc0, &[&[0]])),
        ("a padded length", MALFORMED, vec![0xc0, 0x80, 0]),
        ("AUTH without its method", PROTOCOL, packet(0xf0, &[&[0x19, 0]])),
        ("a longer session at the end", PROTOCOL, packet(0xe0, &[&[0, 5, 0x11, 0, 0, 0, 9]])),
    ];
    for (what, reason, bytes) in &cases {
        let mut client = stack.tcp().connect(&hello).await;
        client.ping().await;
        // What comes right after it is not looked at any more.
        let after = publish(0x30, b"device-connect/acme/after", &[0, b'x']);
        client.send(&[&bytes[..], &after].concat()).await;
        assert_eq!(client.closed().await, Some(ReasonCode(*reason)), "{what}");
        // Version 3 has other forms and no reasons, and closes as well.
        let mut client = stack.tcp().connect(&hello.clone().version(Version::V311)).await;
        client.send(&[&bytes[..], &[0, 0]].concat()).await;
        assert_eq!(client.closed().await, None, "{what}");
    }
    let heard = own.subscribe("device-connect/acme/after").await;
    assert!(!heard.is_error());
    own.forget_messages().await;
    own.published("device-connect/acme/after", "own").await;
    assert_eq!(own.payload().await, "own", "nothing that came after it was done");
    undisturbed(&mut witness).await;
}

async fn denied_publishes_of_version_3_are_dropped_where_it_is_configured(mode: Mode) {
    let stack = Stack::mqtt_in(mode).mqtt("denied_publish = \"drop\"").start().await;
    let mut witness = stack.witness("globex").await;
    let hello = stack.hello("attacker", &Token::role("acme", "member")).version(Version::V311);
    let mut client = stack.tcp().connect(&hello).await;
    client.subscribed("device-connect/acme/#").await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.send_publish("device-connect/globex/x", "attack", qos, false, &[]).await;
    }
    client.ping().await;
    assert_eq!(client.heard_so_far(), [], "nothing is acknowledged");
    assert_eq!(stack.refusals("publish", "publish_denied"), 3);
    stack.denied("publish_denied").await;
    client.published("device-connect/acme/x", "own").await;
    assert_eq!(client.payload().await, "own");
    undisturbed(&mut witness).await;
}

async fn slow_handshakes_end_and_hold_nobody_up(mode: Mode) {
    let stack = Stack::mqtt_in(mode).mqtt("handshake_timeout = \"4s\"").start().await;
    let mut witness = stack.witness("globex").await;
    let hello = stack.hello("slow", &Token::role("acme", "member"));
    let connect = hello.packet();
    let mut slow = Vec::new();
    // Nothing, one byte, all but one, over TCP and inside a WebSocket and TLS.
    for transport in [Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss] {
        for part in [&connect[..0], &connect[..1], &connect[..connect.len() - 1]] {
            let mut client = stack.door(transport).open(Version::V5).await;
            client.send(part).await;
            slow.push(client);
        }
    }
    // Asked for its token by AUTH, it falls silent.
    let silent = Hello::new("silent", "").without_password();
    let mut client = stack.tcp().open(Version::V5).await;
    client.send(&silent.with(Property::AuthenticationMethod("JWT")).packet()).await;
    assert!(matches!(client.next().await, Heard::Auth(..)));
    slow.push(client);
    // Below MQTT: neither TLS nor the WebSocket come to anything.
    let mut below = Vec::new();
    for (transport, bytes) in [
        (Transport::Tls, &[0x16, 3, 1][..]),
        (Transport::Tls, &[]),
        (Transport::Ws, b"GET /mqtt HTTP/1.1\r\nUpgrade: websocket\r\n"),
        (Transport::Ws, &[]),
        (Transport::Wss, &[0x16, 3, 1]),
    ] {
        let mut stream = TcpStream::connect(stack.door(transport).address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        below.push(stream);
    }
    let mut own = stack.tcp().connect(&stack.hello("own", &Token::role("acme", "member"))).await;
    own.ping().await;
    for mut client in slow {
        assert_eq!(client.closed().await, None);
    }
    for mut stream in below {
        let mut rest = Vec::new();
        let reading = stream.read_to_end(&mut rest);
        let _ = tokio::time::timeout(bulkhead_tests::WITHIN, reading).await.unwrap();
    }
    eventually("all are counted", || {
        failed(&stack, "timeout") == 13 && failed(&stack, "transport") == 5
    })
    .await;
    own.ping().await;
    undisturbed(&mut witness).await;
}

async fn one_source_has_only_so_many_beginnings_at_a_time(mode: Mode) {
    let stack = Stack::mqtt_in(mode).mqtt("pending_per_source = 3").start().await;
    let mut established = stack.witness("globex").await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(stack.tcp().open(Version::V5).await);
    }
    let mut fourth = stack.tcp().open(Version::V5).await;
    assert_eq!(fourth.closed().await, None);
    eventually("it is counted", || failed(&stack, "source") == 1).await;
    undisturbed(&mut established).await;
    idle.clear();
    eventually("they are gone", || failed(&stack, "gone") == 3).await;
    stack.member("acme", "own").await.ping().await;
}

async fn there_are_only_so_many_connections_in_all(mode: Mode) {
    let stack = Stack::mqtt_in(mode).mqtt("max_connections = 2").start().await;
    let mut first = stack.member("acme", "first").await;
    let second = stack.member("globex", "second").await;
    let mut third = stack.tcp().open(Version::V5).await;
    assert_eq!(third.closed().await, None);
    eventually("it is counted", || failed(&stack, "connections") == 1).await;
    first.ping().await;
    second.goodbye().await;
    eventually_async("there is room again", async || {
        let hello = stack.hello("third", &Token::role("acme", "member"));
        stack.tcp().try_knock(&hello).await.is_some()
    })
    .await;
}

async fn a_packet_larger_than_the_maximum_is_refused_by_its_length(mode: Mode) {
    let stack = Stack::mqtt_in(mode)
        .mqtt("max_packet_bytes = 4096\nsession_queue_bytes = 4096")
        .start()
        .await;
    let mut witness = stack.witness("globex").await;
    for transport in [Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss] {
        let door = stack.door(transport);
        let hello = stack.hello("large", &Token::role("acme", "member"));
        let mut client = door.connect(&hello).await;
        assert_eq!(client.terms.get().maximum_packet_size(), Some(4096));
        let topic = "device-connect/acme/x";
        let largest = "x".repeat(4096 - 3 - 2 - topic.len() - 2 - 1);
        client.subscribed(topic).await;
        client.published(topic, &largest).await;
        assert_eq!(client.payload().await, largest);
        // The length alone, none of the bytes that it promises.
        client.send(&[0x30, 0x81, 0x20]).await;
        assert_eq!(client.closed().await, Some(ReasonCode::PACKET_TOO_LARGE), "{transport}");
        let mut client = door.open(Version::V5).await;
        client.send(&[0x10, 0xff, 0xff, 0xff, 0x7f]).await;
        assert_eq!(client.closed().await, None, "before CONNECT nothing is said");
    }
    undisturbed(&mut witness).await;
}

async fn a_websocket_carries_mqtt_in_binary_messages_however_they_are_cut(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let door = stack.door(Transport::Ws);
    let hello = stack.hello("cut", &Token::role("acme", "member"));
    let mut client = door.open(Version::V5).await;
    for byte in hello.packet() {
        client.send(&[byte]).await;
    }
    assert!(matches!(client.next().await, Heard::ConnAck { reason: ReasonCode::SUCCESS, .. }));
    let mut pings = Vec::new();
    (0..3).for_each(|_| pingreq(&mut pings));
    client.send(&pings).await;
    for _ in 0..3 {
        assert_eq!(client.next().await, Heard::PingResp);
    }
    client.send_text("MQTT").await;
    assert_eq!(client.closed().await, None, "text is not MQTT");

    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let request = "GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(bulkhead_tests::WITHIN, reading).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
}

async fn client_ids_may_be_anything_that_fits(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let hello = |id: &str| stack.hello(id, &Token::role("acme", "member"));
    let refused = stack.tcp().refuse(&hello(&"x".repeat(1025))).await;
    assert_eq!(refused, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    let mut nameless = hello("").version(Version::V311);
    nameless.clean_start = false;
    let refused = stack.tcp().refuse(&nameless).await;
    assert_eq!(refused, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    assert_eq!(failed(&stack, "client_id"), 2);
    for id in ["#", "+/x", "$SYS", "globex:x", "../x", "é", " ", "%", &"x".repeat(1024)] {
        stack.tcp().connect(&hello(id)).await.ping().await;
    }
    let first = stack.tcp().connect(&hello("")).await;
    let second = stack.tcp().connect(&hello("")).await;
    let id = |client: &Client| client.terms.get().assigned_client_id().unwrap().to_owned();
    assert_ne!(id(&first), id(&second));
    stack.tcp().connect(&hello("").version(Version::V311)).await.ping().await;
}

async fn whoever_takes_no_answers_is_asked_for_no_more_questions(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut witness = stack.witness("globex").await;
    let mut deaf = stack.member("acme", "deaf").await;
    let mut pings = Vec::new();
    (0..32 * 1024).for_each(|_| pingreq(&mut pings));
    // Far beyond what sockets hold and what the broker keeps for one client.
    const MOST: usize = 64 << 20;
    let taken = deaf.pour(&pings, MOST, Duration::from_secs(1)).await;
    assert!(taken < MOST, "{taken} bytes of questions were read without an answer being taken");
    undisturbed(&mut witness).await;
    // Once it takes them, it goes on.
    deaf.drain(taken / 2 * 2).await;
}

async fn a_renewed_certificate_is_taken_over_and_a_broken_one_is_not(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let hello = stack.hello("own", &Token::role("acme", "member"));
    let mut before = stack.door(Transport::Tls).connect(&hello).await;
    let file = |name: &str| stack.folder().join(name);
    std::fs::write(file("mqtt.pem"), "broken").unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(file("next.pem"), made.cert.pem()).unwrap();
    let door = Door { certificate: file("next.pem"), ..stack.door(Transport::Wss) };
    assert!(door.open_with(Version::V5, None).await.is_err(), "the old one is still in use");
    std::fs::write(file("mqtt.key"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(file("mqtt.pem"), made.cert.pem()).unwrap();
    eventually_async("the new one is in use", async || {
        door.open_with(Version::V5, None).await.is_ok()
    })
    .await;
    let mut hello = hello.clone();
    hello.client_id = "after".to_owned();
    door.connect(&hello).await.ping().await;
    before.ping().await;
}

bulkhead_tests::in_both_modes! {
    whoever_does_not_begin_with_connect_is_closed_without_a_word,
    other_versions_are_told_that_they_are_not_spoken,
    what_breaks_the_protocol_ends_the_connection_with_its_reason,
    denied_publishes_of_version_3_are_dropped_where_it_is_configured,
    slow_handshakes_end_and_hold_nobody_up,
    one_source_has_only_so_many_beginnings_at_a_time,
    there_are_only_so_many_connections_in_all,
    a_packet_larger_than_the_maximum_is_refused_by_its_length,
    a_websocket_carries_mqtt_in_binary_messages_however_they_are_cut,
    client_ids_may_be_anything_that_fits,
    whoever_takes_no_answers_is_asked_for_no_more_questions,
    a_renewed_certificate_is_taken_over_and_a_broken_one_is_not,
}
