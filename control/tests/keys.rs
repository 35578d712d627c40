//! Keys that are weak, of the wrong kind or in the wrong form.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

mod common;

use bulkhead_control::Control;
use bulkhead_control::issuer::{KeyError, KeySet};
use bulkhead_policy::{DenyReason, Verdict};
use common::signer::{Signer, claims, encode, hmac, jwks, jwks_of};
use common::site::{Site, config, enter, issuer, metric, ready};
use common::{until, until_true};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

/// A public RSA key of 1,024 bits.
const WEAK_PEM: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDN7wUVjzRStv+0aQ8DduAv82PN
CGXgfYxstUWDRroL5zGLch886lT2penRFymumznzRzXZts97qoOeZCkg7CWteaKR
LNFNVVvZIHRdG4LgOl2j6n2U6Y6PnTdt2mOmvIQleatkmobbwEKlmpWwKzQlseI1
vcrIhP2DUJA95IuqfQIDAQAB
-----END PUBLIC KEY-----
";

/// Its modulus.
const WEAK_MODULUS: &str = "ze8FFY80Urb_tGkPA3bgL_NjzQhl4H2MbLVFg0a6C-cxi3IfPOpU9qXp0Rcprps580c12\
    bbPe6qDnmQpIOwlrXmikSzRTVVb2SB0XRuC4Dpdo-p9lOmOj503bdpjpryEJXmrZJqG28BCpZqVsCs0JbHiNb3KyIT9g1C\
    QPeSLqn0";

/// A token that it really signed, good until 2100.
const WEAK_TOKEN: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiIsImtpZCI6IndlYWsifQ.eyJpc3MiOiJodHRwc\
    zovL2lkcC5leGFtcGxlIiwiYXVkIjoiYnVsa2hlYWQiLCJleHAiOjQxMDI0NDQ4MDAsInRlbmFudCI6ImFjbWUiLCJkZXZ\
    pY2UiOiJjYW0tMSJ9.nCdIDMIHUaR5BCgpJv9mUY2Mu2C-oD2WnzcuZI4eUQOWcQcuVmGAtTNmkTpnFlGVkWTYkAi4purx\
    hLmqOQH_XPhAJU1W4TrWB-Ptta0versIxIDQYRTMTZK7U1vJNR5anSEi_4V43f_WflDrSSx5g2kgYK1_CW69zcdUqLr1-X\
    A";

/// A public RSA key of 2,047 bits, which is one too few and as many bytes as enough.
const ALMOST_PEM: &str = "-----BEGIN PUBLIC KEY-----
MIIBITANBgkqhkiG9w0BAQEFAAOCAQ4AMIIBCQKCAQBmbs6qNMAkvGx6A2xZJN7I
HyGw89C2CGFu35IqPLSOzAecQv2NQD2GuCcSWPhdlCEDHx/4gh3n/iikkm4sdSyd
TMw51z+FcerRtpOb+X05d5m2z4W3R8Guj938XzuWOvMAkClOE36JYMCaws2ZSfrL
fOTcysm0fijaS80o5CXuKHWwXqkZb+mJTW+d+KximIYLbppjTWo08IITvtXp3rqm
bRGJf60zQNK0R1bAXVY4+DL8yS/sjk0woHy41Zke7MgSPjigFYv7LPoLJzc69ckX
TTXnSw3wOpFsNsaAt8hQrg8iLx65GexEFvAvNQEMqcTJA3Vffyl8R/jFyE+64GU5
AgMBAAE=
-----END PUBLIC KEY-----
";

fn weak_jwk() -> Value {
    json!({"kty": "RSA", "kid": "weak", "use": "sig", "n": WEAK_MODULUS, "e": "AQAB"})
}

/// A process, and the folder that it needs as long as it runs.
struct Running {
    site: Site,
    control: Control,
}

impl Running {
    async fn on(site: Site, config: &str) -> Result<Self, String> {
        let started = site.try_start(config).await;
        let control = started.map_err(|error| error.to_string())?;
        ready(&control).await;
        Ok(Self { site, control })
    }

    async fn outcome(&self, token: &str) -> Verdict<()> {
        enter(self.control.auth(), token).await.map(|_| ())
    }
}

async fn with_jwks(set: String) -> Result<Running, String> {
    let site = Site::new();
    site.write("keys.json", set);
    let corp = issuer("keys.jwks_file = \"keys.json\"");
    Running::on(site, &config("", vec![corp])).await
}

async fn with_pem(pem: &str, algorithms: &str) -> Result<Running, String> {
    let site = Site::new();
    site.write("key.pem", pem);
    let corp = issuer(&format!("algorithms = [{algorithms}]\nkeys.pem_file = \"key.pem\""));
    Running::on(site, &config("", vec![corp])).await
}

#[tokio::test]
async fn a_weak_rsa_key_is_refused_as_pem() {
    for (pem, bits) in [(WEAK_PEM, "1024"), (ALMOST_PEM, "2047")] {
        let error = with_pem(pem, "\"RS256\"").await.err().unwrap();
        assert!(error.contains(bits), "{error}");
        assert!(error.contains("at least 2048"), "{error}");
        assert!(error.contains("corp"), "it names the issuer: {error}");
    }
}

