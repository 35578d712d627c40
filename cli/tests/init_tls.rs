//! `bulkhead init tls`: a certificate, its key and its authority, and the same again when it wants it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use common::service::Service;
use common::{Home, Ran};
use serde_json::Value;

fn tls(home: &Home, more: &[&str]) -> Ran {
    home.run(["init", "tls"].iter().chain(more))
}

fn json(home: &Home, more: &[&str]) -> Value {
    home.run(["--json", "init", "tls"].iter().chain(more)).ok().json()
}

const HOSTS: &[&str] = &["--host", "localhost", "--host", "127.0.0.1"];

#[test]
fn an_authority_and_a_certificate_are_made_once() {
    let home = Home::empty();
    let made = tls(&home, HOSTS).ok();
    made.says(&["made the authority tls/ca.pem", "tls/ca.key", "issued tls/tls.pem"]);
    let names = ["ca.key", "ca.pem", "tls.key", "tls.pem"];
    assert_eq!(home.names_in("tls"), names);
    assert_eq!(home.mode("tls"), 0o700);
    let read = || names.map(|name| home.read(&format!("tls/{name}")));
    for name in names {
        assert_eq!(home.mode(&format!("tls/{name}")), 0o600, "{name}");
    }
    let before = read();
    tls(&home, HOSTS).ok().says(&["tls/tls.pem is kept", "it ends 20"]);
    assert_eq!(json(&home, HOSTS)["state"], "kept");
    assert_eq!(read(), before);
}

#[test]
fn what_lacks_a_name_is_issued_again_for_its_old_key() {
    let home = Home::empty();
    tls(&home, HOSTS).ok();
    let (key, authority) = (home.read("tls/tls.key"), home.read("tls/ca.pem"));
    let more = [HOSTS, &["--host", "broker.example.com"]].concat();
    let made = json(&home, &more);
    assert_eq!((&made["state"], &made["authority_made"]), (&"renewed".into(), &false.into()));
    assert!(made["because"].as_str().unwrap().contains("broker.example.com"), "{made}");
    assert_eq!((home.read("tls/tls.key"), home.read("tls/ca.pem")), (key, authority));
    assert_eq!(json(&home, &more)["state"], "kept");
    assert_eq!(json(&home, HOSTS)["state"], "kept", "a name more does no harm");
    tls(&home, &["--host", "a name"]).failed(1).says(&["a name", "broker.example.com"]);
}

#[test]
fn the_authoritys_key_may_be_elsewhere_until_it_is_wanted() {
    let home = Home::empty();
    let at = ["--ca", "public/ca.pem", "--ca-key", "offline/ca.key"];
    let with = |more: &[&'static str]| [&at[..], more].concat();
    tls(&home, &with(HOSTS)).ok();
    assert_eq!((home.names_in("offline"), home.names_in("tls").len()), (vec!["ca.key".into()], 2));
    std::fs::rename(home.path("offline/ca.key"), home.path("away.key")).unwrap();
    assert_eq!(json(&home, &with(HOSTS))["state"], "kept");
    let before = home.read("tls/tls.pem");
    let other = with(&["--host", "broker.example.com"]);
    tls(&home, &other).found().says(&[
        "has to be issued again",
        "offline/ca.key",
        "it is used until",
    ]);
    assert_eq!(home.read("tls/tls.pem"), before);
    let new = with(&["--name", "front", "--client"]);
    tls(&home, &new).failed(1).says(&[
        "tls/front.pem is not there",
        "offline/ca.key",
        "put it back",
    ]);
    assert_eq!(home.names_in("tls"), ["tls.key", "tls.pem"], "no key without a certificate");

    std::fs::rename(home.path("away.key"), home.path("offline/ca.key")).unwrap();
    assert_eq!(json(&home, &other)["state"], "renewed");
    assert_eq!(json(&home, &new)["state"], "issued");
}

#[test]
fn what_cannot_be_read_is_named_and_not_replaced() {
    let home = Home::empty();
    tls(&home, HOSTS).ok();
    for name in ["ca.pem", "ca.key", "tls.pem", "tls.key"] {
        let file = format!("tls/{name}");
        let good = home.read(&file);
        home.write(&file, "nothing of the kind");
        tls(&home, HOSTS).failed(1).says(&[&file, "restore it from a backup"]);
        assert_eq!(home.read(&file), "nothing of the kind");
        home.write(&file, &good);
    }
    let other = Home::empty();
    tls(&other, HOSTS).ok();
    home.write("tls/ca.key", &other.read("tls/ca.key"));
    tls(&home, HOSTS).failed(1).says(&["tls/ca.key", "is not the key of any certificate"]);
}

/// Who trusts the authority reaches the server under its names, and who does not, does not.
#[test]
fn a_service_is_reached_by_it() {
    let home = Home::with_nats(&["acme"]);
    tls(&home, HOSTS).ok();
    tls(&home, &["--dir", "other", "--host", "localhost"]).ok();
    home.configure(
        "directory = { file = \"tenants.toml\" }\n\
         nats = { servers = [\"nats://127.0.0.1:1\"], operator = { keys = \"nats\" } }\n\
         exchange = { listen = \"127.0.0.1:0\", tls = { cert_file = \"tls/tls.pem\", key_file = \
         \"tls/tls.key\" } }\n",
    );
    let service = Service::start(&home);
    let port = service.exchange.as_ref().unwrap().rsplit_once(':').unwrap().1.to_owned();
    home.write("token", &home.token("acme", &["--device", "cam-1"]));
    let ask = |host: &str, ca: &str| {
        let url = format!("https://{host}:{port}");
        let args = ["creds", "issue", "--token-file", "token", "--exchange", &url, "--ca-file", ca];
        home.run(args)
    };
    for host in ["localhost", "127.0.0.1"] {
        ask(host, "tls/ca.pem").ok();
        ask(host, "other/ca.pem").failed(1).says(&["certificate"]);
    }
}
