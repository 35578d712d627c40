//! What changes in the directory reaches live connections.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_policy::{Quotas, Role, Status};
use bulkhead_tests::{Actor, Stack, Token, connect_error, eventually, eventually_async, next};
use serde_json::json;

async fn connect_all(stack: &Stack, tokens: &[Token]) -> Vec<Actor> {
    let mut actors = Vec::new();
    for token in tokens {
        actors.push(Actor::connect(stack.url(), &stack.token(token)).await);
    }
    actors
}

/// For how many connections the time to cut was measured: since it was learnt, and since the directory says
/// that somebody revoked the device.
fn cuts(stack: &Stack) -> (u64, u64) {
    let count = |since: &str| {
        let labels = format!("backend=\"nats\",since=\"{since}\"");
        stack.metric(&format!("bulkhead_time_to_cut_seconds_count{{{labels}}}"))
    };
    (count("learned"), count("revoked"))
}

async fn admitted(stack: &Stack, token: &str) -> bool {
    let options = async_nats::ConnectOptions::with_token(token.to_owned());
    Actor::try_connect(stack.url(), options).await.is_ok()
}

#[tokio::test]
async fn a_suspended_tenant_is_cut_off_and_comes_back_when_resumed() {
    let stack = Stack::new().start().await;
    let acme = connect_all(
        &stack,
        &[
            Token::device("acme", "cam-1"),
            Token::device("acme", "cam-2"),
            Token::role("acme", "member"),
        ],
    )
    .await;
    let globex = connect_all(&stack, &[Token::device("globex", "cam-1")]).await;

    stack.change("acme", |t| t.status = Status::Suspended).await;
    for actor in &acme {
        actor.cut().await;
    }
    eventually("how long it took is counted", || cuts(&stack) == (3, 0)).await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    connect_error(&stack, &token).await;
    stack.denied("tenant_suspended").await;
    assert!(globex.iter().all(|actor| !actor.is_cut()), "others are undisturbed");

    stack.change("acme", |t| t.status = Status::Active).await;
    eventually_async("the resumed tenant is admitted", async || admitted(&stack, &token).await)
        .await;
    assert!(globex.iter().all(|actor| !actor.is_cut()));
    eventually("the changes are in the audit log", || {
        let changes = stack.audit().iter().filter(|r| r["event"] == "directory_change").count();
        changes >= 2
    })
    .await;
}

#[tokio::test]
async fn a_deleted_tenant_is_cut_off() {
    let stack = Stack::new().start().await;
    let actors =
        connect_all(&stack, &[Token::device("acme", "cam-1"), Token::device("globex", "cam-1")])
            .await;
    stack.store().await.delete(&"acme".parse().unwrap()).await.unwrap();
    actors[0].cut().await;
    eventually("how long it took is counted", || cuts(&stack) == (1, 0)).await;
    connect_error(&stack, &stack.token(&Token::device("acme", "cam-1"))).await;
    stack.denied("tenant_unknown").await;
    assert!(!actors[1].is_cut());
}

#[tokio::test]
async fn a_revoked_device_is_cut_off_alone() {
    let stack = Stack::new().start().await;
    let actors = connect_all(
        &stack,
        &[
            Token::device("acme", "cam-1"),
            Token::device("acme", "cam-2"),
            // A device of the same name elsewhere is another device.
            Token::device("globex", "cam-1"),
        ],
    )
    .await;
    stack
        .change("acme", |t| {
            t.revoked_devices.insert("cam-1".parse().unwrap(), jiff::Timestamp::now());
        })
        .await;
    actors[0].cut().await;
    connect_error(&stack, &stack.token(&Token::device("acme", "cam-1"))).await;
    stack.denied("device_revoked").await;
    let terminated = "bulkhead_terminations_total{backend=\"nats\",reason=\"device_revoked\"} 1";
    eventually("the termination is counted once", || stack.metrics().contains(terminated)).await;
    eventually("and how long it took", || cuts(&stack) == (1, 1)).await;
    eventually("and written down", || {
        stack.audit().iter().any(|r| r["event"] == "terminate" && r["device"] == "cam-1")
    })
    .await;
    assert!(!actors[1].is_cut() && !actors[2].is_cut());

    stack.change("acme", |t| t.revoked_devices.clear()).await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    eventually_async("the device is admitted again", async || admitted(&stack, &token).await).await;
}

