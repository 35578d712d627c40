//! Tokens, signatures, passwords and keys appear nowhere but where they belong.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

mod common;

use bulkhead_control::Control;
use bulkhead_control::http::exchange::{CredentialIssuer, Subject};
use bulkhead_control::identity::{Accepted, ExchangeKeys, Sources};
use bulkhead_policy::{Broker, DenyReason};
use common::capture::Capture;
use common::endpoint::{Answer, Endpoint};
use common::signer::{Signer, claims, hmac, jwks, now};
use common::site::{Site, config, enter, issuer, metric};
use common::{all, soon, until, until_true};
use reqwest::{Certificate, Client};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// All that this process's tasks and threads log, whichever test they belong to.
static LOG: LazyLock<Capture> = LazyLock::new(|| {
    let log = Capture::default();
    tracing::subscriber::set_global_default(log.subscriber()).unwrap();
    log
});

/// What must not be seen.
#[derive(Default)]
struct Secrets {
    known: Vec<(String, String)>,
}

impl Secrets {
    fn add(&mut self, what: &str, text: &str) {
        self.known.push((what.to_owned(), text.to_owned()));
    }

    /// A token, and its parts: the claims say who somebody is, the signature that it is true.
    fn add_token(&mut self, what: &str, token: &str) {
        self.add(what, token);
        let parts: Vec<_> = token.split('.').collect();
        if let [_, claims, signature] = parts[..] {
            self.add(&format!("the claims of {what}"), claims);
            self.add(&format!("the signature of {what}"), signature);
        }
    }

    fn are_not_in(&self, place: &str, text: &str) {
        for (what, secret) in self.known.iter().filter(|(_, secret)| !secret.is_empty()) {
            let line = text.lines().find(|line| line.contains(secret.as_str()));
            assert_eq!(line, None, "{what} is in {place}");
            // As a list of bytes, which is how a careless `Debug` shows it.
            let bytes = format!("{:?}", secret.as_bytes());
            let bytes = bytes.trim_matches(['[', ']']);
            assert!(!text.contains(bytes), "{what} is in {place}, as bytes");
        }
    }
}

/// A backend whose credentials are secret.
struct Backend;

const CREDENTIAL: &str = "SUAIO3FHUX5PNV2LQIIP7TZ3N4L7TX3W53MQGEIVYFIGA635OZCKEYHFLM";

impl CredentialIssuer for Backend {
    fn section(&self) -> &'static str {
        "nats"
    }

    fn broker(&self) -> Broker {
        Broker::Nats
    }

    fn issue(&self, _: &Subject) -> Result<Value, DenyReason> {
        Ok(json!({ "seed": CREDENTIAL }))
    }
}

/// Waits until the logs hold a text, so that what is looked through is complete.
async fn logged(text: &str) {
    until_true(&format!("'{text}' is logged"), || LOG.text().contains(text)).await;
}

