//! `bulkhead token mint` and `inspect`: what is signed here is accepted here, and what is not to be
//! accepted is refused with the reason.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use bulkhead_cli::signer::Signer;
use common::{Home, ISSUER, Ran, WITHIN};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use std::time::Instant;

/// Inspects a token that has to be refused for this reason, and returns what is said about it.
fn refused(home: &Home, token: &str, reason: &str) -> Value {
    home.run(["token", "inspect", token]).found().says(&[&format!("verdict refused: {reason}")]);
    let value = home.run(["--json", "token", "inspect", token]).found().json();
    let expected = json!({"accepted": false, "reason": reason, "principal": null});
    for (name, field) in expected.as_object().unwrap() {
        assert_eq!(&value[name], field, "{value}");
    }
    value
}

fn accepted(home: &Home, token: &str) -> Ran {
    home.run(["token", "inspect", token]).ok().says(&["verdict accepted"])
}

/// A token's part, changed, with the others as they were.
fn with_part(token: &str, part: usize, change: impl FnOnce(&mut Value)) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let mut value: Value =
        serde_json::from_slice(&BASE64URL_NOPAD.decode(parts[part].as_bytes()).unwrap()).unwrap();
    change(&mut value);
    parts[part] = BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    parts.join(".")
}

#[test]
fn a_minted_token_says_what_was_asked_and_is_accepted() {
    let home = Home::of(&["acme"]);
    let mint = ["--json", "token", "mint", "--key", "issuer.pem", "--tenant", "acme"];
    let minted = home.run(mint.iter().chain(&["--device", "cam-1", "--ttl", "2h"])).ok().json();
    let token = minted["token"].as_str().unwrap();
    let value = home.run(["--json", "token", "inspect", token]).ok().json();
    let claims = &value["claims"];
    assert_eq!(claims["iss"], ISSUER);
    assert_eq!(claims["aud"], "bulkhead");
    assert_eq!((&claims["tenant"], &claims["device"]), (&json!("acme"), &json!("cam-1")));
    assert_eq!((&claims["jti"], &claims["exp"]), (&minted["jti"], &minted["exp"]));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 2 * 3600);
    assert_eq!(value["header"]["alg"], "EdDSA");
    assert_eq!(value["accepted"], true);
    assert_eq!(value["reason"], Value::Null);
    assert_eq!(value["principal"], "acme/cam-1, role device, issuer corp");

    let shown = accepted(&home, token);
    shown.says(&["claims  ", "exp     ", "acme/cam-1, role device"]);
    let names = home.names_in(".");
    assert!(!names.iter().any(|name| name.contains("audit")), "looking leaves no trace: {names:?}");
}

#[test]
fn each_role_is_minted_for_whom_it_is() {
    let home = Home::of(&["acme"]);
    for role in ["member", "viewer", "operator"] {
        accepted(&home, &home.token("acme", &["--role", role])).says(&["acme/-", role]);
    }
    refused(&home, &home.token("acme", &[]), "device_required");
    refused(&home, &home.token("acme", &["--role", "service"]), "role_not_allowed");
    refused(&home, &home.token("acme", &["--role", "nosuch"]), "role_not_allowed");
}

#[test]
fn a_token_is_read_from_standard_input() {
    let home = Home::of(&["acme"]);
    let token = home.token("acme", &["--device", "cam-1"]);
    let inspect = ["token", "inspect", "-"];
    home.run_with(&token, inspect).ok().says(&["verdict accepted"]);
    home.run_with(&format!("\n  {token}\n\n"), inspect).ok().says(&["verdict accepted"]);
    home.run_with("", inspect).failed(1).says(&["no JSON Web Token"]);
}

#[test]
fn what_is_no_token_is_said_to_be_none() {
    let home = Home::of(&["acme"]);
    let unsigned = "bm90.anNvbg.";
    for text in ["", "garbage", "a.b.c", "..", "é.é.é", unsigned, "e30", "W10.W10.x", "null.null."]
    {
        let ran = home.run(["token", "inspect", text]).failed(1);
        ran.says(&["no JSON Web Token", "three parts of base64"]);
    }
    let huge = "A".repeat(100_000);
    home.run(["token", "inspect", &huge]).failed(1);
    refused(&home, "e30.e30.", "token_malformed");
}

