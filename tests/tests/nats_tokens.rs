//! Who gets in at a nats-server, and with what.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use async_nats::ConnectOptions;
use bulkhead_cli::signer::Signer;
use bulkhead_tests::{Actor, Stack, Token, connect_error, next, nothing};
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::sync::Arc;

async fn publishes_within_acme(stack: &Stack, actor: &Actor) {
    let member = Actor::connect(stack.url(), &stack.token(&Token::role("acme", "member"))).await;
    let mut events = member.subscribe("device-connect.acme.cam-1.event.>").await;
    actor.publish("device-connect.acme.cam-1.event.motion", "own").await;
    assert_eq!(next(&mut events).await.payload, "own");
}

/// Asks the exchange for credentials with a token.
async fn exchange(stack: &Stack, token: &str, request: Value) -> (u16, Value) {
    let response = reqwest::Client::new()
        .post(stack.exchange_url())
        .bearer_auth(token)
        .json(&request)
        .send()
        .await
        .unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// Options of a client with a credentials file, and a seed that need not be the file's.
fn with_credentials(file: &Value, seed: &str) -> ConnectOptions {
    let key = Arc::new(KeyPair::from_seed(seed).unwrap());
    let jwt = file["nats"]["jwt"].as_str().unwrap().to_owned();
    ConnectOptions::with_jwt(jwt, move |nonce| {
        let key = Arc::clone(&key);
        async move { key.sign(&nonce).map_err(async_nats::AuthError::new) }
    })
}

fn seed(file: &Value) -> &str {
    file["nats"]["nkey_seed"].as_str().unwrap()
}

#[tokio::test]
async fn a_token_is_carried_as_token_or_as_password_of_anybody() {
    let stack = Stack::new().start().await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    let options = [
        ("token", ConnectOptions::with_token(token.clone())),
        ("password", ConnectOptions::with_user_and_password("anybody".into(), token.clone())),
    ];
    for (carrier, options) in options {
        let actor = Actor::try_connect(stack.url(), options).await.expect(carrier);
        publishes_within_acme(&stack, &actor).await;
    }
}

#[tokio::test]
async fn two_different_tokens_in_one_connect_are_a_conflict() {
    let stack = Stack::new().start().await;
    let (own, other) = (Token::device("acme", "cam-1"), Token::device("globex", "cam-1"));
    let options = ConnectOptions::with_user_and_password("anybody".into(), stack.token(&own))
        .token(stack.token(&other));
    assert!(Actor::try_connect(stack.url(), options).await.is_err());
    stack.denied("carrier_conflict").await;
}

#[tokio::test]
async fn whoever_is_not_vouched_for_is_refused_with_a_code() {
    let stack = Stack::new().start().await;
    let stranger = Signer::create(&stack.folder().join("stranger.pem")).unwrap();
    let acme = || Token::device("acme", "cam-1");
    let cases = [
        ("token_missing", String::new()),
        ("token_malformed", "not-a-token".to_owned()),
        ("key_unknown", stranger.sign(&acme().claims()).unwrap()),
        ("issuer_unknown", stack.token(&acme().with(json!({"iss": "https://other.test"})))),
        ("audience_mismatch", stack.token(&acme().with(json!({"aud": "bulkhead2"})))),
        ("claim_missing", stack.token(&acme().with(json!({"exp": null})))),
        ("token_expired", stack.token(&acme().ttl(-5))),
        ("tenant_invalid", stack.token(&acme().with(json!({"tenant": "acme.>"})))),
        ("device_invalid", stack.token(&acme().with(json!({"device": "*"})))),
        ("tenant_unknown", stack.token(&Token::device("initech", "cam-1"))),
        ("role_not_allowed", stack.token(&Token::role("acme", "service"))),
        ("device_required", stack.token(&Token::role("acme", "device"))),
        ("token_too_large", stack.token(&acme().with(json!({"padding": "x".repeat(16_000)})))),
    ];
    for (reason, token) in cases {
        let told = connect_error(&stack, &token).await;
        assert!(told.contains("uthorization"), "{reason}: the client is told no more: {told}");
        stack.denied(reason).await;
    }
    // The same key again, now with its own claims: a broker that refuses everything is no use.
    Actor::connect(stack.url(), &stack.token(&acme())).await;
}

#[tokio::test]
async fn a_token_cannot_ask_for_another_account_or_other_rights() {
    let stack = Stack::new().start().await;
    let keys = bulkhead_auth_callout::Keyring::read(&stack.folder().join("nats")).unwrap();
    let greedy = Token::device("acme", "cam-1").with(json!({
        "account": keys.registry.account, "issuer_account": keys.system.account,
        "permissions": {"subscribe": [">"]}, "tags": ["tenant:globex"], "scope": "service",
        "nats": {"issuer_account": keys.system.account, "pub": {}, "sub": {}, "type": "user"},
    }));
    let actor = Actor::connect(stack.url(), &stack.token(&greedy)).await;
    for subject in [">", "$SYS.>", "device-connect.globex.>"] {
        actor.subscribe(subject).await;
        actor.refused(&format!("\"{subject}\"")).await;
    }
    publishes_within_acme(&stack, &actor).await;
}

#[tokio::test]
async fn a_connection_ends_with_its_token() {
    let stack = Stack::new().start().await;
    let brief =
        Actor::connect(stack.url(), &stack.token(&Token::device("acme", "cam-1").ttl(3))).await;
    let lasting = Actor::connect(stack.url(), &stack.token(&Token::device("acme", "cam-2"))).await;
    brief.cut().await;
    assert!(!lasting.is_cut());
}

#[tokio::test]
async fn issued_credentials_open_the_way_to_the_own_tenant_only() {
    let stack = Stack::new().start().await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    let (status, file) = exchange(&stack, &token, json!({})).await;
    assert_eq!(status, 200, "{file}");
    assert_eq!((&file["device_id"], &file["tenant"]), (&json!("cam-1"), &json!("acme")));
    assert_eq!(file["nats"]["urls"], json!([stack.url()]));

    let actor =
        Actor::try_connect(stack.url(), with_credentials(&file, seed(&file))).await.unwrap();
    publishes_within_acme(&stack, &actor).await;
    let stranger =
        Actor::connect(stack.url(), &stack.token(&Token::role("globex", "member"))).await;
    let mut at_globex = stranger.subscribe("device-connect.globex.>").await;
    actor.publish("device-connect.globex.cam-1.event.motion", "attack").await;
    actor.refused("device-connect.globex.cam-1.event.motion").await;
    nothing(&mut at_globex).await;
}

#[tokio::test]
async fn issued_credentials_are_nothing_without_their_seed_or_the_directory() {
    let stack = Stack::new().start().await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    let (_, file) = exchange(&stack, &token, json!({})).await;

    let wrong = KeyPair::new_user().seed().unwrap();
    assert!(Actor::try_connect(stack.url(), with_credentials(&file, &wrong)).await.is_err());

    stack
        .change("acme", |t| {
            t.revoked_devices.insert("cam-1".parse().unwrap(), jiff::Timestamp::now());
        })
        .await;
    bulkhead_tests::eventually_async("the revoked device is refused", async || {
        Actor::try_connect(stack.url(), with_credentials(&file, seed(&file))).await.is_err()
    })
    .await;
    stack.denied("device_revoked").await;
    stack.change("acme", |t| t.revoked_devices.clear()).await;
    bulkhead_tests::eventually_async("the restored device is admitted", async || {
        Actor::try_connect(stack.url(), with_credentials(&file, seed(&file))).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn revoking_a_token_reaches_the_credentials_made_of_it() {
    let stack = Stack::new().start().await;
    let token = stack.token(&Token::device("acme", "cam-1").with(json!({"jti": "stolen"})));
    let (_, file) = exchange(&stack, &token, json!({})).await;
    let live = Actor::try_connect(stack.url(), with_credentials(&file, seed(&file))).await.unwrap();
    stack
        .change("acme", |t| {
            t.revoked_tokens.insert("stolen".parse().unwrap(), jiff::Timestamp::MAX);
        })
        .await;
    live.cut().await;
    assert!(Actor::try_connect(stack.url(), with_credentials(&file, seed(&file))).await.is_err());
    stack.denied("token_revoked").await;
}

#[tokio::test]
async fn credentials_expire() {
    let stack = Stack::new().start().await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    let (_, file) = exchange(&stack, &token, json!({"ttl": "3s"})).await;
    let live = Actor::try_connect(stack.url(), with_credentials(&file, seed(&file))).await.unwrap();
    live.cut().await;
    assert!(Actor::try_connect(stack.url(), with_credentials(&file, seed(&file))).await.is_err());
}

#[tokio::test]
async fn the_exchange_gives_to_each_only_what_is_theirs() {
    let stack = Stack::new().start().await;
    let device = stack.token(&Token::device("acme", "cam-1"));
    let (status, refusal) = exchange(&stack, &device, json!({"device": "cam-2"})).await;
    assert_eq!((status, &refusal["error"]), (403, &json!("device_invalid")));

    let member = stack.token(&Token::role("acme", "member"));
    let (status, refusal) = exchange(&stack, &member, json!({"device": "cam-2"})).await;
    assert_eq!((status, &refusal["error"]), (403, &json!("role_not_allowed")));

    let operator = stack.token(&Token::role("acme", "operator"));
    let (status, file) = exchange(&stack, &operator, json!({"device": "cam-2"})).await;
    assert_eq!((status, &file["tenant"]), (200, &json!("acme")));

    let (status, _) = exchange(&stack, "garbage", json!({})).await;
    assert_eq!(status, 401);
}

#[tokio::test]
async fn a_service_principal_works_for_all_tenants_from_the_registry_account() {
    let stack = Stack::new()
        .config(
            "[[issuers]]\nname = \"platform\"\nissuer = \"https://platform.test\"\n\
             audiences = [\"bulkhead\"]\nalgorithms = [\"EdDSA\"]\nservice = true\n\
             keys.jwks_file = \"issuer.jwks.json\"\nroles = [\"service\"]\n\
             default_role = \"service\"\n",
        )
        .start()
        .await;
    let claims = Token::role("acme", "service")
        .with(json!({"iss": "https://platform.test", "tenant": null}))
        .claims();
    let token = stack.signer().sign(&claims).unwrap();
    let service = Actor::connect(stack.url(), &token).await;
    let mut registrations = service.subscribe("device-connect.*.registry").await;
    for tenant in ["acme", "globex"] {
        let device =
            Actor::connect(stack.url(), &stack.token(&Token::device(tenant, "cam-1"))).await;
        device.publish(&format!("device-connect.{tenant}.registry"), "register").await;
        let message = next(&mut registrations).await;
        assert_eq!(message.subject.as_str(), format!("device-connect.{tenant}.registry"));
    }
}
