//! `bulkhead check`: what is wrong, where, and what to do about it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use common::{Home, Ran};
use serde_json::Value;

/// Runs the check both ways, and returns what it says for people: both have to say the same.
fn check(home: &Home) -> Ran {
    let text = home.run(["check"]);
    let json = home.run(["--json", "check"]);
    assert_eq!(text.code, json.code);
    assert_eq!(json.stderr, "");
    let value = json.json();
    assert_eq!(value["ok"], Value::Bool(text.code == Some(0)), "{json}");
    let checks = value["checks"].as_array().unwrap();
    assert_eq!(checks.len(), text.stdout.lines().count(), "{text}");
    for (check, line) in checks.iter().zip(text.stdout.lines()) {
        let what = check["what"].as_str().unwrap();
        let expected = match (check["detail"].as_str(), check["error"].as_str()) {
            (Some(detail), None) => format!("ok    {what}: {detail}"),
            (None, Some(error)) => format!("FAIL  {what}: {error}"),
            _ => panic!("{check}"),
        };
        assert_eq!(line, expected);
    }
    text
}

#[test]
fn a_good_configuration_passes() {
    let home = Home::with_nats(&["acme", "globex"]);
    let checked = check(&home).ok();
    checked.says(&[
        "ok    configuration: bulkhead.toml",
        "ok    issuer corp",
        "ok    directory: 2 tenants",
        "ok    nats: operator mode",
        "ok    audit log: audit.jsonl",
    ]);
    assert!(!home.exists("audit.jsonl"), "checking writes nothing");
}

#[test]
fn a_setting_that_is_wrong_is_named_with_its_line_and_a_remedy() {
    let file = "directory = { file = \"tenants.toml\" }";
    for (settings, says) in [
        // Unknown keys.
        ("[metrics]\nmax_tenant = 1", &["bulkhead.toml:5:1", "max_tenant", "max_tenants"][..]),
        ("directry = 1", &["bulkhead.toml:4:1", "directry", "`directory`"]),
        ("[nats]\nservers = []\nqueue = 1", &["bulkhead.toml:6:1", "queue", "max_in_flight"]),
        // Wrong types and no TOML.
        ("audit = { path = 1 }", &["bulkhead.toml:4:18", "path string"]),
        ("log = { format = \"xml\" }", &["bulkhead.toml:4:18", "xml", "`text` or `json`"]),
        ("quotas = { connections = -1 }", &["bulkhead.toml:4:26", "-1"]),
        ("directory = ", &["bulkhead.toml:4:"]),
        // Values that cannot be right.
        (
            "exchange = { listen = \"0.0.0.0:1\" }",
            &["bulkhead.toml:4", "exchange.tls", "cert_file", "in the clear"],
        ),
        (
            "nats = { servers = [], operator = { keys = \"nats\" } }",
            &["bulkhead.toml:4", "nats.servers", "is empty", "nats://127.0.0.1:4222"],
        ),
        (
            "nats = { servers = [\"nats://h:1\"] }",
            &["bulkhead.toml:4", "exactly one of operator and config_mode", "bulkhead init nats"],
        ),
        (
            "limits = { failures_per_minute = 0 }",
            &["bulkhead.toml:4", "limits.failures_per_minute", "at least 1"],
        ),
        (
            "[roles.mine]\npublish = [\"everything/**\"]",
            &["bulkhead.toml:4", "roles.mine", "put {tenant} into it"],
        ),
    ] {
        let home = Home::new();
        home.configure(&format!("{file}\n{settings}"));
        // The first setting of this test stands in the fourth line.
        check(&home).found().says(&["FAIL  configuration: "]).says(says);
    }
}

#[test]
fn what_must_be_chosen_is_named() {
    let home = Home::new();
    for (text, says) in [
        ("", &["directory"][..]),
        ("issuers = []\ndirectory = {}", &["issuers", "[[issuers]]"]),
        ("issuers = []\ndirectory = { file = \"t\" }", &["bulkhead.toml:1", "[[issuers]]"]),
    ] {
        home.write("bulkhead.toml", text);
        check(&home).found().says(says);
    }
    home.configure("directory = {}");
    check(&home).found().says(&["directory", "exactly one source", "file = \"tenants.toml\""]);
}

