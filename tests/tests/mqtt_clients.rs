//! Real clients of the MQTT broker: mosquitto's, those of Python, JavaScript and Rust.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

#[path = "../python/script.rs"]
mod script;

use bulkhead_devkit::Tools;
use bulkhead_tests::mqtt::Client;
use bulkhead_tests::{Stack, Token, Transport, WITHIN, eventually};
use script::Script;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::time::timeout;

const TRANSPORTS: [Transport; 4] = [Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];
const OWN: &str = "device-connect/acme/own";
const FOREIGN: &str = "device-connect/globex/cam-1/cmd";
const FILTERS: [&str; 5] = [
    "device-connect/acme/#",
    "#",
    "device-connect/globex/#",
    "device-connect/+/cam-1/cmd",
    "$share/g/device-connect/globex/#",
];

/// What a program with a client of acme is told.
fn input(stack: &Stack, transport: Transport, version: u8) -> Value {
    json!({
        "transport": transport.to_string(),
        "version": version,
        "port": stack.door(transport).address.port(),
        "certificate": stack.folder().join("mqtt.pem"),
        "client_id": format!("client-{transport}-{version}"),
        "token": stack.token(&Token::role("acme", "member")),
        "filters": FILTERS,
        "own": OWN,
        "foreign": FOREIGN,
    })
}

/// Once a client has subscribed: a secret of the other tenant, then the go-ahead for this one.
async fn secret_and_go(witness: &mut Client, member: &mut Client) {
    witness.published(FOREIGN, "secret").await;
    assert_eq!(witness.payload().await, "secret");
    member.published("device-connect/acme/go", "go").await;
}

/// A client heard the go-ahead and its own messages, and nothing else.
fn heard_its_own(results: &Value) {
    let go = ["device-connect/acme/go", "go"];
    let heard = json!([go, [OWN, "own 0"], [OWN, "own 1"], [OWN, "own 2"]]);
    assert_eq!(results["heard"], heard, "{results:#}");
}

