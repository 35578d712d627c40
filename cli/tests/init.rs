//! `bulkhead init`: a configuration to begin with.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use common::Home;
use serde_json::json;

#[test]
fn a_configuration_is_written_once_and_never_again() {
    let home = Home::empty();
    home.run(["init"]).ok().says(&["wrote bulkhead.toml", "bulkhead check"]);
    assert_eq!(home.mode("bulkhead.toml"), 0o600);
    home.write("bulkhead.toml", "# mine\n");
    let again = home.run(["init"]).failed(1);
    again.says(&["bulkhead.toml exists", "never overwritten", "--config"]);
    assert_eq!(home.read("bulkhead.toml"), "# mine\n");
    assert_eq!(home.names_in("."), ["bulkhead.toml"], "nothing else is left behind");
}

#[test]
fn it_is_written_where_config_says() {
    let home = Home::empty();
    let ran = home.run(["--json", "--config", "other.toml", "init"]).ok();
    assert_eq!(ran.json(), json!({"config": "other.toml"}));
    assert!(home.exists("other.toml") && !home.exists("bulkhead.toml"));
    let ran = home.run(["init", "--config", "nowhere/bulkhead.toml"]).failed(1);
    ran.says(&["nowhere/bulkhead.toml", "--config"]);
}

#[test]
fn the_template_passes_the_check_as_it_is() {
    let home = Home::empty();
    home.run(["init"]).ok();
    let ran = home.run(["check"]).ok();
    ran.says(&["ok    configuration", "https://id.example.com/.well-known/jwks.json"]);
    home.run(["tenant", "create", "acme"]).ok();
    home.run(["check"]).ok().says(&["1 tenant"]);
}

/// Every setting that stands there as a comment is one that exists, and its example is of the right
/// kind. What it names has to be made yet.
#[test]
fn every_setting_in_the_templates_comments_is_one() {
    let home = Home::empty();
    home.run(["init"]).ok();
    let is_setting = |line: &str| {
        let name = |c: char| c.is_ascii_lowercase() || c == '_' || c == '.';
        let table = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let key = line.split_once(" = ").map(|(key, _)| key);
        table.or(key).is_some_and(|found| !found.is_empty() && found.chars().all(name))
    };
    let mut uncommented = 0;
    let mut text = String::new();
    for line in home.read("bulkhead.toml").lines() {
        match line.strip_prefix("# ").filter(|line| is_setting(line)) {
            Some(setting) => {
                uncommented += 1;
                text += setting;
            }
            None => text += line,
        }
        text.push('\n');
    }
    assert!(uncommented >= 12, "{uncommented} settings in\n{text}");
    home.write("bulkhead.toml", &text);
    let ran = home.run(["check"]).found();
    ran.says(&[
        "ok    configuration",
        "ok    issuer",
        "FAIL  nats:",
        "keyring.json",
        "bulkhead init nats",
        "FAIL  exchange.tls.cert_file:",
        "tls.crt",
    ]);
    home.run(["init", "nats"]).ok();
    home.run(["check"]).found().says(&["ok    nats: operator mode"]);
}

#[test]
fn the_exchanges_keys_can_be_made_before_it_starts() {
    let home = Home::of(&["acme"]);
    home.run(["init", "exchange"]).ok().says(&["wrote exchange", "exchange.keys = \"exchange\""]);
    assert_eq!(home.mode("exchange"), 0o700);
    let key = home.read("exchange/ca.key");
    home.run(["init", "exchange"]).failed(1).says(&["never overwritten", "--dir"]);
    assert_eq!(home.read("exchange/ca.key"), key);
    let made = home.run(["--json", "init", "exchange", "--dir", "next"]).ok().json();
    assert_eq!(made["keys"], "next");
    std::fs::remove_file(home.path("next/ca.key")).unwrap();
    home.run(["init", "exchange", "--dir", "next"]).failed(1).says(&["next/ca.key", "is missing"]);

    home.configure(
        "directory = { file = \"tenants.toml\" }\nmqtt.listeners = [\"tcp://127.0.0.1:1883\"]\n\
         exchange = { listen = \"127.0.0.1:0\", keys = \"exchange\" }\n",
    );
    let typed = ["creds", "issue", "--tenant", "acme", "--device", "cam-1"];
    let file = home.run(typed).ok().json();
    assert_eq!(file["mqtt"]["urls"][0], "mqtt://127.0.0.1:1883");
}
