//! Unmodified Device Connect devices with issued credentials, and a registry in its own account.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

#[path = "../python/script.rs"]
mod script;

use async_nats::ConnectOptions;
use bulkhead_tests::{Actor, Stack, Token, eventually, eventually_async};
use jiff::Timestamp;
use nkeys::KeyPair;
use script::Script;
use serde_json::{Value, json};
use std::sync::Arc;

/// A credentials file for a device, from the exchange.
async fn issue(stack: &Stack, tenant: &str, device: &str, request: Value) -> Value {
    let token = stack.token(&Token::device(tenant, device));
    let response = reqwest::Client::new()
        .post(stack.exchange_url())
        .bearer_auth(token)
        .json(&request)
        .send()
        .await
        .unwrap();
    response.error_for_status().unwrap().json().await.unwrap()
}

/// Starts a device with a credentials file.
async fn start_with(stack: &Stack, name: &str, file: &Value) -> Script {
    let path = stack.folder().join(format!("{name}.json"));
    std::fs::write(&path, file.to_string()).unwrap();
    Script::start(stack.folder(), "device.py", name, &json!({"credentials_file": path})).await
}

/// Starts a device with credentials of its own.
async fn start(stack: &Stack, tenant: &str, device: &str) -> Script {
    let file = issue(stack, tenant, device, json!({})).await;
    start_with(stack, &format!("{tenant}-{device}"), &file).await
}

/// Starts the registry's stand-in.
async fn start_registry(stack: &Stack) -> Script {
    let credentials = stack.folder().join("nats").join("registry.creds");
    let input = json!({"url": stack.url(), "credentials": credentials});
    Script::start(stack.folder(), "registry.py", "registry", &input).await
}

/// Somebody of a tenant who calls its devices and asks its registry.
struct Console {
    tenant: &'static str,
    member: Actor,
}

impl Console {
    async fn of(stack: &Stack, tenant: &'static str) -> Self {
        let token = stack.token(&Token::role(tenant, "member"));
        Self { tenant, member: Actor::connect(stack.url(), &token).await }
    }

    async fn request(&self, name: &str, method: &str, params: Value) -> Option<Value> {
        let request = json!({"jsonrpc": "2.0", "id": "1", "method": method, "params": params});
        let subject = format!("device-connect.{}.{name}", self.tenant);
        let answer = self.member.client.request(subject, request.to_string().into()).await.ok()?;
        serde_json::from_slice::<Value>(&answer.payload).unwrap().get("result").cloned()
    }

    /// Calls a device's function; `None` without an answer.
    async fn try_call(&self, device: &str, function: &str, params: Value) -> Option<Value> {
        self.request(&format!("{device}.cmd"), function, params).await
    }

    async fn call(&self, device: &str, function: &str, params: Value) -> Value {
        self.try_call(device, function, params).await.unwrap()
    }

    async fn seen(&self, device: &str) -> Value {
        self.call(device, "seen", json!({})).await
    }

    async fn answers(&self, device: &str) -> bool {
        self.try_call(device, "seen", json!({})).await.is_some()
    }

    /// Waits until a device has come so far as to send heartbeats, and the registry has had an
    /// answer from it.
    async fn served(&self, device: &str) {
        eventually_async(&format!("{}/{device} is served", self.tenant), async || {
            let listed = self.request("discovery", "discovery/listDevices", json!({})).await;
            listed.is_some_and(|page| {
                page["devices"].as_array().unwrap().iter().any(|found| {
                    found["device_id"] == device
                        && found["pulled"] == true
                        && found["heartbeats"].as_u64() > Some(0)
                })
            })
        })
        .await;
    }

    /// Waits until something is among what a device has seen.
    async fn has_seen(&self, device: &str, kind: &str, what: Value) {
        eventually_async(&format!("{device} has {what} in its {kind}"), async || {
            self.seen(device).await[kind].as_array().unwrap().contains(&what)
        })
        .await;
    }
}

/// What a device is told when it may not publish to a subject, or subscribe to it.
fn refusal(what: &str, subject: &str) -> Value {
    json!(format!("NATS error: nats: permissions violation for {what} to \"{subject}\""))
}

