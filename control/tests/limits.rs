//! Limits on who may ask how often.

#![allow(clippy::unwrap_used, reason = "a test stops at a surprise")]

mod common;

use bulkhead_control::Control;
use bulkhead_policy::{DenyReason, Verdict};
use common::endpoint::{Answer, Endpoint};
use common::signer::{Signer, claims, jwks};
use common::site::{Site, config, enter, issuer};
use common::until_true;
use serde_json::json;
use std::net::IpAddr;

fn address(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

async fn start(site: &Site, key: &Signer, limits: &str) -> Control {
    site.write("keys.json", jwks(&[key]));
    let corp = issuer("keys.jwks_file = \"keys.json\"");
    site.start(&config(limits, vec![corp])).await
}

async fn from(control: &Control, source: &str, token: &str) -> Verdict<()> {
    let identified = control.auth().identify(token, address(source)).await;
    identified.map(|_| ())
}

#[tokio::test]
async fn an_address_that_fails_too_often_is_shut_out_but_not_its_verified_neighbours() {
    let (site, key) = (Site::new(), Signer::ed25519("k1"));
    let control = start(&site, &key, "limits.failures_per_minute = 5").await;
    let known = key.sign(&claims(json!({})));
    let source = "192.0.2.1";
    assert_eq!(from(&control, source, &known).await, Ok(()));

    let forged = Signer::ed25519("k1").sign(&claims(json!({})));
    for _ in 0..5 {
        let verdict = from(&control, source, &forged).await;
        assert_eq!(verdict, Err(DenyReason::SignatureInvalid));
    }
    let shut = Err(DenyReason::SourceRateExceeded);
    assert_eq!(from(&control, source, &forged).await, shut);
    let unseen = key.sign(&claims(json!({})));
    assert_eq!(from(&control, source, &unseen).await, shut);
    assert_eq!(from(&control, source, &known).await, Ok(()));
    assert_eq!(from(&control, "192.0.2.2", &unseen).await, Ok(()));
    // Another spelling of the same address is the same address.
    let fresh = key.sign(&claims(json!({})));
    assert_eq!(from(&control, "::ffff:192.0.2.1", &fresh).await, shut);
}

#[tokio::test]
async fn an_outage_is_not_held_against_those_who_met_it() {
    let (site, key) = (Site::new(), Signer::ed25519("k1"));
    let mut endpoint = Endpoint::start(Answer::ok(jwks(&[&key]))).await;
    endpoint.go_down().await;
    let corp = issuer(&format!(
        "[keys]\njwks_url = \"{}\"\nrefresh = \"1s\"\ncooldown = \"1s\"",
        endpoint.url()
    ));
    let limits = "limits.failures_per_minute = 2";
    let control = site.try_start(&config(limits, vec![corp])).await.unwrap();
    let token = key.sign(&claims(json!({})));
    for _ in 0..20 {
        let verdict = from(&control, "192.0.2.1", &token).await;
        assert_eq!(verdict, Err(DenyReason::KeysUnavailable));
    }
    endpoint.come_back().await;
    until_true("the keys are there", || control.auth().verifier().is_ready()).await;
    assert_eq!(from(&control, "192.0.2.1", &token).await, Ok(()));
}

#[tokio::test]
async fn a_tenant_that_comes_too_often_waits_and_its_neighbour_does_not() {
    let (site, key) = (Site::new(), Signer::ed25519("k1"));
    site.write(
        "tenants.toml",
        "[tenants.acme]\nquotas.authentications_per_minute = 3\n[tenants.globex]\n",
    );
    let control = start(&site, &key, "quotas.authentications_per_minute = 10").await;
    let admitted = async |tenant: &str| {
        let token = key.sign(&claims(json!({ "tenant": tenant })));
        let mut admitted = 0;
        for _ in 0..20 {
            match enter(control.auth(), &token).await {
                Ok(_) => admitted += 1,
                Err(reason) => assert_eq!(reason, DenyReason::AuthRateExceeded),
            }
        }
        admitted
    };
    // One more may come in while the test runs, at these rates.
    assert!((3..=4).contains(&admitted("acme").await));
    assert!((10..=12).contains(&admitted("globex").await));
}

#[test]
fn a_limit_that_would_lock_everybody_out_is_refused() {
    let site = Site::new();
    let corp = issuer("keys.jwks_file = \"keys.json\"");
    let refused = site.load(&config("limits.failures_per_minute = 0", vec![corp]));
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("limits.failures_per_minute"), "{error}");
}
