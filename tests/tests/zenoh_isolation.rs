//! What clients of Zenoh's own library can do, and what they cannot, over every link.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a surprise")]

use bulkhead_tests::mqtt::SERVICE_ISSUER;
use bulkhead_tests::zenoh::say::{self, key};
use bulkhead_tests::zenoh::{Link, asked, settle};
use bulkhead_tests::{Stack, Token, over_all_links};
use std::sync::{Arc, Mutex};
use zenoh::Session;
use zenoh::handlers::FifoChannelHandler;
use zenoh::qos::CongestionControl;
use zenoh::query::{Querier, Reply};
use zenoh::sample::{Locality, Sample};
use zenoh_protocol::network::NetworkBody;

over_all_links! {
    what_is_within_the_tenant_works,
    nobody_listens_beyond_the_tenant,
    nobody_sends_beyond_the_tenant,
}

/// Keys that are another tenant's, or have something of another's among them.
const BEYOND: [&str; 24] = [
    "**",
    "*/**",
    "*/*/**",
    "@/**",
    "@/*/**",
    "*/@/**",
    "**/@/**",
    "@/*/router/**",
    "device-connect",
    "device-connect/*",
    "device-connect/**",
    "device-connect/**/x",
    "device-connect/*/x",
    "device-connect/*/cam-1/event/**",
    "device-connect/g$*/cam-1/event/x",
    "device-connect/acm$*/**",
    "device-connect/acme$*/**",
    "device-connect/acme-2/**",
    "device-connect/globex",
    "device-connect/globex/**",
    "device-connect/globex/cam-1/cmd",
    "*/acme/**",
    "**/acme/**",
    "device-connect/acme/../globex/**",
];

/// What a client hears of everything that it asked for.
#[derive(Clone, Default)]
struct Ears(Arc<Mutex<Vec<String>>>);

