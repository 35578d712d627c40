//! Where the output goes, and what must not go there.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use common::{Home, Ran, secrets};
use std::fs::OpenOptions;
use std::process::Stdio;

/// Something of everything that prints.
const PRINTS: &[&str] = &[
    "--help",
    "tenant list",
    "tenant list --json",
    "tenant show acme",
    "tenant quota acme",
    "tenant suspend acme",
    "device revoke --tenant acme cam-1",
    "check",
    "token mint --tenant acme --key issuer.pem",
    "token inspect -",
    "creds issue --tenant globex --device cam-1",
    "audit verify",
    "nats rotate xkey",
    "init nats --dir more",
];

/// Runs a command whose reader has gone before it begins to write, as `| head -0` does.
fn with_nobody_reading(home: &Home, typed: &str, stdout: bool) -> Ran {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = home.command(typed.split_whitespace());
    let (out, err) = if stdout {
        (Stdio::from(writer), Stdio::piped())
    } else {
        (Stdio::piped(), Stdio::from(writer))
    };
    let child = command.stdout(out).stderr(err).spawn().unwrap();
    Ran::of(typed.to_owned(), child.wait_with_output().unwrap())
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let home = Home::with_nats(&["acme", "globex"]);
    for typed in PRINTS {
        let ran = with_nobody_reading(&home, typed, true);
        match *typed {
            "--help" => assert_eq!(ran.stderr, "", "{ran}"),
            "token inspect -" => drop(ran.failed(1)),
            _ => drop(ran.ok()),
        }
    }
    home.run(["tenant", "show", "acme"]).ok().says(&["suspended", "cam-1"]);
}

#[test]
fn nobody_reading_the_errors_changes_no_exit_code() {
    let home = Home::of(&["acme"]);
    for (typed, code) in
        [("tenant show nobody", 1), ("tenant list", 0), ("tenant nothing", 2), ("check", 0)]
    {
        let ran = with_nobody_reading(&home, typed, false);
        assert_eq!(ran.code, Some(code), "{ran}");
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let home = Home::with_nats(&["acme", "globex"]);
    for typed in PRINTS.iter().skip(1) {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = home.command(typed.split_whitespace());
        let child = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        let ran = Ran::of((*typed).to_owned(), child.wait_with_output().unwrap());
        if *typed != "token inspect -" {
            ran.failed(1).says(&["standard output: ", "No space left"]);
        }
    }
}

/// What scripts read stands alone on standard output.
#[test]
fn json_is_all_that_is_printed_when_asked_for() {
    let home = Home::with_nats(&["acme", "globex"]);
    for typed in PRINTS.iter().skip(1) {
        let mut args: Vec<_> = typed.split_whitespace().collect();
        args.retain(|arg| *arg != "--json");
        let ran = home.run_with(&home.token("acme", &[]), args.iter().chain(&["--json"]));
        if *typed != "token inspect -" {
            assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran}");
        }
        ran.json();
    }
}

/// Every run of these tests is looked through for secrets on standard error: this is what would be
/// found.
#[test]
fn a_secret_would_be_recognised() {
    let home = Home::with_nats(&["acme"]);
    for name in ["issuer.pem", "nats/operator.seed", "nats/keyring.json", "nats/system.creds"] {
        assert!(secrets::in_text(&home.read(name)).is_some(), "{name}");
    }
    let keyring = home.read("nats/keyring.json");
    let seeds: Vec<_> =
        keyring.split('"').filter(|word| secrets::in_text(word).is_some()).collect();
    assert!(seeds.len() >= 8, "only {} seeds of the keyring are recognised", seeds.len());
    assert!(secrets::in_text(&home.token("acme", &[])).is_some());
    assert_eq!(secrets::in_text("bulkhead: there is no tenant 'SUAcme'; see eyJ"), None);
}

/// Even an unusable file is not quoted.
#[test]
fn what_stands_in_a_secret_file_is_never_repeated() {
    let home = Home::with_nats(&["acme"]);
    let keyring = home.read("nats/keyring.json");
    let token = home.token("acme", &["--device", "cam-1"]);
    for text in [
        keyring.replacen("\"value\"", "\"valeu\"", 1),
        keyring.replacen(", ", " ", 1).replacen(',', "", 3),
        keyring.replace("\"from\": \"2", "\"from\": \"x"),
    ] {
        assert_ne!(text, keyring);
        home.write("nats/keyring.json", &text);
        home.run(["check"]).found();
        for typed in ["creds issue --tenant acme --device cam-1", "nats rotate issuer", "serve"] {
            home.run(typed.split_whitespace()).failed(1).says(&["keyring.json"]);
        }
    }
    for name in ["nats/operator.seed", "issuer.pem", "nats/system.creds"] {
        home.run(["--config", name, "check"]).found();
        home.run(["--config", name, "tenant", "list"]).failed(1);
        home.run(["audit", "verify", name]).found();
    }
    home.write("token", &token);
    let ask = ["creds", "issue", "--token-file", "token", "--exchange", "http://127.0.0.1:1"];
    home.run(ask).failed(1);
    home.run(["token", "mint", "--tenant", "acme", "--key", "token"]).failed(1);
}

/// A terminal's colours are for terminals.
#[test]
fn nothing_that_is_not_read_by_a_terminal_has_colours() {
    let home = Home::of(&["acme"]);
    for typed in ["--help", "tenant list", "tenant nothing", "check", "tenant show nobody"] {
        let ran = home.run(typed.split_whitespace());
        assert!(!format!("{ran}").contains('\u{1b}'), "{ran:?}");
    }
}
