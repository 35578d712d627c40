//! Who gets in at the MQTT broker, and with what.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use bulkhead_cli::signer::Signer;
use bulkhead_devkit::Server;
use bulkhead_policy::Status;
use bulkhead_tests::mqtt::codec::{AckKind, Property, QoS, ReasonCode, Version, auth};
use bulkhead_tests::mqtt::{Door, Heard, Hello, Mode};
use bulkhead_tests::{Stack, Token, Transport, eventually, eventually_async};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use std::process::Command;

const BAD: ReasonCode = ReasonCode::BAD_USER_NAME_OR_PASSWORD;
const DENIED: ReasonCode = ReasonCode::NOT_AUTHORIZED;

/// A token with this header that is signed as the signer would, or not at all.
fn with_header(stack: &Stack, header: &Value, signature: Option<&str>) -> String {
    let good = stack.token(&Token::role("acme", "member"));
    let parts: Vec<_> = good.split('.').collect();
    let header = BASE64URL_NOPAD.encode(header.to_string().as_bytes());
    format!("{header}.{}.{}", parts[1], signature.unwrap_or(parts[2]))
}

/// What the admin port tells Prometheus.
async fn scraped(stack: &Stack) -> String {
    let url = format!("http://{}/metrics", stack.control().admin_address());
    reqwest::get(url).await.unwrap().text().await.unwrap()
}

/// Shows a token, which is refused for this reason, in both versions and over TCP and WebSocket.
async fn refused(stack: &Stack, token: &str, reason: &str, code: ReasonCode) {
    for version in [Version::V311, Version::V5] {
        let hello = Hello::new("attacker", token).version(version);
        assert_eq!(stack.tcp().refuse(&hello).await, code, "{reason}");
    }
    stack.denied(reason).await;
    let label = format!("backend=\"mqtt\",outcome=\"denied\",reason=\"{reason}\"");
    let counted = stack.metric(&format!("bulkhead_auth_requests_total{{{label}}}"));
    assert!(counted >= 2, "{reason} is counted: {counted}");
}

async fn whoever_is_not_vouched_for_is_refused_with_a_code(mode: Mode) {
    let stack = Stack::mqtt_in(mode).config("[limits]\nfailures_per_minute = 10000").start().await;
    let mut witness = stack.witness("globex").await;
    let stranger = Signer::create(&stack.folder().join("stranger.pem")).unwrap();
    let acme = || Token::device("acme", "cam-1");
    let claims = |claims: Value| stack.token(&acme().with(claims));
    let large = "x".repeat(16_000);
    let cases = [
        ("token_malformed", BAD, "not-a-token".to_owned()),
        ("token_malformed", BAD, "a.b.c".to_owned()),
        ("key_unknown", DENIED, stranger.sign(&acme().claims()).unwrap()),
        ("issuer_unknown", DENIED, claims(json!({"iss": "https://other.test"}))),
        ("issuer_unknown", DENIED, claims(json!({"iss": null}))),
        ("issuer_unknown", DENIED, claims(json!({"iss": "https://issuer.test/"}))),
        ("audience_mismatch", DENIED, claims(json!({"aud": "bulkhead2"}))),
        ("audience_mismatch", DENIED, claims(json!({"aud": ["xbulkheadx", "other"]}))),
        ("audience_mismatch", DENIED, claims(json!({"aud": null}))),
        ("claim_missing", DENIED, claims(json!({"exp": null}))),
        ("claim_missing", DENIED, claims(json!({"tenant": null}))),
        ("claim_invalid", DENIED, claims(json!({"exp": "tomorrow"}))),
        ("claim_invalid", DENIED, claims(json!({"exp": -1}))),
        ("claim_invalid", DENIED, claims(json!({"exp": 1e300}))),
        ("token_expired", BAD, stack.token(&acme().ttl(-5))),
        ("token_expired", BAD, stack.token(&acme().ttl(0))),
        ("token_not_yet_valid", DENIED, claims(json!({"nbf": 32_503_680_000_i64}))),
        ("tenant_unknown", DENIED, stack.token(&Token::device("initech", "cam-1"))),
        ("tenant_unknown", DENIED, claims(json!({"tenant": "ACME"}))),
        ("role_not_allowed", DENIED, stack.token(&Token::role("acme", "service"))),
        ("role_not_allowed", DENIED, stack.token(&Token::role("acme", "admin"))),
        ("role_unknown", DENIED, stack.token(&Token::role("acme", "#"))),
        ("device_required", DENIED, stack.token(&Token::role("acme", "device"))),
        ("token_too_large", BAD, claims(json!({"padding": large}))),
    ];
    for (reason, code, token) in cases {
        refused(&stack, &token, reason, code).await;
    }
    witness.nothing().await;
    // The same key again, now with its own claims: a broker that refuses everything is no use.
    let mut own = stack.device("acme", "cam-1").await;
    own.subscribed("device-connect/acme/cam-1/cmd").await;
    assert!(scraped(&stack).await.contains("reason=\"token_too_large\"} 2"));
}

