//! Key sets that come over the network: rotation, floods, and endpoints that misbehave.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at a surprise"
)]

mod common;

use axum::Router;
use axum::routing::get;
use axum_server::tls_rustls::RustlsConfig;
use bulkhead_control::Control;
use bulkhead_policy::{DenyReason, Verdict};
use common::endpoint::{Answer, Endpoint};
use common::signer::{Signer, claims, jwks};
use common::site::{Site, config, enter, issuer, metric, ready};
use common::{all, soon, until, until_true};
use jiff::Timestamp;
use serde_json::json;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Keys that are fetched once, at the start, and then only for a token with an unknown `kid`.
const ON_DEMAND: &str = "refresh = \"1h\"\ncooldown = \"1s\"";

/// Keys that are fetched once and not again while a test runs.
const ONCE: &str = "refresh = \"1h\"\ncooldown = \"1h\"";

/// Keys that are fetched as often as may be configured.
const OFTEN: &str = "refresh = \"1s\"\ncooldown = \"1s\"";

/// A process whose issuer's keys are at an endpoint.
struct World {
    _site: Site,
    control: Arc<Control>,
}

impl World {
    /// Starts it, ready or not.
    async fn begin(url: &str, timing: &str) -> Self {
        let site = Site::new();
        let corp = issuer(&format!("[keys]\njwks_url = \"{url}\"\n{timing}"));
        let control = site.try_start(&config("", vec![corp])).await.unwrap();
        until_true("the directory is read", || control.auth().directory().is_fresh()).await;
        Self { _site: site, control: Arc::new(control) }
    }

    async fn start(endpoint: &Endpoint, timing: &str) -> Self {
        let world = Self::begin(&endpoint.url(), timing).await;
        ready(&world.control).await;
        world
    }

    async fn outcome(&self, token: &str) -> Verdict<()> {
        enter(self.control.auth(), token).await.map(|_| ())
    }

    async fn until_outcome(&self, token: &str, wanted: Verdict<()>) {
        until(&format!("{wanted:?}"), async || (self.outcome(token).await == wanted).then_some(()))
            .await;
    }

    fn refreshes(&self, outcome: &str) -> f64 {
        let series =
            format!("bulkhead_key_refreshes_total{{issuer=\"corp\",outcome=\"{outcome}\"}}");
        metric(&self.control, &series)
    }

    /// Waits until a fetch that began from now on has failed.
    async fn until_refresh_fails(&self) {
        let before = self.refreshes("error");
        until_true("a fetch fails", || self.refreshes("error") > before).await;
    }
}

fn good(key: &Signer) -> String {
    key.sign(&claims(json!({})))
}

/// Tokens with so many ids of keys that nobody has.
fn flood(tokens: usize) -> Vec<String> {
    let forger = Signer::ed25519("forged");
    let claims = claims(json!({}));
    (0..tokens)
        .map(|i| forger.sign_as(&json!({"alg": "EdDSA", "kid": format!("nobodys-{i}")}), &claims))
        .collect()
}

/// All of them at once, and what becomes of them.
async fn all_at_once(world: &World, tokens: Vec<String>) -> Vec<Verdict<()>> {
    let tasks: Vec<_> = tokens
        .into_iter()
        .map(|token| {
            let control = Arc::clone(&world.control);
            tokio::spawn(async move { enter(control.auth(), &token).await.map(|_| ()) })
        })
        .collect();
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(soon("a verdict", task).await.unwrap());
    }
    outcomes
}

#[tokio::test]
async fn a_new_key_is_fetched_when_its_first_token_comes() {
    let (old, new) = (Signer::ed25519("old"), Signer::ed25519("new"));
    let endpoint = Endpoint::start(Answer::ok(jwks(&[&old]))).await;
    let world = World::start(&endpoint, ON_DEMAND).await;
    assert_eq!(world.outcome(&good(&old)).await, Ok(()));
    endpoint.set(Answer::ok(jwks(&[&old, &new])));
    world.until_outcome(&good(&new), Ok(())).await;
    assert_eq!(endpoint.hits(), 2, "one at the start, one for the new key");
    assert_eq!(world.outcome(&good(&old)).await, Ok(()));
}

