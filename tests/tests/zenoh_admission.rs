//! Who gets in at the Zenoh gate, with what, and how a handshake may not go.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use bulkhead_cli::signer::Signer;
use bulkhead_devkit::Server;
use bulkhead_policy::Status;
use bulkhead_tests::zenoh::say::{self, key};
use bulkhead_tests::zenoh::{Authentication, Entrance, Greeting, Link, Raw, Said, Witness, asked};
use bulkhead_tests::{Stack, Token, eventually, eventually_async, over_all_links};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use std::process::Command;
use zenoh_protocol::core::{Priority, Reliability, WhatAmI, ZenohIdProto};
use zenoh_protocol::network::NetworkBody;
use zenoh_protocol::transport::{KeepAlive, TransportBody, close};

over_all_links! {
    whoever_shows_no_token_is_refused,
    a_handshake_goes_one_way_only,
    nothing_is_agreed_to_that_would_go_around_the_gate,
    slow_handshakes_end_and_hold_nobody_up,
    one_id_in_two_tenants_is_two_clients,
}

const INVALID: Option<u8> = Some(close::reason::INVALID);
const EXPIRED: Option<u8> = Some(close::reason::EXPIRED);
const UNSUPPORTED: Option<u8> = Some(close::reason::UNSUPPORTED);
const MANY_FAILURES: &str = "[limits]\nfailures_per_minute = 10000";
const NOBODY: &str = "device-connect/acme/nobody";
const OWN: &str = "put device-connect/acme/x own";

/// A token with this header that is signed as the signer would, or not at all.
fn with_header(stack: &Stack, header: &Value, signature: Option<&str>) -> String {
    let good = stack.token(&Token::role("acme", "member"));
    let parts: Vec<_> = good.split('.').collect();
    let header = BASE64URL_NOPAD.encode(header.to_string().as_bytes());
    format!("{header}.{}.{}", parts[1], signature.unwrap_or(parts[2]))
}

/// How often a client was refused for this reason.
fn refused_for(stack: &Stack, reason: &str) -> u64 {
    let labels = format!("backend=\"zenoh\",outcome=\"denied\",reason=\"{reason}\"");
    stack.metric(&format!("bulkhead_auth_requests_total{{{labels}}}"))
}