#[tokio::test]
async fn devices_of_a_tenant_work_together_and_a_foreign_one_is_kept_out() {
    let stack = Stack::new().start().await;
    let registry = start_registry(&stack).await;
    let cam_1 = start(&stack, "acme", "cam-1").await;
    let cam_2 = start(&stack, "acme", "cam-2").await;
    let foreign = start(&stack, "globex", "cam-1").await;
    let (acme, globex) = (Console::of(&stack, "acme").await, Console::of(&stack, "globex").await);
    acme.served("cam-1").await;
    acme.served("cam-2").await;
    globex.served("cam-1").await;

    let sum = acme.call("cam-1", "call", json!({"device_id": "cam-2", "a": 2, "b": 3})).await;
    assert_eq!(sum["result"], json!({"sum": 5}), "{sum}");
    acme.has_seen("cam-1", "events", json!(["cam-2", 5])).await;
    assert_eq!(acme.call("cam-1", "peers", json!({})).await, json!(["cam-1", "cam-2"]));

    // The foreign device by the name that it knows, then by everything it can send to.
    let call = json!({"device_id": "cam-2", "a": 6, "b": 6});
    let unanswered = globex.call("cam-1", "call", call).await;
    assert!(unanswered["error"].is_string(), "{unanswered}");
    let wiretaps = [
        "device-connect.acme.*.event.>",
        "device-connect.acme.cam-2.cmd",
        "device-connect.acme.device.*",
        "device-connect.acme.broadcast",
        "device-connect.*.*.event.>",
        "device-connect.>",
        ">",
    ];
    globex.call("cam-1", "overhear", json!({"subjects": wiretaps})).await;
    let targets = [
        "device-connect.acme.cam-2.cmd",
        "device-connect.acme.registry",
        "device-connect.acme.discovery",
    ];
    let answers = globex.call("cam-1", "reach", json!({"subjects": targets})).await;
    for target in targets {
        assert!(answers[target]["error"].is_string(), "{answers}");
    }
    let event = "device-connect.acme.cam-2.event.added";
    globex.call("cam-1", "forge", json!({"subject": event, "total": 666})).await;
    assert_eq!(globex.call("cam-1", "peers", json!({})).await, json!(["cam-1"]));

    // Whatever got through would have arrived before this.
    let sum = acme.call("cam-1", "call", json!({"device_id": "cam-2", "a": 20, "b": 3})).await;
    assert_eq!(sum["result"], json!({"sum": 23}), "{sum}");
    acme.has_seen("cam-1", "events", json!(["cam-2", 23])).await;
    globex.call("cam-1", "add", json!({"a": 1, "b": 1})).await;
    globex.has_seen("cam-1", "events", json!(["cam-1", 2])).await;
    for subject in wiretaps {
        globex.has_seen("cam-1", "errors", refusal("subscription", subject)).await;
    }
    for subject in targets.iter().chain([&event]) {
        globex.has_seen("cam-1", "errors", refusal("publish", subject)).await;
    }

    let [cam_1, cam_2] = [cam_1.stop().await, cam_2.stop().await];
    assert_eq!(cam_2["calls"], json!([["cam-1", 2, 3], ["cam-1", 20, 3]]));
    assert_eq!(cam_1["events"], json!([["cam-2", 5], ["cam-2", 23]]));
    assert!(cam_1["online"].as_array().unwrap().contains(&json!("cam-1")), "{cam_1}");
    for device in [&cam_1, &cam_2] {
        assert_eq!((&device["errors"], &device["connected"]), (&json!([]), &json!([true])));
    }
    let foreign = foreign.stop().await;
    assert_eq!(foreign["events"], json!([["cam-1", 2]]));
    assert_eq!((&foreign["overheard"], &foreign["online"]), (&json!([]), &json!(["cam-1"])));
    let registry = registry.stop().await;
    let registered = json!({"acme": ["cam-1", "cam-2"], "globex": ["cam-1"]});
    assert_eq!(registry, json!({"registered": registered, "errors": []}));
}

#[tokio::test]
async fn a_device_that_claims_another_tenant_is_nobody_there() {
    let stack = Stack::new().start().await;
    let registry = start_registry(&stack).await;
    let witness = start(&stack, "acme", "cam-2").await;
    let acme = Console::of(&stack, "acme").await;
    acme.served("cam-2").await;

    // What the file says of the tenant is the client's word; the JWT in it is not.
    let mut file = issue(&stack, "globex", "cam-1", json!({})).await;
    file["tenant"] = json!("acme");
    let liar = start_with(&stack, "liar", &file).await;
    for (what, subject) in [
        ("subscription", "device-connect.acme.cam-1.cmd"),
        ("subscription", "device-connect.acme.broadcast"),
        ("subscription", "device-connect.acme.*.event.added"),
        ("subscription", "device-connect.acme.device.online"),
        ("publish", "device-connect.acme.registry"),
    ] {
        liar.prints(refusal(what, subject).as_str().unwrap()).await;
    }
    acme.call("cam-2", "add", json!({"a": 1, "b": 1})).await;
    assert!(!acme.answers("cam-1").await);

    let liar = liar.stop().await;
    assert_eq!((&liar["connected"], &liar["registrations"]), (&json!([true]), &json!(0)));
    assert_eq!((&liar["online"], &liar["events"]), (&json!([]), &json!([])));
    assert_eq!(witness.stop().await["calls"], json!([[null, 1, 1]]));
    assert_eq!(registry.stop().await["registered"], json!({"acme": ["cam-2"]}));
}

