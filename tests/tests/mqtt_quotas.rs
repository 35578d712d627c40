//! What a tenant may use of the MQTT broker, and that the others do not notice when it wants more.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_policy::Quotas;
use bulkhead_tests::mqtt::codec::{AckKind, QoS, ReasonCode, SubscriptionOptions, Version};
use bulkhead_tests::mqtt::{Client, Mode, codec};
use bulkhead_tests::{Stack, Token, eventually, eventually_async};
use std::time::Duration;

const DENIED: ReasonCode = ReasonCode::NOT_AUTHORIZED;
const QUOTA: ReasonCode = ReasonCode::QUOTA_EXCEEDED;
const TAKEN: ReasonCode = ReasonCode::SUCCESS;

/// Limits acme and waits until the service knows.
async fn limit(stack: &Stack, quotas: Quotas) {
    stack.change("acme", |t| t.quotas = quotas).await;
    let acme = "acme".parse().unwrap();
    let directory = stack.control().auth().directory();
    eventually("the quotas are known", || directory.tenant(&acme).unwrap().quotas == quotas).await;
}

/// The other tenant does what acme may not do any more.
async fn undisturbed(witness: &mut Client) {
    witness.nothing().await;
    for n in 0..20 {
        let payload = format!("{n} {}", "x".repeat(1000));
        witness.published(&format!("device-connect/globex/{n}"), &payload).await;
        assert_eq!(witness.payload().await, payload);
    }
}

async fn connections_are_limited_and_a_known_client_may_come_back(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut witness = stack.witness("globex").await;
    limit(&stack, Quotas { connections: Some(2), ..Quotas::default() }).await;
    let hello = |id: &str| stack.hello(id, &Token::role("acme", "member"));
    let first = stack.tcp().connect(&hello("first")).await;
    let mut second = stack.tcp().connect(&hello("second")).await;
    for n in 0..20 {
        let third = hello(&format!("third-{n}"));
        assert_eq!(stack.tcp().refuse(&third).await, QUOTA);
        let third = third.version(Version::V311);
        assert_eq!(stack.tcp().refuse(&third).await, ReasonCode::SERVER_UNAVAILABLE);
    }
    assert_eq!(stack.refusals("connect", "connection_quota_exceeded"), 40);
    stack.denied("connection_quota_exceeded").await;
    let rejected = "backend=\"mqtt\",reason=\"connection_quota_exceeded\"";
    assert_eq!(stack.metric(&format!("bulkhead_quota_rejections_total{{{rejected}}}")), 40);
    // The same client id takes its own place, as often as it likes.
    for _ in 0..10 {
        let again = stack.tcp().connect(&hello("second")).await;
        assert_eq!(second.closed().await, Some(ReasonCode::SESSION_TAKEN_OVER));
        second = again;
    }
    assert_eq!(stack.tcp().refuse(&hello("third")).await, QUOTA);
    second.ping().await;
    first.goodbye().await;
    eventually_async("there is a place again", async || {
        !stack.tcp().knock(&hello("third")).await.1.is_error()
    })
    .await;
    // A session that is away takes no place.
    let away = stack.tcp().connect(&hello("second").resume(600)).await;
    away.vanish();
    eventually_async("and again", async || !stack.tcp().knock(&hello("fourth")).await.1.is_error())
        .await;
    undisturbed(&mut witness).await;
}

