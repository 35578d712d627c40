//! What the command says about itself, and about what was typed wrong.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use common::Home;

/// Every command, and what its help has to mention.
const COMMANDS: &[(&str, &[&str])] = &[
    ("", &["tenant", "token", "Exit codes: 0 done, 1 failed, 2 typed wrong, 3"]),
    ("dev", &["isolation", "--once", "--dir"]),
    ("init", &["configuration", "nats", "exchange", "issuer", "tls"]),
    ("init nats", &["Operator", "server configuration", "--dir", "--listen"]),
    ("init exchange", &["keys", "credentials for MQTT", "--dir"]),
    ("init issuer", &["Ed25519", "JWKS", "--dir", "--name", "--jwks"]),
    ("init tls", &["TLS", "30 days", "--host", "--client", "--common-name", "--ca", "--ca-key"]),
    ("check", &["configuration"]),
    ("serve", &["services"]),
    ("ready", &["ready", "3", "--service", "--timeout"]),
    ("tenant", &["create", "list", "show", "suspend", "resume", "delete", "quota"]),
    ("tenant create", &["Add a tenant", "--connections", "N|none"]),
    ("tenant list", &["List"]),
    ("tenant show", &["Show"]),
    ("tenant suspend", &["Cut a tenant off"]),
    ("tenant resume", &["again"]),
    ("tenant delete", &["Remove", "--yes"]),
    ("tenant quota", &["limits", "--jetstream-streams", "N|none"]),
    ("device", &["revoke", "restore"]),
    ("device revoke", &["Cut a device off", "--tenant"]),
    ("device restore", &["again", "--tenant"]),
    ("devices", &["list", "watch"]),
    ("devices list", &["who is present", "--url", "--token-file", "--tenant"]),
    ("devices watch", &["as it happens", "--url", "--token-file", "--tenant"]),
    ("token", &["mint", "inspect", "revoke"]),
    ("token mint", &["Sign a token", "--ttl", "Ed25519", "--service", "--iss", "--out"]),
    ("token inspect", &["would be accepted", "standard input"]),
    ("token revoke", &["Revoke", "jti", "--issued-before", "now"]),
    ("creds", &["issue"]),
    ("creds issue", &["credentials file", "--exchange", "--token-file", "--out"]),
    ("exchange", &["rotate"]),
    ("exchange rotate", &["new keys", "--dir", "--client-ca-file", "--exchange-jwks-file"]),
    ("nats", &["rotate"]),
    ("nats rotate", &["new key", "issuer", "tenants", "xkey"]),
    ("audit", &["verify"]),
    ("audit verify", &["hash chain", "3"]),
    ("verify", &["two tenants", "--example", "1 a leak was found", "3 some row could not be told"]),
];

#[test]
fn every_command_says_what_it_does() {
    let home = Home::empty();
    for (command, mentions) in COMMANDS {
        let help = home.run(command.split_whitespace().chain(["--help"])).ok();
        help.says(&["Usage: bulkhead", "--config", "BULKHEAD_CONFIG", "--json"]).says(mentions);
    }
    assert!(home.names_in(".").is_empty(), "asking for help leaves nothing behind");
}

#[test]
fn no_command_is_forgotten_here() {
    let home = Home::empty();
    let mut listed = vec![String::new()];
    let mut at = 0;
    while let Some(command) = listed.get(at).cloned() {
        let help = home.run(command.split_whitespace().chain(["--help"])).ok().stdout;
        let names = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        for line in names.take_while(|line| !line.is_empty()) {
            // A long description goes on below, further to the right.
            let name = line.strip_prefix("  ").and_then(|line| line.split(' ').next()).unwrap();
            if !name.is_empty() && name != "help" {
                listed.push(format!("{command} {name}").trim().to_owned());
            }
        }
        at += 1;
    }
    let mut known: Vec<_> = COMMANDS.iter().map(|(command, _)| (*command).to_owned()).collect();
    known.sort();
    listed.sort();
    assert_eq!(listed, known);
}

#[test]
fn the_version_is_said_everywhere() {
    let home = Home::empty();
    for command in ["", "tenant", "tenant create", "dev"] {
        let ran = home.run(command.split_whitespace().chain(["--version"])).ok();
        ran.says(&[env!("CARGO_PKG_VERSION")]);
    }
}

#[test]
fn what_is_typed_wrong_ends_with_2_and_says_what() {
    let home = Home::of(&["acme"]);
    for (typed, mentions) in [
        ("", "Usage: bulkhead"),
        ("tenant", "Usage: bulkhead tenant"),
        ("tennant list", "'tenant'"),
        ("tenant create", "<TENANT>"),
        ("tenant list --jsn", "'--json'"),
        ("tenant quota acme --connections many", "--connections"),
        ("tenant quota acme --connections=-1", "neither a number nor `none`"),
        ("tenant quota acme --connections 99999999999999999999", "neither a number nor"),
        ("tenant quota acme --connections 18446744073709551615", "is more than"),
        ("tenant quota acme --jetstream-consumers 3", "--jetstream-streams"),
        ("device revoke cam-1", "--tenant"),
        ("token mint --tenant acme", "--key"),
        ("token mint --key issuer.pem", "--tenant"),
        ("token mint --key issuer.pem --service registry --tenant acme", "cannot be used with"),
        ("token mint --key issuer.pem --service=", "--service"),
        ("token mint --key k --tenant acme --iss x --issuer y", "cannot be used with"),
        ("token mint --key k --tenant acme --aud y", "--iss"),
        ("init tls", "--host"),
        ("init tls --host a --name ../tls", "the folder is --dir"),
        ("init issuer --name a/b", "the folder is --dir"),
        ("exchange rotate all", "unexpected argument"),
        ("ready --timeout soon", "--timeout"),
        ("token mint --tenant acme --key issuer.pem --ttl 3600", "--ttl"),
        ("token revoke --tenant acme", "<ID>"),
        ("token revoke --tenant acme --issued-before yesterday", "2026-01-31T12:00:00Z"),
        ("token revoke --tenant acme id --issued-before now", "cannot be used with"),
        ("creds issue --tenant acme", "--device"),
        ("creds issue --exchange https://x", "--token-file"),
        ("creds issue --tenant acme --exchange https://x --token-file t", "cannot be used with"),
        ("creds issue --tenant acme --device cam-1 --backend carrier-pigeon", "nats"),
        ("nats rotate everything", "issuer, tenants, xkey"),
        ("verify", "<DEPLOYMENT>"),
        ("verify --example deployment.toml", "cannot be used with"),
        ("init nats --listen 4222", "host:port, such as 127.0.0.1:4222"),
    ] {
        home.run(typed.split_whitespace()).failed(2).says(&[mentions]);
    }
}