#[tokio::test]
async fn a_revoked_device_is_cut_off_until_it_is_restored() {
    let stack = Stack::new().start().await;
    let registry = start_registry(&stack).await;
    let revoked = start(&stack, "acme", "cam-1").await;
    let neighbour = start(&stack, "acme", "cam-2").await;
    let namesake = start(&stack, "globex", "cam-1").await;
    let (acme, globex) = (Console::of(&stack, "acme").await, Console::of(&stack, "globex").await);
    acme.served("cam-1").await;
    acme.served("cam-2").await;
    globex.served("cam-1").await;

    stack
        .change("acme", |tenant| {
            tenant.revoked_devices.insert("cam-1".parse().unwrap(), Timestamp::now());
        })
        .await;
    eventually_async("cam-1 is cut off", async || !acme.answers("cam-1").await).await;
    stack.denied("device_revoked").await;
    eventually("cam-1 tries again, twice, and is refused", || {
        let refused = |record: &&Value| record["event"] == "deny" && record["device"] == "cam-1";
        stack.audit().iter().filter(refused).count() > 1
    })
    .await;
    assert!(!acme.answers("cam-1").await);
    assert!(acme.answers("cam-2").await && globex.answers("cam-1").await);

    stack.change("acme", |tenant| tenant.revoked_devices.clear()).await;
    eventually_async("cam-1 comes back", async || acme.answers("cam-1").await).await;
    eventually_async("cam-1 is registered again", async || {
        acme.seen("cam-1").await["registrations"] == 2
    })
    .await;
    assert_eq!(revoked.stop().await["connected"], json!([true, false, true]));
    for other in [neighbour, namesake] {
        let other = other.stop().await;
        assert_eq!((&other["connected"], &other["errors"]), (&json!([true]), &json!([])));
    }
    assert_eq!(registry.stop().await["errors"], json!([]));
}

#[tokio::test]
async fn credentials_are_nothing_without_their_seed() {
    let stack = Stack::new().start().await;
    let acme = Console::of(&stack, "acme").await;
    let file = issue(&stack, "acme", "cam-1", json!({})).await;
    let mut stolen = file.clone();
    stolen["nats"]["nkey_seed"] = json!(KeyPair::new_user().seed().unwrap());
    let thief = start_with(&stack, "thief", &stolen).await;
    thief.prints("Authorization Violation").await;
    assert!(!acme.answers("cam-1").await);
    assert_eq!(thief.stop().await["connected"], json!([]));

    let owner = start_with(&stack, "owner", &file).await;
    eventually_async("the owner is admitted", async || acme.answers("cam-1").await).await;
    assert_eq!(owner.stop().await["errors"], json!([]));
}

#[tokio::test]
async fn credentials_end_when_they_say() {
    let stack = Stack::new().start().await;
    let acme = Console::of(&stack, "acme").await;
    let file = issue(&stack, "acme", "cam-1", json!({"ttl": "4s"})).await;
    let key = Arc::new(KeyPair::from_seed(file["nats"]["nkey_seed"].as_str().unwrap()).unwrap());
    let jwt = file["nats"]["jwt"].as_str().unwrap().to_owned();
    let options = ConnectOptions::with_jwt(jwt, move |nonce| {
        let key = Arc::clone(&key);
        async move { key.sign(&nonce).map_err(async_nats::AuthError::new) }
    });
    // A device takes longer to start than these live.
    let connected = Actor::try_connect(stack.url(), options).await.unwrap();
    connected.told("authentication expired").await;
    connected.cut().await;

    let late = start_with(&stack, "late", &file).await;
    late.prints("Authorization Violation").await;
    assert!(!acme.answers("cam-1").await);
    assert_eq!(late.stop().await["connected"], json!([]));
    assert!(!acme.member.is_cut(), "others are undisturbed");
}
