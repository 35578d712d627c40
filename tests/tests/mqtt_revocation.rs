//! What changes in the directory and in the configuration reaches live connections, sessions that
//! are away, wills, and what waits.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_control::config::MqttConfig;
use bulkhead_mqtt_broker::Broker;
use bulkhead_mqtt_broker::hook::{Access, AllowAll, Answer, Attempt, Hook, Renewal};
use bulkhead_policy::{
    DenyReason, DeviceId, Quotas, Role, Scope, Status, Tenant, TenantId, Verdict,
};
use bulkhead_tests::mqtt::codec::{Property, QoS, ReasonCode, SubscriptionOptions, Version};
use bulkhead_tests::mqtt::{Client, Door, Hello, Mode, SERVICE_ISSUER};
use bulkhead_tests::{Stack, Token, Transport, eventually, eventually_async};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const DENIED: ReasonCode = ReasonCode::NOT_AUTHORIZED;
const CUT: Option<ReasonCode> = Some(ReasonCode::ADMINISTRATIVE_ACTION);

/// Connects with these tokens, each under a client id of its own.
async fn connect_all(stack: &Stack, tokens: &[Token]) -> Vec<Client> {
    let mut clients = Vec::new();
    for (n, token) in tokens.iter().enumerate() {
        clients.push(stack.tcp().connect(&stack.hello(&format!("client-{n}"), token)).await);
    }
    clients
}

fn role(value: serde_json::Value) -> Role {
    serde_json::from_value(value).unwrap()
}

/// What members of acme may do from now on, by the directory.
async fn narrow(stack: &Stack, rights: serde_json::Value) {
    let narrowed = role(rights);
    stack
        .change("acme", move |t| {
            t.roles.insert("member".parse().unwrap(), narrowed.clone());
        })
        .await;
}

/// Waits until nobody of acme with this role may subscribe to this any more.
async fn no_more(stack: &Stack, role: &str, filter: &str) {
    let probe = stack.hello("probe", &Token::role("acme", role));
    eventually_async("the poorer role is in force", async || {
        stack.tcp().connect(&probe).await.subscribe(filter).await.is_error()
    })
    .await;
}

/// A client of all tenants.
async fn service(stack: &Stack) -> Client {
    let mut service = stack.tcp().connect(&stack.hello("service", &stack.service_token())).await;
    service.subscribed("device-connect/+/#").await;
    service
}

async fn a_suspended_tenant_is_cut_off_and_comes_back_when_resumed(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut globex = stack.witness("globex").await;
    let device = stack.hello("cam-1", &Token::device("acme", "cam-1"));
    let mut live = Vec::new();
    for transport in [Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss] {
        for (version, told) in [(Version::V5, CUT), (Version::V311, None)] {
            let mut hello = device.clone().version(version);
            hello.client_id = format!("cam-1-{transport}-{version:?}");
            live.push((stack.door(transport).connect(&hello).await, told));
        }
    }
    stack.change("acme", |t| t.status = Status::Suspended).await;
    let expected = live.len() as u64;
    for (mut client, told) in live {
        assert_eq!(client.closed().await, told);
    }
    assert_eq!(stack.tcp().refuse(&device).await, DENIED);
    stack.denied("tenant_suspended").await;
    eventually("all are counted", || stack.terminations("tenant_suspended") == expected).await;
    eventually("and how long it took", || stack.cuts("learned") == expected).await;
    assert_eq!(stack.cuts("revoked"), 0, "the directory does not say since when");
    eventually("and written down", || {
        let cut = |r: &&serde_json::Value| r["event"] == "terminate" && r["device"] == "cam-1";
        stack.audit().iter().filter(cut).count() as u64 == expected
    })
    .await;
    globex.published("device-connect/globex/x", "undisturbed").await;
    assert_eq!(globex.payload().await, "undisturbed");

    stack.change("acme", |t| t.status = Status::Active).await;
    eventually_async("the resumed tenant is admitted", async || {
        !stack.tcp().knock(&device).await.1.is_error()
    })
    .await;
    globex.ping().await;
}