#[test]
fn a_missing_configuration_says_how_to_get_one() {
    let home = Home::empty();
    check(&home).found().says(&["bulkhead.toml", "--config", "bulkhead init"]);
}

#[test]
fn missing_and_unusable_keys_of_an_issuer_are_named() {
    let home = Home::new();
    std::fs::remove_file(home.path("issuer.jwks.json")).unwrap();
    check(&home).found().says(&["FAIL  issuer corp", "issuer.jwks.json", "check its `keys`"]);
    for text in ["", "{}", "{\"keys\": []}", "{\"keys\": [{\"kty\": \"oct\", \"k\": \"AAAA\"}]}"] {
        home.write("issuer.jwks.json", text);
        check(&home).found().says(&["FAIL  issuer corp", "issuer.jwks.json", "`keys`"]);
    }
}

#[test]
fn a_directory_that_cannot_be_read_is_named_with_its_line() {
    let home = Home::new();
    check(&home).ok().says(&["no tenants yet", "bulkhead tenant create"]);
    for (text, says) in [
        ("[tenants.acme]\nstatus = \"gone\"\n", &["line 2", "gone", "`active`"][..]),
        ("[tenants.acme]\n[tenants.acme]\n", &["line 2", "duplicate"]),
        ("[tenants.\"a.b\"]\n", &["line 1", "letters, digits"]),
        ("[tenants.registry]\n", &["line 1", "reserved"]),
        ("[tenants.acme]\n[tenants.ACME]\n", &["'ACME' and 'acme'", "rename"]),
        ("tenants = 1\n", &["line 1"]),
    ] {
        home.write("tenants.toml", text);
        check(&home).found().says(&["FAIL  directory: ", "tenants.toml"]).says(says);
    }
}

#[test]
fn a_keyring_that_is_missing_or_broken_is_named() {
    let home = Home::with_nats(&[]);
    let keyring = home.read("nats/keyring.json");
    let seed = keyring.split('"').find(|word| word.starts_with("SO")).unwrap();
    for (text, says) in [
        ("", &["line 1", "restore it from a backup"][..]),
        ("{}", &["operator", "line 1", "restore it"]),
        (&keyring.replacen('{', "{\"more\": 1,", 1), &["more", "line 1", "restore it"]),
        (&keyring.replace(seed, "SOAAAA"), &["restore it from a backup"]),
    ] {
        home.write("nats/keyring.json", text);
        let checked = check(&home).found().says(&["FAIL  nats: ", "nats/keyring.json"]).says(says);
        assert!(!checked.stdout.contains(seed), "{checked}");
    }
    std::fs::remove_file(home.path("nats/keyring.json")).unwrap();
    check(&home).found().says(&["FAIL  nats: ", "nats/keyring.json", "bulkhead init nats"]);
}

#[test]
fn seeds_of_config_mode_are_checked() {
    let home = Home::new();
    home.run(["init", "nats"]).ok();
    home.configure(
        "directory = { file = \"tenants.toml\" }\n         [nats]\n         servers = [\"nats://127.0.0.1:1\"]\n         [nats.config_mode]\n         issuer_seed_file = \"issuer.seed\"\n         user = \"callout\"\n         password_file = \"callout.pass\"\n         system_user = \"system\"\n         system_password_file = \"system.pass\"\n         accounts = { acme = \"ACME\" }\n",
    );
    check(&home).found().says(&["FAIL  nats", "nats.config_mode", "issuer.seed"]);
    home.write("issuer.seed", "the seed is in the other file\n");
    let checked = check(&home).found();
    checked.says(&[
        "FAIL  nats: nats.config_mode.issuer_seed_file",
        "no seed of the right kind",
        "FAIL  nats.config_mode.password_file: ",
        "callout.pass",
        "FAIL  nats.config_mode.system_password_file: ",
        "system.pass",
    ]);
}