async fn a_header_cannot_choose_how_a_token_is_checked(mode: Mode) {
    let stack = Stack::mqtt_in(mode).config("[limits]\nfailures_per_minute = 10000").start().await;
    let kid = stack.signer().key_id();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        for signature in [Some(""), Some("AA"), None] {
            let token = with_header(&stack, &json!({"alg": alg, "kid": kid}), signature);
            let hello = Hello::new("attacker", &token);
            assert!(stack.tcp().refuse(&hello).await.is_error(), "{alg} {signature:?}");
        }
    }
    stack.denied("algorithm_not_allowed").await;
    for alg in ["HS256", "RS256", "ES256"] {
        let token = with_header(&stack, &json!({"alg": alg, "kid": kid}), None);
        assert_eq!(stack.tcp().refuse(&Hello::new("attacker", &token)).await, DENIED, "{alg}");
    }
    // Nobody is asked for the keys that a token names, and none that it brings is taken.
    for header in [
        json!({"alg": "EdDSA", "kid": kid, "jwk": stack.signer().jwks()["keys"][0]}),
        json!({"alg": "EdDSA", "kid": kid, "jku": "http://127.0.0.1:9/keys"}),
        json!({"alg": "EdDSA", "kid": kid, "x5u": "http://127.0.0.1:9/cert"}),
    ] {
        let token = with_header(&stack, &header, None);
        assert_eq!(stack.tcp().refuse(&Hello::new("attacker", &token)).await, BAD, "{header}");
    }
    stack.denied("signature_invalid").await;
    for kid in ["../../etc/passwd", "'; --", "a\r\nb", &"k".repeat(10_000), "\0"] {
        let token = with_header(&stack, &json!({"alg": "EdDSA", "kid": kid}), None);
        assert_eq!(stack.tcp().refuse(&Hello::new("attacker", &token)).await, DENIED);
    }
    stack.denied("key_unknown").await;
    stack.member("acme", "own").await.ping().await;
}

async fn an_issuer_speaks_only_for_its_tenants(mode: Mode) {
    let other = "[[issuers]]\nname = \"other\"\nissuer = \"https://other.test\"\n\
                 audiences = [\"bulkhead\"]\nalgorithms = [\"EdDSA\"]\ntenants = [\"acme\"]\n\
                 keys.jwks_file = \"issuer.jwks.json\"\nroles = [\"member\"]\n\
                 default_role = \"member\"\n";
    let stack = Stack::mqtt_in(mode).config(other).start().await;
    let of =
        |tenant: &str| Token::role(tenant, "member").with(json!({"iss": "https://other.test"}));
    let mut witness = stack.witness("globex").await;
    refused(&stack, &stack.token(&of("globex")), "tenant_not_allowed", DENIED).await;
    let mut own = stack.tcp().connect(&stack.hello("own", &of("acme"))).await;
    own.subscribed("device-connect/acme/#").await;
    own.published("device-connect/acme/x", "own").await;
    assert_eq!(own.payload().await, "own");
    witness.nothing().await;
}

