//! Rights that change while clients are connected through the front, or away.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod upstream_support;

use bulkhead_mqtt_broker::codec::{AckKind, Property, QoS, ReasonCode, Version, auth};
use bulkhead_policy::Quotas;
use jiff::{SignedDuration, Timestamp};
use upstream_support::{BOTH, Got, Hello, World, eventually, site};

const OK: ReasonCode = ReasonCode::SUCCESS;

#[tokio::test(flavor = "multi_thread")]
async fn suspension_cuts_the_tenant_and_nobody_else() {
    let (_dir, mosquitto, front) = site(&World::of(&["acme", "globex"])).await;
    front.ready().await;
    let mut witness = Hello::new(mosquitto.address(), Version::V5, "", "witness").connect().await;
    witness.subscribe(&["#"]).await;
    let mut globex = front.connected(Version::V5, "globex", "g").await;
    globex.subscribe(&["globex/#"]).await;
    let mut old = front.client(Version::V311, "acme", "a").will("acme/gone", "old").connect().await;
    let mut new =
        front.client(Version::V5, "acme", "b").kept().will("acme/gone", "new").connect().await;
    assert_eq!(front.change("acme", |rights| rights.suspended = true), 2);
    assert_eq!(old.cut().await, None);
    assert_eq!(new.cut().await, Some(ReasonCode::ADMINISTRATIVE_ACTION));
    // Whoever may not publish leaves no will either.
    witness.nothing().await;
    let refused = front.client(Version::V5, "acme", "a").refused().await;
    assert_eq!(refused, ReasonCode::NOT_AUTHORIZED);
    assert_eq!(globex.publish("globex/x", "on").await, OK);
    assert_eq!(globex.message().await.1, "on");
    front.change("acme", |rights| rights.suspended = false);
    front.connected(Version::V5, "acme", "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_with_a_reason() {
    let world = World::of(&["acme"]);
    let (_dir, _mosquitto, front) = site(&world).await;
    let soon = Timestamp::now() + SignedDuration::from_millis(1500);
    world.set("acme", |rights| rights.expires_at = Some(soon));
    let mut client = front.connected(Version::V5, "acme", "a").await;
    assert_eq!(client.cut().await, Some(ReasonCode::MAXIMUM_CONNECT_TIME));
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_rights_end_subscriptions_at_the_broker() {
    let (_dir, _mosquitto, front) = site(&World::of(&["acme", "globex"])).await;
    for version in BOTH {
        front.change("acme", |rights| rights.subscribe = vec!["acme/#".to_owned()]);
        let mut reader = front.connected(version, "acme", "r").await;
        let mut writer = front.connected(version, "acme", "w").await;
        assert_eq!(reader.subscribe(&["acme/secret/#", "acme/open/#"]).await, [2, 2]);
        front.change("acme", |rights| rights.subscribe = vec!["acme/open/#".to_owned()]);
        for topic in ["acme/secret/x", "acme/open/x"] {
            assert_eq!(writer.publish(topic, "x").await, OK);
        }
        assert_eq!(reader.message().await.0, "acme/open/x", "and nothing before it");
        reader.nothing().await;
        // With the right again, what the broker was told has to be said again.
        front.change("acme", |rights| rights.subscribe = vec!["acme/#".to_owned()]);
        writer.publish("acme/secret/x", "y").await;
        reader.nothing().await;
        // The ids of the client's own requests are its own.
        assert_eq!(reader.subscribe(&["acme/secret/#"]).await, [2]);
        writer.publish("acme/secret/x", "z").await;
        assert_eq!(reader.message().await.1, "z");

        front.change("acme", |rights| rights.publish = vec!["acme/open/#".to_owned()]);
        if version == Version::V5 {
            assert_eq!(writer.publish("acme/secret/x", "z").await, ReasonCode::NOT_AUTHORIZED);
            assert_eq!(writer.publish("acme/open/x", "z").await, OK);
        }
        front.change("acme", |rights| rights.publish = vec!["acme/#".to_owned()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_broker_is_looked_at_again() {
    let (_dir, _mosquitto, front) = site(&World::of(&["acme"])).await;
    for version in BOTH {
        let everything = |rights: &mut upstream_support::Rights| {
            rights.subscribe = vec!["acme/#".to_owned()];
        };
        front.change("acme", everything);
        let mut sleeper = front.client(version, "acme", "s").kept().connect().await;
        sleeper.subscribe(&["acme/#"]).await;
        sleeper.disconnect().await;
        let mut writer = front.connected(version, "acme", "w").await;
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for topic in ["acme/secret/x", "acme/open/x"] {
                writer.publish_with(topic, b"queued", qos, false, 3, &[]).await;
                if qos == QoS::ExactlyOnce {
                    assert_eq!(writer.next().await, Got::Ack(AckKind::PubRec, 3, OK));
                    writer.ack(AckKind::PubRel, 3).await;
                }
                assert!(matches!(writer.next().await, Got::Ack(_, 3, OK)));
            }
        }
        writer.publish_with("acme/secret/kept", b"r", QoS::AtLeastOnce, true, 4, &[]).await;
        assert_eq!(writer.next().await, Got::Ack(AckKind::PubAck, 4, OK));
        front.change("acme", |rights| rights.subscribe = vec!["acme/open/#".to_owned()]);
        let withheld = front.metric("bulkhead_mqtt_upstream_withheld_total");
        let mut awake = front.client(version, "acme", "s").kept().resume().await;
        for _ in 0..2 {
            assert_eq!(awake.message().await, ("acme/open/x".to_owned(), "queued".to_owned()));
        }
        awake.nothing().await;
        let more = front.metric("bulkhead_mqtt_upstream_withheld_total") - withheld;
        assert!(more >= 3.0, "{more}");
        // Those were acknowledged for good.
        awake.disconnect().await;
        front.change("acme", everything);
        let mut awake = front.client(version, "acme", "s").kept().resume().await;
        awake.nothing().await;
        awake.subscribe(&["acme/secret/kept"]).await;
        assert_eq!(awake.message().await.1, "r", "what is retained is there still");
        front.connected(version, "acme", "s").await.disconnect().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wills_are_decided_about_when_they_are_due() {
    let (_dir, _mosquitto, front) = site(&World::of(&["acme", "globex"])).await;
    for version in BOTH {
        let mut witness = front.connected(version, "acme", "w").await;
        witness.subscribe(&["acme/#"]).await;
        let refused = front.client(version, "acme", "x").will("globex/x", "x").refused().await;
        assert_eq!(refused, ReasonCode::NOT_AUTHORIZED);
        let refused = front.client(version, "acme", "x").will("$SYS/x", "x").refused().await;
        assert_eq!(refused, ReasonCode::NOT_AUTHORIZED);
        let dying = front.client(version, "acme", "x").will("acme/gone", "1").connect().await;
        drop(dying);
        assert_eq!(witness.message().await.1, "1");
        let dying = front.client(version, "acme", "x").will("acme/gone", "2").connect().await;
        front.change("acme", |rights| rights.publish = vec!["acme/open/#".to_owned()]);
        drop(dying);
        witness.nothing().await;
        front.change("acme", |rights| rights.publish = vec!["acme/#".to_owned()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_that_waits_is_taken_back_with_its_rights() {
    let (_dir, _mosquitto, front) = site(&World::of(&["acme", "globex"])).await;
    let mut witness = front.connected(Version::V5, "globex", "w").await;
    front.change("globex", |rights| {
        rights.subscribe.push("acme/#".to_owned());
    });
    assert_eq!(witness.subscribe(&["acme/#"]).await, [2]);
    let waiting = |id: &str, delay| {
        front.client(Version::V5, "acme", id).kept().will("acme/gone", id).delayed(delay)
    };
    let mut kept = waiting("revoked", 3).connect().await;
    kept.subscribe(&["acme/queue"]).await;
    drop(kept);
    drop(waiting("due", 3).connect().await);
    drop(waiting("back", 3).connect().await);
    let mut back = front.client(Version::V5, "acme", "back").kept().resume().await;
    witness.nothing().await;
    let mut due = [witness.message().await.1, witness.message().await.1];
    due.sort();
    assert_eq!(due, ["due", "revoked"]);
    back.nothing().await;
    // The same, with rights that go in the meantime.
    drop(waiting("revoked", 3).connect().await);
    witness.nothing().await;
    assert_eq!(front.change("acme", |rights| rights.suspended = true), 1, "the one that is back");
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    witness.nothing().await;
    // Nothing else of the session is gone.
    front.change("acme", |rights| rights.suspended = false);
    let mut writer = front.connected(Version::V5, "acme", "writer").await;
    writer.publish("acme/queue", "waited").await;
    let mut back = front.client(Version::V5, "acme", "revoked").kept().resume().await;
    assert_eq!(back.message().await.1, "waited");
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_the_tenants() {
    let world = World::of(&["acme", "globex"]);
    let (_dir, _mosquitto, front) = site(&world).await;
    world.set("acme", |rights| {
        rights.quotas = Quotas {
            connections: Some(2),
            subscriptions: Some(2),
            payload_bytes: Some(100),
            messages_per_second: Some(5),
            ..Quotas::default()
        };
    });
    let mut first = front.connected(Version::V5, "acme", "1").await;
    let second = front.connected(Version::V5, "acme", "2").await;
    let refused = front.client(Version::V5, "acme", "3").refused().await;
    assert_eq!(refused, ReasonCode::QUOTA_EXCEEDED);
    let globex = front.connected(Version::V5, "globex", "3").await;
    // The same client id takes its own place.
    let mut again = front.connected(Version::V5, "acme", "1").await;
    assert_eq!(first.cut().await, Some(ReasonCode::SESSION_TAKEN_OVER));
    assert_eq!(front.client(Version::V5, "acme", "3").refused().await, ReasonCode::QUOTA_EXCEEDED);
    drop(second);
    eventually("the place is free", async || {
        let (client, answer) = front.client(Version::V5, "acme", "3").say().await;
        drop(client);
        matches!(answer, Got::ConnAck { reason: OK, .. })
    })
    .await;
    assert_eq!(again.subscribe(&["acme/a", "acme/b", "acme/c"]).await, [2, 2, 0x97]);
    assert_eq!(again.subscribe(&["acme/a"]).await, [2], "it has that");
    again.unsubscribe(&["acme/a"]).await;
    assert_eq!(again.subscribe(&["acme/c"]).await, [2]);
    let large = "x".repeat(101);
    assert_eq!(again.publish("acme/x", &large).await, ReasonCode::QUOTA_EXCEEDED);
    let mut outcomes = Vec::new();
    for _ in 0..20 {
        outcomes.push(again.publish("acme/x", "x").await);
    }
    assert!(outcomes.contains(&ReasonCode::QUOTA_EXCEEDED), "{outcomes:?}");
    assert!(outcomes[0] != ReasonCode::QUOTA_EXCEEDED);
    drop(globex);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_of_a_session_count_while_its_client_is_away() {
    let world = World::of(&["acme"]);
    let (_dir, _mosquitto, front) = site(&world).await;
    world.set("acme", |rights| {
        rights.quotas = Quotas { subscriptions: Some(2), ..Quotas::default() };
    });
    for version in BOTH {
        let mut first = front.client(version, "acme", "1").kept().connect().await;
        assert_eq!(first.subscribe(&["acme/secret/x", "acme/open/x"]).await, [2, 2]);
        let full = if version == Version::V311 { 0x80 } else { 0x97 };
        first.disconnect().await;
        let mut other = front.connected(version, "acme", "2").await;
        assert_eq!(other.subscribe(&["acme/x"]).await, [full]);
        // Taken over, they are still the same two.
        let first = front.client(version, "acme", "1").kept().resume().await;
        let mut again = front.client(version, "acme", "1").kept().resume().await;
        assert_eq!(again.subscribe(&["acme/x"]).await, [full]);
        drop(first);
        // One of them is lost while nobody is there, and ends at the broker.
        again.disconnect().await;
        front.change("acme", |rights| rights.subscribe = vec!["acme/open/#".to_owned()]);
        let mut again = front.client(version, "acme", "1").kept().resume().await;
        assert_eq!(again.subscribe(&["acme/open/y"]).await, [2]);
        front.change("acme", |rights| rights.subscribe = vec!["acme/#".to_owned()]);
        assert_eq!(other.publish("acme/secret/x", "x").await, OK);
        again.nothing().await;
        again.disconnect().await;
        // A session that begins anew has none.
        let mut fresh = front.connected(version, "acme", "1").await;
        assert_eq!(fresh.subscribe(&["acme/a", "acme/b", "acme/c"]).await, [2, 2, full]);
        fresh.disconnect().await;
        eventually("they do not count any more", async || {
            other.subscribe(&["acme/x"]).await == [2]
        })
        .await;
        other.disconnect().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_without_reconnecting() {
    let world = World::of(&["acme", "globex"]);
    let (_dir, _mosquitto, front) = site(&world).await;
    let enhanced = |front: &upstream_support::Front| {
        front
            .client(Version::V5, "acme/cam", "a")
            .with(Property::AuthenticationMethod("JWT"))
            .with(Property::AuthenticationData(b"acme/cam"))
    };
    let soon = Timestamp::now() + SignedDuration::from_secs(2);
    world.set("acme", |rights| rights.expires_at = Some(soon));
    let mut client = enhanced(&front).connect().await;
    world.set("acme", |rights| rights.expires_at = None);
    let renew = |token: &'static [u8]| {
        let mut out = Vec::new();
        let properties =
            [Property::AuthenticationMethod("JWT"), Property::AuthenticationData(token)];
        auth(&mut out, ReasonCode::REAUTHENTICATE, &properties);
        out
    };
    client.send(&renew(b"acme/cam")).await;
    assert_eq!(client.next().await, Got::Auth(OK));
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(client.publish("acme/x", "still there").await, OK);
    client.send(&renew(b"globex/cam")).await;
    assert_eq!(client.cut().await, Some(ReasonCode::NOT_AUTHORIZED), "it is somebody else");
    let mut client = enhanced(&front).connect().await;
    client.send(&renew(b"acme/other")).await;
    assert_eq!(client.cut().await, Some(ReasonCode::NOT_AUTHORIZED));
}
