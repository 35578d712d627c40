//! Genuine signatures under claims that are not what they should be.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

mod common;

use bulkhead_control::Control;
use bulkhead_policy::{Broker, DenyReason, Scope, Verdict};
use common::signer::{AUD, ISS, Signer, claims, jwks, now};
use common::site::{Site, config, enter, issuer};
use jiff::Timestamp;
use serde_json::{Value, json};

const PARTNER: &str = "https://partner.example";

/// Issuer `corp` for both tenants, `partner` for `globex` alone, and `platform` for services, all
/// with the same key: what differs is what each may say.
struct World {
    _site: Site,
    control: Control,
    key: Signer,
}

impl World {
    async fn start() -> Self {
        let site = Site::new();
        let key = Signer::ed25519("k1");
        site.write("keys.json", jwks(&[&key]));
        let corp = issuer("keys.jwks_file = \"keys.json\"");
        let partner = issuer(&format!(
            "name = \"partner\"\nissuer = \"{PARTNER}\"\ntenants = [\"globex\"]\n\
             keys.jwks_file = \"keys.json\""
        ));
        let platform = issuer(
            "name = \"platform\"\nissuer = \"platform\"\ntenants = []\nservice = true\n\
             roles = [\"service\"]\ndefault_role = \"service\"\nkeys.jwks_file = \"keys.json\"",
        );
        let control = site.start(&config("", vec![corp, partner, platform])).await;
        Self { _site: site, control, key }
    }

    async fn outcome(&self, changes: Value) -> Verdict<()> {
        let token = self.key.sign(&claims(changes));
        enter(self.control.auth(), &token).await.map(|_| ())
    }

    /// What the verifier says at a moment of the test's choice.
    async fn at(&self, second: i64, changes: Value) -> Verdict<()> {
        let token = self.key.sign(&claims(changes));
        let now = Timestamp::from_second(second).unwrap();
        let verdict = self.control.auth().verifier().verify(&token, now).await;
        verdict.map(|_| ())
    }
}

#[tokio::test]
async fn a_token_says_who_its_bearer_is() {
    let world = World::start().await;
    let token = world.key.sign(&claims(json!({"role": "viewer"})));
    let admission = enter(world.control.auth(), &token).await.unwrap();
    assert_eq!(admission.principal.to_string(), "acme/cam-1");
    assert_eq!(admission.principal.role.as_str(), "viewer");
    assert_eq!(&*admission.principal.issuer, "corp");
}

#[tokio::test]
async fn what_is_required_is_required() {
    let world = World::start().await;
    assert_eq!(world.outcome(json!({})).await, Ok(()));
    for (name, reason) in [
        ("exp", DenyReason::ClaimMissing),
        ("iss", DenyReason::IssuerUnknown),
        ("aud", DenyReason::AudienceMismatch),
        ("tenant", DenyReason::ClaimMissing),
        // The role needs one.
        ("device", DenyReason::DeviceRequired),
    ] {
        assert_eq!(world.outcome(json!({ name: null })).await, Err(reason), "without {name}");
    }
    // What need not be there.
    for name in ["iat", "jti"] {
        assert_eq!(world.outcome(json!({ name: null })).await, Ok(()));
    }
}

#[tokio::test]
async fn an_issuer_is_known_by_every_byte_of_its_name() {
    let world = World::start().await;
    for iss in [
        json!(format!("{ISS}/")),
        json!(ISS.to_uppercase()),
        json!(format!("{ISS} ")),
        json!("https://idp.exampl"),
        json!([ISS]),
        json!({"iss": ISS}),
        json!(""),
    ] {
        let outcome = world.outcome(json!({ "iss": iss })).await;
        assert_eq!(outcome, Err(DenyReason::IssuerUnknown), "{iss}");
    }
}

