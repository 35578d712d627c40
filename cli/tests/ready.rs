//! `bulkhead ready`: what a health check asks.

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
use std::net::TcpListener;
use std::time::Instant;

/// Asks, with the admin port at this address.
fn ready(home: &Home, address: &str, args: &[&str]) -> Ran {
    let mut command = home.command(args.iter().chain(&["ready"]));
    command.env("BULKHEAD__ADMIN__LISTEN", address);
    Ran::from(command)
}

/// Asks until the outcome is this.
fn until(home: &Home, address: &str, code: i32) -> Ran {
    let started = Instant::now();
    loop {
        let ran = ready(home, address, &[]);
        if ran.code == Some(code) {
            return ran;
        }
        assert!(started.elapsed() < WITHIN, "in vain: {ran}");
    }
}

#[test]
fn it_says_whether_a_service_is_ready_and_what_it_waits_for() {
    let home = Home::of(&["acme"]);
    let config = home.read("bulkhead.toml");
    let service = Service::start(&home);
    assert_eq!(until(&home, &service.admin, 0).ok().stdout, "ready\n");
    let said = ready(&home, &service.admin, &["--json"]).ok().json();
    assert_eq!(said, serde_json::json!({"ready": true, "missing": []}));
    drop(service);

    let port = free_port().unwrap();
    home.write(
        "bulkhead.toml",
        &config.replace(
            "keys.jwks_file = \"issuer.jwks.json\"",
            &format!("keys.jwks_url = \"http://127.0.0.1:{port}/\""),
        ),
    );
    let service = Service::start(&home);
    let ran = ready(&home, &service.admin, &[]).found();
    assert_eq!(ran.stdout, "not ready\nmissing: issuer keys\n");
    assert_eq!(
        ready(&home, &service.admin, &["--json"]).found().json()["missing"][0],
        "issuer keys"
    );
}

#[test]
fn what_is_missing_is_for_who_has_the_token() {
    let home = Home::of(&["acme"]);
    home.write("admin.token", "a token of some length");
    let config = home.read("bulkhead.toml").replace(
        "keys.jwks_file = \"issuer.jwks.json\"",
        &format!("keys.jwks_url = \"http://127.0.0.1:{}/\"", free_port().unwrap()),
    );
    let guarded = config.replace("admin = {", "admin = { token_file = \"admin.token\", ");
    home.write("bulkhead.toml", &guarded);
    let service = Service::start(&home);
    assert_eq!(
        ready(&home, &service.admin, &[]).found().stdout,
        "not ready\nmissing: issuer keys\n"
    );
    std::fs::remove_file(home.path("admin.token")).unwrap();
    assert_eq!(ready(&home, &service.admin, &[]).found().stdout, "not ready\n");
}

#[test]
fn a_service_elsewhere_is_asked_by_its_name() {
    let home = Home::of(&["acme"]);
    let service = Service::start(&home);
    until(&home, &service.admin, 0);
    let (_, port) = service.admin.rsplit_once(':').unwrap();
    // Where this configuration says, nobody is.
    let nobody = format!("127.0.0.1:{}", free_port().unwrap());
    let ask = |name: &str| {
        let mut command = home.command(["ready", "--service", name]);
        command.env("BULKHEAD__ADMIN__LISTEN", &nobody);
        Ran::from(command)
    };
    assert_eq!(ask(&format!("localhost:{port}")).ok().stdout, "ready\n");
    ask("localhost").failed(1).says(&["cannot be asked"]);
    ask("no/host").failed(1).says(&["--service"]);
}

#[test]
fn nobody_there_or_somebody_else_is_a_failure() {
    let home = Home::of(&[]);
    let nobody = format!("127.0.0.1:{}", free_port().unwrap());
    ready(&home, &nobody, &[]).failed(1).says(&[&nobody, "cannot be asked", "admin.listen"]);
    ready(&home, "127.0.0.1:0", &[]).failed(1).says(&["admin.listen has port 0"]);
    home.run(["ready", "--timeout", "0s"]).failed(1).says(&["--timeout"]);
    Home::empty().run(["ready"]).failed(1).says(&["bulkhead.toml"]);

    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    // It is connected to, and says nothing.
    let mut command = home.command(["ready", "--timeout", "200ms"]);
    command.env("BULKHEAD__ADMIN__LISTEN", &address);
    Ran::from(command).failed(1).says(&["cannot be asked"]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for stream in other.incoming().take(2) {
                let mut stream = stream.unwrap();
                // The one of before has gone.
                if matches!(stream.read(&mut [0; 1024]), Ok(n) if n > 0) {
                    let _ = stream.write_all(
                        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                    );
                }
            }
        });
        ready(&home, &address, &[]).failed(1).says(&["404", "as no service does"]);
    });
}
