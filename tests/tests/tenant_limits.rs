//! What a tenant may use in a day, over every broker, several processes and restarts.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use bulkhead_cli::{Services, start_services};
use bulkhead_control::directory::Store;
use bulkhead_devkit::{NatsServer, Tools};
use bulkhead_policy::{Quotas, TenantId};
use bulkhead_tests::mqtt::codec::{QoS, ReasonCode, Version};
use bulkhead_tests::mqtt::{Client, Door, Mode};
use bulkhead_tests::zenoh::say::{self, key};
use bulkhead_tests::zenoh::settle;
use bulkhead_tests::{
    Actor, ConfigModeSite, Replica, Stack, StackBuilder, TestClock, Token, Transport,
    connect_error, eventually, eventually_async,
};
use serde_json::Value;
use std::process::Command;
use std::sync::{Arc, Mutex};
use zenoh_protocol::network::NetworkBody;
use zenoh_protocol::transport::close;

const PROGRAM: &str = env!("CARGO_BIN_EXE_replica");
const QUOTA: ReasonCode = ReasonCode::QUOTA_EXCEEDED;
const TAKEN: ReasonCode = ReasonCode::SUCCESS;
const OVER: &str = "daily_quota_exceeded";

/// Processes tell each other ten times a second.
const OFTEN: &str = "[usage]\ninterval = \"100ms\"";

/// The other tenants may do what acme may not do any more.
const LIMITED: &str = "[metrics]\ntenant_label = true";

fn often(stack: StackBuilder) -> StackBuilder {
    stack.config(OFTEN).config(LIMITED).clock(&TestClock::noon())
}

fn per_day(messages: u64) -> Quotas {
    Quotas { messages_per_day: Some(messages), ..Quotas::default() }
}

/// Limits acme and waits until the service knows.
async fn tell(stack: &Stack, quotas: Quotas) {
    stack.change("acme", |t| t.quotas = quotas).await;
    let acme: TenantId = "acme".parse().unwrap();
    let directory = stack.control().auth().directory();
    eventually("the quotas are known", || directory.tenant(&acme).unwrap().quotas == quotas).await;
}

/// The same, once it is known what was used so far.
async fn limit(stack: &Stack, quotas: Quotas) {
    tell(stack, quotas).await;
    let readiness = stack.control().readiness();
    eventually("what was used is known", || readiness.missing().is_empty()).await;
}

/// The other tenant does what acme may not do any more.
async fn undisturbed(witness: &mut Client) {
    witness.nothing().await;
    for n in 0..20 {
        let payload = format!("{n} {}", "x".repeat(100));
        witness.published(&format!("device-connect/globex/{n}"), &payload).await;
        assert_eq!(witness.payload().await, payload);
    }
}

/// Publishes until it is refused, and says how many were taken.
async fn until_refused(client: &mut Client) -> u64 {
    for taken in 0..1_000 {
        match client.publish1("device-connect/acme/x", "x").await {
            TAKEN => {}
            reason => {
                assert_eq!(reason, QUOTA);
                return taken;
            }
        }
    }
    panic!("a thousand messages were taken")
}

