//! A configuration that changes while a process runs on it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

mod common;

use bulkhead_control::Control;
use bulkhead_policy::{DenyReason, Verdict};
use common::capture::Capture;
use common::endpoint::{Answer, Endpoint};
use common::signer::{Signer, claims, jwks};
use common::site::{Site, config, enter, issuer, metric};
use common::{soon, until, until_true};
use jiff::Timestamp;
use serde_json::json;
use toml::Table;

const PARTNER: &str = "https://partner.example";

/// A role `device` that may publish events and nothing else.
const NARROW: &str = "[roles.device]\npublish = [\"device-connect/{tenant}/{device}/event/**\"]\n";

struct World {
    site: Site,
    control: Control,
    key: Signer,
}

fn corp() -> Table {
    issuer("keys.jwks_file = \"keys.json\"")
}

fn partner() -> Table {
    issuer(&format!("name = \"partner\"\nissuer = \"{PARTNER}\"\nkeys.jwks_file = \"keys.json\""))
}

impl World {
    async fn start(config: &str) -> Self {
        let (site, key) = (Site::new(), Signer::ed25519("k1"));
        site.write("keys.json", jwks(&[&key]));
        let control = site.start(config).await;
        Self { site, control, key }
    }

    /// Changes the configuration and waits until it has been taken over.
    async fn reload(&self, config: &str) {
        let mut changes = self.control.auth().rules_changes();
        changes.mark_unchanged();
        self.site.configure(config);
        soon("the configuration is taken over", changes.changed()).await.unwrap();
    }

    fn token(&self, iss: &str) -> String {
        self.key.sign(&claims(json!({ "iss": iss })))
    }

    async fn outcome(&self, token: &str) -> Verdict<()> {
        enter(self.control.auth(), token).await.map(|_| ())
    }
}

#[tokio::test]
async fn a_changed_role_is_taken_over_and_changes_the_rights_of_live_connections() {
    let before = config("", vec![corp()]);
    let world = World::start(&before).await;
    let token = world.key.sign(&claims(json!({})));
    let live = enter(world.control.auth(), &token).await.unwrap();
    let viewer = world.key.sign(&claims(json!({"role": "viewer"})));
    let viewer = enter(world.control.auth(), &viewer).await.unwrap();
    let auth = world.control.auth();
    assert_eq!(auth.reassess(&live.principal, live.rights), Ok(()));

    world.reload(&config(NARROW, vec![corp()])).await;
    let changed = Err(DenyReason::RightsChanged);
    assert_eq!(auth.reassess(&live.principal, live.rights), changed);
    assert_eq!(auth.reassess(&viewer.principal, viewer.rights), Ok(()));
    let next = enter(auth, &token).await.unwrap();
    assert_eq!(next.grants.publish_allowed().len(), 1);
    assert!(next.grants.subscribe_allowed().is_empty());
    assert_eq!(auth.reassess(&next.principal, next.rights), Ok(()));

    // The way back, to the very same rights.
    world.reload(&before).await;
    assert_eq!(auth.reassess(&live.principal, live.rights), Ok(()));
    assert_eq!(auth.reassess(&next.principal, next.rights), changed);
}

#[tokio::test]
async fn a_role_of_services_is_no_exception() {
    let platform = issuer(
        "name = \"platform\"\nissuer = \"platform\"\ntenants = []\nservice = true\n\
         roles = [\"service\"]\ndefault_role = \"service\"\nkeys.jwks_file = \"keys.json\"",
    );
    let world = World::start(&config("", vec![platform.clone()])).await;
    let token = json!({"iss": "platform", "tenant": null, "device": null});
    let token = world.key.sign(&claims(token));
    let auth = world.control.auth();
    let live = enter(auth, &token).await.unwrap();
    assert_eq!(auth.reassess(&live.principal, live.rights), Ok(()));
    let changes = "[roles.service]\nsubscribe = [\"device-connect/{tenant}/**\"]\n";
    world.reload(&config(changes, vec![platform])).await;
    assert_eq!(auth.reassess(&live.principal, live.rights), Err(DenyReason::RightsChanged));
}