#[tokio::test]
async fn an_audience_is_equal_or_it_is_another() {
    let world = World::start().await;
    for aud in [json!(AUD), json!([AUD]), json!(["other", AUD])] {
        assert_eq!(world.outcome(json!({ "aud": aud })).await, Ok(()), "{aud}");
    }
    for aud in [
        json!(format!("{AUD}-staging")),
        json!(format!("not-{AUD}")),
        json!(format!("{AUD} other")),
        json!(format!("{AUD} ")),
        json!("bulk"),
        json!(AUD.to_uppercase()),
        json!(""),
        json!([]),
        json!(["other", format!("x{AUD}")]),
        json!([[AUD]]),
        json!({"0": AUD}),
        json!(true),
    ] {
        let outcome = world.outcome(json!({ "aud": aud })).await;
        assert_eq!(outcome, Err(DenyReason::AudienceMismatch), "{aud}");
    }
}

#[tokio::test]
async fn dates_are_numbers_that_can_be() {
    let world = World::start().await;
    let invalid = Err(DenyReason::ClaimInvalid);
    for date in [
        json!((now() + 600).to_string()),
        json!(-1),
        json!(-1e300),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MIN),
        json!([now() + 600]),
        json!({}),
        json!(true),
    ] {
        for name in ["exp", "nbf", "iat"] {
            let outcome = world.outcome(json!({ name: date })).await;
            assert_eq!(outcome, invalid, "{name} {date}");
        }
    }
    let fraction = json!({"exp": now() as f64 + 600.5});
    assert_eq!(world.outcome(fraction).await, Ok(()), "RFC 7519 §2");
    // A verdict without an end would be cached for ever.
    for exp in [json!("Infinity"), json!("NaN"), json!(253_402_300_800_u64)] {
        assert_eq!(world.outcome(json!({ "exp": exp })).await, invalid, "{exp}");
    }
}

#[tokio::test]
async fn the_leeway_ends_where_it_says() {
    let world = World::start().await;
    let then = now();
    for (offset, outcome) in [
        (1, Ok(())),
        (-29, Ok(())),
        (-30, Err(DenyReason::TokenExpired)),
        (-31, Err(DenyReason::TokenExpired)),
        (-600, Err(DenyReason::TokenExpired)),
    ] {
        let claims = json!({"exp": then + offset});
        assert_eq!(world.at(then, claims).await, outcome, "exp {offset}");
    }
    for (offset, outcome) in [
        (-1, Ok(())),
        (30, Ok(())),
        (31, Err(DenyReason::TokenNotYetValid)),
        (600, Err(DenyReason::TokenNotYetValid)),
    ] {
        let claims = json!({"nbf": then + offset});
        assert_eq!(world.at(then, claims).await, outcome, "nbf {offset}");
    }
}

#[test]
fn no_issuer_is_forgiven_more_than_five_minutes() {
    let site = Site::new();
    for leeway in ["5m 1s", "1h", "-1s"] {
        for kind in [
            "",
            "tenants = \"all\"",
            "tenants = []\nservice = true\nroles = [\"service\"]\ndefault_role = \"service\"",
        ] {
            let corp =
                issuer(&format!("{kind}\nleeway = \"{leeway}\"\nkeys.jwks_file = \"keys.json\""));
            let Err(error) = site.load(&config("", vec![corp])) else {
                panic!("a leeway of {leeway} is taken with: {kind}");
            };
            assert!(error.to_string().contains("leeway"), "{error}");
        }
    }
}

#[tokio::test]
async fn an_issuer_speaks_for_its_tenants_only() {
    let world = World::start().await;
    let outcome =
        async |iss: &str, tenant: &str| world.outcome(json!({"iss": iss, "tenant": tenant})).await;
    assert_eq!(outcome(ISS, "acme").await, Ok(()));
    assert_eq!(outcome(PARTNER, "globex").await, Ok(()));
    let foreign = Err(DenyReason::TenantNotAllowed);
    for tenant in ["acme", "Globex", "globex-2", "globe", "initech"] {
        assert_eq!(outcome(PARTNER, tenant).await, foreign, "{tenant}");
    }
    assert_eq!(outcome("platform", "acme").await, foreign);
}

