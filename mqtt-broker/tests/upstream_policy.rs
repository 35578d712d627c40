//! The front as it is run: tokens, roles and the directory decide, and the process knows whether the
//! broker is there.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod upstream_support;

use bulkhead_control::Control;
use bulkhead_control::config::Config;
use bulkhead_mqtt_broker::codec::{Property, ReasonCode, Version};
use bulkhead_mqtt_broker::{Broker, start};
use jiff::Timestamp;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;
use std::path::Path;
use upstream_support::{BOTH, Hello, eventually, mosquitto};

const OK: ReasonCode = ReasonCode::SUCCESS;
const SECRET: &str = "a secret of a developer's own machine";

fn token(tenant: &str, device: &str, role: &str) -> String {
    let now = Timestamp::now().as_second();
    let claims = json!({
        "iss": "https://idp.example", "aud": "bulkhead", "iat": now - 5, "exp": now + 600,
        "tenant": tenant, "device": device, "role": role,
    });
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// The token of a platform service.
fn service() -> String {
    let now = Timestamp::now().as_second();
    let claims = json!({
        "iss": "https://platform.example", "aud": "bulkhead", "iat": now - 5, "exp": now + 600,
    });
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

async fn run(folder: &Path, mqtt: &str) -> (Control, Broker) {
    std::fs::write(folder.join("secret"), SECRET).unwrap();
    std::fs::write(folder.join("tenants.toml"), "[tenants.acme]\n[tenants.globex]\n").unwrap();
    let path = folder.join("bulkhead.toml");
    let text = format!(
        r#"
        dev = true
        directory.file = "tenants.toml"
        admin.listen = "127.0.0.1:0"
        [[issuers]]
        name = "dev"
        issuer = "https://idp.example"
        audiences = ["bulkhead"]
        algorithms = ["HS256"]
        keys.secret_file = "secret"
        tenants = ["acme", "globex"]
        [[issuers]]
        name = "platform"
        issuer = "https://platform.example"
        audiences = ["bulkhead"]
        algorithms = ["HS256"]
        keys.secret_file = "secret"
        service = true
        roles = ["service"]
        default_role = "service"
        [mqtt]
        listeners = ["tcp://127.0.0.1:0"]
        {mqtt}
        "#
    );
    std::fs::write(&path, text).unwrap();
    let control = Control::start(Config::load(&path).unwrap(), Some(path)).await.unwrap();
    let broker = start(&control).unwrap();
    (control, broker)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_line_puts_the_front_before_a_broker() {
    let dir = tempfile::tempdir().unwrap();
    let mut mosquitto = mosquitto(dir.path());
    let upstream = format!("upstream = \"mqtt://{}\"", mosquitto.address());
    let (control, broker) = run(dir.path(), &upstream).await;
    let missing = || control.readiness().missing();
    eventually("ready", async || missing().is_empty()).await;
    let address = broker.addresses()[0];
    for version in BOTH {
        let connect = |tenant: &str, device: &str, role: &str| {
            Hello::new(address, version, &token(tenant, device, role), "same").connect()
        };
        let mut cam = connect("acme", "cam-1", "device").await;
        let mut member = connect("acme", "desk", "member").await;
        let mut globex = connect("globex", "cam-1", "member").await;
        assert_eq!(globex.subscribe(&["device-connect/globex/#"]).await, [2]);
        assert_eq!(member.subscribe(&["device-connect/acme/#"]).await, [2]);
        let denied = if version == Version::V311 { 0x80 } else { 0x87 };
        let stolen = ["device-connect/#", "device-connect/+/cam-1/cmd", "_reply/+", "#"];
        assert_eq!(globex.subscribe(&stolen).await, [denied; 4]);
        assert_eq!(cam.publish("device-connect/acme/cam-1/event/motion", "m").await, OK);
        assert_eq!(member.message().await.1, "m");
        globex.nothing().await;
        let refused = Hello::new(address, version, "no token", "x").refused().await;
        let wrong = ReasonCode::BAD_USER_NAME_OR_PASSWORD;
        assert_eq!(refused, wrong);

        // The directory is followed.
        let tenants = "[tenants.acme]\nstatus = \"suspended\"\n[tenants.globex]\n";
        std::fs::write(dir.path().join("tenants.toml"), tenants).unwrap();
        let reason = member.cut().await;
        assert_eq!(reason, (version == Version::V5).then_some(ReasonCode::ADMINISTRATIVE_ACTION));
        cam.cut().await;
        let refused = Hello::new(address, version, &token("acme", "cam-1", "device"), "same");
        assert_eq!(refused.refused().await, ReasonCode::NOT_AUTHORIZED);
        assert_eq!(globex.publish("device-connect/globex/x", "on").await, OK);
        assert_eq!(globex.message().await.1, "on");
        let tenants = "[tenants.acme]\n[tenants.globex]\n";
        std::fs::write(dir.path().join("tenants.toml"), tenants).unwrap();
        eventually("acme is back", async || {
            let hello = Hello::new(address, version, &token("acme", "cam-1", "device"), "same");
            matches!(
                hello.say().await.1,
                upstream_support::Got::ConnAck { reason: ReasonCode::SUCCESS, .. }
            )
        })
        .await;
    }
    mosquitto.kill().unwrap();
    eventually("not ready", async || missing() == ["mqtt upstream"]).await;
    mosquitto.restart().unwrap();
    eventually("ready again", async || missing().is_empty()).await;
    control.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_prefix_names_that_no_tenant_owns_do_not_meet() {
    let dir = tempfile::tempdir().unwrap();
    let mosquitto = mosquitto(dir.path());
    let upstream = format!(
        "mount = \"device-connect/{{tenant}}\"\n\
         upstream = {{ url = \"mqtt://{}\", prefix = \"{{tenant}}/\" }}",
        mosquitto.address()
    );
    let (control, broker) = run(dir.path(), &upstream).await;
    let address = broker.addresses()[0];
    eventually("ready", async || control.readiness().missing().is_empty()).await;
    let mut witness = Hello::new(mosquitto.address(), Version::V5, "", "witness").connect().await;
    witness.subscribe(&["#"]).await;
    let connect = |tenant: &str| {
        Hello::new(address, Version::V5, &token(tenant, "d", "member"), "same").connect()
    };
    let (mut acme, mut globex) = (connect("acme").await, connect("globex").await);
    for client in [&mut acme, &mut globex] {
        assert_eq!(client.subscribe(&["x/#"]).await, [2]);
    }
    assert_eq!(acme.publish("x/1", "own").await, OK);
    assert_eq!(acme.message().await, ("x/1".to_owned(), "own".to_owned()));
    assert_eq!(witness.message().await.0, "acme/device-connect/acme/x/1");
    globex.nothing().await;
    // Past the front, somebody who may do everything: what is not the client's own is withheld, and
    // what answers it elsewhere has no name for it.
    witness.publish("globex/device-connect/globex/x/2", "from beside").await;
    assert_eq!(globex.message().await, ("x/2".to_owned(), "from beside".to_owned()));
    let elsewhere = [Property::ResponseTopic("acme/device-connect/acme/x")];
    let topic = "globex/device-connect/globex/x/3";
    let qos = bulkhead_mqtt_broker::codec::QoS::AtMostOnce;
    witness.publish_with(topic, b"?", qos, false, 0, &elsewhere).await;
    let got = globex.next().await;
    assert!(
        matches!(&got, upstream_support::Got::Publish { response: None, topic, .. } if topic == "x/3"),
        "{got:?}"
    );
    acme.nothing().await;
    control.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_hear_all_tenants_by_their_whole_names() {
    let dir = tempfile::tempdir().unwrap();
    let mosquitto = mosquitto(dir.path());
    let upstream = format!(
        "mount = \"device-connect/{{tenant}}\"\nupstream = \"mqtt://{}\"",
        mosquitto.address()
    );
    let (control, broker) = run(dir.path(), &upstream).await;
    let address = broker.addresses()[0];
    eventually("ready", async || control.readiness().missing().is_empty()).await;
    for version in BOTH {
        let mut service = Hello::new(address, version, &service(), "same").connect().await;
        let denied = if version == Version::V311 { 0x80 } else { 0x87 };
        let codes = service.subscribe(&["device-connect/+/#", "$SYS/#", "$share/g/$SYS/#"]).await;
        assert_eq!(codes, [2, denied, denied]);
        for tenant in ["acme", "globex"] {
            let token = token(tenant, "d", "member");
            let mut client = Hello::new(address, version, &token, "same").connect().await;
            client.subscribe(&["#"]).await;
            assert_eq!(client.publish("x", tenant).await, OK);
            let whole = format!("device-connect/{tenant}/x");
            assert_eq!(service.message().await, (whole, tenant.to_owned()));
            assert_eq!(client.message().await.0, "x");
            let answer = format!("device-connect/{tenant}/answer");
            assert_eq!(service.publish(&answer, "a").await, OK);
            assert_eq!(service.message().await.0, answer);
            assert_eq!(client.message().await, ("answer".to_owned(), "a".to_owned()));
        }
    }
    control.shutdown().await;
}
