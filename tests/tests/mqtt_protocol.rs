//! What MQTT promises its clients, within one tenant.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_tests::mqtt::codec::{
    AckKind, Property, PublishHeader, QoS, ReasonCode, RetainHandling, SubscriptionOptions,
    Version, client_disconnect, publish,
};
use bulkhead_tests::mqtt::{Client, Heard, Hello};
use bulkhead_tests::{Stack, Token, eventually, eventually_async};
use std::collections::BTreeSet;

const TAKEN: ReasonCode = ReasonCode::SUCCESS;

/// The topic of these tests, for names below it.
fn at(name: &str) -> String {
    format!("device-connect/acme/{name}")
}

fn hello(stack: &Stack, client_id: &str) -> Hello {
    stack.hello(client_id, &Token::role("acme", "member"))
}

fn of(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions::of_qos(qos)
}

async fn connections(stack: &Stack, n: u64) {
    let what = format!("{n} are connected");
    eventually(&what, || stack.metric("bulkhead_mqtt_connections") == n).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_subscription_gives_each_message_to_one_and_spreads_them() {
    let stack = Stack::mqtt().start().await;
    let mut publisher = stack.member("acme", "publisher").await;
    let mut members = [stack.member("acme", "a").await, stack.member("acme", "b").await];
    for member in &mut members {
        member.subscribed(&format!("$share/g/{}", at("#"))).await;
    }
    let mut other = stack.member("acme", "other").await;
    other.subscribed(&format!("$share/other/{}", at("#"))).await;
    for n in 0..100 {
        publisher.published(&at("x"), &n.to_string()).await;
    }
    let mut all = BTreeSet::new();
    for member in &mut members {
        member.ping().await;
        let heard = member.heard_so_far();
        assert!((30..=70).contains(&heard.len()), "about a half: {}", heard.len());
        for heard in heard {
            let Heard::Publish(message) = heard else { continue };
            assert!(all.insert(message.payload), "nobody gets what another got");
        }
    }
    assert_eq!(all.len(), 100);
    for n in 0..100 {
        assert_eq!(other.payload().await, n.to_string(), "another group gets all of them");
    }
}

/// A member of a group leaves with a message that it has not acknowledged.
async fn handed_on(leaving: impl Fn(Hello) -> Hello) {
    let stack = Stack::mqtt().start().await;
    let mut publisher = stack.member("acme", "publisher").await;
    let filter = format!("$share/g/{}", at("#"));
    let mut leaver = stack.tcp().connect(&leaving(hello(&stack, "leaver"))).await;
    leaver.acknowledges = false;
    leaver.subscribed(&filter).await;
    publisher.published(&at("x"), "unacknowledged").await;
    assert_eq!(leaver.payload().await, "unacknowledged");
    let mut stayer = stack.member("acme", "stayer").await;
    stayer.subscribed(&filter).await;
    stayer.nothing().await;
    leaver.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    assert_eq!(stayer.payload().await, "unacknowledged");
    for _ in 0..3 {
        publisher.published(&at("x"), "later").await;
        assert_eq!(stayer.payload().await, "later");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_of_a_group_leaves_behind_goes_to_another() {
    handed_on(|hello| hello).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_session_of_a_group_leaves_behind_when_it_expires_goes_to_another() {
    handed_on(|hello| hello.with(Property::SessionExpiry(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_lives_as_long_as_it_was_granted() {
    let stack = Stack::mqtt().mqtt("max_session_expiry = \"1s\"").start().await;
    let asks_more = hello(&stack, "away").resume(600);
    let mut client = stack.tcp().connect(&asks_more).await;
    assert_eq!(client.terms.get().session_expiry(), Some(1), "no more than is allowed");
    client.subscribed(&at("x")).await;
    client.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    let mut client = stack.tcp().connect(&asks_more).await;
    assert!(client.present, "it comes back in time");
    client.published(&at("x"), "own").await;
    assert_eq!(client.payload().await, "own");
    eventually("it is counted", || stack.metric("bulkhead_mqtt_sessions") == 1).await;
    client.vanish();
    eventually("it expires", || {
        stack.metric("bulkhead_mqtt_connections") == 0
            && stack.metric("bulkhead_mqtt_sessions") == 0
    })
    .await;
    let mut client = stack.tcp().connect(&asks_more).await;
    assert!(!client.present);
    client.published(&at("x"), "unheard").await;
    client.nothing().await;

    // A goodbye may change it.
    let properties = [Property::SessionExpiry(0)];
    client
        .say(|out, version| {
            client_disconnect(out, version, ReasonCode::NORMAL_DISCONNECTION, &properties);
        })
        .await;
    client.closed().await;
    assert!(!stack.tcp().connect(&asks_more).await.present);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_version_3_a_session_that_is_not_clean_is_kept() {
    let stack = Stack::mqtt().start().await;
    let mut kept = hello(&stack, "away").version(Version::V311);
    kept.clean_start = false;
    let mut client = stack.tcp().connect(&kept).await;
    assert!(!client.present);
    client.subscribed(&at("x")).await;
    client.vanish();
    connections(&stack, 0).await;
    let mut publisher = stack.member("acme", "publisher").await;
    publisher.published(&at("x"), "queued").await;
    let mut client = stack.tcp().connect(&kept).await;
    assert!(client.present);
    assert_eq!(client.payload().await, "queued");
    client.vanish();
    let clean = stack.tcp().connect(&kept.clone().clean()).await;
    assert!(!clean.present);
    clean.goodbye().await;
    assert!(!stack.tcp().connect(&kept).await.present);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_expire_where_they_wait() {
    let stack = Stack::mqtt().start().await;
    let away = hello(&stack, "away").resume(600);
    let mut client = stack.tcp().connect(&away).await;
    client.subscribed(&at("#")).await;
    client.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    let mut publisher = stack.member("acme", "publisher").await;
    let mut live = stack.member("acme", "live").await;
    live.subscribed(&at("#")).await;
    for (payload, expiry, retain) in
        [("brief", 1, false), ("brief", 1, true), ("lasting", 600, false), ("for ever", 0, false)]
    {
        let properties = [Property::MessageExpiry(expiry)];
        let properties = if expiry == 0 { &[][..] } else { &properties };
        let topic = at(payload);
        publisher.publish_with(&topic, payload, QoS::AtLeastOnce, retain, properties).await;
        let message = live.message().await;
        assert_eq!(message.payload, payload, "who is there gets it");
        let left = message.properties.get().message_expiry();
        assert!(left.unwrap_or(0) <= expiry && left.is_some() == (expiry > 0), "{left:?}");
    }
    eventually_async("the retained one has expired", async || {
        let mut probe = stack.member("acme", "probe").await;
        probe.subscribed(&at("brief")).await;
        probe.ping().await;
        probe.heard_so_far().is_empty()
    })
    .await;
    let mut client = stack.tcp().connect(&away).await;
    let lasting = client.message().await;
    assert_eq!(lasting.payload, "lasting", "the brief ones are not there any more");
    assert!((500..600).contains(&lasting.properties.get().message_expiry().unwrap()));
    assert_eq!(client.payload().await, "for ever");
    eventually("it is forgotten", || stack.metric("bulkhead_mqtt_retained_messages") == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_will_waits_for_its_delay_and_not_beyond_its_session() {
    let stack = Stack::mqtt().start().await;
    let mut witness = stack.witness("acme").await;
    let with_delay = |id: &str, delay: u32, expiry: u32| {
        let will = hello(&stack, id).resume(expiry).will(&at(id), "will");
        will.will_with(Property::WillDelay(delay)).will_with(Property::ContentType("text"))
    };
    // Whoever is back in time has not died.
    stack.tcp().connect(&with_delay("back", 600, 600)).await.vanish();
    connections(&stack, 1).await;
    let back = stack.tcp().connect(&hello(&stack, "back").resume(600)).await;
    assert!(back.present);
    stack.tcp().connect(&with_delay("session", 600, 1)).await.vanish();
    stack.tcp().connect(&with_delay("delay", 1, 600)).await.vanish();
    stack.tcp().connect(&with_delay("no-session", 600, 0)).await.vanish();
    let first = witness.message().await;
    assert_eq!(first.topic, at("no-session"), "the session ends with the connection");
    assert_eq!(first.properties.get().content_type(), Some("text"));
    assert_eq!(first.properties.get().will_delay(), None);
    let mut others = [witness.message().await.topic, witness.message().await.topic];
    others.sort();
    assert_eq!(others, [at("delay"), at("session")]);
    // A clean start ends the session, and the will is due.
    stack.tcp().connect(&with_delay("clean", 600, 600)).await.vanish();
    connections(&stack, 2).await;
    let _clean = stack.tcp().connect(&hello(&stack, "clean")).await;
    assert_eq!(witness.message().await.topic, at("clean"));
    witness.nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages_come_as_the_subscription_wants_them() {
    let stack = Stack::mqtt().start().await;
    let mut publisher = stack.member("acme", "publisher").await;
    assert_eq!(publisher.retain(&at("x"), "kept").await, TAKEN);
    let with = |retain_handling, retain_as_published| SubscriptionOptions {
        retain_handling,
        retain_as_published,
        ..of(QoS::AtLeastOnce)
    };
    let mut client = stack.member("acme", "client").await;
    let filter = at("x");
    let mut subscribe = async |handling, as_published| {
        client.subscribe_with(&[(&filter, with(handling, as_published))], &[]).await;
        client.ping().await;
        let heard = client.heard_so_far().len();
        for _ in 0..heard {
            assert!(client.message().await.retain);
        }
        heard
    };
    assert_eq!(subscribe(RetainHandling::DontSend, false).await, 0);
    assert_eq!(subscribe(RetainHandling::SendIfNew, false).await, 0, "it is not new");
    assert_eq!(subscribe(RetainHandling::Send, false).await, 1);
    assert_eq!(subscribe(RetainHandling::Send, false).await, 1, "each time");
    let mut new = stack.member("acme", "new").await;
    new.subscribe_with(&[(&filter, with(RetainHandling::SendIfNew, true))], &[]).await;
    assert_eq!(new.payload().await, "kept");
    new.subscribed(&format!("$share/g/{}", at("+"))).await;
    new.nothing().await;
    new.unsubscribe(&[&format!("$share/g/{}", at("+"))]).await;

    assert_eq!(publisher.retain(&at("x"), "changed").await, TAKEN);
    assert!(new.message().await.retain, "as published");
    assert!(!client.message().await.retain, "not because it is kept");
    publisher.published(&at("x"), "passing").await;
    assert!(!new.message().await.retain);
    assert_eq!(client.payload().await, "passing");
    assert_eq!(publisher.retain(&at("x"), "").await, TAKEN);
    assert_eq!(client.payload().await, "", "that it is removed is a message too");
    let mut late = stack.member("acme", "late").await;
    late.subscribed(&at("#")).await;
    late.nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_publishes_comes_back_unless_it_does_not_want_it() {
    let stack = Stack::mqtt().start().await;
    let mut client = stack.member("acme", "client").await;
    let mut other = stack.member("acme", "other").await;
    let no_local = SubscriptionOptions { no_local: true, ..of(QoS::AtLeastOnce) };
    let (quiet, loud) = (at("quiet"), at("loud"));
    for client in [&mut client, &mut other] {
        let filters = [(&*quiet, no_local), (&*loud, of(QoS::AtLeastOnce))];
        client.subscribe_with(&filters, &[]).await;
    }
    client.published(&quiet, "quiet").await;
    client.published(&loud, "loud").await;
    assert_eq!(client.payload().await, "loud", "nothing came before it");
    assert_eq!(other.payload().await, "quiet");
    assert_eq!(other.payload().await, "loud");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_names_all_subscriptions_that_it_comes_from() {
    let stack = Stack::mqtt().start().await;
    let mut client = stack.member("acme", "client").await;
    for (filter, id) in [(at("#"), 1), (at("+"), 268_435_455), (at("x"), 7)] {
        let properties = [Property::SubscriptionIdentifier(id)];
        client.subscribe_with(&[(&filter, of(QoS::AtLeastOnce))], &properties).await;
    }
    let topic = at("x");
    let ids = async |client: &mut Client| {
        let message = client.message().await;
        let mut ids: Vec<_> = message.properties.get().subscription_identifiers().collect();
        ids.sort_unstable();
        ids
    };
    client.published(&topic, "own").await;
    assert_eq!(ids(&mut client).await, [1, 7, 268_435_455]);
    client.nothing().await;
    // Subscribing again replaces it.
    client.subscribed(&at("+")).await;
    client.unsubscribe(&[&topic]).await;
    client.published(&topic, "own").await;
    assert_eq!(ids(&mut client).await, [1]);
    // They are the subscriber's, and the publisher's are not passed on.
    let mut other = stack.member("acme", "other").await;
    other.subscribed(&topic).await;
    client.published(&topic, "own").await;
    assert_eq!(ids(&mut other).await, [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topic_aliases_are_used_up_to_what_the_client_takes() {
    let stack = Stack::mqtt().start().await;
    let mut client =
        stack.tcp().connect(&hello(&stack, "client").with(Property::TopicAliasMaximum(2))).await;
    client.subscribed(&at("#")).await;
    let mut publisher = stack.member("acme", "publisher").await;
    assert_eq!(publisher.terms.get().topic_alias_maximum(), Some(32));
    let mut known = std::collections::HashMap::new();
    for round in 0..3 {
        for name in ["a", "b", "c"] {
            // The publisher uses aliases of its own, which mean nothing here.
            let topic = if round == 0 { at(name) } else { String::new() };
            let alias = [Property::TopicAlias(u16::from(name.as_bytes()[0] - b'a' + 30))];
            publisher.publish_with(&topic, name, QoS::AtLeastOnce, false, &alias).await;
            let message = client.message().await;
            let alias = message.properties.get().topic_alias();
            let topic = match alias {
                Some(alias) if message.topic.is_empty() => known[&alias],
                Some(alias) => {
                    assert!((1..=2).contains(&alias));
                    known.insert(alias, name);
                    name
                }
                None => {
                    assert_eq!(message.topic, at(name));
                    name
                }
            };
            assert_eq!((topic, &*message.payload), (name, name));
            assert_eq!(alias.is_none(), name == "c", "there are two aliases");
            assert_eq!(message.topic.is_empty(), round > 0 && name != "c");
        }
    }
    // An alias may be given to another topic.
    let again = [Property::TopicAlias(30)];
    publisher.publish_with(&at("d"), "d", QoS::AtLeastOnce, false, &again).await;
    publisher.publish_with("", "d", QoS::AtLeastOnce, false, &again).await;
    for _ in 0..2 {
        assert_eq!(client.message().await.topic, at("d"));
    }
    // They end with the connection.
    let mut publisher = stack.member("acme", "publisher").await;
    publisher.send_publish("", "x", QoS::AtMostOnce, false, &again).await;
    assert_eq!(publisher.closed().await, Some(ReasonCode::TOPIC_ALIAS_INVALID));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_no_more_at_a_time_than_it_takes() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let stack = Stack::mqtt().start().await;
        let one = hello(&stack, "client").with(Property::ReceiveMaximum(1));
        let mut client = stack.tcp().connect(&one).await;
        client.acknowledges = false;
        client.subscribe_with(&[(&at("#"), of(QoS::ExactlyOnce))], &[]).await;
        let mut publisher = stack.member("acme", "publisher").await;
        for n in 0..10 {
            publisher.publish_with(&at("x"), &n.to_string(), qos, false, &[]).await;
        }
        publisher.publish(&at("x"), "passes by").await;
        assert_eq!(client.payload().await, "0");
        assert_eq!(client.payload().await, "passes by", "QoS 0 is not counted");
        for n in 0..10 {
            client.nothing().await;
            let id = n + 1;
            if qos == QoS::AtLeastOnce {
                client.ack(AckKind::PubAck, id).await;
            } else {
                client.ack(AckKind::PubRec, id).await;
                assert_eq!(client.acked(AckKind::PubRel, id).await, TAKEN);
                client.nothing().await;
                client.ack(AckKind::PubComp, id).await;
            }
            if n < 9 {
                let message = client.message().await;
                assert_eq!(message.payload, (n + 1).to_string(), "in order");
                assert_eq!((message.packet_id, message.qos), (n + 2, qos));
            }
        }
        client.nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_more_at_a_time_than_is_taken_is_closed() {
    let stack = Stack::mqtt().mqtt("max_in_flight = 2").start().await;
    let mut client = stack.member("acme", "client").await;
    assert_eq!(client.terms.get().receive_maximum(), Some(2));
    for n in 1..=2 {
        let id = client.send_publish(&at("x"), "x", QoS::ExactlyOnce, false, &[]).await;
        assert_eq!(id, n);
        assert!(!client.acked(AckKind::PubRec, id).await.is_error());
    }
    // One that is released makes room for another.
    client.ack(AckKind::PubRel, 1).await;
    assert_eq!(client.acked(AckKind::PubComp, 1).await, TAKEN);
    assert_eq!(client.publish1(&at("x"), "x").await, TAKEN);
    let id = client.send_publish(&at("x"), "x", QoS::ExactlyOnce, false, &[]).await;
    assert!(!client.acked(AckKind::PubRec, id).await.is_error());
    client.send_publish(&at("x"), "x", QoS::AtLeastOnce, false, &[]).await;
    assert_eq!(client.closed().await, Some(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_larger_than_a_client_takes_is_left_out() {
    let stack = Stack::mqtt().start().await;
    let small = hello(&stack, "client").with(Property::MaximumPacketSize(100));
    let mut client = stack.tcp().connect(&small).await;
    client.subscribe_with(&[(&at("#"), of(QoS::ExactlyOnce))], &[]).await;
    let mut publisher = stack.witness("acme").await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        publisher.publish_with(&at("x"), &"x".repeat(100), qos, false, &[]).await;
        assert_eq!(publisher.payload().await.len(), 100, "others get it");
        publisher.publish_with(&at("x"), "small", qos, false, &[]).await;
        assert_eq!(client.payload().await, "small");
        assert_eq!(publisher.payload().await, "small");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_client_is_closed_and_its_will_published() {
    let stack = Stack::mqtt().mqtt("max_keep_alive = \"60s\"").start().await;
    let mut witness = stack.witness("acme").await;
    let silent = hello(&stack, "silent").keep_alive(1).will(&at("gone"), "will");
    let mut silent = stack.tcp().connect(&silent).await;
    let mut old = hello(&stack, "old").keep_alive(1).version(Version::V311);
    old.clean_start = true;
    let mut old = stack.tcp().connect(&old).await;
    assert_eq!(silent.closed().await, Some(ReasonCode::KEEP_ALIVE_TIMEOUT));
    assert_eq!(old.closed().await, None);
    assert_eq!(witness.payload().await, "will");
    for (asked, granted) in [(0, Some(60)), (61, Some(60)), (60, None), (1, None)] {
        let client = stack.tcp().connect(&hello(&stack, "asks").keep_alive(asked)).await;
        assert_eq!(client.terms.get().server_keep_alive(), granted, "{asked}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_qos_2_arrives_once_though_its_publisher_reconnects() {
    let stack = Stack::mqtt().mqtt("max_in_flight = 2").start().await;
    let mut witness = stack.witness("acme").await;
    witness.subscribe_with(&[(&at("#"), of(QoS::ExactlyOnce))], &[]).await;
    let resume = hello(&stack, "publisher").resume(600);
    let mut publisher = stack.tcp().connect(&resume).await;
    let sent = |id: u16, dup: bool, payload: &'static str| {
        let mut out = Vec::new();
        let topic = at("x");
        let header = PublishHeader {
            dup,
            qos: QoS::ExactlyOnce,
            retain: false,
            topic: &topic,
            packet_id: id,
        };
        publish(&mut out, Version::V5, header, &[], &[], payload.as_bytes());
        out
    };
    for (id, payload) in [(1, "one"), (2, "two")] {
        publisher.send(&sent(id, false, payload)).await;
        assert_eq!(publisher.acked(AckKind::PubRec, id).await, TAKEN);
        assert_eq!(witness.payload().await, payload);
    }
    publisher.vanish();
    connections(&stack, 1).await;
    // It has not heard of it, so it sends both again; there is no room for more than these two.
    let mut publisher = stack.tcp().connect(&resume).await;
    assert!(publisher.present);
    for (id, payload) in [(1, "one"), (2, "two")] {
        publisher.send(&sent(id, true, payload)).await;
        assert_eq!(publisher.acked(AckKind::PubRec, id).await, TAKEN);
    }
    publisher.vanish();
    connections(&stack, 1).await;
    let mut publisher = stack.tcp().connect(&resume).await;
    for id in [1, 2] {
        publisher.ack(AckKind::PubRel, id).await;
        assert_eq!(publisher.acked(AckKind::PubComp, id).await, TAKEN);
        publisher.ack(AckKind::PubRel, id).await;
        let told = publisher.acked(AckKind::PubComp, id).await;
        assert_eq!(told, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
    }
    witness.nothing().await;
    // The id is free for another message.
    publisher.send(&sent(1, false, "three")).await;
    assert_eq!(publisher.acked(AckKind::PubRec, 1).await, TAKEN);
    assert_eq!(witness.payload().await, "three");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_qos_2_arrives_once_though_its_subscriber_reconnects() {
    let stack = Stack::mqtt().start().await;
    let resume = hello(&stack, "client").resume(600);
    let mut client = stack.tcp().connect(&resume).await;
    client.acknowledges = false;
    client.subscribe_with(&[(&at("#"), of(QoS::ExactlyOnce))], &[]).await;
    let mut publisher = stack.member("acme", "publisher").await;
    publisher.publish_with(&at("x"), "own", QoS::ExactlyOnce, false, &[]).await;
    let first = client.message().await;
    assert!(!first.dup);
    client.vanish();
    connections(&stack, 1).await;

    let mut client = stack.tcp().connect(&resume).await;
    client.acknowledges = false;
    let again = client.message().await;
    assert_eq!((again.dup, again.packet_id, &*again.payload), (true, first.packet_id, "own"));
    client.ack(AckKind::PubRec, first.packet_id).await;
    assert_eq!(client.acked(AckKind::PubRel, first.packet_id).await, TAKEN);
    client.vanish();
    connections(&stack, 1).await;

    let mut client = stack.tcp().connect(&resume).await;
    client.acknowledges = false;
    assert_eq!(client.acked(AckKind::PubRel, first.packet_id).await, TAKEN);
    client.nothing().await;
    client.ack(AckKind::PubComp, first.packet_id).await;
    client.ping().await;
    client.vanish();
    connections(&stack, 1).await;
    let mut client = stack.tcp().connect(&resume).await;
    client.nothing().await;
    assert_eq!(client.heard_so_far(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_and_qualities_of_service_meet() {
    let stack = Stack::mqtt().start().await;
    let mut old = stack.tcp().connect(&hello(&stack, "old").version(Version::V311)).await;
    let mut new = stack.member("acme", "new").await;
    let levels = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    for granted in levels {
        let (of_old, of_new) = (at(&format!("old/{granted:?}")), at(&format!("new/{granted:?}")));
        let codes = old.subscribe_with(&[(&of_old, of(granted))], &[]).await;
        assert_eq!(codes, [ReasonCode(granted as u8)]);
        new.subscribe_with(&[(&of_new, of(granted))], &[]).await;
        for published in levels {
            let properties = [
                Property::PayloadFormat(1),
                Property::ContentType("text/plain"),
                Property::UserProperty("a", "1"),
                Property::UserProperty("a", "2"),
            ];
            new.publish_with(&of_old, "own", published, false, &properties).await;
            let message = old.message().await;
            assert_eq!((message.qos, &*message.payload), (published.min(granted), "own"));
            assert!(message.properties.get().is_empty());
            new.publish_with(&of_new, "own", published, false, &properties).await;
            let message = new.message().await;
            assert_eq!(message.properties.get().content_type(), Some("text/plain"));
            let all: Vec<_> = message.properties.get().user_properties().collect();
            assert_eq!(all, [("a", "1"), ("a", "2")]);
            old.publish_with(&of_new, "own", published, false, &[]).await;
            assert_eq!(new.message().await.qos, published.min(granted));
        }
    }
}
