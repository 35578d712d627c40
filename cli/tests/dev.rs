//! `bulkhead dev`: everything at once, measured by real clients, with a real nats-server.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use bulkhead_devkit::{Server, Tools};
use common::{Home, Ran, WITHIN, secrets};
use serde_json::Value;

/// The lines of the matrix: everything between its header and the empty line below.
fn rows(stdout: &str) -> Vec<&str> {
    let below = stdout.lines().skip_while(|line| !line.starts_with("BACKEND")).skip(1);
    below.take_while(|line| !line.is_empty()).collect()
}

/// That nothing of what was kept has changed.
fn kept(home: &Home) -> Vec<String> {
    ["issuer.pem", "nats/keyring.json", "nats/operator.seed", "tenants.toml"]
        .map(|name| home.read(&format!("d/{name}")))
        .to_vec()
}

#[test]
fn the_matrix_is_printed_and_holds_and_holds_again() {
    // On a new machine `dev` says what it fetches, which is no warning.
    Tools::open().unwrap().nats_server().unwrap();
    let home = Home::empty();
    let once = |more: &[&str]| {
        let ran = home.run(["dev", "--once", "--dir", "d"].iter().chain(more));
        assert_eq!(ran.code, Some(0), "{ran}");
        assert!(ran.stderr.contains("not for anybody's data"), "{ran}");
        assert_eq!(ran.stderr.lines().count(), 1, "nothing to warn of: {ran}");
        ran
    };
    let first = once(&[]);
    let matrix = rows(&first.stdout);
    assert!(matrix.len() >= 6, "{first}");
    assert!(
        matrix.iter().all(|row| row.ends_with("isolated") && row.contains("arrived")),
        "{first}"
    );
    let last = first.stdout.lines().next_back().unwrap();
    assert!(last.starts_with("Every row holds"), "{first}");
    assert!(!first.stdout.contains("Ctrl-C"), "it does not stay up");
    assert_eq!(home.mode("d"), 0o700);
    for name in ["issuer.pem", "bulkhead.toml", "tenants.toml"] {
        assert_eq!(home.mode(&format!("d/{name}")), 0o600, "{name}");
    }
    let before = kept(&home);

    let second = once(&["--json"]).json();
    assert_eq!(kept(&home), before, "keys and tenants stay");
    let rows = second["rows"].as_array().unwrap();
    assert_eq!(rows.len(), matrix.len());
    for row in rows {
        assert_eq!(row["own"], "arrived", "{row}");
        assert_ne!(row["foreign"], "arrived", "{row}");
        assert!(row["row"].as_str().is_some_and(|action| !action.is_empty()), "{row}");
    }
    for backend in ["nats", "mqtt", "zenoh", "registry"] {
        assert!(rows.iter().any(|row| row["backend"] == backend), "{second}");
    }
    for name in home.names_in("d/nats").iter().filter(|name| name.ends_with(".log")) {
        assert_eq!(secrets::in_text(&home.read(&format!("d/nats/{name}"))), None, "{name}");
    }
}

/// What it invites to try is tried.
#[test]
fn it_stays_up_to_be_tried() {
    let home = Home::empty();
    let server = Server::spawn("dev", home.command(["dev", "--dir", "d"]), home.folder()).unwrap();
    server.wait_until(WITHIN, || server.log().contains("Ctrl-C").then_some(())).unwrap();
    let invitation = server.log();
    let config = home.path("d").canonicalize().unwrap().join("bulkhead.toml");
    assert!(invitation.contains(&format!("BULKHEAD_CONFIG={}", config.display())), "{invitation}");
    assert!(!invitation.contains("WARN") && !invitation.contains("ERROR"), "{invitation}");
    let typed = |command: &str| {
        let args: Vec<_> = command.split_whitespace().skip(1).collect();
        let mut command = home.command(args);
        command.env("BULKHEAD_CONFIG", &config);
        Ran::from(command)
    };
    let mut tried = 0;
    for line in invitation.lines().filter_map(|line| line.strip_prefix("  bulkhead ")) {
        let line = format!("bulkhead {}", line.split('#').next().unwrap());
        tried += 1;
        if line.contains("audit verify") {
            // Its writer is a moment behind, or just ahead of whoever reads.
            let intact = || (typed(&line).code == Some(0)).then_some(());
            server.wait_until(WITHIN, intact).unwrap();
            continue;
        }
        let ran = typed(&line).ok();
        if line.contains("token mint") {
            let inspect = format!("bulkhead token inspect {}", ran.stdout.trim());
            typed(&inspect).ok().says(&["verdict accepted: acme/cam-1"]);
        }
    }
    assert!(tried >= 5, "{invitation}");
    let file: Value = serde_json::from_str(&home.read("cam-1.creds.json")).unwrap();
    assert_eq!(file["tenant"], "acme");
    assert_eq!(secrets::in_text(&server.log()), None);

    server.stop().unwrap();
    let log = server.log();
    assert!(!log.contains("panicked") && !log.contains("did not end in time"), "{log}");
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let home = Home::empty();
    home.write("file", "");
    for dir in ["file", "file/d"] {
        let ran = home.run(["dev", "--once", "--dir", dir]);
        assert_eq!(ran.code, Some(1), "{ran}");
        ran.says(&[&format!("bulkhead: {dir}: "), "choose another with --dir"]);
    }
}
