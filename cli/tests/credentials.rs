//! `bulkhead creds issue` with this machine's keys.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use common::service::Service;
use common::{Home, secrets};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

fn issue(more: &str) -> Vec<String> {
    format!("creds issue --tenant acme {more}").split_whitespace().map(str::to_owned).collect()
}

/// What the user JWT of a credentials file says.
fn claims(file: &Value) -> Value {
    let payload = file["nats"]["jwt"].as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap()).unwrap()
}

#[test]
fn the_file_is_private_and_of_the_form_that_devices_read() {
    let home = Home::with_nats(&["acme"]);
    let ran = home.run(issue("--device cam-1 --out cam-1.creds.json")).ok();
    assert_eq!(ran.stdout, "credentials are in cam-1.creds.json\n");
    assert_eq!(home.mode("cam-1.creds.json"), 0o600);
    let file: Value = serde_json::from_str(&home.read("cam-1.creds.json")).unwrap();
    let names =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(names(&file), ["auth_type", "device_id", "nats", "tenant"]);
    assert_eq!(names(&file["nats"]), ["jwt", "nkey_seed", "urls"]);
    assert_eq!(file["device_id"], "cam-1");
    assert_eq!(file["tenant"], "acme");
    assert_eq!(file["auth_type"], "jwt");
    assert_eq!(file["nats"]["urls"], json!(["nats://127.0.0.1:1"]));
    let seed = file["nats"]["nkey_seed"].as_str().unwrap();
    assert!(seed.starts_with("SU") && secrets::in_text(seed).is_some(), "a user's seed");
    let claims = claims(&file);
    assert_eq!(claims["name"], "acme/cam-1");
    assert!(claims["sub"].as_str().unwrap().starts_with('U'), "{claims}");
    // It opens the way to the callout and nothing else.
    for side in ["pub", "sub"] {
        assert_eq!(claims["nats"][side]["deny"], json!([">"]), "{claims}");
    }
}

#[test]
fn without_a_file_they_go_to_standard_output() {
    let home = Home::with_nats(&["acme"]);
    let one = home.run(issue("--device cam-1")).ok().json();
    let two = home.run(issue("--device cam-1 --json")).ok().json();
    assert_eq!(one["device_id"], two["device_id"]);
    assert_ne!(one["nats"]["nkey_seed"], two["nats"]["nkey_seed"], "each has a key of its own");
    let ran = home.run(issue("--device cam-1 --json --out c.json")).ok();
    assert_eq!(ran.json(), json!({"file": "c.json"}));
    assert_eq!(secrets::in_text(&ran.stdout), None);
}

#[test]
fn a_file_that_is_there_is_replaced_and_becomes_private() {
    let home = Home::with_nats(&["acme"]);
    home.write("c.json", "old");
    home.run(issue("--device cam-1 --out c.json")).ok();
    assert_eq!(home.mode("c.json"), 0o600);
    assert!(home.read("c.json").contains("cam-1"));
    let ran = home.run(issue("--device cam-1 --out nowhere/c.json")).failed(1);
    ran.says(&["nowhere/c.json", "--out"]);
}

#[test]
fn they_live_as_long_as_was_asked() {
    let home = Home::with_nats(&["acme"]);
    let life = |more: &str| {
        let claims = claims(&home.run(issue(&format!("--device cam-1 {more}"))).ok().json());
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
    };
    assert_eq!(life("--ttl 10m"), 600);
    assert_eq!(life(""), 30 * 24 * 3600);
    for ttl in ["0s", "-1h", "500ms"] {
        home.run(issue(&format!("--device cam-1 --ttl={ttl}"))).failed(1).says(&["--ttl", "1s"]);
    }
}

#[test]
fn a_role_is_built_in_configured_or_the_tenants_own() {
    let home = Home::with_nats(&["acme", "globex"]);
    let role = |role: &str| home.run(issue(&format!("--device cam-1 --role {role}")));
    let tags = claims(&role("viewer").ok().json())["nats"]["tags"].clone();
    assert!(tags.as_array().unwrap().contains(&json!("role:viewer")), "{tags}");

    role("nosuch").failed(1).says(&["role 'nosuch' does not exist", "[roles]"]);
    let own = "[tenants.acme.roles.nosuch]\nsubscribe = [\"device-connect/{tenant}/**\"]\n";
    home.write("tenants.toml", &format!("{own}[tenants.globex]\n"));
    role("nosuch").ok();
    let other =
        home.run(["creds", "issue", "--tenant", "globex", "--device", "d", "--role", "nosuch"]);
    other.failed(1).says(&["role 'nosuch' does not exist"]);
    role("service").failed(1).says(&["role 'service'", "platform"]);
    role("a.b").failed(2).says(&["--role"]);
}

