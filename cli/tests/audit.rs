//! `bulkhead audit verify`: whatever was done to the log is found.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use common::service::Service;
use common::{Home, Ran};
use serde_json::json;

/// The log that the command line writes.
const LOG: &str = "audit.jsonl.cli";

/// A folder with four records.
fn home() -> Home {
    let home = Home::with_nats(&["acme"]);
    for n in 0..4 {
        issue(&home, &format!("cam-{n}")).ok();
    }
    home
}

fn issue(home: &Home, device: &str) -> Ran {
    home.run(["creds", "issue", "--tenant", "acme", "--device", device])
}

/// Changes the lines of the log.
fn edit(home: &Home, change: impl FnOnce(&mut Vec<String>)) {
    let mut lines: Vec<String> = home.read(LOG).lines().map(str::to_owned).collect();
    change(&mut lines);
    home.write(LOG, &lines.iter().map(|line| format!("{line}\n")).collect::<String>());
}

#[test]
fn a_log_as_it_was_written_passes() {
    let home = home();
    let ran = home.run(["audit", "verify"]).ok();
    ran.says(&["ok    audit.jsonl.cli: 4 records, head "]);
    let value = home.run(["--json", "audit", "verify"]).ok().json();
    let head = value[0]["head"].as_str().unwrap();
    assert_eq!(value, json!([{"log": LOG, "ok": true, "records": 4, "head": head}]));
    assert_eq!(head.len(), 64);
    assert!(home.read(LOG).contains(head));
    // By name it needs no configuration.
    let elsewhere = Home::empty();
    let path = home.path(LOG);
    elsewhere.run(["audit", "verify", path.to_str().unwrap()]).ok().says(&["4 records"]);
}

#[test]
fn what_was_done_to_it_is_found_and_said_where() {
    type Change = fn(&mut Vec<String>);
    let changes: &[(&str, Change, &[&str])] = &[
        ("an edit", |l| l[1] = l[1].replace("cam-1", "cam-9"), &["line 2", "edited"]),
        ("another time", |l| l[0] = l[0].replacen("T", "T0", 1), &["line 1"]),
        ("a removal", |l| drop(l.remove(1)), &["line 2", "cut or added"]),
        ("a beginning cut off", |l| drop(l.drain(..2)), &["line 1"]),
        ("an insertion", |l| l.insert(2, l[2].clone()), &["line 4"]),
        ("a swap", |l| l.swap(1, 2), &["line 2"]),
        ("an end cut off", |l| l.truncate(2), &["record 2", "4 were written", "cut off"]),
        ("everything cut off", Vec::clear, &["record 0", "4 were written"]),
        ("something else", |l| l[3] = "{}".to_owned(), &["line 4 is not an audit record"]),
        ("half a line", |l| l[3].truncate(40), &["line 4"]),
    ];
    let home = home();
    let written = home.read(LOG);
    for (what, change, says) in changes {
        home.write(LOG, &written);
        edit(&home, change);
        let ran = home.run(["audit", "verify"]).found();
        assert!(ran.stdout.starts_with("FAIL  audit.jsonl.cli: "), "{what}: {ran}");
        let json = home.run(["--json", "audit", "verify"]).found().json();
        assert_eq!((&json[0]["ok"], &json[0]["log"]), (&json!(false), &json!(LOG)), "{what}");
        assert!(ran.stdout.contains(json[0]["error"].as_str().unwrap()), "{what}: {ran}");
        ran.says(says);
    }
}

#[test]
fn a_log_without_its_head_or_a_head_without_its_log_is_found() {
    let home = home();
    let head = format!("{LOG}.head");
    let kept = home.read(&head);
    std::fs::remove_file(home.path(&head)).unwrap();
    home.run(["audit", "verify"]).found().says(&["audit.jsonl.cli.head is missing"]);

    home.write(&head, &kept);
    std::fs::remove_file(home.path(LOG)).unwrap();
    home.run(["audit", "verify"]).found().says(&["FAIL  audit.jsonl.cli: ", "gone", &head]);
    home.run(["audit", "verify", LOG]).found().says(&["gone"]);
}

#[test]
fn a_broken_log_is_not_continued() {
    let home = home();
    edit(&home, |lines| lines.truncate(2));
    let cut = home.read(LOG);
    let ran = issue(&home, "cam-9").failed(1);
    ran.says(&["audit log audit.jsonl.cli: ", "cut off", "move it and audit.jsonl.cli.head away"]);
    assert_eq!(home.read(LOG), cut);
    for name in [LOG.to_owned(), format!("{LOG}.head")] {
        std::fs::rename(home.path(&name), home.path(&format!("old-{name}"))).unwrap();
    }
    issue(&home, "cam-9").ok();
    home.run(["audit", "verify"]).ok().says(&["1 records"]);
}

#[test]
fn before_anything_was_written_that_is_said() {
    let home = Home::with_nats(&["acme"]);
    home.run(["audit", "verify"]).ok().says(&["nothing was written down yet"]);
    assert_eq!(home.run(["--json", "audit", "verify"]).ok().json(), json!([]));
}

#[test]
fn a_log_that_cannot_be_read_is_named() {
    let home = Home::of(&["acme"]);
    home.run(["audit", "verify"]).failed(1).says(&["audit.path", "name the log"]);
    home.run(["audit", "verify", "nowhere"])
        .failed(1)
        .says(&["audit log nowhere", "check the path"]);
    home.run(["audit", "verify", "."]).failed(1).says(&["check the path"]);
}

/// The service writes its own log beside, and both are looked at.
#[test]
fn the_log_of_a_running_service_is_verified_too() {
    let home = home();
    let config = home.read("bulkhead.toml");
    home.write("bulkhead.toml", &format!("exchange = {{ listen = \"127.0.0.1:0\" }}\n{config}"));
    home.write("token", &home.token("acme", &["--device", "cam-1"]));
    let service = Service::start(&home);
    let ask = ["creds", "issue", "--token-file", "token", "--exchange", &service.url()];
    home.run(ask).ok();
    // Its writer is a moment behind.
    service
        .server
        .wait_until(common::WITHIN, || {
            let ran = home.run(["audit", "verify"]);
            ran.stdout.contains("ok    audit.jsonl: 1 records").then_some(())
        })
        .unwrap();
    home.run(["audit", "verify"]).ok().says(&["ok    audit.jsonl.cli: 4 records"]);
    edit(&home, |lines| lines.truncate(1));
    home.run(["audit", "verify"]).found().says(&["ok    audit.jsonl: ", "FAIL  audit.jsonl.cli: "]);
}
