//! `bulkhead creds issue --exchange`: a tenant token for a credentials file.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use common::service::Service;
use common::{Home, Ran, WITHIN};
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;
use std::time::Instant;

/// A folder with NATS's keys, the tenant acme, and an exchange.
fn home(exchange: &str) -> Home {
    let home = Home::with_nats(&["acme"]);
    home.configure(&format!(
        "directory = {{ file = \"tenants.toml\" }}\n         audit = {{ path = \"audit.jsonl\" }}\n         nats = {{ servers = [\"nats://127.0.0.1:1\"], operator = {{ keys = \"nats\" }} }}\n         exchange = {{ listen = \"127.0.0.1:0\", {exchange} }}\n"
    ));
    home
}

/// Writes a token into a file of its own, and returns the file's name.
fn token_file(home: &Home, more: &[&str]) -> String {
    let name = format!("of{}.token", more.join("").replace('=', "-"));
    home.write(&name, &home.token("acme", more));
    name
}

/// Asks an exchange.
fn ask(home: &Home, url: &str, token_file: &str, more: &[&str]) -> Ran {
    let args = ["creds", "issue", "--exchange", url, "--token-file", token_file];
    home.run(args.iter().chain(more))
}

/// How long issued credentials live, in seconds.
fn life(file: &Value) -> i64 {
    let payload = file["nats"]["jwt"].as_str().unwrap().split('.').nth(1).unwrap();
    let claims = BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
}

#[test]
fn a_device_gets_its_own_credentials() {
    let home = home("");
    let service = Service::start(&home);
    let token = token_file(&home, &["--device", "cam-1"]);
    let ran = ask(&home, &service.url(), &token, &["--out", "cam-1.json"]).ok();
    assert_eq!(ran.stdout, "credentials are in cam-1.json\n");
    assert_eq!(home.mode("cam-1.json"), 0o600);
    let file: Value = serde_json::from_str(&home.read("cam-1.json")).unwrap();
    assert_eq!((&file["device_id"], &file["tenant"]), (&"cam-1".into(), &"acme".into()));
    assert_eq!(
        (&file["auth_type"], &file["nats"]["urls"][0]),
        (&"jwt".into(), &"nats://127.0.0.1:1".into())
    );
    assert!(file["nats"]["nkey_seed"].as_str().unwrap().starts_with("SU"));

    // A slash at the end, the device's own name, and the token's line end change nothing.
    let url = format!("{}/", service.url());
    home.write("spaced.token", &format!("\n{}\n", home.read(&token)));
    ask(&home, &url, "spaced.token", &["--device", "cam-1"]).ok();
    let other = ask(&home, &url, &token, &["--device", "cam-2"]).failed(1);
    other.says(&["the exchange refused: device_invalid"]);
}

#[test]
fn an_operator_gets_those_of_any_device_and_nobody_else_does() {
    let home = home("");
    let service = Service::start(&home);
    let operator = token_file(&home, &["--role", "operator"]);
    let file = ask(&home, &service.url(), &operator, &["--device", "cam-7"]).ok().json();
    assert_eq!(file["device_id"], "cam-7");
    ask(&home, &service.url(), &operator, &[]).failed(1).says(&["add --device"]);
    let member = token_file(&home, &["--role", "member"]);
    let ran = ask(&home, &service.url(), &member, &["--device", "cam-7"]).failed(1);
    ran.says(&["the exchange refused: role_not_allowed"]);
}

#[test]
fn they_live_no_longer_than_the_exchange_allows() {
    let home = home("credentials_ttl = \"1h\"");
    let service = Service::start(&home);
    let token = token_file(&home, &["--device", "cam-1"]);
    for (more, seconds) in [(&[][..], 3600), (&["--ttl", "5m"], 300), (&["--ttl", "10h"], 3600)] {
        let file = ask(&home, &service.url(), &token, more).ok().json();
        assert_eq!(life(&file), seconds, "{more:?}");
    }
}

