//! Clients of NATS's Python library, JetStream in tenants' accounts, and the listeners that a server
//! has besides the one for clients.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

#[path = "../python/script.rs"]
mod script;

use async_nats::ConnectOptions;
use bulkhead_devkit::{NatsServer, Tools, free_port};
use bulkhead_policy::JetStreamQuota;
use bulkhead_tests::{Actor, Stack, Token, eventually, eventually_async, next, nothing};
use script::Script;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use tokio::task::spawn_blocking;

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

/// The section for NATS of a credentials file, from the exchange.
async fn issue(stack: &Stack, token: &str) -> Value {
    let request = reqwest::Client::new().post(stack.exchange_url()).bearer_auth(token);
    let file: Value = request.send().await.unwrap().json().await.unwrap();
    file["nats"].clone()
}

/// Gives a tenant a quota of JetStream and waits until the server has taken it over.
async fn grant_jetstream(stack: &Stack, tenant: &str, quota: JetStreamQuota) {
    let actor = Actor::connect(stack.url(), &member(stack, tenant)).await;
    stack.change(tenant, |t| t.quotas.jetstream = Some(quota)).await;
    eventually_async(&format!("{tenant} has JetStream"), async || {
        let answer = actor.client.request("$JS.API.INFO", "".into()).await.unwrap();
        let info: Value = serde_json::from_slice(&answer.payload).unwrap();
        info["limits"]["max_streams"] == quota.streams
    })
    .await;
}

/// Makes sure that a step of a program failed, for this reason.
fn assert_failed(results: &Value, step: &str, reason: &str) {
    let error = results[step]["error"].as_str();
    assert!(error.is_some_and(|error| error.contains(reason)), "{step}: {results:#}");
}

#[tokio::test]
async fn every_way_to_connect_leads_to_the_own_tenant_only() {
    let stack = Stack::new().start().await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    let issued = issue(&stack, &token).await;
    let input = json!({
        "url": stack.url(),
        "token": token,
        "credentials": {"jwt": issued["jwt"], "nkey_seed": issued["nkey_seed"]},
        "globex": member(&stack, "globex"),
    });
    let ways = run(&stack, "carriers.py", &input).await;
    for way in ["auth_token", "password", "url user", "url password", "credentials"] {
        let result = &ways[way];
        assert_eq!(result["received"], json!(["own"]), "{way}: {result:#}");
        assert_eq!(result["witnessed"], json!(["secret"]), "{way}: {result:#}");
        assert_eq!(result["stolen"], 0, "{way}: {result:#}");
        let mut refusals =
            vec!["publish to \"device-connect.globex.cam-1.event.motion\"".to_owned()];
        for subject in
            ["device-connect.globex.>", "device-connect.*.cam-1.event.>", "device-connect.>", ">"]
        {
            refusals.push(format!("subscription to \"{subject}\""));
            refusals.push(format!("subscription to \"{subject}\" using queue \"q\""));
        }
        for refusal in refusals {
            let error = json!(format!("nats: permissions violation for {refusal}"));
            assert!(result["refusals"].as_array().unwrap().contains(&error), "{error}: {result:#}");
        }
    }
}

#[tokio::test]
async fn a_tenant_with_a_quota_uses_jetstream_and_one_without_cannot() {
    let stack = Stack::new().server_config(JETSTREAM).start().await;
    grant_jetstream(&stack, "acme", QUOTA).await;
    let used = async |tenant| {
        let input = json!({"url": stack.url(), "tenant": tenant, "token": member(&stack, tenant)});
        run(&stack, "jetstream_use.py", &input).await
    };

    let acme = used("acme").await;
    let orders = json!(["one", "two"]);
    assert_eq!(
        acme["stream"],
        json!({"pulled": orders, "pushed": orders, "unacknowledged": 0}),
        "{acme:#}"
    );
    assert_eq!(acme["key_value"]["got"], "red", "{acme:#}");
    assert_eq!(acme["key_value"]["watched"], "red", "{acme:#}");
    assert_failed(&acme["key_value"], "deleted", "key not found");
    assert_eq!(acme["object_store"], true, "{acme:#}");
    assert_eq!(acme["refusals"], json!([]));

    let globex = used("globex").await;
    for step in ["stream", "key_value", "object_store"] {
        assert_failed(&globex, step, "JetStream not enabled for account");
    }
}