#[tokio::test]
async fn a_revoked_token_is_cut_off_alone() {
    let stack = Stack::new().start().await;
    let stolen = Token::device("acme", "cam-1").with(json!({"jti": "stolen"}));
    let fresh = Token::device("acme", "cam-1").with(json!({"jti": "fresh"}));
    let actors = connect_all(&stack, &[stolen.clone(), fresh]).await;
    stack
        .change("acme", |t| {
            t.revoked_tokens.insert("stolen".parse().unwrap(), jiff::Timestamp::MAX);
        })
        .await;
    actors[0].cut().await;
    connect_error(&stack, &stack.token(&stolen)).await;
    stack.denied("token_revoked").await;
    assert!(!actors[1].is_cut());
}

#[tokio::test]
async fn tokens_from_before_a_time_are_cut_off() {
    let stack = Stack::new().start().await;
    let now = jiff::Timestamp::now().as_second();
    let old = Token::device("acme", "cam-1").with(json!({"iat": now - 100}));
    let new = Token::device("acme", "cam-2").with(json!({"iat": now}));
    let actors = connect_all(&stack, &[old.clone(), new]).await;
    let from = jiff::Timestamp::from_second(now - 50).unwrap();
    stack.change("acme", move |t| t.tokens_valid_from = Some(from)).await;
    actors[0].cut().await;
    connect_error(&stack, &stack.token(&old)).await;
    stack.denied("token_superseded").await;
    assert!(!actors[1].is_cut());
}

#[tokio::test]
async fn an_issuer_that_is_taken_out_vouches_for_nobody_any_more() {
    let other = "[[issuers]]\nname = \"other\"\nissuer = \"https://other.test\"\n\
                 audiences = [\"bulkhead\"]\nalgorithms = [\"EdDSA\"]\ntenants = [\"acme\"]\n\
                 keys.jwks_file = \"issuer.jwks.json\"\n";
    let stack = Stack::new().config(other).start().await;
    let theirs = Token::device("acme", "cam-1").with(json!({"iss": "https://other.test"}));
    let actors = connect_all(&stack, &[theirs.clone(), Token::device("acme", "cam-2")]).await;
    let config = std::fs::read_to_string(stack.config_path()).unwrap();
    std::fs::write(stack.config_path(), config.replace(other, "")).unwrap();
    actors[0].cut().await;
    eventually("how long it took is counted", || cuts(&stack) == (1, 0)).await;
    connect_error(&stack, &stack.token(&theirs)).await;
    stack.denied("issuer_unknown").await;
    assert!(!actors[1].is_cut());
}

#[tokio::test]
async fn a_changed_role_makes_its_bearers_come_back_with_the_new_rights() {
    let stack = Stack::new().start().await;
    let actors = connect_all(
        &stack,
        &[
            Token::role("acme", "member"),
            Token::role("acme", "viewer"),
            Token::role("globex", "member"),
        ],
    )
    .await;
    let narrowed: Role = serde_json::from_value(json!({
        "subscribe": ["device-connect/{tenant}/*/event/**"],
    }))
    .unwrap();
    stack
        .change("acme", |t| {
            t.roles.insert("member".parse().unwrap(), narrowed.clone());
        })
        .await;
    actors[0].cut().await;
    assert!(!actors[1].is_cut() && !actors[2].is_cut(), "only the changed role of that tenant");

    let member = Actor::connect(stack.url(), &stack.token(&Token::role("acme", "member"))).await;
    member.subscribe("device-connect.acme.>").await;
    member.refused("device-connect.acme.>").await;
    let mut events = member.subscribe("device-connect.acme.*.event.>").await;
    let device = Actor::connect(stack.url(), &stack.token(&Token::device("acme", "cam-1"))).await;
    device.publish("device-connect.acme.cam-1.event.motion", "own").await;
    assert_eq!(next(&mut events).await.payload, "own");
}

