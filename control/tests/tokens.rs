//! Tokens whose form, header or signature is not what it should be.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test stops at a surprise"
)]

mod common;

use bulkhead_control::Control;
use bulkhead_control::issuer::MAX_TOKEN_BYTES;
use bulkhead_policy::{DenyReason, Verdict};
use common::endpoint::{Answer, Endpoint};
use common::signer::{ISS, Signer, claims, encode, hmac, jwks, jwks_of};
use common::site::{Site, config, enter, issuer};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// The `iss` of the second issuer.
const PARTNER: &str = "https://partner.example";

/// One key of each kind, for all tests: an RSA key takes a while to find.
static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    ed: Signer::ed25519("ed"),
    es256: Signer::new(Algorithm::ES256, "es256"),
    es384: Signer::new(Algorithm::ES384, "es384"),
    rsa: Signer::new(Algorithm::RS256, "rsa"),
    partner: Signer::ed25519("partner"),
});

struct Keys {
    ed: Signer,
    es256: Signer,
    es384: Signer,
    rsa: Signer,
    partner: Signer,
}

/// Two issuers: one for both tenants with a key of each kind, one for `globex` alone.
struct World {
    _site: Site,
    control: Control,
}

impl World {
    async fn start() -> Self {
        let keys = &*KEYS;
        let site = Site::new();
        site.write("corp.json", jwks(&[&keys.ed, &keys.es256, &keys.es384, &keys.rsa]));
        site.write("partner.json", jwks(&[&keys.partner]));
        let corp = issuer("keys.jwks_file = \"corp.json\"");
        let partner = issuer(&format!(
            "name = \"partner\"\nissuer = \"{PARTNER}\"\ntenants = [\"globex\"]\n\
             algorithms = [\"EdDSA\"]\nkeys.jwks_file = \"partner.json\""
        ));
        let control = site.start(&config("", vec![corp, partner])).await;
        Self { _site: site, control }
    }

    async fn outcome(&self, token: &str) -> Verdict<()> {
        enter(self.control.auth(), token).await.map(|_| ())
    }

    async fn refuses(&self, token: &str, reason: DenyReason, what: &str) {
        assert_eq!(self.outcome(token).await, Err(reason), "{what}");
    }
}

#[tokio::test]
async fn a_genuine_token_of_each_kind_is_accepted() {
    let world = World::start().await;
    for key in [&KEYS.ed, &KEYS.es256, &KEYS.es384, &KEYS.rsa] {
        let token = key.sign(&claims(json!({})));
        assert_eq!(world.outcome(&token).await, Ok(()), "{}", key.header());
    }
    let globex = claims(json!({"iss": PARTNER, "tenant": "globex"}));
    assert_eq!(world.outcome(&KEYS.partner.sign(&globex)).await, Ok(()));
}