#[test]
fn files_that_only_a_service_reads_are_checked_too() {
    let home = Home::new();
    home.configure(
        "directory = { file = \"tenants.toml\" }\n         audit = { path = \"log/audit.jsonl\" }\n         log = { filter = \"everything=please\" }\n         [exchange]\n         listen = \"127.0.0.1:0\"\n         tls = { cert_file = \"tls.crt\", key_file = \"tls.key\" }\n\
         [mqtt]\n\
         listeners = [\"tls://127.0.0.1:0\"]\n\
         tls = { cert_file = \"mqtt.crt\", key_file = \"mqtt.key\" }\n\
         upstream = { url = \"mqtts://broker\", ca_file = \"ca.pem\" }\n\
         [zenoh]\n\
         listeners = [\"tls/127.0.0.1:0\"]\n\
         tls = { cert_file = \"zenoh.crt\", key_file = \"zenoh.key\" }\n\
         device_ca_file = \"zenoh-ca.pem\"\n",
    );
    let checked = check(&home).found();
    checked.says(&[
        "FAIL  exchange.tls.cert_file: tls.crt",
        "FAIL  exchange.tls.key_file: tls.key",
        "FAIL  mqtt.tls.cert_file: mqtt.crt",
        "FAIL  mqtt.tls.key_file: mqtt.key",
        "FAIL  mqtt.upstream.ca_file: ca.pem",
        "FAIL  zenoh.tls.cert_file: zenoh.crt",
        "FAIL  zenoh.tls.key_file: zenoh.key",
        "FAIL  zenoh.device_ca_file: zenoh-ca.pem",
        "FAIL  audit log: log is no folder; make it, or change audit.path",
        "FAIL  log: log.filter: ",
        "write a level, such as \"info\"",
    ]);
}

#[test]
fn the_exchanges_keys_and_what_is_verified_by_them_are_checked() {
    let home = Home::new();
    home.configure(&format!(
        "directory = {{ file = \"tenants.toml\" }}\n\
         exchange = {{ listen = \"127.0.0.1:0\", keys = \"exchange\" }}\n\
         [mqtt]\nlisteners = [\"tls://127.0.0.1:{}\"]\n\
         tls = {{ cert_file = \"tls.crt\", key_file = \"tls.key\", \
         client_ca_file = \"exchange/ca.pem\" }}\n\
         [zenoh]\nlisteners = [\"tls/127.0.0.1:7447\"]\n\
         tls = {{ cert_file = \"tls.crt\", key_file = \"tls.key\", \
         client_ca_file = \"exchange/ca.pem\" }}\n",
        bulkhead_devkit::free_port().unwrap(),
    ));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    home.write("tls.crt", &made.cert.pem());
    home.write("tls.key", &made.signing_key.serialize_pem());
    let settings = [
        "exchange.keys",
        "mqtt.tls.client_ca_file",
        "zenoh.tls.client_ca_file",
        "mqtt.exchange_jwks_file",
    ];
    let checked = check(&home).ok();
    for setting in settings {
        checked
            .stdout
            .lines()
            .find(|l| *l == format!("ok    {setting}: made at the first start"))
            .unwrap();
    }
    drop(common::service::Service::start(&home));
    check(&home).ok().says(&[
        "ok    exchange.keys: device authority until 20",
        "ok    mqtt.tls.client_ca_file: authorities are usable",
        "ok    zenoh.tls.client_ca_file: authorities are usable",
        "ok    mqtt.exchange_jwks_file: keys are usable",
    ]);
    let ca = home.read("exchange/ca.pem");
    home.write("exchange/ca.pem", &made.cert.pem());
    let checked = check(&home).found();
    checked.says(&[
        "FAIL  exchange.keys: ",
        "FAIL  mqtt.tls.client_ca_file: ",
        "FAIL  zenoh.tls.client_ca_file: ",
        "ca.pem",
        "no authority's",
    ]);
    home.write("exchange/ca.pem", &ca);
    home.write("exchange/tokens.jwks.json", "{\"keys\": []}");
    let checked = check(&home).found();
    checked.says(&["FAIL  exchange.keys: ", "FAIL  mqtt.exchange_jwks_file: ", "tokens.jwks.json"]);
    std::fs::remove_file(home.path("exchange/ca.key")).unwrap();
    check(&home).found().says(&["ca.key is missing", "restore it"]);

    // Without an exchange here, the public files have to be there.
    let config = home.read("bulkhead.toml").replace("exchange = ", "# exchange = ");
    home.write("bulkhead.toml", &config.replace("exchange/ca.pem", "elsewhere/ca.pem"));
    check(&home)
        .found()
        .says(&["FAIL  mqtt.tls.client_ca_file: elsewhere/ca.pem", "cannot be read"]);
}
