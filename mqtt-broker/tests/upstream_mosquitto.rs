//! Messages through the front and a mosquitto behind it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod upstream_support;

use bulkhead_mqtt_broker::codec::{AckKind, Property, QoS, ReasonCode, Version};
use upstream_support::{BOTH, Client, Got, Hello, World, site};

const OK: ReasonCode = ReasonCode::SUCCESS;
const DENIED: ReasonCode = ReasonCode::NOT_AUTHORIZED;

fn pair(topic: &str, payload: &str) -> (String, String) {
    (topic.to_owned(), payload.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_every_quality_arrive_in_both_versions() {
    let (_dir, _mosquitto, front) = site(&World::of(&["acme"])).await;
    for version in BOTH {
        for receiving in BOTH {
            let mut publisher = front.connected(version, "acme", "p").await;
            let mut subscriber = front.connected(receiving, "acme", "s").await;
            assert_eq!(subscriber.subscribe(&["acme/+/x"]).await, [2]);
            publisher.publish_with("acme/a/x", b"0", QoS::AtMostOnce, false, 0, &[]).await;
            assert_eq!(subscriber.message().await, pair("acme/a/x", "0"));
            assert_eq!(publisher.publish("acme/b/x", "1").await, OK);
            assert_eq!(subscriber.message().await, pair("acme/b/x", "1"));
            publisher.publish_with("acme/c/x", b"2", QoS::ExactlyOnce, false, 5, &[]).await;
            assert_eq!(publisher.next().await, Got::Ack(AckKind::PubRec, 5, OK));
            publisher.ack(AckKind::PubRel, 5).await;
            assert_eq!(publisher.next().await, Got::Ack(AckKind::PubComp, 5, OK));
            assert_eq!(subscriber.message().await, pair("acme/c/x", "2"));
            let gone = subscriber.unsubscribe(&["acme/+/x"]).await;
            assert_eq!(gone.is_empty(), receiving == Version::V311);
            publisher.publish("acme/a/x", "3").await;
            subscriber.nothing().await;
            publisher.disconnect().await;
            subscriber.disconnect().await;
        }
    }
    front.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_is_answered_and_never_reaches_the_broker() {
    let (_dir, mosquitto, front) = site(&World::of(&["acme", "globex"])).await;
    front.ready().await;
    // Past the front: it hears everything.
    let mut witness = Hello::new(mosquitto.address(), Version::V5, "", "witness").connect().await;
    witness.subscribe(&["#"]).await;
    let mut acme = front.connected(Version::V5, "acme", "a").await;
    for topic in [
        "globex/x",
        "acme-2/x",
        "acme",
        "Acme/x",
        "/acme/x",
        "acme2",
        "x",
        "$SYS/x",
        "$CONTROL/dynamic-security/v1",
        "$share/g/acme/x",
        "$delayed/1/globex/x",
        "..",
        "globex%2Fx",
    ] {
        acme.publish_with(topic, b"x", QoS::AtMostOnce, true, 0, &[]).await;
        let expected = if topic.starts_with('$') {
            ReasonCode::TOPIC_NAME_INVALID
        } else if topic == "acme" {
            // It is the parent of what is allowed.
            continue;
        } else {
            DENIED
        };
        assert_eq!(acme.publish(topic, "x").await, expected, "{topic}");
        acme.publish_with(topic, b"x", QoS::ExactlyOnce, false, 8, &[]).await;
        assert_eq!(acme.next().await, Got::Ack(AckKind::PubRec, 8, expected), "{topic}");
    }
    // An alias is the topic that it stands for, each time that it is used.
    let alias = [Property::TopicAlias(3)];
    acme.publish_with("globex/x", b"x", QoS::AtLeastOnce, false, 4, &alias).await;
    assert_eq!(acme.next().await, Got::Ack(AckKind::PubAck, 4, DENIED));
    acme.publish_with("", b"x", QoS::AtLeastOnce, false, 4, &alias).await;
    assert_eq!(acme.next().await, Got::Ack(AckKind::PubAck, 4, DENIED));
    let response = [Property::ResponseTopic("globex/x")];
    acme.publish_with("acme/x", b"x", QoS::AtLeastOnce, false, 4, &response).await;
    assert_eq!(acme.next().await, Got::Ack(AckKind::PubAck, 4, DENIED));
    assert_eq!(witness.message().await.0, "acme", "what was allowed");
    witness.nothing().await;
    assert_eq!(acme.publish("acme/x", "own").await, OK);
    assert_eq!(witness.message().await, pair("acme/x", "own"));

    // 3.1.1 has no way to be told.
    let mut old = front.connected(Version::V311, "acme", "old").await;
    old.publish_with("globex/x", b"x", QoS::AtLeastOnce, false, 1, &[]).await;
    assert_eq!(old.cut().await, None);
    witness.nothing().await;
    assert!(front.metric("bulkhead_mqtt_denied_total") > 10.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_are_answered_one_by_one_in_their_order() {
    let (_dir, _mosquitto, front) = site(&World::of(&["acme", "globex"])).await;
    for version in BOTH {
        let failed = |code: u8| if version == Version::V311 { 0x80 } else { code };
        let mut acme = front.connected(version, "acme", "a").await;
        let mut globex = front.connected(version, "globex", "g").await;
        let codes = acme
            .subscribe(&["#", "acme/x", "acme/a#", "globex/x", "acme/+/y", "$SYS/#", "$share/g/#"])
            .await;
        let denied = failed(0x87);
        assert_eq!(codes, [denied, 2, failed(0x8F), denied, 2, denied, denied]);
        let all = ["+/#", "/#", "acme-2/#", "$share/g/globex/#", "$share/g/$SYS/#", "$queue/x"];
        assert_eq!(acme.subscribe(&all).await, [denied; 6]);
        assert_eq!(acme.subscribe(&["$share//x"]).await, [failed(0x8F)]);
        globex.publish("globex/x", "secret").await;
        globex.publish("globex/a/y", "secret").await;
        acme.nothing().await;
        acme.publish("acme/a/y", "own").await;
        assert_eq!(acme.next().await.topic(), "acme/a/y");
        let mut fresh = front.connected(version, "acme", "b").await;
        let codes = fresh.unsubscribe(&["acme/none", "a#", "$SYS/#"]).await;
        if version == Version::V5 {
            assert_eq!(codes, [0x11, 0x8F, 0x8F]);
        }
        assert_eq!(fresh.unsubscribe(&["a#"]).await.is_empty(), version == Version::V311);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_is_invisible() {
    let (_dir, mosquitto, front) = site(&World::mounted(&["acme", "globex"])).await;
    front.ready().await;
    let mut witness = Hello::new(mosquitto.address(), Version::V5, "", "witness").connect().await;
    witness.subscribe(&["#"]).await;
    for version in BOTH {
        let mut globex = front.connected(version, "globex", "same").await;
        let mut acme = front.connected(version, "acme", "same").await;
        let mut workers = Vec::new();
        for (client, tenant) in [(&mut acme, "acme"), (&mut globex, "globex")] {
            assert_eq!(client.subscribe(&["#"]).await, [2]);
            let mut worker = front.connected(version, tenant, "worker").await;
            assert_eq!(worker.subscribe(&["$share/g/jobs/+"]).await, [2]);
            workers.push(worker);
        }
        assert_eq!(acme.publish("x/y", "own").await, OK);
        assert_eq!(acme.message().await, pair("x/y", "own"));
        assert_eq!(witness.message().await, pair("acme/x/y", "own"));
        globex.nothing().await;
        assert_eq!(acme.publish("jobs/1", "j").await, OK);
        assert_eq!(acme.message().await, pair("jobs/1", "j"));
        assert_eq!(witness.message().await, pair("acme/jobs/1", "j"));
        assert_eq!(workers[0].message().await, pair("jobs/1", "j"));
        workers[1].nothing().await;
        globex.nothing().await;
        if version == Version::V5 {
            let properties = [Property::ResponseTopic("re/1"), Property::CorrelationData(b"c")];
            acme.publish_with("ask", b"?", QoS::AtMostOnce, false, 0, &properties).await;
            let Got::Publish { topic, response, .. } = acme.next().await else { panic!() };
            assert_eq!((&*topic, response.as_deref()), ("ask", Some("re/1")));
            let Got::Publish { response, .. } = witness.next().await else { panic!() };
            assert_eq!(response.as_deref(), Some("acme/re/1"));
            // The name that an alias stands for goes on, the alias does not.
            let alias = [Property::TopicAlias(1)];
            acme.publish_with("t", b"1", QoS::AtMostOnce, false, 0, &alias).await;
            acme.publish_with("", b"2", QoS::AtMostOnce, false, 0, &alias).await;
            for payload in ["1", "2"] {
                assert_eq!(acme.message().await, pair("t", payload));
                assert_eq!(witness.message().await, pair("acme/t", payload));
            }
        }
        acme.unsubscribe(&["#"]).await;
        workers[0].unsubscribe(&["$share/g/jobs/+"]).await;
        acme.publish("jobs/1", "nobody").await;
        acme.nothing().await;
        workers[0].nothing().await;
        assert_eq!(witness.message().await.0, "acme/jobs/1");

        let dying =
            front.client(version, "acme", "dying").will("gone/dying", "bye").connect().await;
        acme.subscribe(&["gone/+"]).await;
        drop(dying);
        assert_eq!(acme.message().await, pair("gone/dying", "bye"));
        assert_eq!(witness.message().await, pair("acme/gone/dying", "bye"));
        globex.nothing().await;
        let quiet =
            front.client(version, "acme", "quiet").will("gone/quiet", "bye").connect().await;
        quiet.disconnect().await;
        acme.nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_ids_and_groups_are_their_tenants_own() {
    let (_dir, _mosquitto, front) = site(&World::of(&["acme", "globex"])).await;
    for version in BOTH {
        let mut acme = front.client(version, "acme/cam", "same").kept().connect().await;
        acme.subscribe(&["acme/x"]).await;
        let tokens = ["globex/cam", "globex", "acme/other", "acme"];
        let mut others = Vec::new();
        for token in tokens {
            let (client, answer) = front.client(version, token, "same").kept().say().await;
            let Got::ConnAck { present, reason, .. } = answer else { panic!("{answer:?}") };
            assert_eq!((present, reason), (false, OK), "{token} has no session of another");
            others.push(client);
        }
        acme.nothing().await;
        // Its own it has.
        let mut again = front.client(version, "acme/cam", "same").kept().resume().await;
        let taken = acme.cut().await;
        assert_eq!(taken, (version == Version::V5).then_some(ReasonCode::SESSION_TAKEN_OVER));
        assert_eq!(again.publish("acme/x", "kept").await, OK);
        assert_eq!(again.next().await.topic(), "acme/x");
        for client in &mut others {
            client.nothing().await;
        }
        for token in tokens.into_iter().chain(["acme/cam"]) {
            front.client(version, token, "same").connect().await.disconnect().await;
        }
    }
    let (_, answer) = front.client(Version::V5, "acme", "").say().await;
    let Got::ConnAck { assigned: Some(id), .. } = answer else { panic!("{answer:?}") };
    assert!(!id.contains("acme") && !id.contains(':'), "{id}");

    // Two members of one tenant share; a group of the same name elsewhere is another.
    let mut members: Vec<Client> = Vec::new();
    for (token, id) in [("acme", "m1"), ("acme", "m2"), ("globex", "m1")] {
        let mut member = front.connected(Version::V5, token, id).await;
        assert_eq!(member.subscribe(&[&format!("$share/g/{token}/jobs")]).await, [2]);
        members.push(member);
    }
    let mut publisher = front.connected(Version::V5, "acme", "p").await;
    for n in 0..10 {
        assert_eq!(publisher.publish("acme/jobs", &n.to_string()).await, OK);
    }
    let mut outsider = members.pop().unwrap();
    outsider.nothing().await;
    let mut got = 0;
    for member in &mut members {
        member.send(&[0xC0, 0]).await;
        while let Got::Publish { id, .. } = member.next().await {
            member.ack(AckKind::PubAck, id).await;
            got += 1;
        }
    }
    assert_eq!(got, 10, "each went to one of them");
}

impl Got {
    fn topic(&self) -> &str {
        match self {
            Self::Publish { topic, .. } => topic,
            other => panic!("{other:?}"),
        }
    }
}
