//! `POST /v1/credentials`: a tenant token in, credentials out.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

mod common;

use bulkhead_control::Control;
use bulkhead_control::http::exchange::{CredentialIssuer, Subject};
use bulkhead_policy::{Broker, DenyReason};
use common::capture::Capture;
use common::endpoint::{Answer, Endpoint};
use common::signer::{Signer, claims, jwks, now};
use common::site::{Site, config, issuer, metric};
use common::{soon, until, until_true};
use jiff::SignedDuration;
use reqwest::header::{CACHE_CONTROL, HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Certificate, Client, StatusCode};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A backend that writes down whom it made credentials for.
struct Backend {
    section: &'static str,
    subjects: Mutex<Vec<Subject>>,
    denies: Mutex<Option<DenyReason>>,
}

impl Backend {
    fn new(section: &'static str) -> Arc<Self> {
        Arc::new(Self { section, subjects: Mutex::default(), denies: Mutex::default() })
    }

    fn last(&self) -> Subject {
        self.subjects.lock().unwrap().last().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.subjects.lock().unwrap().len()
    }
}

impl CredentialIssuer for Backend {
    fn section(&self) -> &'static str {
        self.section
    }

    fn broker(&self) -> Broker {
        Broker::Nats
    }

    fn issue(&self, subject: &Subject) -> Result<Value, DenyReason> {
        if let Some(reason) = *self.denies.lock().unwrap() {
            return Err(reason);
        }
        self.subjects.lock().unwrap().push(subject.clone());
        Ok(json!({"jwt": format!("credential of {}", subject.device)}))
    }
}

struct World {
    site: Site,
    control: Control,
    key: Signer,
    backend: Arc<Backend>,
    address: SocketAddr,
    client: Client,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Reply {
    fn code(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["error"].as_str().unwrap_or_default())
    }
}

/// A certificate for this machine, as `cert.pem` and `key.pem`.
fn certify(site: &Site) -> String {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certified = rcgen::generate_simple_self_signed(names).unwrap();
    site.write("key.pem", certified.signing_key.serialize_pem());
    let pem = certified.cert.pem();
    site.write("cert.pem", &pem);
    pem
}

fn client_of(certificate: &str) -> Client {
    let certificate = Certificate::from_pem(certificate.as_bytes()).unwrap();
    // One connection for each request, so that each meets the present certificate.
    let client = Client::builder().tls_certs_only([certificate]).pool_max_idle_per_host(0);
    client.build().unwrap()
}

/// The issuer of the tokens, with the role of operators.
const CORP: &str = "roles = [\"device\", \"member\", \"viewer\", \"operator\"]\n\
                    keys.jwks_file = \"keys.json\"";

const EXCHANGE: &str = "exchange.listen = \"127.0.0.1:0\"\n\
     exchange.tls = { cert_file = \"cert.pem\", key_file = \"key.pem\" }\n\
     audit.path = \"audit.jsonl\"\n";

impl World {
    async fn start(changes: &str) -> Self {
        Self::start_with(changes, CORP, vec![Backend::new("nats")]).await
    }

    async fn start_with(changes: &str, corp: &str, backends: Vec<Arc<Backend>>) -> Self {
        let (site, key) = (Site::new(), Signer::ed25519("k1"));
        let certificate = certify(&site);
        site.write("keys.json", jwks(&[&key]));
        let platform = issuer(
            "name = \"platform\"\nissuer = \"platform\"\ntenants = []\nservice = true\n\
             roles = [\"service\"]\ndefault_role = \"service\"\nkeys.jwks_file = \"keys.json\"",
        );
        let config = config(&format!("{EXCHANGE}{changes}"), vec![issuer(corp), platform]);
        let control = site.try_start(&config).await.unwrap();
        let issuers = backends.iter().map(|b| Arc::clone(b) as Arc<dyn CredentialIssuer>);
        let address = control.start_exchange(issuers.collect()).await.unwrap().unwrap();
        until("the directory is read", async || {
            control.auth().directory().is_fresh().then_some(())
        })
        .await;
        let backend = Arc::clone(&backends[0]);
        Self { site, control, key, backend, address, client: client_of(&certificate) }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/v1/credentials", self.address.port())
    }

