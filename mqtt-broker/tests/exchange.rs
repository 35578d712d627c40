//! The broker's own process has the exchange where NATS, whose service has it otherwise, is not
//! configured.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use bulkhead_devkit::Server;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const WITHIN: Duration = Duration::from_secs(30);

const SECRET: &str = "a secret of at least thirty-two bytes for tests";

/// Starts the broker with an exchange at this address, and says its MQTT address.
fn start(folder: &Path, exchange: SocketAddr, more: &str) -> Server {
    std::fs::write(folder.join("secret"), SECRET).unwrap();
    std::fs::write(folder.join("tenants.toml"), "[tenants.acme]\n").unwrap();
    let config = format!(
        "dev = true\n\
         directory.file = \"tenants.toml\"\n\
         admin.listen = \"127.0.0.1:0\"\n\
         exchange = {{ listen = \"{exchange}\", keys = \"exchange\" }}\n\
         mqtt = {{ listeners = [\"tcp://127.0.0.1:0\"], device_urls = [\"mqtt://b:1883\"] }}\n\
         {more}\n\
         [[issuers]]\n\
         name = \"dev\"\n\
         issuer = \"dev\"\n\
         audiences = [\"bulkhead\"]\n\
         algorithms = [\"HS256\"]\n\
         keys.secret_file = \"secret\"\n\
         tenants = [\"acme\"]\n"
    );
    std::fs::write(folder.join("bulkhead.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead-mqtt-broker"));
    command.arg(folder.join("bulkhead.toml"));
    Server::spawn("broker", command, folder).unwrap()
}

fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], bulkhead_devkit::free_port().unwrap()))
}

fn token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "dev", "aud": "bulkhead", "exp": now + 3600, "tenant": "acme", "device": "cam-1",
    });
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

/// Asks for credentials over a connection of its own.
fn ask(mut stream: TcpStream) -> String {
    let token = token();
    let request = format!(
        "POST /v1/credentials HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Connection: close\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_issues_credentials_for_mqtt() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = free_address();
    let server = start(folder.path(), exchange, "");
    let stream = server.wait_until(WITHIN, || TcpStream::connect(exchange).ok()).unwrap();
    let answer = ask(stream);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    let file: Value = serde_json::from_str(body).unwrap();
    assert_eq!(file["mqtt"]["urls"], json!(["mqtt://b:1883"]));
    assert!(file["mqtt"]["credentials"]["password"].is_string());
}

#[test]
fn it_leaves_that_to_the_service_of_nats() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = free_address();
    let nats = "nats = { servers = [\"nats://127.0.0.1:1\"], operator = { keys = \"nats\" } }";
    // It makes no keys, so it has to be given the public ones.
    let server = start(folder.path(), exchange, nats);
    let failed = || server.log().contains("tokens.jwks.json").then_some(());
    server.wait_until(WITHIN, failed).unwrap();
    assert!(!folder.path().join("exchange").exists());
    assert!(TcpStream::connect(exchange).is_err());
}