async fn messages_of_a_day_are_limited(mode: Mode) {
    let stack = often(Stack::mqtt_in(mode)).start().await;
    let mut witness = stack.witness("globex").await;
    limit(&stack, per_day(5)).await;
    let mut own = stack.witness("acme").await;
    let mut one = stack.member("acme", "one").await;
    let mut other = stack.device("acme", "cam-1").await;
    // All clients of the tenant together, whatever they ask for.
    for n in 0..2 {
        one.published("device-connect/acme/x", &format!("one {n}")).await;
        other.published("device-connect/acme/cam-1/event/x", &format!("other {n}")).await;
    }
    one.publish("device-connect/acme/x", "fifth").await;
    for expected in ["one 0", "other 0", "one 1", "other 1", "fifth"] {
        assert_eq!(own.payload().await, expected);
    }
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for client in [&mut one, &mut other] {
            let topic = "device-connect/acme/cam-1/event/x";
            assert_eq!(client.publish_with(topic, "x", qos, false, &[]).await, QUOTA);
        }
    }
    one.publish("device-connect/acme/x", "silently").await;
    // Taking back what is retained is a message too.
    assert_eq!(one.retain("device-connect/acme/x", "").await, QUOTA);
    one.ping().await;
    own.nothing().await;
    assert_eq!(stack.refusals("publish", OVER), 6);
    stack.denied(OVER).await;
    // Who cannot be told is closed; it may come back, listen, and publish no more.
    let hello = stack.hello("old", &Token::role("acme", "member")).version(Version::V311);
    for _ in 0..2 {
        let mut old = stack.tcp().connect(&hello).await;
        old.subscribed("device-connect/acme/#").await;
        old.send_publish("device-connect/acme/x", "old", QoS::AtLeastOnce, false, &[]).await;
        assert_eq!(old.closed_unacknowledged().await, None);
    }
    own.nothing().await;
    undisturbed(&mut witness).await;
    // It lasts.
    assert_eq!(one.publish1("device-connect/acme/x", "x").await, QUOTA);
    // More is there at once, and just so much more.
    limit(&stack, per_day(8)).await;
    eventually_async("it may publish again", async || {
        one.publish1("device-connect/acme/x", "more").await == TAKEN
    })
    .await;
    assert_eq!(until_refused(&mut other_member(&stack).await).await, 2);
    // Less too, also below what was used already; and no limit is none.
    limit(&stack, per_day(3)).await;
    assert_eq!(one.publish1("device-connect/acme/x", "x").await, QUOTA);
    limit(&stack, Quotas::default()).await;
    eventually_async("nothing limits it", async || {
        one.publish1("device-connect/acme/x", "free").await == TAKEN
    })
    .await;
    undisturbed(&mut witness).await;
}

async fn other_member(stack: &Stack) -> Client {
    stack.member("acme", "other").await
}

async fn bytes_of_a_day_are_limited(mode: Mode) {
    let stack = often(Stack::mqtt_in(mode)).start().await;
    let mut witness = stack.witness("globex").await;
    limit(&stack, Quotas { bytes_per_day: Some(1_000), ..Quotas::default() }).await;
    let mut one = stack.member("acme", "one").await;
    one.published("device-connect/acme/x", &"x".repeat(900)).await;
    for _ in 0..10 {
        // What does not fit takes nothing.
        assert_eq!(one.publish1("device-connect/acme/x", &"x".repeat(101)).await, QUOTA);
    }
    one.published("device-connect/acme/x", &"x".repeat(100)).await;
    assert_eq!(one.publish1("device-connect/acme/x", "x").await, QUOTA);
    undisturbed(&mut witness).await;
}

async fn authentications_of_a_day_are_limited(mode: Mode) {
    let stack = often(Stack::mqtt_in(mode)).start().await;
    let mut witness = stack.witness("globex").await;
    let quotas = |n| Quotas { authentications_per_day: Some(n), ..Quotas::default() };
    limit(&stack, quotas(2)).await;
    let hello = |id: &str| stack.hello(id, &Token::role("acme", "member"));
    let mut one = stack.tcp().connect(&hello("one")).await;
    // What is no token of the tenant's uses nothing up.
    for _ in 0..3 {
        let forged = Token::role("acme", "member").with(serde_json::json!({"aud": "other"}));
        assert_ne!(stack.tcp().refuse(&stack.hello("forged", &forged)).await, QUOTA);
    }
    let _two = stack.tcp().connect(&hello("two")).await;
    assert_eq!(stack.tcp().refuse(&hello("three")).await, QUOTA);
    let old = hello("three").version(Version::V311);
    assert_eq!(stack.tcp().refuse(&old).await, ReasonCode::SERVER_UNAVAILABLE);
    stack.denied(OVER).await;
    let rejected = format!("backend=\"mqtt\",reason=\"{OVER}\"");
    assert_eq!(stack.metric(&format!("bulkhead_quota_rejections_total{{{rejected}}}")), 2);
    // Whoever is in stays, and is not asked again.
    one.published("device-connect/acme/x", "x").await;
    undisturbed(&mut witness).await;
    limit(&stack, quotas(3)).await;
    eventually_async("one more may come", async || {
        !stack.tcp().knock(&hello("three")).await.1.is_error()
    })
    .await;
    assert_eq!(stack.tcp().refuse(&hello("four")).await, QUOTA);
    let _ = stack.member("globex", "more").await;
}

