//! What a client that speaks Zenoh by hand can do within a session: names by ids, questions for
//! declarations, replies, and everything that breaks the protocol.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use bulkhead_tests::zenoh::say::{self, id, key, their_id};
use bulkhead_tests::zenoh::{Greeting, Link, Raw, Said, Witness, asked, settle};
use bulkhead_tests::{Stack, Token, eventually, over_all_links};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use zenoh_protocol::common::ZExtBody;
use zenoh_protocol::core::{
    Bits, CongestionControl, Field, Priority, Reliability, Resolution, ZenohIdProto,
};
use zenoh_protocol::network::interest::{InterestMode, InterestOptions};
use zenoh_protocol::network::{
    DeclareBody, DeclareFinal, NetworkBody, NetworkMessage, NetworkMessageExt, Oam, Push, Request,
    Response, ResponseFinal, ext, oam,
};
use zenoh_protocol::transport::{Close, Join, KeepAlive, PrioritySn, close, join};

over_all_links! {
    names_by_ids_lead_nowhere_else,
    one_of_ten_thousand_messages_of_a_frame_is_taken_out,
    pieces_are_put_together_within_bounds,
    whatever_breaks_the_protocol_ends_the_session,
}

const INVALID: Option<u8> = Some(close::reason::INVALID);
const NOBODY: &str = "device-connect/acme/nobody";
const OWN: &str = "put device-connect/acme/x own";

/// A raw session of a member of acme.
async fn member(stack: &Stack, link: Link) -> Raw {
    stack.entrance(link).enter(&stack.greeting(&Token::role("acme", "member"))).await
}

/// What is said about keys, in the messages that came.
fn texts(heard: &[NetworkMessage]) -> String {
    format!("{heard:?}")
}