/// Runs a program with a client of each version over each transport, one stack for all.
async fn everywhere(start: impl AsyncFn(&Path, &str, Value) -> Script, qos: u8) -> Vec<Value> {
    let stack = Stack::mqtt().start().await;
    let mut witness = stack.witness("globex").await;
    let mut member = stack.member("acme", "member").await;
    let mut all = Vec::new();
    for (transport, version) in
        TRANSPORTS.into_iter().flat_map(|transport| [(transport, 4), (transport, 5)])
    {
        let name = format!("{transport}-{version}");
        let client = start(stack.folder(), &name, input(&stack, transport, version)).await;
        client.prints("ready").await;
        secret_and_go(&mut witness, &mut member).await;
        let results = client.result().await;
        heard_its_own(&results);
        let refused = if version == 5 { 0x87 } else { 0x80 };
        let granted = json!([qos, refused, refused, refused, refused]);
        assert_eq!(results["granted"], granted, "{name}: {results:#}");
        if version == 4 {
            assert_eq!(results["cut"], json!(true), "{name}: {results:#}");
        }
        all.push(results);
    }
    witness.nothing().await;
    stack.denied("publish_denied").await;
    stack.denied("subscribe_denied").await;
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paho_clients_stay_within_their_tenant() {
    let all = everywhere(
        async |folder, name, input| Script::start(folder, "mqtt_paho.py", name, &input).await,
        2,
    )
    .await;
    for results in all {
        assert_eq!(results["connected"], "Success");
        assert_eq!(results["left"], 0, "{results:#}");
        match results["refusals"].as_array().unwrap().as_slice() {
            [] => assert_eq!(results["acknowledged"], 0, "{results:#}"),
            refusals => assert_eq!(refusals, ["Not authorized"]),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mqtt_js_clients_stay_within_their_tenant() {
    if Tools::open().unwrap().node().is_none() {
        eprintln!("skipped: MQTT.js needs node >= 18 on PATH, and there is none");
        return;
    }
    let all = everywhere(
        async |folder, name, input| {
            let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("js/mqtt.js");
            let command = move || {
                let mut command = Tools::open().unwrap().mqtt_js().unwrap().command();
                command.arg(program).arg(input.to_string());
                command
            };
            Script::of(folder, name, command).await
        },
        2,
    )
    .await;
    for results in all {
        match results["refusals"].as_array().unwrap().as_slice() {
            [] => assert_eq!(results["acknowledged"], json!(false), "{results:#}"),
            refusals => assert_eq!(refusals, [0x87, 0x87], "{results:#}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aiomqtt_clients_stay_within_their_tenant() {
    let stack = Stack::mqtt().start().await;
    let mut witness = stack.witness("globex").await;
    let mut member = stack.member("acme", "member").await;
    let input = input(&stack, Transport::Tls, 5);
    let client = Script::start(stack.folder(), "mqtt_aiomqtt.py", "aiomqtt", &input).await;
    client.prints("ready").await;
    secret_and_go(&mut witness, &mut member).await;
    let results = client.result().await;
    heard_its_own(&results);
    assert_eq!(results["granted"], json!([1, 0x87, 0x87, 0x87, 0x87]));
    let nobody = results["nobody"].as_str().unwrap();
    assert!(nobody.contains("Bad user name or password"), "{nobody}");
    assert_eq!(stack.refusals("publish", "publish_denied"), 3);
    stack.denied("token_malformed").await;
    witness.nothing().await;
}

/// A command of mosquitto with a token.
fn mosquitto(stack: &Stack, subscribe: bool, token: &str, more: &[&str]) -> Command {
    let tools = Tools::open().unwrap().mosquitto().unwrap();
    let mut command = Command::new(if subscribe { tools.subscribe } else { tools.publish });
    let port = stack.door(Transport::Tls).address.port().to_string();
    command.args(["-h", "localhost", "-p", &port, "-u", "any", "-P", token, "--cafile"]);
    command.arg(stack.folder().join("mqtt.pem")).args(more);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_clients_stay_within_their_tenant() {
    let stack = Stack::mqtt().start().await;
    let mut witness = stack.witness("globex").await;
    let mut member = stack.witness("acme").await;
    let token = stack.token(&Token::role("acme", "member"));
    let run = async |name: &str, subscribe: bool, token: &str, more: &[&str]| {
        let command = mosquitto(&stack, subscribe, token, more);
        Script::of(stack.folder(), name, move || command).await
    };
    for (version, id) in [("311", "three"), ("5", "five")] {
        let base = ["-V", version, "-i", id, "-q", "1"];
        let own = [&base[..], &["-t", OWN, "-m", "own"]].concat();
        let output = run(&format!("pub-{id}"), false, &token, &own).await.output().await;
        assert_eq!(output, "", "it goes without a word");
        assert_eq!(member.payload().await, "own");
        let attack = [&base[..], &["-t", FOREIGN, "-m", "attack"]].concat();
        let told = run(&format!("attack-{id}"), false, &token, &attack).await.output().await;
        let expected = if version == "5" { "Not authorized" } else { "connection" };
        assert!(told.to_lowercase().contains(&expected.to_lowercase()), "{version}: {told:?}");
        let will =
            [&base[..], &["-t", OWN, "-m", "x", "--will-topic", FOREIGN, "--will-payload", "x"]];
        let told = run(&format!("will-{id}"), false, &token, &will.concat()).await.output().await;
        assert!(told.to_lowercase().contains("not authori"), "{version}: {told:?}");

        let stolen = [&base[..], &["-t", "#", "-t", "device-connect/globex/#"]].concat();
        let told = run(&format!("stolen-{id}"), true, &token, &stolen).await.output().await;
        assert!(told.contains("All subscription requests were denied"), "{version}: {told:?}");
        let mixed =
            [&base[..], &["-t", "device-connect/acme/#", "-t", "#", "-C", "1", "-W", "20", "-v"]];
        let before = stack.refusals("subscribe", "subscribe_denied");
        let client = run(&format!("sub-{id}"), true, &token, &mixed.concat()).await;
        // The other of its two filters was asked for before.
        eventually("it has subscribed", || {
            stack.refusals("subscribe", "subscribe_denied") == before + 1
        })
        .await;
        secret_and_go(&mut witness, &mut member).await;
        assert_eq!(member.payload().await, "go");
        let heard = client.output().await;
        assert!(heard.contains("device-connect/acme/go go"), "{heard}");
        assert!(!heard.contains("secret"), "{heard}");
        let nobody = [&base[..], &["-t", OWN, "-m", "x"]].concat();
        let told = run(&format!("nobody-{id}"), false, "no-token", &nobody).await.output().await;
        assert!(told.to_lowercase().contains("bad user name"), "{version}: {told:?}");
    }
    stack.denied("publish_denied").await;
    stack.denied("token_malformed").await;
    witness.nothing().await;
    member.nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rumqttc_clients_stay_within_their_tenant() {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, SubscribeReasonCode};
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};

    let stack = Stack::mqtt().start().await;
    let mut witness = stack.witness("globex").await;
    let mut member = stack.member("acme", "member").await;
    let port = stack.tcp().address.port();
    let mut options = MqttOptions::new("rumqttc", "127.0.0.1", port);
    options.set_credentials("any", stack.token(&Token::role("acme", "member")));
    options.set_keep_alive(Duration::from_secs(60));
    let (client, mut events) = AsyncClient::new(options, 64);
    let mut next = async || loop {
        let event = timeout(WITHIN, events.poll()).await.unwrap().unwrap();
        if let Event::Incoming(packet) = event {
            return packet;
        }
    };
    for filter in FILTERS {
        client.subscribe(filter, QoS::ExactlyOnce).await.unwrap();
    }
    let mut granted = Vec::new();
    while granted.len() < FILTERS.len() {
        if let Packet::SubAck(ack) = next().await {
            granted.extend(ack.return_codes);
        }
    }
    assert_eq!(granted[0], SubscribeReasonCode::Success(rumqttc::v5::mqttbytes::QoS::ExactlyOnce));
    assert!(granted[1..].iter().all(|code| *code == SubscribeReasonCode::NotAuthorized));
    secret_and_go(&mut witness, &mut member).await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish(OWN, qos, false, format!("own {}", qos as u8)).await.unwrap();
    }
    let mut heard = Vec::new();
    while heard.len() < 4 {
        if let Packet::Publish(message) = next().await {
            heard.push(String::from_utf8(message.payload.to_vec()).unwrap());
        }
    }
    assert_eq!(heard, ["go", "own 0", "own 1", "own 2"]);
    client.publish(FOREIGN, QoS::AtLeastOnce, false, "attack").await.unwrap();
    let mut refused = false;
    while !refused {
        match timeout(WITHIN, events.poll()).await.unwrap() {
            Ok(Event::Incoming(Packet::PubAck(ack))) => {
                refused = ack.reason == PubAckReason::NotAuthorized;
            }
            Ok(_) => {}
            // The client takes a refusal for the end.
            Err(error) => {
                assert!(error.to_string().contains("NotAuthorized"), "{error}");
                refused = true;
            }
        }
    }
    stack.denied("publish_denied").await;
    witness.nothing().await;
}
