//! `bulkhead serve`: it starts, says where it is, and ends in order.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use bulkhead_devkit::free_port;
use common::service::Service;
use common::{Home, Ran, WITHIN};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What `GET <path>` answers, or nothing while nobody listens.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < WITHIN, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn terminate(child: &Child) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
}

#[test]
fn it_is_healthy_and_ready_and_counts_its_tenants() {
    let home = Home::of(&["acme"]);
    let service = Service::start(&home);
    assert!(service.exchange.is_none(), "what is not configured is not served");
    assert!(get(&service.admin, "/healthz").unwrap().starts_with("HTTP/1.1 200"));
    eventually("it is ready", || get(&service.admin, "/readyz").unwrap().contains(" 200 "));
    let tenants = |n: usize| {
        let line = format!("\nbulkhead_directory_tenants {n}\n");
        eventually(&line, || get(&service.admin, "/metrics").unwrap().contains(&line));
    };
    tenants(1);
    // A change of the directory needs no word to the service.
    home.run(["tenant", "create", "globex"]).ok();
    tenants(2);
}

#[test]
fn it_ends_in_order_when_asked_to() {
    let home = Home::of(&["acme"]);
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let mut command = home.command(["serve"]);
    command.env("BULKHEAD__ADMIN__LISTEN", &address);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("it serves", || get(&address, "/healthz").is_some());
    terminate(&child);
    let ran = Ran::of("serve".to_owned(), child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{ran}");
    let ran = ran.says(&["serving"]);
    assert!(!ran.stderr.contains("did not end in time"), "{ran}");
    assert!(!ran.stderr.contains('\u{1b}'), "colours are for terminals: {ran:?}");
}

/// `bulkhead serve 2>&1 | head -1` serves on.
#[test]
fn nobody_reading_its_log_does_not_end_it() {
    let home = Home::of(&["acme"]);
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = home.command(["serve"]);
    command.env("BULKHEAD__ADMIN__LISTEN", &address);
    let mut child = command.stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    eventually("it is ready", || {
        get(&address, "/readyz").is_some_and(|answer| answer.contains(" 200 "))
    });
    // Something to log: a configuration that cannot be used.
    home.write("tenants.toml", "[tenants");
    eventually("it has found out", || {
        get(&address, "/metrics")
            .unwrap()
            .contains("bulkhead_directory_errors_total{kind=\"content\"}")
    });
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_address_that_is_taken_is_named_with_its_setting() {
    let home = Home::of(&["acme"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = home.command(["serve"]);
    command.env("BULKHEAD__ADMIN__LISTEN", &address);
    let ran = Ran::from(command).failed(1);
    ran.says(&["admin.listen", &address, "choose another port, or stop what uses it"]);
}

#[test]
fn what_is_wrong_with_the_configuration_is_said_as_the_check_says_it() {
    let home = Home::with_nats(&["acme"]);
    let config = home.read("bulkhead.toml");
    let serve = |says: &[&str]| drop(home.run(["serve"]).failed(1).says(says));
    home.write("bulkhead.toml", &format!("log = {{ filter = \"a=loud\" }}\n{config}"));
    serve(&["log.filter", "write a level, such as \"info\""]);
    home.write("bulkhead.toml", &format!("lgo = 1\n{config}"));
    serve(&["bulkhead.toml:1:1", "lgo", "`log`"]);
    home.write("bulkhead.toml", &config);
    std::fs::remove_file(home.path("nats/keyring.json")).unwrap();
    serve(&["nats.operator.keys", "nats/keyring.json", "bulkhead init nats"]);
    std::fs::remove_file(home.path("issuer.jwks.json")).unwrap();
    serve(&["issuer 'corp'", "issuer.jwks.json"]);
}