#[test]
fn a_token_that_was_changed_is_refused() {
    let home = Home::of(&["acme", "globex"]);
    let token = home.token("acme", &["--device", "cam-1"]);
    let forged = with_part(&token, 1, |claims| claims["tenant"] = json!("globex"));
    let said = refused(&home, &forged, "signature_invalid");
    assert_eq!(said["claims"]["tenant"], "globex", "what it claims is shown all the same");
    let unsigned = with_part(&token, 0, |header| header["alg"] = json!("none"));
    refused(&home, &unsigned, "algorithm_not_allowed");
    let shared = with_part(&token, 0, |header| header["alg"] = json!("HS256"));
    refused(&home, &shared, "algorithm_not_allowed");
    let elsewhere = with_part(&token, 1, |claims| claims["iss"] = json!("https://elsewhere"));
    refused(&home, &elsewhere, "issuer_unknown");
}

#[test]
fn a_token_of_another_key_is_refused() {
    let home = Home::of(&["acme"]);
    Signer::create(&home.path("other.pem")).unwrap();
    let mint = ["token", "mint", "--key", "other.pem", "--tenant", "acme", "--device", "cam-1"];
    let token = home.run(mint).ok().stdout;
    refused(&home, token.trim(), "key_unknown");
    // Not even under the name of the right one.
    let own = home.token("acme", &["--device", "cam-1"]);
    let (header, _) = own.split_once('.').unwrap();
    let (_, rest) = token.trim().split_once('.').unwrap();
    refused(&home, &format!("{header}.{rest}"), "signature_invalid");
}

#[test]
fn a_token_that_has_expired_is_refused_and_says_since_when() {
    let home = Home::of(&["acme"]);
    let token = home.token("acme", &["--device", "cam-1", "--ttl=-3h"]);
    refused(&home, &token, "token_expired");
    home.run(["token", "inspect", &token]).found().says(&["exp     ", "(3 h ago)"]);
}

#[test]
fn what_the_directory_says_is_shown() {
    let home = Home::of(&["acme"]);
    let run = |typed: &str| home.run(typed.split_whitespace()).ok();
    let mint = ["--json", "token", "mint", "--key", "issuer.pem", "--tenant", "acme"];
    let minted = home.run(mint.iter().chain(&["--device", "cam-1"])).ok().json();
    let (token, id) = (minted["token"].as_str().unwrap(), minted["jti"].as_str().unwrap());
    accepted(&home, token);
    refused(&home, &home.token("globex", &["--device", "cam-1"]), "tenant_unknown");

    run("tenant suspend acme");
    refused(&home, token, "tenant_suspended");
    run("tenant resume acme");
    run("device revoke --tenant acme cam-1");
    refused(&home, token, "device_revoked");
    accepted(&home, &home.token("acme", &["--device", "cam-2"]));
    run("device restore --tenant acme cam-1");
    accepted(&home, token);
    run(&format!("token revoke --tenant acme {id}"));
    refused(&home, token, "token_revoked");
    accepted(&home, &home.token("acme", &["--device", "cam-1"]));
}

#[test]
fn tokens_of_before_a_time_are_refused_and_later_ones_are_not() {
    let home = Home::of(&["acme"]);
    let old = home.token("acme", &["--device", "cam-1"]);
    home.run(["token", "revoke", "--tenant", "acme", "--issued-before", "now"]).ok();
    refused(&home, &old, "token_superseded");
    // A token says when it was issued in whole seconds, so one of the same second is refused too.
    let started = Instant::now();
    loop {
        let new = home.token("acme", &["--device", "cam-1"]);
        if home.run(["token", "inspect", &new]).code == Some(0) {
            break;
        }
        assert!(started.elapsed() < WITHIN, "no new token is accepted");
    }
    refused(&home, &old, "token_superseded");
}

#[test]
fn an_issuer_is_chosen_by_name() {
    let home = Home::of(&["acme"]);
    let second = home
        .read("bulkhead.toml")
        .split_off(home.read("bulkhead.toml").find("[[issuers]]").unwrap());
    let second = second.replace("\"corp\"", "\"second\"").replace(ISSUER, "https://second.test");
    let second = second.replace("tenants = \"all\"", "tenants = [\"globex\"]");
    home.write("bulkhead.toml", &format!("{}{second}", home.read("bulkhead.toml")));
    accepted(&home, &home.token("acme", &["--role", "member"])).says(&["issuer corp"]);
    let token = home.token("acme", &["--role", "member", "--issuer", "second"]);
    let said = refused(&home, &token, "tenant_not_allowed");
    assert_eq!(said["claims"]["iss"], "https://second.test");
    let mint = ["token", "mint", "--key", "issuer.pem", "--tenant", "acme", "--issuer", "third"];
    home.run(mint).failed(1).says(&["--issuer", "corp, second"]);
}