#[test]
fn who_is_not_welcome_gets_none() {
    let home = Home::with_nats(&["acme"]);
    let run = |typed: &str| home.run(typed.split_whitespace());
    run("creds issue --tenant globex --device cam-1 --out c.json")
        .failed(1)
        .says(&["there is no tenant 'globex'", "bulkhead tenant list"]);
    run("device revoke --tenant acme cam-1").ok();
    run("creds issue --tenant acme --device cam-1 --out c.json")
        .failed(1)
        .says(&["acme/cam-1 is revoked", "bulkhead device restore"]);
    run("tenant suspend acme").ok();
    run("creds issue --tenant acme --device cam-2 --out c.json")
        .failed(1)
        .says(&["acme is suspended", "bulkhead tenant resume"]);
    assert!(!home.exists("c.json") && !home.exists("audit.jsonl.cli"));
    run("tenant resume acme").ok();
    run("creds issue --tenant acme --device cam-2 --out c.json").ok();
}

#[test]
fn without_keys_it_is_said_how_to_get_them() {
    let home = Home::of(&["acme"]);
    home.run(issue("--device cam-1")).failed(1).says(&["[nats]", "bulkhead init nats"]);
    home.configure(
        "directory = { file = \"tenants.toml\" }\n         nats = { servers = [\"nats://127.0.0.1:1\"], operator = { keys = \"nats\" } }\n",
    );
    home.run(issue("--device cam-1")).failed(1).says(&["nats/keyring.json", "bulkhead init nats"]);
}

#[test]
fn each_file_is_written_down_without_what_is_secret_in_it() {
    let home = Home::with_nats(&["acme"]);
    for device in ["cam-1", "cam-2"] {
        home.run(issue(&format!("--device {device}"))).ok();
    }
    let log = home.read("audit.jsonl.cli");
    assert_eq!(log.lines().count(), 2);
    assert!(log.contains("credential_issued") && log.contains("device cam-2"), "{log}");
    assert_eq!(secrets::in_text(&log), None);
    assert_eq!(home.mode("audit.jsonl.cli"), 0o600);
    home.run(["audit", "verify"]).ok().says(&["audit.jsonl.cli: 2 records"]);
}

#[test]
fn they_say_where_devices_find_the_servers_and_their_authority() {
    let home = Home::with_nats(&["acme"]);
    let own = home.run(issue("--device cam-1")).ok().json();
    assert!(own["nats"]["tls"].is_null());
    let settings = "ca_file = \"ca.pem\", device_ca_file = \"/etc/ca.pem\", \
                    device_urls = [\"tls://broker.example:4222\"], operator =";
    let config = home.read("bulkhead.toml").replace("operator =", settings);
    home.write("bulkhead.toml", &config);
    let file = home.run(issue("--device cam-1")).ok().json();
    assert_eq!(file["nats"]["tls"]["ca_file"], "/etc/ca.pem");
    assert_eq!(file["nats"]["urls"], serde_json::json!(["tls://broker.example:4222"]));
}

/// A folder with an exchange that has keys of its own, and MQTT; with `more` settings.
fn home_with_mqtt(more: &str) -> Home {
    let home = Home::of(&["acme"]);
    home.configure(&format!(
        "directory = {{ file = \"tenants.toml\" }}\n\
         audit = {{ path = \"audit.jsonl\" }}\n\
         exchange = {{ listen = \"127.0.0.1:0\", keys = \"exchange\" }}\n\
         mqtt = {{ listeners = [\"tcp://127.0.0.1:0\"], device_urls = [\"mqtts://b:8883\"] }}\n\
         {more}"
    ));
    home
}