#[tokio::test]
async fn ids_hold_nothing_that_a_broker_gives_a_meaning_to() {
    let world = World::start().await;
    let long = "x".repeat(64);
    let hostile = [
        "",
        "*",
        ">",
        "+",
        "#",
        "**",
        "$*",
        "$SYS",
        ".",
        "..",
        "/",
        "@",
        "@/acme",
        "acme/",
        "/acme",
        "acme/../globex",
        "acme.",
        "ac me",
        " acme",
        "acme ",
        "acme\0",
        "acme\n",
        "acme\r\n",
        "\u{feff}acme",
        "аcme",
        "acmé",
        "acme\u{301}",
        "ａcme",
        "ac\u{200b}me",
        "acme%2fx",
        "-acme",
        "_acme",
        "{tenant}",
        "{device}",
        "registry",
        "Device",
        "STATE",
        &long,
    ];
    for text in hostile {
        let outcome = world.outcome(json!({ "tenant": text })).await;
        assert_eq!(outcome, Err(DenyReason::TenantInvalid), "tenant {text:?}");
        let outcome = world.outcome(json!({ "device": text })).await;
        assert_eq!(outcome, Err(DenyReason::DeviceInvalid), "device {text:?}");
    }
    for odd in [json!(7), json!(["acme"]), json!({"id": "acme"}), json!(true)] {
        let outcome = world.outcome(json!({ "tenant": odd })).await;
        assert_eq!(outcome, Err(DenyReason::TenantInvalid), "tenant {odd}");
        let outcome = world.outcome(json!({ "device": odd })).await;
        assert_eq!(outcome, Err(DenyReason::DeviceInvalid), "device {odd}");
    }
    let flood = json!({"tenant": "x".repeat(64 * 1024)});
    assert_eq!(world.outcome(flood).await, Err(DenyReason::TokenTooLarge));
}

#[tokio::test]
async fn a_role_comes_from_those_that_the_issuer_may_hand_out() {
    let world = World::start().await;
    for (role, outcome) in [
        (json!("member"), Ok(())),
        (json!("viewer"), Ok(())),
        (json!(null), Ok(())),
        (json!("operator"), Err(DenyReason::RoleNotAllowed)),
        (json!("service"), Err(DenyReason::RoleNotAllowed)),
        (json!("Member"), Err(DenyReason::RoleNotAllowed)),
        (json!("member "), Err(DenyReason::RoleUnknown)),
        (json!(["member"]), Err(DenyReason::RoleUnknown)),
        (json!(7), Err(DenyReason::RoleUnknown)),
    ] {
        let found = world.outcome(json!({ "role": role })).await;
        assert_eq!(found, outcome, "{role}");
    }
}

#[tokio::test]
async fn only_an_issuer_of_services_makes_a_service() {
    let world = World::start().await;
    let token = world.key.sign(&claims(json!({"iss": "platform", "tenant": null, "device": null})));
    let admission = enter(world.control.auth(), &token).await.unwrap();
    assert_eq!(admission.principal.scope, Scope::Service);
    let token = world.key.sign(&claims(json!({"tenant": null})));
    let principal = world.control.auth().identify(&token, None).await;
    assert_eq!(principal.map(|_| ()), Err(DenyReason::ClaimMissing));
}

#[tokio::test]
async fn a_token_that_has_ended_is_let_in_nowhere() {
    let world = World::start().await;
    // Within the leeway of the verification, but no connection could be given an end in the past.
    let token = world.key.sign(&claims(json!({"exp": now() - 5})));
    let principal = world.control.auth().identify(&token, None).await.unwrap();
    for broker in Broker::ALL {
        let admission = world.control.auth().admit(broker, principal.clone()).map(|_| ());
        assert_eq!(admission, Err(DenyReason::TokenExpired));
    }
}