async fn names_by_ids_lead_nowhere_else(link: Link) {
    let stack = Stack::zenoh().tenants(&["acme", "acme-2", "acme2", "globex"]).start().await;
    let own = stack.zenoh_witness("acme").await;
    let mut others = Vec::new();
    for tenant in ["acme-2", "acme2", "globex"] {
        others.push(stack.zenoh_witness(tenant).await);
    }
    let mut raw = member(&stack, link).await;
    raw.say([
        say::declare_key(1, key("device-connect/acme")),
        say::declare_key(2, key("device-connect/globex/x")),
        say::declare_key(3, key("device-connect/glob")),
        say::declare_key(4, key("device-connect")),
        say::declare_key(5, id(4, "/globex")),
        say::declare_key(6, id(1, "2")),
        say::declare_key(7, key("**")),
        say::declare_key(8, id(99, "/x")),
        say::declare_key(9, key("device-connect/acme/x")),
        // As long as it may be, and one that is no key at all.
        say::declare_key(10, key("device-connect//")),
    ])
    .await;
    let attacks = [
        id(1, "-2/x"),
        id(1, "2/x"),
        id(1, "/../globex/x"),
        id(1, "$*/x"),
        id(1, "//x"),
        id(1, "/"),
        id(2, ""),
        id(2, "/y"),
        id(3, "ex/x"),
        id(4, "/globex/x"),
        id(4, "/*/x"),
        id(4, "/**"),
        id(5, "/x"),
        id(6, "/x"),
        id(7, ""),
        id(8, ""),
        id(10, ""),
        id(10, "globex/x"),
        id(99, ""),
        id(99, "device-connect/globex/x"),
        // Whoever takes the one end's ids for the other's.
        their_id(1, "/x"),
        their_id(9, ""),
        their_id(99, "device-connect/globex/x"),
        their_id(u16::MAX, ""),
        key(""),
        key("/"),
        key("device-connect/acme//x"),
        key("device-connect/acme/x/"),
        key("/device-connect/globex/x"),
        key("device-connect/globex/x\0"),
        key("device-connect/acme/x?a=b"),
        key("device-connect/acme/#"),
    ];
    let count = attacks.len() as u64;
    for (n, attack) in (1..).zip(attacks) {
        raw.say([
            say::put(attack.clone(), "attack"),
            say::delete(attack.clone()),
            say::subscribe(1000 + n, attack.clone()),
            say::queryable(1000 + n, attack.clone()),
            say::token(1000 + n, attack.clone()),
            say::query(n, attack),
        ])
        .await;
        raw.until(|body| matches!(body, NetworkBody::ResponseFinal(end) if end.rid == n)).await;
    }
    for (operation, times) in [("put", 2), ("token", 1), ("query", 1)] {
        assert_eq!(stack.refusals(operation, "publish_denied"), times * count, "{operation}");
    }
    for operation in ["subscribe", "queryable"] {
        assert_eq!(stack.refusals(operation, "subscribe_denied"), count, "{operation}");
    }

    // The same ids with what is the client's own.
    for own_key in [id(1, "/x"), id(4, "/acme/x"), id(9, ""), key("device-connect/acme/x")] {
        raw.say([say::put(own_key, "own")]).await;
        own.hears(OWN).await;
        own.heard_only(&[OWN]).await;
    }
    // An id that was taken back means nothing, and then what it is declared for next.
    raw.say([
        say::undeclare_key(1),
        say::undeclare_key(1),
        say::undeclare_key(77),
        say::put(id(1, "/x"), "stale"),
        say::put(id(1, ""), "stale"),
        say::declare_key(1, key("device-connect/globex/x")),
        say::put(id(1, ""), "attack"),
        say::undeclare_key(1),
        say::declare_key(1, key("device-connect/acme/y")),
        say::put(id(1, ""), "own"),
        // The same again is no change.
        say::declare_key(1, key("device-connect/acme/y")),
        say::unsubscribe(77),
        say::unqueryable(77),
        say::untoken(77, None),
        say::untoken(78, Some(key("device-connect/globex/cam-1"))),
    ])
    .await;
    raw.sync(NOBODY).await;
    own.heard_only(&["put device-connect/acme/y own"]).await;
    for other in &others {
        other.undisturbed().await;
    }
    raw.say([say::declare_key(1, key("device-connect/globex/x"))]).await;
    assert_eq!(raw.closed().await, INVALID, "an id has one meaning");
    own.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_is_never_as_urgent_as_what_routers_say() {
    let stack = Stack::zenoh().start().await;
    let name = || key("device-connect/acme/cam-1/cmd");
    let is_data =
        |m: &NetworkMessage| !matches!(m.body, NetworkBody::Declare(_) | NetworkBody::Interest(_));
    let urgent = ext::QoSType::new(Priority::Control, CongestionControl::Block, true);
    let mut other = member(&stack, Link::Tcp).await;
    other.say([say::subscribe(1, name()), say::queryable(1, name())]).await;
    other.sync(NOBODY).await;
    let mut raw = member(&stack, Link::Tcp).await;
    let NetworkBody::Push(push) = say::put(name(), "x").body else { unreachable!() };
    let NetworkBody::Request(request) = say::query(1, name()).body else { unreachable!() };
    raw.say([
        NetworkBody::Push(Push { ext_qos: urgent, ..push }).into(),
        NetworkBody::Request(Request { ext_qos: urgent, ..request }).into(),
    ])
    .await;
    let mut rid = None;
    let heard = other.until(|body| {
        if let NetworkBody::Request(request) = body {
            rid = Some(request.id);
        }
        rid.is_some()
    });
    for message in heard.await.iter().filter(|m| is_data(m)) {
        assert_eq!(message.priority(), Priority::RealTime, "{message:?}");
    }
    let NetworkBody::Response(reply) = say::reply(rid.unwrap(), name(), "x").body else {
        unreachable!()
    };
    let NetworkBody::ResponseFinal(end) = say::end_of_replies(rid.unwrap()).body else {
        unreachable!()
    };
    other
        .say([
            NetworkBody::Response(Response { ext_qos: urgent, ..reply }).into(),
            NetworkBody::ResponseFinal(ResponseFinal { ext_qos: urgent, ..end }).into(),
        ])
        .await;
    let heard = raw.until(|body| matches!(body, NetworkBody::ResponseFinal(_))).await;
    for message in heard.iter().filter(|m| is_data(m)) {
        assert_eq!(message.priority(), Priority::RealTime, "{message:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_of_a_declaration_has_one_meaning() {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    type Declare = fn(u32, &'static str) -> NetworkMessage;
    let declarations: [Declare; 3] = [
        |n, name| say::subscribe(n, key(name)),
        |n, name| say::queryable(n, key(name)),
        |n, name| say::token(n, key(name)),
    ];
    for declare in declarations {
        let mut raw = member(&stack, Link::Tcp).await;
        raw.say([declare(1, "device-connect/acme/a"), declare(1, "device-connect/acme/a")]).await;
        raw.sync(NOBODY).await;
        raw.say([declare(1, "device-connect/acme/b")]).await;
        assert_eq!(raw.closed().await, INVALID);
    }
    own.hears("alive device-connect/acme/a").await;
    own.hears("gone device-connect/acme/a").await;
    own.heard_only(&["alive device-connect/acme/a", "gone device-connect/acme/a"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_of_the_router_lead_nowhere_else() {
    let stack = Stack::zenoh().tenants(&["acme", "acme-2", "acme2", "globex"]).start().await;
    let own = stack.zenoh_witness("acme").await;
    let mut others = Vec::new();
    for tenant in ["acme-2", "acme2", "globex"] {
        others.push(stack.zenoh_witness(tenant).await);
    }
    let mut raw = member(&stack, Link::Tcp).await;
    // The router declares ids for what it tells of.
    let all = Some(key("device-connect/acme/**"));
    raw.say([say::interest(1, InterestMode::CurrentFuture, InterestOptions::ALL, all)]).await;
    let heard = raw.sync(NOBODY).await;
    let declared = heard.iter().find_map(|message| match &message.body {
        NetworkBody::Declare(declare) => match &declare.body {
            DeclareBody::DeclareKeyExpr(name) => Some((name.id, name.wire_expr.suffix.to_string())),
            _ => None,
        },
        _ => None,
    });
    let (theirs, name) = declared.expect("the router has declared an id");
    assert_eq!(name, "device-connect/acme");
    for suffix in ["-2/x", "2/x", "//", "/../globex/x", "$*/x", "/"] {
        raw.say([say::put(their_id(theirs, suffix), "attack"), say::put(id(theirs, suffix), "no")])
            .await;
    }
    raw.say([say::put(their_id(theirs, "/x"), "own")]).await;
    raw.sync(NOBODY).await;
    own.heard_only(&[OWN]).await;
    for other in &others {
        other.undisturbed().await;
    }
    assert_eq!(stack.refusals("put", "publish_denied"), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_for_declarations_bring_none_of_another_tenant() {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let witness = stack.zenoh_witness("globex").await;
    let declare = async |witness: &Witness, name: &str| {
        let key = format!("device-connect/{}/{name}", witness.tenant);
        let session = &witness.friend;
        session.declare_subscriber(&key).callback(drop).background().await.unwrap();
        session.declare_queryable(&key).callback(drop).background().await.unwrap();
        let token = session.liveliness().declare_token(&key).await.unwrap();
        settle(session, &witness.tenant).await;
        token
    };
    let _before = [declare(&own, "before").await, declare(&witness, "before").await];
    let mut raw = member(&stack, Link::Tcp).await;
    let keys = [
        None,
        Some("**"),
        Some("*/**"),
        Some("@/**"),
        Some("device-connect/**"),
        Some("device-connect/*/before"),
        Some("device-connect/glob$*/**"),
        Some("device-connect/globex/**"),
        Some("device-connect/globex/before"),
        Some("device-connect"),
    ];
    let kinds = [
        InterestOptions::SUBSCRIBERS,
        InterestOptions::QUERYABLES,
        InterestOptions::TOKENS,
        InterestOptions::KEYEXPRS + InterestOptions::SUBSCRIBERS + InterestOptions::AGGREGATE,
        InterestOptions::ALL,
    ];
    let modes = [InterestMode::Current, InterestMode::Future, InterestMode::CurrentFuture];
    let mut asked_for = 0;
    let is_final = |message: &NetworkMessage, id: u32| match &message.body {
        NetworkBody::Declare(declare) => {
            declare.interest_id == Some(id)
                && declare.body == DeclareBody::DeclareFinal(DeclareFinal)
        }
        _ => false,
    };
    let mut heard = Vec::new();
    for keys in keys {
        for options in kinds {
            for mode in modes {
                asked_for += 1;
                let expr = keys.map(key);
                raw.say([say::interest(asked_for, mode, options, expr)]).await;
                let came = raw.sync(NOBODY).await;
                let ends = came.iter().filter(|message| is_final(message, asked_for)).count();
                if keys.is_some() {
                    let expected = usize::from(mode.is_current());
                    assert_eq!(ends, expected, "{keys:?} {mode:?} {options:?}");
                } else if mode == InterestMode::CurrentFuture {
                    assert_eq!(ends, 1, "{options:?}");
                }
                heard.extend(came);
            }
        }
    }
    let _after = [declare(&own, "after").await, declare(&witness, "after").await];
    heard.extend(raw.sync(NOBODY).await);
    let text = texts(&heard);
    assert!(!text.contains("globex") && !text.contains("marker"), "{text}");
    // What is asked for without a name is what concerns the client.
    assert!(text.contains("/before") && text.contains("/after"), "{text}");
    let denied = (keys.len() - 1) * kinds.len() * modes.len();
    assert_eq!(stack.refusals("interest", "subscribe_denied"), denied as u64);
    // Undone, known or not.
    let options = InterestOptions::empty();
    let undo = (1..=asked_for + 1).map(|n| say::interest(n, InterestMode::Final, options, None));
    raw.say(undo).await;
    raw.sync(NOBODY).await;
    let _later = [declare(&own, "later").await, declare(&witness, "later").await];
    assert!(!texts(&raw.sync(NOBODY).await).contains("later"));
    let alive =
        ["before", "after", "later"].map(|name| format!("alive device-connect/globex/{name}"));
    witness.heard_only(&alive.each_ref().map(String::as_str)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_stay_within_the_tenant_and_answer_what_was_asked() {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let witness = stack.zenoh_witness("globex").await;
    let mut raw = member(&stack, Link::Tcp).await;
    raw.say([say::queryable(1, key("device-connect/acme/cam-1/state"))]).await;
    raw.sync(NOBODY).await;
    // Somebody of globex asks a device that takes its time.
    let mut slow = stack.zenoh_tcp().enter(&stack.greeting(&Token::role("globex", "member"))).await;
    slow.say([say::queryable(1, key("device-connect/globex/slow"))]).await;
    slow.sync("device-connect/globex/nobody").await;
    let victim = witness.friend.clone();
    let victim = tokio::spawn(async move { asked(&victim, "device-connect/globex/slow").await });
    let heard = slow.until(|body| matches!(body, NetworkBody::Request(_))).await;
    let NetworkBody::Request(request) = &heard.last().unwrap().body else { unreachable!() };

    for rid in 0..200 {
        raw.say([
            say::reply(rid, key("device-connect/globex/slow"), "attack"),
            say::reply(rid, key("**"), "attack"),
            say::reply(rid, key("device-connect/acme/guess"), "attack"),
            say::end_of_replies(rid),
        ])
        .await;
    }
    raw.sync(NOBODY).await;
    slow.say([
        say::reply(request.id, key("device-connect/globex/slow"), "real"),
        say::end_of_replies(request.id),
    ])
    .await;
    assert_eq!(victim.await.unwrap(), ["device-connect/globex/slow real"]);
    assert_eq!(stack.refusals("reply", "publish_denied"), 600, "nobody asked");

    let friend = own.friend.clone();
    let asking =
        tokio::spawn(async move { asked(&friend, "device-connect/acme/cam-1/state").await });
    let heard = raw.until(|body| matches!(body, NetworkBody::Request(_))).await;
    let NetworkBody::Request(request) = &heard.last().unwrap().body else { unreachable!() };
    raw.say([
        say::reply(request.id, key("device-connect/globex/cam-1/state"), "attack"),
        say::reply(request.id, key("device-connect/acme-2/cam-1/state"), "attack"),
        say::reply(request.id, key("device-connect/acme/cam-1/state"), "own"),
        say::end_of_replies(request.id),
    ])
    .await;
    assert_eq!(asking.await.unwrap(), ["device-connect/acme/cam-1/state own"]);
    assert_eq!(stack.refusals("reply", "publish_denied"), 602);
    own.undisturbed().await;
    witness.undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_router_cannot_be_administered_and_hears_no_router() {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let witness = stack.zenoh_witness("globex").await;
    let mut raw = member(&stack, Link::Tcp).await;
    let zid = raw.terms.as_ref().unwrap().0.zid;
    let names = [
        "@/**".to_owned(),
        "@/*".to_owned(),
        format!("@/{zid}/router"),
        format!("@/{zid}/router/**"),
        format!("@/{zid}/router/status/plugins/**"),
        format!("@/{zid}/router/config/plugins/x"),
        "@adv/pub/**".to_owned(),
    ];
    for (n, name) in (1..).zip(&names) {
        raw.say([
            say::put(key(name), "{}"),
            say::delete(key(name)),
            say::subscribe(n, key(name)),
            say::query(n, key(name)),
        ])
        .await;
        let heard =
            raw.until(|body| matches!(body, NetworkBody::ResponseFinal(end) if end.rid == n)).await;
        assert_eq!(heard.len(), 1, "{name}: {heard:?}");
    }
    assert_eq!(stack.refusals("query", "publish_denied"), names.len() as u64);
    assert_eq!(stack.refusals("put", "publish_denied"), 2 * names.len() as u64);

    // What routers tell each other about their links.
    for id in [oam::id::OAM_LINKSTATE, 0, 7] {
        let gossip = Oam {
            id,
            body: ZExtBody::ZBuf(vec![1; 32].into()),
            ext_qos: oam::ext::QoSType::DEFAULT,
            ext_tstamp: None,
        };
        raw.say([NetworkBody::OAM(gossip).into()]).await;
    }
    raw.say([say::put(key("device-connect/acme/x"), "own")]).await;
    raw.sync(NOBODY).await;
    assert_eq!(stack.refusals("system", "publish_denied"), 3);
    own.heard_only(&[OWN]).await;
    witness.undisturbed().await;
}

async fn one_of_ten_thousand_messages_of_a_frame_is_taken_out(link: Link) {
    let stack = Stack::zenoh().start().await;
    let witness = stack.zenoh_witness("globex").await;
    let member_session = stack.zenoh_member("acme").await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    member_session
        .declare_subscriber("device-connect/acme/x")
        .callback(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        })
        .background()
        .await
        .unwrap();
    settle(&member_session, "acme").await;
    let mut raw = member(&stack, link).await;
    raw.say([
        say::declare_key(1, key("device-connect/acme/x")),
        say::declare_key(2, key("device-connect/acme")),
    ])
    .await;
    let tiny = |expr| {
        let message = say::put(expr, "");
        let NetworkBody::Push(push) = message.body else { unreachable!() };
        let ext_qos = ext::QoSType::new(Priority::Data, CongestionControl::Block, false);
        NetworkMessage::from(NetworkBody::Push(Push { ext_qos, ..push }))
    };
    let messages = (0..10_000).map(|n| match n {
        7_777 => tiny(id(2, "2/x")),
        _ => tiny(id(1, "")),
    });
    raw.say(messages).await;
    eventually("9,999 arrive", || count.load(Ordering::Relaxed) == 9_999).await;
    raw.sync(NOBODY).await;
    assert_eq!(stack.refusals("put", "publish_denied"), 1);
    witness.undisturbed().await;
    assert_eq!(count.load(Ordering::Relaxed), 9_999);
}

/// The bytes of a message.
fn bytes(message: &NetworkMessage) -> Vec<u8> {
    use zenoh_buffers::writer::HasWriter;
    use zenoh_codec::WCodec;
    let mut bytes = Vec::new();
    zenoh_codec::Zenoh080::new().write(&mut (&mut bytes).writer(), message).unwrap();
    bytes
}

async fn pieces_are_put_together_within_bounds(link: Link) {
    let stack = Stack::zenoh().zenoh("max_message_bytes = 65536").start().await;
    let own = stack.zenoh_witness("acme").await;
    let witness = stack.zenoh_witness("globex").await;
    let mut raw = member(&stack, link).await;
    let small = bytes(&say::put(key("device-connect/acme/x"), "own"));
    let (head, tail) = small.split_at(10);
    let attack = bytes(&say::put(key("device-connect/globex/x"), "attack"));

    let sn = raw.sn();
    raw.piece(sn, true, true, head).await;
    let sn = raw.sn();
    raw.piece(sn, false, false, tail).await;
    // Cut within the name, so that neither piece shows it.
    let sn = raw.sn();
    raw.piece(sn, true, true, &attack[..18]).await;
    let sn = raw.sn();
    raw.piece(sn, false, false, &attack[18..]).await;
    // In one piece.
    let sn = raw.sn();
    raw.piece(sn, true, false, &attack).await;
    raw.sync(NOBODY).await;
    own.heard_only(&[OWN]).await;
    assert_eq!(stack.refusals("put", "publish_denied"), 2);

    // Without a first one, and with one missing in between.
    let sn = raw.sn();
    raw.piece(sn, false, true, head).await;
    let sn = raw.sn();
    raw.piece(sn, false, false, tail).await;
    let sn = raw.sn();
    raw.piece(sn, true, true, head).await;
    raw.next_sn += 1;
    let sn = raw.sn();
    raw.piece(sn, false, false, tail).await;
    // Begun a second time: the first time is forgotten.
    let sn = raw.sn();
    raw.piece(sn, true, true, &attack[..18]).await;
    let sn = raw.sn();
    raw.piece(sn, true, true, head).await;
    let sn = raw.sn();
    raw.piece(sn, false, false, tail).await;
    raw.sync(NOBODY).await;
    own.heard_only(&[OWN]).await;

    // A head that is the client's own, and a size that never ends: given up at the bound, once.
    let endless = bytes(&say::put_bytes(key("device-connect/acme/x"), vec![b'x'; 30_000]));
    for n in 0..20 {
        let sn = raw.sn();
        raw.piece(sn, n == 0, true, &endless).await;
    }
    raw.say([say::put(key("device-connect/acme/x"), "own")]).await;
    raw.sync(NOBODY).await;
    assert_eq!(stack.refusals("put", "payload_quota_exceeded"), 1);
    own.heard_only(&[OWN]).await;
    witness.undisturbed().await;
    // A whole that is more than one message ends the session.
    let sn = raw.sn();
    raw.piece(sn, true, false, &[small.clone(), attack].concat()).await;
    assert_eq!(raw.closed().await, INVALID);
    witness.undisturbed().await;
}

async fn whatever_breaks_the_protocol_ends_the_session(link: Link) {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let witness = stack.zenoh_witness("globex").await;
    let greeting = stack.greeting(&Token::role("acme", "member"));
    let another = || greeting.clone().zid(ZenohIdProto::rand());
    let enter = async || stack.entrance(link).enter(&another()).await;
    let own_put = || say::put(key("device-connect/acme/x"), "own");
    let mut sessions = Vec::new();

    // What belongs to the handshake, or to a group.
    let mut raw = enter().await;
    raw.transport(greeting.init_syn()).await;
    sessions.push(("INIT", raw));
    let mut raw = enter().await;
    raw.transport(greeting.open_syn(vec![1].into())).await;
    sessions.push(("OPEN", raw));
    let mut raw = enter().await;
    raw.transport(Join {
        version: greeting.version,
        whatami: greeting.whatami,
        zid: greeting.zid,
        resolution: Resolution::default(),
        batch_size: 8192,
        lease: greeting.lease,
        next_sn: PrioritySn { reliable: 0, best_effort: 0 },
        ext_qos: None,
        ext_shm: None,
        ext_patch: join::ext::PatchType::NONE,
    })
    .await;
    sessions.push(("JOIN", raw));

    // Numbers.
    for (what, next) in [("the same number again", 0), ("one of before", 0x0fff_ffff)] {
        let mut raw = enter().await;
        raw.say([own_put()]).await;
        raw.frame(next, Priority::Data, Reliability::Reliable, [own_put()]).await;
        sessions.push((what, raw));
    }
    let mut raw = enter().await;
    raw.frame(1 << 28, Priority::Data, Reliability::Reliable, [own_put()]).await;
    sessions.push(("a number out of range", raw));
    let mut raw = stack.entrance(link).enter(&Greeting { qos: false, ..another() }).await;
    raw.frame(0, Priority::RealTime, Reliability::Reliable, [own_put()]).await;
    sessions.push(("a priority without priorities", raw));

    // What cannot be read.
    for (what, garbage) in [
        ("a cut message", bytes(&own_put())[..9].to_vec()),
        ("no message", vec![0xff; 64]),
        ("nothing known", vec![0x18]),
        ("a name that is no text", [&[0x3d, 0, 4][..], &[0xff; 4], &[1, 0]].concat()),
        ("a length of all there is", vec![0x3d, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]),
    ] {
        let mut raw = enter().await;
        raw.frame_of(&garbage).await;
        sessions.push((what, raw));
    }
    let mut raw = enter().await;
    raw.batch(&[0xff; 300]).await;
    sessions.push(("no transport message", raw));
    for (what, mut raw) in sessions {
        assert_eq!(raw.closed().await, INVALID, "{what}");
    }
    // What came before goes its way.
    own.heard_only(&[OWN, OWN]).await;

    // Lanes are apart, numbers may be left out, and a sign of life is no message.
    let mut raw = enter().await;
    raw.transport(KeepAlive).await;
    raw.frame(0, Priority::RealTime, Reliability::Reliable, []).await;
    raw.frame(0, Priority::Data, Reliability::BestEffort, []).await;
    raw.next_sn += 1000;
    raw.batch(&[]).await;
    raw.say([own_put()]).await;
    raw.sync(NOBODY).await;
    own.heard_only(&[OWN]).await;
    raw.transport(Close { reason: close::reason::GENERIC, session: true }).await;
    raw.closed().await;
    witness.undisturbed().await;
    let violations = stack.metric("bulkhead_zenoh_violations_total");
    assert_eq!(violations, 13);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_of_one_byte_go_round() {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let mut resolution = Resolution::default();
    resolution.set(Field::FrameSN, Bits::U8);
    let token = Token::role("acme", "member");
    let greeting = Greeting { resolution, initial_sn: 120, ..stack.greeting(&token) };
    let mut raw = stack.zenoh_tcp().enter(&greeting).await;
    assert_eq!(raw.terms.as_ref().unwrap().0.resolution.get(Field::FrameSN), Bits::U8);
    for n in 0..300 {
        let put = say::put(key("device-connect/acme/x"), &n.to_string());
        raw.frame((120 + n) % 128, Priority::Data, Reliability::Reliable, [put]).await;
    }
    own.hears("put device-connect/acme/x 299").await;
    assert_eq!(own.heard().len(), 300);
    // Of the range, half is ahead.
    let put = say::put(key("device-connect/acme/x"), "far");
    raw.frame((120 + 300 + 64) % 128, Priority::Data, Reliability::Reliable, [put]).await;
    assert_eq!(raw.closed().await, INVALID);
    let beyond = Greeting { initial_sn: 128, ..greeting };
    assert_eq!(stack.zenoh_tcp().refuse(&beyond).await, INVALID);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_in_pieces_reach_raw_clients_too() {
    let stack = Stack::zenoh().start().await;
    let own = stack.zenoh_witness("acme").await;
    let token = Token::role("acme", "member");
    let greeting = Greeting { batch_size: 2048, ..stack.greeting(&token) };
    let mut raw = stack.zenoh_tcp().enter(&greeting).await;
    assert!(raw.terms.as_ref().unwrap().0.batch_size <= 2048);
    raw.say([say::subscribe(1, key("device-connect/acme/large"))]).await;
    raw.sync(NOBODY).await;
    own.friend.put("device-connect/acme/large", vec![b'x'; 10_000]).await.unwrap();
    let (mut size, mut pieces) = (0, 0);
    loop {
        if let Some(Said::Piece(piece)) = raw.next().await {
            size += zenoh_buffers::buffer::Buffer::len(&piece.payload);
            pieces += 1;
            if !piece.more {
                break;
            }
        }
    }
    assert!(size > 10_000 && pieces > 4, "{pieces} pieces of {size} bytes");
}
