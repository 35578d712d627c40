//! Clients of NATS's Python library, its JetStream, and every listener a server has besides its
//! own protocol's.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

#[path = "../python/script.rs"]
mod script;

use bulkhead_policy::JetStreamQuota;
use bulkhead_tests::{Actor, Stack, Token, eventually_async};
use script::Script;
use serde_json::{Value, json};

const JETSTREAM: &str = "jetstream { max_mem: 64MB, max_file: 64MB }";

const QUOTA: JetStreamQuota =
    JetStreamQuota { memory_bytes: 0, storage_bytes: 8 << 20, streams: 20, consumers: 20 };

/// Runs a program to its end.
async fn run(stack: &Stack, program: &str, input: &Value) -> Value {
    Script::start(stack.folder(), program, program, input).await.result().await
}

fn member(stack: &Stack, tenant: &str) -> String {
    stack.token(&Token::role(tenant, "member"))
}

/// What the server says of a tenant's JetStream.
async fn jetstream_info(actor: &Actor) -> Value {
    let answer = actor.client.request("$JS.API.INFO", "".into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

/// Gives a tenant JetStream and waits until it has it.
async fn grant_jetstream(stack: &Stack, tenant: &str, quota: JetStreamQuota) {
    stack.change(tenant, |t| t.quotas.jetstream = Some(quota)).await;
    let actor = Actor::connect(stack.url(), &member(stack, tenant)).await;
    eventually_async(&format!("{tenant} has JetStream"), async || {
        jetstream_info(&actor).await["limits"]["max_streams"] == quota.streams
    })
    .await;
}

#[tokio::test]
async fn every_carrier_of_nats_py_leads_to_the_own_tenant_only() {
    let stack = Stack::new().start().await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    let file: Value = reqwest::Client::new()
        .post(stack.exchange_url())
        .bearer_auth(&token)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let input = json!({
        "url": stack.url(),
        "token": token,
        "credentials": {"jwt": file["nats"]["jwt"], "nkey_seed": file["nats"]["nkey_seed"]},
        "globex": member(&stack, "globex"),
    });
    let results = run(&stack, "carriers.py", &input).await;
    assert_eq!(results.as_object().unwrap().len(), 5);
    println!("{results:#}");
}

#[tokio::test]
async fn a_tenant_with_a_quota_uses_jetstream_and_one_without_cannot() {
    let stack = Stack::new().server_config(JETSTREAM).start().await;
    grant_jetstream(&stack, "acme", QUOTA).await;
    for tenant in ["acme", "globex"] {
        let input = json!({"url": stack.url(), "tenant": tenant, "token": member(&stack, tenant)});
        let r = run(&stack, "jetstream_use.py", &input).await;
        println!("{r:#}");
    }
}

#[tokio::test]
async fn the_quota_of_jetstream_is_a_limit() {
    let stack = Stack::new().server_config(JETSTREAM).start().await;
    let quota = JetStreamQuota { storage_bytes: 1 << 20, streams: 2, consumers: 1, ..QUOTA };
    grant_jetstream(&stack, "acme", quota).await;
    let input = json!({"url": stack.url(), "tenant": "acme", "token": member(&stack, "acme")});
    let r = run(&stack, "jetstream_limits.py", &input).await;
    println!("{r:#}");
}

#[tokio::test]
async fn jetstream_does_not_reach_into_another_tenant() {
    let stack = Stack::new().server_config(JETSTREAM).start().await;
    grant_jetstream(&stack, "acme", QUOTA).await;
    grant_jetstream(&stack, "globex", QUOTA).await;
    let input = json!({"url": stack.url(), "acme": member(&stack, "acme"), "globex": member(&stack, "globex")});
    let r = run(&stack, "jetstream_across.py", &input).await;
    println!("{r:#}");
}

fn mqtt_connect(port: u16, user: &str, password: &str) -> (std::net::TcpStream, Vec<u8>) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    let mut body = Vec::new();
    let field = |body: &mut Vec<u8>, bytes: &[u8]| {
        body.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        body.extend(bytes);
    };
    field(&mut body, b"MQTT");
    body.extend([4, 0b1100_0010, 0, 60]);
    field(&mut body, b"client");
    field(&mut body, user.as_bytes());
    field(&mut body, password.as_bytes());
    let mut packet = vec![0x10];
    let mut n = body.len();
    while n >= 128 { packet.push((n % 128) as u8 | 0x80); n /= 128; }
    packet.push(n as u8);
    packet.extend(body);
    stream.write_all(&packet).unwrap();
    let mut buf = vec![0; 100];
    let n = stream.read(&mut buf).unwrap();
    buf.truncate(n);
    (stream, buf)
}

#[tokio::test]
async fn mqtt_probe() {
    let port = bulkhead_devkit::free_port().unwrap();
    for types in ["\"standard\"", "\"standard\", \"mqtt\""] {
    let mut stack = Stack::new().server_config(JETSTREAM).server_config(&format!("mqtt {{ listen: \"127.0.0.1:{port}\" }}"))
        .nats(&format!("connection_types = [{types}]")).start().await;
    grant_jetstream(&stack, "acme", QUOTA).await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    let t = token.clone();
    let answer = tokio::task::spawn_blocking(move || mqtt_connect(port, "anybody", &t).1).await.unwrap();
    println!("{types} {answer:?}");
    println!("{}", stack.servers()[0].log());
    println!("{:?}", stack.audit().last());
    }
}
