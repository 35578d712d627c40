//! Tenants of a nats-server in operator mode cannot reach each other.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use bulkhead_tests::{Actor, Stack, Token, next, nothing};

/// A member of acme, a device of acme and a member of globex.
async fn cast(stack: &Stack) -> (Actor, Actor, Actor) {
    let url = stack.url();
    (
        Actor::connect(url, &stack.token(&Token::role("acme", "member"))).await,
        Actor::connect(url, &stack.token(&Token::device("acme", "cam-1"))).await,
        Actor::connect(url, &stack.token(&Token::role("globex", "member"))).await,
    )
}

#[tokio::test]
async fn publishing_stays_within_the_tenant() {
    let stack = Stack::new().start().await;
    let (member, device, stranger) = cast(&stack).await;
    let mut at_globex = stranger.subscribe("device-connect.globex.>").await;
    let mut at_acme = member.subscribe("device-connect.acme.>").await;

    for subject in [
        "device-connect.globex.cam-1.event.motion",
        "device-connect.globex.registry",
        "device-connect.acme-2.cam-1.heartbeat",
        "device-connect.Acme.cam-1.heartbeat",
        "elsewhere.acme.cam-1",
    ] {
        device.publish(subject, "attack").await;
        device.refused(subject).await;
    }
    device.publish("device-connect.acme.cam-1.event.motion", "own").await;
    assert_eq!(next(&mut at_acme).await.payload, "own");
    nothing(&mut at_globex).await;
}

#[tokio::test]
async fn subscribing_stays_within_the_tenant() {
    let stack = Stack::new().start().await;
    let (member, device, stranger) = cast(&stack).await;
    let mut own = member.subscribe("device-connect.acme.*.event.>").await;
    let mut stolen = Vec::new();
    for subject in [
        ">",
        "*.>",
        "device-connect.>",
        "device-connect.*.cam-1.event.>",
        "device-connect.globex.>",
        "device-connect.*.*.cmd",
        "*.globex.>",
    ] {
        stolen.push(member.subscribe(subject).await);
        member.refused(&format!("\"{subject}\"")).await;
        let queue = member.client.queue_subscribe(subject, "q".into()).await.unwrap();
        stolen.push(queue);
    }
    stranger.publish("device-connect.globex.cam-1.event.motion", "secret").await;
    stranger.publish("device-connect.globex.cam-1.cmd", "secret").await;
    device.publish("device-connect.acme.cam-1.event.motion", "own").await;
    assert_eq!(next(&mut own).await.payload, "own");
    for subscription in &mut stolen {
        nothing(subscription).await;
    }
}

#[tokio::test]
async fn a_device_is_confined_within_its_tenant_too() {
    let stack = Stack::new().start().await;
    let (member, device, _) = cast(&stack).await;
    let mut all = member.subscribe("device-connect.acme.>").await;
    for subject in [
        "device-connect.acme.cam-2.heartbeat",
        "device-connect.acme.cam-2.event.motion",
        "device-connect.acme.device.online",
        "device-connect.acme.broadcast",
    ] {
        device.publish(subject, "forged").await;
        device.refused(subject).await;
    }
    for subject in ["device-connect.acme.*.cmd", "device-connect.acme.cam-2.cmd"] {
        device.subscribe(subject).await;
        device.refused(subject).await;
    }
    device.publish("device-connect.acme.cam-2.cmd", "own").await;
    assert_eq!(next(&mut all).await.payload, "own", "nothing forged came before it");
}

#[tokio::test]
async fn replies_reach_whoever_asked_and_nobody_of_another_tenant() {
    let stack = Stack::new().start().await;
    let (member, device, stranger) = cast(&stack).await;
    let mut snooped = stranger.subscribe("_INBOX.>").await;
    let mut calls = member.subscribe("device-connect.acme.cam-2.cmd").await;
    let answering = async {
        let call = next(&mut calls).await;
        member.publish(call.reply.unwrap().as_str(), "answer").await;
    };
    let call = device.client.request("device-connect.acme.cam-2.cmd", "call".into());
    let (answer, ()) = tokio::join!(call, answering);
    assert_eq!(answer.unwrap().payload, "answer");
    nothing(&mut snooped).await;
}