#[tokio::test]
async fn a_quota_of_jetstream_is_a_limit() {
    let stack = Stack::new().server_config(JETSTREAM).start().await;
    let small = JetStreamQuota { storage_bytes: 1 << 20, streams: 2, consumers: 1, ..QUOTA };
    grant_jetstream(&stack, "acme", small).await;
    grant_jetstream(&stack, "globex", QUOTA).await;
    let used = async |tenant| {
        let input = json!({"url": stack.url(), "tenant": tenant, "token": member(&stack, tenant)});
        run(&stack, "jetstream_limits.py", &input).await
    };

    let acme = used("acme").await;
    for step in ["stream a", "stream b", "consumer one of a"] {
        assert_eq!(acme[step], "done", "{step}: {acme:#}");
    }
    assert_failed(&acme, "memory", "insufficient memory resources");
    assert_failed(&acme, "stream c", "maximum number of streams reached");
    assert_failed(&acme, "consumer two of a", "maximum consumers limit reached");
    assert_failed(&acme, "fill", "resource limits exceeded for account");
    assert!(acme["stored"].as_u64().unwrap() <= small.storage_bytes, "{acme:#}");

    // That acme has nothing left takes nothing from others.
    let globex = used("globex").await;
    assert_eq!(globex["stream c"], "done", "{globex:#}");
    assert!(globex["stored"].as_u64().unwrap() > small.storage_bytes, "{globex:#}");
}

#[tokio::test]
async fn jetstream_does_not_reach_into_another_tenant() {
    let stack = Stack::new().server_config(JETSTREAM).start().await;
    grant_jetstream(&stack, "acme", QUOTA).await;
    grant_jetstream(&stack, "globex", QUOTA).await;
    let input = json!({
        "url": stack.url(),
        "acme": member(&stack, "acme"),
        "globex": member(&stack, "globex"),
    });
    let results = run(&stack, "jetstream_across.py", &input).await;

    // The server agrees to much of it, because within acme's account it harms nobody.
    for theft in ["SOURCE", "MIRROR", "SUBJECTS", "SOURCE-0", "MIRROR-0"] {
        assert_eq!(results["thefts"][theft], "done", "{results:#}");
    }
    for intrusion in ["deliver", "command", "republish", "transform"] {
        assert_eq!(results["intrusions"][intrusion], "done", "{results:#}");
    }
    for (grasp, error) in results["grasps"].as_object().unwrap() {
        assert!(error.as_str().unwrap().contains("stream not found"), "{grasp}: {error}");
    }
    for (stream, content) in results["acme holds"].as_object().unwrap() {
        assert!(!content.to_string().contains("secret"), "{stream}: {content}");
    }
    let secrets = json!(["secret", "another secret"]);
    assert_eq!(results["globex holds"], json!({"VAULT": secrets}));
    assert_eq!(results["witnessed"], secrets);
    assert_eq!(results["acme holds"]["COPY"], json!(["own"]), "{results:#}");
    assert_eq!(results["delivered"], "own");
}

/// A stack whose server has one more listener, and that admits these types of connection. The
/// listener's configuration says `{port}` where its port goes.
async fn with_listener(listener: &str, types: &[&str]) -> (Stack, u16) {
    let port = free_port().unwrap();
    let stack = Stack::new()
        .server_config(JETSTREAM)
        .server_config(&listener.replace("{port}", &port.to_string()))
        .nats(&format!("connection_types = {types:?}"))
        .start()
        .await;
    (stack, port)
}

const WEBSOCKET: &str = "websocket { listen: \"127.0.0.1:{port}\", no_tls: true }";

#[tokio::test]
async fn websockets_are_refused_unless_they_are_listed() {
    let (stack, port) = with_listener(WEBSOCKET, &["standard"]).await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    let options = || ConnectOptions::with_token(token.clone());
    assert!(Actor::try_connect(&format!("ws://127.0.0.1:{port}"), options()).await.is_err());
    stack.denied("connection_type_not_allowed").await;
    Actor::connect(stack.url(), &token).await;
}

#[tokio::test]
async fn a_websocket_that_is_admitted_is_confined_as_any_other_connection() {
    let (stack, port) = with_listener(WEBSOCKET, &["websocket", "standard"]).await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    let device = Actor::connect(&format!("ws://127.0.0.1:{port}"), &token).await;
    let acme = Actor::connect(stack.url(), &member(&stack, "acme")).await;
    let globex = Actor::connect(stack.url(), &member(&stack, "globex")).await;
    let mut at_acme = acme.subscribe("device-connect.acme.>").await;
    let mut at_globex = globex.subscribe("device-connect.globex.>").await;
    let mut stolen = device.subscribe("device-connect.globex.>").await;
    device.refused("\"device-connect.globex.>\"").await;

    device.publish("device-connect.globex.cam-1.event.motion", "attack").await;
    device.refused("device-connect.globex.cam-1.event.motion").await;
    device.publish("device-connect.acme.cam-1.event.motion", "own").await;
    assert_eq!(next(&mut at_acme).await.payload, "own");
    globex.publish("device-connect.globex.cam-1.event.motion", "secret").await;
    assert_eq!(next(&mut at_globex).await.payload, "secret", "and no attack before it");
    nothing(&mut stolen).await;
}