#[tokio::test]
async fn a_weak_rsa_key_is_refused_in_a_jwks_and_spoils_no_other() {
    let error = with_jwks(jwks_of(vec![weak_jwk()])).await.err().unwrap();
    assert!(error.contains("1024"), "{error}");

    let good = Signer::ed25519("good");
    let running = with_jwks(jwks_of(vec![weak_jwk(), good.jwk()])).await.unwrap();
    assert_eq!(running.outcome(WEAK_TOKEN).await, Err(DenyReason::KeyUnknown));
    let token = good.sign(&claims(json!({})));
    assert_eq!(running.outcome(&token).await, Ok(()));
}

#[tokio::test]
async fn a_secret_in_a_jwks_is_public_and_no_key() {
    let secret = b"a secret of more than thirty-two bytes";
    let oct =
        json!({"kty": "oct", "kid": "oct", "use": "sig", "alg": "HS256", "k": encode(secret)});
    let error = with_jwks(jwks_of(vec![oct.clone()])).await.err().unwrap();
    assert!(error.contains("no usable signature key"), "{error}");

    let good = Signer::ed25519("good");
    let set = jwks_of(vec![oct, good.jwk()]);
    // Not even where HMAC were allowed.
    let read = KeySet::from_jwks(set.as_bytes(), &[Algorithm::HS256]).map(|_| ());
    assert!(matches!(read, Err(KeyError::Empty(_))), "{read:?}");
    let running = with_jwks(set).await.unwrap();
    let header = json!({"alg": "HS256", "kid": "oct"});
    let token = hmac(&header, &claims(json!({})), secret);
    assert_eq!(running.outcome(&token).await, Err(DenyReason::AlgorithmNotAllowed));
    let token = good.sign(&claims(json!({})));
    assert_eq!(running.outcome(&token).await, Ok(()));
}

#[tokio::test]
async fn shared_secrets_are_for_a_developers_own_machine() {
    let site = Site::new();
    let secret = "a secret of more than thirty-two bytes";
    site.write("secret", secret);
    let error = |changes: &str, top: &str| {
        let refused = site.load(&config(top, vec![issuer(changes)]));
        refused.unwrap_err().to_string()
    };
    let by_secret = "algorithms = [\"HS256\"]\nkeys.secret_file = \"secret\"";
    assert!(error(by_secret, "").contains("issuers[0].keys.secret_file"));
    for mixed in [
        "algorithms = [\"HS256\"]\nkeys.jwks_file = \"keys.json\"",
        "algorithms = [\"HS256\", \"RS256\"]\nkeys.pem_file = \"key.pem\"",
        "algorithms = [\"HS256\", \"RS256\"]\nkeys.secret_file = \"secret\"",
        "algorithms = [\"RS256\"]\nkeys.secret_file = \"secret\"",
    ] {
        let error = error(mixed, "dev = true");
        assert!(error.contains("issuers[0].algorithms"), "{error}");
    }

    let dev = config("dev = true", vec![issuer(by_secret)]);
    let running = Running::on(site, &dev).await.unwrap();
    let token = |secret: &[u8]| hmac(&json!({"alg": "HS256"}), &claims(json!({})), secret);
    assert_eq!(running.outcome(&token(secret.as_bytes())).await, Ok(()));
    let guess = token(b"another secret of thirty-two bytes and more");
    assert_eq!(running.outcome(&guess).await, Err(DenyReason::SignatureInvalid));

    let site = Site::new();
    site.write("secret", "too short to be secret");
    let error = site.try_start(&dev).await.unwrap_err().to_string();
    assert!(error.contains("fewer than 32 bytes"), "{error}");
    assert!(!error.contains("too short to be secret"), "{error}");
}

#[tokio::test]
async fn a_pem_file_holds_a_public_key_or_a_certificate() {
    for (algorithm, name) in [
        (Algorithm::EdDSA, "\"EdDSA\""),
        (Algorithm::ES256, "\"ES256\""),
        (Algorithm::ES384, "\"ES384\""),
        (Algorithm::RS256, "\"RS256\""),
    ] {
        let key = Signer::new(algorithm, "any");
        let token = key.sign(&claims(json!({})));
        for pem in [key.pem(), key.certificate_pem()] {
            let running = with_pem(&pem, name).await.unwrap();
            assert_eq!(running.outcome(&token).await, Ok(()), "{name}");
        }
        let private = with_pem(&key.private_pem(), name).await;
        assert!(private.is_err(), "a private {name} key was taken");
    }
    for text in ["", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
        let error = with_pem(text, "\"EdDSA\", \"RS256\"").await.err().unwrap();
        assert!(error.contains("openssl pkey"), "no remedy in: {error}");
    }
}