#[tokio::test]
async fn a_guessed_inbox_of_another_tenant_receives_nothing() {
    let stack = Stack::new().start().await;
    let (member, device, stranger) = cast(&stack).await;
    let inbox = device.client.new_inbox();
    let mut replies = device.subscribe(&inbox).await;
    // Without the grant to publish into inboxes the server refuses; within the own tenant only a
    // request that was received opens the way.
    stranger.publish(&inbox, "forged").await;
    stranger.refused(&inbox).await;
    member.publish(&inbox, "forged").await;
    member.refused(&inbox).await;
    nothing(&mut replies).await;
}

#[tokio::test]
async fn a_reply_can_be_given_once() {
    let stack = Stack::new().start().await;
    let (_, device, _) = cast(&stack).await;
    let callee = Actor::connect(stack.url(), &stack.token(&Token::device("acme", "cam-2"))).await;
    let mut calls = callee.subscribe("device-connect.acme.cam-2.cmd").await;
    let inbox = device.client.new_inbox();
    let mut replies = device.subscribe(&inbox).await;
    let subject = "device-connect.acme.cam-2.cmd";
    device.client.publish_with_reply(subject, inbox.clone(), "call".into()).await.unwrap();
    let reply = next(&mut calls).await.reply.unwrap();
    callee.publish(reply.as_str(), "first").await;
    assert_eq!(next(&mut replies).await.payload, "first");
    callee.publish(reply.as_str(), "second").await;
    callee.refused(&inbox).await;
    nothing(&mut replies).await;
}

#[tokio::test]
async fn a_reply_comes_in_time_or_not_at_all() {
    let stack = Stack::new()
        .config(
            "[roles.brief]\npublish = [\"device-connect/{tenant}/**\"]\n\
             subscribe = [\"device-connect/{tenant}/**\"]\n\
             nats = { subscribe = [\"_INBOX/**\"], responses = { max = 5, seconds = 3 } }\n",
        )
        .issuer_roles(&["brief", "device", "member"])
        .start()
        .await;
    let brief = Actor::connect(stack.url(), &stack.token(&Token::role("acme", "brief"))).await;
    let device = Actor::connect(stack.url(), &stack.token(&Token::device("acme", "cam-1"))).await;
    let mut calls = brief.subscribe("device-connect.acme.cam-2.cmd").await;
    let inbox = device.client.new_inbox();
    let mut replies = device.subscribe(&inbox).await;
    let subject = "device-connect.acme.cam-2.cmd";
    device.client.publish_with_reply(subject, inbox.clone(), "call".into()).await.unwrap();
    let reply = next(&mut calls).await.reply.unwrap();
    brief.publish(reply.as_str(), "in time").await;
    assert_eq!(next(&mut replies).await.payload, "in time");
    // Nothing to wait for but the grant's end, which nobody is told of.
    tokio::time::sleep(std::time::Duration::from_millis(3_500)).await;
    brief.publish(reply.as_str(), "too late").await;
    brief.refused(&inbox).await;
    nothing(&mut replies).await;
}

#[tokio::test]
async fn the_servers_own_subjects_are_out_of_reach() {
    let stack =
        Stack::new().server_config("jetstream { max_mem: 16MB, max_file: 16MB }").start().await;
    let (member, device, stranger) = cast(&stack).await;
    let mut at_globex = stranger.subscribe("device-connect.globex.>").await;
    for subject in [
        "$SYS.>",
        "$SYS.REQ.USER.AUTH",
        "$SYS.ACCOUNT.*.CONNECT",
        "$JS.API.>",
        "$KV.>",
        "$OBJ.>",
        "$MQTT.>",
        "$NRG.>",
        "_R_.>",
    ] {
        for actor in [&member, &device] {
            actor.subscribe(subject).await;
            actor.refused(&format!("\"{subject}\"")).await;
        }
    }
    for subject in [
        "$SYS.REQ.USER.AUTH",
        "$SYS.REQ.SERVER.PING.CONNZ",
        "$SYS.REQ.CLAIMS.UPDATE",
        "$SYS.REQ.USER.INFO",
        "$MQTT.msgs.x",
        "$OBJ.x",
    ] {
        for actor in [&member, &device] {
            actor.publish(subject, "attack").await;
            actor.refused(subject).await;
        }
    }
    for subject in ["$JS.API.INFO", "$KV.bucket.key"] {
        device.publish(subject, "attack").await;
        device.refused(subject).await;
    }
    nothing(&mut at_globex).await;
}