#[tokio::test]
async fn no_spelling_of_none_passes_with_or_without_a_signature() {
    let world = World::start().await;
    let claims = claims(json!({}));
    for alg in ["none", "None", "NONE", "nOnE", "none ", "", "eddsa", "EDDSA", "hs256"] {
        let header = json!({"typ": "JWT", "alg": alg, "kid": "ed"});
        let signed = KEYS.ed.sign_as(&header, &claims);
        let unsigned = &signed[..=signed.rfind('.').unwrap()];
        for token in [signed.as_str(), unsigned] {
            world.refuses(token, DenyReason::AlgorithmNotAllowed, alg).await;
        }
    }
    let headers =
        [json!({"kid": "ed"}), json!({"alg": null}), json!({"alg": ["EdDSA"]}), json!({"alg": 0})];
    for header in headers {
        let token = KEYS.ed.sign_as(&header, &claims);
        world.refuses(&token, DenyReason::TokenMalformed, &header.to_string()).await;
    }
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret() {
    let world = World::start().await;
    let pem = KEYS.rsa.pem();
    let jwk = KEYS.rsa.jwk();
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let secrets = [
        pem.as_bytes().to_vec(),
        pem.trim().as_bytes().to_vec(),
        body.into_bytes(),
        jwk["n"].as_str().unwrap().as_bytes().to_vec(),
        jwk.to_string().into_bytes(),
        Vec::new(),
    ];
    for secret in secrets {
        for kid in ["rsa", "ed"] {
            let header = json!({"typ": "JWT", "alg": "HS256", "kid": kid});
            let token = hmac(&header, &claims(json!({})), &secret);
            world.refuses(&token, DenyReason::AlgorithmNotAllowed, "HMAC").await;
        }
    }
}

#[tokio::test]
async fn an_algorithm_outside_the_allow_list_is_refused_though_key_and_signature_are_good() {
    let site = Site::new();
    site.write("keys.json", jwks(&[&KEYS.ed, &KEYS.es256, &KEYS.rsa]));
    let corp = issuer("algorithms = [\"ES256\", \"RS256\"]\nkeys.jwks_file = \"keys.json\"");
    let control = site.start(&config("", vec![corp])).await;
    let outcome = async |token: String| enter(control.auth(), &token).await.map(|_| ());
    assert_eq!(outcome(KEYS.es256.sign(&claims(json!({})))).await, Ok(()));
    let refused = Err(DenyReason::AlgorithmNotAllowed);
    assert_eq!(outcome(KEYS.ed.sign(&claims(json!({})))).await, refused);
    for alg in ["PS256", "RS512", "ES384", "HS256", "ES512", "ES256K"] {
        let header = json!({"alg": alg, "kid": "rsa"});
        let token = KEYS.rsa.sign_as(&header, &claims(json!({})));
        assert_eq!(outcome(token).await, refused, "{alg}");
    }
}

#[tokio::test]
async fn a_key_serves_its_own_algorithm_only() {
    let world = World::start().await;
    let claims = claims(json!({}));
    let key_of_another_kind = [
        (&KEYS.es256, "ES384"),
        (&KEYS.es384, "ES256"),
        (&KEYS.es256, "RS256"),
        (&KEYS.ed, "ES256"),
        (&KEYS.rsa, "EdDSA"),
    ];
    for (key, alg) in key_of_another_kind {
        let mut header = key.header();
        header["alg"] = alg.into();
        let token = key.sign_as(&header, &claims);
        world.refuses(&token, DenyReason::KeyUnknown, alg).await;
    }
    // The kid of a key that the algorithm would fit, the signature of one that it does not.
    let header = json!({"alg": "ES384", "kid": "es384"});
    let token = KEYS.es256.sign_as(&header, &claims);
    world.refuses(&token, DenyReason::SignatureInvalid, "ES256 as ES384").await;
}

#[tokio::test]
async fn keys_and_addresses_in_a_header_are_neither_trusted_nor_fetched() {
    let world = World::start().await;
    let forger = Signer::ed25519("forged");
    let lure = Endpoint::start(Answer::ok(jwks(&[&forger]))).await;
    let members = [
        json!({"jku": lure.url()}),
        json!({"x5u": lure.url()}),
        json!({"jwk": forger.jwk()}),
        json!({"x5c": [encode("certificate")], "x5t": "x", "x5t#S256": "x"}),
        json!({"jku": lure.url(), "x5u": lure.url(), "jwk": forger.jwk()}),
    ];
    for member in members {
        for (kid, reason) in
            [("forged", DenyReason::KeyUnknown), ("ed", DenyReason::SignatureInvalid)]
        {
            let mut header = forger.header();
            header["kid"] = kid.into();
            header.as_object_mut().unwrap().extend(member.as_object().unwrap().clone());
            let token = forger.sign_as(&header, &claims(json!({})));
            world.refuses(&token, reason, &header.to_string()).await;

            // The same header under a genuine signature changes nothing.
            header["kid"] = "ed".into();
            let token = KEYS.ed.sign_as(&header, &claims(json!({})));
            assert_eq!(world.outcome(&token).await, Ok(()));
        }
    }
    assert_eq!(lure.hits(), 0, "an address in a header was fetched");
    reqwest::get(lure.url()).await.unwrap();
    assert_eq!(lure.hits(), 1, "the endpoint does count");
}

#[tokio::test]
async fn a_kid_is_a_name_and_nothing_else() {
    let world = World::start().await;
    let long = "k".repeat(10 * 1024);
    let prefix = format!("ed{}", " ".repeat(300));
    let hostile = [
        "../../../../dev/null",
        "/etc/passwd",
        "file:///etc/passwd",
        "ed' OR '1'='1",
        "ed\"",
        "ed\r\nX-Injected: 1",
        "ed\0",
        "ed ",
        "ED",
        "*",
        "",
        "${jndi:ldap://127.0.0.1/x}",
        "rsa",
        "partner",
        &long,
        &prefix,
    ];
    for kid in hostile {
        let mut header = KEYS.ed.header();
        header["kid"] = kid.into();
        let token = KEYS.ed.sign_as(&header, &claims(json!({})));
        world.refuses(&token, DenyReason::KeyUnknown, kid).await;
    }
    for kid in [json!(7), json!(["ed"]), json!({"ed": true}), json!(true)] {
        let mut header = KEYS.ed.header();
        header["kid"] = kid;
        let token = KEYS.ed.sign_as(&header, &claims(json!({})));
        world.refuses(&token, DenyReason::TokenMalformed, &header.to_string()).await;
    }
}

#[tokio::test]
async fn one_issuers_key_does_not_sign_for_another() {
    let world = World::start().await;
    let as_corp = claims(json!({"tenant": "globex"}));
    let as_partner = claims(json!({"iss": PARTNER, "tenant": "globex"}));
    assert_eq!(world.outcome(&KEYS.ed.sign(&as_corp)).await, Ok(()));
    assert_eq!(world.outcome(&KEYS.partner.sign(&as_partner)).await, Ok(()));

    let unknown = DenyReason::KeyUnknown;
    let token = KEYS.partner.sign(&as_corp);
    world.refuses(&token, unknown, "partner for corp").await;
    let token = KEYS.ed.sign(&as_partner);
    world.refuses(&token, unknown, "corp for partner").await;

    // With the other's kid in the header the other's key is used, and finds the signature wrong.
    let token = KEYS.partner.sign_as(&KEYS.ed.header(), &as_corp);
    world.refuses(&token, DenyReason::SignatureInvalid, "with corp's kid").await;
}

#[tokio::test]
async fn the_same_kid_at_two_issuers_is_two_keys() {
    let (ours, theirs) = (Signer::ed25519("k1"), Signer::ed25519("k1"));
    let site = Site::new();
    site.write("corp.json", jwks(&[&ours]));
    site.write("partner.json", jwks(&[&theirs]));
    let corp = issuer("keys.jwks_file = \"corp.json\"");
    let partner = issuer(&format!(
        "name = \"partner\"\nissuer = \"{PARTNER}\"\nkeys.jwks_file = \"partner.json\""
    ));
    let control = site.start(&config("", vec![corp, partner])).await;
    for (key, iss, outcome) in [
        (&ours, ISS, Ok(())),
        (&theirs, PARTNER, Ok(())),
        (&ours, PARTNER, Err(DenyReason::SignatureInvalid)),
        (&theirs, ISS, Err(DenyReason::SignatureInvalid)),
    ] {
        let token = key.sign(&claims(json!({"iss": iss})));
        let found = enter(control.auth(), &token).await.map(|_| ());
        assert_eq!(found, outcome, "{iss}");
    }
}

#[tokio::test]
async fn what_a_header_calls_critical_is_not_ignored() {
    let world = World::start().await;
    for crit in [json!(["exp"]), json!(["b64"]), json!([]), json!("b64")] {
        let mut header = KEYS.ed.header();
        header["crit"] = crit;
        header["b64"] = false.into();
        let token = KEYS.ed.sign_as(&header, &claims(json!({})));
        world.refuses(&token, DenyReason::TokenMalformed, &header.to_string()).await;
    }
}

#[tokio::test]
async fn a_changed_token_is_refused() {
    let world = World::start().await;
    let token = KEYS.ed.sign(&claims(json!({})));
    let parts: Vec<&str> = token.split('.').collect();
    let other = KEYS.ed.sign(&claims(json!({"tenant": "globex"})));
    let others: Vec<&str> = other.split('.').collect();
    let invalid = DenyReason::SignatureInvalid;
    let header = encode(json!({"alg": "EdDSA", "kid": "ed", "typ": "at+jwt"}).to_string());
    let changed = [
        ([parts[0], others[1], parts[2]].join("."), "another's claims"),
        ([parts[0], parts[1], others[2]].join("."), "another's signature"),
        ([&*header, parts[1], parts[2]].join("."), "another header"),
        ([parts[0], parts[1], ""].join("."), "no signature"),
        ([parts[0], parts[1], &parts[2][..40]].join("."), "half a signature"),
        ([parts[0], parts[1], &encode([0; 64])].join("."), "a signature of zeros"),
        ([parts[0], parts[1], "%%%"].join("."), "a signature that is no base64"),
    ];
    for (changed, what) in changed {
        world.refuses(&changed, invalid, what).await;
    }
    assert_eq!(world.outcome(&token).await, Ok(()));
}

#[tokio::test]
async fn what_is_no_token_is_refused_without_a_stumble() {
    let world = World::start().await;
    let good = KEYS.ed.sign(&claims(json!({})));
    let parts: Vec<&str> = good.split('.').collect();
    let (header, body) = (KEYS.ed.header().to_string(), claims(json!({})).to_string());
    let deep = "[".repeat(6000);
    let twice = format!(r#"{{"alg":"EdDSA","kid":"ed","alg":"none","x":{header}}}"#);
    let malformed = [
        "x".to_owned(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        "a.b".to_owned(),
        "a.b.c".to_owned(),
        format!("{good}.x"),
        format!("{good}.{}.{}", parts[1], parts[2]),
        format!(" {good}"),
        format!("Bearer {good}"),
        good.replace('.', "\n."),
        format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
        format!("{}.é.{}", parts[0], parts[2]),
        KEYS.ed.sign_text("[]", &body),
        KEYS.ed.sign_text(r#"["EdDSA", "ed", null]"#, &body),
        KEYS.ed.sign_text("null", &body),
        KEYS.ed.sign_text("", &body),
        KEYS.ed.sign_text(&twice, &body),
        KEYS.ed.sign_text(&header, "[]"),
        KEYS.ed.sign_text(&header, "null"),
        KEYS.ed.sign_text(&header, "\"acme\""),
        KEYS.ed.sign_text(&header, ""),
        KEYS.ed.sign_text(&header, &format!("{body}{body}")),
        KEYS.ed.sign_text(&header, &deep),
        KEYS.ed.sign_text(&deep, &body),
        KEYS.ed.sign_text(&header, "{\"iss\":\"\u{0}"),
    ];
    for token in malformed {
        let shown = &token.chars().take(80).collect::<String>();
        world.refuses(&token, DenyReason::TokenMalformed, shown).await;
    }
    world.refuses("", DenyReason::TokenMissing, "nothing").await;
    assert_eq!(world.outcome(&good).await, Ok(()));
}

#[tokio::test]
async fn a_token_is_read_up_to_its_limit_and_not_beyond() {
    let world = World::start().await;
    let padded = |size: usize| KEYS.ed.sign(&claims(json!({"pad": "x".repeat(size)})));
    // Around the limit one by one, since base64 does not give every length.
    let start = (MAX_TOKEN_BYTES - padded(0).len()) * 3 / 4 - 8;
    let tokens: Vec<_> = (start..start + 16).map(padded).collect();
    let largest = tokens.iter().filter(|t| t.len() <= MAX_TOKEN_BYTES).max_by_key(|t| t.len());
    assert_eq!(world.outcome(largest.unwrap()).await, Ok(()));
    let smallest = tokens.iter().filter(|t| t.len() > MAX_TOKEN_BYTES).min_by_key(|t| t.len());
    let too_large = DenyReason::TokenTooLarge;
    world.refuses(smallest.unwrap(), too_large, "one more").await;
    for size in [16 * 1024, 64 * 1024, 8 * 1024 * 1024] {
        world.refuses(&padded(size), too_large, "a good signature").await;
        world.refuses(&"x".repeat(size), too_large, "no token").await;
        world.refuses(&".".repeat(size), too_large, "dots").await;
    }
}

#[tokio::test]
async fn a_token_without_a_kid_needs_a_key_that_is_beyond_doubt() {
    let site = Site::new();
    let (one, two) = (Signer::ed25519("one"), Signer::ed25519("two"));
    site.write("keys.json", jwks(&[&one, &two, &KEYS.es256]));
    let corp = issuer("keys.jwks_file = \"keys.json\"");
    let control = site.start(&config("", vec![corp])).await;
    let outcome = async |key: &Signer, alg: &str| {
        let token = key.sign_as(&json!({ "alg": alg }), &claims(json!({})));
        enter(control.auth(), &token).await.map(|_| ())
    };
    assert_eq!(outcome(&KEYS.es256, "ES256").await, Ok(()));
    for key in [&one, &two] {
        assert_eq!(outcome(key, "EdDSA").await, Err(DenyReason::KeyUnknown));
    }
}

#[tokio::test]
async fn a_key_of_that_very_id_goes_before_a_key_without_one() {
    let site = Site::new();
    let (named, other) = (Signer::ed25519("named"), Signer::ed25519("other"));
    let mut nameless: Value = other.jwk();
    nameless.as_object_mut().unwrap().remove("kid");
    let corp = issuer("keys.jwks_file = \"keys.json\"");
    for members in [vec![named.jwk(), nameless.clone()], vec![nameless, named.jwk()]] {
        site.write("keys.json", jwks_of(members));
        let control = site.start(&config("", vec![corp.clone()])).await;
        let token = named.sign(&claims(json!({})));
        let outcome = enter(control.auth(), &token).await.map(|_| ());
        assert_eq!(outcome, Ok(()), "the order of a set says nothing");
        control.shutdown().await;
    }
}