async fn ids_that_a_broker_would_read_its_own_way_are_refused(mode: Mode) {
    let stack = Stack::mqtt_in(mode).config("[limits]\nfailures_per_minute = 10000").start().await;
    let mut witness = stack.witness("globex").await;
    let huge = "a".repeat(10_000);
    let hostile = [
        "",
        "#",
        "+",
        "*",
        ">",
        "**",
        "$*",
        ".",
        "..",
        "/",
        "a/b",
        "globex/#",
        "+/globex",
        "@",
        " ",
        "acme ",
        "\0",
        "acme\0",
        "a\nb",
        "a\r\n",
        "\u{430}cme",
        "acme\u{301}",
        "\u{ff41}cme",
        "-a",
        "_a",
        "$SYS",
        "$share",
        "device",
        "registry",
        "broadcast",
        "Registry",
        &huge,
    ];
    for id in hostile {
        let tenant = stack.token(&Token::role("acme", "member").with(json!({"tenant": id})));
        let device = stack.token(&Token::device("acme", "cam-1").with(json!({"device": id})));
        for token in [tenant, device] {
            assert_eq!(stack.tcp().refuse(&Hello::new("attacker", &token)).await, DENIED, "{id:?}");
        }
    }
    for other in [json!(["acme"]), json!({"id": "acme"}), json!(7), json!(true)] {
        let token = stack.token(&Token::role("acme", "member").with(json!({"tenant": other})));
        assert_eq!(stack.tcp().refuse(&Hello::new("attacker", &token)).await, DENIED);
    }
    stack.denied("tenant_invalid").await;
    stack.denied("device_invalid").await;
    let counted = |reason: &str| {
        let label = format!("backend=\"mqtt\",outcome=\"denied\",reason=\"{reason}\"");
        stack.metric(&format!("bulkhead_auth_requests_total{{{label}}}"))
    };
    assert_eq!(counted("device_invalid"), hostile.len() as u64);
    assert_eq!(counted("tenant_invalid"), hostile.len() as u64 + 4);
    witness.nothing().await;
    stack.device("acme", "cam-1").await.ping().await;
}

async fn a_token_cannot_ask_for_other_rights(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let greedy = Token::device("acme", "cam-1").with(json!({
        "permissions": {"subscribe": ["#"]}, "scope": "service", "service": true,
        "tenants": ["acme", "globex"], "mqtt": {"publish": ["#"], "subscribe": ["#"]},
        "quotas": {"connections": 1_000_000}, "acl": ["#"], "mountpoint": "", "superuser": true,
    }));
    let mut client = stack.tcp().connect(&stack.hello("greedy", &greedy)).await;
    for filter in ["#", "device-connect/globex/#", "device-connect/acme/#", "$SYS/#"] {
        assert_eq!(client.subscribe(filter).await, DENIED, "{filter}");
    }
    assert_eq!(client.publish1("device-connect/globex/cam-1/cmd", "attack").await, DENIED);
    client.subscribed("device-connect/acme/cam-1/cmd").await;
}

async fn whoever_shows_no_token_is_refused(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let token = stack.token(&Token::role("acme", "member"));
    let anonymous = Hello::new("anonymous", "").without_password();
    let mut as_user = anonymous.clone();
    as_user.user = Some(token.clone());
    for hello in [&anonymous, &as_user, &Hello::new("empty", ""), &Hello::new("", "")] {
        for version in [Version::V311, Version::V5] {
            let hello = hello.clone().version(version);
            assert_eq!(stack.tcp().refuse(&hello).await, BAD);
        }
    }
    stack.denied("token_missing").await;
    // The user name is anybody's choice.
    for user in [None, Some(""), Some("globex")] {
        let mut hello = Hello::new("own", &token);
        hello.user = user.map(str::to_owned);
        stack.tcp().connect(&hello).await.ping().await;
    }
}

