//! Client certificates that the exchange issues for Zenoh: of devices that stay within their tenant and
//! are cut off when either is revoked.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use bulkhead_tests::zenoh::say::{self, key};
use bulkhead_tests::zenoh::{Authentication, Entrance, Greeting, Link, asked};
use bulkhead_tests::{Stack, Token, eventually, over_all_links};
use jiff::Timestamp;
use serde_json::{Value, json};
use zenoh::sample::Locality;
use zenoh_protocol::core::ZenohIdProto;
use zenoh_protocol::transport::close;

const INVALID: Option<u8> = Some(close::reason::INVALID);
const EXPIRED: Option<u8> = Some(close::reason::EXPIRED);
const ENCRYPTED: [Link; 2] = [Link::Tls, Link::Quic];

/// The certificate and the key that the exchange issues for a device's token.
async fn issue_for(stack: &Stack, token: &Token, request: Value) -> (String, String) {
    let mut asked = json!({"backend": "zenoh"});
    asked.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
    let request = reqwest::Client::new().post(stack.exchange_url());
    let request = request.bearer_auth(stack.token(token)).json(&asked);
    let response = request.send().await.unwrap().error_for_status().unwrap();
    let file: Value = response.json().await.unwrap();
    let pem = |name: &str| file["zenoh"]["tls"][name].as_str().unwrap().to_owned();
    assert_eq!(file["zenoh"]["urls"], json!(["zenoh+tls://broker.example:7447"]));
    let ca = std::fs::read_to_string(stack.folder().join("zenoh.pem")).unwrap();
    assert_eq!(pem("ca_pem"), ca);
    (pem("cert_pem"), pem("key_pem"))
}

async fn issue(stack: &Stack, tenant: &str, device: &str) -> (String, String) {
    issue_for(stack, &Token::device(tenant, device), json!({})).await
}

/// A listener, for a client that shows this.
fn showing(stack: &Stack, link: Link, (cert, key): &(String, String)) -> Entrance {
    stack.entrance(link).showing(cert, key)
}

