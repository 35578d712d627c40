//! The registry over MQTT and Zenoh, and unmodified devices over all backends.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

#[path = "../python/script.rs"]
mod script;

use bulkhead_tests::mqtt::codec::Version;
use bulkhead_tests::mqtt::{Client, Mode};
use bulkhead_tests::registry::{Party, registration};
use bulkhead_tests::{Stack, Token, eventually_async};
use data_encoding::BASE64;
use script::Script;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;

/// A client of MQTT 3.1.1, as devices have it.
async fn client(stack: &Stack, token: &Token, id: &str) -> Client {
    let hello = stack.hello(id, token).version(Version::V311);
    stack.tcp().connect(&hello).await
}

/// Asks as devices do over MQTT, with the answer wanted at this topic.
async fn ask_at(client: &mut Client, name: &str, request: &Value, reply_to: &str) {
    let data = BASE64.encode(request.to_string().as_bytes());
    let envelope = json!({"data": data, "reply_to": reply_to, "request_id": "r"});
    client.published(&format!("device-connect/{name}"), &envelope.to_string()).await;
}

/// The same, with the answer.
async fn ask(client: &mut Client, name: &str, request: &Value) -> Value {
    let reply = format!("_reply/{}", uuid::Uuid::new_v4().simple());
    client.subscribed(&reply).await;
    ask_at(client, name, request, &reply).await;
    serde_json::from_str(&client.payload().await).unwrap()
}

async fn devices(client: &mut Client, tenant: &str) -> Vec<String> {
    let request = json!({"id": 1, "method": "discovery/listDevices", "params": {}});
    let answer = ask(client, &format!("{tenant}/discovery"), &request).await;
    let all = answer["result"]["devices"].as_array().unwrap().iter();
    all.map(|device| device["device_id"].as_str().unwrap().to_owned()).collect()
}