async fn a_token_comes_by_password_by_authentication_data_or_by_header(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let token = stack.token(&Token::role("acme", "member"));
    let foreign = stack.token(&Token::role("globex", "member"));
    let bare = Hello::new("carrier", "").without_password();
    let method = || bare.clone().with(Property::AuthenticationMethod("JWT"));

    let by_data = method().with(Property::AuthenticationData(token.as_bytes()));
    let client = stack.tcp().connect(&by_data).await;
    assert_eq!(client.terms.get().authentication_method(), Some("JWT"));

    // Asked for it, in a second step.
    let mut client = stack.tcp().open(Version::V5).await;
    client.send(&method().packet()).await;
    let Heard::Auth(reason, properties) = client.next().await else { panic!("no AUTH") };
    assert_eq!(reason, ReasonCode::CONTINUE_AUTHENTICATION);
    assert_eq!(properties.get().authentication_method(), Some("JWT"));
    let answer =
        [Property::AuthenticationMethod("JWT"), Property::AuthenticationData(token.as_bytes())];
    client.say(|out, _| auth(out, ReasonCode::CONTINUE_AUTHENTICATION, &answer)).await;
    assert!(matches!(client.next().await, Heard::ConnAck { reason: ReasonCode::SUCCESS, .. }));
    client.ping().await;

    let other = bare.clone().with(Property::AuthenticationMethod("SCRAM-SHA-256"));
    assert_eq!(stack.tcp().refuse(&other).await, ReasonCode::BAD_AUTHENTICATION_METHOD);

    for transport in [Transport::Ws, Transport::Wss] {
        let door = stack.door(transport);
        for (hello, expected) in [
            (&bare, ReasonCode::SUCCESS),
            (&Hello::new("both", &token), ReasonCode::SUCCESS),
            (&Hello::new("two", &foreign), BAD),
        ] {
            let mut client = door.open_with(Version::V5, Some(&token)).await.unwrap();
            client.send(&hello.packet()).await;
            let Heard::ConnAck { reason, .. } = client.next().await else { panic!("no CONNACK") };
            assert_eq!(reason, expected, "{}", hello.client_id);
        }
    }
    stack.denied("carrier_conflict").await;
    let conflict = Hello::new("two", &foreign)
        .with(Property::AuthenticationMethod("JWT"))
        .with(Property::AuthenticationData(token.as_bytes()));
    assert_eq!(stack.tcp().refuse(&conflict).await, BAD);
}

async fn a_token_of_16_kilobytes_less_one_byte_is_taken_and_none_larger(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let sized = |padding: usize| {
        stack.token(&Token::role("acme", "member").with(json!({"padding": "x".repeat(padding)})))
    };
    // Base64 makes four bytes of three.
    let base = sized(0).len();
    let mut padding = (16_383 - base) * 3 / 4 - 2;
    while sized(padding + 1).len() < 16_384 {
        padding += 1;
    }
    let (largest, larger) = (sized(padding), sized(padding + 2));
    assert!((16_380..16_384).contains(&largest.len()) && larger.len() >= 16_384);
    stack.tcp().connect(&Hello::new("large", &largest)).await.ping().await;
    assert_eq!(stack.tcp().refuse(&Hello::new("larger", &larger)).await, BAD);
    stack.denied("token_too_large").await;
    // The longest password that MQTT has.
    let longest = "x".repeat(65_535);
    assert_eq!(stack.tcp().refuse(&Hello::new("longest", &longest)).await, BAD);
}

