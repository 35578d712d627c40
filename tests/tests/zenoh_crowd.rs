//! Many Zenoh clients at a time, and those that do not keep up: what they cost, and who notices.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use bulkhead_tests::zenoh::say::{self, key};
use bulkhead_tests::zenoh::{Apart, Entrance, Greeting, Link, Raw};
use bulkhead_tests::{Stack, Token, eventually};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use zenoh_protocol::network::NetworkBody;
use zenoh_protocol::zenoh::PushBody;

const NOBODY: &str = "device-connect/acme/nobody";
const FLOOD: &str = "device-connect/acme/flood";

/// File descriptors that a session takes: three of the gate's, and the client's.
const FILES: u64 = 4;

/// How many sessions there can be with as many files as this process may have.
fn most_sessions() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let most = limit.maximum.unwrap_or(u64::MAX).saturating_sub(500) / FILES;
    let sessions = most.min(1_000) as usize;
    assert!(sessions >= 400, "raise the limit of open files (ulimit -Hn) to 2100 at least");
    sessions
}

async fn member(entrance: &Entrance, stack: &Stack) -> Raw {
    entrance.enter(&stack.greeting(&Token::role("acme", "member"))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sessions_come_back_at_once_and_nobody_else_notices() {
    let sessions = most_sessions();
    let stack = Stack::zenoh().zenoh("pending_per_source = 2000").start().await;
    let stack = Arc::new(stack);
    let witness = stack.zenoh_witness("globex").await;
    let greetings: Vec<_> = (0..sessions)
        .map(|n| stack.greeting(&Token::device("acme", &format!("cam-{n}"))))
        .collect();
    // The first time, and then all of them twice more: some while their session before is still there.
    let mut before: Vec<Raw> = Vec::new();
    for round in 0..3 {
        if round == 1 {
            before.clear();
        }
        let mut storm = JoinSet::new();
        for (n, greeting) in greetings.iter().cloned().enumerate() {
            let entrance = stack.zenoh_tcp();
            storm.spawn(async move {
                let mut raw = entrance.enter(&greeting).await;
                let own = key(&format!("device-connect/acme/cam-{n}/cmd"));
                raw.say([say::subscribe(1, own)]).await;
                raw.sync(NOBODY).await;
                raw
            });
        }
        let mut undisturbed = 0;
        let everybody = async {
            let mut now = Vec::new();
            while let Some(raw) = storm.join_next().await {
                now.push(raw.unwrap());
            }
            now
        };
        let mut everybody = std::pin::pin!(everybody);
        let now = loop {
            tokio::select! {
                now = &mut everybody => break now,
                () = witness.undisturbed() => undisturbed += 1,
            }
        };
        assert!(undisturbed > 0, "the witness goes on meanwhile");
        before = now;
        eventually("each has one session", || {
            stack.router().gate().status().tenants["acme"].sessions == sessions as u64
        })
        .await;
    }
    assert!(stack.metric("bulkhead_zenoh_takeovers_total") >= sessions as u64, "the last round's");
    // Each is good for something.
    let sender = stack.zenoh_member("acme").await;
    for n in 0..sessions {
        sender.put(format!("device-connect/acme/cam-{n}/cmd"), "own").await.unwrap();
    }
    for raw in &mut before {
        raw.until(|body| matches!(body, NetworkBody::Push(_))).await;
    }
    witness.undisturbed().await;
}

/// The number that a message of the flood begins with.
fn number(body: &NetworkBody) -> Option<u32> {
    let NetworkBody::Push(push) = body else { return None };
    let PushBody::Put(put) = &push.payload else { return None };
    let bytes = zenoh_buffers::buffer::SplitBuffer::contiguous(&put.payload).to_vec();
    Some(u32::from_le_bytes(*bytes.first_chunk()?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_costs_a_bounded_part_of_memory_and_is_closed() {
    const DEAF: usize = 20;
    const MESSAGES: u32 = 1_000;
    const SIZE: usize = 60_000;
    let stack = Stack::zenoh().without_service().start().await;
    let apart = Apart::start(&stack, env!("CARGO_BIN_EXE_replica"), Link::Tcp).await;
    let witness = apart.witness(&stack).await;
    let mut deaf = Vec::new();
    for _ in 0..DEAF {
        let mut raw = apart.member(&stack).await;
        raw.say([say::subscribe(1, key(FLOOD))]).await;
        raw.sync(NOBODY).await;
        deaf.push(raw);
    }
    let mut reader = apart.member(&stack).await;
    reader.say([say::subscribe(1, key(FLOOD))]).await;
    reader.sync(NOBODY).await;
    let mut publisher = apart.member(&stack).await;
    publisher.sync(NOBODY).await;
    let before = apart.resident();
    let flood = tokio::spawn(async move {
        for n in 0..MESSAGES {
            let mut payload = vec![b'x'; SIZE];
            payload[..4].copy_from_slice(&n.to_le_bytes());
            publisher.say([say::kept(key(FLOOD), payload)]).await;
        }
        publisher.sync(NOBODY).await;
    });
    // Who reads gets all of it, from a publisher that waited and was not closed.
    let ended = AtomicBool::new(false);
    let reading = async {
        let mut next = 0;
        reader
            .until(|body| {
                if let Some(n) = number(body) {
                    assert_eq!(n, next, "in order, and none is lost");
                    next += 1;
                }
                next == MESSAGES
            })
            .await;
        ended.store(true, Ordering::Relaxed);
    };
    let others = async {
        while !ended.load(Ordering::Relaxed) {
            witness.undisturbed().await;
        }
    };
    tokio::join!(reading, others);
    flood.await.unwrap();
    for mut raw in deaf {
        raw.closed().await;
    }
    // All that was for the deaf would be 1.2 GB. Each may have 1 MiB and a bit waiting for it.
    let grown = apart.peak().saturating_sub(before);
    assert!(grown < 128 << 20, "it took {grown} bytes more");
    let audit = stack.audit();
    let cut = audit.iter().filter(|record| record["event"] == "terminate");
    let reasons: Vec<_> = cut.map(|record| record["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["queue_quota_exceeded"; DEAF]);
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_publishes_to_a_slow_reader_waits_whatever_follows_in_the_batch() {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let entrance = stack.zenoh_tcp();
    let closed = || stack.terminations("queue_quota_exceeded");
    for attempt in 0..5 {
        let slow = format!("device-connect/acme/slow/{attempt}");
        let mut deaf = member(&entrance, &stack).await;
        deaf.say([say::subscribe(1, key(&slow))]).await;
        deaf.sync(NOBODY).await;
        let mut filler = member(&entrance, &stack).await;
        let name = slow.clone();
        let filling = tokio::spawn(async move {
            loop {
                filler.say([say::kept(key(&name), vec![b'x'; 60_000])]).await;
            }
        });
        let behind = || stack.metric("bulkhead_zenoh_behind") == 1;
        eventually("the reader is behind", behind).await;
        // One batch begins with what has to wait; what has not follows in the same one, and
        // later in the next.
        let mut raw = member(&entrance, &stack).await;
        let other = |n: u8| format!("device-connect/acme/other/{attempt}/{n}");
        raw.say([say::kept(key(&slow), b"x".to_vec()), say::kept(key(&other(1)), b"own".to_vec())])
            .await;
        own.hears(&format!("put {} own", other(1))).await;
        raw.say([say::kept(key(&other(2)), b"own".to_vec())]).await;
        let second = format!("put {} own", other(2));
        let early = async {
            for n in 0..5 {
                let marker = format!("device-connect/acme/marker/{attempt}/{n}");
                own.friend.put(&marker, "now").await.unwrap();
                own.hears(&format!("put {marker} now")).await;
            }
            own.heard().contains(&second)
        };
        let early = early.await;
        if closed() > attempt {
            // So slow a machine that the reader was closed meanwhile, which shows nothing.
            filling.abort();
            continue;
        }
        assert!(!early, "the next batch was read");
        // Once the reader has caught up, or is closed, it goes on.
        filling.abort();
        drop(deaf);
        own.hears(&second).await;
        eventually("nobody is behind", || stack.metric("bulkhead_zenoh_behind") == 0).await;
        return;
    }
    panic!("the reader was closed each time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_held_up_by_a_reader_in_the_process_holds_up_nobody_else() {
    let stack = Stack::zenoh().start().await;
    let entrance = stack.zenoh_tcp();
    let inside = stack.router().session().await.unwrap();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (holding, held) = std::sync::mpsc::channel();
    let released = std::sync::Mutex::new(released);
    let slow = move |sample: zenoh::sample::Sample| match &*sample.payload().to_bytes() {
        b"slow" => std::thread::sleep(Duration::from_millis(200)),
        _ => {
            holding.send(()).unwrap();
            let _ = released.lock().unwrap().recv();
        }
    };
    let slow = inside.declare_subscriber("device-connect/acme/slow").callback(slow).await.unwrap();
    let mut publisher = member(&entrance, &stack).await;
    // Once it was held up, it is read apart from others.
    let name = || key("device-connect/acme/slow");
    publisher.say([say::kept(name(), b"slow".to_vec())]).await;
    publisher.say([say::kept(name(), b"stuck".to_vec())]).await;
    tokio::task::spawn_blocking(move || held.recv_timeout(bulkhead_tests::WITHIN).unwrap())
        .await
        .unwrap();
    // As many as share every thread with it.
    let cores = std::thread::available_parallelism().unwrap().get();
    for _ in 0..2 * cores {
        let greeting = stack.greeting(&Token::role("globex", "member"));
        entrance.enter(&greeting).await.sync("device-connect/globex/nobody").await;
    }
    drop(release);
    publisher.sync(NOBODY).await;
    drop(slow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_too_little_is_closed_and_whoever_waited_for_it_goes_on() {
    const SLOW: &str = "device-connect/acme/slow";
    const OTHER: &str = "device-connect/acme/other";
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    let own = stack.zenoh_witness("acme").await;
    let entrance = stack.zenoh_tcp();
    let mut trickling = member(&entrance, &stack).await;
    trickling.say([say::subscribe(1, key(SLOW))]).await;
    trickling.sync(NOBODY).await;
    // To wait for somebody is not to be silent.
    let greeting = Greeting {
        lease: Duration::from_secs(5),
        ..stack.greeting(&Token::role("acme", "member"))
    };
    let mut publisher = entrance.enter(&greeting).await;
    let publishing = async {
        for _ in 0..300 {
            publisher.say([say::kept(key(SLOW), vec![b'x'; 60_000])]).await;
        }
        publisher.say([say::kept(key(OTHER), b"own".to_vec())]).await;
    };
    // It takes something every second, as one that is stuck does not, and would for ever.
    let reading = async {
        let mut said = Some(());
        while said.is_some() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            said = trickling.next().await.map(drop);
        }
    };
    tokio::join!(publishing, reading);
    own.hears(&format!("put {OTHER} own")).await;
    assert_eq!(stack.terminations("queue_quota_exceeded"), 1);
    witness.undisturbed().await;
}
