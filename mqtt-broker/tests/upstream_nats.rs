//! The MQTT listener of nats-server behind the front: one server, and three with replicated
//! sessions.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod upstream_support;

use bulkhead_devkit::{NatsServer, Tools, free_port};
use bulkhead_mqtt_broker::codec::{AckKind, QoS, ReasonCode, Version};
use std::path::Path;
use upstream_support::{Front, Got, Hello, World, eventually};

const OK: ReasonCode = ReasonCode::SUCCESS;
const OLD: Version = Version::V311;

fn nats(dir: &Path) -> (NatsServer, u16) {
    let port = free_port().unwrap();
    let config =
        format!("server_name: one\njetstream {{}}\nmqtt {{ listen: \"127.0.0.1:{port}\" }}\n");
    let binary = Tools::open().unwrap().nats_server().unwrap();
    (NatsServer::start(&binary, dir, &config).unwrap(), port)
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_apart_before_nats() {
    let dir = tempfile::tempdir().unwrap();
    let (_nats, port) = nats(dir.path());
    for mounted in [false, true] {
        let tenants = ["acme", "globex"];
        let world = if mounted { World::mounted(&tenants) } else { World::of(&tenants) };
        let front = Front::before(&format!("mqtt://127.0.0.1:{port}"), &world).await;
        front.ready().await;
        let own = |name: &str| if mounted { name.to_owned() } else { format!("acme/{name}") };
        // It speaks 3.1.1 only, and whoever speaks 5 is told that it is the version.
        let refused = front.client(Version::V5, "acme", "x").refused().await;
        assert_eq!(refused, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION);
        let mut acme = front.client(OLD, "acme", "same").kept().connect().await;
        let (mut globex, answer) = front.client(OLD, "globex", "same").kept().say().await;
        assert!(matches!(answer, Got::ConnAck { present: false, reason: OK, .. }));
        let all = if mounted { "#" } else { "globex/#" };
        assert_eq!(globex.subscribe(&[all]).await, [2]);
        assert_eq!(acme.subscribe(&[&own("a/+"), &own("b.c/#")]).await, [2, 2]);
        for name in ["a/x", "b.c/d"] {
            let topic = own(name);
            acme.publish_with(&topic, b"0", QoS::AtMostOnce, false, 0, &[]).await;
            assert_eq!(acme.message().await, (topic.clone(), "0".to_owned()));
            assert_eq!(acme.publish(&topic, "1").await, OK);
            assert_eq!(acme.message().await, (topic.clone(), "1".to_owned()));
            acme.publish_with(&topic, b"2", QoS::ExactlyOnce, false, 5, &[]).await;
            assert_eq!(acme.next().await, Got::Ack(AckKind::PubRec, 5, OK));
            acme.ack(AckKind::PubRel, 5).await;
            assert_eq!(acme.answer().await, Got::Ack(AckKind::PubComp, 5, OK));
            assert_eq!(acme.message().await, (topic, "2".to_owned()));
        }
        globex.nothing().await;
        // What NATS would take for wildcards.
        assert_eq!(acme.subscribe(&[&own("*"), &own("a/>")]).await, [0x80, 0x80]);
        // A retained message, then a session that goes on.
        acme.publish_with(&own("kept"), b"r", QoS::AtLeastOnce, true, 6, &[]).await;
        assert_eq!(acme.answer().await, Got::Ack(AckKind::PubAck, 6, OK));
        acme.disconnect().await;
        let mut writer = front.connected(OLD, "acme", "writer").await;
        assert_eq!(writer.subscribe(&[&own("kept")]).await, [2]);
        assert_eq!(writer.message().await.1, "r");
        assert_eq!(writer.publish(&own("a/z"), "waits").await, OK);
        let mut acme = front.client(OLD, "acme", "same").kept().resume().await;
        assert_eq!(acme.message().await, (own("a/z"), "waits".to_owned()));
        let dying = front.client(OLD, "acme", "dying").will(&own("a/will"), "bye").connect().await;
        drop(dying);
        assert_eq!(acme.message().await, (own("a/will"), "bye".to_owned()));
        writer.publish_with(&own("kept"), b"", QoS::AtLeastOnce, true, 6, &[]).await;
        globex.nothing().await;
        for tenant in tenants {
            front.connected(OLD, tenant, "same").await.disconnect().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_follow_their_clients_over_a_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let binary = Tools::open().unwrap().nats_server().unwrap();
    let ports: Vec<_> = (0..6).map(|_| free_port().unwrap()).collect();
    let (routes, listeners) = ports.split_at(3);
    let all: Vec<_> = routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
    let servers: Vec<_> = (0..3)
        .map(|n| {
            let config = format!(
                "server_name: n{n}\njetstream {{}}\n\
                 cluster {{ name: c, listen: \"127.0.0.1:{}\", routes: [{}] }}\n\
                 mqtt {{ listen: \"127.0.0.1:{}\", stream_replicas: 3 }}\n",
                routes[n],
                all.join(","),
                listeners[n],
            );
            NatsServer::start(&binary, &dir.path().join(n.to_string()), &config).unwrap()
        })
        .collect();
    let world = World::of(&["acme", "globex"]);
    let mut fronts = Vec::new();
    for port in listeners {
        fronts.push(Front::before(&format!("mqtt://127.0.0.1:{port}"), &world).await);
    }
    for front in &fronts {
        front.ready().await;
    }
    let connect = async |front: &Front, token: &str, id: &str| {
        let mut client = None;
        // A session needs a leader among the servers, which takes a moment after something changed.
        eventually("the cluster has a leader", async || {
            let (found, answer) = front.client(OLD, token, id).kept().say().await;
            if let Got::ConnAck { reason: OK, present, .. } = answer {
                client = Some((found, present));
            }
            client.is_some()
        })
        .await;
        client.unwrap()
    };
    let (mut acme, _) = connect(&fronts[0], "acme", "same").await;
    let (mut globex, present) = connect(&fronts[1], "globex", "same").await;
    assert!(!present);
    assert_eq!(acme.subscribe(&["acme/#"]).await, [2]);
    assert_eq!(globex.subscribe(&["globex/#"]).await, [2]);
    acme.disconnect().await;
    let (mut writer, _) = connect(&fronts[2], "acme", "writer").await;
    assert_eq!(writer.publish("acme/x", "waits").await, OK);
    // Its server dies; its session is elsewhere too.
    servers[0].kill().unwrap();
    eventually("the first front is not ready", async || !fronts[0].broker.is_ready()).await;
    let refused = Hello::new(fronts[0].address(), OLD, "acme", "same").refused().await;
    assert_eq!(refused, ReasonCode::SERVER_UNAVAILABLE);
    let (mut acme, present) = connect(&fronts[1], "acme", "same").await;
    assert!(present, "the session went along");
    assert_eq!(acme.message().await, ("acme/x".to_owned(), "waits".to_owned()));
    globex.nothing().await;
}