    fn token(&self, changes: Value) -> String {
        self.key.sign(&claims(changes))
    }

    /// An operator's token: one without a device.
    fn operator(&self) -> String {
        self.token(json!({"role": "operator", "device": null}))
    }

    async fn post(&self, token: &str, body: impl Into<reqwest::Body>) -> Reply {
        let request = self.client.post(self.url()).bearer_auth(token).body(body);
        reply(request).await
    }

    /// Waits until a client is served that trusts one certificate only.
    async fn until_served(&self, client: &Client, token: &str) {
        until("the certificate is used", async || {
            let request = client.post(self.url()).bearer_auth(token);
            request.send().await.ok().filter(|answer| answer.status() == StatusCode::OK)
        })
        .await;
    }

    async fn refused(&self, token: &str, body: Value, code: (u16, &str)) {
        let issued = self.backend.count();
        let reply = self.post(token, body.to_string()).await;
        assert_eq!(reply.code(), code, "{body}");
        assert_eq!(self.backend.count(), issued, "nothing is issued: {body}");
    }

    /// Changes the directory and waits until it is known.
    async fn tenants(&self, text: &str) {
        let mut changes = self.control.auth().directory().changes();
        changes.mark_unchanged();
        self.site.write("tenants.toml", text);
        soon("the directory changes", changes.changed()).await.unwrap();
    }
}

