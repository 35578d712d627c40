//! The registry's contract over NATS: what devices and tools say, and are told.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_control::identity::Session;
use bulkhead_policy::{Principal, Scope, Status};
use bulkhead_tests::registry::{Keys, Party, Person, registration};
use bulkhead_tests::{Stack, Token, eventually_async};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;

async fn start() -> Stack {
    Stack::new().etcd().registry("").start().await
}

/// The name that the callout gives to a device's user.
fn name_of(tenant: &str, device: &str) -> String {
    let principal = Principal {
        scope: Scope::Tenant(tenant.parse().unwrap()),
        device: Some(device.parse().unwrap()),
        role: "device".parse().unwrap(),
        issuer: "test".into(),
        token_id: None,
        origin: None,
        issued_at: None,
        expires_at: Timestamp::MAX,
    };
    Session { principal, rights: "00000000000000ff".parse().unwrap() }.name()
}

#[tokio::test]
async fn a_device_registers_beats_and_is_found() {
    let mut stack = start().await;
    let cam = Party::device(&stack, "acme", "cam-1").await;
    let console = Party::role(&stack, "acme", "member").await;
    let mut lifecycle = console.lifecycle().await;
    let answer = cam.register("cam-1", |_| {}).await;
    assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!("cam-1-1")), "{answer}");
    assert_eq!(answer["result"]["status"], "registered");
    let id = answer["result"]["device_registration_id"].as_str().unwrap();
    assert_eq!((id.len(), id.matches('-').count()), (36, 4));
    assert_eq!(lifecycle.next().await, "online cam-1");

    let document = console.get("cam-1").await;
    assert_eq!(document["registry"]["device_registration_id"], id);
    assert_eq!(document["identity"]["arch"], "arm64");
    assert_eq!(document["status"]["busy_score"], Value::Null);
    let mut keys = Keys::of(&mut stack).await;
    let (stored, lease) = keys.get("acme", "cam-1").await.unwrap();
    assert_eq!(stored, document, "other tools read the key");
    assert_ne!(lease, 0, "a device's key is under a lease");

    let before = keys.writes("acme").await;
    for _ in 0..20 {
        cam.beat("cam-1", json!({})).await;
        cam.beat("cam-1", json!({"availability": "idle"})).await;
    }
    cam.beat("cam-1", json!({"battery": 7, "own": {"a": 1}})).await;
    eventually_async("the change is seen", async || {
        console.get("cam-1").await["status"]["battery"] == 7
    })
    .await;
    eventually_async("the change is written", async || {
        keys.get("acme", "cam-1").await.unwrap().0["status"]["own"] == json!({"a": 1})
    })
    .await;
    assert_eq!(keys.writes("acme").await, before + 1, "what does not change is not written");
    assert_eq!(keys.get("acme", "cam-1").await.unwrap().1, lease);
    let document = console.get("cam-1").await;
    assert!(
        document["status"].get("ts").is_some() && document["status"].get("device_id").is_none()
    );
}

#[tokio::test]
async fn changes_within_a_window_are_one_write_and_devices_share_a_lease() {
    let mut stack = Stack::new().etcd().registry("window = \"5s\"").start().await;
    let console = Party::role(&stack, "acme", "member").await;
    for n in 0..5 {
        console.register(&format!("cam-{n}"), |_| {}).await;
    }
    let mut keys = Keys::of(&mut stack).await;
    let leases = keys.leases("acme").await;
    let distinct: BTreeSet<_> = leases.values().collect();
    assert_eq!((leases.len(), distinct.len()), (5, 1), "{leases:?}");
    let before = keys.writes("acme").await;
    for n in 0..50 {
        console.beat("cam-0", json!({"battery": n})).await;
    }
    eventually_async("the last change is written", async || {
        keys.get("acme", "cam-0").await.unwrap().0["status"]["battery"] == 49
    })
    .await;
    assert_eq!(keys.writes("acme").await, before + 1);
    let changed =
        stack.metric("bulkhead_registry_beats_total{backend=\"nats\",outcome=\"changed\"}");
    assert_eq!(changed, 50, "each was a change");
}