async fn many_connections_with_one_client_id_take_one_place(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    limit(&stack, Quotas { connections: Some(2), ..Quotas::default() }).await;
    let mut other = stack.member("acme", "other").await;
    let hello = stack.hello("one-id", &Token::role("acme", "member")).resume(600);
    let storm: Vec<_> = (0..8)
        .map(|n| {
            let (door, mut hello) = (stack.tcp(), hello.clone());
            hello.clean_start = n % 2 == 0;
            tokio::spawn(async move {
                let mut last = None;
                for _ in 0..50 {
                    // Another may take the session before this one hears that it has it.
                    let Some((mut client, reason)) = door.try_knock(&hello).await else { continue };
                    assert_eq!(reason, TAKEN);
                    client.say(subscribe_to_x).await;
                    last = Some(client);
                }
                last
            })
        })
        .collect();
    let mut last = Vec::new();
    for client in storm {
        last.extend(client.await.unwrap());
    }
    // Whoever came last has it, and all the others are gone.
    eventually("two are connected", || stack.metric("bulkhead_mqtt_connections") == 2).await;
    eventually("two have sessions", || stack.metric("bulkhead_mqtt_sessions") == 2).await;
    drop(last);
    let mut client = stack.tcp().connect(&hello.clone().clean()).await;
    client.subscribed("device-connect/acme/x").await;
    assert_eq!(
        stack.tcp().refuse(&stack.hello("third", &Token::role("acme", "member"))).await,
        QUOTA
    );
    other.published("device-connect/acme/x", "once").await;
    assert_eq!(client.payload().await, "once");
    client.nothing().await;
    client.goodbye().await;
    other.goodbye().await;
    eventually("nobody is connected", || stack.metric("bulkhead_mqtt_connections") == 0).await;
    limit(&stack, Quotas { connections: Some(1), subscriptions: Some(1), ..Quotas::default() })
        .await;
    let mut alone = stack.tcp().connect(&hello.clean()).await;
    alone.subscribed("device-connect/acme/x").await;
    assert_eq!(alone.subscribe("device-connect/acme/y").await, QUOTA, "nothing was left behind");
}

fn subscribe_to_x(out: &mut Vec<u8>, version: Version) {
    let options = SubscriptionOptions::of_qos(QoS::AtLeastOnce);
    codec::subscribe(out, version, 1, &[], &[("device-connect/acme/x", options)]);
}

async fn subscriptions_are_limited_over_all_clients_of_the_tenant(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut witness = stack.witness("globex").await;
    limit(&stack, Quotas { subscriptions: Some(4), ..Quotas::default() }).await;
    let mut one = stack.member("acme", "one").await;
    let mut other = stack.member("acme", "other").await;
    for filter in ["a", "b"] {
        one.subscribed(&format!("device-connect/acme/{filter}")).await;
        other.subscribed(&format!("$share/g/device-connect/acme/{filter}")).await;
    }
    for client in [&mut one, &mut other] {
        for n in 0..500 {
            let filter = format!("device-connect/acme/{n}");
            assert_eq!(client.subscribe(&filter).await, QUOTA);
        }
        assert_eq!(client.subscribe("device-connect/globex/#").await, DENIED);
    }
    assert_eq!(stack.refusals("subscribe", "subscription_quota_exceeded"), 1000);
    stack.denied("subscription_quota_exceeded").await;
    one.subscribed("device-connect/acme/a").await;
    other.subscribed("$share/g/device-connect/acme/a").await;
    one.published("device-connect/acme/b", "own").await;
    assert_eq!(one.payload().await, "own");
    assert_eq!(other.payload().await, "own");
    one.unsubscribe(&["device-connect/acme/a", "never"]).await;
    other.subscribed("device-connect/acme/c").await;
    assert_eq!(other.subscribe("device-connect/acme/d").await, QUOTA);
    // What ends gives back everything.
    other.goodbye().await;
    for filter in ["c", "d", "e"] {
        one.subscribed(&format!("device-connect/acme/{filter}")).await;
    }
    assert_eq!(one.subscribe("device-connect/acme/f").await, QUOTA);
    undisturbed(&mut witness).await;
}