#[tokio::test]
async fn tokens_and_credentials_leave_no_trace() {
    LazyLock::force(&LOG);
    let (site, key, mut secrets) = (Site::new(), Signer::ed25519("k1"), Secrets::default());
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    site.write("cert.pem", certified.cert.pem());
    let private = certified.signing_key.serialize_pem();
    site.write("key.pem", &private);
    secrets.add("the exchange's key", private.lines().nth(1).unwrap());
    site.write("keys.json", jwks(&[&key]));
    site.write("token", "an-admin-token-of-some-length");
    secrets.add("the admin token", "an-admin-token-of-some-length");
    secrets.add("a credential", CREDENTIAL);
    site.write("tenants.toml", "[tenants.acme]\n[tenants.globex]\nstatus = \"suspended\"\n");
    let changes = "exchange.listen = \"127.0.0.1:0\"\n\
         exchange.tls = { cert_file = \"cert.pem\", key_file = \"key.pem\" }\n\
         admin.token_file = \"token\"\naudit.path = \"audit.jsonl\"\n\
         limits.failures_per_minute = 10_000\n\
         [metrics]\ntenant_label = true";
    let corp = issuer("keys.jwks_file = \"keys.json\"");
    let control = site.start(&config(changes, vec![corp])).await;
    let exchange = control.start_exchange(vec![Arc::new(Backend)]).await.unwrap().unwrap();

    let forger = Signer::ed25519("k1");
    let odd = |claims_of: Value| key.sign(&claims(claims_of));
    let good = odd(json!({"jti": "a-good-one"}));
    let tokens = [
        ("a good token", good.clone()),
        ("a forged token", forger.sign(&claims(json!({})))),
        ("an expired token", odd(json!({"exp": now() - 600}))),
        ("a token of a suspended tenant", odd(json!({"tenant": "globex"}))),
        ("a token of an unknown issuer", odd(json!({"iss": "https://elsewhere.example"}))),
        ("a token with an odd tenant", odd(json!({"tenant": "a/b\nc"}))),
        ("a token with an odd device", odd(json!({"device": "../../etc"}))),
        ("a token for others", odd(json!({"aud": "another-audience"}))),
        ("a token with an unknown kid", {
            key.sign_as(&json!({"alg": "EdDSA", "kid": "nobodys-kid"}), &claims(json!({})))
        }),
        ("an HMAC", hmac(&json!({"alg": "HS256"}), &claims(json!({})), b"guess")),
        ("a token without a role", odd(json!({"role": "emperor"}))),
        ("no token at all", "s3cr3t-password-typed-into-the-wrong-field".to_owned()),
        ("a token of text", "s3cr3t-header.s3cr3t-claims.s3cr3t-signature".to_owned()),
        ("a large token", "s3cr3t-".repeat(4_000)),
        ("a token that is not plain text", "s3cr3t-é\u{1}".to_owned()),
    ];
    for (what, token) in &tokens {
        secrets.add_token(what, token);
    }

    let client = Client::builder()
        .tls_certs_only([Certificate::from_pem(certified.cert.pem().as_bytes()).unwrap()])
        .build()
        .unwrap();
    let url = format!("https://localhost:{}/v1/credentials", exchange.port());
    let admin = format!("http://{}", control.admin_address());
    let mut said = String::new();
    let mut issued = 0;
    for (what, token) in &tokens {
        // As a broker adapter, which writes down what became of it.
        let (started, auth) = (Instant::now(), control.auth());
        let outcome = enter(auth, token).await;
        let denied = outcome.as_ref().err().copied();
        let principal = outcome.as_ref().ok().map(|a| Arc::clone(&a.principal));
        let source = Some("192.0.2.1".parse().unwrap());
        auth.record("mqtt", source, principal.as_deref(), denied, started);
        writeln!(said, "{denied:?} {outcome:?}").unwrap();

        // As a client of the exchange that puts the token where it belongs, and where it does not.
        let quoted = json!(token).to_string();
        for body in [
            String::new(),
            quoted.clone(),
            json!({ "device": token }).to_string(),
            json!({ "ttl": token }).to_string(),
            json!({ "backend": token }).to_string(),
            json!({ "token": token }).to_string(),
            json!({ token.as_str(): 1 }).to_string(),
            token.clone(),
        ] {
            for bearer in [token.as_str(), good.as_str()] {
                let request = client.post(&url).body(body.clone());
                let request =
                    request.header("authorization", format!("Bearer {bearer}").as_bytes());
                // A header that is no text cannot be sent; nothing is said about it then.
                let Ok(answer) = soon("an answer", request.send()).await else { continue };
                let (status, headers) = (answer.status(), answer.headers().clone());
                let text = answer.text().await.unwrap();
                if status.is_success() {
                    // The one place where a credential belongs.
                    assert!(text.contains(CREDENTIAL), "{what}");
                    issued += 1;
                } else {
                    writeln!(said, "{status} {headers:?} {text}").unwrap();
                }
            }
        }
        for path in ["/metrics", "/readyz", "/nowhere"] {
            let request = client.get(format!("{admin}{path}"));
            let request = request.header("authorization", format!("Bearer {token}").as_bytes());
            let Ok(answer) = soon("an answer", request.send()).await else { continue };
            writeln!(said, "{:?} {}", answer.headers().clone(), answer.text().await.unwrap())
                .unwrap();
        }
    }
    assert!(issued > 0, "the good token was good");
    secrets.are_not_in("an answer or error", &said);
    let metrics = control.auth().metrics().encode().unwrap();
    assert!(metrics.contains("signature_invalid"));
    secrets.are_not_in("the metrics", &metrics);
    secrets.are_not_in("what Debug shows", &format!("{control:?} {:?}", control.config()));
    control.shutdown().await;
    let audit = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    assert!(audit.contains("signature_invalid") && audit.contains("credential_issued"));
    assert!(audit.contains("a-good-one"), "the id of a token is no secret");
    secrets.are_not_in("the audit log", &audit);
    logged("signature_invalid").await;
    secrets.are_not_in("the log", &LOG.text());
}

