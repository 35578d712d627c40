//! What the registry does when something is away, or gone: brokers, etcd, replicas, tenants.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_policy::Tenant;
use bulkhead_tests::registry::{Keys, Party, Person, registration};
use bulkhead_tests::{Stack, eventually_async};
use etcd_client::{AlarmAction, AlarmOptions, AlarmType};
use futures::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

const PROGRAM: &str = env!("CARGO_BIN_EXE_replica");

/// Devices' time to live, in seconds.
const TTL: i64 = 4;

async fn with_replicas(names: &[&str]) -> (Stack, Vec<bulkhead_tests::Replica>) {
    let stack = Stack::new().etcd().start().await;
    let mut replicas = Vec::new();
    for name in names {
        replicas.push(stack.registry_replica(PROGRAM, name).await);
    }
    (stack, replicas)
}

async fn register(party: &Party, device: &str, ttl: i64) {
    let answer = party.register(device, |params| params["device_ttl"] = json!(ttl)).await;
    assert_eq!(answer["result"]["status"], "registered", "{answer}");
}

/// A device that beats until it is dropped.
fn beating(stack: &Stack, tenant: &str, device: &str) -> AbortOnDropHandle<()> {
    let token = stack.token(&bulkhead_tests::Token::device(tenant, device));
    let (url, tenant, device) = (stack.url().to_owned(), tenant.to_owned(), device.to_owned());
    AbortOnDropHandle::new(tokio::spawn(async move {
        let options = async_nats::ConnectOptions::with_token(token).retry_on_initial_connect();
        let client = options.max_reconnects(None).connect(url).await.unwrap();
        let subject = format!("device-connect.{tenant}.{device}.heartbeat");
        let beat = json!({"device_id": device, "ts": 1.5}).to_string();
        loop {
            let _ = client.publish(subject.clone(), beat.clone().into()).await;
            sleep(Duration::from_millis(500)).await;
        }
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_forgets_nobody_and_tells_nothing() {
    let (mut stack, mut replicas) = with_replicas(&["first"]).await;
    let console = Party::role(&stack, "acme", "member").await;
    let mut lifecycle = console.lifecycle().await;
    register(&console, "cam-1", TTL).await;
    register(&console, "asleep", TTL).await;
    assert_eq!(lifecycle.next().await, "online cam-1");
    assert_eq!(lifecycle.next().await, "online asleep");
    let _beats = beating(&stack, "acme", "cam-1");
    let before = console.get("cam-1").await;
    replicas.pop().unwrap().kill().unwrap();
    // It is away for longer than devices live.
    sleep(Duration::from_secs(5)).await;
    let _second = stack.registry_replica(PROGRAM, "second").await;
    assert_eq!(console.get("cam-1").await, before);
    // Who is gone is told of once, and only after a whole time to live in which it could be heard.
    assert_eq!(lifecycle.next().await, "offline asleep");
    console.actor.client.flush().await.unwrap();
    lifecycle.nothing_but(&console, "marker").await;
    let mut keys = Keys::of(&mut stack).await;
    assert!(keys.get("acme", "cam-1").await.unwrap().1 != 0);
    assert_eq!(keys.get("acme", "asleep").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_dies_is_taken_over_and_its_devices_stay() {
    let (mut stack, replicas) = with_replicas(&["first", "second"]).await;
    let tenants = ["acme", "globex"];
    let store = stack.store().await;
    let more: Vec<String> = (0..6).map(|n| format!("t{n}")).collect();
    for tenant in &more {
        store.create(&tenant.parse().unwrap(), Tenant::default()).await.unwrap();
    }
    let mut parties = Vec::new();
    for tenant in tenants.into_iter().chain(more.iter().map(String::as_str)) {
        let party = Party::role(&stack, tenant, "member").await;
        let lifecycle = party.lifecycle().await;
        register(&party, "cam-1", 8).await;
        let beats = beating(&stack, tenant, "cam-1");
        parties.push((party, lifecycle, beats));
    }
    for (_, lifecycle, _) in &mut parties {
        assert_eq!(lifecycle.next().await, "online cam-1");
    }
    let mut keys = Keys::of(&mut stack).await;
    assert_eq!(keys.count("/bulkhead/registry/replicas/members/").await, 2);
    let mut replicas = replicas.into_iter();
    replicas.next().unwrap().kill().unwrap();
    eventually_async("it is given up", async || {
        keys.count("/bulkhead/registry/replicas/members/").await == 1
            && keys.count("/bulkhead/registry/replicas/partitions/").await == 64
    })
    .await;
    for (party, _, _) in &parties {
        assert_eq!(party.devices().await, ["cam-1"], "{}", party.tenant);
    }
    // Longer than a time to live later, everybody who beats is still there, and nothing was told.
    sleep(Duration::from_secs(9)).await;
    for (party, lifecycle, _) in &mut parties {
        assert_eq!(party.devices().await, ["cam-1"], "{}", party.tenant);
        lifecycle.nothing_but(party, "marker").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_frozen_tells_and_writes_nothing_of_what_it_lost() {
    let (mut stack, replicas) = with_replicas(&["frozen"]).await;
    let console = Party::role(&stack, "acme", "member").await;
    let mut lifecycle = console.lifecycle().await;
    register(&console, "cam-1", TTL).await;
    assert_eq!(lifecycle.next().await, "online cam-1");
    let _beats = beating(&stack, "acme", "cam-1");
    replicas[0].pause().unwrap();
    let _second = stack.registry_replica(PROGRAM, "second").await;
    let mut keys = Keys::of(&mut stack).await;
    eventually_async("the frozen one is given up", async || {
        keys.count("/bulkhead/registry/replicas/members/").await == 1
    })
    .await;
    console.discover("getDevice", json!({"device_id": "cam-1"})).await;
    // Its clock says that everybody has been silent for long.
    sleep(Duration::from_secs(TTL.unsigned_abs())).await;
    replicas[0].resume().unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(console.devices().await, ["cam-1"]);
    lifecycle.nothing_but(&console, "marker").await;
    assert!(keys.get("acme", "cam-1").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_etcd_is_away_devices_are_served_and_what_changed_is_written_once() {
    let mut stack = Stack::new().etcd().registry("").start().await;
    let console = Party::role(&stack, "acme", "member").await;
    let mut lifecycle = console.lifecycle().await;
    register(&console, "cam-1", 60).await;
    register(&console, "leaves", TTL).await;
    assert_eq!(lifecycle.next().await, "online cam-1");
    assert_eq!(lifecycle.next().await, "online leaves");
    let leaves = beating(&stack, "acme", "leaves");
    let quiet = Party::role(&stack, "globex", "member").await;
    register(&quiet, "cam-9", 600).await;
    assert_eq!(quiet.discover("listDevices", json!({})).await.get("store_behind_seconds"), None);
    stack.etcd().kill().unwrap();
    // Nothing is to be written there, and so nothing fails.
    for (method, params) in [
        ("listDevices", json!({})),
        ("listDevices", json!({"limit": 1})),
        ("getDevice", json!({"device_id": "cam-9"})),
        ("describeFleet", json!({})),
    ] {
        eventually_async("a quiet tenant hears of it too", async || {
            let answer = quiet.discover(method, params.clone()).await;
            answer.get("store_behind_seconds").is_some_and(Value::is_u64)
        })
        .await;
    }
    let token = stack.token(&bulkhead_tests::Token::role("globex", "viewer"));
    let admin = stack.control().admin_address().to_string();
    let (folder, token) = (stack.folder(), token.as_str());
    let person = Person { program: PROGRAM, folder, admin: &admin, token };
    let text = person.list(&[]).await;
    assert!(text.contains("has not reached its store for") && text.contains("cam-9"), "{text}");
    for n in 0..50 {
        console.beat("cam-1", json!({"battery": n})).await;
    }
    eventually_async("the change is seen", async || {
        console.get("cam-1").await["status"]["battery"] == 49
    })
    .await;
    register(&console, "new", 60).await;
    assert_eq!(console.devices().await, ["cam-1", "leaves", "new"]);
    drop(leaves);
    eventually_async("who has left is not there", async || {
        console.devices().await == ["cam-1", "new"]
    })
    .await;
    assert_eq!(console.get("leaves").await, Value::Null);
    assert_eq!(console.discover("describeFleet", json!({})).await["total_devices"], 2);
    stack.etcd().restart().unwrap();
    // What can be told is told when it is written, in its order, once.
    let told = [lifecycle.next().await, lifecycle.next().await];
    assert_eq!(told, ["online new", "offline leaves"]);
    let mut keys = Keys::of(&mut stack).await;
    eventually_async("everything is written", async || {
        let battery =
            keys.get("acme", "cam-1").await.map(|(value, _)| value["status"]["battery"].clone());
        battery == Some(json!(49))
            && keys.get("acme", "new").await.is_some_and(|(_, lease)| lease != 0)
    })
    .await;
    assert_eq!(keys.get("acme", "leaves").await, None);
    // Two registrations, and many changes that are one write.
    assert_eq!(keys.writes("acme").await, 3);
    lifecycle.nothing_but(&console, "marker").await;
    for party in [&console, &quiet] {
        eventually_async("answers no longer say that they are old", async || {
            let listed = party.discover("listDevices", json!({})).await;
            listed.get("store_behind_seconds").is_none()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_was_away_makes_nobody_offline() {
    let mut stack = Stack::new().etcd().registry("").start().await;
    let console = Party::role(&stack, "acme", "member").await;
    register(&console, "cam-1", 2).await;
    let _beats = beating(&stack, "acme", "cam-1");
    stack.servers()[0].kill().unwrap();
    sleep(Duration::from_secs(4)).await;
    stack.servers()[0].restart().unwrap();
    let mut keys = Keys::of(&mut stack).await;
    for _ in 0..20 {
        assert!(keys.get("acme", "cam-1").await.is_some());
        sleep(Duration::from_millis(200)).await;
    }
    let after = Party::role_again(&stack, "acme", "member").await;
    assert_eq!(after.devices().await, ["cam-1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_lost_is_replaced_and_no_key_is_without_one() {
    let mut stack = Stack::new().etcd().registry("").start().await;
    let console = Party::role(&stack, "acme", "member").await;
    register(&console, "cam-1", 60).await;
    let mut keys = Keys::of(&mut stack).await;
    let (_, lease) = keys.get("acme", "cam-1").await.unwrap();
    keys.client().lease_revoke(lease).await.unwrap();
    assert_eq!(keys.get("acme", "cam-1").await, None);
    // A change that comes before the loss is known brings no immortal key.
    console.beat("cam-1", json!({"battery": 1})).await;
    eventually_async("it is written under another", async || {
        keys.get("acme", "cam-1").await.is_some_and(|(_, other)| other != 0 && other != lease)
    })
    .await;
    assert_eq!(console.devices().await, ["cam-1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_devices_delay_nobody() {
    let stack = Stack::new().etcd().registry("").start().await;
    let silent = Party::role(&stack, "acme", "member").await;
    let other = Party::role(&stack, "globex", "member").await;
    register(&other, "cam-1", 60).await;
    // They are asked who they are, and never answer.
    let mut asked = silent.actor.subscribe("device-connect.acme.*.cmd").await;
    for n in 0..200 {
        silent.beat(&format!("silent-{n}"), json!({})).await;
    }
    asked.next().await.unwrap();
    // Well before any of them can have been given up.
    let served = timeout(Duration::from_secs(3), async {
        other.beat("cam-1", json!({"battery": 5})).await;
        eventually_async("the other tenant is served", async || {
            other.get("cam-1").await["status"]["battery"] == 5
        })
        .await;
        register(&silent, "loud", 60).await;
    });
    served.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mute_devices_hold_up_no_live_one_of_their_tenant() {
    const MUTE: usize = 200;
    let stack = Stack::new().registry("").start().await;
    let crowd = Party::role(&stack, "acme", "member").await;
    crowd.discover("listDevices", json!({})).await;
    let mut asked = crowd.actor.subscribe("device-connect.acme.*.cmd").await;
    // They beat on and on, and never say who they are.
    let client = crowd.actor.client.clone();
    let _beats = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            for n in 0..MUTE {
                let device = format!("mute-{n}");
                let beat = json!({"device_id": device, "ts": 1.5}).to_string();
                let subject = format!("device-connect.acme.{device}.heartbeat");
                client.publish(subject, beat.into()).await.unwrap();
            }
            sleep(Duration::from_millis(500)).await;
        }
    }));
    let mut often: BTreeMap<String, usize> = BTreeMap::new();
    let mut next = async || {
        let message = timeout(Duration::from_secs(60), asked.next()).await;
        let message = message.expect("somebody is asked").unwrap();
        message.subject.split('.').nth(2).unwrap().to_owned()
    };
    *often.entry(next().await).or_default() += 1;

    // One comes last, and one when all others are known to be mute: both answer.
    for (live, is_last) in [("first", true), ("second", false)] {
        let device = Party::device(&stack, "acme", live).await;
        let own = format!("device-connect.acme.{live}.cmd");
        let mut commands = device.actor.subscribe(&own).await;
        let (answering, document) = (device.actor.client.clone(), registration(live));
        let _answers = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Some(command) = commands.next().await {
                let answer = json!({"id": live, "result": document["params"]}).to_string();
                answering.publish(command.reply.unwrap(), answer.into()).await.unwrap();
            }
        }));
        let _beating = beating(&stack, "acme", live);
        let mut before = 0;
        loop {
            let device = next().await;
            if device == live {
                break;
            }
            // Who is there may be asked twice, if it was slow.
            if !device.starts_with("mute-") {
                continue;
            }
            before += 1;
            *often.entry(device).or_default() += 1;
            assert!(before <= MUTE + MUTE / 8, "in vain: {live} is asked; {often:?}");
        }
        if is_last {
            // Nearly all that were asked before it were asked for the first time.
            let again = often.values().sum::<usize>() - often.len();
            assert!(again < MUTE / 8, "{often:?}");
        } else {
            assert_eq!(often.len(), MUTE, "{often:?}");
            assert!(before < MUTE, "all mute ones were asked again before it");
        }
        eventually_async("it is known", async || crowd.devices().await.contains(&live.to_owned()))
            .await;
        if is_last {
            while often.len() < MUTE {
                let device = next().await;
                if !device.starts_with("mute-") {
                    continue;
                }
                *often.entry(device).or_default() += 1;
                let asked = often.values().sum::<usize>();
                assert!(asked < MUTE + MUTE / 8, "in vain: all are asked; {often:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_come_and_go_and_the_next_of_the_name_finds_nothing() {
    let mut stack = Stack::new().etcd().registry("").start().await;
    let store = stack.store().await;
    let late = "late".parse().unwrap();
    store.create(&late, Tenant::default()).await.unwrap();
    let console = Party::role(&stack, "late", "member").await;
    register(&console, "cam-1", 600).await;
    let mut keys = Keys::of(&mut stack).await;
    assert_eq!(keys.count("/device-connect/late/").await, 1);
    store.delete(&late).await.unwrap();
    eventually_async("its keys are gone", async || keys.count("/device-connect/late/").await == 0)
        .await;
    store.create(&late, Tenant::default()).await.unwrap();
    let next = Party::role(&stack, "late", "member").await;
    assert_eq!(next.devices().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_joins_takes_its_share_and_nobody_notices() {
    let (mut stack, _first) = with_replicas(&["first"]).await;
    let store = stack.store().await;
    let mut parties = Vec::new();
    for n in 0..8 {
        let tenant = format!("t{n}");
        store.create(&tenant.parse().unwrap(), Tenant::default()).await.unwrap();
        let party = Party::role(&stack, &tenant, "member").await;
        register(&party, "cam-1", 60).await;
        let lifecycle = party.lifecycle().await;
        parties.push((party, lifecycle));
    }
    let _second = stack.registry_replica(PROGRAM, "second").await;
    let mut keys = Keys::of(&mut stack).await;
    eventually_async("the partitions are shared", async || {
        let shares = keys.shares().await;
        shares.len() == 2
            && shares.values().sum::<usize>() == 64
            && shares.values().all(|n| *n > 10)
    })
    .await;
    for (party, lifecycle) in &mut parties {
        assert_eq!(party.devices().await, ["cam-1"], "{}", party.tenant);
        lifecycle.nothing_but(party, "marker").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_etcd_has_no_room_devices_are_served_and_it_is_said() {
    let mut stack = Stack::new().etcd().registry("").start().await;
    let console = Party::role(&stack, "acme", "member").await;
    register(&console, "cam-1", 60).await;
    let mut keys = Keys::of(&mut stack).await;
    let alarm = AlarmOptions::new();
    keys.client().alarm(AlarmAction::Activate, AlarmType::Nospace, Some(alarm)).await.unwrap();
    register(&console, "new", 60).await;
    console.beat("cam-1", json!({"battery": 5})).await;
    assert_eq!(console.devices().await, ["cam-1", "new"]);
    assert_eq!(keys.get("acme", "new").await, None);
    eventually_async("it is said", async || stack.metric("bulkhead_registry_etcd_full") == 1).await;
    assert!(stack.metric("bulkhead_registry_waiting") > 0);
    let alarm = AlarmOptions::new();
    keys.client().alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(alarm)).await.unwrap();
    eventually_async("it is written", async || keys.get("acme", "new").await.is_some()).await;
    eventually_async("the change too", async || {
        keys.get("acme", "cam-1").await.unwrap().0["status"]["battery"] == 5
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_freezes_makes_nobody_offline() {
    let mut stack = Stack::new().etcd().registry("").start().await;
    let console = Party::role(&stack, "acme", "member").await;
    register(&console, "cam-1", 2).await;
    let _beats = beating(&stack, "acme", "cam-1");
    let mut keys = Keys::of(&mut stack).await;
    stack.servers()[0].pause().unwrap();
    // Longer than it lives, and too short for anybody to call the connection dead.
    for _ in 0..7 {
        sleep(Duration::from_millis(500)).await;
        assert!(keys.get("acme", "cam-1").await.is_some(), "nothing could be heard");
    }
    stack.servers()[0].resume().unwrap();
    for _ in 0..10 {
        sleep(Duration::from_millis(200)).await;
        assert!(keys.get("acme", "cam-1").await.is_some());
    }
}

/// What a NATS server passes on and the client library gives a connection up for.
async fn send_unreadable_header(stack: &Stack, tenant: &str) {
    let token = stack.token(&bulkhead_tests::Token::role(tenant, "member"));
    let address = stack.url().trim_start_matches("nats://").to_owned();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let header = "NATS/1.0\r\nno colon at all\r\n\r\n";
    let (len, payload) = (header.len(), "{}");
    let text = format!(
        "CONNECT {{\"auth_token\":\"{token}\",\"headers\":true,\"verbose\":false,\"pedantic\":false}}\r\n\
         HPUB device-connect.{tenant}.cam-1.heartbeat {len} {}\r\n{header}{payload}\r\nPING\r\n",
        len + payload.len()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut heard = String::new();
    while !heard.contains("PONG") {
        let mut part = [0; 4096];
        let n = stream.read(&mut part).await.unwrap();
        assert!(n > 0, "the server closed the connection: {heard}");
        heard += &String::from_utf8_lossy(&part[..n]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_tenant_sends_costs_another_nothing() {
    let stack = Stack::new().etcd().registry("").start().await;
    let witness = Party::role(&stack, "globex", "member").await;
    let mut lifecycle = witness.lifecycle().await;
    register(&witness, "silent", 3).await;
    assert_eq!(lifecycle.next().await, "online silent");
    // Were it the witness's connection too, nobody there could fall silent meanwhile.
    let attack = async {
        loop {
            send_unreadable_header(&stack, "acme").await;
            sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = attack => {}
        told = lifecycle.next() => assert_eq!(told, "offline silent"),
    }
    register(&witness, "cam-1", 60).await;
    assert_eq!(witness.devices().await, ["cam-1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_was_created_again_while_the_registry_was_away_finds_nothing() {
    let (mut stack, mut replicas) = with_replicas(&["first"]).await;
    let console = Party::role(&stack, "acme", "member").await;
    register(&console, "cam-1", 600).await;
    replicas.pop().unwrap().kill().unwrap();
    let (store, acme) = (stack.store().await, "acme".parse().unwrap());
    store.delete(&acme).await.unwrap();
    store.create(&acme, Tenant::default()).await.unwrap();
    let _second = stack.registry_replica(PROGRAM, "second").await;
    let next = Party::role(&stack, "acme", "member").await;
    assert_eq!(next.devices().await, [""; 0]);
    let mut keys = Keys::of(&mut stack).await;
    assert_eq!(keys.count("/device-connect/acme/").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_was_deleted_while_the_registry_was_away_leaves_nothing() {
    let (mut stack, mut replicas) = with_replicas(&["first"]).await;
    for tenant in ["acme", "globex"] {
        let console = Party::role(&stack, tenant, "member").await;
        register(&console, "cam-1", 600).await;
    }
    let mut keys = Keys::of(&mut stack).await;
    let remembered = "/bulkhead/registry/remembered/acme/old";
    keys.client().put(remembered, "{}", None).await.unwrap();
    replicas.pop().unwrap().kill().unwrap();
    stack.store().await.delete(&"acme".parse().unwrap()).await.unwrap();
    let _second = stack.registry_replica(PROGRAM, "second").await;
    for left in ["/device-connect/acme/", remembered, "/bulkhead/registry/tenants/acme"] {
        eventually_async(&format!("{left} is gone"), async || keys.count(left).await == 0).await;
    }
    assert_eq!(keys.count("/device-connect/globex/").await, 1);
    assert_eq!(keys.count("/bulkhead/registry/tenants/").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_key_somebody_removes_is_gone_and_comes_back_if_it_is_alive() {
    let mut stack = Stack::new().etcd().registry("").start().await;
    let console = Party::role(&stack, "acme", "member").await;
    let mut lifecycle = console.lifecycle().await;
    for device in ["alive", "dead"] {
        register(&console, device, 600).await;
        assert_eq!(lifecycle.next().await, format!("online {device}"));
    }
    let mut keys = Keys::of(&mut stack).await;
    let options = Some(etcd_client::DeleteOptions::new().with_prefix());
    keys.client().delete("/device-connect/acme/devices/", options).await.unwrap();
    let mut told = [lifecycle.next().await, lifecycle.next().await];
    told.sort();
    assert_eq!(told, ["offline alive", "offline dead"]);
    let mut asked = console.actor.subscribe("device-connect.acme.alive.cmd").await;
    console.beat("alive", json!({})).await;
    let question = bulkhead_tests::next(&mut asked).await;
    let answer = json!({"id": 1, "result": registration("alive")["params"]}).to_string();
    console.actor.client.publish(question.reply.unwrap(), answer.into()).await.unwrap();
    assert_eq!(lifecycle.next().await, "online alive");
    assert_eq!(console.devices().await, ["alive"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_is_never_compacted_or_has_the_default_quota_is_pointed_out() {
    let mut stack = Stack::new().etcd().registry_elsewhere().start().await;
    let looked = async |replica: &bulkhead_tests::Replica| {
        eventually_async("etcd is looked at", async || {
            replica.log().contains("room was looked at")
        })
        .await;
        replica.log()
    };
    let advice = "--auto-compaction-retention=1h";
    let log = looked(&stack.registry_replica(PROGRAM, "young").await).await;
    assert!(log.contains("--quota-backend-bytes=8589934592"), "{log}");
    assert!(log.contains("is_compacted=false") && !log.contains(advice), "{log}");
    let mut keys = Keys::of(&mut stack).await;
    let client = keys.client().clone();
    let put = |n: i32| {
        let mut client = client.clone();
        async move { client.put("/other", n.to_string(), None).await.unwrap() }
    };
    futures::stream::iter(0..10_000).map(put).buffer_unordered(256).for_each(async |_| {}).await;
    let log = looked(&stack.registry_replica(PROGRAM, "grown").await).await;
    assert!(log.contains("keeps every revision") && log.contains(advice), "{log}");
    assert!(log.contains("is_compacted=false"), "{log}");
    let revision = keys.client().status().await.unwrap().header().unwrap().revision();
    keys.client().compact(revision, None).await.unwrap();
    let log = looked(&stack.registry_replica(PROGRAM, "compacted").await).await;
    assert!(log.contains("is_compacted=true") && !log.contains(advice), "{log}");
}
