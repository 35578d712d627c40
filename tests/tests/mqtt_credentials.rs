//! What the exchange issues for MQTT: passwords and client certificates, of devices that stay within
//! their tenant and are cut off when either is revoked.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

#[path = "../python/script.rs"]
mod script;

use bulkhead_devkit::{MosquittoServer, Tools};
use bulkhead_tests::mqtt::codec::{Property, ReasonCode, Version};
use bulkhead_tests::mqtt::{Door, Hello};
use bulkhead_tests::{Stack, Token, Transport, eventually, eventually_async};
use jiff::{SignedDuration, Timestamp};
use reqwest::StatusCode;
use rustls::HandshakeKind;
use script::Script;
use serde_json::{Value, json};
use std::process::Command;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;

const DENIED: ReasonCode = ReasonCode::NOT_AUTHORIZED;
const BAD: ReasonCode = ReasonCode::BAD_USER_NAME_OR_PASSWORD;
const CUT: Option<ReasonCode> = Some(ReasonCode::ADMINISTRATIVE_ACTION);
const FOREIGN: &str = "device-connect/globex/cam-1/cmd";

/// The `mqtt` section of a credentials file.
struct Section(Value);

impl Section {
    fn password(&self) -> &str {
        self.0["credentials"]["password"].as_str().unwrap()
    }

    fn certificate(&self) -> (&str, &str) {
        let tls = &self.0["tls"];
        (tls["cert_pem"].as_str().unwrap(), tls["key_pem"].as_str().unwrap())
    }

    /// A client that shows the certificate alone, on this door.
    fn shown_at(&self, door: Door) -> Door {
        let (cert, key) = self.certificate();
        door.showing(cert, key)
    }
}

