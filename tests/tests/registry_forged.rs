//! Who asks the registry over NATS is what the server says, whatever a client writes into its headers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use async_nats::ConnectOptions;
use bulkhead_control::identity::Session;
use bulkhead_devkit::Server;
use bulkhead_policy::{Principal, Scope};
use bulkhead_tests::registry::{Party, one_account, registration};
use bulkhead_tests::{Actor, Stack, Token};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::process::Command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_replica");

/// A connection on which bytes are sent as they are.
struct Raw {
    stream: TcpStream,
    heard: String,
    asked: usize,
}

impl Raw {
    async fn connect(stack: &Stack, token: &Token) -> Self {
        let address = stack.url().trim_start_matches("nats://").to_owned();
        let stream = TcpStream::connect(address).await.unwrap();
        let mut raw = Self { stream, heard: String::new(), asked: 0 };
        let token = stack.token(token);
        let options =
            json!({"auth_token": token, "headers": true, "verbose": false, "pedantic": false});
        raw.say(&format!("CONNECT {options}\r\nSUB _INBOX.raw.* 1\r\nPING\r\n")).await;
        raw.hear("PONG").await;
        raw
    }

    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Everything until there is this text.
    async fn hear(&mut self, wanted: &str) -> String {
        while !self.heard.contains(wanted) {
            let mut part = [0; 4096];
            let read = timeout(bulkhead_tests::WITHIN, self.stream.read(&mut part));
            let n = read.await.expect("an answer in time").unwrap();
            assert!(n > 0, "the server closed the connection: {}", self.heard);
            self.heard += &String::from_utf8_lossy(&part[..n]);
        }
        std::mem::take(&mut self.heard)
    }

    /// Asks with these headers, and returns the answer.
    async fn ask(&mut self, subject: &str, headers: &str, request: &Value) -> Value {
        self.asked += 1;
        let (reply, payload) = (format!("_INBOX.raw.{}", self.asked), request.to_string());
        let (len, total) = (headers.len(), headers.len() + payload.len());
        self.say(&format!("HPUB {subject} {reply} {len} {total}\r\n{headers}{payload}\r\n")).await;
        // An answer is one line of JSON.
        let heard = self.hear("}\r\n").await;
        let answer = heard.lines().find(|line| line.starts_with('{'));
        serde_json::from_str(answer.unwrap_or_else(|| panic!("no answer: {heard}"))).unwrap()
    }
}

/// What the server writes of a device, as somebody else writes it.
fn info(device: &str) -> String {
    let principal = Principal {
        scope: Scope::Tenant("acme".parse().unwrap()),
        device: Some(device.parse().unwrap()),
        role: "device".parse().unwrap(),
        issuer: "test".into(),
        token_id: None,
        origin: None,
        issued_at: None,
        expires_at: Timestamp::MAX,
    };
    let user = Session { principal, rights: "00000000000000ff".parse().unwrap() }.name();
    json!({ "user": user }).to_string()
}

#[tokio::test]
async fn whoever_forges_or_hides_who_asks_is_refused() {
    let stack = Stack::new().etcd().registry("").start().await;
    let victim = Party::device(&stack, "acme", "cam-1").await;
    let console = Party::role(&stack, "acme", "member").await;
    victim.register("cam-1", |_| {}).await;
    let before = console.get("cam-1").await;
    let mut attacker = Raw::connect(&stack, &Token::device("acme", "cam-2")).await;
    let forged = info("cam-1");
    let mut takeover = registration("cam-1");
    takeover["params"]["identity"]["device_type"] = json!("mine");
    let question = json!({"id": 1, "method": "discovery/listDevices", "params": {}});
    for headers in [
        // A line that ends for the client library alone is a header that the server has not seen.
        format!("NATS/1.0\r\nX: a\nNats-Request-Info: {forged}\r\n\r\n"),
        // Of a block that does not end, the server's own line is the rest.
        "NATS/1.0\r\nX: a??".to_owned(),
        format!("NATS/1.0\r\nX: a\nNats-Request-Info: {forged}\nY: b??"),
        format!("NATS/1.0\r\nX: a\nNats-Request-Info: {forged}\nY??"),
        format!("NATS/1.0\r\nX: a\nNats-Request-Info: {forged}\n ??"),
        "NATS/1.0 200 a??".to_owned(),
    ] {
        let refused = attacker.ask("device-connect.acme.registry", &headers, &takeover).await;
        assert_eq!(refused["error"]["code"], -32602, "{headers:?}: {refused}");
        let refused = attacker.ask("device-connect.acme.discovery", &headers, &question).await;
        assert_eq!(refused["error"]["code"], -32602, "{headers:?}: {refused}");
        assert_eq!(console.get("cam-1").await, before, "{headers:?}");
    }
    let audit = stack.audit();
    let denied =
        audit.iter().filter(|record| record["detail"].to_string().contains("cannot be told"));
    assert!(denied.count() > 0, "it is written down");

    // With headers of its own, a device does what it may.
    let own = "NATS/1.0\r\nX: a\r\nNats-Msg-Id: 7\r\n\r\n";
    let answer = attacker.ask("device-connect.acme.registry", own, &registration("cam-2")).await;
    assert_eq!(answer["result"]["status"], "registered", "{answer}");
    let answer = attacker.ask("device-connect.acme.discovery", own, &question).await;
    assert_eq!(answer["result"]["devices"].as_array().unwrap().len(), 2, "{answer}");
    let refused = attacker.ask("device-connect.acme.registry", own, &takeover).await;
    assert!(refused["error"]["message"].to_string().contains("may not speak for"), "{refused}");
    assert_eq!(console.get("cam-1").await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_one_account_nobody_is_answered_where_it_may_not_speak_itself() {
    let stack = Stack::new().etcd().start().await;
    // The registry's credentials are nobody's here.
    let server = one_account(&stack, "no_auth_user: registry").await;
    // The configuration of a replica, but for where NATS is.
    let elsewhere = stack.registry_replica(PROGRAM, "elsewhere").await;
    let text = std::fs::read_to_string(stack.folder().join("registry-elsewhere.toml")).unwrap();
    elsewhere.kill().unwrap();
    let path = stack.folder().join("registry-shared.toml");
    std::fs::write(&path, text.replace(stack.url(), server.client_url())).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--config"]).arg(&path);
    command.env("BULKHEAD__AUDIT__PATH", stack.folder().join("audit-shared.jsonl"));
    let _registry = Server::spawn("shared", command, stack.folder()).unwrap();
    let member = async |tenant: &str| {
        let options = ConnectOptions::with_user_and_password(tenant.to_owned(), tenant.to_owned());
        let actor = Actor::try_connect(server.client_url(), options).await.unwrap();
        Party { tenant: tenant.to_owned(), actor }
    };
    let (attacker, victim) = (member("acme").await, member("globex").await);
    let answer = attacker.register("cam-1", |_| {}).await;
    assert_eq!(answer["result"]["status"], "registered", "an inbox is answered: {answer}");
    let mut commands = victim.actor.subscribe("device-connect.globex.*.cmd").await;
    let request = registration("cam-1").to_string();
    let client = &attacker.actor.client;
    let (name, elsewhere) = ("device-connect.acme.registry", "device-connect.globex.lock-1.cmd");
    client.publish_with_reply(name, elsewhere, request.into()).await.unwrap();
    // What is asked later is answered, so that was not.
    attacker.register("cam-2", |_| {}).await;
    victim.register("lock-1", |_| {}).await;
    bulkhead_tests::nothing(&mut commands).await;
    assert_eq!(attacker.devices().await, ["cam-1", "cam-2"]);
}
