//! Three servers: tenants are known on each, and cut off on each.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use async_nats::ConnectOptions;
use bulkhead_policy::{Status, Tenant};
use bulkhead_tests::{Actor, Stack, Token, eventually_async, next, nothing};

async fn on_each(stack: &Stack, token: &Token) -> Vec<Actor> {
    let mut actors = Vec::new();
    for url in stack.urls() {
        let token = stack.token(token);
        let mut admitted = None;
        // A server that has just joined the cluster learns of an account a moment later.
        eventually_async("admitted on every server", async || {
            let options = ConnectOptions::with_token(token.clone()).ignore_discovered_servers();
            admitted = Actor::try_connect(&url, options).await.ok();
            admitted.is_some()
        })
        .await;
        actors.extend(admitted);
    }
    actors
}

#[tokio::test]
async fn isolation_and_revocation_reach_every_server() {
    let stack = Stack::new().servers(3).start().await;
    let acme = on_each(&stack, &Token::device("acme", "cam-1")).await;
    let other = on_each(&stack, &Token::device("acme", "cam-2")).await;
    let globex = on_each(&stack, &Token::role("globex", "member")).await;

    let member = on_each(&stack, &Token::role("acme", "member")).await;
    let mut own = member[2].subscribe("device-connect.acme.*.event.>").await;
    let mut stolen = globex[1].subscribe("device-connect.acme.>").await;
    globex[1].refused("device-connect.acme.>").await;
    eventually_async("interest has spread over the cluster", async || {
        acme[0].publish("device-connect.acme.cam-1.event.motion", "own").await;
        let wait = std::time::Duration::from_millis(100);
        let arrived = tokio::time::timeout(wait, next(&mut own)).await;
        arrived.is_ok_and(|message| message.payload == "own")
    })
    .await;
    nothing(&mut stolen).await;

    stack
        .change("acme", |t| {
            t.revoked_devices.insert("cam-1".parse().unwrap(), jiff::Timestamp::now());
        })
        .await;
    for actor in &acme {
        actor.cut().await;
    }
    assert!(other.iter().chain(&globex).all(|actor| !actor.is_cut()));

    stack.change("acme", |t| t.status = Status::Suspended).await;
    for actor in &other {
        actor.cut().await;
    }
    assert!(globex.iter().all(|actor| !actor.is_cut()));
}

#[tokio::test]
async fn a_new_tenant_is_admitted_on_every_server() {
    let stack = Stack::new().servers(3).start().await;
    stack.store().await.create(&"initech".parse().unwrap(), Tenant::default()).await.unwrap();
    assert_eq!(on_each(&stack, &Token::device("initech", "cam-1")).await.len(), 3);
}