async fn reply(request: reqwest::RequestBuilder) -> Reply {
    let answer = soon("an answer", request.send()).await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let text = answer.text().await.unwrap();
    Reply { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
}

#[tokio::test]
async fn a_device_gets_its_own_credentials() {
    let world = World::start("exchange.credentials_ttl = \"1h\"").await;
    let token = world.token(json!({"jti": "origin-1"}));
    for body in ["", "{}", "{\"device\": \"cam-1\"}", "{\"backend\": \"nats\"}"] {
        let reply = world.post(&token, body).await;
        assert_eq!(reply.status, StatusCode::OK, "{body}: {}", reply.body);
        let expected = json!({
            "device_id": "cam-1", "tenant": "acme", "auth_type": "jwt",
            "nats": {"jwt": "credential of cam-1"},
        });
        assert_eq!(reply.body, expected);
        assert_eq!(reply.headers[CACHE_CONTROL], "no-store");
    }
    let subject = world.backend.last();
    assert_eq!((subject.tenant.as_str(), subject.device.as_str()), ("acme", "cam-1"));
    assert_eq!(subject.role.as_str(), "device");
    assert_eq!(subject.origin.unwrap().as_str(), "origin-1");
    let lives = subject.expires_at.duration_since(subject.issued_at);
    assert_eq!(lives, SignedDuration::from_hours(1));
    let first = world.backend.subjects.lock().unwrap()[0].id.clone();
    assert_ne!(first, subject.id, "each has an id of its own");

    let issued = metric(&world.control, "bulkhead_credentials_issued_total{backend=\"nats\"}");
    assert_eq!(issued, 4.0);
    world.control.shutdown().await;
    let log = std::fs::read_to_string(world.site.path("audit.jsonl")).unwrap();
    assert_eq!(log.matches("credential_issued").count(), 4, "{log}");
    assert!(log.contains(first.as_str()), "the id by which it can be revoked: {log}");
    let verified = bulkhead_control::audit::verify(&world.site.path("audit.jsonl"));
    assert!(verified.unwrap().records >= 4);
}

#[tokio::test]
async fn without_a_good_token_there_are_none() {
    let world = World::start("").await;
    let reply_to = async |authorization: Option<String>| {
        let mut request = world.client.post(world.url());
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        reply(request).await
    };
    let good = world.token(json!({}));
    let forged = Signer::ed25519("k1").sign(&claims(json!({})));
    let expired = world.token(json!({"exp": now() - 600}));
    let late = world.token(json!({"exp": now() - 5}));
    let foreign = world.token(json!({"iss": "https://elsewhere.example"}));
    for (authorization, code) in [
        (None, "token_missing"),
        (Some(String::new()), "token_missing"),
        (Some("Bearer".to_owned()), "token_missing"),
        (Some("Bearer ".to_owned()), "token_missing"),
        (Some(good.clone()), "token_missing"),
        (Some(format!("Basic {good}")), "token_missing"),
        (Some("Bearer x".to_owned()), "token_malformed"),
        (Some(format!("Bearer {good} {good}")), "token_malformed"),
        (Some(format!("Bearer {}", "x".repeat(20_000))), "token_too_large"),
        (Some(format!("Bearer {forged}")), "signature_invalid"),
        (Some(format!("Bearer {foreign}")), "issuer_unknown"),
        (Some(format!("Bearer {expired}")), "token_expired"),
        (Some(format!("Bearer {late}")), "token_expired"),
    ] {
        let reply = reply_to(authorization.clone()).await;
        assert_eq!(reply.code(), (401, code), "{authorization:?}");
        assert_eq!(reply.headers[WWW_AUTHENTICATE], "Bearer");
    }
    assert_eq!(world.backend.count(), 0);
    let answer = world.client.get(world.url()).bearer_auth(&good).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(reply_to(Some(format!("Bearer {good}"))).await.status, StatusCode::OK);

    let denied = "bulkhead_auth_requests_total{backend=\"exchange\",outcome=\"denied\",\
                  reason=\"signature_invalid\"}";
    assert_eq!(metric(&world.control, denied), 1.0);
    world.control.shutdown().await;
    let log = std::fs::read_to_string(world.site.path("audit.jsonl")).unwrap();
    assert_eq!(log.matches("\"deny\"").count(), 13, "each refusal is written down: {log}");
}

#[tokio::test]
async fn nobody_gets_those_of_another_but_an_operator_within_its_tenant() {
    let world = World::start("").await;
    let device = world.token(json!({}));
    let code = (403, "device_invalid");
    for other in ["cam-2", "CAM-1", "cam-1-2"] {
        world.refused(&device, json!({ "device": other }), code).await;
    }
    let operating = world.token(json!({"role": "operator"}));
    world.refused(&operating, json!({"device": "cam-2"}), code).await;

    let operator = world.operator();
    world.refused(&operator, json!({}), (400, "device_missing")).await;
    let reply = world.post(&operator, "{\"device\": \"cam-7\"}").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    let subject = world.backend.last();
    assert_eq!((subject.tenant.as_str(), subject.device.as_str()), ("acme", "cam-7"));
    assert_eq!(subject.role.as_str(), "device", "an operator makes no operators");

    for role in ["member", "viewer", "device"] {
        let token = world.token(json!({"role": role, "device": null}));
        for body in [json!({}), json!({"device": "cam-1"})] {
            world.refused(&token, body, (403, "role_not_allowed")).await;
        }
    }
    world.tenants("[tenants.acme]\nrevoked_devices.cam-9 = \"2026-01-01T00:00:00Z\"\n").await;
    world.refused(&operator, json!({"device": "cam-9"}), (403, "device_revoked")).await;
    let service = world.token(json!({"iss": "platform", "tenant": null, "device": null}));
    let asked = json!({"device": "cam-1"});
    world.refused(&service, asked, (403, "role_not_allowed")).await;
}

#[tokio::test]
async fn what_the_directory_says_now_decides() {
    let world = World::start("directory.stale_after = \"3s\"").await;
    let token = world.token(json!({"jti": "t-revoked"}));
    assert_eq!(world.post(&token, "").await.status, StatusCode::OK);
    let unknown = world.token(json!({"tenant": "initech"}));
    world.refused(&unknown, json!({}), (403, "tenant_not_allowed")).await;
    for (text, code) in [
        ("status = \"suspended\"", (403, "tenant_suspended")),
        ("revoked_devices.cam-1 = \"2026-01-01T00:00:00Z\"", (403, "device_revoked")),
        ("revoked_tokens.t-revoked = \"2100-01-01T00:00:00Z\"", (401, "token_revoked")),
        ("tokens_valid_from = \"2100-01-01T00:00:00Z\"", (401, "token_superseded")),
        ("quotas.authentications_per_minute = 0", (429, "auth_rate_exceeded")),
    ] {
        world.tenants(&format!("[tenants.globex]\n[tenants.acme]\n{text}\n")).await;
        world.refused(&token, json!({}), code).await;
    }
    world.tenants("[tenants.globex]\n").await;
    world.refused(&token, json!({}), (403, "tenant_unknown")).await;
    let neighbour = world.token(json!({"tenant": "globex"}));
    assert_eq!(world.post(&neighbour, "").await.status, StatusCode::OK);

    world.site.remove("tenants.toml");
    until_true("the directory is stale", || !world.control.auth().directory().is_fresh()).await;
    world.refused(&neighbour, json!({}), (503, "directory_unavailable")).await;
}

#[tokio::test]
async fn without_keys_it_is_this_systems_fault_and_not_the_clients() {
    let endpoint = Endpoint::start(Answer::status(500, "")).await;
    let corp = format!("keys.jwks_url = \"{}\"", endpoint.url());
    let world = World::start_with("", &corp, vec![Backend::new("nats")]).await;
    let token = world.token(json!({}));
    world.refused(&token, json!({}), (503, "keys_unavailable")).await;
}

#[tokio::test]
async fn a_tenant_gets_so_many_a_minute() {
    let world = World::start("exchange.per_minute = 3").await;
    let operator = world.operator();
    let mut refused = Vec::new();
    for i in 0..10 {
        let body = json!({"device": format!("cam-{i}")}).to_string();
        let reply = world.post(&operator, body).await;
        if reply.status != StatusCode::OK {
            refused.push(reply);
        }
    }
    // One more may come in while the test runs, at this rate.
    assert!((6..=7).contains(&refused.len()), "{} refused", refused.len());
    for reply in refused {
        assert_eq!(reply.code(), (429, "issue_rate_exceeded"));
        assert_eq!(reply.headers[RETRY_AFTER], "60");
    }
    let neighbour = world.token(json!({"tenant": "globex"}));
    assert_eq!(world.post(&neighbour, "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_address_that_guesses_is_shut_out() {
    let world = World::start("limits.failures_per_minute = 3").await;
    let known = world.token(json!({}));
    assert_eq!(world.post(&known, "").await.status, StatusCode::OK);
    let forger = Signer::ed25519("k1");
    for _ in 0..3 {
        let forged = forger.sign(&claims(json!({})));
        world.refused(&forged, json!({}), (401, "signature_invalid")).await;
    }
    let unseen = world.token(json!({}));
    world.refused(&unseen, json!({}), (429, "source_rate_exceeded")).await;
    assert_eq!(world.post(&known, "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_request_that_is_none_is_refused_at_the_edge() {
    let world = World::start("").await;
    let token = world.token(json!({}));
    let mut taken = Vec::new();
    for body in [
        "x",
        "{",
        "null",
        "7",
        "[]",
        "[\"cam-1\"]",
        "\"cam-1\"",
        "{\"device\": \"cam-1\"} {}",
        "{\"tenant\": \"globex\"}",
        "{\"role\": \"operator\"}",
        "{\"device\": \"a/b\"}",
        "{\"device\": \"\"}",
        "{\"device\": 7}",
        "{\"device\": \"cam-1\", \"device\": \"cam-1\"}",
        "{\"ttl\": 60}",
        "{\"ttl\": \"soon\"}",
        "\u{0}",
    ] {
        let reply = world.post(&token, body).await;
        if reply.code() != (400, "request_invalid") {
            taken.push((body, reply.status.as_u16()));
        }
    }
    assert!(taken.is_empty(), "instead of 400: {taken:?}");
    let deep = "[".repeat(4_000);
    assert_eq!(world.post(&token, deep).await.status, StatusCode::BAD_REQUEST);
    for size in [4 * 1024 + 1, 1024 * 1024] {
        let body = json!({"device": "cam-1", "backend": "x".repeat(size)}).to_string();
        let reply = world.post(&token, body).await;
        assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE, "{size}");
    }
    assert_eq!(world.backend.count(), 0);
}

#[tokio::test]
async fn credentials_live_as_long_as_asked_but_never_longer_than_configured() {
    let world = World::start("exchange.credentials_ttl = \"1h\"").await;
    let token = world.token(json!({}));
    for (asked, lives) in [("10m", 600), ("PT90S", 90), ("1h", 3_600), ("30d", 3_600)] {
        // A day has no fixed length, so a duration may refuse the unit.
        let asked = if asked == "30d" { "720h" } else { asked };
        let reply = world.post(&token, json!({ "ttl": asked }).to_string()).await;
        assert_eq!(reply.status, StatusCode::OK, "{asked}: {}", reply.body);
        let subject = world.backend.last();
        let found = subject.expires_at.duration_since(subject.issued_at);
        assert_eq!(found, SignedDuration::from_secs(lives), "{asked}");
    }
}

#[tokio::test]
async fn a_life_of_nothing_or_less_is_no_life() {
    let world = World::start("").await;
    let token = world.token(json!({}));
    let mut taken = Vec::new();
    for asked in ["0s", "-1s", "-1h", "-9223372036854775808s", "PT-9223372036854775808S"] {
        let body = json!({ "ttl": asked }).to_string();
        let request = world.client.post(world.url()).bearer_auth(&token).body(body);
        // A handler that panics closes the connection without an answer.
        let answer = soon("an answer", request.send()).await;
        let status = answer.map(|answer| answer.status().as_u16());
        if !matches!(status, Ok(400)) {
            taken.push((asked, status.ok()));
        }
    }
    assert!(taken.is_empty(), "instead of 400: {taken:?}");
    assert_eq!(world.backend.count(), 0);
}

#[tokio::test]
async fn a_backend_is_chosen_by_name_and_may_refuse() {
    let backends = vec![Backend::new("nats"), Backend::new("mqtt")];
    let mqtt = Arc::clone(&backends[1]);
    let world = World::start_with("", CORP, backends).await;
    let token = world.token(json!({}));
    let unknown = (400, "backend_unknown");
    world.refused(&token, json!({}), (400, "backend_missing")).await;
    world.refused(&token, json!({"backend": "zenoh"}), unknown).await;
    world.refused(&token, json!({"backend": "NATS"}), unknown).await;
    let reply = world.post(&token, "{\"backend\": \"mqtt\"}").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    assert!(reply.body["mqtt"].is_object() && reply.body.get("nats").is_none());
    assert_eq!((mqtt.count(), world.backend.count()), (1, 0));

    for (reason, status) in [
        (DenyReason::Overloaded, 503),
        (DenyReason::Internal, 503),
        (DenyReason::TenantUnknown, 403),
    ] {
        *world.backend.denies.lock().unwrap() = Some(reason);
        let asked = json!({"backend": "nats"});
        world.refused(&token, asked, (status, reason.code())).await;
    }
}

#[tokio::test]
async fn nothing_is_said_in_the_clear() {
    let world = World::start("").await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let token = world.token(json!({}));
    let request = format!(
        "POST /v1/credentials HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("the connection is closed", stream.read_to_end(&mut answer)).await;
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1 2"));
    assert_eq!(world.backend.count(), 0);
}

#[tokio::test]
async fn whoever_does_not_get_to_the_point_is_left() {
    let world = World::start("").await;
    // No handshake; and, in the clear on a developer's machine, a body that does not come.
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    let site = Site::new();
    site.write("keys.json", jwks(&[&world.key]));
    let dev = "dev = true\nexchange.listen = \"127.0.0.1:0\"";
    let control = site.start(&config(dev, vec![issuer(CORP)])).await;
    let address = control.start_exchange(vec![Backend::new("nats")]).await.unwrap().unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/credentials HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 100\r\n\r\n{{",
        world.token(json!({}))
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let (mut one, mut other) = (Vec::new(), Vec::new());
    let _ = soon("the silent one is left", silent.read_to_end(&mut one)).await;
    let _ = soon("the slow one is left", slow.read_to_end(&mut other)).await;
    assert!(!String::from_utf8_lossy(&other).contains("HTTP/1.1 200"));
}

#[test]
fn without_a_certificate_it_is_for_a_developers_own_machine() {
    let site = Site::new();
    let load = |changes: &str| site.load(&config(changes, vec![issuer(CORP)])).map(|_| ());
    for changes in [
        "exchange.listen = \"127.0.0.1:0\"",
        "exchange.listen = \"0.0.0.0:8443\"",
        "dev = true\nexchange.listen = \"0.0.0.0:8443\"",
    ] {
        let error = load(changes).unwrap_err().to_string();
        assert!(error.contains("exchange.tls"), "{error}");
        assert!(error.contains("cert_file"), "no remedy in: {error}");
    }
    assert!(load("dev = true\nexchange.listen = \"127.0.0.1:0\"").is_ok());
    for (changes, setting) in [
        ("exchange.per_minute = 0", "exchange.per_minute"),
        ("exchange.credentials_ttl = \"0s\"", "exchange.credentials_ttl"),
        ("exchange.credentials_ttl = \"-1h\"", "exchange.credentials_ttl"),
    ] {
        let error = load(&format!("{EXCHANGE}{changes}")).unwrap_err().to_string();
        assert!(error.contains(setting), "{error}");
    }
}

#[tokio::test]
async fn it_is_off_unless_it_is_configured_and_says_what_it_lacks() {
    let site = Site::new();
    site.write("keys.json", jwks(&[&Signer::ed25519("k1")]));
    let control = site.start(&config("", vec![issuer(CORP)])).await;
    assert_eq!(control.start_exchange(Vec::new()).await.unwrap(), None);
    let control = site.start(&config(EXCHANGE, vec![issuer(CORP)])).await;
    let error = control.start_exchange(Vec::new()).await.unwrap_err().to_string();
    assert!(error.contains("exchange.listen.tls") || error.contains("exchange.tls"), "{error}");
    assert!(error.contains("cert_file"), "{error}");
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let world = World::start("").await;
    let token = world.token(json!({}));
    assert_eq!(world.post(&token, "").await.status, StatusCode::OK);
    let renewed = client_of(&certify(&world.site));
    world.until_served(&renewed, &token).await;
}

#[tokio::test]
async fn a_certificate_that_comes_before_its_key_waits_for_it() {
    let log = Capture::default();
    // This test's tasks all run in this thread.
    let _logging = tracing::subscriber::set_default(log.subscriber());
    let world = World::start("").await;
    let token = world.token(json!({}));
    assert_eq!(world.post(&token, "").await.status, StatusCode::OK);
    let elsewhere = Site::new();
    let certificate = certify(&elsewhere);
    world.site.write("cert.pem", &certificate);
    until_true("one without the other is said", || {
        log.text().contains("the last good certificate stays in use")
    })
    .await;
    assert_eq!(world.post(&token, "").await.status, StatusCode::OK, "the last good one serves");
    world.site.write("key.pem", std::fs::read(elsewhere.path("key.pem")).unwrap());
    world.until_served(&client_of(&certificate), &token).await;
}
