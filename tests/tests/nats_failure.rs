//! What happens when something is down, slow or gone.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use async_nats::ConnectOptions;
use bulkhead_policy::Status;
use bulkhead_tests::{Actor, Stack, Token, connect_error, eventually_async, next};

const REPLICA: &str = env!("CARGO_BIN_EXE_replica");

async fn admitted(stack: &Stack, token: &Token) -> bool {
    let options = ConnectOptions::with_token(stack.token(token));
    Actor::try_connect(stack.url(), options).await.is_ok()
}

#[tokio::test]
async fn without_a_service_everybody_is_refused_but_administrators() {
    let mut stack = Stack::new().start().await;
    let held = Actor::connect(stack.url(), &stack.token(&Token::device("acme", "cam-1"))).await;
    stack.stop_service().await;
    let told = connect_error(&stack, &stack.token(&Token::device("acme", "cam-2"))).await;
    assert!(told.contains("uthorization") || told.contains("timed out"), "{told}");
    assert!(!held.is_cut(), "who is connected stays");

    let system = std::fs::read_to_string(stack.folder().join("nats/system.creds")).unwrap();
    let options = ConnectOptions::with_credentials(&system).unwrap();
    let admin = Actor::try_connect(stack.url(), options).await.unwrap();
    let ping = admin.client.request("$SYS.REQ.SERVER.PING", "".into()).await.unwrap();
    assert!(!ping.payload.is_empty(), "administrators are not locked out");

    stack.start_service().await;
    assert!(admitted(&stack, &Token::device("acme", "cam-2")).await, "and it recovers alone");
}

#[tokio::test]
async fn a_killed_replica_is_harmless() {
    let stack = Stack::new().without_service().start().await;
    let first = stack.replica(REPLICA, "first").await;
    let _second = stack.replica(REPLICA, "second").await;
    assert!(admitted(&stack, &Token::device("acme", "cam-1")).await);
    first.kill().unwrap();
    for n in 0..8 {
        let device = Token::device("acme", &format!("cam-{n}"));
        // A request that was on its way to the killed one is refused at the server's timeout.
        eventually_async("the other replica answers", async || admitted(&stack, &device).await)
            .await;
    }
}

#[tokio::test]
async fn a_frozen_replica_is_harmless_where_replicas_are_hedged() {
    let stack = Stack::new().without_service().nats("hedged = true").start().await;
    let frozen = stack.replica(REPLICA, "frozen").await;
    let _live = stack.replica(REPLICA, "live").await;
    frozen.pause().unwrap();
    for n in 0..8 {
        let device = Token::device("acme", &format!("cam-{n}"));
        assert!(admitted(&stack, &device).await, "connection {n} is answered by the live one");
    }
    frozen.resume().unwrap();
}

#[tokio::test]
async fn a_frozen_service_refuses_within_the_servers_timeout_and_thaws() {
    let stack = Stack::new().without_service().start().await;
    let only = stack.replica(REPLICA, "only").await;
    let device = Token::device("acme", "cam-1");
    assert!(admitted(&stack, &device).await);
    only.pause().unwrap();
    // The client's own limit is four times the server's: it is the server that answers.
    let told = connect_error(&stack, &stack.token(&device)).await;
    assert!(told.contains("uthorization"), "{told}");
    only.resume().unwrap();
    eventually_async("it answers again", async || admitted(&stack, &device).await).await;
}

#[tokio::test]
async fn a_restarted_server_is_told_its_tenants_again() {
    let mut stack = Stack::new().start().await;
    let device = Token::device("acme", "cam-1");
    assert!(admitted(&stack, &device).await);
    // The server comes back without anything it was told.
    let store = stack.folder().join("servers/s0/accounts");
    let servers = stack.servers();
    servers[0].stop().unwrap();
    std::fs::remove_dir_all(&store).unwrap();
    servers[0].restart().unwrap();
    eventually_async("tenants are admitted again", async || admitted(&stack, &device).await).await;

    let member = Actor::connect(stack.url(), &stack.token(&Token::role("acme", "member"))).await;
    let actor = Actor::connect(stack.url(), &stack.token(&device)).await;
    let mut events = member.subscribe("device-connect.acme.*.event.>").await;
    actor.publish("device-connect.acme.cam-1.event.motion", "own").await;
    assert_eq!(next(&mut events).await.payload, "own");
}

#[tokio::test]
async fn a_suspension_during_the_servers_absence_holds_when_it_is_back() {
    let mut stack = Stack::new().start().await;
    let device = Token::device("acme", "cam-1");
    assert!(admitted(&stack, &device).await);
    stack.servers()[0].stop().unwrap();
    stack.change("acme", |t| t.status = Status::Suspended).await;
    stack.servers()[0].restart().unwrap();
    eventually_async("globex is admitted again", async || {
        admitted(&stack, &Token::device("globex", "cam-1")).await
    })
    .await;
    connect_error(&stack, &stack.token(&device)).await;
    stack.denied("tenant_suspended").await;
}

#[tokio::test]
async fn etcd_may_go_and_come_back() {
    let mut stack = Stack::new().etcd().start().await;
    let device = Token::device("acme", "cam-1");
    let held = Actor::connect(stack.url(), &stack.token(&device)).await;

    stack.etcd().kill().unwrap();
    assert!(admitted(&stack, &device).await, "the last good state serves for a while");
    eventually_async("the state is stale, and nobody new is let in", async || {
        !admitted(&stack, &device).await
    })
    .await;
    stack.denied("directory_unavailable").await;
    assert!(!stack.control().readiness().missing().is_empty(), "and readiness says so");
    assert!(!held.is_cut(), "who is connected stays");

    stack.etcd().restart().unwrap();
    eventually_async("it recovers alone", async || admitted(&stack, &device).await).await;
    stack.change("acme", |t| t.status = Status::Suspended).await;
    held.cut().await;
}

#[tokio::test]
async fn a_broken_directory_file_keeps_the_last_good_one() {
    let stack = Stack::new().start().await;
    let device = Token::device("acme", "cam-1");
    let path = stack.folder().join("tenants.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, "[tenants.acme]\nstatus = \"gone\"\n").unwrap();
    let errors = "bulkhead_directory_errors_total{kind=\"content\"}";
    bulkhead_tests::eventually("it is counted", || stack.metrics().contains(errors)).await;
    assert!(admitted(&stack, &device).await);
    std::fs::write(&path, good.replace("[tenants.acme]", "[tenants.initech]")).unwrap();
    eventually_async("a mended file is taken over", async || {
        admitted(&stack, &Token::device("initech", "cam-1")).await
    })
    .await;
    assert!(!admitted(&stack, &device).await);
}