#[tokio::test]
async fn roles_have_to_fit_the_brokers_that_run_whatever_the_file_has_of_them_now() {
    let log = Capture::default();
    let _logging = tracing::subscriber::set_default(log.subscriber());
    let mqtt = "[mqtt]\nlisteners = [\"tcp://127.0.0.1:0\"]\n";
    let world = World::start(&config(mqtt, vec![corp()])).await;
    let token = world.token(common::signer::ISS);
    let live = enter(world.control.auth(), &token).await.unwrap();
    // As good as any for NATS.
    let odd = "[roles.device]\npublish = [\"device-connect/*/{tenant}/**\"]\n";
    world.site.configure(&config(odd, vec![corp()]));
    until_true("it is said", || log.text().contains("last good configuration stays")).await;
    assert!(log.text().contains("roles.device"), "{}", log.text());
    assert_eq!(world.control.auth().reassess(&live.principal, live.rights), Ok(()));
    let fitting = "[roles.device]\npublish = [\"device-connect/{tenant}/*/**\"]\n";
    world.reload(&config(fitting, vec![corp()])).await;
}

#[tokio::test]
async fn issuers_come_and_go() {
    let alone = config("", vec![corp()]);
    let world = World::start(&alone).await;
    let ours = world.token(common::signer::ISS);
    let theirs = world.token(PARTNER);
    let unknown = Err(DenyReason::IssuerUnknown);
    assert_eq!(world.outcome(&ours).await, Ok(()));
    assert_eq!(world.outcome(&theirs).await, unknown);

    world.reload(&config("", vec![corp(), partner()])).await;
    assert_eq!(world.outcome(&ours).await, Ok(()));
    let live = enter(world.control.auth(), &theirs).await.unwrap();
    let auth = world.control.auth();
    assert_eq!(auth.reassess(&live.principal, live.rights), Ok(()));

    world.reload(&alone).await;
    assert_eq!(world.outcome(&ours).await, Ok(()));
    let cached = auth.verifier().cached(&theirs, Timestamp::now());
    assert!(cached.is_none(), "a cached verdict outlives its issuer");
    assert_eq!(world.outcome(&theirs).await, unknown);
    assert_eq!(auth.reassess(&live.principal, live.rights), unknown);
}

#[tokio::test]
async fn what_an_issuer_may_say_is_taken_over_for_cached_tokens_too() {
    let world = World::start(&config("", vec![corp()])).await;
    let token = world.token(common::signer::ISS);
    let with = |changes: &str| {
        let corp = issuer(&format!("{changes}\nkeys.jwks_file = \"keys.json\""));
        config("", vec![corp])
    };
    for (changes, reason) in [
        ("tenants = [\"globex\"]", DenyReason::TenantNotAllowed),
        ("audiences = [\"other\"]", DenyReason::AudienceMismatch),
        ("algorithms = [\"ES256\", \"EdDSA\"]\nissuer = \"x\"", DenyReason::IssuerUnknown),
        (
            "roles = [\"viewer\"]\ndefault_role = \"viewer\"\nclaims.role = \"device\"",
            DenyReason::RoleNotAllowed,
        ),
    ] {
        assert_eq!(world.outcome(&token).await, Ok(()), "before {changes}");
        world.reload(&with(changes)).await;
        assert_eq!(world.outcome(&token).await, Err(reason), "{changes}");
        world.reload(&with("")).await;
    }
}

#[tokio::test]
async fn limits_of_everybody_are_taken_over() {
    let world = World::start(&config("", vec![corp()])).await;
    let token = world.token(common::signer::ISS);
    let quotas = async || enter(world.control.auth(), &token).await.unwrap().quotas;
    assert_eq!(quotas().await.connections, None);
    world.reload(&config("quotas.connections = 7", vec![corp()])).await;
    assert_eq!(quotas().await.connections, Some(7));
}