/// A connection that speaks as much MQTT 3.1.1 as these tests need.
struct Mqtt {
    stream: TcpStream,
}

impl Mqtt {
    const CONNACK: u8 = 0x20;
    const SUBACK: u8 = 0x90;

    /// Connects with a password, and returns the answer's code as well.
    async fn connect(port: u16, password: &str) -> (Self, u8) {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(bulkhead_tests::WITHIN)).unwrap();
        // Protocol level 4; user name, password and a clean session; a minute of keep-alive.
        let mut body = [&Self::text("MQTT")[..], &[4, 0b1100_0010, 0, 60]].concat();
        for text in ["client", "anybody", password] {
            body.extend(Self::text(text));
        }
        let (this, answer) = Self { stream }.request(0x10, body, Self::CONNACK).await;
        (this, answer[1])
    }

    /// Subscribes, and returns the answer's code as well.
    async fn subscribe(self, filter: &str) -> (Self, u8) {
        let body = [&[0, 1], &Self::text(filter)[..], &[0]].concat();
        let (this, answer) = self.request(0x82, body, Self::SUBACK).await;
        (this, answer[2])
    }

    async fn publish(&mut self, topic: &str, payload: &str) {
        let body = [&Self::text(topic), payload.as_bytes()].concat();
        self.stream.write_all(&Self::packet(0x30, body)).unwrap();
    }

    /// Sends a packet and waits for the one that answers it.
    async fn request(mut self, header: u8, body: Vec<u8>, answered_by: u8) -> (Self, Vec<u8>) {
        let blocking = spawn_blocking(move || {
            self.stream.write_all(&Self::packet(header, body)).unwrap();
            let mut head = [0; 2];
            self.stream.read_exact(&mut head).unwrap();
            assert_eq!(head[0], answered_by);
            let mut answer = vec![0; head[1].into()];
            self.stream.read_exact(&mut answer).unwrap();
            (self, answer)
        });
        blocking.await.unwrap()
    }

    fn packet(header: u8, body: Vec<u8>) -> Vec<u8> {
        let mut packet = vec![header];
        let mut length = body.len();
        while length >= 0x80 {
            packet.push(0x80 | u8::try_from(length % 0x80).unwrap());
            length /= 0x80;
        }
        packet.push(u8::try_from(length).unwrap());
        [packet, body].concat()
    }

    fn text(text: &str) -> Vec<u8> {
        [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
    }
}

const MQTT: &str = "mqtt { listen: \"127.0.0.1:{port}\" }";

#[tokio::test]
async fn the_servers_own_mqtt_is_refused_unless_it_is_listed() {
    let (stack, port) = with_listener(MQTT, &["standard"]).await;
    // Without JetStream MQTT fails by itself.
    grant_jetstream(&stack, "acme", QUOTA).await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    assert_eq!(Mqtt::connect(port, &token).await.1, 5, "not authorized");
    stack.denied("connection_type_not_allowed").await;
    Actor::connect(stack.url(), &token).await;
}

#[tokio::test]
async fn the_servers_own_mqtt_confines_whom_it_admits() {
    let (stack, port) = with_listener(MQTT, &["mqtt", "standard"]).await;
    grant_jetstream(&stack, "acme", QUOTA).await;
    let acme = Actor::connect(stack.url(), &member(&stack, "acme")).await;
    let globex = Actor::connect(stack.url(), &member(&stack, "globex")).await;
    let mut at_acme = acme.subscribe("device-connect.acme.>").await;
    let mut at_globex = globex.subscribe("device-connect.globex.>").await;

    assert_eq!(Mqtt::connect(port, "no token").await.1, 5, "not authorized");
    let token = stack.token(&Token::device("acme", "cam-1"));
    let (mqtt, code) = Mqtt::connect(port, &token).await;
    assert_eq!(code, 0, "accepted");
    let (mqtt, code) = mqtt.subscribe("device-connect/globex/#").await;
    assert_eq!(code, 0x80, "refused");
    let (mut mqtt, code) = mqtt.subscribe("device-connect/acme/cam-1/cmd").await;
    assert_eq!(code, 0, "granted");
    mqtt.publish("device-connect/globex/cam-1/event/motion", "attack").await;
    mqtt.publish("device-connect/acme/cam-1/event/motion", "own").await;
    assert_eq!(next(&mut at_acme).await.payload, "own");
    nothing(&mut at_globex).await;
}