impl Ears {
    fn hear(&self) -> impl Fn(Sample) + Send + Sync + 'static {
        let heard = Arc::clone(&self.0);
        move |sample| heard.lock().unwrap().push(format!("{} {}", sample.kind(), sample.key_expr()))
    }

    fn heard(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Why the library may answer in the place of others: the question was lost on its way.
const LOST: &str = "Timeout";

/// How often a question is asked again at most.
const AGAIN: usize = 5;

/// Asks until nothing is lost. Over TLS the library may lose its connection, and what was on the way with it: it
/// reads and writes the same connection at a time, without a lock between the two, and what it writes while a
/// record is being read fails with "handshake not complete". No server can help that; it comes back by itself.
/// Over other links nothing may be lost.
async fn answered(link: Link, ask: impl AsyncFn() -> Vec<String>) -> Vec<String> {
    let mut answers = ask().await;
    for _ in 0..if link == Link::Tls { AGAIN } else { 0 } {
        if !answers.iter().any(|answer| answer.contains(LOST)) {
            break;
        }
        answers = ask().await;
    }
    answers
}

/// What others answer to a query.
async fn asked_over(link: Link, session: &Session, keys: &str) -> Vec<String> {
    answered(link, async || asked(session, keys).await).await
}

/// What others answer to a querier.
async fn asked_by(link: Link, querier: &Querier<'_>) -> Vec<String> {
    answered(link, async || all_of(querier.get().payload("attack").await.unwrap()).await).await
}

/// Who is alive.
async fn alive(link: Link, session: &Session, keys: &str) -> Vec<String> {
    answered(link, async || all_of(session.liveliness().get(keys).await.unwrap()).await).await
}

/// The keys of all answers, or why there is none.
async fn all_of(answers: FifoChannelHandler<Reply>) -> Vec<String> {
    let mut all = Vec::new();
    while let Ok(answer) = answers.recv_async().await {
        all.push(match answer.result() {
            Ok(sample) => sample.key_expr().to_string(),
            Err(error) => format!("error {:?}", error.payload().try_to_string()),
        });
    }
    all
}

async fn what_is_within_the_tenant_works(link: Link) {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    let acme = stack.zenoh_witness("acme").await;
    let token = stack.token(&Token::role("acme", "member"));
    let one = stack.entrance(link).connect(&token).await;
    let two = stack.entrance(link).connect(&token).await;

    let ears = Ears::default();
    let keys = "device-connect/acme/**";
    let subscriber = one
        .declare_subscriber(keys)
        .allowed_origin(Locality::Remote)
        .callback(ears.hear())
        .await
        .unwrap();
    settle(&one, "acme").await;
    two.put("device-connect/acme/cam-1/event/x", "hello").await.unwrap();
    acme.hears("put device-connect/acme/cam-1/event/x hello").await;
    two.delete("device-connect/acme/cam-1/event/x").await.unwrap();
    acme.hears("delete device-connect/acme/cam-1/event/x").await;
    let large = "x".repeat(1 << 20);
    two.put("device-connect/acme/large", large)
        .congestion_control(CongestionControl::Block)
        .await
        .unwrap();
    acme.hears("put device-connect/acme/large 1048576 bytes").await;
    // Right behind the large one, so that it would be dropped where there is no room for it.
    let publisher = two
        .declare_publisher("device-connect/acme/cam-1/event/y")
        .congestion_control(CongestionControl::Block)
        .await
        .unwrap();
    publisher.put("again").attachment("tenant=globex").await.unwrap();
    acme.hears("put device-connect/acme/cam-1/event/y again").await;

    assert_eq!(
        asked_over(link, &one, "device-connect/acme/cam-9/cmd").await,
        ["device-connect/acme/cam-9/cmd witness"]
    );
    let answering = two
        .declare_queryable("device-connect/acme/cam-1/state")
        .callback(|query| {
            tokio::task::block_in_place(|| {
                let key = query.key_expr().clone();
                zenoh::Wait::wait(query.reply(key, "open")).unwrap();
            });
        })
        .await
        .unwrap();
    settle(&two, "acme").await;
    assert_eq!(
        asked_over(link, &one, "device-connect/acme/cam-1/state").await,
        ["device-connect/acme/cam-1/state open"]
    );
    drop(answering);

    let token = two.liveliness().declare_token("device-connect/acme/cam-1").await.unwrap();
    acme.hears("alive device-connect/acme/cam-1").await;
    assert_eq!(alive(link, &one, keys).await, ["device-connect/acme/cam-1"]);
    token.undeclare().await.unwrap();
    acme.hears("gone device-connect/acme/cam-1").await;
    assert!(alive(link, &one, keys).await.is_empty());

    let expected = [
        "PUT device-connect/acme/cam-1/event/x",
        "DELETE device-connect/acme/cam-1/event/x",
        "PUT device-connect/acme/large",
        "PUT device-connect/acme/cam-1/event/y",
    ];
    bulkhead_tests::eventually("the subscriber has heard all", || ears.heard() == expected).await;
    subscriber.undeclare().await.unwrap();
    settle(&one, "acme").await;
    two.put("device-connect/acme/cam-1/event/x", "more").await.unwrap();
    acme.hears("put device-connect/acme/cam-1/event/x more").await;
    assert_eq!(ears.heard().len(), expected.len());
    witness.undisturbed().await;
}

async fn nobody_listens_beyond_the_tenant(link: Link) {
    let stack = Stack::zenoh().tenants(&["acme", "acme-2", "globex"]).start().await;
    let witness = stack.zenoh_witness("globex").await;
    let next = stack.zenoh_witness("acme-2").await;
    let attacker = stack.entrance(link).connect(&stack.token(&Token::role("acme", "member"))).await;
    let (ears, asked_for) = (Ears::default(), Arc::new(Mutex::new(Vec::new())));
    let mut declared = Vec::new();
    for keys in BEYOND {
        let subscriber = attacker.declare_subscriber(keys).callback(ears.hear()).await.unwrap();
        let live = attacker.liveliness().declare_subscriber(keys).history(true);
        let live = live.callback(ears.hear()).await.unwrap();
        let queries = Arc::clone(&asked_for);
        let queryable = attacker
            .declare_queryable(keys)
            .complete(true)
            .callback(move |query| queries.lock().unwrap().push(query.key_expr().to_string()))
            .await
            .unwrap();
        declared.push((subscriber, live, queryable));
    }
    let own = Ears::default();
    let _own = attacker
        .declare_subscriber("device-connect/acme/*/event/**")
        .callback(own.hear())
        .await
        .unwrap();
    settle(&attacker, "acme").await;

    for victim in [&witness, &next] {
        let key = |rest: &str| format!("device-connect/{}/{rest}", victim.tenant);
        victim.friend.put(key("cam-1/event/x"), "secret").await.unwrap();
        victim.friend.put(key("x"), "secret").await.unwrap();
        victim.friend.delete(key("x")).await.unwrap();
        let token = victim.friend.liveliness().declare_token(key("cam-1")).await.unwrap();
        let answers = asked(&victim.friend, &key("cam-1/cmd")).await;
        assert_eq!(answers, [format!("{} witness", key("cam-1/cmd"))]);
        victim.hears(&format!("alive {}", key("cam-1"))).await;
        assert!(alive(link, &attacker, &key("**")).await.is_empty());
        token.undeclare().await.unwrap();
        victim.hears(&format!("gone {}", key("cam-1"))).await;
        victim
            .heard_only(&[
                &format!("put {} secret", key("cam-1/event/x")),
                &format!("put {} secret", key("x")),
                &format!("delete {}", key("x")),
                &format!("query {}", key("cam-1/cmd")),
                &format!("alive {}", key("cam-1")),
                &format!("gone {}", key("cam-1")),
            ])
            .await;
    }
    // Whatever came of that is before this.
    let friend = stack.zenoh_member("acme").await;
    friend.put("device-connect/acme/cam-1/event/x", "own").await.unwrap();
    bulkhead_tests::eventually("what is its own arrives", || {
        own.heard() == ["PUT device-connect/acme/cam-1/event/x"]
    })
    .await;
    // The library gives what is the client's own to all its subscribers, denied ones included, and
    // what it says of itself, such as that it has connected once more.
    let mut overheard = ears.heard();
    let mine = own.heard().first().cloned().unwrap();
    let itself = format!(" @/{}/session/", attacker.zid());
    overheard.retain(|heard| *heard != mine && !heard.contains(&itself));
    assert_eq!(overheard, [""; 0], "nothing is overheard");
    assert_eq!(*asked_for.lock().unwrap(), [""; 0], "nothing is asked of the attacker");
    let foreign = BEYOND.len() as u64;
    for operation in ["subscribe", "queryable"] {
        assert!(stack.refusals(operation, "subscribe_denied") >= foreign, "{operation}");
    }
    // One of who is alive, and one of each get above.
    assert!(stack.refusals("interest", "subscribe_denied") >= foreign + 2);
    stack.denied("subscribe_denied").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_a_plain_beginning_reaches_nothing_of_the_routers_own() {
    let wide = "[roles.member]\n\
                zenoh = { publish = [\"*/{tenant}/**\"], subscribe = [\"*/{tenant}/**\"] }\n";
    // A router chooses its id freely.
    let stack = Stack::zenoh().config(wide).tenants(&["acme", "abc123"]).start().await;
    let mut raw = stack.zenoh_tcp().enter(&stack.greeting(&Token::role("abc123", "member"))).await;
    for (n, keys) in (1..).zip(["@/abc123/router", "@/abc123/**"]) {
        raw.say([say::query(n, key(keys)), say::subscribe(n, key(keys))]).await;
        raw.say([say::put(key(&format!("{keys}/config/x")), "attack")]).await;
        let heard = raw.until(|body| matches!(body, NetworkBody::ResponseFinal(_))).await;
        assert_eq!(heard.len(), 1, "{heard:?}");
        raw.sync("x/abc123/nobody").await;
        for (operation, reason) in [
            ("query", "publish_denied"),
            ("put", "publish_denied"),
            ("subscribe", "subscribe_denied"),
        ] {
            assert_eq!(stack.refusals(operation, reason), u64::from(n), "{operation} {keys}");
        }
    }
    // What else it may is as before.
    raw.say([say::subscribe(9, key("x/abc123/**")), say::put(key("x/abc123/y"), "own")]).await;
    raw.sync("x/abc123/nobody").await;
    assert_eq!(stack.refusals("put", "publish_denied"), 2);
}

async fn nobody_sends_beyond_the_tenant(link: Link) {
    let stack = Stack::zenoh().tenants(&["acme", "acme-2", "globex"]).start().await;
    let witness = stack.zenoh_witness("globex").await;
    let next = stack.zenoh_witness("acme-2").await;
    let own = stack.zenoh_witness("acme").await;
    let attacker = stack.entrance(link).connect(&stack.token(&Token::role("acme", "member"))).await;
    let mut tokens = Vec::new();
    for keys in BEYOND.into_iter().chain(["device-connect/globex/cam-1/event/x"]) {
        attacker.put(keys, "attack").await.unwrap();
        attacker.put(keys, "attack").attachment("{\"tenant\":\"globex\"}").await.unwrap();
        attacker.delete(keys).await.unwrap();
        tokens.push(attacker.liveliness().declare_token(keys).await.unwrap());
        assert_eq!(asked_over(link, &attacker, keys).await, [""; 0], "{keys}");
        let declared = attacker.declare_keyexpr(keys.to_owned()).await.unwrap();
        attacker.put(&declared, "attack").await.unwrap();
        attacker.delete(&declared).await.unwrap();
        // These may keep what they have to themselves, once they were told that nobody is there.
        let publisher = attacker.declare_publisher(keys.to_owned()).await.unwrap();
        publisher.put("attack").await.unwrap();
        let querier = attacker.declare_querier(declared.clone()).await.unwrap();
        for key in asked_by(link, &querier).await {
            assert!(key.starts_with(&format!("@/{}/session/", attacker.zid())), "{key}");
        }
    }
    drop(tokens);
    // The library may for a moment still take it that nobody listens to `**`, and keep this to itself.
    let told = "put device-connect/acme/cam-1/event/x own";
    bulkhead_tests::eventually_async("what is its own arrives", async || {
        let put = attacker.put("device-connect/acme/cam-1/event/x", "own");
        put.congestion_control(CongestionControl::Block).await.unwrap();
        own.heard().iter().any(|heard| heard == told)
    })
    .await;
    assert!(own.heard().iter().all(|heard| heard == told), "{:?}", own.heard());
    witness.undisturbed().await;
    next.undisturbed().await;
    let keys = BEYOND.len() as u64 + 1;
    // What is lost is refused less often, and what is asked again more often.
    let least = if link == Link::Tls { 1 } else { keys };
    let asked = if link == Link::Tls { 2 * (1 + AGAIN as u64) } else { 2 };
    assert!((5 * least..=6 * keys).contains(&stack.refusals("put", "publish_denied")));
    assert!(stack.refusals("token", "publish_denied") >= least);
    assert!((least..=asked * keys).contains(&stack.refusals("query", "publish_denied")));
    stack.denied("publish_denied").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_confined_within_its_tenant_too() {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let device = stack.zenoh_session(&Token::device("acme", "cam-1")).await;
    let ears = Ears::default();
    // In a session of its own: the library gives what arrives to all subscribers, denied ones included.
    let greedy = stack.zenoh_session(&Token::device("acme", "cam-1")).await;
    for keys in [
        "device-connect/acme/**",
        "device-connect/acme/cam-2/cmd",
        "device-connect/acme/*/cmd",
        "device-connect/acme/cam-2/heartbeat",
        "device-connect/acme/registry",
        "device-connect/acme/cam-1/**",
    ] {
        greedy.declare_subscriber(keys).callback(ears.hear()).background().await.unwrap();
    }
    let heard = Ears::default();
    for keys in [
        "device-connect/acme/cam-1/cmd",
        "device-connect/acme/*/event/**",
        "device-connect/acme/device/*",
        "device-connect/acme/broadcast",
    ] {
        device.declare_subscriber(keys).callback(heard.hear()).background().await.unwrap();
    }
    settle(&device, "acme").await;
    settle(&greedy, "acme").await;
    let received = ["cam-1/cmd", "cam-2/event/x", "device/online", "broadcast"];
    for name in ["cam-2/cmd", "cam-2/heartbeat", "registry", "cam-1/state"].iter().chain(&received)
    {
        own.friend.put(format!("device-connect/acme/{name}"), "x").await.unwrap();
    }
    bulkhead_tests::eventually("the device hears what is for it", || {
        heard.heard() == received.map(|name| format!("PUT device-connect/acme/{name}"))
    })
    .await;
    assert_eq!(ears.heard(), [""; 0]);
    own.heard_only(
        &["cam-2/cmd", "cam-2/heartbeat", "registry", "cam-1/state"]
            .iter()
            .chain(&received)
            .map(|name| format!("put device-connect/acme/{name} x"))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
    )
    .await;

    // It calls others, and is nobody else.
    let call = "device-connect/acme/cam-2/cmd";
    assert_eq!(asked(&device, call).await, [format!("{call} witness")]);
    for name in ["cam-2/event/x", "cam-2/heartbeat", "device/offline", "broadcast"] {
        device.put(format!("device-connect/acme/{name}"), "forged").await.unwrap();
    }
    let _forged = device.liveliness().declare_token("device-connect/acme/cam-2").await.unwrap();
    let alive = device.liveliness().declare_token("device-connect/acme/cam-1/alive").await.unwrap();
    device.put("device-connect/acme/cam-1/event/x", "own").await.unwrap();
    own.hears("alive device-connect/acme/cam-1/alive").await;
    drop(alive);
    own.hears("gone device-connect/acme/cam-1/alive").await;
    own.heard_only(&[
        &format!("query {call}"),
        "put device-connect/acme/cam-1/event/x own",
        "alive device-connect/acme/cam-1/alive",
        "gone device-connect/acme/cam-1/alive",
    ])
    .await;
    assert_eq!(stack.refusals("put", "publish_denied"), 4);
    assert_eq!(stack.refusals("token", "publish_denied"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_only_receives_and_an_operator_is_a_member() {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let witness = stack.zenoh_witness("globex").await;
    let viewer = stack.zenoh_session(&Token::role("acme", "viewer")).await;
    let seen = Ears::default();
    let keys = "device-connect/acme/**";
    viewer.declare_subscriber(keys).callback(seen.hear()).background().await.unwrap();
    settle(&viewer, "acme").await;
    viewer.put("device-connect/acme/cam-1/cmd", "attack").await.unwrap();
    viewer.delete("device-connect/acme/cam-1/cmd").await.unwrap();
    let _token = viewer.liveliness().declare_token("device-connect/acme/cam-1").await.unwrap();
    // A question without content only reads; one with content is a call.
    let call = "device-connect/acme/cam-1/cmd";
    let answers = viewer.get(call).payload("attack").await.unwrap();
    assert!(answers.recv_async().await.is_err());
    assert_eq!(asked(&viewer, call).await, [format!("{call} witness")]);
    own.heard_only(&[&format!("query {call}")]).await;
    bulkhead_tests::eventually("the viewer sees what is put", || !seen.heard().is_empty()).await;

    let operator = stack.zenoh_session(&Token::role("acme", "operator")).await;
    operator.put("device-connect/acme/cam-1/cmd", "work").await.unwrap();
    own.hears("put device-connect/acme/cam-1/cmd work").await;
    own.heard_only(&["put device-connect/acme/cam-1/cmd work"]).await;
    witness.undisturbed().await;
    assert_eq!(stack.refusals("put", "publish_denied"), 2);
    assert_eq!(stack.refusals("query", "publish_denied"), 1);
    assert_eq!(stack.refusals("token", "publish_denied"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_works_across_tenants_and_nobody_becomes_one_by_a_claim() {
    let stack = Stack::zenoh().config(SERVICE_ISSUER).start().await;
    let tenants = [stack.zenoh_witness("acme").await, stack.zenoh_witness("globex").await];
    let service = stack.zenoh_session(&stack.service_token()).await;
    let ears = Ears::default();
    let keys = "device-connect/*/*/event/**";
    service.declare_subscriber(keys).callback(ears.hear()).background().await.unwrap();
    settle(&service, "acme").await;
    for witness in &tenants {
        let key = |rest: &str| format!("device-connect/{}/{rest}", witness.tenant);
        service.put(key("cam-1/cmd"), "from the platform").await.unwrap();
        witness.hears(&format!("put {} from the platform", key("cam-1/cmd"))).await;
        let answers = asked(&service, &key("cam-1/cmd")).await;
        assert_eq!(answers, [format!("{} witness", key("cam-1/cmd"))]);
        witness.friend.put(key("cam-1/event/x"), "to the platform").await.unwrap();
        let heard = format!("PUT {}", key("cam-1/event/x"));
        bulkhead_tests::eventually("the service hears it", || ears.heard().contains(&heard)).await;
    }
    // Beyond what tenants have, it has nothing either.
    assert_eq!(asked(&service, "@/**").await, [""; 0]);
    service.put("other/acme/x", "x").await.unwrap();
    assert_eq!(asked(&service, "**").await, [""; 0]);
    assert_eq!(stack.refusals("put", "publish_denied"), 1);
    let claimed = Token::role("acme", "service").with(serde_json::json!({"service": true}));
    let refused = stack.zenoh_tcp().try_connect(Some(&stack.token(&claimed))).await;
    assert!(refused.is_err());
    stack.denied("role_not_allowed").await;
}
