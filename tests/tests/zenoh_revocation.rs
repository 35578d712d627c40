//! What becomes of open Zenoh sessions when rights change.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use bulkhead_policy::{Role, Status};
use bulkhead_tests::zenoh::say::{self, key};
use bulkhead_tests::zenoh::{Greeting, Link, Raw, Said};
use bulkhead_tests::{Stack, Token, eventually, eventually_async, over_all_links};
use jiff::Timestamp;
use serde_json::json;
use std::time::Duration;
use zenoh_protocol::core::ZenohIdProto;
use zenoh_protocol::network::NetworkBody;
use zenoh_protocol::transport::close;

over_all_links! {
    a_suspended_tenant_is_cut_off_and_comes_back_when_resumed,
}

const INVALID: Option<u8> = Some(close::reason::INVALID);
const EXPIRED: Option<u8> = Some(close::reason::EXPIRED);

/// Raw sessions of bearers of these tokens, each under an id of its own.
async fn enter_all(stack: &Stack, tokens: &[Token]) -> Vec<Raw> {
    let mut sessions = Vec::new();
    for token in tokens {
        sessions.push(stack.zenoh_tcp().enter(&stack.greeting(token)).await);
    }
    sessions
}

/// Makes sure that a session of globex, or of acme, goes on.
async fn goes_on(raw: &mut Raw) {
    raw.sync("device-connect/nobody/x").await;
}

fn role(rights: serde_json::Value) -> Role {
    serde_json::from_value(rights).unwrap()
}