#[tokio::test]
async fn a_known_key_asks_nobody() {
    let key = Signer::ed25519("k1");
    let endpoint = Endpoint::start(Answer::ok(jwks(&[&key]))).await;
    let world = World::start(&endpoint, ON_DEMAND).await;
    for _ in 0..100 {
        assert_eq!(world.outcome(&good(&key)).await, Ok(()));
    }
    // A wrong signature under a known kid is the client's fault, not the key set's.
    let forged = Signer::ed25519("k1");
    for _ in 0..100 {
        let invalid = Err(DenyReason::SignatureInvalid);
        assert_eq!(world.outcome(&good(&forged)).await, invalid);
    }
    assert_eq!(endpoint.hits(), 1);
}

#[tokio::test]
async fn a_flood_of_unknown_keys_costs_one_fetch_per_cooldown() {
    let key = Signer::ed25519("k1");
    for (answer, expected) in [
        (Answer::ok(jwks(&[&key])), DenyReason::KeyUnknown),
        (Answer::ok(jwks(&[])), DenyReason::KeysUnavailable),
        (Answer::status(500, "no"), DenyReason::KeysUnavailable),
        (Answer::Close, DenyReason::KeysUnavailable),
    ] {
        let endpoint = Endpoint::start(answer.clone()).await;
        let world = World::begin(&endpoint.url(), ONCE).await;
        until_true("the first fetch", || world.refreshes("ok") + world.refreshes("error") > 0.0)
            .await;
        let outcomes = all_at_once(&world, flood(300)).await;
        assert!(outcomes.iter().all(|o| *o == Err(expected)), "{answer:?}");
        assert_eq!(endpoint.hits(), 1, "{answer:?}");
    }
}

#[tokio::test]
async fn fetches_are_a_cooldown_apart_however_the_endpoint_fails() {
    let key = Signer::ed25519("k1");
    let answers = [
        Answer::ok(jwks(&[&key])),
        Answer::ok(jwks(&[])),
        Answer::status(500, "no"),
        Answer::Close,
    ];
    all(answers.map(three_fetches_are_a_cooldown_apart)).await;
}

async fn three_fetches_are_a_cooldown_apart(answer: Answer) {
    let endpoint = Endpoint::start(answer.clone().after(Duration::from_millis(500))).await;
    let timing = "refresh = \"1h\"\ncooldown = \"2s\"";
    let world = World::begin(&endpoint.url(), timing).await;
    let tokens = flood(20);
    until("three fetches", async || {
        for token in &tokens {
            assert!(world.outcome(token).await.is_err());
        }
        (endpoint.hits() >= 3).then_some(())
    })
    .await;
    for pair in endpoint.times().windows(2) {
        let apart = pair[1] - pair[0];
        // What the way to the endpoint takes may differ from one request to the next.
        let least = Duration::from_millis(1_700);
        assert!(apart >= least, "{apart:?} apart with {answer:?}");
    }
}

/// Lets a token with an unknown key wait for a fetch, once the cooldown after the start is over.
async fn begin_fetch(world: &World, endpoint: &Endpoint) -> JoinHandle<()> {
    let before = endpoint.hits();
    until("a fetch is under way", async || {
        let control = Arc::clone(&world.control);
        let token = flood(1).remove(0);
        let waiting = tokio::spawn(async move {
            let _ = enter(control.auth(), &token).await;
        });
        until_true("the fetch, or a denial without one", || {
            endpoint.hits() > before || waiting.is_finished()
        })
        .await;
        (endpoint.hits() > before).then_some(waiting)
    })
    .await
}