/// Asks the exchange with any bearer.
async fn ask(stack: &Stack, bearer: &str, request: Value) -> (StatusCode, Value) {
    let sending =
        reqwest::Client::new().post(stack.exchange_url()).bearer_auth(bearer).json(&request);
    let response = sending.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

/// What a device gets for its token, with a certificate.
async fn issue_for(stack: &Stack, token: &Token, request: Value) -> Section {
    let mut asked = json!({"backend": "mqtt", "certificate": true});
    asked.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
    let (status, file) = ask(stack, &stack.token(token), asked).await;
    assert_eq!(status, StatusCode::OK, "{file}");
    Section(file["mqtt"].clone())
}

async fn issue(stack: &Stack, tenant: &str, device: &str) -> Section {
    issue_for(stack, &Token::device(tenant, device), json!({})).await
}

fn bare(client_id: &str) -> Hello {
    Hello::new(client_id, "").without_password()
}

/// The ways in which a device can show its credentials.
fn ways(stack: &Stack, section: &Section) -> Vec<(&'static str, Door, Hello)> {
    let by_password = Hello::new("cam", section.password());
    let certified = |transport| section.shown_at(stack.door(transport));
    vec![
        ("password, tcp", stack.tcp(), by_password.clone()),
        ("password, wss", stack.door(Transport::Wss), by_password.clone()),
        ("certificate, tls", certified(Transport::Tls), bare("cam")),
        ("certificate, wss", certified(Transport::Wss), bare("cam")),
        ("certificate, 3.1.1", certified(Transport::Tls), bare("cam").version(Version::V311)),
        ("both", certified(Transport::Tls), by_password),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issued_identities_stay_within_their_tenant() {
    let stack = Stack::mqtt().issues().start().await;
    let mut witness = stack.witness("globex").await;
    let mut member = stack.witness("acme").await;
    let section = issue(&stack, "acme", "cam-1").await;
    for (way, door, hello) in ways(&stack, &section) {
        let mut client = door.connect(&hello).await;
        client.subscribed("device-connect/acme/cam-1/cmd").await;
        for filter in [
            "#",
            "device-connect/globex/#",
            FOREIGN,
            "device-connect/+/cam-1/cmd",
            "device-connect/acme/cam-2/cmd",
        ] {
            assert!(client.subscribe(filter).await.is_error(), "{way}: {filter}");
        }
        witness.published(FOREIGN, "secret").await;
        assert_eq!(witness.payload().await, "secret");
        member.published("device-connect/acme/cam-1/cmd", "call").await;
        assert_eq!(member.payload().await, "call");
        assert_eq!(client.payload().await, "call", "{way}");
        client.publish("device-connect/acme/cam-1/event/motion", way).await;
        assert_eq!(member.payload().await, way);
        if hello.version == Version::V5 {
            assert_eq!(client.publish1(FOREIGN, "attack").await, DENIED, "{way}");
            client.nothing().await;
            client.goodbye().await;
        } else {
            client.publish(FOREIGN, "attack").await;
            client.closed().await;
        }
    }
    stack.denied("publish_denied").await;
    witness.nothing().await;
    let connected = |record: &Value| record["event"] == "connect" && record["device"] == "cam-1";
    eventually("each is written down under the exchange", || {
        let records = stack.audit().into_iter().filter(connected);
        records.filter(|record| record["issuer"] == "exchange").count() == 6
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_clients_connect_with_what_was_issued() {
    let stack = Stack::mqtt().issues().start().await;
    let mut witness = stack.witness("globex").await;
    let mut member = stack.witness("acme").await;
    let section = issue(&stack, "acme", "cam-1").await;
    let (cert, key) = section.certificate();
    let file = |name: &str| stack.folder().join(name).display().to_string();
    std::fs::write(file("cam.pem"), cert).unwrap();
    std::fs::write(file("cam.key"), key).unwrap();
    let user = section.0["credentials"]["username"].as_str().unwrap();
    let by_password =
        vec!["-u".to_owned(), user.to_owned(), "-P".to_owned(), section.password().to_owned()];
    let by_certificate =
        vec!["--cert".to_owned(), file("cam.pem"), "--key".to_owned(), file("cam.key")];
    let own = "device-connect/acme/cam-1/event/motion";
    let run = async |name: &str, subscribe: bool, shown: &[String], more: &[&str]| {
        let tools = Tools::open().unwrap().mosquitto().unwrap();
        let mut command = Command::new(if subscribe { tools.subscribe } else { tools.publish });
        let port = stack.door(Transport::Tls).address.port().to_string();
        command.args(["-h", "localhost", "-p", &port, "-q", "1", "--cafile", &file("mqtt.pem")]);
        command.args(shown).args(more);
        Script::of(stack.folder(), name, move || command).await
    };
    for (way, shown) in [("password", by_password), ("certificate", by_certificate)] {
        for version in ["311", "5"] {
            let name = |what: &str| format!("{what}-{way}-{version}");
            let publish = ["-V", version, "-t", own, "-m", way];
            let told = run(&name("pub"), false, &shown, &publish).await.output().await;
            assert_eq!(told, "", "it goes without a word");
            assert_eq!(member.payload().await, way);
            let attack = ["-V", version, "-t", FOREIGN, "-m", "attack"];
            let told = run(&name("attack"), false, &shown, &attack).await.output().await;
            assert_ne!(told, "", "{way}, {version}");
            let stolen = ["-V", version, "-t", "#", "-t", "device-connect/globex/#"];
            let told = run(&name("stolen"), true, &shown, &stolen).await.output().await;
            assert!(told.contains("All subscription requests were denied"), "{told}");
            let calls = [
                "-V",
                version,
                "-t",
                "device-connect/acme/cam-1/cmd",
                "-t",
                FOREIGN,
                "-C",
                "1",
                "-W",
                "20",
            ];
            let before = stack.refusals("subscribe", "subscribe_denied");
            let client = run(&name("sub"), true, &shown, &calls).await;
            eventually("it has subscribed", || {
                stack.refusals("subscribe", "subscribe_denied") > before
            })
            .await;
            witness.published(FOREIGN, "secret").await;
            assert_eq!(witness.payload().await, "secret");
            member.published("device-connect/acme/cam-1/cmd", "call").await;
            assert_eq!(member.payload().await, "call");
            let heard = client.output().await;
            assert!(heard.contains("call") && !heard.contains("secret"), "{heard}");
        }
    }
    witness.nothing().await;
    member.nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_cut_off_and_refused_when_they_are_revoked() {
    let stack = Stack::mqtt().issues().start().await;
    let mut globex = stack.witness("globex").await;
    // The last two are about the whole tenant.
    for cause in ["id", "origin", "device", "superseded", "tenant"] {
        let device = format!("cam-{cause}");
        let token =
            Token::device("acme", &device).with(json!({"jti": format!("origin/of {device}")}));
        let section = issue_for(&stack, &token, json!({})).await;
        let neighbour = issue(&stack, "acme", "neighbour").await;
        let mut neighbour = stack.tcp().connect(&Hello::new("n", neighbour.password())).await;
        let mut live = Vec::new();
        for (n, (way, door, mut hello)) in ways(&stack, &section).into_iter().enumerate() {
            hello.client_id = format!("cam-{n}");
            live.push((way, door.connect(&hello).await, door, hello));
        }
        let code = stack.cut_off(cause, &device).await;
        let terminated = || stack.terminations(code);
        for (way, mut client, door, hello) in live {
            let told = if hello.version == Version::V5 { CUT } else { None };
            assert_eq!(client.closed().await, told, "{cause}: {way}");
            assert!(door.refuse(&hello).await.is_error(), "{cause}: {way}");
        }
        eventually("they are counted", || terminated() >= 6).await;
        stack.denied(code).await;
        if ["id", "origin", "device"].contains(&cause) {
            neighbour.ping().await;
        } else {
            assert_eq!(neighbour.closed().await, CUT, "{cause}");
        }
        if cause == "superseded" {
            stack.let_in_again().await;
        }
    }
    globex.ping().await;
}

/// A token of the tenant's own issuer is not cut off by its certificate's id; what is shown beside it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shown_beside_a_token_has_to_hold_too() {
    let stack = Stack::mqtt().issues().start().await;
    let section = issue(&stack, "acme", "cam-1").await;
    let hello = stack.hello("beside", &Token::device("acme", "cam-1"));
    let door = section.shown_at(stack.door(Transport::Tls));
    let mut beside = door.connect(&hello).await;
    let mut alone = stack
        .door(Transport::Tls)
        .connect(&stack.hello("alone", &Token::device("acme", "cam-1")))
        .await;
    let code = stack.cut_off("id", "cam-1").await;
    assert_eq!(beside.closed().await, CUT);
    assert_eq!(door.refuse(&hello).await, DENIED);
    stack.denied(code).await;
    alone.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_somebody_else_beside_a_certificate_is_refused() {
    let stack = Stack::mqtt().issues().start().await;
    let section = issue(&stack, "acme", "cam-1").await;
    let others = [
        Token::device("acme", "cam-2"),
        Token::device("globex", "cam-1"),
        Token::role("acme", "member"),
        Token::role("globex", "member"),
    ];
    for transport in [Transport::Tls, Transport::Wss] {
        let door = section.shown_at(stack.door(transport));
        for other in &others {
            assert_eq!(door.refuse(&stack.hello("other", other)).await, BAD);
        }
        door.connect(&stack.hello("own", &Token::device("acme", "cam-1"))).await.ping().await;
        // A password that is none is not made good by a certificate.
        assert_eq!(door.refuse(&Hello::new("guess", "guess")).await, BAD);
    }
    stack.denied("carrier_conflict").await;

    // Nor is it for one that comes later, by AUTH.
    let own = stack.token(&Token::device("acme", "cam-1"));
    let renewing = |token: &str| {
        bare("renewing")
            .with(Property::AuthenticationMethod("JWT"))
            .with(Property::AuthenticationData(token.as_bytes()))
    };
    let door = section.shown_at(stack.door(Transport::Tls));
    let mut client = door.connect(&renewing(&own)).await;
    let newer = stack.token(&Token::device("acme", "cam-1").ttl(500));
    assert_eq!(client.renew(&newer).await, None);
    // What was shown beside the first token counts for the second as well.
    let code = stack.cut_off("id", "cam-1").await;
    assert_eq!(client.closed().await, CUT);
    stack.denied(code).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_end_when_they_expire() {
    let stack = Stack::mqtt().issues().start().await;
    let token = Token::device("acme", "cam-1");
    let section = issue_for(&stack, &token, json!({"ttl": "8s"})).await;
    let mut live = Vec::new();
    for (n, (way, door, mut hello)) in ways(&stack, &section).into_iter().enumerate() {
        hello.client_id = format!("cam-{n}");
        live.push((way, door.connect(&hello).await, hello.version));
    }
    let door = section.shown_at(stack.door(Transport::Tls));
    let beside = stack.hello("beside", &token);
    live.push(("beside a longer token", door.connect(&beside).await, Version::V5));
    for (way, mut client, version) in live {
        let told = (version == Version::V5).then_some(ReasonCode::MAXIMUM_CONNECT_TIME);
        assert_eq!(client.closed().await, told, "{way}");
    }
    assert_eq!(stack.tcp().refuse(&Hello::new("late", section.password())).await, BAD);
    // The handshake ends, or within the certificate's last second the CONNECT is refused.
    for hello in [&bare("late"), &beside] {
        let knocked = door.try_knock(hello).await;
        assert!(knocked.is_none_or(|(_, reason)| reason.is_error()));
    }
}

/// TLS resumes a session without looking at the certificate again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_session_does_not_outlive_the_certificate() {
    let stack = Stack::mqtt().issues().start().await;
    let section = issue_for(&stack, &Token::device("acme", "cam-1"), json!({"ttl": "8s"})).await;
    let door = section.shown_at(stack.door(Transport::Tls));
    let config = Arc::new(door.tls().unwrap());
    let connect = async || {
        let stream = TcpStream::connect(door.address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let mut stream =
            TlsConnector::from(Arc::clone(&config)).connect(name, stream).await.unwrap();
        stream.write_all(&bare("cam-1").packet()).await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        let kind = stream.get_ref().1.handshake_kind().unwrap();
        (stream, kind, ReasonCode(answer[3]))
    };
    let (mut first, kind, reason) = connect().await;
    assert_eq!((kind, reason), (HandshakeKind::Full, ReasonCode::SUCCESS));
    // The listener may have read its files once more in between, and then knows no session.
    eventually_async("a session is resumed", async || {
        let (_next, kind, reason) = connect().await;
        assert_eq!(reason, ReasonCode::SUCCESS);
        kind == HandshakeKind::Resumed
    })
    .await;
    // Taken over, and so at its end.
    let mut rest = Vec::new();
    let _ = first.read_to_end(&mut rest).await;
    eventually_async("the certificate is no longer good", async || connect().await.2 == BAD).await;
    let (_late, kind, reason) = connect().await;
    assert_eq!((kind, reason), (HandshakeKind::Resumed, BAD));
    stack.denied("token_expired").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_the_exchange_did_not_issue_are_refused() {
    let stack = Stack::mqtt().issues().start().await;
    let now = Timestamp::now().as_second();
    let uri = format!("bulkhead:identity?tenant=acme&device=cam-1&role=device&issued={now}");
    let token = stack.hello("with-a-token", &Token::device("acme", "cam-1"));
    // Of another authority, of one that took the name of ours, and of its own making: the handshake
    // fails, whatever else is shown.
    for (cert, key) in stack.foreign_certificates(&uri) {
        for transport in [Transport::Tls, Transport::Wss] {
            let door = stack.door(transport).showing(&cert, &key);
            for hello in [&bare("foreign"), &token] {
                assert!(door.try_knock(hello).await.is_none());
            }
        }
    }

    // Of ours, with no identity or an odd one in it: somebody has used its key for something else.
    let good = stack.certified(Some(&uri));
    let serial = stack.door(Transport::Tls).showing(&good.0, &good.1);
    assert_eq!(serial.refuse(&bare("long-serial")).await, DENIED, "its serial number is no id");
    for uri in [None, Some("https://acme/cam-1"), Some(&*uri.replace("acme", "acme/x"))] {
        let (cert, key) = stack.certified(uri);
        let door = stack.door(Transport::Tls).showing(&cert, &key);
        assert_eq!(door.refuse(&bare("odd")).await, DENIED, "{uri:?}");
        assert_eq!(door.refuse(&token).await, DENIED, "with a token: {uri:?}");
    }
    stack.denied("certificate_invalid").await;

    // Nobody has to have one, but without one a token is needed.
    assert_eq!(stack.door(Transport::Tls).refuse(&bare("anonymous")).await, BAD);
    stack.denied("token_missing").await;
    stack.door(Transport::Tls).connect(&token).await.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_are_exchanged_while_the_listeners_run() {
    let stack = Stack::mqtt().issues().start().await;
    let section = issue(&stack, "acme", "cam-1").await;
    let old = section.shown_at(stack.door(Transport::Tls));
    old.connect(&bare("before")).await.ping().await;
    let other = tempfile::tempdir().unwrap();
    let keys = bulkhead_control::identity::ExchangeKeys::open_or_create(other.path()).unwrap();
    let hour = SignedDuration::from_hours(1);
    let subject = bulkhead_control::http::exchange::Subject::new(
        "acme".parse().unwrap(),
        "cam-2".parse().unwrap(),
        "device".parse().unwrap(),
        None,
        hour,
    );
    let made = keys.authority().issue(&subject.unwrap()).unwrap();
    let key = secrecy::ExposeSecret::expose_secret(&made.key_pem);
    let new = stack.door(Transport::Wss).showing(&made.cert_pem, key);
    assert!(new.try_knock(&bare("early")).await.is_none());
    std::fs::copy(other.path().join("ca.pem"), stack.folder().join("exchange/ca.pem")).unwrap();
    let is_let_in = async |door: &Door, id: &str| {
        matches!(door.try_knock(&bare(id)).await, Some((_, ReasonCode::SUCCESS)))
    };
    eventually_async("the new authority is trusted", async || is_let_in(&new, "new").await).await;
    eventually_async("the old one is not", async || !is_let_in(&old, "old").await).await;
}

/// The broker has public keys only; the exchange is somewhere else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exchange_may_be_another_process() {
    let exchange = Stack::mqtt().issues().start().await;
    let section = issue(&exchange, "acme", "cam-1").await;
    let public = tempfile::tempdir().unwrap();
    for name in ["ca.pem", "tokens.jwks.json"] {
        std::fs::copy(exchange.folder().join("exchange").join(name), public.path().join(name))
            .unwrap();
    }
    let at = |name: &str| public.path().join(name).display().to_string();
    let jwks = format!("exchange_jwks_file = {:?}", at("tokens.jwks.json"));
    let broker = Stack::mqtt().mqtt(&jwks).client_ca(&at("ca.pem")).start().await;
    assert!(!broker.folder().join("exchange").exists());
    for (way, door, hello) in ways(&broker, &section) {
        let mut client = door.connect(&hello).await;
        client.subscribed("device-connect/acme/cam-1/cmd").await;
        assert!(client.subscribe(FOREIGN).await.is_error(), "{way}");
        client.goodbye().await;
    }
    // One that knows of no exchange takes nothing of it.
    let plain = Stack::mqtt().start().await;
    assert_eq!(plain.tcp().refuse(&Hello::new("cam-1", section.password())).await, DENIED);
    let door = section.shown_at(plain.door(Transport::Tls));
    assert_eq!(door.refuse(&bare("cam-1")).await, BAD);
}

/// The same front, before mosquitto.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_another_broker_they_are_as_good() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_owned();
    let mosquitto = spawn_blocking(move || {
        let programs = Tools::open().unwrap().mosquitto().unwrap();
        MosquittoServer::start(&programs.broker, &home, "allow_anonymous true\n").unwrap()
    });
    let mosquitto = mosquitto.await.unwrap();
    let upstream = format!("upstream = {:?}", format!("mqtt://{}", mosquitto.address()));
    let stack = Stack::mqtt().issues().mqtt(&upstream).start().await;
    let mut witness = stack.witness("globex").await;
    let section = issue(&stack, "acme", "cam-1").await;
    let own = stack.token(&Token::device("acme", "cam-1"));
    let renewing = bare("renewing")
        .with(Property::AuthenticationMethod("JWT"))
        .with(Property::AuthenticationData(own.as_bytes()));
    let door = section.shown_at(stack.door(Transport::Tls));
    let mut renewed = door.connect(&renewing).await;
    assert_eq!(renewed.renew(&stack.token(&Token::device("acme", "cam-1").ttl(500))).await, None);
    let mut live = vec![("renewed", renewed)];
    for (n, (way, door, mut hello)) in ways(&stack, &section).into_iter().enumerate() {
        hello.client_id = format!("cam-{n}");
        let mut client = door.connect(&hello).await;
        client.subscribed("device-connect/acme/cam-1/cmd").await;
        assert!(client.subscribe(FOREIGN).await.is_error(), "{way}");
        live.push((way, client));
    }
    let code = stack.cut_off("id", "cam-1").await;
    for (_, mut client) in live {
        client.closed().await;
    }
    stack.denied(code).await;
    assert_eq!(door.refuse(&bare("again")).await, DENIED);
    witness.nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_gets_no_further_credentials() {
    let stack = Stack::mqtt().issues().start().await;
    let section = issue(&stack, "acme", "cam-1").await;
    let (status, answer) = ask(&stack, section.password(), json!({})).await;
    assert_eq!((status, &answer["error"]), (StatusCode::UNAUTHORIZED, &json!("issuer_unknown")));
    // MQTT is the only backend, so it need not be named; a certificate is not given unasked.
    let token = stack.token(&Token::device("acme", "cam-1"));
    let (status, file) = ask(&stack, &token, json!({})).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(file["mqtt"]["urls"], json!(["mqtts://broker.example:8883"]));
    assert!(file["mqtt"].get("tls").is_none() && file.get("nats").is_none(), "{file}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_of_them_is_written_down() {
    let stack = Stack::mqtt().issues().start().await;
    let section = issue(&stack, "acme", "cam-1").await;
    for (_, door, hello) in ways(&stack, &section) {
        door.connect(&hello).await.goodbye().await;
    }
    let mut live = stack.tcp().connect(&Hello::new("live", section.password())).await;
    let code = stack.cut_off("id", "cam-1").await;
    assert_eq!(live.closed().await, CUT);
    for (_, door, hello) in ways(&stack, &section) {
        door.refuse(&hello).await;
    }
    stack.denied(code).await;
    let (cert, key) = section.certificate();
    let signature = section.password().rsplit('.').next().unwrap();
    let claims = section.password().split('.').nth(1).unwrap();
    let audit = std::fs::read_to_string(stack.folder().join("audit.jsonl")).unwrap();
    for (place, text) in [("the audit log", audit), ("the metrics", stack.metrics())] {
        let secrets =
            [signature, claims, cert.lines().nth(1).unwrap(), key.lines().nth(1).unwrap()];
        for secret in secrets {
            assert!(!text.contains(secret), "{secret} is in {place}");
        }
        assert!(!text.contains("PRIVATE KEY"), "{place}");
    }
}
