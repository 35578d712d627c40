//! `bulkhead exchange rotate`: new keys, trusted before they sign, beside the old ones.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use bulkhead_devkit::free_port;
use common::service::Service;
use common::{Home, WITHIN};
use data_encoding::BASE64URL_NOPAD;
use rumqttc::{Client, Event, Incoming, MqttOptions};
use serde_json::Value;
use std::time::{Duration, Instant};

const PRIVATE: [&str; 2] = ["ca.key", "tokens.key"];

/// A broker that verifies by copies of the public files, as one on another machine does.
fn home(port: u16) -> Home {
    let home = Home::of(&["acme"]);
    home.run(["init", "exchange"]).ok();
    std::fs::create_dir(home.path("public")).unwrap();
    home.write("public/ca.pem", &home.read("exchange/ca.pem"));
    home.write("public/keys.json", &home.read("exchange/tokens.jwks.json"));
    home.run(["init", "tls", "--host", "127.0.0.1"]).ok();
    home.configure(&format!(
        "directory = {{ file = \"tenants.toml\" }}\n\
         mqtt = {{ listeners = [\"tcp://127.0.0.1:{port}\", \"tls://127.0.0.1:0\"], \
         device_urls = [\"mqtt://127.0.0.1:{port}\"], exchange_jwks_file = \"public/keys.json\", \
         tls = {{ cert_file = \"tls/tls.pem\", key_file = \"tls/tls.key\", client_ca_file = \
         \"public/ca.pem\" }} }}\n\
         exchange = {{ listen = \"127.0.0.1:0\", keys = \"exchange\" }}\n"
    ));
    home
}

fn issue(home: &Home) -> Value {
    let args = ["creds", "issue", "--tenant", "acme", "--device", "cam-1", "--backend", "mqtt"];
    home.run(args).ok().json()["mqtt"]["credentials"].clone()
}

fn key_id(credentials: &Value) -> String {
    let header = credentials["password"].as_str().unwrap().split('.').next().unwrap();
    let header = BASE64URL_NOPAD.decode(header.as_bytes()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

/// Whether a broker lets these in.
fn is_let_in(port: u16, credentials: &Value) -> bool {
    let mut options = MqttOptions::new("cam-1", "127.0.0.1", port);
    let text = |name: &str| credentials[name].as_str().unwrap();
    options.set_credentials(text("username"), text("password"));
    options.set_keep_alive(Duration::from_secs(30));
    let (_client, mut connection) = Client::new(options, 10);
    connection.iter().find_map(|event| match event {
        Ok(Event::Incoming(Incoming::ConnAck(_))) => Some(true),
        Ok(_) => None,
        Err(_) => Some(false),
    }) == Some(true)
}

#[test]
fn what_old_and_new_keys_signed_is_accepted_by_a_broker_that_runs() {
    let port = free_port().unwrap();
    let home = home(port);
    let service = Service::start(&home);
    let old = issue(&home);
    assert!(is_let_in(port, &old));
    let said = home.run(["--json", "exchange", "rotate"]).ok().json();
    assert_eq!(said["trusted_in"].as_array().unwrap().len(), 2, "{said}");
    let new = issue(&home);
    assert_ne!(key_id(&old), key_id(&new));
    assert_eq!(said["key_id"], key_id(&new).as_str());
    // It looks at its files now and then.
    let started = Instant::now();
    while !is_let_in(port, &new) {
        assert!(started.elapsed() < WITHIN, "the new key is not accepted");
    }
    assert!(is_let_in(port, &old));
    drop(service);
}

#[test]
fn nothing_is_lost_and_nothing_else_changes() {
    let home = home(1883);
    let names = home.names_in("exchange");
    let before = PRIVATE.map(|name| home.read(&format!("exchange/{name}")));
    let (config, tls) = (home.read("bulkhead.toml"), home.read("tls/tls.pem"));
    let public =
        [("exchange/ca.pem", "public/ca.pem"), ("exchange/tokens.jwks.json", "public/keys.json")];
    let count = |file: &str| {
        let text = home.read(file);
        text.matches("BEGIN CERTIFICATE").count() + text.matches("\"kid\"").count()
    };
    for round in 2..=3 {
        home.run(["exchange", "rotate"]).ok().says(&["public/ca.pem", "restart the service"]);
        for (own, copy) in public {
            assert_eq!((count(own), count(copy)), (round, round));
        }
        assert_eq!(home.names_in("exchange"), names);
        home.run(["check"]).ok();
    }
    let after = PRIVATE.map(|name| home.read(&format!("exchange/{name}")));
    assert!(before.iter().zip(&after).all(|(before, after)| before != after));
    for name in PRIVATE {
        assert_eq!(home.mode(&format!("exchange/{name}")), 0o600);
    }
    assert_eq!((home.read("bulkhead.toml"), home.read("tls/tls.pem")), (config, tls));
    assert_eq!(home.mode("public/ca.pem"), 0o644, "whoever could read it still can");
}

/// Any step may be the last: what signs is trusted, and the next rotation goes on.
#[test]
fn half_a_rotation_signs_and_is_trusted() {
    let home = home(1883);
    let before = PRIVATE.map(|name| home.read(&format!("exchange/{name}")));
    let old = key_id(&issue(&home));
    home.run(["exchange", "rotate"]).ok();
    let new = key_id(&issue(&home));
    let after = PRIVATE.map(|name| home.read(&format!("exchange/{name}")));
    for (ca, tokens, signs) in
        [(&before, &before, &old), (&after, &before, &old), (&before, &after, &new)]
    {
        home.write("exchange/ca.key", &ca[0]);
        home.write("exchange/tokens.key", &tokens[1]);
        home.run(["check"]).ok();
        assert_eq!(&key_id(&issue(&home)), signs);
    }
    home.run(["exchange", "rotate"]).ok();
}

#[test]
fn the_files_may_be_named_without_a_configuration() {
    let home = home(1883);
    std::fs::remove_file(home.path("bulkhead.toml")).unwrap();
    home.run(["exchange", "rotate"]).failed(1).says(&["bulkhead.toml"]);
    let rotate = ["exchange", "rotate", "--dir", "exchange"];
    let more = ["--client-ca-file", "public/ca.pem", "--exchange-jwks-file", "public/keys.json"];
    home.run(rotate.iter().chain(&more)).ok();
    assert_eq!(home.read("public/ca.pem").matches("BEGIN").count(), 2);

    // What is wrong is found before anything is written.
    let state =
        || ["ca.pem", "ca.key", "tokens.key"].map(|name| home.read(&format!("exchange/{name}")));
    let before = state();
    for (flag, file) in [
        ("--client-ca-file", "public/keys.json"),
        ("--exchange-jwks-file", "public/ca.pem"),
        ("--client-ca-file", "no.pem"),
    ] {
        home.run(rotate.iter().chain(&[flag, file])).failed(1).says(&[file]);
    }
    std::fs::create_dir(home.path("empty")).unwrap();
    let ran = home.run(["exchange", "rotate", "--dir", "empty"]).failed(1);
    ran.says(&["empty", "bulkhead init exchange"]);
    assert!(home.names_in("empty").is_empty());
    assert_eq!(state(), before);
}

#[test]
fn without_keys_of_the_exchange_there_is_nothing_to_rotate() {
    let home = Home::of(&[]);
    home.run(["exchange", "rotate"]).failed(1).says(&["exchange.keys", "--dir"]);
}