#[tokio::test]
async fn what_is_asked_is_answered_as_the_contract_says() {
    let stack = start().await;
    let console = Party::role(&stack, "acme", "member").await;
    assert_eq!(console.devices().await, [""; 0]);
    for (device, device_type, location) in [
        ("b", "camera", json!("Roof")),
        ("a", "lock", json!(null)),
        ("c", "IP-Camera", json!("lab")),
    ] {
        let answer = console
            .register(device, |params| {
                params["identity"]["device_type"] = json!(device_type);
                params["status"]["location"] = location;
            })
            .await;
        assert_eq!(answer["result"]["status"], "registered", "{answer}");
    }
    assert_eq!(console.devices().await, ["a", "b", "c"]);
    let list = async |params: Value| console.discover("listDevices", params).await;
    let ids = |page: &Value| -> Vec<String> {
        let all = page["devices"].as_array().unwrap().iter();
        all.map(|d| d["device_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&list(json!({"device_type": "CAMERA"})).await), ["b", "c"]);
    assert_eq!(ids(&list(json!({"location": "roo", "device_type": "cam"})).await), ["b"]);
    let page = list(json!({"limit": 2})).await;
    assert_eq!(
        (ids(&page), &page["next_offset"], &page["total_matched"]),
        (vec!["a".into(), "b".into()], &json!(2), &json!(3))
    );
    let page = list(json!({"limit": 2, "offset": 2})).await;
    assert_eq!((ids(&page), &page["next_offset"]), (vec!["c".into()], &Value::Null));
    let beyond = list(json!({"limit": 2, "offset": 9})).await;
    assert_eq!(
        (ids(&beyond), &beyond["next_offset"], &beyond["total_matched"]),
        (vec![], &Value::Null, &json!(3))
    );
    assert_eq!(list(json!({})).await.get("next_offset"), None);
    assert_eq!(console.get("nobody").await, Value::Null);
    let fleet = console.discover("describeFleet", json!({})).await;
    assert_eq!(
        fleet,
        json!({"total_devices": 3, "total_functions": 3,
            "by_type": {"IP-Camera": {"count": 1, "locations": ["lab"]},
                "camera": {"count": 1, "locations": ["Roof"]},
                "lock": {"count": 1, "locations": ["unknown"]}},
            "by_location": {"Roof": {"count": 1, "types": ["camera"]},
                "lab": {"count": 1, "types": ["IP-Camera"]},
                "unknown": {"count": 1, "types": ["lock"]}}})
    );
    let error = list(json!({"limit": 0})).await;
    assert_eq!(error, json!({"code": -32602, "message": "limit must be positive, got 0"}));
    let error = console.discover("getDevice", json!({})).await;
    assert_eq!(error, json!({"code": -32602, "message": "device_id required"}));
    let error = console.discover("somethingElse", json!({})).await;
    assert_eq!(error["code"], -32601);
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_with_the_reason() {
    let stack = start().await;
    let console = Party::role(&stack, "acme", "member").await;
    let long = "x".repeat(65_536);
    for id in ["", "*", "a/b/../c", "a\n", "a.b", ">", "registry", "a\0b", &long] {
        let answer = console.register("x", |params| params["device_id"] = json!(id)).await;
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
        assert!(
            answer["error"]["message"].as_str().unwrap().starts_with("device_id: "),
            "{answer}"
        );
    }
    for ttl in [json!(0), json!(-5), json!(1_000_000_000), json!("15")] {
        let answer = console.register("x", |params| params["device_ttl"] = ttl).await;
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
    }
    for missing in ["capabilities", "identity", "status"] {
        let answer = console
            .register("x", |params| drop(params.as_object_mut().unwrap().remove(missing)))
            .await;
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
    }
    let mut other = registration("x");
    other["method"] = json!("dropEverything");
    let answer = console.ask("registry", &other).await;
    assert_eq!(answer["error"], json!({"code": -32601, "message": "method not found"}));
    let answer = console.ask("registry", &json!("no object")).await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(-32602)));
    // Who wants no answer gets none, and nothing happens.
    console.actor.publish("device-connect.acme.registry", &registration("quiet").to_string()).await;
    assert_eq!(console.devices().await, [""; 0]);
}

#[tokio::test]
async fn a_device_that_falls_silent_is_offline_once_and_comes_back() {
    let mut stack = start().await;
    let cam = Party::device(&stack, "acme", "cam-1").await;
    let console = Party::role(&stack, "acme", "member").await;
    let mut lifecycle = console.lifecycle().await;
    cam.register("cam-1", |params| params["device_ttl"] = json!(1)).await;
    assert_eq!(lifecycle.next().await, "online cam-1");
    assert_eq!(lifecycle.next().await, "offline cam-1");
    assert_eq!(console.get("cam-1").await, Value::Null);
    let mut keys = Keys::of(&mut stack).await;
    assert_eq!(keys.get("acme", "cam-1").await, None, "its key is gone with it");

    // It sleeps, and beats again: the registry asks it who it is.
    let mut asked = cam.actor.subscribe("device-connect.acme.cam-1.cmd").await;
    cam.beat("cam-1", json!({})).await;
    let question = bulkhead_tests::next(&mut asked).await;
    let request: Value = serde_json::from_slice(&question.payload).unwrap();
    assert_eq!(
        (&request["method"], &request["params"]),
        (&json!("requestRegistration"), &json!({}))
    );
    assert!(request["id"].as_str().unwrap().starts_with("re-reg-cam-1-"), "{request}");
    let answer =
        json!({"jsonrpc": "2.0", "id": request["id"], "result": registration("cam-1")["params"]});
    let reply = question.reply.unwrap();
    assert!(reply.starts_with("_INBOX.acme."), "{reply}");
    cam.actor.client.publish(reply, answer.to_string().into()).await.unwrap();
    assert_eq!(lifecycle.next().await, "online cam-1");
    assert_eq!(console.devices().await, ["cam-1"]);
    assert!(keys.get("acme", "cam-1").await.is_some());
}

#[tokio::test]
async fn a_device_speaks_for_itself_alone_and_no_tenant_for_another() {
    let stack = start().await;
    let cam = Party::device(&stack, "acme", "cam-1").await;
    let other = Party::device(&stack, "acme", "cam-2").await;
    let foreign = Party::role(&stack, "globex", "member").await;
    let console = Party::role(&stack, "acme", "member").await;
    cam.register("cam-1", |_| {}).await;
    let before = console.get("cam-1").await;

    // The first fault of the registry that this one replaces: whoever said so was the device.
    let answer =
        other.register("cam-1", |params| params["identity"]["device_type"] = json!("mine")).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("may not speak for 'cam-1'"));
    other
        .actor
        .publish(
            "device-connect.acme.cam-2.heartbeat",
            &json!({"device_id": "cam-1", "battery": 1}).to_string(),
        )
        .await;
    other
        .actor
        .publish(
            "device-connect.acme.cam-1.heartbeat",
            &json!({"device_id": "cam-1", "battery": 1}).to_string(),
        )
        .await;
    other.actor.refused("device-connect.acme.cam-1.heartbeat").await;
    foreign.register("cam-1", |_| {}).await;
    foreign.beat("cam-1", json!({"battery": 99})).await;
    // A header that a client writes is not the server's.
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(
        "Nats-Request-Info",
        json!({"user": name_of("acme", "cam-1")}).to_string().as_str(),
    );
    let request = registration("cam-1").to_string();
    let forged = other
        .actor
        .client
        .request_with_headers("device-connect.acme.registry", headers, request.into())
        .await
        .unwrap();
    let forged: Value = serde_json::from_slice(&forged.payload).unwrap();
    assert_eq!(forged["error"]["code"], -32602, "{forged}");

    other.register("cam-2", |_| {}).await;
    assert_eq!(console.get("cam-1").await, before);
    assert_eq!(console.devices().await, ["cam-1", "cam-2"]);
    assert_eq!(foreign.devices().await, ["cam-1"]);
    let who = console.discover("listDevices", json!({"requester_id": "globex/cam-1"})).await;
    assert_eq!(
        who["devices"].as_array().unwrap().len(),
        2,
        "what a client says it is, is not believed"
    );
}

#[tokio::test]
async fn roles_say_who_finds_whom() {
    let stack = Stack::new()
        .etcd()
        .registry("")
        .issuer_roles(&["device", "member", "guest", "alone"])
        .config(
            "[roles.guest]\nsubscribe = [\"device-connect/{tenant}/broadcast\"]\n\
             publish = [\"device-connect/{tenant}/discovery\"]\n\
             nats = { subscribe = [\"_INBOX/**\"] }\ndiscover = { types = [\"camera\"] }\n\
             [roles.alone]\npublish = [\"device-connect/{tenant}/discovery\", \
             \"device-connect/{tenant}/{device}/heartbeat\", \"device-connect/{tenant}/registry\"]\n\
             nats = { subscribe = [\"_INBOX/**\"] }\ndiscover = \"itself\"\n",
        )
        .start()
        .await;
    let console = Party::role(&stack, "acme", "member").await;
    for (device, device_type) in [("cam-1", "camera"), ("lock-1", "lock")] {
        console.register(device, |p| p["identity"]["device_type"] = json!(device_type)).await;
    }
    let guest = Party::role(&stack, "acme", "guest").await;
    assert_eq!(guest.devices().await, ["cam-1"]);
    assert_eq!(guest.get("lock-1").await, Value::Null);
    assert_eq!(guest.discover("describeFleet", json!({})).await["total_devices"], 1);
    assert_eq!(guest.discover("listDevices", json!({"limit": 5})).await["total_matched"], 1);
    assert_eq!(console.devices().await, ["cam-1", "lock-1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_list_and_watch_the_devices_of_their_tenant() {
    let stack = Stack::new().etcd().registry("").start().await;
    let (acme, globex) = (
        Party::role(&stack, "acme", "member").await,
        Party::role(&stack, "globex", "member").await,
    );
    let token = stack.token(&Token::role("acme", "viewer"));
    let (program, folder) = (env!("CARGO_BIN_EXE_replica"), stack.folder());
    let admin = stack.control().admin_address().to_string();
    let viewer = Person { program, folder, admin: &admin, token: &token };
    acme.register("cam-1", |_| {}).await;
    globex.register("cam-9", |_| {}).await;
    let watched = viewer.devices("watch", &[]);
    // It is there when it hears what comes next; until then there is something new each time.
    eventually_async("the watch has begun", async || {
        acme.beat("cam-1", json!({"battery": Timestamp::now().as_nanosecond() % 1_000_000})).await;
        watched.log().contains("changed  acme/cam-1")
    })
    .await;
    globex.register("cam-8", |_| {}).await;
    acme.register("short", |params| params["device_ttl"] = json!(1)).await;
    eventually_async("it is told", async || watched.log().contains("offline  acme/short")).await;
    assert!(watched.log().contains("online   acme/short"), "{}", watched.log());
    assert!(!watched.log().contains("globex"), "{}", watched.log());

    let text = viewer.list(&[]).await;
    assert!(text.contains("cam-1") && text.contains("camera") && text.contains("s ago"), "{text}");
    assert!(!text.contains("cam-9"), "{text}");
    let text = viewer.list(&["--tenant", "globex"]).await;
    assert!(text.contains("the token is of another tenant"), "{text}");
    let text = Person { token: "no token", ..viewer }.list(&[]).await;
    assert!(text.contains("the token is not accepted"), "{text}");
    // Whoever may not see the tenant any more watches no longer.
    stack.change("acme", |tenant| tenant.status = Status::Suspended).await;
    eventually_async("the watch ends", async || !watched.is_running()).await;
    assert!(watched.log().contains("the registry has ended the watch"), "{}", watched.log());
}

#[tokio::test]
async fn without_etcd_a_file_keeps_who_is_present() {
    let mut stack = Stack::new().registry("").start().await;
    let console = Party::role(&stack, "acme", "member").await;
    console.register("cam-1", |params| params["device_ttl"] = json!(30)).await;
    console.register("gone", |params| params["device_ttl"] = json!(1)).await;
    eventually_async("one is gone", async || console.devices().await == ["cam-1"]).await;
    let before = console.get("cam-1").await;
    stack.stop_service().await;
    stack.start_service().await;
    let console = Party::role(&stack, "acme", "member").await;
    assert_eq!(console.get("cam-1").await, before);
    assert_eq!(console.devices().await, ["cam-1"]);
}