#[tokio::test]
async fn a_broken_reload_keeps_the_last_good_one_and_says_so() {
    let log = Capture::default();
    // This test's tasks all run in this thread.
    let _logging = tracing::subscriber::set_default(log.subscriber());
    let good = config("", vec![corp()]);
    let world = World::start(&good).await;
    let token = world.token(common::signer::ISS);
    let live = enter(world.control.auth(), &token).await.unwrap();
    world.site.write("weak.json", "{\"keys\": []}");
    let mut changes = world.control.auth().rules_changes();
    changes.mark_unchanged();
    let broken = [
        ("[[issuers", "bulkhead.toml:1"),
        ("", "directory"),
        (&*config("", vec![]), "issuers"),
        (&*format!("colour = \"blue\"\n{good}"), "colour"),
        (&*config(NARROW, vec![issuer("keys.jwks_file = \"weak.json\"")]), "weak.json"),
        (&*config(NARROW, vec![corp(), issuer("keys.jwks_file = \"gone.json\"")]), "issuers[1]"),
        (&*config(NARROW, vec![issuer("keys.jwks_file = \"gone.json\"")]), "gone.json"),
        (
            &*config("[roles.device]\nsubscribe = [\"device-connect/**\"]", vec![corp()]),
            "roles.device",
        ),
        (&*config(NARROW, vec![issuer("keys.jwks_url = \"http://idp.example/\"")]), "https"),
    ];
    for (text, said) in broken {
        let complaints = || log.text().matches("last good configuration stays").count();
        let before = complaints();
        world.site.configure(text);
        until_true(&format!("it is said: {text}"), || complaints() > before).await;
        let last = log.text().lines().last().unwrap_or_default().to_owned();
        assert!(last.contains("ERROR"), "{last}");
        assert!(last.contains(said), "no '{said}' in: {last}");
        assert_eq!(world.outcome(&token).await, Ok(()), "{text}");
        let auth = world.control.auth();
        assert_eq!(auth.reassess(&live.principal, live.rights), Ok(()), "{text}");
        assert!(!changes.has_changed().unwrap(), "{text}");
    }
    world.site.remove("bulkhead.toml");
    // And the next good one is taken over.
    world.reload(&config(NARROW, vec![corp()])).await;
    let next = enter(world.control.auth(), &token).await.unwrap();
    assert_ne!(next.rights, live.rights);
}

#[tokio::test]
async fn a_reload_in_an_outage_keeps_the_keys_that_there_are() {
    let key = Signer::ed25519("k1");
    let endpoint = Endpoint::start(Answer::ok(jwks(&[&key]))).await;
    let at = |url: &str| {
        let timing = "refresh = \"1h\"\ncooldown = \"1s\"";
        issuer(&format!("[keys]\njwks_url = \"{url}\"\n{timing}"))
    };
    let by_url = || at(&endpoint.url());
    let world = World::start(&config("", vec![by_url()])).await;
    let good = |key: &Signer| key.sign(&claims(json!({})));
    assert_eq!(world.outcome(&good(&key)).await, Ok(()));
    endpoint.go_down().await;

    // What is changed has nothing to do with the issuer.
    world.reload(&config(NARROW, vec![by_url()])).await;
    assert_eq!(world.outcome(&good(&key)).await, Ok(()));
    assert!(world.control.readiness().missing().is_empty());

    // Keys of another address are other keys, and there are none.
    let elsewhere = format!("{}?other", endpoint.url());
    world.reload(&config("", vec![at(&elsewhere)])).await;
    assert_eq!(world.outcome(&good(&key)).await, Err(DenyReason::KeysUnavailable));
}

#[tokio::test]
async fn reloads_do_not_multiply_the_fetches() {
    let key = Signer::ed25519("k1");
    let endpoint = Endpoint::start(Answer::ok(jwks(&[&key]))).await;
    let by_url = || issuer(&format!("[keys]\njwks_url = \"{}\"\nrefresh = \"1s\"", endpoint.url()));
    let world = World::start(&config("", vec![by_url()])).await;
    for i in 1..=10 {
        let changes = format!("quotas.connections = {i}");
        world.reload(&config(&changes, vec![by_url()])).await;
    }
    // The followers of earlier configurations are gone: what is fetched is fetched by one.
    let before = endpoint.hits();
    until_true("three more", || endpoint.hits() >= before + 4).await;
    let times = endpoint.times();
    let apart = times[before + 3] - times[before + 1];
    assert!(apart.as_secs_f64() > 1.5, "two periods of a second took {apart:?}");
}

#[tokio::test]
async fn a_change_right_after_the_start_is_not_missed() {
    let (site, key) = (Site::new(), Signer::ed25519("k1"));
    site.write("keys.json", jwks(&[&key]));
    let control = site.try_start(&config("", vec![corp()])).await.unwrap();
    // This thread's runtime runs no other task until the next await, so the file changes before
    // anybody has begun to watch it.
    site.configure(&config("", vec![corp(), partner()]));
    let token = key.sign(&claims(json!({"iss": PARTNER})));
    until("the change is taken over", async || enter(control.auth(), &token).await.ok()).await;
    assert!(metric(&control, "bulkhead_directory_tenants") > 0.0);
}