#[tokio::test]
async fn those_who_wait_for_one_fetch_do_not_each_make_their_own() {
    let key = Signer::ed25519("k1");
    let endpoint = Endpoint::start(Answer::ok(jwks(&[&key]))).await;
    let world = World::start(&endpoint, ON_DEMAND).await;
    // The fetch will take longer than the cooldown, which is over when those who wait go on.
    endpoint.set(Answer::Silence);
    let waiting = begin_fetch(&world, &endpoint).await;
    let before = endpoint.hits();
    let outcomes = all_at_once(&world, flood(10)).await;
    assert!(outcomes.iter().all(Result::is_err));
    // The next attempt of the source's own may already have begun.
    let more = endpoint.hits() - before;
    assert!(more <= 1, "{more} fetches for ten tokens that came together");
    soon("the first", waiting).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_takes_no_fetch_with_it() {
    let (old, new) = (Signer::ed25519("old"), Signer::ed25519("new"));
    let endpoint = Endpoint::start(Answer::ok(jwks(&[&old]))).await;
    // After the one fetch that this test is about there is none for a while.
    let world = World::start(&endpoint, "refresh = \"1h\"\ncooldown = \"3s\"").await;
    endpoint.set(Answer::ok(jwks(&[&old, &new])).after(Duration::from_millis(300)));
    let waiting = begin_fetch(&world, &endpoint).await;
    waiting.abort();
    let by_new = good(&new);
    world.until_outcome(&by_new, Ok(())).await;
    assert_eq!(endpoint.hits(), 2, "the fetch was lost and had to be made again");
}

#[tokio::test]
async fn while_the_endpoint_is_silent_known_keys_serve_and_unknown_ones_are_refused() {
    let key = Signer::ed25519("k1");
    let endpoint = Endpoint::start(Answer::ok(jwks(&[&key]))).await;
    let world = World::start(&endpoint, OFTEN).await;
    endpoint.set(Answer::Silence);
    world.until_refresh_fails().await;
    let hanging = {
        let control = Arc::clone(&world.control);
        let token = flood(1).remove(0);
        tokio::spawn(async move { enter(control.auth(), &token).await.map(|_| ()) })
    };
    for _ in 0..20 {
        assert_eq!(world.outcome(&good(&key)).await, Ok(()));
    }
    let outcome = soon("a verdict", hanging).await.unwrap();
    assert_eq!(outcome, Err(DenyReason::KeyUnknown));
}

#[tokio::test]
async fn an_endless_answer_is_left_and_the_last_good_keys_serve() {
    let key = Signer::ed25519("k1");
    let endpoint = Endpoint::start(Answer::ok(jwks(&[&key]))).await;
    let world = World::start(&endpoint, OFTEN).await;
    endpoint.set(Answer::Endless);
    soon("the answer is left", endpoint.abandoned()).await;
    assert_eq!(world.outcome(&good(&key)).await, Ok(()));
}

#[tokio::test]
async fn an_answer_over_the_limit_is_not_taken_though_its_keys_are_good() {
    let (old, new) = (Signer::ed25519("old"), Signer::ed25519("new"));
    let endpoint = Endpoint::start(Answer::ok(jwks(&[&old]))).await;
    let world = World::start(&endpoint, OFTEN).await;
    let padded = |size: usize| jwks(&[&new]) + &" ".repeat(size);
    endpoint.set(Answer::ok(padded(256 * 1024)));
    world.until_refresh_fails().await;
    assert_eq!(world.outcome(&good(&old)).await, Ok(()));
    assert_eq!(world.outcome(&good(&new)).await, Err(DenyReason::KeyUnknown));
    endpoint.set(Answer::ok(padded(200 * 1024)));
    world.until_outcome(&good(&new), Ok(())).await;
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (ours, theirs) = (Signer::ed25519("ours"), Signer::ed25519("theirs"));
    let elsewhere = Endpoint::start(Answer::ok(jwks(&[&theirs]))).await;
    let endpoint = Endpoint::start(Answer::ok(jwks(&[&ours]))).await;
    let world = World::start(&endpoint, OFTEN).await;
    endpoint.set(Answer::redirect(&elsewhere.url()));
    world.until_refresh_fails().await;
    assert_eq!(world.outcome(&good(&theirs)).await, Err(DenyReason::KeyUnknown));
    assert_eq!(world.outcome(&good(&ours)).await, Ok(()));
    assert_eq!(elsewhere.hits(), 0);
}

#[tokio::test]
async fn what_is_no_key_set_leaves_the_last_good_one() {
    let (old, new) = (Signer::ed25519("old"), Signer::ed25519("new"));
    let answers = [
        Answer::status(404, "not found"),
        Answer::status(500, jwks(&[&new])),
        Answer::status(203, jwks(&[&new])),
        Answer::status(204, ""),
        Answer::ok(""),
        Answer::ok("<html>sign in first</html>"),
        Answer::ok("\u{0}\u{1}\u{2}"),
        Answer::ok("[".repeat(100_000)),
        Answer::ok("{\"keys\": {}}"),
        Answer::ok(jwks(&[])),
        Answer::ok("{\"keys\": [{\"kty\": \"XYZ\"}]}"),
        Answer::Close,
    ];
    all(answers.map(|answer| it_leaves_the_last_good_set(answer, &old, &new))).await;
}

async fn it_leaves_the_last_good_set(answer: Answer, old: &Signer, new: &Signer) {
    let endpoint = Endpoint::start(Answer::ok(jwks(&[old]))).await;
    let world = World::start(&endpoint, OFTEN).await;
    endpoint.set(answer.clone());
    world.until_refresh_fails().await;
    assert_eq!(world.outcome(&good(old)).await, Ok(()), "{answer:?}");
    let unknown = Err(DenyReason::KeyUnknown);
    assert_eq!(world.outcome(&good(new)).await, unknown, "{answer:?}");
    endpoint.set(Answer::ok(jwks(&[new])));
    world.until_outcome(&good(new), Ok(())).await;
}

#[tokio::test]
async fn the_last_good_keys_serve_until_they_are_too_old_and_not_longer() {
    let key = Signer::ed25519("k1");
    let mut endpoint = Endpoint::start(Answer::ok(jwks(&[&key]))).await;
    let timing = format!("{OFTEN}\nmax_age = \"4s\"");
    let world = World::start(&endpoint, &timing).await;
    let token = good(&key);
    assert_eq!(world.outcome(&token).await, Ok(()));
    endpoint.go_down().await;
    world.until_refresh_fails().await;
    // One that was verified before, and one that was not.
    assert_eq!(world.outcome(&token).await, Ok(()));
    assert_eq!(world.outcome(&good(&key)).await, Ok(()));
    assert!(world.control.readiness().missing().is_empty());

    let closed = Err(DenyReason::KeysUnavailable);
    world.until_outcome(&token, closed).await;
    assert_eq!(world.outcome(&good(&key)).await, closed);
    assert_eq!(world.control.readiness().missing(), ["issuer keys"]);

    endpoint.come_back().await;
    world.until_outcome(&token, Ok(())).await;
    assert_eq!(world.outcome(&good(&key)).await, Ok(()));
    ready(&world.control).await;
}

#[tokio::test]
async fn an_outage_at_the_start_is_forgotten_when_it_ends() {
    let key = Signer::ed25519("k1");
    let mut endpoint = Endpoint::start(Answer::ok(jwks(&[&key]))).await;
    endpoint.go_down().await;
    let world = World::begin(&endpoint.url(), ON_DEMAND).await;
    let token = good(&key);
    let closed = Err(DenyReason::KeysUnavailable);
    assert_eq!(world.outcome(&token).await, closed);
    assert_eq!(world.control.readiness().missing(), ["issuer keys"]);
    endpoint.come_back().await;
    world.until_outcome(&token, Ok(())).await;
    ready(&world.control).await;
}

#[tokio::test]
async fn a_withdrawn_key_takes_its_cached_verdicts_with_it() {
    let (old, new) = (Signer::ed25519("old"), Signer::ed25519("new"));
    let endpoint = Endpoint::start(Answer::ok(jwks(&[&old, &new]))).await;
    let world = World::start(&endpoint, OFTEN).await;
    let (by_old, by_new) = (good(&old), good(&new));
    for token in [&by_old, &by_new] {
        assert_eq!(world.outcome(token).await, Ok(()));
        let cached = world.control.auth().verifier().cached(token, Timestamp::now());
        assert!(cached.is_some(), "the verdict is cached");
    }
    endpoint.set(Answer::ok(jwks(&[&new])));
    world.until_outcome(&by_old, Err(DenyReason::KeyUnknown)).await;
    let cached = world.control.auth().verifier().cached(&by_old, Timestamp::now());
    assert!(cached.is_none());
    assert_eq!(world.outcome(&by_new).await, Ok(()));
}

#[tokio::test]
async fn a_key_that_is_exchanged_under_its_id_is_another_key() {
    let (old, new) = (Signer::ed25519("same"), Signer::ed25519("same"));
    let endpoint = Endpoint::start(Answer::ok(jwks(&[&old]))).await;
    let world = World::start(&endpoint, OFTEN).await;
    let (by_old, by_new) = (good(&old), good(&new));
    assert_eq!(world.outcome(&by_old).await, Ok(()));
    endpoint.set(Answer::ok(jwks(&[&new])));
    world.until_outcome(&by_new, Ok(())).await;
    assert_eq!(world.outcome(&by_old).await, Err(DenyReason::SignatureInvalid));
}

#[test]
fn keys_come_over_https_or_from_this_very_machine() {
    let site = Site::new();
    let load = |url: &str| {
        let corp = issuer(&format!("keys.jwks_url = \"{url}\""));
        site.load(&config("", vec![corp]))
    };
    for url in [
        "https://idp.example/jwks",
        "http://127.0.0.1:8080/jwks",
        "http://localhost:8080/jwks",
        "http://[::1]:8080/jwks",
    ] {
        assert!(load(url).is_ok(), "{url}");
    }
    for url in [
        "http://idp.example/jwks",
        "http://10.0.0.1/jwks",
        "http://0.0.0.0/jwks",
        "http://localhost.example/jwks",
        "http://localhost@idp.example/jwks",
        "http://127.0.0.1@idp.example/jwks",
        "http://127.0.0.1.idp.example/jwks",
        "ftp://127.0.0.1/jwks",
        "file:///etc/bulkhead/keys.json",
        "idp.example/jwks",
        "",
    ] {
        let Err(error) = load(url) else {
            panic!("{url} was taken");
        };
        let error = error.to_string();
        assert!(error.contains("issuers[0].keys.jwks_url"), "{error}");
        assert!(error.contains("https"), "no remedy in: {error}");
    }
}

#[test]
fn times_that_cannot_work_are_refused() {
    let site = Site::new();
    for (timing, setting) in [
        ("refresh = \"0s\"", "refresh"),
        ("cooldown = \"0s\"", "cooldown"),
        ("cooldown = \"-30s\"", "cooldown"),
        ("max_age = \"0s\"", "max_age"),
        ("refresh = \"10m\"\nmax_age = \"5m\"", "max_age"),
    ] {
        let corp = issuer(&format!("[keys]\njwks_url = \"https://idp.example/\"\n{timing}"));
        let error = site.load(&config("", vec![corp])).unwrap_err().to_string();
        assert!(error.contains(&format!("issuers[0].keys.{setting}")), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_not_believed() {
    let key = Signer::ed25519("k1");
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let body = jwks(&[&key]);
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let tls = RustlsConfig::from_pem(
        certified.cert.pem().into_bytes(),
        certified.signing_key.serialize_pem().into_bytes(),
    )
    .await
    .unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let handle = axum_server::Handle::new();
    let server = axum_server::from_tcp_rustls(listener, tls)
        .unwrap()
        .handle(handle.clone())
        .serve(Router::new().route("/", get(|| async move { body })).into_make_service());
    let server = tokio::spawn(server);

    let site = Site::new();
    site.write("ca.pem", certified.cert.pem());
    let timing = ON_DEMAND;
    let distrusting = issuer(&format!("[keys]\njwks_url = \"{url}\"\n{timing}"));
    let control = site.try_start(&config("", vec![distrusting])).await.unwrap();
    until("the fetch fails", async || {
        let verdict = control.auth().identify(&good(&key), None).await;
        let failed =
            metric(&control, "bulkhead_key_refreshes_total{issuer=\"corp\",outcome=\"error\"}");
        assert_eq!(verdict.map(|_| ()), Err(DenyReason::KeysUnavailable));
        (failed > 0.0).then_some(())
    })
    .await;
    let trusting = issuer(&format!("[keys]\njwks_url = \"{url}\"\nca_file = \"ca.pem\"\n{timing}"));
    let control = site.start(&config("", vec![trusting])).await;
    assert!(enter(control.auth(), &good(&key)).await.is_ok());
    handle.shutdown();
    soon("the server ends", server).await.unwrap().unwrap();
}