#[test]
fn a_service_of_the_platform_gets_a_token_of_its_own() {
    let home = Home::of(&["acme"]);
    let config = home.read("bulkhead.toml");
    let mint = ["--json", "token", "mint", "--key", "issuer.pem", "--service", "registry"];
    home.run(mint).failed(1).says(&["services", "service = true", "--iss"]);
    let platform = "\n[[issuers]]\nname = \"platform\"\nissuer = \"bulkhead:platform\"\n\
                    audiences = [\"bulkhead\"]\nalgorithms = [\"EdDSA\"]\n\
                    keys.jwks_file = \"issuer.jwks.json\"\nservice = true\nroles = [\"service\"]\n\
                    default_role = \"service\"\n";
    home.write("bulkhead.toml", &(config.clone() + platform));
    let check = |token: &str| {
        let said = home.run(["--json", "token", "inspect", token]).ok().json();
        let claims = &said["claims"];
        assert_eq!(
            (&claims["iss"], &claims["sub"]),
            (&json!("bulkhead:platform"), &json!("registry"))
        );
        assert_eq!((&claims["role"], &claims["tenant"]), (&json!("service"), &Value::Null));
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
    };
    assert_eq!(check(home.run(mint).ok().json()["token"].as_str().unwrap()), 3600);
    // A tenant's is still the first issuer's that signs for tenants.
    accepted(&home, &home.token("acme", &["--role", "member"])).says(&["issuer corp"]);

    // Where there is no configuration, who signs and for how long is said, and where it goes.
    let empty = Home::empty();
    let key = home.path("issuer.pem");
    let ran = empty.run([
        "token",
        "mint",
        "--service",
        "registry",
        "--iss",
        "bulkhead:platform",
        "--ttl",
        "168h",
        "--out",
        "platform.token",
        "--key",
        key.to_str().unwrap(),
    ]);
    assert_eq!(ran.ok().stdout, "the token is in platform.token\n");
    assert_eq!(empty.mode("platform.token"), 0o600);
    assert_eq!(check(&empty.read("platform.token")), 168 * 3600);
    let nowhere = ["token", "mint", "--service", "a", "--iss", "b", "--key", key.to_str().unwrap()];
    let ran = empty.run(nowhere.iter().chain(&["--out", "no/token"])).failed(1);
    ran.says(&["no/token", "--out"]);
}

#[test]
fn a_key_that_cannot_sign_is_named_with_how_to_make_one() {
    let home = Home::of(&["acme"]);
    home.write("empty.pem", "");
    home.write("public.pem", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
    let mint = |key: &str| home.run(["token", "mint", "--tenant", "acme", "--key", key]).failed(1);
    for key in ["empty.pem", "public.pem", "issuer.jwks.json"] {
        mint(key).says(&[key, "no private Ed25519 key", "bulkhead init issuer"]);
    }
    mint("nowhere.pem").says(&["nowhere.pem", "check the path"]);
    mint(".").says(&["check the path"]);
}

#[test]
fn without_a_configuration_a_token_is_shown_but_not_judged() {
    let home = Home::of(&["acme"]);
    let token = home.token("acme", &["--role", "member"]);
    let empty = Home::empty();
    let ran = empty.run(["token", "inspect", &token]).found();
    ran.says(&["\"acme\"", "verdict none without a configuration", "--config"]);
    let value = empty.run(["--json", "token", "inspect", &token]).found().json();
    assert_eq!((&value["accepted"], &value["claims"]["tenant"]), (&json!(false), &json!("acme")));
}

#[test]
fn an_issuer_whose_keys_cannot_be_had_accepts_nothing() {
    let home = Home::of(&["acme"]);
    let token = home.token("acme", &["--role", "member"]);
    let config = home.read("bulkhead.toml");
    let config = config.replace(
        "keys.jwks_file = \"issuer.jwks.json\"",
        "keys.jwks_url = \"http://127.0.0.1:1/jwks.json\"",
    );
    home.write("bulkhead.toml", &config);
    let ran = home.run(["token", "inspect", &token]).found();
    ran.says(&["verdict refused: keys_unavailable"]);
}

#[test]
fn what_a_tenant_has_used_is_not_asked_for() {
    let home = Home::of(&["acme"]);
    home.run(["tenant", "quota", "acme", "messages_per_day=1", "authentications_per_minute=1"])
        .ok();
    let mint = ["token", "mint", "--key", "issuer.pem", "--tenant", "acme", "--role", "member"];
    let token = home.run(mint).ok().stdout.trim().to_owned();
    for _ in 0..2 {
        accepted(&home, &token);
    }
}
