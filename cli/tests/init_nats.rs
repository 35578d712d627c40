//! `bulkhead init nats`: keys and a server configuration for operator mode.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use bulkhead_devkit::{NatsServer, Tools};
use common::{Home, secrets};

#[test]
fn everything_secret_is_readable_by_its_owner_alone() {
    let home = Home::empty();
    let ran = home.run(["--json", "init", "nats", "--dir", "keys"]).ok();
    assert_eq!(home.mode("keys"), 0o700);
    let names = home.names_in("keys");
    for name in ["keyring.json", "nats-server.conf", "operator.seed", "system.creds"] {
        assert!(names.iter().any(|found| found == name), "{name} is not among {names:?}");
    }
    for name in &names {
        assert_eq!(home.mode(&format!("keys/{name}")), 0o600, "{name}");
    }
    let made = ran.json();
    for (field, path) in [
        ("keys", "keys"),
        ("server_config", "keys/nats-server.conf"),
        ("operator_seed", "keys/operator.seed"),
        ("system_credentials", "keys/system.creds"),
        ("registry_credentials", "keys/registry.creds"),
    ] {
        assert_eq!(made[field], path, "{made}");
    }
    assert_eq!(secrets::in_text(&ran.stdout), None, "where the secrets are is all that is said");
    assert!(secrets::in_text(&home.read("keys/operator.seed")).is_some());
}

#[test]
fn keys_are_never_overwritten() {
    let home = Home::empty();
    home.run(["init", "nats"]).ok();
    let before: Vec<_> =
        home.names_in("nats").iter().map(|name| home.read(&format!("nats/{name}"))).collect();
    let again = home.run(["init", "nats"]).failed(1);
    again.says(&["nats/keyring.json exists", "never overwritten", "bulkhead nats rotate"]);
    let after: Vec<_> =
        home.names_in("nats").iter().map(|name| home.read(&format!("nats/{name}"))).collect();
    assert!(before == after, "a file was changed");

    // What is left when somebody took the keyring away is still not overwritten.
    std::fs::remove_file(home.path("nats/keyring.json")).unwrap();
    home.run(["init", "nats"]).failed(1).says(&["nats/operator.seed exists"]);
}

#[test]
fn the_server_accepts_what_was_written() {
    let home = Home::empty();
    home.run(["init", "nats", "--listen", "127.0.0.1:4999"]).ok();
    let text = home.read("nats/nats-server.conf");
    assert!(text.contains("\nlisten: 127.0.0.1:4999\n"), "{text}");
    let binary = Tools::open().unwrap().nats_server().unwrap();
    let server = NatsServer::start(&binary, &home.path("nats"), &text).unwrap();
    let log = server.log();
    assert!(log.contains("Trusted Operators") && log.contains("Server is ready"), "{log}");
    for complaint in ["[ERR]", "[WRN]", "[FTL]"] {
        assert!(!log.contains(complaint), "{log}");
    }
    assert_eq!(secrets::in_text(&log), None);
}

#[test]
fn what_to_do_next_is_said_so_that_it_works() {
    for (config, dir, keys) in [
        ("bulkhead.toml", "nats", "\"nats\""),
        ("bulkhead.toml", "keys/nats", "\"keys/nats\""),
        ("etc/bulkhead.toml", "etc/nats", "\"nats\""),
    ] {
        let home = Home::empty();
        std::fs::create_dir(home.path("etc")).unwrap();
        let init = ["--config", config, "init", "nats", "--dir", dir, "--listen", "[::1]:4222"];
        let step = format!(
            "append to {config}:\n\n[nats]\nservers = [\"nats://[::1]:4222\"]\noperator = {{ keys = \
             {keys} }}\n"
        );
        home.run(init).ok().says(&["offline", "nats-server -c nats-server.conf", &step]);
    }
    // Done as it says, it holds.
    let home = Home::new();
    let ran = home.run(["init", "nats", "--dir", "deep/down"]).ok();
    let (_, lines) = ran.stdout.split_once("3. append to bulkhead.toml:\n").unwrap();
    let (lines, _) = lines.split_once("4. ").unwrap();
    home.configure("directory = { file = \"t.toml\" }");
    let before = home.read("bulkhead.toml");
    home.write("bulkhead.toml", &format!("{before}\n{lines}"));
    home.run(["check"]).ok().says(&["ok    nats: operator mode"]);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let home = Home::empty();
    home.write("file", "");
    let ran = home.run(["init", "nats", "--dir", "file/nats"]).failed(1);
    ran.says(&["file/nats", "check the path"]);
}

#[test]
fn an_address_cannot_bring_settings_of_its_own() {
    let home = Home::empty();
    for listen in ["0.0.0.0:1\nno_auth_user: x", "a b:1", "{}:1", ":4222", "host:70000", "$X:1"] {
        let ran = home.run(["init", "nats", "--listen", listen]).failed(2);
        ran.says(&["host:port"]);
    }
    assert!(!home.exists("nats"));
}
