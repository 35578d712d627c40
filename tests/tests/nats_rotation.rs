//! Keys are rotated without refusing or cutting anybody.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use async_nats::ConnectOptions;
use bulkhead_auth_callout::{Keyring, Rotation, rotate};
use bulkhead_cli::signer::Signer;
use bulkhead_tests::{Actor, Stack, Token, connect_error, eventually, eventually_async};
use nkeys::KeyPair;
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

/// As when one has leaked: as soon as it is let, every key of before is pushed out.
#[tokio::test]
async fn keys_are_pushed_out_in_haste_and_nobody_new_is_refused() {
    let stack = Stack::new().start().await;
    let keys = stack.folder().join("nats");
    let token = stack.token(&Token::device("acme", "cam-1"));
    let before = Keyring::read(&keys).unwrap();
    let issued = issue(&stack).await;
    assert!(Actor::try_connect(stack.url(), with_credentials(&issued)).await.is_ok());
    let kinds = [Rotation::Issuer, Rotation::Tenants, Rotation::Curve];
    let (mut left, mut refused) = ([3, 3, 3], 0);
    let mut until = jiff::Timestamp::now();
    while left != [0, 0, 0] || jiff::Timestamp::now() < until {
        for (what, left) in kinds.into_iter().zip(&mut left).filter(|(_, left)| **left > 0) {
            match rotate(&keys, what) {
                Ok(from) => {
                    *left -= 1;
                    until = until.max(from + jiff::SignedDuration::from_secs(2));
                }
                Err(error) => {
                    assert!(error.to_string().contains("rotate again in"), "{error}");
                    refused += 1;
                }
            }
        }
        let options = ConnectOptions::with_token(token.clone());
        let outcome = Actor::try_connect(stack.url(), options).await;
        assert!(outcome.is_ok(), "refused with {left:?} to go: {:?}", outcome.err());
    }
    assert!(refused > 0, "the third was let at once");
    let after = Keyring::read(&keys).unwrap();
    let acme = "acme".parse().unwrap();
    let public = |keyring: &Keyring| {
        let mut all = keyring.auth.public_keys();
        all.extend(keyring.signers_of(&acme).unwrap());
        all.extend(keyring.curves.iter().map(|curve| curve.value.public().to_owned()));
        all
    };
    assert!(public(&after).iter().all(|key| !public(&before).contains(key)));
    // Servers still know the first key, by which they have clients without a JWT; what it signed besides is
    // worth nothing any more.
    assert!(Actor::try_connect(stack.url(), with_credentials(&issued)).await.is_err());
    stack.denied("issuer_unknown").await;
    let options = with_credentials(&issue(&stack).await);
    assert!(Actor::try_connect(stack.url(), options).await.is_ok());
}

/// A device's credentials, from the exchange.
async fn issue(stack: &Stack) -> Value {
    let token = stack.token(&Token::device("acme", "cam-1"));
    let request = reqwest::Client::new().post(stack.exchange_url());
    let answer = request.bearer_auth(token).send().await.unwrap().json::<Value>().await.unwrap();
    answer["nats"].clone()
}

fn with_credentials(issued: &Value) -> ConnectOptions {
    let key = KeyPair::from_seed(issued["nkey_seed"].as_str().unwrap()).unwrap();
    let key = std::sync::Arc::new(key);
    let jwt = issued["jwt"].as_str().unwrap().to_owned();
    ConnectOptions::with_jwt(jwt, move |nonce| {
        let key = std::sync::Arc::clone(&key);
        async move { key.sign(&nonce).map_err(async_nats::AuthError::new) }
    })
}

/// The key that signed its own user is pushed out too, and the servers close its connection.
#[tokio::test]
async fn a_service_comes_back_when_its_own_key_was_pushed_out() {
    let mut stack = Stack::new().start().await;
    let keys = stack.folder().join("nats");
    let in_use = rotate(&keys, Rotation::Issuer).unwrap();
    eventually("the second key is in use", || jiff::Timestamp::now() > in_use).await;
    stack.stop_service().await;
    stack.start_service().await;
    let own = Keyring::read(&keys).unwrap();
    let own = own.auth.signer(jiff::Timestamp::now()).unwrap().public().to_owned();
    // As soon as that is let, which takes a while.
    while Keyring::read(&keys).unwrap().auth.owns(&own) {
        if let Err(error) = rotate(&keys, Rotation::Issuer) {
            assert!(error.to_string().contains("rotate again in"), "{error}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let account = Keyring::read(&keys).unwrap().auth.account;
    eventually_async("the servers know", async || {
        let claims = account_claims(&stack, &account).await;
        !claims["nats"]["signing_keys"].as_array().unwrap().contains(&own.as_str().into())
    })
    .await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    eventually_async("it answers again", async || {
        let options = ConnectOptions::with_token(token.clone());
        Actor::try_connect(stack.url(), options).await.is_ok()
    })
    .await;
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