#[tokio::test]
async fn quotas_limit_connections_and_change_without_cutting_anybody() {
    let stack = Stack::new().start().await;
    stack.change("acme", |t| t.quotas.connections = Some(2)).await;
    let held =
        connect_all(&stack, &[Token::device("acme", "cam-1"), Token::device("acme", "cam-2")])
            .await;
    let third = stack.token(&Token::device("acme", "cam-3"));
    eventually_async("the third is refused", async || !admitted(&stack, &third).await).await;
    stack.change("acme", |t| t.quotas = Quotas::default()).await;
    eventually_async("the third is admitted", async || admitted(&stack, &third).await).await;
    assert!(held.iter().all(|actor| !actor.is_cut()));
}

#[tokio::test]
async fn authentications_are_limited_per_tenant() {
    let stack = Stack::new().start().await;
    stack.change("acme", |t| t.quotas.authentications_per_minute = Some(3)).await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    eventually_async("acme is over its rate", async || !admitted(&stack, &token).await).await;
    stack.denied("auth_rate_exceeded").await;
    Actor::connect(stack.url(), &stack.token(&Token::device("globex", "cam-1"))).await;
}

#[tokio::test]
async fn a_storm_of_reconnects_during_a_suspension_finds_every_door_shut() {
    let stack = Stack::new().start().await;
    let url = stack.url().to_owned();
    let token = stack.token(&Token::device("acme", "cam-1"));
    let globex = Actor::connect(&url, &stack.token(&Token::device("globex", "cam-1"))).await;
    let storm: Vec<_> = (0..16)
        .map(|_| {
            let (url, token) = (url.clone(), token.clone());
            tokio::spawn(async move {
                let mut last = None;
                for _ in 0..20 {
                    let options = async_nats::ConnectOptions::with_token(token.clone());
                    if let Ok(actor) = Actor::try_connect(&url, options).await {
                        last = Some(actor);
                    }
                }
                last
            })
        })
        .collect();
    stack.change("acme", |t| t.status = Status::Suspended).await;
    for attempt in storm {
        if let Some(actor) = attempt.await.unwrap() {
            actor.cut().await;
        }
    }
    connect_error(&stack, &token).await;
    assert!(!globex.is_cut());
}

#[tokio::test]
async fn the_last_of_many_changes_holds() {
    let stack = Stack::new().start().await;
    let globex = Actor::connect(stack.url(), &stack.token(&Token::device("globex", "cam-1"))).await;
    let token = stack.token(&Token::device("acme", "cam-1"));
    for last in [Status::Suspended, Status::Active] {
        for n in 0..100 {
            let status = if n % 2 == 0 { Status::Active } else { Status::Suspended };
            stack.change("acme", |t| t.status = status).await;
        }
        stack.change("acme", |t| t.status = last).await;
        let expected = last == Status::Active;
        eventually_async("the last state holds", async || {
            admitted(&stack, &token).await == expected
        })
        .await;
        // Neither a push nor a sweep that comes late undoes it.
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        assert_eq!(admitted(&stack, &token).await, expected);
    }
    assert!(!globex.is_cut());
}

#[tokio::test]
async fn a_tenant_suspended_while_its_client_is_being_let_in_is_cut() {
    let stack = Stack::new().start().await;
    // Each round changes the directory at another moment of a connection's beginning.
    for round in 0..12_u64 {
        let token = stack.token(&Token::device("acme", "cam-1"));
        let options = async_nats::ConnectOptions::with_token(token);
        let url = stack.url().to_owned();
        let connecting = tokio::spawn(async move { Actor::try_connect(&url, options).await });
        tokio::time::sleep(std::time::Duration::from_micros(400 * round)).await;
        stack.change("acme", |t| t.status = Status::Suspended).await;
        if let Ok(actor) = connecting.await.unwrap() {
            actor.cut().await;
        }
        stack.change("acme", |t| t.status = Status::Active).await;
        let token = stack.token(&Token::device("acme", "cam-1"));
        eventually_async("resumed", async || admitted(&stack, &token).await).await;
    }
}
