//! What a tenant, a session and an address may use of a Zenoh gate, and who notices.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use bulkhead_policy::Quotas;
use bulkhead_tests::mqtt::SERVICE_ISSUER;
use bulkhead_tests::zenoh::say::{self, key};
use bulkhead_tests::zenoh::{Entrance, Greeting, Raw};
use bulkhead_tests::{Stack, Token, eventually, eventually_async};
use futures::future::join_all;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use zenoh_protocol::network::interest::{InterestMode, InterestOptions};
use zenoh_protocol::network::{NetworkBody, NetworkMessage};
use zenoh_protocol::transport::close;
use zenoh_protocol::zenoh::Query;
use zenoh_protocol::zenoh::query::ext::QueryBodyType;

const INVALID: Option<u8> = Some(close::reason::INVALID);
const NOBODY: &str = "device-connect/acme/nobody";

/// Limits acme and waits until the service knows.
async fn limit(stack: &Stack, quotas: Quotas) {
    stack.change("acme", move |t| t.quotas = quotas).await;
    let (acme, directory) = ("acme".parse().unwrap(), stack.control().auth().directory());
    eventually("the quotas are known", || directory.tenant(&acme).unwrap().quotas == quotas).await;
}

async fn member(stack: &Stack) -> Raw {
    stack.zenoh_tcp().enter(&stack.greeting(&Token::role("acme", "member"))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_a_tenant_are_limited() {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    limit(&stack, Quotas { connections: Some(2), ..Quotas::default() }).await;
    let greeting = || stack.greeting(&Token::role("acme", "member"));
    let first = member(&stack).await;
    let known = greeting();
    let mut second = stack.zenoh_tcp().enter(&known).await;
    let refused = stack.zenoh_tcp().refuse(&greeting()).await;
    assert_eq!(refused, Some(close::reason::MAX_SESSIONS));
    stack.denied("connection_quota_exceeded").await;
    // One that is known may come back at its limit.
    let mut again = stack.zenoh_tcp().enter(&known).await;
    second.closed().await;
    again.sync(NOBODY).await;
    witness.undisturbed().await;
    drop(first);
    eventually_async("there is room again", async || {
        stack.zenoh_tcp().knock().await.greet(&greeting()).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_a_session_are_limited() {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    let mut raw = member(&stack).await;
    let name = |n: u16| say::declare_key(n, key(&format!("device-connect/acme/{n}")));
    raw.say((1..=1_000).map(name)).await;
    raw.sync(NOBODY).await;
    // What is taken back makes room.
    raw.say([say::undeclare_key(1), name(1_001)]).await;
    raw.sync(NOBODY).await;
    raw.say([name(1_002)]).await;
    assert_eq!(raw.closed().await, INVALID);
    // Denied ones count as well.
    let mut raw = member(&stack).await;
    let foreign = |n: u16| say::declare_key(n, key(&format!("device-connect/globex/{n}")));
    raw.say((1..=1_001).map(foreign)).await;
    assert_eq!(raw.closed().await, INVALID);
    witness.undisturbed().await;
    member(&stack).await.sync(NOBODY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declarations_of_a_session_are_limited() {
    let stack = Stack::zenoh().zenoh("max_declarations_per_session = 10").start().await;
    let witness = stack.zenoh_witness("globex").await;
    let own = |n: u32| key(&format!("device-connect/acme/{n}"));
    let future =
        |n: u32| say::interest(n, InterestMode::Future, InterestOptions::SUBSCRIBERS, Some(own(n)));
    type Declare<'a> = &'a dyn Fn(u32) -> NetworkMessage;
    let kinds: [Declare; 4] = [
        &|n| say::subscribe(n, own(n)),
        &|n| say::queryable(n, own(n)),
        &|n| say::token(n, own(n)),
        &future,
    ];
    for declare in kinds {
        let mut raw = member(&stack).await;
        // Half of each, and the same again, is within.
        raw.say((0..5).map(declare)).await;
        raw.say((100..105).map(|n| say::subscribe(n, own(n)))).await;
        raw.say((0..5).map(declare)).await;
        raw.sync(NOBODY).await;
        raw.say([declare(5)]).await;
        assert_eq!(raw.closed().await, INVALID);
    }
    assert_eq!(stack.refusals("declare", "subscription_quota_exceeded"), 4);
    // Ids that were never declared, and those that were denied, take no place and make none.
    let mut raw = member(&stack).await;
    for n in 0..100 {
        raw.say([
            say::unsubscribe(n),
            say::subscribe(1000 + n, key("device-connect/globex/x")),
            say::subscribe(n, own(n)),
            say::unsubscribe(n),
        ])
        .await;
    }
    raw.sync(NOBODY).await;
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declarations_of_a_tenant_are_limited() {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    limit(&stack, Quotas { subscriptions: Some(10), ..Quotas::default() }).await;
    let own = |n: u32| key(&format!("device-connect/acme/{n}"));
    let future =
        |n: u32| say::interest(n, InterestMode::Future, InterestOptions::SUBSCRIBERS, Some(own(n)));
    let mut first = member(&stack).await;
    let mut second = member(&stack).await;
    first.say([say::subscribe(1, own(1)), say::subscribe(2, own(1)), future(1)]).await;
    first.say([say::queryable(1, own(1)), say::token(1, own(1))]).await;
    first.sync(NOBODY).await;
    // The same again takes no place, and neither does an id of a key.
    second.say((0..5).map(|n| say::subscribe(n, own(1)))).await;
    second.say((0..5).map(|n| say::subscribe(n, own(1)))).await;
    second.say([say::declare_key(1, own(1))]).await;
    second.sync(NOBODY).await;
    first.sync(NOBODY).await;
    first.say([say::token(2, own(1))]).await;
    assert_eq!(first.closed().await, INVALID);
    stack.denied("subscription_quota_exceeded").await;
    assert_eq!(stack.refusals("declare", "subscription_quota_exceeded"), 1);
    // What it had is free for the others, and so is what is taken back.
    second.say((5..10).map(|n| say::subscribe(n, own(1)))).await;
    second.say([say::unsubscribe(0), say::subscribe(10, own(1))]).await;
    second.sync(NOBODY).await;
    witness.undisturbed().await;
    limit(&stack, Quotas { subscriptions: Some(11), ..Quotas::default() }).await;
    let mut third = member(&stack).await;
    third.say([say::subscribe(1, own(1))]).await;
    third.sync(NOBODY).await;
    second.sync(NOBODY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_a_tenant_are_limited_each_counted_once() {
    let stack = Stack::zenoh().zenoh("max_names_per_tenant = 20").start().await;
    let witness = stack.zenoh_witness("globex").await;
    let own = |n: u32| key(&format!("device-connect/acme/{n}"));
    let name = |n: u16| say::declare_key(n, own(n.into()));
    let mut first = member(&stack).await;
    first.say((0..10).map(|n| say::subscribe(n, own(n)))).await;
    first.say((1..10).map(name)).await;
    first.sync(NOBODY).await;
    let mut second = member(&stack).await;
    second.say((1..20).map(name)).await;
    // Names that go nowhere are no names of the router.
    second
        .say((100..200).map(|n| say::declare_key(n, key(&format!("device-connect/globex/{n}")))))
        .await;
    second.sync(NOBODY).await;
    second.say([say::queryable(1, own(20))]).await;
    assert_eq!(second.closed().await, INVALID);
    assert_eq!(stack.refusals("declare", "subscription_quota_exceeded"), 1);
    // Its ten are free again, and of the first one's none.
    let mut third = member(&stack).await;
    third.say((10..20).map(name)).await;
    third.sync(NOBODY).await;
    third.say([name(20)]).await;
    assert_eq!(third.closed().await, INVALID);
    first.sync(NOBODY).await;
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_have_a_longest_one() {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let mut raw = member(&stack).await;
    let longest = format!("{:x<4096}", "device-connect/acme/cam-1/event/");
    let too_long = format!("{longest}x");
    raw.say([
        say::declare_key(1, key(&longest)),
        say::declare_key(2, key(&too_long)),
        say::put(say::id(1, ""), "declared"),
        say::put(key(&longest), "spelt out"),
        say::put(say::id(1, "x"), "no"),
        say::put(say::id(2, ""), "no"),
        say::put(key(&too_long), "no"),
    ])
    .await;
    raw.sync(NOBODY).await;
    own.heard_only(&[&format!("put {longest} declared"), &format!("put {longest} spelt out")])
        .await;
    assert_eq!(stack.refusals("put", "publish_denied"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_that_wait_are_limited() {
    let stack = Stack::zenoh().zenoh("max_queries_per_session = 3").start().await;
    let witness = stack.zenoh_witness("globex").await;
    let mut silent = member(&stack).await;
    silent.say([say::queryable(1, key("device-connect/acme/silent"))]).await;
    silent.sync(NOBODY).await;
    let mut raw = member(&stack).await;
    let name = || key("device-connect/acme/silent");
    raw.say((1..=5).map(|n| say::query(n, name()))).await;
    let mut ended = HashSet::new();
    raw.until(|body| {
        if let NetworkBody::ResponseFinal(end) = body {
            ended.insert(end.rid);
        }
        ended.len() == 2
    })
    .await;
    assert_eq!(ended, HashSet::from([4, 5]));
    assert_eq!(stack.refusals("query", "queue_quota_exceeded"), 2);
    // One answer makes room for one.
    let heard = silent.until(|body| matches!(body, NetworkBody::Request(_))).await;
    let NetworkBody::Request(request) = &heard.last().unwrap().body else { unreachable!() };
    silent.say([say::end_of_replies(request.id)]).await;
    raw.until(|body| matches!(body, NetworkBody::ResponseFinal(_))).await;
    raw.say([say::query(6, key(NOBODY))]).await;
    raw.until(|body| matches!(body, NetworkBody::ResponseFinal(end) if end.rid == 6)).await;
    assert_eq!(stack.refusals("query", "queue_quota_exceeded"), 2);
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_are_no_larger_than_the_tenant_may_have() {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    limit(&stack, Quotas { payload_bytes: Some(1000), ..Quotas::default() }).await;
    let own = stack.zenoh_witness("acme").await;
    let mut raw = member(&stack).await;
    raw.say([
        say::kept(key("device-connect/acme/large"), vec![b'x'; 1001]),
        say::kept(key("device-connect/acme/small"), vec![b'x'; 1000]),
    ])
    .await;
    let carrying = |n, size: usize| {
        let body = QueryBodyType {
            encoding: zenoh_protocol::core::Encoding::default(),
            payload: vec![b'x'; size].into(),
        };
        let query = Query { ext_body: Some(body), ..Query::default() };
        say::request(n, key("device-connect/acme/cam-1/cmd"), query)
    };
    raw.say([carrying(1, 1001), carrying(2, 1000)]).await;
    raw.sync(NOBODY).await;
    own.heard_only(&[
        "put device-connect/acme/small 1000 bytes",
        "query device-connect/acme/cam-1/cmd",
    ])
    .await;
    assert_eq!(stack.refusals("put", "payload_quota_exceeded"), 1);
    assert_eq!(stack.refusals("query", "payload_quota_exceeded"), 1);
    stack.denied("payload_quota_exceeded").await;
    // A quota that changes acts on sessions that are open.
    for (quota, refused) in [(2000, 1), (500, 2)] {
        limit(&stack, Quotas { payload_bytes: Some(quota), ..Quotas::default() }).await;
        let name = format!("device-connect/acme/changed/{quota}");
        let put = || say::kept(key(&name), vec![b'x'; 1001]);
        let heard = format!("put {name} 1001 bytes");
        eventually_async("the quota acts", async || {
            raw.say([put()]).await;
            raw.sync(NOBODY).await;
            let is_refused = stack.refusals("put", "payload_quota_exceeded") >= refused;
            if refused > 1 { is_refused } else { own.heard().contains(&heard) }
        })
        .await;
    }
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_of_a_tenant_are_limited() {
    let stack = Stack::zenoh().zenoh("max_queries_per_tenant = 3").start().await;
    let witness = stack.zenoh_witness("globex").await;
    let mut silent = member(&stack).await;
    silent.say([say::queryable(1, key("device-connect/acme/silent"))]).await;
    silent.sync(NOBODY).await;
    let (mut one, mut other) = (member(&stack).await, member(&stack).await);
    let name = || key("device-connect/acme/silent");
    one.say([say::query(1, name()), say::query(2, name())]).await;
    silent.until(|body| matches!(body, NetworkBody::Request(_))).await;
    silent.until(|body| matches!(body, NetworkBody::Request(_))).await;
    other.say([say::query(1, name()), say::query(2, name())]).await;
    let ended = |id| move |body: &NetworkBody| matches!(body, NetworkBody::ResponseFinal(end) if end.rid == id);
    other.until(ended(2)).await;
    assert_eq!(stack.refusals("query", "queue_quota_exceeded"), 1);
    // What a session had is its tenant's again when it ends.
    drop(one);
    eventually_async("there is room again", async || {
        other.say([say::query(3, key(NOBODY))]).await;
        other.until(ended(3)).await;
        let refused = stack.refusals("query", "queue_quota_exceeded");
        other.say([say::query(4, key(NOBODY))]).await;
        other.until(ended(4)).await;
        stack.refusals("query", "queue_quota_exceeded") == refused
    })
    .await;
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_of_messages_in_pieces_is_limited_for_all_sessions_of_a_tenant() {
    let bounds = "max_message_bytes = 200000\nmax_bytes_per_tenant = 300000";
    let stack = Stack::zenoh().zenoh(bounds).start().await;
    let witness = stack.zenoh_witness("globex").await;
    let begin = async |raw: &mut Raw| {
        for first in [true, false, false] {
            let sn = raw.sn();
            raw.piece(sn, first, true, &[b'x'; 60_000]).await;
        }
    };
    let refused = || stack.refusals("put", "queue_quota_exceeded");
    let (mut one, mut other) = (member(&stack).await, member(&stack).await);
    begin(&mut one).await;
    one.sync(NOBODY).await;
    begin(&mut other).await;
    other.sync(NOBODY).await;
    assert_eq!(refused(), 1);
    // Others' is theirs.
    let greeting = stack.greeting(&Token::role("globex", "member"));
    let mut stranger = stack.zenoh_tcp().enter(&greeting).await;
    begin(&mut stranger).await;
    stranger.sync("device-connect/globex/nobody").await;
    assert_eq!(refused(), 1);
    drop(one);
    eventually_async("there is room again", async || {
        let before = refused();
        begin(&mut other).await;
        other.sync(NOBODY).await;
        refused() == before
    })
    .await;
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_behind_a_sender_that_waits_for_nobody_is_closed_at_its_quota() {
    let stack = Stack::zenoh().config(SERVICE_ISSUER).start().await;
    let witness = stack.zenoh_witness("globex").await;
    let mut deaf = member(&stack).await;
    let name = "device-connect/acme/cam-1/cmd";
    deaf.say([say::subscribe(1, key(name))]).await;
    deaf.sync(NOBODY).await;
    // It is there already when the quota comes.
    limit(&stack, Quotas { queued_bytes: Some(500_000), ..Quotas::default() }).await;
    let service = stack.zenoh_session(&stack.service_token()).await;
    let publisher = service
        .declare_publisher(name)
        .congestion_control(zenoh::qos::CongestionControl::Block)
        .await
        .unwrap();
    let closed = || stack.terminations("queue_quota_exceeded") == 1;
    // Far less than a session may have without a quota, with what the system keeps for its socket.
    for _ in 0..300 {
        publisher.put(vec![b'x'; 60_000]).await.unwrap();
        if closed() {
            break;
        }
    }
    eventually("it is closed", closed).await;
    deaf.closed().await;
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_publishes_too_much_per_second_waits_and_loses_nothing() {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    limit(&stack, Quotas { messages_per_second: Some(100), ..Quotas::default() }).await;
    let own = stack.zenoh_session(&Token::role("acme", "viewer")).await;
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = std::sync::Arc::clone(&heard);
    own.declare_subscriber("device-connect/acme/**")
        .callback(move |sample| log.lock().unwrap().push(sample.key_expr().to_string()))
        .background()
        .await
        .unwrap();
    bulkhead_tests::zenoh::settle(&own, "acme").await;
    // Two sessions together, each with all it has at once; to wait is not to be silent.
    let greeting = || Greeting {
        lease: Duration::from_secs(1),
        ..stack.greeting(&Token::role("acme", "member"))
    };
    let mut sessions = Vec::new();
    for who in 0..2 {
        let mut raw = stack.zenoh_tcp().enter(&greeting()).await;
        let name = |n| key(&format!("device-connect/acme/{who}/{n}"));
        raw.say((0..150).map(|n| say::kept(name(n), vec![]))).await;
        sessions.push(raw);
    }
    let (answered, ()) = tokio::join!(
        join_all(sessions.iter_mut().map(|raw| raw.sync(NOBODY))),
        // Nobody else waits.
        witness.undisturbed(),
    );
    assert_eq!(answered.len(), 2);
    eventually("all of it arrives", || heard.lock().unwrap().len() == 300).await;
    for who in 0..2 {
        let of = |key: &&String| key.starts_with(&format!("device-connect/acme/{who}/"));
        let expected: Vec<_> = (0..150).map(|n| format!("device-connect/acme/{who}/{n}")).collect();
        let heard = heard.lock().unwrap();
        assert!(heard.iter().filter(of).eq(&expected), "in order");
    }
    stack.denied("message_rate_exceeded").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_large_batches_nor_coming_again_make_a_rate_higher() {
    const PER_SECOND: u64 = 5;
    let stack = Stack::zenoh().config(SERVICE_ISSUER).start().await;
    // Of no tenant, so that the tenant has no other session than those that come and go.
    let service = stack.zenoh_session(&stack.service_token()).await;
    let heard = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&heard);
    service
        .declare_subscriber("device-connect/acme/cam-1/event/burst")
        .callback(move |_| _ = counted.fetch_add(1, Ordering::Relaxed))
        .background()
        .await
        .unwrap();
    bulkhead_tests::zenoh::settle(&service, "acme").await;
    limit(&stack, Quotas { messages_per_second: Some(PER_SECOND), ..Quotas::default() }).await;
    let began = Instant::now();
    let put = || say::kept(key("device-connect/acme/cam-1/event/burst"), vec![]);
    // Each takes the place of the one before, which ends first.
    let greeting = stack.greeting(&Token::role("acme", "member"));
    let mut raw = stack.zenoh_tcp().enter(&greeting).await;
    for _ in 0..20 {
        let waiting = stack.refusals("put", "message_rate_exceeded");
        raw.say((0..500).map(|_| put())).await;
        eventually("it has to wait", || stack.refusals("put", "message_rate_exceeded") > waiting)
            .await;
        raw = stack.zenoh_tcp().enter(&greeting).await;
    }
    // The last that is let through is heard after whatever came before it.
    let before = heard.load(Ordering::Relaxed);
    raw.say([put()]).await;
    eventually("one more", || heard.load(Ordering::Relaxed) > before).await;
    let (heard, took) = (heard.load(Ordering::Relaxed), began.elapsed());
    let most = PER_SECOND * (2 + took.as_secs());
    assert!(heard <= most, "{heard} messages in {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_declares_too_much_per_second_waits_and_loses_nothing() {
    const PER_SECOND: u64 = 20;
    let stack = Stack::zenoh().config(SERVICE_ISSUER).zenoh("max_declarations_per_second = 20");
    let stack = stack.start().await;
    let witness = stack.zenoh_witness("globex").await;
    let began = Instant::now();
    let name = |n: u32| key(&format!("device-connect/acme/{n}"));
    let interest =
        |n: u32| say::interest(n, InterestMode::Current, InterestOptions::TOKENS, Some(name(n)));
    let mut sessions = Vec::new();
    // Of one name that comes and goes, of many, and questions for what others have: two sessions together.
    for _ in 0..2 {
        let mut raw = member(&stack).await;
        raw.say((0..20).flat_map(|_| [say::subscribe(1, name(1)), say::unsubscribe(1)])).await;
        raw.say((100..120).map(|n| say::subscribe(n, name(n)))).await;
        raw.say((0..20).map(interest)).await;
        sessions.push(raw);
    }
    join_all(sessions.iter_mut().map(|raw| raw.sync(NOBODY))).await;
    let most = PER_SECOND * (2 + began.elapsed().as_secs());
    assert!(2 * 60 <= most, "{most}");
    assert!(stack.refusals("declare", "message_rate_exceeded") > 0);
    // What waited is there, and what a service declares is not counted.
    let service = stack.zenoh_session(&stack.service_token()).await;
    let waiting = stack.refusals("declare", "message_rate_exceeded");
    let mut declared = Vec::new();
    for n in 0..50 {
        declared.push(service.declare_subscriber(format!("device-connect/*/x/{n}")).await.unwrap());
    }
    service.put("device-connect/acme/119", "x").await.unwrap();
    for raw in &mut sessions {
        let heard = raw.until(|body| matches!(body, NetworkBody::Push(_))).await;
        assert_eq!(heard.len(), 1);
    }
    assert_eq!(stack.refusals("declare", "message_rate_exceeded"), waiting);
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_would_have_to_wait_for_ever_is_closed() {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    limit(&stack, Quotas { messages_per_second: Some(0), ..Quotas::default() }).await;
    let greeting = || Greeting {
        lease: Duration::from_millis(300),
        ..stack.greeting(&Token::role("acme", "member"))
    };
    let mut raw = stack.zenoh_tcp().enter(&greeting()).await;
    raw.say([say::kept(key("device-connect/acme/x"), vec![])]).await;
    eventually("it waits", || stack.refusals("put", "message_rate_exceeded") > 0).await;
    assert_eq!(raw.closed().await, Some(close::reason::GENERIC));
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_has_only_so_many_beginnings_at_a_time() {
    let stack = Stack::zenoh().zenoh("pending_per_source = 3").start().await;
    let witness = stack.zenoh_witness("globex").await;
    let entrance = stack.zenoh_tcp();
    let mut beginnings = Vec::new();
    for _ in 0..3 {
        beginnings.push(entrance.knock().await);
    }
    let failed = |stack: &Stack, cause: &str| {
        stack.metric(&format!("bulkhead_zenoh_handshakes_failed_total{{cause=\"{cause}\"}}"))
    };
    eventually_async("no more are taken", async || {
        let _ = refused(&entrance).await;
        failed(&stack, "source") > 0
    })
    .await;
    // Sessions do not count, and room comes back.
    witness.undisturbed().await;
    drop(beginnings);
    eventually_async("there is room again", async || {
        let greeting = stack.greeting(&Token::role("acme", "member"));
        entrance.knock().await.greet(&greeting).await.is_ok()
    })
    .await;
}

/// Opens a connection, says nothing, and leaves.
async fn refused(entrance: &Entrance) -> Option<Raw> {
    entrance.try_knock().await.ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_only_so_many_connections_in_all() {
    let stack = Stack::zenoh().zenoh("max_sessions = 3").start().await;
    let witness = stack.zenoh_witness("globex").await;
    let _third = member(&stack).await;
    let greeting = stack.greeting(&Token::role("acme", "member"));
    assert_eq!(stack.zenoh_tcp().refuse(&greeting).await, None);
    let failed = "bulkhead_zenoh_handshakes_failed_total{cause=\"sessions\"}";
    assert!(stack.metric(failed) > 0);
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_tenant_stays_its_own() {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    let mut deaf = member(&stack).await;
    deaf.say([say::subscribe(1, key("device-connect/acme/flood"))]).await;
    deaf.sync(NOBODY).await;
    let floods: Vec<_> = [member(&stack).await, member(&stack).await]
        .into_iter()
        .map(|mut raw| {
            tokio::spawn(async move {
                for _ in 0..200 {
                    raw.say([say::kept(key("device-connect/acme/flood"), vec![b'x'; 60_000])])
                        .await;
                }
            })
        })
        .collect();
    for _ in 0..20 {
        witness.undisturbed().await;
    }
    for flood in floods {
        flood.abort();
    }
    drop(deaf);
    witness.undisturbed().await;
}
