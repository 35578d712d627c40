//! Clients of NATS's Python library, and JetStream in tenants' accounts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

#[path = "../python/script.rs"]
mod script;

use bulkhead_policy::JetStreamQuota;
use bulkhead_tests::{Actor, Stack, Token, eventually_async};
use script::Script;
use serde_json::{Value, json};

const JETSTREAM: &str = "jetstream { max_mem: 64MB, max_file: 64MB }";

const QUOTA: JetStreamQuota =
    JetStreamQuota { memory_bytes: 0, storage_bytes: 8 << 20, streams: 20, consumers: 20 };

/// Runs a program to its end.
async fn run(stack: &Stack, program: &str, input: &Value) -> Value {
    Script::start(stack.folder(), program, program, input).await.result().await
}

fn member(stack: &Stack, tenant: &str) -> String {
    stack.token(&Token::role(tenant, "member"))
}

/// Gives a tenant a quota of JetStream and waits until the server has taken it over.
async fn grant_jetstream(stack: &Stack, tenant: &str, quota: JetStreamQuota) {
    let actor = Actor::connect(stack.url(), &member(stack, tenant)).await;
    stack.change(tenant, |t| t.quotas.jetstream = Some(quota)).await;
    eventually_async(&format!("{tenant} has JetStream"), async || {
        let answer = actor.client.request("$JS.API.INFO", "".into()).await.unwrap();
        let info: Value = serde_json::from_slice(&answer.payload).unwrap();
        info["limits"]["max_streams"] == quota.streams
    })
    .await;
}

/// Makes sure that a step of a program failed, for this reason.
fn assert_failed(results: &Value, step: &str, reason: &str) {
    let error = results[step]["error"].as_str();
    assert!(error.is_some_and(|error| error.contains(reason)), "{step}: {results:#}");
}

#[tokio::test]
async fn every_way_to_connect_leads_to_the_own_tenant_only() {
    let stack = Stack::new().start().await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    let exchange = reqwest::Client::new().post(stack.exchange_url()).bearer_auth(&token);
    let file: Value = exchange.send().await.unwrap().json().await.unwrap();
    let credentials = json!({"jwt": file["nats"]["jwt"], "nkey_seed": file["nats"]["nkey_seed"]});
    let input = json!({
        "url": stack.url(),
        "token": token,
        "credentials": credentials,
        "globex": member(&stack, "globex"),
    });
    let ways = run(&stack, "carriers.py", &input).await;
    for way in ["auth_token", "password", "url user", "url password", "credentials"] {
        let result = &ways[way];
        assert_eq!(result["received"], json!(["own"]), "{way}: {result:#}");
        assert_eq!(result["witnessed"], json!(["secret"]), "{way}: {result:#}");
        assert_eq!(result["stolen"], 0, "{way}: {result:#}");
        let mut refusals =
            vec!["publish to \"device-connect.globex.cam-1.event.motion\"".to_owned()];
        for subject in
            ["device-connect.globex.>", "device-connect.*.cam-1.event.>", "device-connect.>", ">"]
        {
            refusals.push(format!("subscription to \"{subject}\""));
            refusals.push(format!("subscription to \"{subject}\" using queue \"q\""));
        }
        for refusal in refusals {
            let error = json!(format!("nats: permissions violation for {refusal}"));
            assert!(result["refusals"].as_array().unwrap().contains(&error), "{error}: {result:#}");
        }
    }
}

#[tokio::test]
async fn a_tenant_with_a_quota_uses_jetstream_and_one_without_cannot() {
    let stack = Stack::new().server_config(JETSTREAM).start().await;
    grant_jetstream(&stack, "acme", QUOTA).await;
    let used = async |tenant| {
        let input = json!({"url": stack.url(), "tenant": tenant, "token": member(&stack, tenant)});
        run(&stack, "jetstream_use.py", &input).await
    };

    let acme = used("acme").await;
    let orders = json!(["one", "two"]);
    assert_eq!(
        acme["stream"],
        json!({"pulled": orders, "pushed": orders, "unacknowledged": 0}),
        "{acme:#}"
    );
    assert_eq!(acme["key_value"]["got"], "red", "{acme:#}");
    assert_eq!(acme["key_value"]["watched"], "red", "{acme:#}");
    assert_failed(&acme["key_value"], "deleted", "key not found");
    assert_eq!(acme["object_store"], true, "{acme:#}");
    assert_eq!(acme["refusals"], json!([]));

    let globex = used("globex").await;
    for step in ["stream", "key_value", "object_store"] {
        assert_failed(&globex, step, "JetStream not enabled for account");
    }
}

#[tokio::test]
async fn a_quota_of_jetstream_is_a_limit() {
    let stack = Stack::new().server_config(JETSTREAM).start().await;
    let small = JetStreamQuota { storage_bytes: 1 << 20, streams: 2, consumers: 1, ..QUOTA };
    grant_jetstream(&stack, "acme", small).await;
    grant_jetstream(&stack, "globex", QUOTA).await;
    let used = async |tenant| {
        let input = json!({"url": stack.url(), "tenant": tenant, "token": member(&stack, tenant)});
        run(&stack, "jetstream_limits.py", &input).await
    };

    let acme = used("acme").await;
    for step in ["stream a", "stream b", "consumer one of a"] {
        assert_eq!(acme[step], "done", "{step}: {acme:#}");
    }
    assert_failed(&acme, "memory", "insufficient memory resources");
    assert_failed(&acme, "stream c", "maximum number of streams reached");
    assert_failed(&acme, "consumer two of a", "maximum consumers limit reached");
    assert_failed(&acme, "fill", "resource limits exceeded for account");
    assert!(acme["stored"].as_u64().unwrap() <= small.storage_bytes, "{acme:#}");

    // That acme has nothing left takes nothing from others.
    let globex = used("globex").await;
    assert_eq!(globex["stream c"], "done", "{globex:#}");
    assert!(globex["stored"].as_u64().unwrap() > small.storage_bytes, "{globex:#}");
}

#[tokio::test]
async fn jetstream_does_not_reach_into_another_tenant() {
    let stack = Stack::new().server_config(JETSTREAM).start().await;
    grant_jetstream(&stack, "acme", QUOTA).await;
    grant_jetstream(&stack, "globex", QUOTA).await;
    let input = json!({
        "url": stack.url(),
        "acme": member(&stack, "acme"),
        "globex": member(&stack, "globex"),
    });
    let results = run(&stack, "jetstream_across.py", &input).await;

    // The server agrees to much of it, because within acme's account it harms nobody.
    for theft in ["SOURCE", "MIRROR", "SUBJECTS", "SOURCE-0", "MIRROR-0"] {
        assert_eq!(results["thefts"][theft], "done", "{results:#}");
    }
    for intrusion in ["deliver", "command", "republish", "transform"] {
        assert_eq!(results["intrusions"][intrusion], "done", "{results:#}");
    }
    for (grasp, error) in results["grasps"].as_object().unwrap() {
        assert!(error.as_str().unwrap().contains("stream not found"), "{grasp}: {error}");
    }
    for (stream, content) in results["acme holds"].as_object().unwrap() {
        assert!(!content.to_string().contains("secret"), "{stream}: {content}");
    }
    let secrets = json!(["secret", "another secret"]);
    assert_eq!(results["globex holds"], json!({"VAULT": secrets}));
    assert_eq!(results["witnessed"], secrets);
    assert_eq!(results["acme holds"]["COPY"], json!(["own"]), "{results:#}");
    assert_eq!(results["delivered"], "own");
}