async fn a_verified_token_is_worth_nothing_once_it_is_revoked_or_its_tenant_suspended(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let door = stack.tcp();
    let token = stack.token(&Token::device("acme", "cam-1").with(json!({"jti": "stolen"})));
    let hello = Hello::new("cam-1", &token);
    for _ in 0..2 {
        door.connect(&hello).await.goodbye().await;
    }
    assert!(stack.metric("bulkhead_token_cache_total{outcome=\"hit\"}") > 0, "it is cached");
    let is_admitted = async || !door.knock(&hello).await.1.is_error();

    stack.change("acme", |t| t.status = Status::Suspended).await;
    eventually_async("the suspended tenant is refused", async || !is_admitted().await).await;
    stack.denied("tenant_suspended").await;
    stack.change("acme", |t| t.status = Status::Active).await;
    eventually_async("the resumed tenant is admitted", async || is_admitted().await).await;

    stack
        .change("acme", |t| {
            t.revoked_tokens.insert("stolen".parse().unwrap(), jiff::Timestamp::MAX);
        })
        .await;
    eventually_async("the revoked token is refused", async || !is_admitted().await).await;
    stack.denied("token_revoked").await;

    // Another token of the same device, until the key that signed it is withdrawn.
    let hello = stack.hello("cam-1", &Token::device("acme", "cam-1"));
    door.connect(&hello).await.goodbye().await;
    let other = Signer::create(&stack.folder().join("other.pem")).unwrap();
    let keys = stack.folder().join("issuer.jwks.json");
    std::fs::write(keys, other.jwks().to_string()).unwrap();
    eventually_async("the withdrawn key admits nobody", async || {
        door.knock(&hello).await.1.is_error()
    })
    .await;
    stack.denied("key_unknown").await;
    let fresh = other.sign(&Token::device("acme", "cam-1").claims()).unwrap();
    door.connect(&Hello::new("cam-1", &fresh)).await.ping().await;
}

async fn whoever_fails_too_often_gets_no_more_checks_and_others_still_pass(mode: Mode) {
    let stack = Stack::mqtt_in(mode).config("[limits]\nfailures_per_minute = 5").start().await;
    let known = stack.hello("known", &Token::role("globex", "member"));
    stack.tcp().connect(&known).await.goodbye().await;
    eventually_async("the address is shut out", async || {
        let told = stack.tcp().refuse(&Hello::new("attacker", "a.b.c")).await;
        told == ReasonCode::CONNECTION_RATE_EXCEEDED
    })
    .await;
    stack.denied("source_rate_exceeded").await;
    stack.tcp().connect(&known).await.ping().await;
}

async fn nothing_secret_is_in_metrics_audit_log_or_answers(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let good = stack.token(&Token::role("acme", "member").with(json!({"jti": "an-id-to-find"})));
    let expired = stack.token(&Token::role("acme", "member").ttl(-5));
    let foreign = stack.token(&Token::role("initech", "member"));
    let mut client = stack.tcp().connect(&Hello::new("own", &good)).await;
    assert_eq!(client.publish1("device-connect/globex/x", "a-payload-to-find").await, DENIED);
    for token in [&expired, &foreign, "a-password-to-find"] {
        let mut hello = Hello::new("a-client-to-find", token);
        hello.user = Some("a-user-to-find".to_owned());
        let mut client = stack.tcp().open(Version::V5).await;
        client.send(&hello.packet()).await;
        let Heard::ConnAck { reason, properties, .. } = client.next().await else { panic!() };
        assert!(reason.is_error() && properties.get().is_empty(), "a code and nothing else");
    }
    stack.denied("publish_denied").await;
    stack.denied("tenant_unknown").await;
    let audit = std::fs::read_to_string(stack.folder().join("audit.jsonl")).unwrap();
    let told = scraped(&stack).await;
    for (place, text) in [("the audit log", &audit), ("the metrics", &told)] {
        for token in [&good, &expired, &foreign] {
            for part in token.split('.') {
                assert!(!text.contains(part), "{place} holds a part of a token");
            }
        }
        for secret in ["a-payload-to-find", "a-password-to-find", "a-user-to-find"] {
            assert!(!text.contains(secret), "{place} holds {secret}");
        }
    }
    for name in ["acme", "globex", "an-id-to-find", "a-client-to-find"] {
        assert!(!told.contains(name), "no label is a client's choice: {name}");
    }
    let denial = stack.audit().into_iter().find(|r| r["reason"] == "publish_denied").unwrap();
    assert_eq!(
        (&denial["event"], &denial["backend"], &denial["tenant"], &denial["detail"]),
        (&json!("deny"), &json!("mqtt"), &json!("acme"), &json!("publish"))
    );
}

