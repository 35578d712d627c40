//! What one tenant, or one device, may make the registry do.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_tests::mqtt::Client;
use bulkhead_tests::mqtt::codec::Version;
use bulkhead_tests::registry::{Keys, Party, registration};
use bulkhead_tests::{Stack, Token, eventually_async, next};
use data_encoding::BASE64;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;

/// A client of MQTT 3.1.1, as devices have it.
async fn client(stack: &Stack, token: &Token, id: &str) -> Client {
    let hello = stack.hello(id, token).version(Version::V311);
    stack.tcp().connect(&hello).await
}

/// Asks as devices do over MQTT.
async fn ask(client: &mut Client, name: &str, request: &Value) -> Value {
    let reply = format!("_reply/{}", uuid::Uuid::new_v4().simple());
    client.subscribed(&reply).await;
    let data = BASE64.encode(request.to_string().as_bytes());
    let envelope = json!({"data": data, "reply_to": reply, "request_id": "r"}).to_string();
    client.published(&format!("device-connect/{name}"), &envelope).await;
    serde_json::from_str(&client.payload().await).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_that_are_too_large_keep_no_other_device_from_going_offline() {
    let stack = Stack::mqtt().registry("").start().await;
    let mut cam = client(&stack, &Token::device("acme", "cam-1"), "").await;
    let mut console = client(&stack, &Token::role("acme", "member"), "console").await;
    console.subscribed("device-connect/acme/device/+").await;
    let mut short = registration("cam-1");
    short["params"]["device_ttl"] = json!(2);
    assert!(ask(&mut cam, "acme/registry", &short).await["result"].is_object());
    assert_eq!(console.message().await.topic, "device-connect/acme/device/online");
    let mut large = client(&stack, &Token::device("acme", "cam-2"), "").await;
    let more = "x".repeat(70 * 1024);
    let beat = json!({"device_id": "cam-2", "ts": 1.5, "more": more}).to_string();
    let attack = async {
        loop {
            large.published("device-connect/acme/cam-2/heartbeat", &beat).await;
            sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = attack => {}
        gone = console.message() => assert_eq!(gone.topic, "device-connect/acme/device/offline"),
    }
    let refused = "bulkhead_registry_beats_total{backend=\"mqtt\",outcome=\"refused\"}";
    assert!(stack.metric(refused) > 0, "it was sent meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_there_is_room_for_is_refused_at_once_and_other_tenants_are_served() {
    let mut stack = Stack::new().etcd().registry("").start().await;
    let (acme, globex) = (
        Party::role(&stack, "acme", "member").await,
        Party::role(&stack, "globex", "member").await,
    );
    acme.register("cam-1", |_| {}).await;
    globex.register("cam-1", |_| {}).await;
    // Nothing is written any more, so each registration waits, and keeps its room.
    stack.etcd().pause().unwrap();
    let inbox = acme.actor.client.new_inbox();
    let mut answers = acme.actor.subscribe(&inbox).await;
    let mut large = registration("cam-2");
    large["params"]["capabilities"]["description"] = json!("x".repeat(200 * 1024));
    let (subject, large) = ("device-connect.acme.registry", large.to_string());
    for _ in 0..400 {
        let payload = large.clone().into();
        acme.actor.client.publish_with_reply(subject, inbox.clone(), payload).await.unwrap();
    }
    // Of those that found room some may have been answered from memory by then.
    let refused = loop {
        let answer = next(&mut answers).await.payload;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        if answer["error"].is_object() {
            break answer;
        }
    };
    assert_eq!(refused["error"]["code"], -32603, "{refused}");
    assert!(refused["error"]["message"].to_string().contains("try again"), "{refused}");
    // What is larger than it may be is not even waited for.
    let huge = json!({"id": 1, "method": "registerDevice", "more": "x".repeat(300 * 1024)});
    let refused = acme.try_ask("registry", &huge).await;
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    assert!(refused["error"]["message"].to_string().contains("max_document_bytes"), "{refused}");
    assert_eq!(acme.devices().await, ["cam-1", "cam-2"], "questions have room of their own");
    assert_eq!(globex.devices().await, ["cam-1"]);
    stack.etcd().resume().unwrap();
    acme.register("cam-3", |_| {}).await;
    let mut keys = Keys::of(&mut stack).await;
    eventually_async("what waited is written", async || keys.leases("acme").await.len() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_tenant_changes_without_end_is_written_rarely_and_holds_up_nobody() {
    let limit = "max_written_bytes_per_second = 1024\nwindow = \"10ms\"";
    let mut stack = Stack::new().etcd().registry(limit).start().await;
    let (acme, globex) = (
        Party::role(&stack, "acme", "member").await,
        Party::role(&stack, "globex", "member").await,
    );
    let mut keys = Keys::of(&mut stack).await;
    let large = |params: &mut Value| {
        params["capabilities"]["description"] = json!("x".repeat(8 * 1024));
    };
    acme.register("cam-1", large).await;
    globex.register("cam-1", |_| {}).await;
    for n in 0..40 {
        acme.beat("cam-1", json!({"battery": n})).await;
        globex.beat("cam-1", json!({"battery": n % 2})).await;
        eventually_async("others' changes are written", async || {
            keys.get("globex", "cam-1").await.unwrap().0["status"]["battery"] == n % 2
        })
        .await;
    }
    let writes = keys.writes("acme").await;
    assert!(writes < 20, "of forty changes {writes} were written");
    assert_eq!(acme.get("cam-1").await["status"]["battery"], 39, "what is known is served");
    // Who comes and goes is written all the same.
    acme.register("short", |params| params["device_ttl"] = json!(1)).await;
    assert!(keys.get("acme", "short").await.is_some());
    eventually_async("it is gone", async || keys.get("acme", "short").await.is_none()).await;
    // In the end the last state is written.
    eventually_async("the last change is written", async || {
        keys.get("acme", "cam-1").await.unwrap().0["status"]["battery"] == 39
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_be_told_in_one_message_is_left_out_of_its_page_alone() {
    let stack = Stack::new().server_config("max_payload: 100000").registry("").start().await;
    let console = Party::role(&stack, "acme", "member").await;
    // Registered bit by bit: no message is too large, the document is.
    for device in ["cam-1", "cam-2", "cam-3"] {
        console.register(device, |_| {}).await;
    }
    for part in ["a", "b", "c"] {
        console.beat("cam-2", json!({part: "x".repeat(40_000)})).await;
    }
    eventually_async("the document is too large to be told", async || {
        console.discover("getDevice", json!({"device_id": "cam-2"})).await["code"] == -32000
    })
    .await;
    let page = console.discover("listDevices", json!({"limit": 2})).await;
    let ids = page["devices"].as_array().unwrap().iter().map(|device| &device["device_id"]);
    assert_eq!(ids.collect::<Vec<_>>(), ["cam-1", "cam-3"]);
    assert_eq!((&page["next_offset"], &page["total_matched"]), (&Value::Null, &json!(3)));
    let whole = console.discover("listDevices", json!({})).await;
    assert_eq!(whole["code"], -32000, "this one cannot be cut: {whole}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_found_lately_is_found_again_only_while_it_is_so() {
    let stack = Stack::new().registry("").start().await;
    let console = Party::role(&stack, "acme", "member").await;
    for n in 1..=5 {
        console.register(&format!("cam-{n}"), |_| {}).await;
    }
    let page = async |offset: u64| {
        let params = json!({"limit": 2, "offset": offset, "location": "lab"});
        let page = console.discover("listDevices", params).await;
        let all = page["devices"].as_array().unwrap().iter();
        let ids: Vec<_> = all.map(|d| d["device_id"].as_str().unwrap().to_owned()).collect();
        (ids.join(" "), page["next_offset"].as_u64(), page["total_matched"].as_u64().unwrap())
    };
    let places = async || console.discover("describeFleet", json!({})).await["by_location"].clone();
    assert_eq!(page(0).await, ("cam-1 cam-2".to_owned(), Some(2), 5));
    assert_eq!(page(2).await, ("cam-3 cam-4".to_owned(), Some(4), 5));
    assert_eq!(page(4).await, ("cam-5".to_owned(), None, 5));
    assert_eq!(places().await["lab"]["count"], 5);
    console.register("cam-0", |_| {}).await;
    assert_eq!(page(2).await, ("cam-2 cam-3".to_owned(), Some(4), 6));
    assert_eq!(places().await["lab"]["count"], 6);

    // A location that is too long to be found by is kept all the same; a device says it once.
    let long = "x".repeat(257);
    console.beat("cam-1", json!({"location": long})).await;
    eventually_async("it is kept", async || {
        console.get("cam-1").await["status"]["location"] == long
    })
    .await;
    assert_eq!(page(2).await, ("cam-3 cam-4".to_owned(), Some(4), 5));
    let places = places().await;
    assert_eq!((&places["lab"]["count"], &places["unknown"]["count"]), (&json!(5), &json!(1)));
    let refused =
        console.register("cam-9", |params| params["status"]["location"] = json!(long)).await;
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("status.location: ") && message.contains("256 bytes"), "{refused}");
}