#[test]
fn those_for_mqtt_are_signed_by_the_keys_that_the_exchange_made() {
    let home = home_with_mqtt("");
    let ran = home.run(issue("--device cam-1 --backend mqtt --out c.json")).failed(1);
    ran.says(&[
        "exchange.keys",
        "does not hold the keys of the exchange",
        "bulkhead init exchange",
    ]);
    assert!(!home.exists("exchange") && !home.exists("c.json"));
    let made = ["ca.key", "ca.pem", "keys.lock", "tokens.jwks.json", "tokens.key"];
    {
        let _service = Service::start(&home);
        assert_eq!(home.names_in("exchange"), made);
    }
    let keys: Vec<_> = made.iter().map(|name| home.read(&format!("exchange/{name}"))).collect();
    let _service = Service::start(&home);
    let again: Vec<_> = made.iter().map(|name| home.read(&format!("exchange/{name}"))).collect();
    assert!(keys == again, "they are made once");
    for name in made {
        assert_eq!(home.mode(&format!("exchange/{name}")), 0o600, "{name}");
    }

    // It is the only backend, so it need not be named.
    let file = home.run(issue("--device cam-1")).ok().json();
    let names =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(names(&file), ["auth_type", "device_id", "mqtt", "tenant"]);
    assert_eq!(names(&file["mqtt"]), ["credentials", "urls"]);
    assert_eq!(file["auth_type"], "password");
    assert_eq!(file["mqtt"]["urls"], json!(["mqtts://b:8883"]));
    assert_eq!(file["mqtt"]["credentials"]["username"], "cam-1");
    let password = file["mqtt"]["credentials"]["password"].as_str().unwrap();
    let claims = BASE64URL_NOPAD.decode(password.split('.').nth(1).unwrap().as_bytes()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(
        (&claims["tenant"], &claims["device"], &claims["role"]),
        (&json!("acme"), &json!("cam-1"), &json!("device"))
    );
    let more = "--device cam-1 --certificate --role viewer --ttl 10m --out c.json";
    home.run(issue(more)).ok();
    assert_eq!(home.mode("c.json"), 0o600);
    let file: Value = serde_json::from_str(&home.read("c.json")).unwrap();
    assert_eq!(names(&file["mqtt"]["tls"]), ["cert_pem", "key_pem"]);
    let log = home.read("audit.jsonl.cli");
    assert!(log.contains("credential_issued") && log.contains("\"mqtt\""), "{log}");
    assert_eq!(secrets::in_text(&log), None);
}

#[test]
fn with_several_backends_one_has_to_be_named() {
    let home = home_with_mqtt("");
    home.run(["init", "nats"]).ok();
    let nats = "nats = { servers = [\"nats://127.0.0.1:1\"], operator = { keys = \"nats\" } }\n";
    let config = home.read("bulkhead.toml").replacen("exchange =", &format!("{nats}exchange ="), 1);
    home.write("bulkhead.toml", &config);
    let service = Service::start(&home);
    home.write("cam.token", &home.token("acme", &["--device", "cam-1"]));
    let url = service.url();
    let exchange = ["creds", "issue", "--exchange", &url, "--token-file", "cam.token"];
    let local = ["creds", "issue", "--tenant", "acme", "--device", "cam-1"];
    for typed in [&exchange[..], &local[..]] {
        let with = |more: &[&str]| home.run(typed.iter().chain(more));
        with(&[]).failed(1).says(&["several backends", "--backend nats, mqtt or zenoh"]);
        assert!(with(&["--backend", "nats"]).ok().json()["nats"].is_object());
        let file = with(&["--backend", "mqtt", "--certificate"]).ok().json();
        assert!(file["mqtt"]["tls"]["key_pem"].is_string() && file.get("nats").is_none());
        // Its password is for MQTT alone.
        let password = file["mqtt"]["credentials"]["password"].as_str().unwrap();
        let judged = home.run(["--json", "token", "inspect", password]).ok().json();
        assert_eq!(judged["principal"], "acme/cam-1, role device, issuer exchange");
        assert_eq!(judged["refused"], json!({"nats": "issuer_unknown"}));
        with(&["--backend", "nats", "--certificate"]).failed(1).says(&["no client certificate"]);
    }
}

#[test]
fn what_mqtt_lacks_for_credentials_is_said() {
    let home = Home::of(&["acme"]);
    let mqtt = || home.run(issue("--device cam-1 --backend mqtt"));
    mqtt().failed(1).says(&["[mqtt] is not configured"]);
    home.configure(
        "directory = { file = \"tenants.toml\" }\nmqtt.listeners = [\"tcp://127.0.0.1:1883\"]\n",
    );
    mqtt().failed(1).says(&["exchange's keys", "set exchange = { keys"]);
    home.run(issue("--device cam-1")).failed(1).says(&["exchange.keys", "[nats]"]);
    home.configure(
        "directory = { file = \"tenants.toml\" }\nmqtt.listeners = [\"tcp://127.0.0.1:0\"]\n\
         exchange = { listen = \"127.0.0.1:0\", keys = \"exchange\" }\n",
    );
    mqtt().failed(1).says(&["mqtt.device_urls", "mqtts://broker.example:8883"]);
}