async fn nothing_secret_is_in_the_log_however_much_it_tells(mode: Mode) {
    let stack = Stack::mqtt_in(mode).without_service().start().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_replica"));
    command.args(["serve", "--config"]).arg(stack.config_path());
    let quiet = "trace,rustls=info,tungstenite=info,tokio_tungstenite=info,rumqttd=info";
    command.env("BULKHEAD__LOG__FILTER", quiet).env_remove("RUST_BACKTRACE");
    let server = Server::spawn("broker", command, stack.folder()).unwrap();
    eventually("the broker says where it is", || server.log().contains("addresses=[")).await;
    let log = server.log();
    let address = log.split("addresses=[").nth(1).unwrap().split([',', ']']).next().unwrap();
    let door = Door {
        transport: Transport::Tcp,
        address: address.parse().unwrap(),
        certificate: stack.folder().join("mqtt.pem"),
        identity: None,
    };
    let good = stack.token(&Token::role("acme", "member"));
    eventually_async("it is ready", async || {
        !door.knock(&Hello::new("own", &good)).await.1.is_error()
    })
    .await;
    let expired = stack.token(&Token::role("acme", "member").ttl(-5));
    let unsigned = with_header(&stack, &json!({"alg": "none"}), Some(""));
    let will = "device-connect/acme/gone";
    let mut client = door.connect(&Hello::new("own", &good).will(will, "a-will-to-find")).await;
    let foreign = "device-connect/globex/x";
    assert_eq!(client.publish1(foreign, "a-payload-to-find").await, DENIED);
    assert_eq!(client.subscribe("device-connect/globex/#").await, DENIED);
    for token in [&expired, &unsigned, "a-password-to-find"] {
        let mut hello = Hello::new("line\nbreak", token);
        hello.user = Some("a-user-to-find".to_owned());
        assert!(door.refuse(&hello).await.is_error());
        let by_data = Hello::new("by-data", "")
            .without_password()
            .with(Property::AuthenticationMethod("JWT"))
            .with(Property::AuthenticationData(token.as_bytes()));
        assert!(door.refuse(&by_data).await.is_error());
    }
    // What is broken is not quoted either.
    client.send(&[0x30, 3, 0, 20, b'x']).await;
    client.closed().await;
    eventually("denials are in the log", || {
        ["publish_denied", "token_expired"].iter().all(|code| server.log().contains(code))
    })
    .await;
    let log = std::fs::read_to_string(server.log_file()).unwrap();
    for token in [&good, &expired, &unsigned] {
        for part in token.split('.').filter(|part| !part.is_empty()) {
            assert!(!log.contains(part), "the log holds a part of a token");
        }
    }
    for secret in [
        "a-payload-to-find",
        "a-password-to-find",
        "a-user-to-find",
        "a-will-to-find",
        "line\nbreak",
    ] {
        assert!(!log.contains(secret), "the log holds {secret}");
    }
}

async fn a_token_renewed_by_auth_prolongs_the_connection(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let brief = stack.token(&Token::device("acme", "cam-1").ttl(3));
    let hello = Hello::new("cam-1", "")
        .without_password()
        .with(Property::AuthenticationMethod("JWT"))
        .with(Property::AuthenticationData(brief.as_bytes()));
    let mut client = stack.tcp().connect(&hello).await;
    let mut control = stack.tcp().connect(&Hello::new("control", &brief)).await;
    assert_eq!(client.renew(&stack.token(&Token::device("acme", "cam-1"))).await, None);
    assert_eq!(control.closed().await, Some(ReasonCode::MAXIMUM_CONNECT_TIME));
    client.ping().await;
    client.published("device-connect/acme/cam-1/event/x", "own").await;

    // One that ends sooner counts as well.
    assert_eq!(client.renew(&stack.token(&Token::device("acme", "cam-1").ttl(2))).await, None);
    assert_eq!(client.closed().await, Some(ReasonCode::MAXIMUM_CONNECT_TIME));
    eventually("both are counted", || stack.terminations("token_expired") == 2).await;
}