/// Makes sure that a session is good for something.
async fn works(raw: &mut Raw, own: &Witness) {
    raw.say([say::put(key("device-connect/acme/x"), "own")]).await;
    raw.sync(NOBODY).await;
    own.heard_only(&[OWN]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_vouched_for_is_refused_with_a_code() {
    let stack = Stack::zenoh().config(MANY_FAILURES).start().await;
    let own = stack.zenoh_witness("acme").await;
    let witness = stack.zenoh_witness("globex").await;
    let stranger = Signer::create(&stack.folder().join("stranger.pem")).unwrap();
    let acme = || Token::device("acme", "cam-1");
    let claims = |claims: Value| stack.token(&acme().with(claims));
    let large = "x".repeat(16_000);
    let cases = [
        ("token_malformed", INVALID, "not-a-token".to_owned()),
        ("token_malformed", INVALID, "a.b.c".to_owned()),
        ("key_unknown", INVALID, stranger.sign(&acme().claims()).unwrap()),
        ("issuer_unknown", INVALID, claims(json!({"iss": "https://other.test"}))),
        ("issuer_unknown", INVALID, claims(json!({"iss": null}))),
        ("audience_mismatch", INVALID, claims(json!({"aud": "bulkhead2"}))),
        ("audience_mismatch", INVALID, claims(json!({"aud": ["xbulkheadx", "other"]}))),
        ("audience_mismatch", INVALID, claims(json!({"aud": null}))),
        ("claim_missing", INVALID, claims(json!({"exp": null}))),
        ("claim_missing", INVALID, claims(json!({"tenant": null}))),
        ("claim_invalid", INVALID, claims(json!({"exp": "tomorrow"}))),
        ("claim_invalid", INVALID, claims(json!({"exp": -1}))),
        ("claim_invalid", INVALID, claims(json!({"exp": 1e300}))),
        ("token_expired", EXPIRED, stack.token(&acme().ttl(-5))),
        // A client comes back at once when its session ends.
        ("token_expired", EXPIRED, stack.token(&acme().ttl(1))),
        ("token_not_yet_valid", INVALID, claims(json!({"nbf": 32_503_680_000_i64}))),
        ("tenant_unknown", INVALID, stack.token(&Token::device("initech", "cam-1"))),
        ("tenant_unknown", INVALID, claims(json!({"tenant": "ACME"}))),
        ("tenant_invalid", INVALID, claims(json!({"tenant": ["acme"]}))),
        ("role_not_allowed", INVALID, stack.token(&Token::role("acme", "service"))),
        ("role_unknown", INVALID, stack.token(&Token::role("acme", "#"))),
        ("device_required", INVALID, stack.token(&Token::role("acme", "device"))),
        ("token_too_large", INVALID, claims(json!({"padding": large}))),
    ];
    for (reason, code, token) in cases {
        let before = refused_for(&stack, reason);
        assert_eq!(stack.zenoh_tcp().refuse(&Greeting::new(&token)).await, code, "{reason}");
        assert!(stack.zenoh_tcp().try_connect(Some(&token)).await.is_err(), "{reason}");
        stack.denied(reason).await;
        assert!(refused_for(&stack, reason) >= before + 2, "{reason} is counted");
    }
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256", "RS256"] {
        for signature in [Some(""), Some("AA"), None] {
            let header = json!({"alg": alg, "kid": stack.signer().key_id()});
            let token = with_header(&stack, &header, signature);
            assert_eq!(stack.zenoh_tcp().refuse(&Greeting::new(&token)).await, INVALID, "{alg}");
        }
    }
    stack.denied("algorithm_not_allowed").await;
    // Nobody is asked for the keys that a token names, and none that it brings is taken.
    let kid = stack.signer().key_id();
    for header in [
        json!({"alg": "EdDSA", "kid": kid, "jwk": stack.signer().jwks()["keys"][0]}),
        json!({"alg": "EdDSA", "kid": kid, "jku": "http://127.0.0.1:9/keys"}),
        json!({"alg": "EdDSA", "kid": kid, "x5u": "http://127.0.0.1:9/cert"}),
    ] {
        let token = with_header(&stack, &header, None);
        assert_eq!(stack.zenoh_tcp().refuse(&Greeting::new(&token)).await, INVALID, "{header}");
    }
    stack.denied("signature_invalid").await;
    for kid in ["../../etc/passwd", "'; --", "a\r\nb", &"k".repeat(10_000), "\0"] {
        let token = with_header(&stack, &json!({"alg": "EdDSA", "kid": kid}), None);
        assert_eq!(stack.zenoh_tcp().refuse(&Greeting::new(&token)).await, INVALID);
    }
    witness.undisturbed().await;
    // The same key again, now with its own claims.
    let mut raw = stack.zenoh_tcp().enter(&stack.greeting(&Token::role("acme", "member"))).await;
    works(&mut raw, &own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_zenoh_would_read_its_own_way_are_refused() {
    let stack = Stack::zenoh().config(MANY_FAILURES).start().await;
    let own = stack.zenoh_witness("acme").await;
    let witness = stack.zenoh_witness("globex").await;
    let huge = "a".repeat(10_000);
    let hostile = [
        "",
        "*",
        "**",
        "$*",
        "acm$*",
        "a/b",
        "/",
        "@",
        "@/x",
        ".",
        "..",
        "?",
        "#",
        " ",
        "acme ",
        "acme\0",
        "a\nb",
        "\u{430}cme",
        "acme\u{301}",
        "-a",
        "device",
        "registry",
        "broadcast",
        &huge,
    ];
    for id in hostile {
        let tenant = stack.token(&Token::role("acme", "member").with(json!({"tenant": id})));
        let device = stack.token(&Token::device("acme", "cam-1").with(json!({"device": id})));
        for token in [tenant, device] {
            assert_eq!(stack.zenoh_tcp().refuse(&Greeting::new(&token)).await, INVALID, "{id:?}");
        }
    }
    for reason in ["tenant_invalid", "device_invalid"] {
        assert_eq!(refused_for(&stack, reason), hostile.len() as u64, "{reason}");
    }
    let greedy = Token::device("acme", "cam-1").with(json!({
        "permissions": {"subscribe": ["**"]}, "service": true, "tenants": ["acme", "globex"],
        "zenoh": {"publish": ["**"], "subscribe": ["**"]}, "quotas": {"connections": 1_000_000},
    }));
    let session = stack.zenoh_session(&greedy).await;
    session.put("device-connect/globex/x", "attack").await.unwrap();
    assert_eq!(asked(&session, "**").await, [""; 0]);
    witness.undisturbed().await;
    own.undisturbed().await;
}

async fn whoever_shows_no_token_is_refused(link: Link) {
    let stack = Stack::zenoh().config(MANY_FAILURES).start().await;
    let own = stack.zenoh_witness("acme").await;
    let entrance = stack.entrance(link);
    let token = stack.token(&Token::role("acme", "member"));
    let shown = [
        Authentication::None,
        Authentication::Announced,
        Authentication::User(Vec::new()),
        Authentication::Unannounced(token.clone().into_bytes()),
    ];
    for (n, authentication) in (1..).zip(shown) {
        let greeting = Greeting::with(authentication);
        assert_eq!(entrance.refuse(&greeting).await, INVALID, "{:?}", greeting.authentication);
        assert_eq!(refused_for(&stack, "token_missing"), n);
    }
    assert!(entrance.try_connect(None).await.is_err());
    stack.denied("token_missing").await;
    for garbage in [vec![], vec![0xff; 40], vec![0x42, 0xff], token.clone().into_bytes()] {
        let greeting = Greeting::with(Authentication::Garbage(garbage));
        assert_eq!(entrance.refuse(&greeting).await, INVALID);
    }
    // A user name that is no text.
    let binary = Greeting::with(Authentication::User(vec![0xff, 0xfe, 0x80]));
    assert_eq!(entrance.refuse(&binary).await, INVALID);
    works(&mut entrance.enter(&Greeting::new(&token)).await, &own).await;
}

/// The cookie that the gate answers to a first message with.
async fn cookie(raw: &mut Raw, greeting: &Greeting) -> zenoh_buffers::ZSlice {
    raw.transport(greeting.init_syn()).await;
    match raw.next().await {
        Some(Said::Step(step)) => match *step {
            TransportBody::InitAck(ack) => ack.cookie,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

async fn a_handshake_goes_one_way_only(link: Link) {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let witness = stack.zenoh_witness("globex").await;
    let entrance = stack.entrance(link);
    let good = stack.greeting(&Token::role("acme", "member"));
    let attack = || say::put(key("device-connect/globex/x"), "attack");

    // Another message than the first, which may be one that an open session could send.
    let mut raw = entrance.knock().await;
    raw.transport(good.open_syn(vec![0; 16].into())).await;
    assert_eq!(raw.closed().await, INVALID);
    let mut raw = entrance.knock().await;
    raw.frame(0, Priority::Data, Reliability::Reliable, [attack()]).await;
    assert_eq!(raw.closed().await, INVALID);
    let mut raw = entrance.knock().await;
    raw.transport(KeepAlive).await;
    assert_eq!(raw.closed().await, INVALID);
    let mut raw = entrance.knock().await;
    raw.batch(&[0xff; 100]).await;
    assert_eq!(raw.closed().await, INVALID);
    let mut raw = entrance.knock().await;
    raw.batch(&[]).await;
    assert_eq!(raw.closed().await, INVALID);

    // Another message than the second.
    let mut raw = entrance.knock().await;
    cookie(&mut raw, &good).await;
    raw.transport(good.init_syn()).await;
    assert_eq!(raw.closed().await, INVALID);
    let mut raw = entrance.knock().await;
    cookie(&mut raw, &good).await;
    raw.frame(0, Priority::Data, Reliability::Reliable, [attack()]).await;
    assert_eq!(raw.closed().await, INVALID);

    // A cookie that is wrong, missing, longer, or another connection's.
    let mut other = entrance.knock().await;
    let theirs = cookie(&mut other, &good).await;
    let theirs = zenoh_buffers::buffer::SplitBuffer::contiguous(&theirs).to_vec();
    for wrong in [vec![0; 16], vec![1], [theirs.clone(), vec![0]].concat(), theirs] {
        let greeting = Greeting { cookie: Some(wrong), ..good.clone() };
        assert_eq!(entrance.refuse(&greeting).await, INVALID);
    }
    drop(other);

    for (what, greeting) in [
        ("a router", Greeting { whatami: WhatAmI::Router, ..good.clone() }),
        ("another version", Greeting { version: 8, ..good.clone() }),
        ("no marked fragments", Greeting { patch: 0, ..good.clone() }),
        ("tiny batches", Greeting { batch_size: 64, ..good.clone() }),
        ("batches of nothing", Greeting { batch_size: 0, ..good.clone() }),
    ] {
        assert_eq!(entrance.refuse(&greeting).await, UNSUPPORTED, "{what}");
    }
    eventually("all are counted", || {
        let name = "bulkhead_zenoh_handshakes_failed_total{cause=\"protocol\"}";
        stack.metric(name) >= 16
    })
    .await;
    works(&mut entrance.enter(&good).await, &own).await;
    witness.undisturbed().await;
}

async fn nothing_is_agreed_to_that_would_go_around_the_gate(link: Link) {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let witness = stack.zenoh_witness("globex").await;
    let token = Token::role("acme", "member");
    for whatami in [WhatAmI::Client, WhatAmI::Peer] {
        let greeting = Greeting { offers: true, whatami, patch: 9, ..stack.greeting(&token) };
        let mut raw = stack.entrance(link).enter(&greeting).await;
        let (init, open) = raw.terms.clone().unwrap();
        assert!(init.ext_mlink.is_none() && open.ext_mlink.is_none(), "other links");
        assert!(init.ext_lowlatency.is_none() && open.ext_lowlatency.is_none());
        assert!(init.ext_compression.is_none() && open.ext_compression.is_none());
        assert!(init.ext_region_name.is_none() && open.ext_remote_bound.is_none());
        assert!(init.ext_patch.raw() <= 1);
        let attack = say::put(key("device-connect/globex/x"), "attack");
        raw.say([attack]).await;
        works(&mut raw, &own).await;
        // As a client it hears of no other: no gossip, no link states, no declarations.
        let heard = raw.sync(NOBODY).await;
        assert!(heard.is_empty(), "{heard:?}");
    }
    assert_eq!(stack.refusals("put", "publish_denied"), 2);
    witness.undisturbed().await;
}

async fn slow_handshakes_end_and_hold_nobody_up(link: Link) {
    let stack = Stack::zenoh().zenoh("handshake_timeout = \"4s\"").start().await;
    let own = stack.zenoh_witness("acme").await;
    let entrance = stack.entrance(link);
    let good = stack.greeting(&Token::role("acme", "member"));
    let mut silent = entrance.knock().await;
    if link == Link::Quic {
        // A stream is there once something was sent on it.
        silent.bytes(&[100]).await;
    }
    let mut half = entrance.knock().await;
    half.bytes(&[200, 0, 1, 2, 3]).await;
    let mut halfway = entrance.knock().await;
    cookie(&mut halfway, &good).await;
    let mut dripping = entrance.knock().await;
    let drip = async {
        // More slowly than would fill the frame that the first byte has announced.
        for _ in 0..100 {
            dripping.bytes(&[1]).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        dripping.closed().await
    };
    // Meanwhile others come in.
    works(&mut entrance.enter(&good.clone().zid(ZenohIdProto::rand())).await, &own).await;
    let (dripping, silent, half, halfway) =
        tokio::join!(drip, silent.closed(), half.closed(), halfway.closed());
    for reason in [silent, half, halfway, dripping] {
        assert!([None, Some(close::reason::UNRESPONSIVE), INVALID].contains(&reason));
    }
    let failed = |cause: &str| {
        stack.metric(&format!("bulkhead_zenoh_handshakes_failed_total{{cause=\"{cause}\"}}"))
    };
    eventually("all are counted", || failed("timeout") + failed("protocol") >= 4).await;
    assert!(failed("timeout") >= 2);
}

async fn one_id_in_two_tenants_is_two_clients(link: Link) {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let witness = stack.zenoh_witness("globex").await;
    let zid = ZenohIdProto::rand();
    let enter =
        async |token: &Token| stack.entrance(link).enter(&stack.greeting(token).zid(zid)).await;
    let mut victim = enter(&Token::role("globex", "member")).await;
    victim.say([say::subscribe(1, key("device-connect/globex/x"))]).await;
    victim.sync("device-connect/globex/nobody").await;
    let mut first = enter(&Token::role("acme", "member")).await;
    // Another role or device of the tenant is another client, too.
    let mut device = enter(&Token::device("acme", "cam-1")).await;
    let mut neighbour = enter(&Token::device("acme", "cam-2")).await;
    for session in [&mut first, &mut device, &mut neighbour] {
        session.say([say::put(key("device-connect/globex/x"), "attack")]).await;
        session.sync("device-connect/acme/cam-2/cmd").await;
    }
    own.heard_only(&["query device-connect/acme/cam-2/cmd"; 3]).await;
    // The victim's session goes on, with what it has declared.
    witness.friend.put("device-connect/globex/x", "own").await.unwrap();
    let heard = victim.until(|body| matches!(body, NetworkBody::Push(_))).await;
    assert_eq!(heard.len(), 1);
    witness.heard_only(&["put device-connect/globex/x own"]).await;
    witness.undisturbed().await;
    own.undisturbed().await;
    works(&mut first, &own).await;
    // The same client once more takes its own place, and nobody else's.
    let mut second = enter(&Token::role("acme", "member")).await;
    first.closed().await;
    works(&mut second, &own).await;
    device.sync("device-connect/acme/cam-2/cmd").await;
    victim.sync("device-connect/globex/nobody").await;
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_back_has_its_place_each_time() {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let greeting = stack.greeting(&Token::role("acme", "member"));
    let mut sessions: Vec<Raw> = Vec::new();
    for _ in 0..40 {
        let mut raw = stack.zenoh_tcp().enter(&greeting).await;
        raw.say([say::subscribe(1, key("device-connect/acme/cam-1/event/x"))]).await;
        raw.sync(NOBODY).await;
        sessions.push(raw);
    }
    own.friend.put("device-connect/acme/cam-1/event/x", "own").await.unwrap();
    let mut last = sessions.pop().unwrap();
    let is_put = |body: &NetworkBody| matches!(body, NetworkBody::Push(_));
    assert_eq!(last.until(is_put).await.len(), 1);
    for mut before in sessions {
        before.closed().await;
    }
    own.heard_only(&["put device-connect/acme/cam-1/event/x own"]).await;
    works(&mut last, &own).await;
    assert_eq!(stack.metric("bulkhead_zenoh_takeovers_total"), 39);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_take_the_last_word_of_the_handshake_has_no_session() {
    let stack = Stack::zenoh().zenoh("handshake_timeout = \"4s\"").start().await;
    let witness = stack.zenoh_witness("globex").await;
    let greeting = stack.greeting(&Token::role("acme", "member"));
    // No more goes to it than this until it has read what came before.
    let entrance = Entrance { window: Some(8), ..stack.entrance(Link::Quic) };
    let mut deaf = entrance.knock().await;
    let cookie = cookie(&mut deaf, &greeting).await;
    deaf.transport(greeting.open_syn(cookie)).await;
    eventually("it was let in", || {
        stack.audit().iter().any(|r| r["event"] == "connect" && r["tenant"] == "acme")
    })
    .await;
    let timeouts = "bulkhead_zenoh_handshakes_failed_total{cause=\"timeout\"}";
    eventually("its time is over", || stack.metric(timeouts) == 1).await;
    eventually("its place is free", || stack.router().gate().status().sessions.len() == 2).await;
    drop(deaf);
    stack.zenoh_tcp().enter(&greeting).await.sync(NOBODY).await;
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_of_any_length_are_taken_and_none_is_the_routers() {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let greeting = stack.greeting(&Token::role("acme", "member"));
    let mut raw = stack.zenoh_tcp().enter(&greeting).await;
    let router = raw.terms.as_ref().unwrap().0.zid;
    works(&mut raw, &own).await;
    let short = ZenohIdProto::try_from(&[1][..]).unwrap();
    let long = ZenohIdProto::try_from(&[0xff; 16][..]).unwrap();
    for zid in [short, long, router] {
        let mut raw = stack.zenoh_tcp().enter(&greeting.clone().zid(zid)).await;
        works(&mut raw, &own).await;
    }
    works(&mut raw, &own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verified_token_is_worth_nothing_without_its_key_or_once_its_tenant_is_suspended() {
    let stack = Stack::zenoh().config(MANY_FAILURES).start().await;
    let greeting = stack.greeting(&Token::device("acme", "cam-1"));
    for _ in 0..2 {
        drop(stack.zenoh_tcp().enter(&greeting).await);
    }
    assert!(stack.metric("bulkhead_token_cache_total{outcome=\"hit\"}") > 0, "it is cached");
    stack.change("acme", |t| t.status = Status::Suspended).await;
    let is_refused =
        async || stack.zenoh_tcp().knock().await.greet(&greeting).await == Err(INVALID);
    eventually_async("the tenant is refused", is_refused).await;
    stack.denied("tenant_suspended").await;
    stack.change("acme", |t| t.status = Status::Active).await;
    eventually_async("the resumed tenant is admitted", async || !is_refused().await).await;

    let other = Signer::create(&stack.folder().join("other.pem")).unwrap();
    let keys = stack.folder().join("issuer.jwks.json");
    std::fs::write(keys, other.jwks().to_string()).unwrap();
    eventually_async("the withdrawn key admits nobody", is_refused).await;
    stack.denied("key_unknown").await;
    let fresh = other.sign(&Token::device("acme", "cam-1").claims()).unwrap();
    drop(stack.zenoh_tcp().enter(&Greeting::new(&fresh)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_16_kilobytes_less_one_byte_is_taken_and_none_larger() {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let sized = |padding: usize| {
        let claims = json!({"padding": "x".repeat(padding), "aud": ["other", "bulkhead"]});
        stack.token(&Token::role("acme", "member").with(claims))
    };
    // Base64 makes four bytes of three.
    let mut padding = (16_383 - sized(0).len()) * 3 / 4 - 2;
    while sized(padding + 1).len() < 16_384 {
        padding += 1;
    }
    let (largest, larger) = (sized(padding), sized(padding + 2));
    assert!((16_380..16_384).contains(&largest.len()) && larger.len() >= 16_384);
    let mut raw = stack.zenoh_tcp().enter(&Greeting::new(&largest)).await;
    works(&mut raw, &own).await;
    assert!(stack.zenoh_tcp().try_connect(Some(&largest)).await.is_ok(), "by Zenoh's own client");
    for token in [larger, "x".repeat(60_000)] {
        assert_eq!(stack.zenoh_tcp().refuse(&Greeting::new(&token)).await, INVALID);
    }
    stack.denied("token_too_large").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_in_metrics_audit_log_or_status() {
    let stack = Stack::zenoh().start().await;
    let good = stack.token(&Token::role("acme", "member").with(json!({"jti": "an-id-to-find"})));
    let expired = stack.token(&Token::role("acme", "member").ttl(-5));
    let foreign = stack.token(&Token::role("initech", "member"));
    let session = stack.zenoh_tcp().connect(&good).await;
    session.put("device-connect/globex/a-key-to-find", "a-payload-to-find").await.unwrap();
    for token in [&expired, &foreign, "a-name-to-find"] {
        assert!(stack.zenoh_tcp().try_connect(Some(token)).await.is_err());
    }
    for reason in ["publish_denied", "tenant_unknown", "token_malformed"] {
        stack.denied(reason).await;
    }
    let audit = std::fs::read_to_string(stack.folder().join("audit.jsonl")).unwrap();
    let status = json!(stack.router().gate().status()).to_string();
    let url = format!("http://{}/metrics", stack.control().admin_address());
    let metrics = reqwest::get(url).await.unwrap().text().await.unwrap();
    for (place, text) in [("audit log", &audit), ("metrics", &metrics), ("status", &status)] {
        for part in [&good, &expired, &foreign].iter().flat_map(|token| token.split('.')) {
            assert!(!text.contains(part), "the {place} holds a part of a token");
        }
        for secret in ["a-payload-to-find", "a-name-to-find", "a-key-to-find"] {
            assert!(!text.contains(secret), "the {place} holds {secret}");
        }
    }
    for name in ["acme", "globex", "an-id-to-find"] {
        assert!(!metrics.contains(name), "no label is a client's choice: {name}");
    }
    assert!(status.contains("acme"), "{status}");
    let denial = stack.audit().into_iter().find(|r| r["reason"] == "publish_denied").unwrap();
    assert_eq!(
        (&denial["event"], &denial["backend"], &denial["tenant"], &denial["detail"]),
        (&json!("deny"), &json!("zenoh"), &json!("acme"), &json!("put"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_in_the_log_however_much_it_tells() {
    let stack = Stack::zenoh().without_service().start().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_replica"));
    command.args(["serve", "--config"]).arg(stack.config_path());
    let loud = "trace,rustls=info,tungstenite=info,tokio_tungstenite=info,quinn=info";
    command.env("BULKHEAD__LOG__FILTER", loud).env_remove("RUST_BACKTRACE");
    let server = Server::spawn("gate", command, stack.folder()).unwrap();
    eventually("the gate says where it is", || server.log().contains("addresses=[")).await;
    let log = server.log();
    let address = log.split("addresses=[").nth(1).unwrap().split([',', ']']).next().unwrap();
    let entrance = Entrance {
        link: Link::Tcp,
        address: address.parse().unwrap(),
        certificate: stack.folder().join("zenoh.pem"),
        identity: None,
        window: None,
    };
    let good = stack.token(&Token::role("acme", "member"));
    let session = entrance.connect(&good).await;
    session.put("device-connect/globex/x", "a-payload-to-find").await.unwrap();
    session.put("device-connect/acme/x", "a-payload-to-find").await.unwrap();
    let expired = stack.token(&Token::role("acme", "member").ttl(-5));
    let unsigned = with_header(&stack, &json!({"alg": "none"}), Some(""));
    for token in [&expired, &unsigned, "a-name-to-find"] {
        entrance.refuse(&Greeting::new(token)).await;
    }
    let garbage = Authentication::Garbage(good.clone().into_bytes());
    entrance.refuse(&Greeting::with(garbage)).await;
    eventually("denials are in the log", || {
        ["publish_denied", "token_expired"].iter().all(|code| server.log().contains(code))
    })
    .await;
    let log = std::fs::read_to_string(server.log_file()).unwrap();
    for part in [&good, &expired, &unsigned].iter().flat_map(|token| token.split('.')) {
        assert!(part.is_empty() || !log.contains(part), "the log holds a part of a token");
    }
    for secret in ["a-payload-to-find", "a-name-to-find"] {
        assert!(!log.contains(secret), "the log holds {secret}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_fails_too_often_gets_no_more_checks_and_others_still_pass() {
    let stack = Stack::zenoh().config("[limits]\nfailures_per_minute = 5").start().await;
    let own = stack.zenoh_witness("acme").await;
    let known = stack.greeting(&Token::role("acme", "member"));
    let mut before = stack.zenoh_tcp().enter(&known).await;
    eventually_async("the address is shut out", async || {
        assert_eq!(stack.zenoh_tcp().refuse(&Greeting::new("a.b.c")).await, INVALID);
        refused_for(&stack, "source_rate_exceeded") > 0
    })
    .await;
    stack.denied("source_rate_exceeded").await;
    // What is refused so is not looked at.
    let looked_at = refused_for(&stack, "token_malformed");
    for _ in 0..50 {
        stack.zenoh_tcp().refuse(&Greeting::new("a.b.c")).await;
    }
    assert_eq!(refused_for(&stack, "token_malformed"), looked_at);
    // Who is there, and who is known, go on.
    works(&mut before, &own).await;
    let mut again = stack.zenoh_tcp().enter(&known).await;
    works(&mut again, &own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_taken_over_and_a_broken_one_is_not() {
    let stack = Stack::zenoh().start().await;
    let greeting = || stack.greeting(&Token::role("acme", "member"));
    let file = |name: &str| stack.folder().join(name);
    let next = |link| Entrance { certificate: file("next.pem"), ..stack.entrance(link) };
    let mut before = Vec::new();
    for link in [Link::Tls, Link::Quic] {
        before.push(stack.entrance(link).enter(&greeting()).await);
    }
    std::fs::write(file("zenoh.pem.next"), "broken").unwrap();
    let old = std::fs::read(file("zenoh.pem")).unwrap();
    std::fs::rename(file("zenoh.pem.next"), file("zenoh.pem")).unwrap();
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2049, 1, 1);
    let signing_key = rcgen::KeyPair::generate().unwrap();
    let made = params.self_signed(&signing_key).unwrap();
    std::fs::write(file("next.pem"), made.pem()).unwrap();
    std::fs::write(file("old.pem"), old).unwrap();
    for link in [Link::Tls, Link::Quic] {
        assert!(next(link).try_knock().await.is_err(), "the old one is still in use");
        let old = Entrance { certificate: file("old.pem"), ..stack.entrance(link) };
        old.enter(&greeting()).await;
    }
    std::fs::write(file("zenoh.key"), signing_key.serialize_pem()).unwrap();
    std::fs::write(file("zenoh.pem"), made.pem()).unwrap();
    for link in [Link::Tls, Link::Quic] {
        eventually_async("the new one is in use", async || next(link).try_knock().await.is_ok())
            .await;
        next(link).enter(&greeting()).await.sync(NOBODY).await;
    }
    let ends = "bulkhead_certificate_expires_timestamp_seconds{listener=\"zenoh\"}";
    assert_eq!(stack.metric(ends), 2_493_072_000, "the first second of 2049");
    for raw in &mut before {
        raw.sync(NOBODY).await;
    }
}