async fn a_will_counts_as_the_message_that_it_is(mode: Mode) {
    let stack = often(Stack::mqtt_in(mode)).start().await;
    limit(&stack, per_day(2)).await;
    let mut own = stack.witness("acme").await;
    let hello = |n: i32| {
        let hello = stack.hello(&format!("mortal-{n}"), &Token::role("acme", "member"));
        hello.will("device-connect/acme/will", &format!("{n}"))
    };
    for n in 0..2 {
        stack.tcp().connect(&hello(n)).await.vanish();
        assert_eq!(own.payload().await, n.to_string());
    }
    stack.tcp().connect(&hello(2)).await.vanish();
    eventually("the third will is refused", || stack.refusals("will", OVER) == 1).await;
    own.nothing().await;
    let mut one = stack.member("acme", "one").await;
    assert_eq!(one.publish1("device-connect/acme/x", "x").await, QUOTA);
}

bulkhead_tests::in_both_modes!(
    messages_of_a_day_are_limited,
    bytes_of_a_day_are_limited,
    authentications_of_a_day_are_limited,
    a_will_counts_as_the_message_that_it_is,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_day_begins_with_nothing_used() {
    let clock = TestClock::noon();
    let stack = often(Stack::mqtt()).clock(&clock).start().await;
    limit(&stack, per_day(3)).await;
    let mut one = stack.member("acme", "one").await;
    assert_eq!(until_refused(&mut one).await, 3);
    clock.advance(11);
    assert_eq!(one.publish1("device-connect/acme/x", "x").await, QUOTA, "it is the same day");
    clock.advance(2);
    eventually_async("it may publish again", async || {
        one.publish1("device-connect/acme/x", "x").await == TAKEN
    })
    .await;
    assert_eq!(until_refused(&mut one).await, 2);
    // A clock that is set back meets the day that was.
    clock.advance(-2);
    eventually_async("yesterday was used up", async || {
        let (day, all) = stack.control().auth().usage().all();
        day == bulkhead_policy::Day::of((clock.clock())()) && all["acme"].today.messages == 3
    })
    .await;
    assert_eq!(one.publish1("device-connect/acme/x", "x").await, QUOTA);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zenoh_messages_of_a_day_are_limited() {
    let stack = often(Stack::zenoh()).start().await;
    let witness = stack.zenoh_witness("globex").await;
    let own = stack.zenoh_session(&Token::role("acme", "viewer")).await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&heard);
    own.declare_subscriber("device-connect/acme/**")
        .callback(move |sample| log.lock().unwrap().push(sample.key_expr().to_string()))
        .background()
        .await
        .unwrap();
    settle(&own, "acme").await;
    let heard = || heard.lock().unwrap().len();
    limit(&stack, per_day(5)).await;
    let greeting = || stack.greeting(&Token::role("acme", "member"));
    let mut raw = stack.zenoh_tcp().enter(&greeting()).await;
    let nobody = "device-connect/acme/nobody";
    let put = |n: i32| say::kept(key(&format!("device-connect/acme/{n}")), vec![b'x'; 10]);
    raw.say((0..4).map(put)).await;
    // A query is a message too.
    raw.say([say::query(1, key(nobody))]).await;
    raw.until(|body| matches!(body, NetworkBody::ResponseFinal(end) if end.rid == 1)).await;
    eventually("four arrive", || heard() == 4).await;
    raw.say((4..14).map(put)).await;
    // A refused one ends, so that nobody waits for an answer.
    raw.say([say::query(2, key(nobody))]).await;
    raw.until(|body| matches!(body, NetworkBody::ResponseFinal(end) if end.rid == 2)).await;
    raw.sync(nobody).await;
    // That asked by a query as well.
    assert_eq!((stack.refusals("put", OVER), stack.refusals("query", OVER)), (10, 2));
    stack.denied(OVER).await;
    assert_eq!(heard(), 4);
    witness.undisturbed().await;
    // The session lives on, and another one may not either.
    let mut other = stack.zenoh_tcp().enter(&greeting()).await;
    other.say([put(99)]).await;
    other.sync(nobody).await;
    assert_eq!(heard(), 4);
    limit(&stack, per_day(100)).await;
    eventually_async("it may publish again", async || {
        raw.say([put(1)]).await;
        raw.sync(nobody).await;
        heard() > 4
    })
    .await;
    // Bytes and authentications.
    limit(
        &stack,
        Quotas { bytes_per_day: Some(1), authentications_per_day: Some(1), ..per_day(1_000) },
    )
    .await;
    eventually_async("bytes are limited", async || {
        let before = stack.refusals("put", OVER);
        raw.say([put(1)]).await;
        raw.sync(nobody).await;
        stack.refusals("put", OVER) > before
    })
    .await;
    assert_eq!(stack.zenoh_tcp().refuse(&greeting()).await, Some(close::reason::INVALID));
    witness.undisturbed().await;
}

/// Whether somebody of a tenant gets into NATS.
async fn admitted(stack: &Stack, tenant: &str) -> bool {
    let token = stack.token(&Token::role(tenant, "member"));
    let options = async_nats::ConnectOptions::with_token(token);
    Actor::try_connect(stack.url(), options).await.is_ok()
}

async fn nats_member(stack: &Stack, url: &str, tenant: &str) -> Actor {
    Actor::connect(url, &stack.token(&Token::role(tenant, "member"))).await
}

/// What acme has published today, as the service knows.
fn published(stack: &Stack) -> u64 {
    let (_, all) = stack.control().auth().usage().all();
    all.get("acme").map_or(0, |usage| usage.today.messages)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_has_used_its_day_on_nats_is_cut_off_until_the_next() {
    let clock = TestClock::noon();
    let mut stack = often(Stack::new()).clock(&clock).start().await;
    limit(&stack, per_day(10)).await;
    let globex = nats_member(&stack, stack.url(), "globex").await;
    let mut theirs = globex.subscribe("device-connect.globex.>").await;
    let acme = nats_member(&stack, stack.url(), "acme").await;
    let mut own = acme.subscribe("device-connect.acme.>").await;
    for n in 0..9 {
        acme.publish("device-connect.acme.x", &n.to_string()).await;
        bulkhead_tests::next(&mut own).await;
    }
    eventually("nine are counted", || published(&stack) == 9).await;
    assert!(!acme.is_cut());
    acme.publish("device-connect.acme.x", "tenth").await;
    acme.cut().await;
    let token = stack.token(&Token::role("acme", "member"));
    connect_error(&stack, &token).await;
    stack.denied(OVER).await;
    globex.publish("device-connect.globex.x", "own").await;
    assert_eq!(bulkhead_tests::next(&mut theirs).await.payload, "own");
    // A server that begins anew counts from nothing; what was counted stays.
    stack.servers()[0].restart().unwrap();
    eventually_async("globex is back", async || admitted(&stack, "globex").await).await;
    assert!(!admitted(&stack, "acme").await);
    // More lets it in at once.
    limit(&stack, per_day(12)).await;
    eventually_async("acme is back", async || admitted(&stack, "acme").await).await;
    let again = nats_member(&stack, stack.url(), "acme").await;
    assert_eq!(published(&stack), 10);
    for _ in 0..2 {
        again.publish("device-connect.acme.x", "more").await;
    }
    again.cut().await;
    assert!(!admitted(&stack, "acme").await);
    assert_eq!(published(&stack), 12);
    clock.advance(13);
    eventually_async("a new day lets it in", async || admitted(&stack, "acme").await).await;
    assert_eq!(published(&stack), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_on_a_cluster_counts_once_however_many_replicas_there_are() {
    let stack = Stack::new().config(OFTEN).etcd().servers(2).without_service();
    let mut stack = stack.start().await;
    // The first to come reads the servers.
    let first = stack.replica(PROGRAM, "first").await;
    let acme = nats_member(&stack, stack.url(), "acme").await;
    acme.publish("device-connect.acme.x", "x").await;
    eventually("the first one counts", || used(&stack, "messages_per_day") == 1).await;
    stack.start_service().await;
    let urls = stack.urls();
    let sender = nats_member(&stack, &urls[0], "acme").await;
    let receiver = nats_member(&stack, &urls[1], "acme").await;
    let mut heard = receiver.subscribe("device-connect.acme.>").await;
    let mut sent = 1;
    let arrived = async |heard: &mut async_nats::Subscriber| {
        let next = futures::StreamExt::next(heard);
        tokio::time::timeout(std::time::Duration::from_millis(200), next).await.is_ok()
    };
    eventually_async("the cluster knows the subscription", async || {
        sender.publish("device-connect.acme.x", "x").await;
        sent += 1;
        arrived(&mut heard).await
    })
    .await;
    // Over many readings, of which each server has one reader.
    for _ in 0..500 {
        sender.publish("device-connect.acme.x", "x").await;
    }
    sent += 500;
    settled(&stack, sent).await;
    first.kill().unwrap();
    for _ in 0..50 {
        sender.publish("device-connect.acme.x", "x").await;
    }
    // Whoever reads now goes on where the other one was.
    settled(&stack, sent + 50).await;
}

/// Waits until so much is counted, and makes sure that it stays so.
async fn settled(stack: &Stack, messages: u64) {
    eventually("all of them are counted", || published(stack) >= messages).await;
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!(published(stack), messages, "and each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_fixed_accounts_too() {
    let site = ConfigModeSite::new();
    let (home, server_config) = (site.folder().join("server"), site.server_config());
    let server = tokio::task::spawn_blocking(move || {
        let binary = Tools::open().unwrap().nats_server().unwrap();
        NatsServer::start(&binary, &home, &server_config).unwrap()
    })
    .await
    .unwrap();
    let mut config = site.configure(server.client_url());
    config.usage.interval = jiff::SignedDuration::from_millis(100);
    let Services { control, .. } = start_services(config, None).await.unwrap();
    eventually("ready", || control.readiness().missing().is_empty()).await;
    let connect = async |tenant: &str| {
        let token = site.signer.sign(&Token::role(tenant, "member").claims()).unwrap();
        let options = async_nats::ConnectOptions::with_token(token);
        Actor::try_connect(server.client_url(), options).await.ok()
    };
    let store = Store::open(&control.config().directory).await.unwrap();
    let acme: TenantId = "acme".parse().unwrap();
    let change = async |quotas| store.update(&acme, |t| t.quotas = quotas).await.unwrap();
    change(per_day(5)).await;
    let globex = connect("globex").await.unwrap();
    let member = connect("acme").await.unwrap();
    for _ in 0..5 {
        member.publish("device-connect.acme.x", "x").await;
    }
    member.cut().await;
    assert!(connect("acme").await.is_none() && !globex.is_cut());
    let terminated = format!("bulkhead_terminations_total{{backend=\"nats\",reason=\"{OVER}\"}} 1");
    eventually("it is counted", || {
        control.auth().metrics().encode().unwrap().contains(&terminated)
    })
    .await;
    change(per_day(100)).await;
    eventually_async("it is back", async || connect("acme").await.is_some()).await;
    control.shutdown().await;
}

/// Where a replica's MQTT clients come in.
fn door(stack: &Stack, replica: &Replica) -> Door {
    let log = replica.log();
    let line = log.lines().find(|line| line.contains("MQTT clients are served")).unwrap();
    let address = line.split("addresses=[").nth(1).unwrap().split([',', ']']).next().unwrap();
    Door {
        transport: Transport::Tcp,
        address: address.trim().parse().unwrap(),
        certificate: stack.folder().join("mqtt.pem"),
        identity: None,
    }
}

/// What the command says of acme.
fn shown(stack: &Stack) -> Value {
    let mut command = Command::new(PROGRAM);
    command.args(["tenant", "show", "acme", "--json", "--config"]).arg(stack.config_path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut value: Value = serde_json::from_slice(&output.stdout).unwrap();
    value["usage"].take()
}

/// How much of a resource the command says acme uses.
fn used(stack: &Stack, resource: &str) -> Value {
    shown(stack)["resources"][resource]["used"].clone()
}

async fn a_killed_broker_that_comes_back_remembers(stack: StackBuilder) {
    let stack = stack.config(OFTEN).without_service().start().await;
    stack.change("acme", |t| t.quotas = per_day(20)).await;
    let hello = stack.hello("one", &Token::role("acme", "member"));
    let first = stack.replica(PROGRAM, "first").await;
    let mut one = door(&stack, &first).connect(&hello).await;
    assert_eq!(until_refused(&mut one).await, 20);
    eventually("it is written down", || used(&stack, "messages_per_day") == 20).await;
    first.kill().unwrap();
    drop(one);
    // Not from memory: nobody runs.
    assert_eq!(used(&stack, "messages_per_day"), 20);
    for name in ["second", "third"] {
        let next = stack.replica(PROGRAM, name).await;
        let mut one = door(&stack, &next).connect(&hello).await;
        assert_eq!(one.publish1("device-connect/acme/x", "x").await, QUOTA);
        let globex = stack.hello("other", &Token::role("globex", "member"));
        let mut other = door(&stack, &next).connect(&globex).await;
        other.published("device-connect/globex/x", "x").await;
        next.kill().unwrap();
    }
    assert_eq!(used(&stack, "messages_per_day"), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_remembers_by_files() {
    a_killed_broker_that_comes_back_remembers(Stack::mqtt()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_remembers_by_etcd() {
    a_killed_broker_that_comes_back_remembers(Stack::mqtt().etcd()).await;
}

async fn two_brokers_share_one_cap(stack: StackBuilder) {
    let stack = stack.config(OFTEN).without_service().start().await;
    stack.change("acme", |t| t.quotas = per_day(40)).await;
    let mut clients = Vec::new();
    let mut replicas = Vec::new();
    for name in ["first", "second"] {
        let replica = stack.replica(PROGRAM, name).await;
        let hello = stack.hello(name, &Token::role("acme", "member"));
        clients.push(door(&stack, &replica).connect(&hello).await);
        replicas.push(replica);
    }
    // One at a time, so that each knows of the other's before its own.
    let mut taken = 0;
    for _ in 0..2 {
        for client in &mut clients {
            for _ in 0..9 {
                client.published("device-connect/acme/x", "x").await;
                taken += 1;
            }
            for replica in &replicas {
                eventually_async("it is known", async || {
                    let told = replica.asked("/v1/usage").await;
                    told["tenants"]["acme"]["messages_per_day"]["used"] == taken
                })
                .await;
            }
        }
    }
    // 36 of 40. What both still take before they know of each other is what one interval lets through.
    let [first, second] = &mut clients[..] else { unreachable!() };
    let (one, other) = tokio::join!(until_refused(first), until_refused(second));
    assert!((4..=8).contains(&(one + other)), "{one} and {other}");
    for client in &mut clients {
        assert_eq!(client.publish1("device-connect/acme/x", "x").await, QUOTA);
    }
    let sum = taken + one + other;
    eventually("all of it is known", || used(&stack, "messages_per_day") == sum).await;
    // It is lifted for both at once.
    stack.change("acme", |t| t.quotas = per_day(1_000)).await;
    for client in &mut clients {
        eventually_async("it may publish again", async || {
            client.publish1("device-connect/acme/x", "x").await == TAKEN
        })
        .await;
    }
    // What each has, together.
    eventually("both connections are told", || used(&stack, "connections") == 2).await;
    assert_eq!(shown(&stack)["processes"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_brokers_share_one_cap_by_files() {
    two_brokers_share_one_cap(Stack::mqtt()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_brokers_share_one_cap_by_etcd() {
    two_brokers_share_one_cap(Stack::mqtt().etcd()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_etcd_is_away_what_is_known_holds_and_nothing_is_lost() {
    let mut stack = often(Stack::mqtt()).etcd().start().await;
    let mut witness = stack.witness("globex").await;
    limit(&stack, per_day(10)).await;
    let mut one = stack.member("acme", "one").await;
    for _ in 0..4 {
        one.published("device-connect/acme/x", "x").await;
    }
    eventually("it is written down", || used(&stack, "messages_per_day") == 4).await;
    stack.etcd().kill().unwrap();
    for _ in 0..2 {
        one.published("device-connect/acme/x", "x").await;
    }
    eventually("it is said", || stack.metric("bulkhead_usage_errors_total") > 0).await;
    let told = stack.metric("bulkhead_usage_told_timestamp_seconds");
    assert!(told > 0);
    assert_eq!(until_refused(&mut one).await, 4);
    undisturbed(&mut witness).await;
    stack.etcd().restart().unwrap();
    eventually("all of it is written down", || used(&stack, "messages_per_day") == 10).await;
    assert_eq!(one.publish1("device-connect/acme/x", "x").await, QUOTA);
    limit(&stack, per_day(11)).await;
    eventually_async("it may publish again", async || {
        one.publish1("device-connect/acme/x", "x").await == TAKEN
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_knows_nothing_lets_nobody_in_who_has_a_daily_quota() {
    let folder = "folder = \"tenants.toml/no-folder\"";
    let stack = Stack::mqtt().config(OFTEN).config(folder).start().await;
    let mut witness = stack.witness("globex").await;
    // Without a quota there is nothing to know.
    let mut one = stack.member("acme", "one").await;
    one.published("device-connect/acme/x", "x").await;
    tell(&stack, per_day(10)).await;
    let refused = stack.tcp().refuse(&stack.hello("two", &Token::role("acme", "member"))).await;
    assert_eq!(refused, ReasonCode::SERVER_UNAVAILABLE);
    stack.denied("usage_unavailable").await;
    assert_eq!(stack.control().readiness().missing(), ["what tenants have used today"]);
    assert!(stack.metric("bulkhead_usage_errors_total") > 0);
    undisturbed(&mut witness).await;
    let ran = Command::new(PROGRAM).arg("check").arg("--config").arg(stack.config_path()).output();
    let text = String::from_utf8(ran.unwrap().stdout).unwrap();
    assert!(text.contains("FAIL  usage: ") && text.contains("usage.folder"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_the_port_and_the_metrics_say_the_truth() {
    let stack = often(Stack::mqtt()).start().await;
    limit(&stack, Quotas { connections: Some(4), bytes_per_day: Some(100), ..per_day(10) }).await;
    let mut one = stack.member("acme", "one").await;
    one.subscribed("device-connect/acme/#").await;
    assert_eq!(one.retain("device-connect/acme/kept", "12345").await, TAKEN);
    one.published("device-connect/acme/x", "12345").await;
    eventually("the command knows", || used(&stack, "messages_per_day") == 2).await;
    eventually("and of what there is", || used(&stack, "retained_messages") == 1).await;
    let shown = shown(&stack);
    let resource = |name: &str, field: &str| shown["resources"][name][field].clone();
    assert_eq!(shown["processes"], 1);
    for (name, used, limit, percent) in [
        ("connections", 1, 4, 25.0),
        ("messages_per_day", 2, 10, 20.0),
        ("bytes_per_day", 10, 100, 10.0),
    ] {
        let row = (resource(name, "used"), resource(name, "limit"), resource(name, "percent"));
        assert_eq!(row, (used.into(), limit.into(), percent.into()), "{name}");
        let label = format!("{{resource=\"{name}\",tenant=\"acme\"}}");
        assert_eq!(stack.metric(&format!("bulkhead_tenant_usage{label}")), used);
        assert_eq!(stack.metric(&format!("bulkhead_tenant_quota{label}")), limit);
    }
    assert_eq!(
        (resource("subscriptions", "used"), resource("authentications_per_day", "used")),
        (1.into(), 1.into())
    );
    // Nobody waits for anything, which is known; of a rate nothing is used.
    assert_eq!(resource("queued_bytes", "used"), 0);
    assert_eq!(resource("messages_per_second", "used"), Value::Null);
    let url = format!("http://{}/v1/usage", stack.control().admin_address());
    let told: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    let expected = serde_json::json!({"used": 2, "quota": 10});
    assert_eq!(told["tenants"]["acme"]["messages_per_day"], expected);
    // What goes is gone, and what was used stays.
    one.goodbye().await;
    eventually("nobody is connected", || used(&stack, "connections") == 0).await;
    assert_eq!(used(&stack, "messages_per_day"), 2);
}