async fn over_mqtt(mode: Mode, prefix: &str) {
    let stack = Stack::mqtt_in(mode).upstream_prefix(prefix).registry("").start().await;
    let mut cam = client(&stack, &Token::device("acme", "cam-1"), "").await;
    let mut console = client(&stack, &Token::role("acme", "member"), "console").await;
    let mut foreign = client(&stack, &Token::role("globex", "member"), "console").await;
    console.subscribed("device-connect/acme/device/+").await;
    let answer = ask(&mut cam, "acme/registry", &registration("cam-1")).await;
    assert_eq!(answer["result"]["status"], "registered", "{answer}");
    let online = console.message().await;
    assert_eq!(online.topic, "device-connect/acme/device/online");
    assert_eq!(devices(&mut cam, "acme").await, ["cam-1"]);
    assert_eq!(devices(&mut foreign, "globex").await, [""; 0]);

    // An answer goes to a name that nobody can guess, in the tenant that asked, or nowhere.
    let probe = json!({"id": 2, "method": "discovery/describeFleet"});
    let heard = format!("_reply/{:032x}", 77);
    foreign.subscribed(&heard).await;
    ask_at(&mut cam, "acme/discovery", &probe, "device-connect/globex/x/cmd").await;
    ask_at(&mut cam, "acme/discovery", &probe, "$tenant/globex/_reply/a").await;
    ask_at(&mut cam, "acme/discovery", &probe, &heard).await;
    assert_eq!(devices(&mut cam, "acme").await, ["cam-1"]);
    foreign.nothing().await;

    // It cannot be asked for its document, and comes back by its beats alone.
    let mut short = registration("cam-1");
    short["params"]["device_ttl"] = json!(2);
    assert!(ask(&mut cam, "acme/registry", &short).await["result"].is_object());
    assert_eq!(console.message().await.topic, "device-connect/acme/device/online");
    assert_eq!(console.message().await.topic, "device-connect/acme/device/offline");
    let beat = json!({"device_id": "cam-1", "ts": 1.5, "battery": 5}).to_string();
    cam.published("device-connect/acme/cam-1/heartbeat", &beat).await;
    assert_eq!(console.message().await.topic, "device-connect/acme/device/online");
    eventually_async("its beats are heard again", async || {
        cam.published("device-connect/acme/cam-1/heartbeat", &beat).await;
        let request =
            json!({"id": 1, "method": "discovery/getDevice", "params": {"device_id": "cam-1"}});
        ask(&mut foreign, "globex/discovery", &request).await;
        let mut other = client(&stack, &Token::role("acme", "member"), "other").await;
        let found = ask(&mut other, "acme/discovery", &request).await;
        found["result"]["device"]["status"]["battery"] == 5
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_embedded_broker() {
    over_mqtt(Mode::Embedded, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_another_broker() {
    over_mqtt(Mode::Upstream, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_another_broker_with_a_prefix_for_all() {
    over_mqtt(Mode::Upstream, "sites/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_another_broker_with_a_prefix_for_each_tenant() {
    over_mqtt(Mode::Upstream, "{tenant}/").await;
}

/// Whether devices that nobody changed register, stay and go, through the front.
async fn unmodified_devices_before_another_broker(prefix: &str) {
    let stack = Stack::mqtt_in(Mode::Upstream).upstream_prefix(prefix).registry("").start().await;
    let mut console = client(&stack, &Token::role("acme", "member"), "console").await;
    let mut foreign = client(&stack, &Token::role("globex", "member"), "console").await;
    let first = start(&stack, "mqtt", "acme", "cam-1").await;
    let second = start(&stack, "mqtt", "acme", "cam-2").await;
    let theirs = start(&stack, "mqtt", "globex", "cam-1").await;
    eventually_async("all are there", async || {
        devices(&mut console, "acme").await.len() == 2
            && devices(&mut foreign, "globex").await.len() == 1
    })
    .await;
    assert_eq!(devices(&mut console, "acme").await, ["cam-1", "cam-2"]);
    assert_eq!(devices(&mut foreign, "globex").await, ["cam-1"]);

    // They stay by their beats, and are gone when they end.
    sleep(Duration::from_secs(4)).await;
    assert_eq!(devices(&mut console, "acme").await.len(), 2);
    for device in [first, second, theirs] {
        let seen = device.stop().await;
        assert_eq!(seen["ended"], Value::Null, "{seen}");
        assert!(seen["registrations"].as_u64() > Some(0), "{seen}");
    }
    eventually_async("all are gone", async || {
        devices(&mut console, "acme").await.is_empty()
            && devices(&mut foreign, "globex").await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unmodified_devices_before_another_broker_without_a_prefix() {
    unmodified_devices_before_another_broker("").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unmodified_devices_before_another_broker_with_a_prefix() {
    unmodified_devices_before_another_broker("{tenant}/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_mqtt_a_device_speaks_for_itself_alone() {
    let stack = Stack::mqtt().registry("").start().await;
    let mut cam = client(&stack, &Token::device("acme", "cam-1"), "").await;
    let mut other = client(&stack, &Token::device("acme", "cam-2"), "").await;
    assert!(ask(&mut cam, "acme/registry", &registration("cam-1")).await["result"].is_object());
    let answer = ask(&mut other, "acme/registry", &registration("cam-1")).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
    assert_eq!(devices(&mut other, "acme").await, ["cam-1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_mqtt_an_unmodified_device_calls_one_that_unwraps_calls() {
    let stack = Stack::mqtt().registry("").start().await;
    let mut other = client(&stack, &Token::device("acme", "cam-2"), "").await;
    assert!(ask(&mut other, "acme/registry", &registration("cam-2")).await["result"].is_object());
    other.subscribed("device-connect/acme/cam-2/cmd").await;
    let mut input = stack.runtime("mqtt", "acme", "cam-1").await;
    input["meets"] = json!("cam-2");
    let device = Script::start(stack.folder(), "device.py", "acme-cam-1", &input).await;

    let envelope: Value = serde_json::from_str(&other.payload().await).unwrap();
    let call = BASE64.decode(envelope["data"].as_str().unwrap().as_bytes()).unwrap();
    let call: Value = serde_json::from_slice(&call).unwrap();
    let params = &call["params"];
    assert_eq!(
        (&call["method"], &params["a"], &params["b"]),
        (&json!("add"), &json!(2), &json!(3))
    );
    let answer = json!({"jsonrpc": "2.0", "id": call["id"], "result": {"sum": 5}});
    other.published(envelope["reply_to"].as_str().unwrap(), &answer.to_string()).await;
    device.prints("met cam-2").await;
    assert_eq!(device.stop().await["met"]["add"]["result"], json!({"sum": 5}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_zenoh_a_device_speaks_for_itself_alone() {
    let stack = Stack::zenoh().registry("").start().await;
    let entrance = stack.entrance(bulkhead_tests::zenoh::Link::Tcp);
    let open = async |token: &Token| entrance.try_connect(Some(&stack.token(token))).await.unwrap();
    let (cam, other) =
        (open(&Token::device("acme", "cam-1")).await, open(&Token::device("acme", "cam-2")).await);
    let ask = async |session: &zenoh::Session, key: &str, request: Value, told: Option<&str>| {
        let get = session.get(key).payload(request.to_string());
        let get = match told {
            Some(told) => get.attachment(told),
            None => get,
        };
        let replies = get.timeout(Duration::from_secs(5)).await.unwrap();
        let reply = replies.recv_async().await.ok()?;
        let sample = reply.into_result().ok()?;
        serde_json::from_slice::<Value>(&sample.payload().to_bytes()).ok()
    };
    let key = "device-connect/acme/registry";
    let answer = ask(&cam, key, registration("cam-1"), None).await.unwrap();
    assert_eq!(answer["result"]["status"], "registered", "{answer}");
    // What a client attaches is not what the gate says; by a wildcard nobody is asked at all.
    for told in [None, Some("acme/cam-1/device"), Some("globex/cam-1/member")] {
        let answer = ask(&other, key, registration("cam-1"), told).await.unwrap();
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
    }
    let member = open(&Token::role("acme", "member")).await;
    for wide in ["device-connect/acme/*", "device-connect/acme/**"] {
        let answer = ask(&member, wide, registration("cam-9"), Some("acme/cam-9/device")).await;
        assert_eq!(answer, None, "{wide}");
    }
    let question = json!({"id": 1, "method": "discovery/listDevices", "params": {}});
    let found =
        ask(&member, "device-connect/acme/discovery", question.clone(), None).await.unwrap();
    assert_eq!(found["result"]["devices"].as_array().unwrap().len(), 1, "{found}");
    let foreign = open(&Token::role("globex", "member")).await;
    assert_eq!(ask(&foreign, "device-connect/acme/discovery", question, None).await, None);
}

async fn start(stack: &Stack, backend: &str, tenant: &str, device: &str) -> Script {
    let input = stack.runtime(backend, tenant, device).await;
    Script::start(stack.folder(), "device.py", &format!("{tenant}-{device}"), &input).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unmodified_devices_of_all_backends_find_each_other() {
    let stack = Stack::new().mqtt("").zenoh("").issues().registry("").start().await;
    let console = Party::role(&stack, "acme", "member").await;
    let foreign = Party::role(&stack, "globex", "member").await;
    let mut devices = Vec::new();
    for backend in ["nats", "mqtt", "zenoh"] {
        devices.push(start(&stack, backend, "acme", &format!("cam-{backend}")).await);
    }
    eventually_async("all are there", async || console.devices().await.len() == 3).await;
    assert_eq!(console.devices().await, ["cam-mqtt", "cam-nats", "cam-zenoh"]);
    assert_eq!(foreign.devices().await, [""; 0]);
    let peers = json!({"jsonrpc": "2.0", "id": "1", "method": "peers", "params": {}});
    let answer = console.ask("cam-nats.cmd", &peers).await;
    assert_eq!(answer["result"], json!(["cam-mqtt", "cam-nats", "cam-zenoh"]), "{answer}");

    // They stay, beat after beat, and go when they end.
    sleep(Duration::from_secs(4)).await;
    assert_eq!(console.devices().await.len(), 3);
    let mut lifecycle = console.lifecycle().await;
    for device in devices {
        let seen = device.stop().await;
        assert_eq!(seen["ended"], Value::Null, "{seen}");
        assert!(seen["registrations"].as_u64() > Some(0), "{seen}");
    }
    let mut gone = [lifecycle.next().await, lifecycle.next().await, lifecycle.next().await];
    gone.sort();
    assert_eq!(gone, ["offline cam-mqtt", "offline cam-nats", "offline cam-zenoh"]);
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_replica");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unmodified_devices_outlast_registry_etcd_and_broker_and_wake_up_again() {
    let stack = Stack::new().etcd().mqtt("").zenoh("").issues().registry_elsewhere();
    let mut stack = stack.start().await;
    let first = stack.registry_replica(PROGRAM, "first").await;
    let mut devices = Vec::new();
    for backend in ["nats", "mqtt", "zenoh"] {
        devices.push(start(&stack, backend, "acme", &format!("cam-{backend}")).await);
    }
    let all = ["cam-mqtt", "cam-nats", "cam-zenoh"];
    let console = Party::role(&stack, "acme", "member").await;
    eventually_async("all are there", async || console.devices().await == all).await;

    first.kill().unwrap();
    let _second = stack.registry_replica(PROGRAM, "second").await;
    eventually_async("the next registry knows them", async || console.devices().await == all).await;
    stack.etcd().restart().unwrap();
    for _ in 0..8 {
        assert_eq!(console.devices().await, all);
        sleep(Duration::from_millis(500)).await;
    }

    // Who sleeps for too long is gone, and back when it wakes up, asked or remembered.
    let mut lifecycle = console.lifecycle().await;
    devices.iter().for_each(Script::pause);
    let mut told = [lifecycle.next().await, lifecycle.next().await, lifecycle.next().await];
    told.sort();
    assert_eq!(told, ["offline cam-mqtt", "offline cam-nats", "offline cam-zenoh"]);
    devices.iter().for_each(Script::resume);
    let mut told = [lifecycle.next().await, lifecycle.next().await, lifecycle.next().await];
    told.sort();
    assert_eq!(told, ["online cam-mqtt", "online cam-nats", "online cam-zenoh"]);

    stack.servers()[0].restart().unwrap();
    let console = Party::role_again(&stack, "acme", "member").await;
    for _ in 0..16 {
        assert_eq!(console.devices().await, all);
        sleep(Duration::from_millis(500)).await;
    }
}
