//! Clients of Zenoh's Python library, in processes of their own, and unmodified Device Connect devices.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

#[path = "../python/script.rs"]
mod script;

use bulkhead_tests::mqtt::SERVICE_ISSUER;
use bulkhead_tests::zenoh::{Link, asked, settle};
use bulkhead_tests::{Stack, Token, eventually_async};
use script::Script;
use serde_json::{Value, json};
use zenoh::Session;

/// Runs the clients, over a link and in a mode.
async fn run(stack: &Stack, link: Link, mode: &str) -> Value {
    let entrance = stack.entrance(link);
    let member = |tenant: &str| stack.token(&Token::role(tenant, "member"));
    let input = json!({
        "endpoint": entrance.endpoint(),
        "certificate": entrance.certificate,
        "mode": mode,
        "acme": member("acme"),
        "globex": member("globex"),
    });
    let name = format!("{link:?}-{mode}");
    Script::start(stack.folder(), "zenoh_client.py", &name, &input).await.result().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_the_library_stay_within_their_tenant() {
    let stack = Stack::zenoh().start().await;
    let runs = [
        (Link::Tcp, "client"),
        (Link::Tcp, "peer"),
        (Link::Tls, "client"),
        (Link::Ws, "client"),
        (Link::Quic, "peer"),
    ];
    for (link, mode) in runs {
        let found = run(&stack, link, mode).await;
        let expected = json!({
            "messages": [
                ["device-connect/acme/x", "hello"],
                ["device-connect/acme/p", "published"],
                ["device-connect/acme/large", "1048576 bytes"],
            ],
            "witness": [["device-connect/globex/x", "secret"]],
            "answers": [["device-connect/acme/q", "own"]],
            "querier": [["device-connect/acme/q", "own"]],
            "theirs": [["device-connect/globex/q", "secret"]],
            "denied": [[], [], [], []],
            "told": true,
            "alive": [["device-connect/acme/cam-1", "alive"], ["device-connect/acme/cam-1", "gone"]],
            "alive there": [["device-connect/globex/cam-1", ""]],
            "alive denied": [[], []],
            "matching": [true, false],
            "matching denied": false,
            "history": ["0", "1", "2", "3"],
            "stolen": [],
            "asked": [],
            "spied": [],
            "witness at last": [["device-connect/globex/x", "secret"]],
        });
        for (what, expected) in expected.as_object().unwrap() {
            assert_eq!(found[what], *expected, "{link:?}, {mode}: {what}");
        }
    }
    stack.denied("publish_denied").await;
    stack.denied("subscribe_denied").await;
}

/// Starts a device with a credentials file of the exchange, as it came but for where the gate is.
async fn start(stack: &Stack, tenant: &str, device: &str) -> Script {
    let token = stack.token(&Token::device(tenant, device));
    let request = reqwest::Client::new().post(stack.exchange_url()).bearer_auth(token);
    let response = request.json(&json!({"backend": "zenoh"})).send().await.unwrap();
    let mut file: Value = response.error_for_status().unwrap().json().await.unwrap();
    assert_eq!((&file["auth_type"], &file["tenant"]), (&json!("mtls"), &json!(tenant)));
    let address = stack.entrance(Link::Tls).address;
    file["zenoh"]["urls"] = json!([format!("zenoh+tls://{address}")]);
    let name = format!("{tenant}-{device}");
    let path = stack.folder().join(format!("{name}.json"));
    std::fs::write(&path, file.to_string()).unwrap();
    Script::start(stack.folder(), "device.py", &name, &json!({"credentials_file": path})).await
}

/// A platform service in the registry's place, which takes every device for registered.
async fn start_registry(stack: &Stack) -> Session {
    let session = stack.zenoh_session(&stack.service_token()).await;
    session
        .declare_queryable("device-connect/*/registry")
        .complete(true)
        .callback(|query| {
            let payload = query.payload().unwrap().to_bytes();
            let request: Value = serde_json::from_slice(&payload).unwrap();
            let result = json!({
                "status": "registered",
                "device_registration_id": "6f1c2a90-3c0e-4a39-9d43-0c5a7a3b7f11",
            });
            let answer = json!({"jsonrpc": "2.0", "id": request["id"], "result": result});
            let key = query.key_expr().clone();
            tokio::task::block_in_place(|| {
                zenoh::Wait::wait(query.reply(key, answer.to_string())).unwrap();
            });
        })
        .background()
        .await
        .unwrap();
    settle(&session, "acme").await;
    session
}

/// Calls a device's function; `None` without an answer.
async fn try_call(session: &Session, device: &str, function: &str, params: Value) -> Option<Value> {
    let request = json!({"jsonrpc": "2.0", "id": "1", "method": function, "params": params});
    let key = format!("device-connect/{device}/cmd");
    let answers = session.get(key).payload(request.to_string()).await.unwrap();
    let answer = answers.recv_async().await.ok()?;
    let payload = answer.result().ok()?.payload().to_bytes();
    serde_json::from_slice::<Value>(&payload).unwrap().get("result").cloned()
}

async fn call(session: &Session, device: &str, function: &str, params: Value) -> Value {
    try_call(session, device, function, params).await.unwrap()
}

async fn is_up(session: &Session, device: &str) {
    eventually_async(&format!("{device} answers"), async || {
        let seen = try_call(session, device, "seen", json!({})).await;
        seen.is_some_and(|seen| seen["registrations"].as_u64() > Some(0))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn device_connect_devices_with_issued_certificates_work_within_their_tenant() {
    let stack = Stack::zenoh().config(SERVICE_ISSUER).issues().start().await;
    let registry = start_registry(&stack).await;
    let events = registry.declare_subscriber("device-connect/*/*/event/**").await.unwrap();
    let devices = [
        start(&stack, "acme", "cam-1").await,
        start(&stack, "acme", "cam-2").await,
        start(&stack, "globex", "cam-1").await,
    ];
    let (acme, globex) = (stack.zenoh_member("acme").await, stack.zenoh_member("globex").await);
    is_up(&acme, "acme/cam-1").await;
    is_up(&acme, "acme/cam-2").await;
    is_up(&globex, "globex/cam-1").await;

    let sum =
        call(&acme, "acme/cam-1", "call", json!({"device_id": "cam-2", "a": 2, "b": 3})).await;
    assert_eq!(sum["result"], json!({"sum": 5}), "{sum}");
    let event = events.recv_async().await.unwrap();
    assert_eq!(event.key_expr().as_str(), "device-connect/acme/cam-2/event/added");
    eventually_async("the other device sees the event", async || {
        let seen = call(&acme, "acme/cam-1", "seen", json!({})).await;
        seen["events"] == json!([["cam-2", 5]])
    })
    .await;

    // The foreign device by everything that it can send to, and can listen to.
    let targets = ["device-connect.acme.cam-2.cmd", "device-connect.acme.registry"];
    let answers = call(&globex, "globex/cam-1", "reach", json!({"subjects": targets})).await;
    for target in targets {
        assert!(answers[target]["error"].is_string(), "{answers}");
    }
    let forged = json!({"subject": "device-connect.acme.cam-2.event.added", "total": 666});
    call(&globex, "globex/cam-1", "forge", forged).await;
    let wiretaps = ["acme.*.event.>", "acme.cam-2.cmd", "acme.device.*", "*.*.event.>", ">"];
    let wiretaps = wiretaps.map(|subject| format!("device-connect.{subject}"));
    call(&globex, "globex/cam-1", "overhear", json!({"subjects": wiretaps})).await;
    stack.denied("publish_denied").await;
    stack.denied("subscribe_denied").await;

    // Whatever got through would have arrived before this.
    let params = json!({"device_id": "cam-2", "a": 7_777_000, "b": 777});
    let sum = call(&acme, "acme/cam-1", "call", params).await;
    assert_eq!(sum["result"], json!({"sum": 7_777_777}), "{sum}");
    eventually_async("the other device sees just the second event", async || {
        let seen = call(&acme, "acme/cam-1", "seen", json!({})).await;
        seen["events"] == json!([["cam-2", 5], ["cam-2", 7_777_777]])
    })
    .await;
    assert_eq!(asked(&globex, "device-connect/acme/cam-1/cmd").await, [""; 0]);
    let [cam_1, cam_2, foreign] = devices;
    let (cam_1, cam_2, foreign) = tokio::join!(cam_1.stop(), cam_2.stop(), foreign.stop());
    let calls = json!([["cam-1", 2, 3], ["cam-1", 7_777_000, 777]]);
    assert_eq!(cam_2["calls"], calls, "{cam_2:#}");
    assert_eq!(cam_1["calls"], json!([]), "{cam_1:#}");
    assert_eq!(foreign["events"], json!([]), "{foreign:#}");
    // The library gives a device what it sends itself, and what is for it.
    assert!(!foreign["overheard"].to_string().contains("7777"), "{foreign:#}");
}