#[tokio::test]
async fn issued_identities_leave_no_trace() {
    LazyLock::force(&LOG);
    let (site, key, mut secrets) = (Site::new(), Signer::ed25519("k1"), Secrets::default());
    site.write("keys.json", jwks(&[&key]));
    let corp = issuer("keys.jwks_file = \"keys.json\"");
    let changes = "dev = true\naudit.path = \"audit.jsonl\"\n\
         exchange = { listen = \"127.0.0.1:0\", keys = \"exchange\" }\n\
         mqtt.listeners = [\"tcp://127.0.0.1:1\"]";
    let control = site.start(&config(changes, vec![corp])).await;
    let issuers = control.issuers().unwrap();
    let exchange = control.start_exchange(issuers).await.unwrap().unwrap();
    let private_lines = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with("--")).map(str::to_owned).collect()
    };
    for name in ["exchange/ca.key", "exchange/tokens.key"] {
        let text = std::fs::read_to_string(site.path(name)).unwrap();
        private_lines(&text).iter().for_each(|line| secrets.add(name, line));
    }
    let jwks_file = site.path("exchange/tokens.jwks.json");
    let ca_file = site.path("exchange/ca.pem");
    let sources = Sources {
        broker: Broker::Mqtt,
        jwks_file: Some(&jwks_file),
        client_ca_file: Some(&ca_file),
    };
    let accepted = Accepted::open(sources, &control).unwrap();

    let asked = Client::new().post(format!("http://{exchange}/v1/credentials"));
    let token = key.sign(&claims(json!({"device": "cam-1"})));
    let asked = asked.bearer_auth(&token).body("{\"certificate\": true}");
    let answer = soon("an answer", asked.send()).await.unwrap();
    assert!(answer.status().is_success());
    let file: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let text = |path: &str| file.pointer(path).unwrap().as_str().unwrap().to_owned();
    let password = text("/mqtt/credentials/password");
    secrets.add_token("a password", &password);
    let private = text("/mqtt/tls/key_pem");
    private_lines(&private).iter().for_each(|line| secrets.add("a device's key", line));
    let leaf = CertificateDer::from_pem_slice(text("/mqtt/tls/cert_pem").as_bytes()).unwrap();

    let auth = control.auth();
    let (forged, mut damaged) = (format!("{password}x"), leaf.to_vec());
    *damaged.last_mut().unwrap() ^= 1;
    secrets.add_token("a damaged password", &forged);
    let mut said = String::new();
    for token in [None, Some(&password), Some(&forged)] {
        for certificate in [None, Some(&leaf[..]), Some(&damaged[..])] {
            let started = Instant::now();
            let token = token.map(String::as_str);
            let outcome = auth.identify_client(&accepted, token, certificate, None).await;
            let principal = outcome.as_ref().ok().map(|known| Arc::clone(&known.principal));
            let denied = outcome.as_ref().err().copied();
            auth.record("mqtt", None, principal.as_deref(), denied, started);
            writeln!(said, "{outcome:?}").unwrap();
        }
    }
    let keys = ExchangeKeys::open(&site.path("exchange")).unwrap();
    writeln!(said, "{keys:?} {accepted:?}").unwrap();
    site.write("exchange/ca.key", &private);
    let error = ExchangeKeys::open(&site.path("exchange")).unwrap_err();
    writeln!(said, "{error} {error:?}").unwrap();
    secrets.are_not_in("an answer, error or Debug", &said);
    secrets.are_not_in("the metrics", &control.auth().metrics().encode().unwrap());
    control.shutdown().await;
    let audit = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    assert!(audit.contains("credential_issued") && audit.contains("signature_invalid"));
    secrets.are_not_in("the audit log", &audit);
    secrets.are_not_in("the log", &LOG.text());
}