async fn a_deleted_tenant_is_cut_off(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let (acme, globex) = (Token::device("acme", "cam-1"), Token::device("globex", "cam-1"));
    let mut clients = connect_all(&stack, &[acme.clone(), globex]).await;
    stack.store().await.delete(&"acme".parse().unwrap()).await.unwrap();
    assert_eq!(clients[0].closed().await, CUT);
    eventually("how long it took is counted", || stack.cuts("learned") == 1).await;
    assert_eq!(stack.tcp().refuse(&stack.hello("cam-1", &acme)).await, DENIED);
    stack.denied("tenant_unknown").await;
    clients[1].ping().await;
}

async fn a_revoked_device_is_cut_off_alone(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let revoked = Token::device("acme", "cam-1");
    let mut clients = connect_all(
        &stack,
        &[
            revoked.clone(),
            Token::device("acme", "cam-2"),
            // A device of the same name elsewhere is another device.
            Token::device("globex", "cam-1"),
            Token::role("acme", "member"),
        ],
    )
    .await;
    stack
        .change("acme", |t| {
            t.revoked_devices.insert("cam-1".parse().unwrap(), jiff::Timestamp::now());
        })
        .await;
    assert_eq!(clients[0].closed().await, CUT);
    assert_eq!(stack.tcp().refuse(&stack.hello("again", &revoked)).await, DENIED);
    stack.denied("device_revoked").await;
    eventually("it is counted once", || stack.terminations("device_revoked") == 1).await;
    let cuts = || (stack.cuts("learned"), stack.cuts("revoked"));
    eventually("and how long it took", || cuts() == (1, 1)).await;
    for client in &mut clients[1..] {
        client.ping().await;
    }
    // Who leaves is not cut, whatever is true of it by then.
    let mut leaver = clients.pop().unwrap();
    leaver.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    eventually("it has left", || stack.metric("bulkhead_mqtt_connections") == 2).await;
    assert_eq!(cuts(), (1, 1));
    stack.change("acme", |t| t.revoked_devices.clear()).await;
    eventually_async("the device is admitted again", async || {
        !stack.tcp().knock(&stack.hello("again", &revoked)).await.1.is_error()
    })
    .await;
}

async fn a_revoked_token_is_cut_off_alone(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let stolen = Token::device("acme", "cam-1").with(json!({"jti": "stolen"}));
    let fresh = Token::device("acme", "cam-1").with(json!({"jti": "fresh"}));
    let mut clients = connect_all(&stack, &[stolen.clone(), fresh]).await;
    stack
        .change("acme", |t| {
            t.revoked_tokens.insert("stolen".parse().unwrap(), jiff::Timestamp::MAX);
        })
        .await;
    assert_eq!(clients[0].closed().await, CUT);
    assert_eq!(stack.tcp().refuse(&stack.hello("again", &stolen)).await, DENIED);
    stack.denied("token_revoked").await;
    clients[1].ping().await;
}

async fn tokens_from_before_a_time_are_cut_off(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let now = jiff::Timestamp::now().as_second();
    let old = Token::device("acme", "cam-1").with(json!({"iat": now - 100}));
    let undated = Token::device("acme", "cam-3").with(json!({"iat": null}));
    let new = Token::device("acme", "cam-2").with(json!({"iat": now}));
    let mut clients = connect_all(&stack, &[old.clone(), undated, new]).await;
    let from = jiff::Timestamp::from_second(now - 50).unwrap();
    stack.change("acme", move |t| t.tokens_valid_from = Some(from)).await;
    assert_eq!(clients[0].closed().await, CUT);
    assert_eq!(clients[1].closed().await, CUT, "it does not say when");
    assert_eq!(stack.tcp().refuse(&stack.hello("again", &old)).await, DENIED);
    stack.denied("token_superseded").await;
    clients[2].ping().await;
}