const LEAFNODES: &str = "leafnodes { listen: \"127.0.0.1:{port}\" }";

/// Starts a server that wants to be a leaf node of another: at an address, perhaps with credentials.
async fn start_leaf(folder: &Path, url: &str, credentials: Option<&Path>) -> NatsServer {
    let credentials = credentials.map(|path| format!(", credentials: {path:?}"));
    let config = format!(
        "server_name: leaf\n\
         leafnodes {{ reconnect: 2s, remotes: [ {{ url: {url:?}{} }} ] }}\n",
        credentials.unwrap_or_default()
    );
    let folder = folder.join("leaf");
    let started = spawn_blocking(move || {
        NatsServer::start(&Tools::open().unwrap().nats_server().unwrap(), &folder, &config).unwrap()
    });
    started.await.unwrap()
}

#[tokio::test]
async fn leaf_nodes_are_refused_unless_they_are_listed() {
    let (stack, port) = with_listener(LEAFNODES, &["standard", "websocket", "mqtt"]).await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    let acme = Actor::connect(stack.url(), &member(&stack, "acme")).await;
    let device = Actor::connect(stack.url(), &token).await;
    let mut at_acme = acme.subscribe("device-connect.acme.>").await;
    let issued = stack.folder().join("cam-1.creds");
    let section = issue(&stack, &token).await;
    let (jwt, seed) = (section["jwt"].as_str().unwrap(), section["nkey_seed"].as_str().unwrap());
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(&issued, text).unwrap();

    for (url, credentials) in [
        (format!("nats-leaf://{token}@127.0.0.1:{port}"), None),
        (format!("nats-leaf://anybody:{token}@127.0.0.1:{port}"), None),
        (format!("nats-leaf://127.0.0.1:{port}"), Some(issued.as_path())),
    ] {
        let denials = || {
            let audit = stack.audit();
            audit.iter().filter(|r| r["reason"] == "connection_type_not_allowed").count()
        };
        let before = denials();
        let leaf = start_leaf(stack.folder(), &url, credentials).await;
        let behind = Actor::try_connect(leaf.client_url(), ConnectOptions::new()).await.unwrap();
        let mut stolen = behind.subscribe("device-connect.acme.>").await;
        eventually("the leaf node is refused", || {
            denials() > before && leaf.log().contains("Leafnode Error")
        })
        .await;
        behind.publish("device-connect.acme.cam-1.event.motion", "attack").await;
        assert_eq!(next(&mut stolen).await.payload, "attack", "it only hears itself");
        device.publish("device-connect.acme.cam-1.event.motion", "own").await;
        assert_eq!(next(&mut at_acme).await.payload, "own");
        nothing(&mut stolen).await;
    }
}
#[tokio::test]
async fn a_leaf_node_that_is_admitted_is_confined_as_its_token_is() {
    let (stack, port) = with_listener(LEAFNODES, &["leafnode", "standard"]).await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    let acme = Actor::connect(stack.url(), &member(&stack, "acme")).await;
    let globex = Actor::connect(stack.url(), &member(&stack, "globex")).await;
    let mut at_acme = acme.subscribe("device-connect.acme.>").await;
    let mut at_globex = globex.subscribe("device-connect.globex.>").await;

    let url = format!("nats-leaf://anybody:{token}@127.0.0.1:{port}");
    let leaf = start_leaf(stack.folder(), &url, None).await;
    let behind = Actor::try_connect(leaf.client_url(), ConnectOptions::new()).await.unwrap();
    let mut commands = behind.subscribe("device-connect.*.*.cmd").await;
    eventually_async("commands reach the device behind the leaf node", async || {
        acme.publish("device-connect.acme.cam-1.cmd", "own").await;
        next(&mut at_acme).await;
        futures::FutureExt::now_or_never(futures::StreamExt::next(&mut commands)).is_some()
    })
    .await;

    for subject in
        ["device-connect.globex.cam-1.event.motion", "device-connect.acme.cam-2.heartbeat"]
    {
        behind.publish(subject, "attack").await;
    }
    behind.publish("device-connect.acme.cam-1.event.motion", "own").await;
    assert_eq!(next(&mut at_acme).await.payload, "own", "and no attack before it");
    nothing(&mut at_globex).await;

    stack
        .change("acme", |t| {
            t.revoked_devices.insert("cam-1".parse().unwrap(), jiff::Timestamp::now());
        })
        .await;
    eventually("the leaf node is cut off", || leaf.log().contains("Authorization Violation")).await;
    stack.denied("device_revoked").await;
    assert!(!acme.is_cut());
}