async fn a_suspended_tenant_is_cut_off_and_comes_back_when_resumed(link: Link) {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    let token = Token::device("acme", "cam-1");
    let greeting = stack.greeting(&token);
    let mut raw = stack.entrance(link).enter(&greeting).await;
    let mut member =
        stack.entrance(link).enter(&stack.greeting(&Token::role("acme", "member"))).await;
    // One of the library, which comes back by itself whenever it can.
    let session = stack.entrance(link).connect(&stack.token(&token)).await;
    stack.change("acme", |t| t.status = Status::Suspended).await;
    assert_eq!(raw.closed().await, INVALID);
    assert_eq!(member.closed().await, INVALID);
    assert_eq!(stack.entrance(link).refuse(&greeting).await, INVALID);
    stack.denied("tenant_suspended").await;
    eventually("all three are counted", || stack.terminations("tenant_suspended") == 3).await;
    eventually("and how long it took", || stack.cuts("learned") == 3).await;
    assert_eq!(stack.cuts("revoked"), 0, "the directory does not say since when");
    eventually("and written down", || {
        stack.audit().iter().filter(|r| r["event"] == "terminate").count() == 3
    })
    .await;
    session.put("device-connect/acme/cam-1/event/x", "lost").await.unwrap();
    witness.undisturbed().await;

    stack.change("acme", |t| t.status = Status::Active).await;
    eventually_async("the resumed tenant is admitted", async || {
        stack
            .entrance(link)
            .knock()
            .await
            .greet(&greeting.clone().zid(ZenohIdProto::rand()))
            .await
            .is_ok()
    })
    .await;
    let own = stack.zenoh_witness("acme").await;
    eventually_async("the library is back", async || {
        session.put("device-connect/acme/cam-1/event/x", "back").await.unwrap();
        own.heard().iter().any(|heard| heard == "put device-connect/acme/cam-1/event/x back")
    })
    .await;
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_session_has_declared_ends_with_it() {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let mut raw = stack.zenoh_tcp().enter(&stack.greeting(&Token::device("acme", "cam-1"))).await;
    raw.say([
        say::token(1, key("device-connect/acme/cam-1")),
        say::subscribe(1, key("device-connect/acme/cam-1/cmd")),
    ])
    .await;
    own.hears("alive device-connect/acme/cam-1").await;
    stack
        .change("acme", |t| {
            t.revoked_devices.insert("cam-1".parse().unwrap(), Timestamp::now());
        })
        .await;
    // A message may be under way to it.
    assert_eq!(raw.closed().await, INVALID);
    own.hears("gone device-connect/acme/cam-1").await;
    own.friend.put("device-connect/acme/cam-1/cmd", "secret").await.unwrap();
    own.hears("put device-connect/acme/cam-1/cmd secret").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_tenant_is_cut_off() {
    let stack = Stack::zenoh().start().await;
    let (acme, globex) = (Token::device("acme", "cam-1"), Token::device("globex", "cam-1"));
    let mut sessions = enter_all(&stack, &[acme.clone(), globex]).await;
    stack.store().await.delete(&"acme".parse().unwrap()).await.unwrap();
    assert_eq!(sessions[0].closed().await, INVALID);
    assert_eq!(stack.zenoh_tcp().refuse(&stack.greeting(&acme)).await, INVALID);
    stack.denied("tenant_unknown").await;
    goes_on(&mut sessions[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_device_is_cut_off_alone() {
    let stack = Stack::zenoh().start().await;
    let revoked = Token::device("acme", "cam-1");
    let others = [
        Token::device("acme", "cam-2"),
        // A device of the same name elsewhere is another device.
        Token::device("globex", "cam-1"),
        Token::role("acme", "member"),
    ];
    let mut first = enter_all(&stack, std::slice::from_ref(&revoked)).await;
    let mut sessions = enter_all(&stack, &others).await;
    stack
        .change("acme", |t| {
            t.revoked_devices.insert("cam-1".parse().unwrap(), Timestamp::now());
        })
        .await;
    assert_eq!(first[0].closed().await, INVALID);
    assert_eq!(stack.zenoh_tcp().refuse(&stack.greeting(&revoked)).await, INVALID);
    stack.denied("device_revoked").await;
    eventually("it is counted once", || stack.terminations("device_revoked") == 1).await;
    let cuts = || (stack.cuts("learned"), stack.cuts("revoked"));
    eventually("and how long it took", || cuts() == (1, 1)).await;
    for session in &mut sessions {
        goes_on(session).await;
    }
    stack.change("acme", |t| t.revoked_devices.clear()).await;
    eventually_async("the device is admitted again", async || {
        stack.zenoh_tcp().knock().await.greet(&stack.greeting(&revoked)).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_is_cut_off_alone() {
    let stack = Stack::zenoh().start().await;
    let stolen = Token::device("acme", "cam-1").with(json!({"jti": "stolen"}));
    let fresh = Token::device("acme", "cam-1").with(json!({"jti": "fresh"}));
    let mut sessions = enter_all(&stack, &[stolen.clone(), fresh]).await;
    stack
        .change("acme", |t| {
            t.revoked_tokens.insert("stolen".parse().unwrap(), Timestamp::MAX);
        })
        .await;
    assert_eq!(sessions[0].closed().await, INVALID);
    assert_eq!(stack.zenoh_tcp().refuse(&stack.greeting(&stolen)).await, INVALID);
    stack.denied("token_revoked").await;
    goes_on(&mut sessions[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_from_before_a_time_are_cut_off() {
    let stack = Stack::zenoh().start().await;
    let now = Timestamp::now().as_second();
    let old = Token::device("acme", "cam-1").with(json!({"iat": now - 100}));
    let new = Token::device("acme", "cam-2").with(json!({"iat": now}));
    let mut sessions = enter_all(&stack, &[old.clone(), new]).await;
    let from = Timestamp::from_second(now - 50).unwrap();
    stack.change("acme", move |t| t.tokens_valid_from = Some(from)).await;
    assert_eq!(sessions[0].closed().await, INVALID);
    assert_eq!(stack.zenoh_tcp().refuse(&stack.greeting(&old)).await, INVALID);
    stack.denied("token_superseded").await;
    goes_on(&mut sessions[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_its_token() {
    let stack = Stack::zenoh().start().await;
    let brief = stack.greeting(&Token::device("acme", "cam-1").ttl(4));
    let mut lasting = enter_all(&stack, &[Token::device("acme", "cam-2")]).await;
    let mut raw = stack.zenoh_tcp().enter(&brief).await;
    assert_eq!(raw.closed().await, EXPIRED);
    eventually("it is counted", || stack.terminations("token_expired") == 1).await;
    eventually("and how long it took", || stack.cuts("learned") == 1).await;
    assert_eq!(stack.zenoh_tcp().refuse(&brief).await, EXPIRED);
    goes_on(&mut lasting[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_rights_change_has_to_come_again() {
    let stack = Stack::zenoh().start().await;
    let tokens = [
        Token::role("acme", "member"),
        Token::device("acme", "cam-1"),
        Token::role("globex", "member"),
    ];
    let mut sessions = enter_all(&stack, &tokens).await;
    let narrowed = role(json!({"subscribe": ["device-connect/{tenant}/*/event/**"]}));
    stack
        .change("acme", move |t| {
            t.roles.insert("member".parse().unwrap(), narrowed.clone());
        })
        .await;
    assert_eq!(sessions[0].closed().await, INVALID);
    eventually("it is counted once", || stack.terminations("rights_changed") == 1).await;
    eventually("and how long it took", || stack.cuts("learned") == 1).await;
    for session in &mut sessions[1..] {
        goes_on(session).await;
    }
    let mut raw = stack.zenoh_tcp().enter(&stack.greeting(&tokens[0])).await;
    raw.say([
        say::subscribe(1, key("device-connect/acme/**")),
        say::subscribe(2, key("device-connect/acme/cam-1/event/x")),
        say::put(key("device-connect/acme/cam-1/cmd"), "x"),
    ])
    .await;
    goes_on(&mut raw).await;
    assert_eq!(stack.refusals("subscribe", "subscribe_denied"), 1);
    assert_eq!(stack.refusals("put", "publish_denied"), 1);
    // The same, by a configuration that is read anew.
    stack.reconfigure(|config| {
        format!("{config}\n[roles.device]\nsubscribe = [\"device-connect/{{tenant}}/broadcast\"]\n")
    });
    assert_eq!(sessions[1].closed().await, INVALID);
    eventually("two are counted", || stack.terminations("rights_changed") == 2).await;
    goes_on(&mut sessions[2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_of_a_tenants_own_has_no_names_but_known_ones() {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    let token = Token::role("acme", "member");
    let mut sessions = enter_all(&stack, std::slice::from_ref(&token)).await;
    // It holds the tenant, and is globex's all the same.
    let beyond = role(json!({"publish": ["device-connect/*/*/{tenant}"]}));
    stack
        .change("acme", move |t| {
            t.roles.insert("member".parse().unwrap(), beyond.clone());
        })
        .await;
    assert_eq!(sessions[0].closed().await, INVALID);
    eventually("it is counted", || stack.terminations("role_not_confined") == 1).await;
    assert_eq!(stack.zenoh_tcp().refuse(&stack.greeting(&token)).await, INVALID);
    stack.denied("role_not_confined").await;
    witness.undisturbed().await;
    let within = role(json!({"publish": ["device-connect/{tenant}/*/x"]}));
    stack
        .change("acme", move |t| {
            t.roles.insert("member".parse().unwrap(), within.clone());
        })
        .await;
    eventually_async("it may come again", || async {
        stack.zenoh_tcp().try_connect(Some(&stack.token(&token))).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_is_taken_out_vouches_for_nobody_any_more() {
    let other = "[[issuers]]\nname = \"other\"\nissuer = \"https://other.test\"\n\
                 audiences = [\"bulkhead\"]\nalgorithms = [\"EdDSA\"]\ntenants = [\"acme\"]\n\
                 keys.jwks_file = \"issuer.jwks.json\"\n";
    let stack = Stack::zenoh().config(other).start().await;
    let theirs = Token::device("acme", "cam-1").with(json!({"iss": "https://other.test"}));
    let foreign = Token::device("globex", "cam-1").with(json!({"iss": "https://other.test"}));
    assert_eq!(stack.zenoh_tcp().refuse(&stack.greeting(&foreign)).await, INVALID);
    stack.denied("tenant_not_allowed").await;
    let tokens = [theirs.clone(), Token::device("acme", "cam-2")];
    let mut sessions = enter_all(&stack, &tokens).await;
    stack.reconfigure(|config| config.replace(other, ""));
    assert_eq!(sessions[0].closed().await, INVALID);
    assert_eq!(stack.zenoh_tcp().refuse(&stack.greeting(&theirs)).await, INVALID);
    stack.denied("issuer_unknown").await;
    goes_on(&mut sessions[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_read_is_cut_off_all_the_same() {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    let token = Token::role("acme", "member");
    let mut deaf = stack.zenoh_tcp().enter(&stack.greeting(&token)).await;
    deaf.say([say::subscribe(1, key("device-connect/acme/flood"))]).await;
    deaf.sync("device-connect/acme/nobody").await;
    let mut loud = stack.zenoh_tcp().enter(&stack.greeting(&token)).await;
    let flood = tokio::spawn(async move {
        for _ in 0..400 {
            let put = say::put_bytes(key("device-connect/acme/flood"), vec![b'x'; 60_000]);
            loud.say([put]).await;
        }
        loud
    });
    witness.undisturbed().await;
    stack.change("acme", |t| t.status = Status::Suspended).await;
    eventually("both are cut", || stack.terminations("tenant_suspended") == 2).await;
    eventually("only globex is left", || {
        stack.router().gate().status().sessions.iter().all(|session| {
            session.tenant.as_ref().is_some_and(|tenant| tenant.as_str() == "globex")
        })
    })
    .await;
    let mut loud = flood.await.unwrap();
    loud.closed().await;
    eventually("how long it took is counted", || stack.cuts("learned") == 2).await;
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_many_changes_holds() {
    let stack = Stack::zenoh().config("[limits]\nfailures_per_minute = 100000").start().await;
    let witness = stack.zenoh_witness("globex").await;
    let greeting = stack.greeting(&Token::device("acme", "cam-1"));
    for last in [Status::Suspended, Status::Active] {
        for n in 0..100 {
            let status = if n % 2 == 0 { Status::Active } else { Status::Suspended };
            stack.change("acme", |t| t.status = status).await;
        }
        stack.change("acme", |t| t.status = last).await;
        eventually_async("the last state holds", async || {
            let mut raw = stack.zenoh_tcp().knock().await;
            let entered = raw.greet(&greeting.clone().zid(ZenohIdProto::rand())).await;
            entered.is_ok() == (last == Status::Active)
        })
        .await;
    }
    // Nothing that comes late cuts it.
    let mut raw = stack.zenoh_tcp().enter(&greeting).await;
    for _ in 0..20 {
        goes_on(&mut raw).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_reconnects_during_a_suspension_finds_every_door_shut() {
    let stack = Stack::zenoh().config("[limits]\nfailures_per_minute = 100000").start().await;
    let witness = stack.zenoh_witness("globex").await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    let mut sessions = Vec::new();
    for _ in 0..8 {
        sessions.push(stack.zenoh_tcp().connect(&token).await);
    }
    let storm: Vec<_> = (0..8)
        .map(|_| {
            let (entrance, token) = (stack.zenoh_tcp(), token.clone());
            tokio::spawn(async move {
                let mut last = None;
                for _ in 0..50 {
                    let mut raw = entrance.knock().await;
                    last = raw.greet(&Greeting::new(&token)).await.is_ok().then_some(raw);
                }
                last
            })
        })
        .collect();
    stack.change("acme", |t| t.status = Status::Suspended).await;
    witness.undisturbed().await;
    for attempt in storm {
        if let Some(mut raw) = attempt.await.unwrap() {
            assert_eq!(raw.closed().await, INVALID);
        }
    }
    eventually("only globex is left", || stack.router().gate().status().sessions.len() == 2).await;
    witness.undisturbed().await;
    // They come back by themselves.
    let own = {
        stack.change("acme", |t| t.status = Status::Active).await;
        eventually_async("acme is admitted", async || {
            stack.zenoh_tcp().try_connect(Some(&token)).await.is_ok()
        })
        .await;
        stack.zenoh_witness("acme").await
    };
    for (n, session) in sessions.iter().enumerate() {
        let name = format!("device-connect/acme/cam-1/event/{n}");
        let heard = format!("put {name} back");
        eventually_async("the session is back", async || {
            session.put(&name, "back").await.unwrap();
            own.heard().contains(&heard)
        })
        .await;
    }
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_finds_who_waits_for_the_place_of_its_session_before() {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    let token = Token::role("acme", "member");
    let greeting = stack.greeting(&token);
    // What waits for a client that reads nothing has to go first, for as long as a farewell may take.
    let mut deaf = stack.zenoh_tcp().enter(&greeting).await;
    deaf.say([say::subscribe(1, key("device-connect/acme/flood"))]).await;
    deaf.sync("device-connect/acme/nobody").await;
    let mut loud = stack.zenoh_tcp().enter(&stack.greeting(&token)).await;
    let flood = tokio::spawn(async move {
        loop {
            loud.say([say::kept(key("device-connect/acme/flood"), vec![b'x'; 60_000])]).await;
        }
    });
    let taken = || stack.router().gate().status().tenants["acme"].messages;
    let mut last = (0, 0);
    eventually("no more is taken of the flood", || {
        last = if taken() == last.0 { (last.0, last.1 + 1) } else { (taken(), 0) };
        last.0 > 20 && last.1 > 10
    })
    .await;
    let entrance = stack.zenoh_tcp();
    let next = tokio::spawn(async move {
        let mut raw = entrance.knock().await;
        match raw.greet(&greeting).await {
            Ok(()) => raw.closed().await,
            Err(refused) => refused,
        }
    });
    eventually("the next one wants its place", || {
        stack.metric("bulkhead_zenoh_takeovers_total") == 1
    })
    .await;
    stack.change("acme", |t| t.status = Status::Suspended).await;
    assert_eq!(next.await.unwrap(), INVALID);
    flood.abort();
    eventually("only globex is left", || stack.router().gate().status().sessions.len() == 2).await;
    witness.undisturbed().await;
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_said_after_a_suspension_is_delivered() {
    let stack = Stack::zenoh().config(bulkhead_tests::mqtt::SERVICE_ISSUER).start().await;
    // Somebody who hears acme, and stays.
    let service = stack.zenoh_tcp().enter(&stack.greeting(&stack.service_token())).await;
    let mut service = service;
    service.say([say::subscribe(1, key("device-connect/acme/**"))]).await;
    service.sync("device-connect/acme/nobody").await;
    let mut raw = stack.zenoh_tcp().enter(&stack.greeting(&Token::role("acme", "member"))).await;
    raw.say([say::put(key("device-connect/acme/x"), "before")]).await;
    service.until(|body| matches!(body, NetworkBody::Push(_))).await;
    stack.change("acme", |t| t.status = Status::Suspended).await;
    eventually("it is cut", || stack.terminations("tenant_suspended") == 1).await;
    raw.say([say::put(key("device-connect/acme/x"), "after")]).await;
    let reason = raw.closed().await;
    assert!(reason == INVALID || reason.is_none());
    let heard = service.sync("device-connect/acme/nobody").await;
    assert!(heard.is_empty(), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_beyond_the_lease_ends_a_session() {
    let stack = Stack::zenoh().start().await;
    let token = Token::role("acme", "member");
    let greeting = Greeting { lease: Duration::from_millis(500), ..stack.greeting(&token) };
    let mut silent = stack.zenoh_tcp().enter(&greeting).await;
    while let Some(said) = silent.next().await {
        assert!(matches!(said, Said::Close(_)), "{said:?}");
    }
    eventually("its place is free", || stack.router().gate().status().sessions.is_empty()).await;
}
