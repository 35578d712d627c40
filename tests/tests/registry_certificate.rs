//! The registry at a broker that lets nobody in without a certificate.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_cli::{Services, start_services};
use bulkhead_control::config::Config;
use bulkhead_control::transport::{TransportAuthority, Wanted};
use bulkhead_devkit::{MosquittoServer, Tools};
use bulkhead_tests::registry::registration;
use bulkhead_tests::{eventually, tls_client};
use data_encoding::BASE64;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A mosquitto that knows its clients by the names in their certificates, and certificates for it.
struct Site {
    folder: TempDir,
    mosquitto: MosquittoServer,
}

impl Site {
    async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        certify(folder.path(), "broker", &["127.0.0.1"]);
        for name in ["registry", "cam", "stranger"] {
            certify(folder.path(), name, &[]);
        }
        let at = |name: &str| folder.path().join(name).display().to_string();
        let acl = "user registry\ntopic readwrite #\nuser cam\ntopic readwrite #\n";
        std::fs::write(folder.path().join("acl"), acl).unwrap();
        let config = format!(
            "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
             use_identity_as_username true\nallow_anonymous false\nacl_file {}\n",
            at("ca.pem"),
            at("broker.pem"),
            at("broker.key"),
            at("acl")
        );
        let home = folder.path().join("mosquitto");
        let mosquitto = tokio::task::spawn_blocking(move || {
            let program = Tools::open().unwrap().mosquitto().unwrap();
            MosquittoServer::start(&program.broker, &home, &config).unwrap()
        });
        let mosquitto = mosquitto.await.unwrap();
        std::fs::write(folder.path().join("tenants.toml"), "[tenants.acme]\n").unwrap();
        Self { folder, mosquitto }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A registry that shows this certificate, if any.
    async fn registry(&self, certificate: &str) -> Services {
        let key = IssuerKeys::write(self.folder.path());
        let text = format!(
            "dev = true\nadmin = {{ listen = \"127.0.0.1:0\" }}\n\
             directory = {{ file = \"tenants.toml\" }}\n\
             [[issuers]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\n\
             audiences = [\"bulkhead\"]\nalgorithms = [\"EdDSA\"]\ntenants = \"all\"\n\
             keys.jwks_file = {key:?}\n\
             [registry]\nstore = {{ file = \"{}.redb\" }}\n\
             mqtt = {{ url = \"mqtts://{}\", ca_file = \"ca.pem\"{certificate} }}\n",
            uuid::Uuid::new_v4().simple(),
            self.address()
        );
        std::fs::write(self.path("bulkhead.toml"), text).unwrap();
        let config = Config::load(&self.path("bulkhead.toml")).unwrap();
        start_services(config, None).await.unwrap()
    }

    fn address(&self) -> SocketAddr {
        self.mosquitto.address()
    }

    /// A client with a certificate of its own.
    fn client(&self, name: &str) -> (AsyncClient, EventLoop) {
        let read =
            |end: &str| std::fs::read_to_string(self.path(&format!("{name}.{end}"))).unwrap();
        let identity = (read("pem"), read("key"));
        let tls = tls_client(&self.path("ca.pem"), Some(&identity)).unwrap();
        let mut options = MqttOptions::new(name, "127.0.0.1", self.address().port());
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
        AsyncClient::new(options, 16)
    }
}

/// The key set of an issuer whose tokens nobody needs here.
struct IssuerKeys;

impl IssuerKeys {
    fn write(folder: &Path) -> PathBuf {
        let (key, jwks) = (folder.join("issuer.key"), folder.join("issuer.jwks.json"));
        if !key.exists() {
            let signer = bulkhead_control::issuer::Signer::create(&key).unwrap();
            std::fs::write(&jwks, signer.jwks().to_string()).unwrap();
        }
        jwks
    }
}

fn certify(folder: &Path, name: &str, hosts: &[&str]) {
    let at = |name: String| folder.join(name);
    let authority =
        TransportAuthority::open_or_create(&at("ca.pem".to_owned()), &at("ca.key".to_owned()));
    let wanted = Wanted {
        common_name: name.to_owned(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        client: hosts.is_empty(),
    };
    let (cert, key) = (at(format!("{name}.pem")), at(format!("{name}.key")));
    authority.unwrap().ensure(&wanted, &cert, &key).unwrap();
}

const OWN: &str = ", cert_file = \"registry.pem\", key_file = \"registry.key\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_let_in_by_its_certificate_and_serves() {
    let site = Site::start().await;
    let services = site.registry(OWN).await;
    eventually("it is heard", || services.control.readiness().missing().is_empty()).await;
    assert!(site.mosquitto.log().contains("u'registry'"), "{}", site.mosquitto.log());

    let (cam, mut events) = site.client("cam");
    let reply = format!("_reply/{}", uuid::Uuid::new_v4().simple());
    cam.subscribe(&reply, QoS::AtLeastOnce).await.unwrap();
    let data = BASE64.encode(registration("cam-1").to_string().as_bytes());
    let envelope = json!({"data": data, "reply_to": reply, "request_id": "r"});
    let answer = loop {
        match events.poll().await.unwrap() {
            Event::Incoming(Packet::SubAck(_)) => {
                let (name, text) = ("device-connect/acme/registry", envelope.to_string());
                cam.publish(name, QoS::AtLeastOnce, false, text).await.unwrap();
            }
            Event::Incoming(Packet::Publish(message)) => break message.payload,
            _ => {}
        }
    };
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["result"]["status"], "registered", "{answer}");
    services.control.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_one_or_with_somebody_elses_it_is_not() {
    let site = Site::start().await;
    // Of another authority: of the same name, and nobody the broker knows.
    let other = site.path("other");
    std::fs::create_dir(&other).unwrap();
    certify(&other, "registry", &[]);
    let foreign = ", cert_file = \"other/registry.pem\", key_file = \"other/registry.key\"";
    for certificate in ["", foreign] {
        let services = site.registry(certificate).await;
        let before = site.mosquitto.log().len();
        eventually("it was refused", || {
            site.mosquitto.log().get(before..).is_some_and(|log| log.contains("OpenSSL Error"))
        })
        .await;
        assert!(services.control.readiness().missing().contains(&"registry: MQTT"));
        services.control.shutdown().await;
    }

    // A renewed certificate is read at the next attempt.
    for end in ["pem", "key"] {
        std::fs::copy(other.join(format!("registry.{end}")), site.path(&format!("next.{end}")))
            .unwrap();
    }
    let next = ", cert_file = \"next.pem\", key_file = \"next.key\"";
    let services = site.registry(next).await;
    assert!(!services.control.readiness().missing().is_empty());
    for end in ["key", "pem"] {
        std::fs::copy(site.path(&format!("registry.{end}")), site.path(&format!("next.{end}")))
            .unwrap();
    }
    eventually("it is heard", || services.control.readiness().missing().is_empty()).await;
    services.control.shutdown().await;
}