/// A client that says nothing but its certificate.
fn bare() -> Greeting {
    Greeting::with(Authentication::None)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issued_certificates_stay_within_their_tenant() {
    let stack = Stack::zenoh().issues().start().await;
    let witness = stack.zenoh_witness("globex").await;
    let own = stack.zenoh_witness("acme").await;
    let issued = issue(&stack, "acme", "cam-1").await;
    for link in ENCRYPTED {
        let session = showing(&stack, link, &issued).try_connect(None).await.unwrap();
        let commands = session.declare_subscriber("device-connect/acme/cam-1/cmd").await.unwrap();
        let stolen = session.declare_subscriber("device-connect/globex/**");
        let stolen = stolen.allowed_origin(Locality::Remote).await.unwrap();
        bulkhead_tests::zenoh::settle(&session, "acme").await;
        session.put("device-connect/globex/x", "attack").await.unwrap();
        assert_eq!(asked(&session, "**").await, [""; 0]);
        session.put("device-connect/acme/cam-1/event/x", "own").await.unwrap();
        own.hears("put device-connect/acme/cam-1/event/x own").await;
        witness.friend.put("device-connect/globex/x", "secret").await.unwrap();
        own.friend.put("device-connect/acme/cam-1/cmd", "call").await.unwrap();
        commands.recv_async().await.unwrap();
        assert!(stolen.is_empty());
        own.heard_only(&[
            "put device-connect/acme/cam-1/event/x own",
            "put device-connect/acme/cam-1/cmd call",
        ])
        .await;
        witness.heard_only(&["put device-connect/globex/x secret"]).await;
        // With a token of the same device beside it.
        let token = stack.token(&Token::device("acme", "cam-1"));
        let mut raw = showing(&stack, link, &issued).enter(&Greeting::new(&token)).await;
        raw.sync("device-connect/acme/nobody").await;
    }
    let connected = |record: &&Value| {
        record["event"] == "connect"
            && record["device"] == "cam-1"
            && record["issuer"] == "exchange"
    };
    eventually("both are written down under the exchange", || {
        stack.audit().iter().filter(connected).count() == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_cut_off_and_refused_when_they_are_revoked() {
    let stack = Stack::zenoh().issues().start().await;
    let witness = stack.zenoh_witness("globex").await;
    for cause in ["id", "origin", "device", "superseded", "tenant"] {
        let device = format!("cam-{cause}");
        let origin = json!({"jti": format!("origin/of {device}")});
        let token = Token::device("acme", &device).with(origin);
        let issued = issue_for(&stack, &token, json!({})).await;
        let neighbour = issue(&stack, "acme", "neighbour").await;
        let mut neighbour = showing(&stack, Link::Tls, &neighbour).enter(&bare()).await;
        // Of the tenant's own issuer, with the certificate beside it.
        let fresh = Token::device("acme", &device).with(json!({"jti": "fresh"}));
        let beside = stack.greeting(&fresh);
        let mut live = Vec::new();
        for link in ENCRYPTED {
            for greeting in [bare(), beside.clone().zid(ZenohIdProto::rand())] {
                let entrance = showing(&stack, link, &issued);
                live.push((entrance.enter(&greeting).await, entrance, greeting));
            }
        }
        let code = stack.cut_off(cause, &device).await;
        for (mut raw, entrance, greeting) in live {
            assert_eq!(raw.closed().await, INVALID, "{cause}");
            assert_eq!(entrance.refuse(&greeting).await, INVALID, "{cause}");
        }
        eventually("they are counted", || stack.terminations(code) >= 4).await;
        stack.denied(code).await;
        if ["id", "origin", "device"].contains(&cause) {
            neighbour.sync("device-connect/acme/nobody").await;
        } else {
            assert_eq!(neighbour.closed().await, INVALID, "{cause}");
        }
        if cause == "superseded" {
            stack.let_in_again().await;
        }
    }
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_end_when_they_expire() {
    let stack = Stack::zenoh().issues().start().await;
    let token = Token::device("acme", "cam-1");
    let issued = issue_for(&stack, &token, json!({"ttl": "7s"})).await;
    let mut live = Vec::new();
    for link in ENCRYPTED {
        for greeting in [bare(), stack.greeting(&token)] {
            let entrance = showing(&stack, link, &issued);
            live.push((entrance.enter(&greeting).await, entrance, greeting));
        }
    }
    for (mut raw, entrance, greeting) in live {
        assert_eq!(raw.closed().await, EXPIRED);
        // The handshake of TLS ends, or within the certificate's last second that of Zenoh.
        let refused = entrance.refuse(&greeting).await;
        assert!([None, EXPIRED].contains(&refused), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_somebody_else_beside_a_certificate_is_refused() {
    let stack = Stack::zenoh().issues().start().await;
    let witness = stack.zenoh_witness("globex").await;
    let issued = issue(&stack, "acme", "cam-1").await;
    for link in ENCRYPTED {
        let entrance = showing(&stack, link, &issued);
        for other in [
            Token::device("acme", "cam-2"),
            Token::device("globex", "cam-1"),
            Token::role("acme", "member"),
            Token::role("globex", "member"),
        ] {
            assert_eq!(entrance.refuse(&stack.greeting(&other)).await, INVALID);
        }
        // A token that is none is not made good by a certificate.
        assert_eq!(entrance.refuse(&Greeting::new("guess")).await, INVALID);
        entrance.enter(&stack.greeting(&Token::device("acme", "cam-1"))).await;
    }
    stack.denied("carrier_conflict").await;
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_the_exchange_did_not_issue_are_refused() {
    let stack = Stack::zenoh().issues().start().await;
    let witness = stack.zenoh_witness("globex").await;
    let now = Timestamp::now().as_second();
    let uri = format!("bulkhead:identity?tenant=globex&device=cam-1&role=device&issued={now}");
    let token = stack.greeting(&Token::device("acme", "cam-1"));
    for shown in stack.foreign_certificates(&uri) {
        for link in ENCRYPTED {
            for greeting in [&bare(), &token] {
                // The handshake of TLS fails, whatever else is shown.
                let entrance = showing(&stack, link, &shown);
                assert_eq!(entrance.refuse(greeting).await, None);
            }
        }
    }
    // Of ours, with no identity or an odd one in it.
    for uri in [None, Some("https://globex/cam-1"), Some(&*uri.replace("globex", "globex/x"))] {
        let shown = stack.certified(uri);
        for link in ENCRYPTED {
            for greeting in [&bare(), &token] {
                assert_eq!(showing(&stack, link, &shown).refuse(greeting).await, INVALID);
            }
        }
    }
    stack.denied("certificate_invalid").await;
    // Nobody has to have one, but without one a token is needed.
    for link in ENCRYPTED {
        assert_eq!(stack.entrance(link).refuse(&bare()).await, INVALID);
        stack.entrance(link).enter(&token).await;
    }
    stack.denied("token_missing").await;
    witness.undisturbed().await;
}

over_all_links! {
    what_is_issued_for_others_is_worth_nothing_here,
}

async fn what_is_issued_for_others_is_worth_nothing_here(link: Link) {
    let stack = Stack::zenoh().issues().mqtt("device_urls = [\"mqtts://h:8883\"]").start().await;
    let request = reqwest::Client::new().post(stack.exchange_url());
    let request = request.bearer_auth(stack.token(&Token::device("acme", "cam-1")));
    let request = request.json(&json!({"backend": "mqtt", "certificate": true}));
    let file: Value = request.send().await.unwrap().json().await.unwrap();
    let password = file["mqtt"]["credentials"]["password"].as_str().unwrap();
    assert_eq!(stack.entrance(link).refuse(&Greeting::new(password)).await, INVALID);
    let mut own =
        stack.entrance(link).enter(&stack.greeting(&Token::device("acme", "cam-1"))).await;
    own.say([say::put(key("device-connect/acme/cam-1/event/x"), "own")]).await;
    own.sync("device-connect/acme/cam-2/cmd").await;
}