async fn a_token_renewed_by_auth_changes_neither_tenant_nor_device(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut witness = stack.witness("globex").await;
    let own = Token::device("acme", "cam-1");
    let token = stack.token(&own);
    let hello = |id: &str| {
        Hello::new(id, "")
            .without_password()
            .with(Property::AuthenticationMethod("JWT"))
            .with(Property::AuthenticationData(token.as_bytes()))
    };
    for (other, reason) in [
        (Token::device("globex", "cam-1"), DENIED),
        (Token::device("acme", "cam-2"), DENIED),
        (Token::role("acme", "member"), DENIED),
        (own.clone().ttl(-5), ReasonCode::MAXIMUM_CONNECT_TIME),
        (own.clone().with(json!({"iss": "https://other.test"})), DENIED),
    ] {
        let will = "device-connect/acme/cam-1/event/gone";
        let mut client = stack.tcp().connect(&hello("cam-1").will(will, "will")).await;
        // What comes right behind it is not done with any rights.
        let mut at_once = Vec::new();
        let other_token = stack.token(&other);
        let properties = [
            Property::AuthenticationMethod("JWT"),
            Property::AuthenticationData(other_token.as_bytes()),
        ];
        auth(&mut at_once, ReasonCode::REAUTHENTICATE, &properties);
        at_once.extend_from_slice(&[0x32, 38, 0, 31]);
        at_once.extend_from_slice(b"device-connect/globex/cam-1/cmd");
        at_once.extend_from_slice(&[0, 9, 0, b'x', b'y']);
        client.send(&at_once).await;
        assert_eq!(client.closed_unacknowledged().await, Some(reason), "{other:?}");
    }
    stack.denied("carrier_conflict").await;
    assert_eq!(stack.refusals("connect", "carrier_conflict"), 3);
    witness.nothing().await;

    // Only who came with the method may renew, and only with it.
    let mut client = stack.tcp().connect(&Hello::new("by-password", &token)).await;
    assert_eq!(client.renew(&token).await, Some(ReasonCode::PROTOCOL_ERROR));
    let mut client = stack.tcp().connect(&hello("cam-1")).await;
    let other = [Property::AuthenticationMethod("other"), Property::AuthenticationData(b"x")];
    client.say(|out, _| auth(out, ReasonCode::REAUTHENTICATE, &other)).await;
    assert_eq!(client.closed().await, Some(ReasonCode::PROTOCOL_ERROR));
    let mut client = stack.tcp().connect(&hello("cam-1")).await;
    assert_eq!(client.renew(&token).await, None, "the same identity may");
    let id =
        client.send_publish("device-connect/acme/cam-1/x", "", QoS::AtLeastOnce, false, &[]).await;
    assert!(!client.acked(AckKind::PubAck, id).await.is_error());
}

bulkhead_tests::in_both_modes! {
    whoever_is_not_vouched_for_is_refused_with_a_code,
    a_header_cannot_choose_how_a_token_is_checked,
    an_issuer_speaks_only_for_its_tenants,
    ids_that_a_broker_would_read_its_own_way_are_refused,
    a_token_cannot_ask_for_other_rights,
    whoever_shows_no_token_is_refused,
    a_token_comes_by_password_by_authentication_data_or_by_header,
    a_token_of_16_kilobytes_less_one_byte_is_taken_and_none_larger,
    a_verified_token_is_worth_nothing_once_it_is_revoked_or_its_tenant_suspended,
    whoever_fails_too_often_gets_no_more_checks_and_others_still_pass,
    nothing_secret_is_in_metrics_audit_log_or_answers,
    nothing_secret_is_in_the_log_however_much_it_tells,
    a_token_renewed_by_auth_prolongs_the_connection,
    a_token_renewed_by_auth_changes_neither_tenant_nor_device,
}