async fn a_connection_ends_with_its_token(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let brief = stack.hello("brief", &Token::device("acme", "cam-1").ttl(3));
    let mut lasting = stack.device("acme", "cam-2").await;
    let mut five = stack.tcp().connect(&brief).await;
    let mut hello = brief.clone().version(Version::V311);
    hello.client_id = "brief-3".to_owned();
    let mut three = stack.tcp().connect(&hello).await;
    assert_eq!(five.closed().await, Some(ReasonCode::MAXIMUM_CONNECT_TIME));
    assert_eq!(three.closed().await, None);
    eventually("both are counted", || stack.terminations("token_expired") == 2).await;
    eventually("and how long it took", || stack.cuts("learned") == 2).await;
    assert_eq!(stack.tcp().refuse(&brief).await, ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    lasting.ping().await;
}

async fn an_issuer_that_is_taken_out_vouches_for_nobody_any_more(mode: Mode) {
    let other = "[[issuers]]\nname = \"other\"\nissuer = \"https://other.test\"\n\
                 audiences = [\"bulkhead\"]\nalgorithms = [\"EdDSA\"]\ntenants = [\"acme\"]\n\
                 keys.jwks_file = \"issuer.jwks.json\"\n";
    let stack = Stack::mqtt_in(mode).config(other).start().await;
    let theirs = Token::device("acme", "cam-1").with(json!({"iss": "https://other.test"}));
    let mut clients = connect_all(&stack, &[theirs.clone(), Token::device("acme", "cam-2")]).await;
    stack.reconfigure(|config| config.replace(other, ""));
    assert_eq!(clients[0].closed().await, Some(DENIED));
    assert_eq!(stack.tcp().refuse(&stack.hello("again", &theirs)).await, DENIED);
    stack.denied("issuer_unknown").await;
    clients[1].ping().await;
}

async fn a_role_changed_by_a_reload_takes_subscriptions_away_and_leaves_the_rest(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut member = stack.member("acme", "member").await;
    let options = SubscriptionOptions::of_qos(QoS::AtLeastOnce);
    for filter in [
        "device-connect/acme/+/cmd",
        "device-connect/acme/+/event/#",
        "$share/g/device-connect/acme/+/cmd",
    ] {
        assert!(!member.subscribe_with(&[(filter, options)], &[]).await[0].is_error());
    }
    let mut device = stack.device("acme", "cam-1").await;
    // A broken configuration changes nothing.
    stack.reconfigure(|config| format!("{config}\n[roles.member]\nsubscribe = [\"#\"]\n"));
    stack.reconfigure(|config| {
        config.replace(
            "[roles.member]\nsubscribe = [\"#\"]\n",
            "[roles.member]\nsubscribe = [\"device-connect/{tenant}/*/event/**\"]\n",
        )
    });
    eventually("two of three subscriptions are taken away", || {
        stack.refusals("subscribe", "rights_changed") == 2
    })
    .await;
    device.published("device-connect/acme/cam-2/cmd", "secret").await;
    device.published("device-connect/acme/cam-1/event/motion", "own").await;
    assert_eq!(member.payload().await, "own", "nothing came before it");
    member.nothing().await;
    assert_eq!(member.subscribe("device-connect/acme/+/cmd").await, DENIED);
    assert_eq!(member.publish1("device-connect/acme/cam-1/cmd", "x").await, DENIED);
    let codes = member.unsubscribe(&["device-connect/acme/+/cmd"]).await;
    assert_eq!(codes, [ReasonCode::NO_SUBSCRIPTION_EXISTED]);
}

async fn a_tenants_own_role_changes_nothing_for_others(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut acme = stack.witness("acme").await;
    let mut globex = stack.witness("globex").await;
    narrow(&stack, json!({"publish": ["device-connect/{tenant}/**"]})).await;
    eventually("acme's is taken away", || stack.refusals("subscribe", "rights_changed") == 1).await;
    globex.published("device-connect/globex/x", "still").await;
    assert_eq!(globex.payload().await, "still");
    acme.published("device-connect/acme/x", "unheard").await;
    acme.nothing().await;
}

async fn a_role_of_a_tenants_own_has_no_names_but_known_ones(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut globex = stack.witness("globex").await;
    let hello = stack.hello("member", &Token::role("acme", "member"));
    let mut member = stack.tcp().connect(&hello).await;
    let mut device = stack.device("acme", "cam-1").await;
    // It holds the tenant, and is globex's all the same.
    narrow(&stack, json!({"publish": ["device-connect/*/*/{tenant}"]})).await;
    assert_eq!(member.closed().await, Some(DENIED));
    eventually("it is counted", || stack.terminations("role_not_confined") == 1).await;
    assert_eq!(stack.tcp().refuse(&hello).await, DENIED);
    stack.denied("role_not_confined").await;
    device.ping().await;
    globex.published("device-connect/globex/x", "undisturbed").await;
    assert_eq!(globex.payload().await, "undisturbed");

    narrow(&stack, json!({"publish": ["device-connect/{tenant}/*/x"]})).await;
    eventually_async("it may come again", async || !stack.tcp().knock(&hello).await.1.is_error())
        .await;
}

async fn the_first_message_after_a_right_is_gone_is_refused(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut witness = stack.device("acme", "cam-1").await;
    witness.subscribed("device-connect/acme/cam-1/cmd").await;
    let mut member = stack.witness("acme").await;
    let topic = "device-connect/acme/cam-1/cmd";
    member.published(topic, "own").await;
    assert_eq!(witness.payload().await, "own");
    assert_eq!(member.payload().await, "own");
    let alias = [Property::TopicAlias(3)];
    member.publish_with(topic, "own", QoS::AtLeastOnce, false, &alias).await;
    assert_eq!(witness.payload().await, "own");
    assert_eq!(member.payload().await, "own");

    narrow(&stack, json!({"publish": ["device-connect/{tenant}/*/event/**"]})).await;
    // That its subscription is gone shows that the change has reached this very session.
    eventually("the change is there", || stack.refusals("subscribe", "rights_changed") == 1).await;
    let told = member.publish_with("", "attack", QoS::AtLeastOnce, false, &alias).await;
    assert_eq!(told, DENIED, "the alias stands for a topic and not for the right to it");
    assert_eq!(member.publish1(topic, "attack").await, DENIED);
    let told = member.publish_with("", "attack", QoS::ExactlyOnce, false, &alias).await;
    assert_eq!(told, DENIED);
    assert_eq!(stack.refusals("publish", "publish_denied"), 3);
    witness.nothing().await;
    member.published("device-connect/acme/cam-1/event/x", "own").await;
}

async fn what_waits_for_a_session_is_dropped_with_the_right_to_it(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let away = stack.hello("away", &Token::role("acme", "member")).resume(600);
    let mut member = stack.tcp().connect(&away).await;
    member.acknowledges = false;
    member.subscribed("device-connect/acme/+/cmd").await;
    member.subscribed("device-connect/acme/+/event/#").await;
    let mut device = stack.device("acme", "cam-1").await;
    // One is under way and not acknowledged, others wait.
    device.published("device-connect/acme/cam-2/cmd", "secret under way").await;
    assert_eq!(member.payload().await, "secret under way");
    member.vanish();
    eventually("it is away", || stack.metric("bulkhead_mqtt_connections") == 1).await;
    device.published("device-connect/acme/cam-2/cmd", "secret").await;
    device.published("device-connect/acme/cam-1/event/motion", "own").await;
    device.published("device-connect/acme/cam-2/cmd", "secret").await;

    narrow(&stack, json!({"subscribe": ["device-connect/{tenant}/*/event/**"]})).await;
    let are_dropped = || stack.refusals("receive", "rights_changed") >= 2;
    if mode.is_embedded() {
        eventually("waiting messages are dropped", are_dropped).await;
    } else {
        no_more(&stack, "member", "device-connect/acme/+/cmd").await;
    }
    device.published("device-connect/acme/cam-2/cmd", "later").await;
    let mut member = stack.tcp().connect(&away).await;
    assert!(member.present);
    assert_eq!(member.payload().await, "own", "the one that it still may have");
    member.nothing().await;
    assert!(are_dropped(), "another broker keeps them, and the front does not hand them over");
}

async fn a_session_resumed_with_fewer_rights_gets_no_more_than_they_allow(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut member =
        stack.tcp().connect(&stack.hello("one", &Token::role("acme", "member")).resume(600)).await;
    member.subscribed("device-connect/acme/#").await;
    member.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    let mut device = stack.device("acme", "cam-1").await;
    device.published("device-connect/acme/cam-2/cmd", "secret").await;
    // The same client id and tenant, and a role that the tenant has made poorer.
    let poorer = role(json!({"subscribe": ["device-connect/{tenant}/broadcast"]}));
    stack
        .change("acme", move |t| {
            t.roles.insert("viewer".parse().unwrap(), poorer.clone());
        })
        .await;
    let viewer = stack.hello("one", &Token::role("acme", "viewer")).resume(600);
    no_more(&stack, "viewer", "device-connect/acme/+/cmd").await;
    let mut viewer = stack.tcp().connect(&viewer).await;
    assert!(viewer.present);
    device.published("device-connect/acme/cam-2/cmd", "secret").await;
    viewer.nothing().await;
}

async fn retained_messages_are_not_read_after_the_right_to_them_is_gone(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut member = stack.witness("acme").await;
    let topic = "device-connect/acme/cam-1/state";
    assert_eq!(member.retain(topic, "kept").await, ReasonCode::SUCCESS);
    assert_eq!(member.payload().await, "kept");
    let mut viewer =
        stack.tcp().connect(&stack.hello("viewer", &Token::role("acme", "viewer"))).await;
    viewer.subscribed(topic).await;
    assert_eq!(viewer.payload().await, "kept");
    narrow(&stack, json!({"subscribe": ["device-connect/{tenant}/*/event/**"]})).await;
    eventually("the right is gone", || stack.refusals("subscribe", "rights_changed") == 1).await;
    for filter in ["device-connect/acme/#", topic, "device-connect/acme/+/state"] {
        assert_eq!(member.subscribe(filter).await, DENIED, "{filter}");
    }
    assert_eq!(member.retain(topic, "").await, DENIED);
    member.nothing().await;
    viewer.subscribed(topic).await;
    assert_eq!(viewer.payload().await, "kept", "for who may read it, it is still there");
}

async fn a_will_whose_right_is_gone_is_not_published(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut witness = stack.device("acme", "cam-1").await;
    witness.subscribed("device-connect/acme/+/event/#").await;
    let topic = "device-connect/acme/cam-2/event/gone";
    let hello = |id: &str, role: &str| {
        stack.hello(id, &Token::role("acme", role)).will(topic, &format!("will of {role}"))
    };
    let mut member = stack.tcp().connect(&hello("member", "member")).await;
    member.subscribed("device-connect/acme/#").await;
    let operator = stack.tcp().connect(&hello("operator", "operator")).await;
    narrow(&stack, json!({"publish": ["device-connect/{tenant}/*/cmd"]})).await;
    eventually("the right is gone", || stack.refusals("subscribe", "rights_changed") == 1).await;
    member.vanish();
    eventually("the will is refused", || stack.refusals("will", "publish_denied") == 1).await;
    operator.vanish();
    assert_eq!(witness.payload().await, "will of operator");
    witness.nothing().await;
    stack.denied("publish_denied").await;
}

async fn no_will_of_a_suspended_tenant_is_published_now_or_later(mode: Mode) {
    let stack = Stack::mqtt_in(mode).config(SERVICE_ISSUER).start().await;
    let mut service = service(&stack).await;
    let hello = |tenant: &str, id: &str| {
        let topic = format!("device-connect/{tenant}/{id}/event/gone");
        stack.hello(id, &Token::role(tenant, "member")).will(&topic, "will")
    };
    let delayed =
        |tenant: &str| hello(tenant, "delayed").resume(600).will_with(Property::WillDelay(1));
    let mut acme = [
        stack.tcp().connect(&hello("acme", "live")).await,
        stack.tcp().connect(&hello("acme", "retained").will_retained()).await,
    ];
    stack.tcp().connect(&delayed("globex")).await.vanish();
    stack.tcp().connect(&delayed("acme")).await.vanish();
    eventually("both are away", || stack.metric("bulkhead_mqtt_connections") == 3).await;
    stack.change("acme", |t| t.status = Status::Suspended).await;
    for client in &mut acme {
        assert_eq!(client.closed().await, CUT);
    }
    let heard = service.message().await;
    assert_eq!(heard.topic, "device-connect/globex/delayed/event/gone", "another's is published");
    eventually("three wills are refused", || stack.refusals("will", "tenant_suspended") == 3).await;
    service.nothing().await;
    stack.change("acme", |t| t.status = Status::Active).await;
    eventually_async("the resumed tenant is admitted", async || {
        !stack.tcp().knock(&stack.hello("x", &Token::role("acme", "member"))).await.1.is_error()
    })
    .await;
    service.nothing().await;
}

/// How many messages mosquitto lets wait for a client, so that they are not too many for a test.
const FEW_WAIT: &str = "max_queued_messages 50";

/// Lets a client's messages pile up until its socket takes nothing more.
async fn clog(mode: Mode, stack: &mut Stack, victim: &mut Client) {
    victim.subscribed("device-connect/acme/cam-1/event/#").await;
    let mut flood = stack.device("acme", "cam-1").await;
    let payload = "x".repeat(100_000);
    eventually_async("it takes nothing more", async || {
        for _ in 0..20 {
            flood.publish("device-connect/acme/cam-1/event/flood", &payload).await;
        }
        flood.ping().await;
        if mode.is_embedded() {
            stack.metric("bulkhead_mqtt_messages_dropped_total") > 0
        } else {
            stack.mosquitto().log().contains("messages are being dropped for client acme:-:")
        }
    })
    .await;
}

async fn whoever_does_not_read_is_cut_off_all_the_same(mode: Mode) {
    let mut stack = Stack::mqtt_in(mode).config(SERVICE_ISSUER).mosquitto(FEW_WAIT).start().await;
    let mut service = stack.tcp().connect(&stack.hello("service", &stack.service_token())).await;
    service.subscribed("device-connect/+/cam-1/cmd").await;
    let mut deaf = stack.member("acme", "deaf").await;
    clog(mode, &mut stack, &mut deaf).await;
    deaf.publish("device-connect/acme/cam-1/cmd", "before").await;
    assert_eq!(service.payload().await, "before");
    stack.change("acme", |t| t.status = Status::Suspended).await;
    eventually("it is cut off", || stack.terminations("tenant_suspended") >= 1).await;
    deaf.publish("device-connect/acme/cam-1/cmd", "after").await;
    eventually("only the service is left", || stack.metric("bulkhead_mqtt_connections") == 1).await;
    eventually("how long it took is counted", || stack.cuts("learned") == 1).await;
    service.nothing().await;
}

async fn whoever_does_not_read_loses_its_session_to_a_newer_connection(mode: Mode) {
    let mut stack = Stack::mqtt_in(mode).mosquitto(FEW_WAIT).start().await;
    let mut deaf = stack.member("acme", "one-id").await;
    clog(mode, &mut stack, &mut deaf).await;
    let mut newer = stack.member("acme", "one-id").await;
    newer.ping().await;
    eventually("the older connection is gone", || stack.metric("bulkhead_mqtt_connections") == 1)
        .await;
}

async fn a_newer_connection_takes_the_session_and_a_stop_is_announced(mode: Mode) {
    let mut stack = Stack::mqtt_in(mode).start().await;
    let hello = stack.hello("one-id", &Token::role("acme", "member"));
    let mut first = stack.tcp().connect(&hello).await;
    let mut second = stack.door(Transport::Ws).connect(&hello).await;
    assert_eq!(first.closed().await, Some(ReasonCode::SESSION_TAKEN_OVER));
    let mut third = stack.tcp().connect(&hello.clone().version(Version::V311)).await;
    assert_eq!(second.closed().await, Some(ReasonCode::SESSION_TAKEN_OVER));
    let mut fourth = stack.tcp().connect(&hello).await;
    assert_eq!(third.closed().await, None, "in version 3 there is no way to say why");
    stack.stop_service().await;
    assert_eq!(fourth.closed().await, Some(ReasonCode::SERVER_SHUTTING_DOWN));
}

async fn a_storm_of_reconnects_during_a_suspension_finds_every_door_shut(mode: Mode) {
    let stack = Stack::mqtt_in(mode).config("[limits]\nfailures_per_minute = 100000").start().await;
    let mut globex = stack.witness("globex").await;
    let hello = stack.hello("cam-1", &Token::device("acme", "cam-1"));
    let storm: Vec<_> = (0..16)
        .map(|n| {
            let (door, mut hello) = (stack.tcp(), hello.clone());
            hello.client_id = format!("cam-1-{n}");
            tokio::spawn(async move {
                let mut last = None;
                for _ in 0..100 {
                    let (client, reason) = door.knock(&hello).await;
                    last = (!reason.is_error()).then_some(client);
                }
                last
            })
        })
        .collect();
    stack.change("acme", |t| t.status = Status::Suspended).await;
    for attempt in storm {
        if let Some(mut client) = attempt.await.unwrap() {
            assert_eq!(client.closed().await, CUT);
        }
    }
    assert_eq!(stack.tcp().refuse(&hello).await, DENIED);
    eventually("only globex is left", || stack.metric("bulkhead_mqtt_connections") == 1).await;
    globex.published("device-connect/globex/x", "undisturbed").await;
    assert_eq!(globex.payload().await, "undisturbed");
}

async fn the_last_of_many_changes_holds(mode: Mode) {
    let stack = Stack::mqtt_in(mode).config("[limits]\nfailures_per_minute = 100000").start().await;
    let mut globex = stack.witness("globex").await;
    let hello = stack.hello("cam-1", &Token::device("acme", "cam-1"));
    for last in [Status::Suspended, Status::Active] {
        for n in 0..100 {
            let status = if n % 2 == 0 { Status::Active } else { Status::Suspended };
            stack.change("acme", |t| t.status = status).await;
        }
        stack.change("acme", |t| t.status = last).await;
        eventually_async("the last state holds", async || {
            let (mut client, reason) = stack.tcp().knock(&hello).await;
            if last == Status::Active && !reason.is_error() {
                // Nothing that comes late cuts it.
                client.nothing().await;
            }
            reason.is_error() == (last == Status::Suspended)
        })
        .await;
    }
    globex.ping().await;
}

/// Lets everybody in until it is told that they are suspended, which it can be told between the
/// question and the session.
#[derive(Clone)]
struct Suspending {
    everybody: AllowAll,
    suspended: Arc<AtomicBool>,
    too_late: bool,
    broker: Arc<OnceLock<Broker>>,
}

impl Suspending {
    fn suspend(&self) -> u64 {
        self.suspended.store(true, Ordering::SeqCst);
        self.broker.get().unwrap().reassess(None).values().sum()
    }

    /// A broker with this hook and nothing else.
    fn start(too_late: bool) -> (Self, Door, CancellationToken) {
        let config = MqttConfig::new(vec!["tcp://127.0.0.1:0".parse().unwrap()]);
        let hook = Self {
            everybody: AllowAll::of(TenantId::parse("acme").unwrap()),
            suspended: Arc::default(),
            too_late,
            broker: Arc::default(),
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let registry = prometheus::Registry::new();
        let broker = Broker::start(&config, hook.clone(), &registry, &tasks, &stop).unwrap();
        let (transport, address) = (Transport::Tcp, broker.addresses()[0]);
        hook.broker.set(broker).unwrap();
        (hook, Door { transport, address, certificate: "".into(), identity: None }, stop)
    }
}

impl Hook for Suspending {
    fn connect<'a>(&'a self, _: Attempt<'a>) -> Answer<'a> {
        let access: Arc<dyn Access> = Arc::new(self.clone());
        if self.too_late {
            assert_eq!(self.suspend(), 0, "there is no session yet");
        }
        Box::pin(std::future::ready(Ok(access)))
    }
}

impl Access for Suspending {
    fn scope(&self) -> &Scope {
        self.everybody.scope()
    }

    fn device(&self) -> Option<&DeviceId> {
        None
    }

    fn publish(&self, topic: &str) -> Verdict<()> {
        self.everybody.publish(topic)
    }

    fn subscribe(&self, filter: &str) -> Verdict<()> {
        self.everybody.subscribe(filter)
    }

    fn receives(&self, topic: &str) -> bool {
        self.everybody.receives(topic)
    }

    fn expires_at(&self) -> Option<jiff::Timestamp> {
        None
    }

    fn quotas(&self) -> Quotas {
        Quotas::default()
    }

    fn renew(&self) -> Verdict<Renewal> {
        if self.suspended.load(Ordering::SeqCst) {
            Err(DenyReason::TenantSuspended)
        } else {
            Ok(Renewal::Unchanged)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_suspended_while_its_client_is_being_let_in_is_cut() {
    let (_, door, stop) = Suspending::start(true);
    let (mut client, reason) = door.knock(&Hello::new("late", "any")).await;
    if !reason.is_error() {
        assert_eq!(client.closed().await, CUT);
    }
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_is_counted_once() {
    let (hook, door, stop) = Suspending::start(false);
    let mut clients = Vec::new();
    for n in 0..50 {
        clients.push(door.connect(&Hello::new(&n.to_string(), "any")).await);
    }
    assert_eq!(hook.suspend() + hook.suspend() + hook.suspend(), 50);
    for client in &mut clients {
        assert_eq!(client.closed().await, CUT);
    }
    stop.cancel();
}

/// Neither a subscription of before nor a new one brings anything of the tenant that was deleted.
async fn nothing_is_left(stack: &Stack, hello: &Hello, topic: &str) {
    let mut member = None;
    eventually_async("the new tenant is admitted", async || {
        let knocked = stack.tcp().try_knock(hello).await;
        member = knocked.filter(|(_, reason)| !reason.is_error()).map(|(client, _)| client);
        member.is_some()
    })
    .await;
    let mut member = member.unwrap();
    assert!(!member.present);
    member.nothing().await;
    member.subscribed(topic).await;
    member.nothing().await;
    member.vanish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_of_the_same_name_finds_nothing_of_one_that_was_deleted() {
    const TOPIC: &str = "device-connect/acme/kept";
    let mut stack = Stack::mqtt().mqtt("data = \"data\"").start().await;
    let store = stack.store().await;
    let acme = TenantId::parse("acme").unwrap();
    let lasting = |id: &str| stack.hello(id, &Token::role("acme", "member")).resume(600);
    let (first, second, third) = (lasting("first"), lasting("second"), lasting("third"));
    let mut member = stack.tcp().connect(&first).await;
    member.subscribed(TOPIC).await;
    assert!(!member.retain(TOPIC, "kept").await.is_error());
    store.delete(&acme).await.unwrap();
    assert_eq!(member.closed().await, CUT);
    store.create(&acme, Tenant::default()).await.unwrap();
    nothing_is_left(&stack, &second, TOPIC).await;
    // Nor is there anything on disk.
    stack.stop_service().await;
    stack.start_service().await;
    nothing_is_left(&stack, &first, TOPIC).await;

    // Nor does the broker have to see that there was none in between.
    let mut member = stack.tcp().connect(&third).await;
    member.subscribed(TOPIC).await;
    assert!(!member.retain(TOPIC, "kept").await.is_error());
    store.delete(&acme).await.unwrap();
    store.create(&acme, Tenant::default()).await.unwrap();
    assert_eq!(member.closed().await, CUT);
    nothing_is_left(&stack, &third, TOPIC).await;

    // It makes no difference whether the broker runs when the tenant is deleted.
    let mut member = stack.tcp().connect(&third).await;
    member.subscribed(TOPIC).await;
    assert!(!member.retain(TOPIC, "kept").await.is_error());
    stack.stop_service().await;
    store.delete(&acme).await.unwrap();
    store.create(&acme, Tenant::default()).await.unwrap();
    stack.start_service().await;
    nothing_is_left(&stack, &third, TOPIC).await;
    let mut member = stack.tcp().connect(&third).await;
    member.subscribed(TOPIC).await;
    assert!(!member.retain(TOPIC, "kept").await.is_error());
    stack.stop_service().await;
    store.delete(&acme).await.unwrap();
    stack.start_service().await;
    eventually("what was kept is forgotten", || stack.metric("bulkhead_mqtt_sessions") == 0).await;
    store.create(&acme, Tenant::default()).await.unwrap();
    nothing_is_left(&stack, &third, TOPIC).await;
}

bulkhead_tests::in_both_modes! {
    a_suspended_tenant_is_cut_off_and_comes_back_when_resumed,
    a_deleted_tenant_is_cut_off,
    a_revoked_device_is_cut_off_alone,
    a_revoked_token_is_cut_off_alone,
    tokens_from_before_a_time_are_cut_off,
    a_connection_ends_with_its_token,
    an_issuer_that_is_taken_out_vouches_for_nobody_any_more,
    a_role_changed_by_a_reload_takes_subscriptions_away_and_leaves_the_rest,
    a_tenants_own_role_changes_nothing_for_others,
    a_role_of_a_tenants_own_has_no_names_but_known_ones,
    the_first_message_after_a_right_is_gone_is_refused,
    what_waits_for_a_session_is_dropped_with_the_right_to_it,
    a_session_resumed_with_fewer_rights_gets_no_more_than_they_allow,
    retained_messages_are_not_read_after_the_right_to_them_is_gone,
    a_will_whose_right_is_gone_is_not_published,
    no_will_of_a_suspended_tenant_is_published_now_or_later,
    whoever_does_not_read_is_cut_off_all_the_same,
    whoever_does_not_read_loses_its_session_to_a_newer_connection,
    a_newer_connection_takes_the_session_and_a_stop_is_announced,
    a_storm_of_reconnects_during_a_suspension_finds_every_door_shut,
    the_last_of_many_changes_holds,
}