async fn messages_per_second_are_limited_over_all_clients_of_the_tenant(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut witness = stack.witness("globex").await;
    limit(&stack, Quotas { messages_per_second: Some(10), ..Quotas::default() }).await;
    let mut clients = [stack.member("acme", "one").await, stack.device("acme", "cam-1").await];
    let (mut taken, mut refused) = (0, 0);
    for client in &mut clients {
        let ids: Vec<_> = {
            let mut ids = Vec::new();
            for _ in 0..100 {
                let topic = "device-connect/acme/cam-1/event/x";
                ids.push(client.send_publish(topic, "x", QoS::AtLeastOnce, false, &[]).await);
            }
            ids
        };
        for id in ids {
            match client.acked(AckKind::PubAck, id).await {
                QUOTA => refused += 1,
                reason => {
                    assert!(!reason.is_error());
                    taken += 1;
                }
            }
        }
    }
    assert!(taken >= 10 && refused > 0, "{taken} were taken, {refused} refused");
    assert_eq!(stack.refusals("publish", "message_rate_exceeded"), refused);
    stack.denied("message_rate_exceeded").await;
    undisturbed(&mut witness).await;
    let client = &mut clients[0];
    eventually_async("later it may again", async || {
        client.publish1("device-connect/acme/x", "x").await == TAKEN
    })
    .await;
    // More at once than there may be per second is taken, and paid for before anything else is.
    limit(&stack, Quotas { bytes_per_second: Some(100), ..Quotas::default() }).await;
    eventually_async("bytes are limited now", async || {
        client.publish1("device-connect/acme/x", &"x".repeat(10_000)).await == TAKEN
            && client.publish1("device-connect/acme/x", "x").await == QUOTA
    })
    .await;
    // Nobody is rid of that by going, and coming when nothing else is left of the tenant.
    for client in clients {
        client.goodbye().await;
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let mut again = stack.member("acme", "one").await;
    assert_eq!(again.publish1("device-connect/acme/x", "x").await, QUOTA);
}

async fn a_payload_is_no_larger_than_the_tenant_may_have(mode: Mode) {
    let stack = Stack::mqtt_in(mode).mqtt("denied_publish = \"drop\"").start().await;
    let mut witness = stack.witness("globex").await;
    limit(&stack, Quotas { payload_bytes: Some(10), ..Quotas::default() }).await;
    let mut own = stack.witness("acme").await;
    let topic = "device-connect/acme/x";
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert_eq!(own.publish_with(topic, "eleven byte", qos, false, &[]).await, QUOTA);
    }
    let hello = stack.hello("heir", &Token::role("acme", "member"));
    assert_eq!(stack.tcp().refuse(&hello.clone().will(topic, "eleven byte")).await, DENIED);
    let mut old = stack.tcp().connect(&hello.version(Version::V311)).await;
    old.send_publish(topic, "eleven byte", QoS::AtLeastOnce, false, &[]).await;
    old.ping().await;
    assert_eq!(old.heard_so_far(), []);
    assert_eq!(stack.refusals("publish", "payload_quota_exceeded"), 3);
    assert_eq!(stack.refusals("will", "payload_quota_exceeded"), 1);
    stack.denied("payload_quota_exceeded").await;
    own.published(topic, "ten bytes.").await;
    assert_eq!(own.payload().await, "ten bytes.", "nothing came before it");
    undisturbed(&mut witness).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages_are_limited_in_number_and_bytes() {
    let stack = Stack::mqtt().start().await;
    let mut witness = stack.witness("globex").await;
    limit(&stack, Quotas { retained_messages: Some(3), ..Quotas::default() }).await;
    let mut own = stack.member("acme", "own").await;
    let topic = |n: u32| format!("device-connect/acme/{n}");
    for n in 0..3 {
        assert_eq!(own.retain(&topic(n), "kept").await, TAKEN);
    }
    for n in 3..500 {
        assert_eq!(own.retain(&topic(n), "too many").await, QUOTA);
    }
    assert_eq!(stack.refusals("retain", "retained_quota_exceeded"), 497);
    stack.denied("retained_quota_exceeded").await;
    let hello = stack.hello("heir", &Token::role("acme", "member"));
    stack.tcp().connect(&hello.will(&topic(9), "too many").will_retained()).await.vanish();
    eventually("a will is counted too", || {
        stack.refusals("retain", "retained_quota_exceeded") == 498
    })
    .await;
    assert_eq!(own.retain(&topic(0), "changed").await, TAKEN, "in the place of another");
    assert_eq!(own.publish1(&topic(7), "not kept").await, TAKEN, "others are no concern");
    assert_eq!(own.retain(&topic(1), "").await, TAKEN);
    assert_eq!(own.retain(&topic(3), "kept").await, TAKEN, "in the room that it left");
    own.subscribed("device-connect/acme/#").await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(own.payload().await);
    }
    kept.sort();
    assert_eq!(kept, ["changed", "kept", "kept"]);
    own.nothing().await;
    for n in 0..50 {
        assert_eq!(witness.retain(&format!("device-connect/globex/{n}"), "x").await, TAKEN);
    }
    eventually("acme has three of them", || stack.metric("bulkhead_mqtt_retained_messages") == 53)
        .await;
    witness.forget_messages().await;

    limit(&stack, Quotas { retained_bytes: Some(2000), ..Quotas::default() }).await;
    eventually_async("bytes are limited now", async || {
        own.retain(&topic(8), &"x".repeat(2000)).await == QUOTA
    })
    .await;
    assert_eq!(own.retain(&topic(8), &"x".repeat(500)).await, TAKEN);
    undisturbed(&mut witness).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_clients_is_limited_over_the_tenant() {
    let stack = Stack::mqtt().start().await;
    limit(&stack, Quotas { queued_bytes: Some(10_000), ..Quotas::default() }).await;
    let away = |tenant: &str, id: &str| stack.hello(id, &Token::role(tenant, "member")).resume(600);
    for (tenant, id) in [("acme", "one"), ("acme", "other"), ("globex", "one")] {
        let mut client = stack.tcp().connect(&away(tenant, id)).await;
        client.subscribed(&format!("device-connect/{tenant}/#")).await;
        client.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    }
    let mut live = stack.witness("acme").await;
    let mut globex = stack.member("globex", "publisher").await;
    for n in 0..50 {
        let payload = format!("{n} {}", "x".repeat(1000));
        live.published(&format!("device-connect/acme/{n}"), &payload).await;
        assert_eq!(live.payload().await, payload, "who is there gets everything");
        globex.published(&format!("device-connect/globex/{n}"), &payload).await;
    }
    let dropped = stack.metric("bulkhead_mqtt_messages_dropped_total");
    assert!((90..=92).contains(&dropped), "8 to 10 messages have room: {dropped}");
    let mut waiting = 0;
    for id in ["one", "other"] {
        let mut client = stack.tcp().connect(&away("acme", id)).await;
        client.ping().await;
        waiting += client.heard_so_far().len() as u64;
    }
    assert_eq!(waiting + dropped, 100);
    let mut client = stack.tcp().connect(&away("globex", "one")).await;
    for n in 0..50 {
        assert!(client.payload().await.starts_with(&format!("{n} ")), "another's is not touched");
    }
    // What was taken out leaves room.
    live.published("device-connect/acme/x", "after").await;
    assert_eq!(live.payload().await, "after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_one_client_is_limited() {
    let stack =
        Stack::mqtt().mqtt("max_packet_bytes = 4096\nsession_queue_bytes = 8192").start().await;
    let hello = stack.hello("away", &Token::role("acme", "member")).resume(600);
    let mut client = stack.tcp().connect(&hello).await;
    client.subscribed("device-connect/acme/#").await;
    client.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    let mut publisher = stack.member("acme", "publisher").await;
    for n in 0..20 {
        let payload = format!("{n} {}", "x".repeat(1000));
        publisher.published("device-connect/acme/x", &payload).await;
    }
    let mut client = stack.tcp().connect(&hello).await;
    for n in 0..7 {
        assert!(client.payload().await.starts_with(&format!("{n} ")), "the oldest are kept");
    }
    client.nothing().await;
    assert_eq!(stack.metric("bulkhead_mqtt_messages_dropped_total"), 13);
}

/// Quotas of what is kept are for Bulkhead's own broker. Another one limits each session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_broker_keeps_it_limits_itself() {
    let few = "max_inflight_messages 5\nmax_queued_messages 5";
    let stack = Stack::mqtt_in(Mode::Upstream).mosquitto(few).start().await;
    let quotas = Quotas {
        retained_messages: Some(1),
        retained_bytes: Some(1),
        queued_bytes: Some(1),
        ..Quotas::default()
    };
    limit(&stack, quotas).await;
    let away = |tenant: &str| stack.hello("away", &Token::role(tenant, "member")).resume(600);
    for tenant in ["acme", "globex"] {
        let mut client = stack.tcp().connect(&away(tenant)).await;
        client.subscribed(&format!("device-connect/{tenant}/#")).await;
        client.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    }
    let mut acme = stack.member("acme", "own").await;
    let mut globex = stack.member("globex", "own").await;
    globex.published("device-connect/globex/x", "undisturbed").await;
    for n in 0..100 {
        assert_eq!(acme.retain(&format!("device-connect/acme/{n}"), "kept").await, TAKEN);
    }
    acme.subscribed("device-connect/acme/#").await;
    for _ in 0..100 {
        assert_eq!(acme.payload().await, "kept");
    }
    let mut client = stack.tcp().connect(&away("acme")).await;
    for n in 0..5 {
        assert_eq!(client.message().await.topic, format!("device-connect/acme/{n}"));
    }
    client.forget_messages().await;
    client.nothing().await;
    let mut client = stack.tcp().connect(&away("globex")).await;
    assert_eq!(client.payload().await, "undisturbed");
}

async fn a_flood_of_one_tenant_stays_its_own(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut witness = stack.witness("globex").await;
    let options = SubscriptionOptions::of_qos(QoS::AtMostOnce);
    // A client that reads nothing, and clients that publish without end to ever new topics.
    let mut deaf = stack.member("acme", "deaf").await;
    deaf.subscribe_with(&[("device-connect/acme/#", options)], &[]).await;
    let mut floods = Vec::new();
    for n in 0..3 {
        let mut client = stack.member("acme", &format!("flood-{n}")).await;
        floods.push(tokio::spawn(async move {
            let payload = "x".repeat(500);
            for i in 0_u64.. {
                let topic = format!("device-connect/acme/{n}/{i}");
                client.publish(&topic, &payload).await;
            }
        }));
    }
    let received = || stack.metric("bulkhead_mqtt_messages_received_total");
    eventually("the flood is there", || received() > 5_000).await;
    for n in 0..200 {
        let payload = n.to_string();
        witness.published("device-connect/globex/x", &payload).await;
        assert_eq!(witness.payload().await, payload);
    }
    let during = received();
    eventually("the flood goes on", || received() > during + 1_000).await;
    let mut new = stack.member("globex", "new").await;
    new.subscribed("device-connect/globex/y").await;
    new.published("device-connect/globex/y", "own").await;
    assert_eq!(new.payload().await, "own");
    floods.iter().for_each(tokio::task::JoinHandle::abort);
}

bulkhead_tests::in_both_modes! {
    connections_are_limited_and_a_known_client_may_come_back,
    many_connections_with_one_client_id_take_one_place,
    subscriptions_are_limited_over_all_clients_of_the_tenant,
    messages_per_second_are_limited_over_all_clients_of_the_tenant,
    a_payload_is_no_larger_than_the_tenant_may_have,
    a_flood_of_one_tenant_stays_its_own,
}