#[tokio::test]
async fn an_address_of_keys_keeps_its_password_to_itself() {
    LazyLock::force(&LOG);
    let answers = [
        Answer::status(500, ""),
        Answer::status(401, ""),
        Answer::redirect("http://127.0.0.1:9/"),
        Answer::ok("garbage"),
        Answer::Close,
        Answer::Silence,
        Answer::Endless,
    ];
    all(answers.map(an_address_keeps_its_password)).await;
}

async fn an_address_keeps_its_password(answer: Answer) {
    let mut secrets = Secrets::default();
    secrets.add("the password", "hunter2-of-the-idp");
    secrets.add("the key in the query", "s3cr3t-api-key");
    let endpoint = Endpoint::start(answer).await;
    let url =
        format!("http://user:hunter2-of-the-idp@{}/jwks?key=s3cr3t-api-key", endpoint.address());
    let site = Site::new();
    let timing = "refresh = \"1s\"\ncooldown = \"1s\"";
    let corp = issuer(&format!("[keys]\njwks_url = \"{url}\"\n{timing}"));
    // Whoever refuses such an address at the start has nothing to hide later.
    let control = match site.try_start(&config("", vec![corp])).await {
        Ok(control) => control,
        Err(error) => return secrets.are_not_in("the error", &error.to_string()),
    };
    let errors =
        || metric(&control, "bulkhead_key_refreshes_total{issuer=\"corp\",outcome=\"error\"}");
    until_true("a fetch fails", || errors() > 0.0).await;
    endpoint.go_down().await;
    let before = errors();
    // Two, because the first may have begun before.
    until_true("fetches fail without an endpoint", || errors() >= before + 2.0).await;
    logged("keys of issuer 'corp'").await;
    secrets.are_not_in("the log", &LOG.text());
    secrets.are_not_in("the metrics", &control.auth().metrics().encode().unwrap());
    secrets.are_not_in("what Debug shows", &format!("{control:?} {:?}", control.config()));
}

#[tokio::test]
async fn passwords_and_shared_secrets_stay_in_their_files() {
    LazyLock::force(&LOG);
    let (site, mut secrets) = (Site::new(), Secrets::default());
    let shared = "a shared secret of more than thirty-two bytes";
    site.write("secret", shared);
    secrets.add("the shared secret", shared);
    site.write("password", "hunter2-of-etcd");
    secrets.add("etcd's password", "hunter2-of-etcd");
    let port = bulkhead_devkit::free_port().unwrap();
    let changes = format!(
        "dev = true\n[directory.etcd]\nendpoints = [\"http://127.0.0.1:{port}\"]\n\
         user = \"root\"\npassword_file = \"password\""
    );
    let corp = issuer("algorithms = [\"HS256\"]\nkeys.secret_file = \"secret\"");
    let control: Control = site.try_start(&config(&changes, vec![corp])).await.unwrap();
    let token = hmac(&json!({"alg": "HS256"}), &claims(json!({})), shared.as_bytes());
    let forged = hmac(&json!({"alg": "HS256"}), &claims(json!({})), b"another");
    assert!(control.auth().identify(&token, None).await.is_ok());
    assert!(control.auth().identify(&forged, None).await.is_err());
    until("etcd is missed", async || {
        let series = "bulkhead_directory_errors_total{kind=\"etcd\"}";
        (metric(&control, series) > 0.0).then_some(())
    })
    .await;
    site.write("secret", "short");
    logged("fewer than 32 bytes").await;
    secrets.are_not_in("the log", &LOG.text());
    secrets.are_not_in("what Debug shows", &format!("{control:?} {:?}", control.config()));
}
