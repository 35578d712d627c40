//! What a client that is let in can do to the router that all tenants share: nothing that others notice.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use bulkhead_tests::mqtt::SERVICE_ISSUER;
use bulkhead_tests::zenoh::say::{self, key};
use bulkhead_tests::zenoh::{Apart, Link, Raw};
use bulkhead_tests::{Stack, Token, eventually, ping_and_read_nothing};
use zenoh_protocol::network::interest::{InterestMode, InterestOptions};
use zenoh_protocol::network::{NetworkBody, NetworkMessage};
use zenoh_protocol::transport::close;

const INVALID: Option<u8> = Some(close::reason::INVALID);
const NOBODY: &str = "device-connect/acme/nobody";
const REPLICA: &str = env!("CARGO_BIN_EXE_replica");

/// Bytes by which a process may grow meanwhile.
const GROWTH: u64 = 48 << 20;

async fn member(stack: &Stack) -> Raw {
    stack.zenoh_tcp().enter(&stack.greeting(&Token::role("acme", "member"))).await
}

/// Says what does not fit into one batch.
async fn say_each(raw: &mut Raw, messages: impl IntoIterator<Item = NetworkMessage>) {
    for message in messages {
        raw.say([message]).await;
    }
}

/// A key of acme's of 4,000 bytes, in as many chunks as there may be.
fn long(n: u32) -> String {
    let chunk = "x".repeat(126);
    let chunks: Vec<_> = (0..29).map(|_| chunk.as_str()).collect();
    format!("device-connect/acme/{n}-{}", chunks.join("/"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_expressions_that_take_a_router_too_long_are_refused() {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    let own = stack.zenoh_witness("acme").await;
    let mut raw = member(&stack).await;
    // Each `**` of the one can stand for any part of the other: some 10^8 ways.
    let ladder = format!("device-connect/acme/{}", vec!["a"; 30].join("/"));
    let many = format!("device-connect/acme/{}", vec!["**/a"; 14].join("/"));
    // So with the bytes of a chunk, and `$*`.
    let wide = format!("device-connect/acme/{}b", "a".repeat(2_000));
    let partial = format!("device-connect/acme/{}$*c", "$*a".repeat(40));
    raw.say([say::subscribe(1, key(&ladder)), say::subscribe(2, key(&wide))]).await;
    raw.sync(NOBODY).await;
    for (n, keys) in (10..).zip([&many, &partial]) {
        raw.say([
            say::put(key(keys), "x"),
            say::query(n, key(keys)),
            say::subscribe(n, key(keys)),
            say::token(n, key(keys)),
            say::declare_key(n as u16, key(keys)),
            say::put(say::id(n as u16, ""), "x"),
            say::interest(n, InterestMode::Current, InterestOptions::TOKENS, Some(key(keys))),
        ])
        .await;
        raw.until(|body| matches!(body, NetworkBody::ResponseFinal(end) if end.rid == n)).await;
    }
    raw.sync(NOBODY).await;
    assert_eq!(stack.refusals("put", "publish_denied"), 4);
    assert_eq!(stack.refusals("query", "publish_denied"), 2);
    assert_eq!(stack.refusals("subscribe", "subscribe_denied"), 2);
    assert_eq!(stack.refusals("token", "publish_denied"), 2);
    assert_eq!(stack.refusals("interest", "subscribe_denied"), 2);
    // What clients need is allowed.
    raw.say([say::put(key("device-connect/acme/**/event/**"), "own")]).await;
    own.hears("put device-connect/acme/**/event/** own").await;
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_while_the_router_answers_holds_nobody_up() {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    let mut alive = member(&stack).await;
    say_each(&mut alive, (1..=300).map(|n| say::token(n, key(&long(n))))).await;
    alive.sync(NOBODY).await;
    // More than a router has room for on the way out, each time, and nobody there who reads it: it would wait for
    // five seconds each time, and everybody for it.
    for _ in 0..20 {
        let mut raw = member(&stack).await;
        let options = InterestOptions::KEYEXPRS + InterestOptions::TOKENS;
        let all = Some(key("device-connect/acme/**"));
        raw.say([say::interest(1, InterestMode::CurrentFuture, options, all)]).await;
        drop(raw);
    }
    eventually("nobody is left of them", || {
        stack.router().gate().status().tenants["acme"].sessions == 1
    })
    .await;
    witness.undisturbed().await;
    alive.sync(NOBODY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_asked_for_is_forgotten_with_the_question() {
    let stack = Stack::zenoh().without_service().start().await;
    let apart = Apart::start(&stack, REPLICA, Link::Tcp).await;
    let witness = apart.witness(&stack).await;
    let mut raw = apart.member(&stack).await;
    let asked = |n: u32, mode| say::interest(n, mode, InterestOptions::TOKENS, Some(key(&long(n))));
    raw.say([asked(1, InterestMode::Current)]).await;
    raw.sync(NOBODY).await;
    let before = apart.resident();
    // A router keeps some 70 kB for each of these keys. Some are asked about once, some until they are no more,
    // and some until the session ends.
    say_each(&mut raw, (1_000..2_000).map(|n| asked(n, InterestMode::Current))).await;
    for n in 2_000..2_500 {
        let end = say::interest(n, InterestMode::Final, InterestOptions::empty(), None);
        say_each(&mut raw, [asked(n, InterestMode::Future), end]).await;
    }
    raw.sync(NOBODY).await;
    for round in 3..13 {
        let mut leaving = apart.member(&stack).await;
        let ids = round * 1_000..round * 1_000 + 50;
        say_each(&mut leaving, ids.map(|n| asked(n, InterestMode::Future))).await;
        leaving.sync(NOBODY).await;
    }
    witness.undisturbed().await;
    let grown = apart.resident().saturating_sub(before);
    assert!(grown < GROWTH, "it keeps {grown} bytes more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_of_a_question_has_one_meaning() {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    let mut silent = member(&stack).await;
    silent.say([say::queryable(1, key("device-connect/acme/silent"))]).await;
    silent.sync(NOBODY).await;
    let asked = |name: &str| {
        let name = key(&format!("device-connect/acme/{name}"));
        say::interest(7, InterestMode::Future, InterestOptions::TOKENS, Some(name))
    };
    let query = |name: &str| say::query(900, key(&format!("device-connect/acme/{name}")));
    for (first, second) in [
        (asked("a"), asked("b")),
        (query("silent"), query("silent")),
        (query("silent"), query("x")),
    ] {
        let mut raw = member(&stack).await;
        raw.say([first]).await;
        raw.sync(NOBODY).await;
        raw.say([second]).await;
        assert_eq!(raw.closed().await, INVALID);
    }
    // One that has been answered may come again.
    let mut raw = member(&stack).await;
    for _ in 0..2 {
        raw.say([query("nobody")]).await;
        raw.until(|body| matches!(body, NetworkBody::ResponseFinal(end) if end.rid == 900)).await;
    }
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_behind_is_waited_for_by_all_tenants() {
    const SLOW: &str = "device-connect/*/*/event/slow";
    let stack = Stack::zenoh().config(SERVICE_ISSUER).start().await;
    let globex = stack.zenoh_witness("globex").await;
    let mut service = stack.zenoh_tcp().enter(&stack.greeting(&stack.service_token())).await;
    service.say([say::subscribe(1, key(SLOW))]).await;
    service.sync(NOBODY).await;
    let mut flooding = member(&stack).await;
    let flood = tokio::spawn(async move {
        loop {
            let name = key("device-connect/acme/cam-1/event/slow");
            flooding.say([say::kept(name, vec![b'x'; 60_000])]).await;
        }
    });
    eventually("the service is behind", || stack.metric("bulkhead_zenoh_behind") == 1).await;
    // Until the publisher waits; nobody else does.
    let published = || stack.router().gate().status().tenants["acme"].messages;
    let mut before = 0;
    while published() > before {
        before = published();
        for _ in 0..3 {
            globex.undisturbed().await;
        }
    }
    let mut heard = 0;
    while heard < 40 {
        service.until(|body| matches!(body, NetworkBody::Push(_))).await;
        heard += 1;
    }
    flood.abort();
    assert_eq!(stack.terminations("queue_quota_exceeded"), 0);
    globex.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_of_whoever_does_not_read_are_not_kept() {
    let stack = Stack::zenoh().without_service().start().await;
    let apart = Apart::start(&stack, REPLICA, Link::Ws).await;
    let before = apart.resident();
    let address = apart.entrance.address;
    let pinging = tokio::task::spawn_blocking(move || ping_and_read_nothing(address, "zenoh"));
    let _open = pinging.await.unwrap();
    let grown = apart.resident().saturating_sub(before);
    assert!(grown < GROWTH / 2, "it took {grown} bytes more");
}