#[tokio::test]
async fn a_pem_key_of_one_curve_does_not_verify_for_another() {
    let key = Signer::new(Algorithm::ES256, "any");
    let running = with_pem(&key.pem(), "\"ES256\", \"ES384\"").await.unwrap();
    assert_eq!(running.outcome(&key.sign(&claims(json!({})))).await, Ok(()));
    let token = key.sign_as(&json!({"alg": "ES384"}), &claims(json!({})));
    assert_eq!(running.outcome(&token).await, Err(DenyReason::SignatureInvalid));
}

#[tokio::test]
async fn what_a_jwk_is_not_for_it_is_not_used_for() {
    let good = Signer::ed25519("good");
    let not_for_this = [
        json!({"use": "enc"}),
        json!({"alg": "ES256"}),
        json!({"alg": "RSA-OAEP"}),
        json!({"kid": "k".repeat(1000)}),
    ];
    for change in not_for_this {
        let other = Signer::ed25519("other");
        let mut jwk = other.jwk();
        jwk.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let set = jwks_of(vec![jwk.clone(), good.jwk()]);
        let running = with_jwks(set).await.unwrap();
        let mut header = other.header();
        header["kid"] = jwk["kid"].clone();
        let token = other.sign_as(&header, &claims(json!({})));
        assert_eq!(running.outcome(&token).await, Err(DenyReason::KeyUnknown), "{change}");
        let token = good.sign(&claims(json!({})));
        assert_eq!(running.outcome(&token).await, Ok(()), "{change}");
    }
}

#[tokio::test]
async fn members_that_are_no_keys_spoil_none_that_are() {
    let good = Signer::ed25519("good");
    let members = vec![
        json!(null),
        json!("key"),
        json!({}),
        json!({"kty": "XYZ", "kid": "good"}),
        json!({"kty": "RSA", "kid": "r", "n": "%%", "e": "AQAB"}),
        json!({"kty": "EC", "crv": "secp256k1", "kid": "k", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "X25519", "kid": "x", "x": "AA"}),
        json!({"kty": "EC", "crv": "P-256", "kid": "e", "x": "AA", "y": "AA"}),
        good.jwk(),
    ];
    let running = with_jwks(jwks_of(members)).await.unwrap();
    let token = good.sign(&claims(json!({})));
    assert_eq!(running.outcome(&token).await, Ok(()));
    for kid in ["r", "k", "x", "e"] {
        let token = good.sign_as(&json!({"alg": "ES256", "kid": kid}), &claims(json!({})));
        assert!(running.outcome(&token).await.is_err(), "{kid}");
    }
}

#[tokio::test]
async fn files_without_a_usable_key_are_refused_at_the_start() {
    for set in ["", "<html></html>", "[]", "{}", "{\"keys\": 7}", "{\"keys\": []}"] {
        let error = with_jwks(set.to_owned()).await.err().unwrap();
        assert!(error.contains("keys.json"), "{set}: {error}");
    }
    let site = Site::new();
    let absent = issuer("keys.jwks_file = \"absent.json\"");
    let error = site.try_start(&config("", vec![absent])).await.err().unwrap();
    assert!(error.to_string().contains("absent.json"), "{error}");
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_when_it_changes() {
    let (old, new) = (Signer::ed25519("old"), Signer::ed25519("new"));
    let running = with_jwks(jwks(&[&old])).await.unwrap();
    let site = &running.site;
    let (by_old, by_new) = (old.sign(&claims(json!({}))), new.sign(&claims(json!({}))));
    assert_eq!(running.outcome(&by_old).await, Ok(()));

    site.write("keys.json", jwks(&[&old, &new]));
    until("the new key is known", async || running.outcome(&by_new).await.ok()).await;
    // What cannot be used changes nothing.
    let errors = || {
        metric(&running.control, "bulkhead_key_refreshes_total{issuer=\"corp\",outcome=\"error\"}")
    };
    for broken in ["", "{\"keys\": []}", "garbage"] {
        let before = errors();
        site.write("keys.json", broken);
        until_true("the broken file is seen", || errors() > before).await;
        assert_eq!(running.outcome(&by_old).await, Ok(()), "{broken:?}");
    }
    site.remove("keys.json");
    // A withdrawn key takes with it what was verified with it.
    site.write("keys.json", jwks(&[&new]));
    until("the old key is gone", async || {
        let verdict = running.outcome(&by_old).await;
        (verdict == Err(DenyReason::KeyUnknown)).then_some(())
    })
    .await;
    assert_eq!(running.outcome(&by_new).await, Ok(()));
}

#[tokio::test]
async fn a_file_of_keys_that_changes_right_after_the_start_is_read_again() {
    let (old, new) = (Signer::ed25519("old"), Signer::ed25519("new"));
    let site = Site::new();
    site.write("keys.json", jwks(&[&old]));
    let corp = issuer("keys.jwks_file = \"keys.json\"");
    let control = site.try_start(&config("", vec![corp])).await.unwrap();
    // This thread's runtime runs no other task until the next await, so the file changes before
    // anybody has begun to watch it.
    site.write("keys.json", jwks(&[&new]));
    let token = new.sign(&claims(json!({})));
    until("the new key is known", async || enter(control.auth(), &token).await.ok()).await;
}