#[test]
fn who_is_not_welcome_is_refused_with_the_reason() {
    let home = home("");
    let service = Service::start(&home);
    let refused = |token: &str, reason: &str| {
        let ran = ask(&home, &service.url(), token, &["--out", "c.json"]).failed(1);
        ran.says(&["the exchange refused: ", reason]);
    };
    refused(&token_file(&home, &["--device", "cam-1", "--ttl=-1h"]), "token_expired");
    refused(&token_file(&home, &["--device", "cam-1", "--role", "service"]), "role_not_allowed");
    home.write("foreign.token", &Home::new().token("acme", &["--device", "cam-1"]));
    refused("foreign.token", "key_unknown");
    home.write("garbage.token", "garbage");
    refused("garbage.token", "token_malformed");

    // What the directory says reaches a running exchange by itself.
    let token = token_file(&home, &["--device", "cam-1"]);
    for (change, back, reason) in [
        ("tenant suspend acme", "tenant resume acme", "tenant_suspended"),
        (
            "device revoke --tenant acme cam-1",
            "device restore --tenant acme cam-1",
            "device_revoked",
        ),
        ("tenant delete acme --yes", "tenant create acme", "tenant_unknown"),
    ] {
        home.run(change.split_whitespace()).ok();
        let mut last = eventually(&home, &service, &token, 1);
        assert!(last.stderr.contains(reason), "{last}");
        home.run(back.split_whitespace()).ok();
        last = eventually(&home, &service, &token, 0);
        assert_eq!(last.json()["device_id"], "cam-1");
    }
    assert!(!home.exists("c.json"));
}

/// Asks until the answer is this exit code.
fn eventually(home: &Home, service: &Service, token: &str, code: i32) -> Ran {
    let started = Instant::now();
    loop {
        let ran = ask(home, &service.url(), token, &[]);
        if ran.code == Some(code) {
            return ran;
        }
        assert!(started.elapsed() < WITHIN, "{ran}");
    }
}

#[test]
fn too_many_are_refused() {
    let home = home("per_minute = 1");
    let service = Service::start(&home);
    let token = token_file(&home, &["--device", "cam-1"]);
    ask(&home, &service.url(), &token, &[]).ok();
    let ran = ask(&home, &service.url(), &token, &[]).failed(1);
    ran.says(&["too many credentials", "within the last minute", "issue_rate_exceeded"]);
}

#[test]
fn what_is_no_exchange_is_said() {
    let home = home("");
    let service = Service::start(&home);
    let token = token_file(&home, &["--device", "cam-1"]);
    let not_here = format!("{}/elsewhere", service.url());
    for (url, says) in [
        ("http://127.0.0.1:1", &["127.0.0.1:1", "refused"][..]),
        (&format!("http://{}", service.admin), &["404", "as no exchange does"]),
        (&not_here, &["404", "as no exchange does"]),
        (&service.url().replace("http:", "https:"), &["cannot be asked"]),
        ("bulkhead.example:8443", &["https"]),
        ("", &["https://bulkhead.example:8443"]),
    ] {
        let ran = ask(&home, url, &token, &["--out", "c.json"]).failed(1);
        ran.says(&["--exchange"]).says(says);
    }
    assert!(!home.exists("c.json"));
}

/// Whoever listens on the way would have the token.
#[test]
fn a_token_is_not_sent_in_the_clear() {
    let home = Home::of(&["acme"]);
    let token = token_file(&home, &["--device", "cam-1"]);
    for url in
        ["http://bulkhead.example", "http://192.0.2.1:80", "http://127.0.0.1.example", "ftp://x"]
    {
        let ran = ask(&home, url, &token, &[]).failed(1);
        ran.says(&["--exchange", "in the clear", "use https"]);
    }
}

#[test]
fn a_token_file_that_holds_none_is_named() {
    let home = Home::of(&["acme"]);
    home.write("empty.token", "\n");
    let url = "http://127.0.0.1:1";
    for name in ["empty.token", "issuer.pem"] {
        ask(&home, url, name, &[]).failed(1).says(&[name, "does not hold one token"]);
    }
    ask(&home, url, "nowhere", &[]).failed(1).says(&["nowhere", "--token-file"]);
}

#[test]
fn an_exchange_is_known_by_its_certificate() {
    let home = home("tls = { cert_file = \"tls.crt\", key_file = \"tls.key\" }");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    home.write("tls.crt", &made.cert.pem());
    home.write("tls.key", &made.signing_key.serialize_pem());
    let service = Service::start(&home);
    let token = token_file(&home, &["--device", "cam-1"]);
    let address = service.exchange.as_ref().unwrap();
    let url = format!("https://{}", address.replace("127.0.0.1", "localhost"));
    let file = ask(&home, &url, &token, &["--ca-file", "tls.crt"]).ok().json();
    assert_eq!(file["device_id"], "cam-1");

    ask(&home, &url, &token, &[]).failed(1).says(&["cannot be asked", "certificate"]);
    let by_address = format!("https://{address}");
    let ran = ask(&home, &by_address, &token, &["--ca-file", "tls.crt"]).failed(1);
    ran.says(&["certificate", "--exchange"]);
    for name in ["nowhere.pem", "tls.key", "bulkhead.toml"] {
        let ran = ask(&home, &url, &token, &["--ca-file", name]).failed(1);
        ran.says(&["--ca-file", name]);
    }
}
