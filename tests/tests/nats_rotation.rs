//! Keys are rotated without refusing or cutting anybody.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use async_nats::ConnectOptions;
use bulkhead_auth_callout::{Keyring, Rotation, rotate};
use bulkhead_cli::signer::Signer;
use bulkhead_tests::{Actor, Stack, Token, connect_error, eventually, eventually_async};
use serde_json::Value;

/// The signing keys of an account as a server knows it.
async fn account_claims(stack: &Stack, account: &str) -> Value {
    let creds = std::fs::read_to_string(stack.folder().join("nats/system.creds")).unwrap();
    let options = ConnectOptions::with_credentials(&creds).unwrap();
    let admin = Actor::try_connect(stack.url(), options).await.unwrap();
    let subject = format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP");
    let jwt = admin.client.request(subject, "".into()).await.unwrap().payload;
    let jwt = String::from_utf8(jwt.to_vec()).unwrap();
    let body = jwt.split('.').nth(1).unwrap();
    let json = data_encoding::BASE64URL_NOPAD.decode(body.as_bytes()).unwrap();
    serde_json::from_slice(&json).unwrap()
}

#[tokio::test]
async fn every_key_of_the_keyring_is_rotated_under_way() {
    let stack = Stack::new().start().await;
    let keys = stack.folder().join("nats");
    let token = stack.token(&Token::device("acme", "cam-1"));
    let held = Actor::connect(stack.url(), &token).await;

    let before = Keyring::read(&keys).unwrap();
    let mut in_use = jiff::Timestamp::MIN;
    for what in [Rotation::Issuer, Rotation::Tenants, Rotation::Curve] {
        in_use = in_use.max(rotate(&keys, what).unwrap());
    }
    // From the first moment until after all new keys are in use, nobody is refused.
    while jiff::Timestamp::now() < in_use + jiff::SignedDuration::from_secs(2) {
        let options = ConnectOptions::with_token(token.clone());
        assert!(Actor::try_connect(stack.url(), options).await.is_ok(), "refused while rotating");
    }
    let after = Keyring::read(&keys).unwrap();
    let now = jiff::Timestamp::now();
    assert_ne!(before.auth.signer(now).unwrap().public(), after.auth.signer(now).unwrap().public());
    let curve = after.curve(now).unwrap().public().to_owned();
    assert_ne!(before.curve(now).unwrap().public(), curve);
    eventually_async("the servers seal for the new key", async || {
        let claims = account_claims(&stack, &after.auth.account).await;
        claims["nats"]["authorization"]["xkey"] == curve.as_str()
    })
    .await;
    let tenant = after.account_of(&"acme".parse().unwrap()).unwrap();
    let claims = account_claims(&stack, &tenant).await;
    assert_eq!(claims["nats"]["signing_keys"].as_array().unwrap().len(), 2);
    assert!(!held.is_cut(), "who is connected stays");
    let options = ConnectOptions::with_token(token);
    assert!(Actor::try_connect(stack.url(), options).await.is_ok());
}

#[tokio::test]
async fn the_issuers_key_is_rotated_by_its_key_set() {
    let stack = Stack::new().start().await;
    let next = Signer::create(&stack.folder().join("next.pem")).unwrap();
    let claims = Token::device("acme", "cam-1").claims();
    let new = next.sign(&claims).unwrap();
    connect_error(&stack, &new).await;
    stack.denied("key_unknown").await;

    let path = stack.folder().join("issuer.jwks.json");
    let mut both: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    both["keys"].as_array_mut().unwrap().push(next.jwks()["keys"][0].clone());
    std::fs::write(&path, both.to_string()).unwrap();
    let admitted = async |token: String| {
        Actor::try_connect(stack.url(), ConnectOptions::with_token(token)).await.is_ok()
    };
    eventually_async("the new key is known", async || admitted(new.clone()).await).await;
    let old = stack.token(&Token::device("acme", "cam-1"));
    assert!(admitted(old.clone()).await, "and the old one still is");

    std::fs::write(&path, next.jwks().to_string()).unwrap();
    eventually_async("the withdrawn key vouches for nobody", async || !admitted(old.clone()).await)
        .await;
    eventually("cached tokens included", || stack.metrics().contains("key_unknown")).await;
    assert!(admitted(new).await);
}
