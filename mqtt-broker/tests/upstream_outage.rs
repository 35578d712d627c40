//! The broker behind the front goes away, comes back, hangs or asks for more.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod upstream_support;

use bulkhead_control::config::UpstreamConfig;
use bulkhead_devkit::{Tools, free_port};
use bulkhead_mqtt_broker::codec::{
    AckKind, Frame, Property, PublishHeader, QoS, ReasonCode, ServerPacket, Version, publish,
};
use std::process::Command;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use upstream_support::{BOTH, Front, Got, World, eventually, mosquitto, mosquitto_with, site};

const OK: ReasonCode = ReasonCode::SUCCESS;

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_that_the_broker_is_away_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut mosquitto = mosquitto_with(
        dir.path(),
        "allow_anonymous true\npersistence true\nautosave_on_changes true\nautosave_interval 1\n",
    );
    let world = World::of(&["acme"]);
    let front = Front::before(&format!("mqtt://{}", mosquitto.address()), &world).await;
    let mut new = front.client(Version::V5, "acme", "new").kept().connect().await;
    let mut old = front.connected(Version::V311, "acme", "old").await;
    assert!(front.broker.is_ready());
    assert_eq!(new.subscribe(&["acme/#"]).await, [2]);
    mosquitto.kill().unwrap();
    assert_eq!(new.cut().await, Some(ReasonCode::SERVER_SHUTTING_DOWN));
    assert_eq!(old.cut().await, None);
    eventually("the front is not ready", async || !front.broker.is_ready()).await;
    assert!(front.metric("bulkhead_mqtt_upstream_up") < 0.5);
    for version in BOTH {
        let reason = front.client(version, "acme", "x").refused().await;
        assert_eq!(reason, ReasonCode::SERVER_UNAVAILABLE);
    }
    mosquitto.restart().unwrap();
    front.ready().await;
    for version in BOTH {
        let mut back = front.connected(version, "acme", "back").await;
        back.subscribe(&["acme/#"]).await;
        assert_eq!(back.publish("acme/x", "again").await, OK);
        assert_eq!(back.message().await.1, "again");
    }
    assert!(front.metric("bulkhead_mqtt_upstream_lost_total") > 1.5);
    front.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_never_there_is_waited_for() {
    let port = free_port().unwrap();
    let world = World::of(&["acme"]);
    let front = Front::before(&format!("mqtt://localhost:{port}"), &world).await;
    for version in BOTH {
        let reason = front.client(version, "acme", "x").refused().await;
        assert_eq!(reason, ReasonCode::SERVER_UNAVAILABLE);
    }
    assert!(!front.broker.is_ready());
    front.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_is_found_out() {
    let (_dir, mosquitto, front) = site(&World::of(&["acme"])).await;
    front.ready().await;
    mosquitto.pause().unwrap();
    let reason = front.client(Version::V5, "acme", "x").refused().await;
    assert_eq!(reason, ReasonCode::SERVER_UNAVAILABLE);
    eventually("it is found out", async || !front.broker.is_ready()).await;
    mosquitto.resume().unwrap();
    front.ready().await;
    front.connected(Version::V5, "acme", "x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_front_is_said() {
    let (_dir, _mosquitto, front) = site(&World::of(&["acme"])).await;
    let mut new = front.connected(Version::V5, "acme", "new").await;
    let mut old = front.connected(Version::V311, "acme", "old").await;
    front.shutdown().await;
    assert_eq!(new.cut().await, Some(ReasonCode::SERVER_SHUTTING_DOWN));
    assert_eq!(old.cut().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_gets_the_fronts_credentials_over_tls_and_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("cert.pem"), key.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), key.signing_key.serialize_pem()).unwrap();
    let programs = Tools::open().unwrap().mosquitto().unwrap();
    let passwd = Command::new(&programs.passwd)
        .args(["-b", "-c"])
        .arg(path("users"))
        .args(["front", "s3cret"])
        .status()
        .unwrap();
    assert!(passwd.success());
    let config = format!(
        "certfile {0}/cert.pem\nkeyfile {0}/key.pem\npassword_file {0}/users\n\
         allow_anonymous false\nlog_type all\n",
        dir.path().display()
    );
    let mosquitto = mosquitto_with(dir.path(), &config);
    let url = format!("mqtts://localhost:{}", mosquitto.address().port());
    let mut upstream = UpstreamConfig::new(url.parse().unwrap());
    upstream.user = Some("front".to_owned());
    upstream.password_file = Some(path("password"));
    upstream.ca_file = Some(path("cert.pem"));
    std::fs::write(path("password"), "wrong\n").unwrap();
    let world = World::of(&["acme"]);
    let front = Front::start(upstream.clone(), &world, |_| ()).await;
    let refused = front.client(Version::V5, "acme/cam-7", "x").refused().await;
    assert_eq!(refused, ReasonCode::SERVER_UNAVAILABLE, "it is not the client's fault");
    // The right password is taken over when it is there.
    std::fs::write(path("password"), "s3cret\n").unwrap();
    front.ready().await;
    for version in BOTH {
        let mut client = front.connected(version, "acme/cam-7", "x").await;
        client.subscribe(&["acme/#"]).await;
        assert_eq!(client.publish("acme/x", "secure").await, OK);
        assert_eq!(client.message().await.1, "secure");
    }
    let log = mosquitto.log();
    assert!(log.contains("acme:cam-7:x"), "{log}");
    assert!(!log.contains("acme/cam-7") && !log.contains("whoever"), "{log}");
    // Another authority is none.
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("other.pem"), other.cert.pem()).unwrap();
    upstream.ca_file = Some(path("other.pem"));
    let front = Front::start(upstream, &world, |_| ()).await;
    let refused = front.client(Version::V5, "acme", "x").refused().await;
    assert_eq!(refused, ReasonCode::SERVER_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_everything_and_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mosquitto = mosquitto_with(dir.path(), "allow_anonymous true\nmax_queued_messages 0\n");
    let mut upstream =
        UpstreamConfig::new(format!("mqtt://{}", mosquitto.address()).parse().unwrap());
    upstream.prefix = "{tenant}/".to_owned();
    let world = World::of(&["acme"]);
    let front = Front::start(upstream, &world, |config| {
        config.max_packet_bytes = 4 * 1024 * 1024;
        config.session_queue_bytes = 4 * 1024 * 1024;
    })
    .await;
    for version in BOTH {
        let mut reader = front.connected(version, "acme", "r").await;
        let mut quick = front.connected(version, "acme", "q").await;
        for client in [&mut reader, &mut quick] {
            client.subscribe(&["acme/big"]).await;
        }
        let mut writer = front.connected(version, "acme", "w").await;
        let payload = "0123456789abcdef".repeat(128 * 1024);
        for n in 0..8 {
            let payload = format!("{n}{payload}");
            assert_eq!(writer.publish("acme/big", &payload).await, OK);
            assert_eq!(quick.message().await.1, payload);
        }
        for n in 0..8 {
            let (_, got) = reader.message().await;
            assert!(got.len() == payload.len() + 1 && got.starts_with(&n.to_string()));
        }
        // What is too large for the front ends the connection.
        let huge = vec![b'x'; 4 * 1024 * 1024];
        let mut packet = Vec::new();
        let header = PublishHeader {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: "acme/big",
            packet_id: 0,
        };
        publish(&mut packet, version, header, &[], &[], &huge);
        let _ = writer.stream.write_all(&packet).await;
        let reason = writer.cut().await;
        assert!(reason.is_none() || reason == Some(ReasonCode::PACKET_TOO_LARGE), "{reason:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_take_stops_the_client_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mosquitto = mosquitto_with(dir.path(), "allow_anonymous true\nmax_queued_messages 0\n");
    let world = World::of(&["acme"]);
    let front = Front::before(&format!("mqtt://{}", mosquitto.address()), &world).await;
    front.ready().await;
    let mut writer = front.connected(Version::V5, "acme", "w").await;
    let deep = format!("acme/{}", "x".repeat(60_000));
    let alias = [Property::TopicAlias(1)];
    writer.publish_with(&deep, b"", QoS::AtLeastOnce, false, 1, &alias).await;
    assert!(matches!(writer.next().await, Got::Ack(AckKind::PubAck, 1, _)));
    mosquitto.pause().unwrap();
    // Six bytes for the front, 60,000 for the broker.
    const MESSAGES: u16 = 250;
    for id in 2..=MESSAGES {
        writer.publish_with("", b"", QoS::AtLeastOnce, false, id, &alias).await;
    }
    // And more than all buffers on the way hold.
    let (mut reading, mut writing) = writer.stream.into_split();
    let flood = tokio::spawn(async move {
        let payload = vec![b'x'; 100_000];
        let mut packet = Vec::new();
        let header = PublishHeader {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: "acme/x",
            packet_id: 0,
        };
        publish(&mut packet, Version::V5, header, &[], &[], &payload);
        for _ in 0..500 {
            writing.write_all(&packet).await.unwrap();
        }
        writing.write_all(&[0xC0, 0]).await.unwrap();
        writing
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!flood.is_finished(), "nobody takes 50 MB for a broker that takes nothing");
    mosquitto.resume().unwrap();
    let mut writing = flood.await.unwrap();
    let (mut buffer, mut acknowledged) = (Vec::new(), 1);
    let answered = async {
        loop {
            let frame = Frame::find(&buffer, 1024).unwrap();
            let Some(frame) = frame else {
                assert_ne!(reading.read_buf(&mut buffer).await.unwrap(), 0);
                continue;
            };
            let len = frame.len;
            match ServerPacket::decode(&frame, Version::V5).unwrap() {
                ServerPacket::PubAck(ack) => {
                    acknowledged += 1;
                    assert_eq!(ack.packet_id, acknowledged);
                }
                ServerPacket::PingResp => {}
                other => panic!("{other:?}"),
            }
            buffer.drain(..len);
            if acknowledged == MESSAGES {
                break;
            }
        }
    };
    tokio::time::timeout(upstream_support::WITHIN, answered).await.unwrap();
    writing.write_all(&[0xE0, 0]).await.unwrap();
}

/// A broker that answers CONNECT, and then says this.
async fn fake(says: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                let n = stream.read(&mut buffer).await.unwrap();
                let is_v5 = buffer[..n].windows(5).any(|w| w == b"MQTT\x05");
                let connack: &[u8] = if is_v5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] };
                stream.write_all(connack).await.unwrap();
                if is_v5 {
                    stream.write_all(says).await.unwrap();
                }
                tokio::time::sleep(Duration::from_secs(60)).await;
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_talks_nonsense_ends_its_connection_only() {
    for says in [
        &b"\x30\x00"[..],
        b"\x00\x00",
        b"\x20\x03\x00\x00\x00",
        b"\x90\x04\x00\x01\x00\x00",
        b"\x82\x06\x00\x01\x00\x00\x01a",
        b"\x30\xff\xff\xff\x7f",
        b"\x30\x08\x00\x01a\x03\x23\x00\x01x",
        b"\xf0\x00",
        b"\x30\x05\x00\x01\xff\x00x",
    ] {
        let world = World::of(&["acme"]);
        let front = Front::before(&fake(says).await, &world).await;
        let mut client = front.connected(Version::V5, "acme", "x").await;
        let reason = client.cut().await;
        assert_eq!(reason, Some(ReasonCode::UNSPECIFIED_ERROR), "{says:x?}");
        assert!(front.broker.is_ready());
    }
    // What belongs to another tenant is not passed on, whoever sends it.
    let front =
        Front::before(&fake(b"\x30\x0b\x00\x08globex/x\x00").await, &World::of(&["acme"])).await;
    let mut client = front.connected(Version::V5, "acme", "x").await;
    client.nothing().await;
    // Its goodbye is passed on, but not where it wants clients to go.
    let moved = b"\xe0\x0a\x9d\x08\x1c\x00\x05other";
    let front = Front::before(&fake(moved).await, &World::of(&["acme"])).await;
    let mut client = front.connected(Version::V5, "acme", "x").await;
    assert_eq!(client.next().await, Got::Disconnect(ReasonCode::SERVER_SHUTTING_DOWN));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_front_keeps_an_idle_client_alive() {
    let dir = tempfile::tempdir().unwrap();
    let mosquitto = mosquitto(dir.path());
    let world = World::of(&["acme"]);
    let front = Front::before(&format!("mqtt://{}", mosquitto.address()), &world).await;
    // The broker hears from the front; from a client that is silent for too long, the front ends.
    let mut hello = front.client(Version::V5, "acme", "idle").will("acme/gone", "late");
    hello.keep_alive = 2;
    let mut idle = hello.connect().await;
    let mut watcher = front.connected(Version::V5, "acme", "w").await;
    watcher.subscribe(&["acme/gone"]).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        idle.send(&[0xC0, 0]).await;
        assert_eq!(idle.next().await, Got::PingResp);
    }
    assert_eq!(idle.cut().await, Some(ReasonCode::KEEP_ALIVE_TIMEOUT));
    assert_eq!(watcher.message().await.1, "late");
}
