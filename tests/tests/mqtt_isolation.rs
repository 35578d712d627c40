//! Tenants of the MQTT broker cannot reach each other.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_tests::mqtt::Mode;
use bulkhead_tests::mqtt::codec::{Property, QoS, ReasonCode, SubscriptionOptions, Version};
use bulkhead_tests::{Stack, Token, Transport, eventually};

const DENIED: ReasonCode = ReasonCode::NOT_AUTHORIZED;
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// Reading and writing across the line between tenants, over one transport and in one version.
async fn tenants_are_apart(mode: Mode, transport: Transport, version: Version) {
    let stack = Stack::mqtt_in(mode).start().await;
    let door = stack.door(transport);
    let hello =
        |tenant: &str, id: &str| stack.hello(id, &Token::role(tenant, "member")).version(version);
    let mut witness = door.connect(&hello("globex", "witness")).await;
    witness.subscribed("device-connect/globex/#").await;
    assert!(!witness.retain("device-connect/globex/kept", "original").await.is_error());
    assert_eq!(witness.payload().await, "original");

    let mut attacker = door.connect(&hello("acme", "attacker")).await;
    let refused = match version {
        Version::V311 => ReasonCode::UNSPECIFIED_ERROR,
        Version::V5 => DENIED,
    };
    let stolen = ["#", "device-connect/globex/#", "device-connect/+/kept", "$share/g/#"];
    for filter in stolen {
        assert_eq!(attacker.subscribe(filter).await, refused, "{filter}");
    }
    assert_eq!(stack.refusals("subscribe", "subscribe_denied"), stolen.len() as u64);
    attacker.subscribed("device-connect/acme/#").await;
    witness.published("device-connect/globex/cam-1/event/motion", "secret").await;
    assert_eq!(witness.payload().await, "secret");
    attacker.nothing().await;
    attacker.published("device-connect/acme/cam-1/event/motion", "own").await;
    assert_eq!(attacker.payload().await, "own");

    for (qos, retain, payload) in [
        (QOS[0], false, "attack"),
        (QOS[1], false, "attack"),
        (QOS[2], false, "attack"),
        (QOS[0], true, "overwritten"),
        (QOS[1], true, "overwritten"),
        (QOS[1], true, ""),
    ] {
        let topic = "device-connect/globex/kept";
        if version == Version::V5 {
            let told = attacker.publish_with(topic, payload, qos, retain, &[]).await;
            assert_eq!(told, if qos == QOS[0] { ReasonCode::SUCCESS } else { DENIED });
        } else {
            // There is no way to say no, so nothing is said, and the connection ends.
            attacker.send_publish(topic, payload, qos, retain, &[]).await;
            assert_eq!(attacker.closed_unacknowledged().await, None);
            attacker = door.connect(&hello("acme", "attacker")).await;
        }
    }
    attacker.ping().await;
    assert_eq!(stack.refusals("publish", "publish_denied"), 6);
    stack.denied("publish_denied").await;
    witness.nothing().await;

    let will = hello("acme", "heir").will("device-connect/globex/cam-1/event/gone", "attack");
    assert_eq!(door.refuse(&will).await, DENIED);
    assert_eq!(stack.refusals("will", "publish_denied"), 1);
    witness.nothing().await;

    let mut late = door.connect(&hello("globex", "late")).await;
    late.subscribed("device-connect/globex/kept").await;
    let kept = late.message().await;
    assert_eq!((kept.payload.as_str(), kept.retain), ("original", true));
    witness.published("device-connect/globex/cam-1/event/motion", "still").await;
    assert_eq!(witness.payload().await, "still", "nothing came before it");
}

macro_rules! over {
    ($($name:ident: $transport:ident, $version:ident;)*) => {$(
        async fn $name(mode: Mode) {
            tenants_are_apart(mode, Transport::$transport, Version::$version).await;
        }
    )*};
}

over! {
    tenants_are_apart_over_tcp_in_version_3: Tcp, V311;
    tenants_are_apart_over_tcp_in_version_5: Tcp, V5;
    tenants_are_apart_over_tls_in_version_3: Tls, V311;
    tenants_are_apart_over_tls_in_version_5: Tls, V5;
    tenants_are_apart_over_websocket_in_version_3: Ws, V311;
    tenants_are_apart_over_websocket_in_version_5: Ws, V5;
    tenants_are_apart_over_websocket_and_tls_in_version_3: Wss, V311;
    tenants_are_apart_over_websocket_and_tls_in_version_5: Wss, V5;
}

async fn no_filter_reaches_beyond_the_tenant(mode: Mode) {
    let stack = Stack::mqtt_in(mode).tenants(&["acme", "acme-2", "globex"]).start().await;
    let mut witness = stack.witness("globex").await;
    let mut neighbour = stack.witness("acme-2").await;
    let mut attacker = stack.member("acme", "attacker").await;
    let deep = format!("device-connect/acme/{}#", "+/".repeat(100));
    for filter in [
        "#",
        "+",
        "/#",
        "+/#",
        "+/+",
        "+/+/#",
        "//",
        "/+/+",
        "device-connect/#",
        "device-connect/+",
        "device-connect/+/#",
        "device-connect/+/+/event/#",
        "device-connect/globex",
        "device-connect/globex/#",
        "device-connect/globex/cam-1/event/motion",
        "device-connect/acme-2/#",
        "device-connect/acme-2",
        "device-connect/acme+2/#",
        "device-connect/Acme/#",
        "device-connect/ACME/#",
        "device-connect/acme /#",
        "device-connect/acme\u{301}/#",
        "device-connect/\u{430}cme/#",
        "device-connect/%67lobex/#",
        "device-connect/../globex/#",
        "device-connect//globex/#",
        "device-connect/acme//#",
        "device-connect/acme/",
        "/device-connect/acme/#",
        "DEVICE-CONNECT/acme/#",
        "$SYS/#",
        "$SYS/broker/clients/total",
        "$CONTROL/#",
        "$/#",
        "_reply/#",
        "_reply/+",
        "+/globex/#",
        &deep,
        "$share/g/#",
        "$share/g/+/#",
        "$share/g//#",
        "$share/g/device-connect/globex/#",
        "$share/g/device-connect/acme-2/#",
        "$share/g/device-connect/+/cam-1/event/#",
        "$share/g/$SYS/#",
        "$share/globex/device-connect/globex/#",
        "$share/g/$share/g/device-connect/acme/#",
        "$shareX/t",
        "$share",
        "$SHARE/g/device-connect/acme/#",
        "$queue/device-connect/acme/#",
    ] {
        let code = attacker.subscribe(filter).await;
        assert!(code.is_error(), "{filter}: {code}");
    }
    for filter in [
        "a#",
        "a/#/b",
        "a+b",
        "device-connect/acme/#/x",
        "device-connect/acme#",
        "device-connect/acme/x+",
        "$share/+/x",
        "$share//x",
        "$share/#/x",
        "$share/g",
        "$share/g/",
        "$share/g/a#",
        "$share/",
    ] {
        let code = attacker.subscribe(filter).await;
        assert_eq!(code, ReasonCode::TOPIC_FILTER_INVALID, "{filter} is malformed");
    }
    stack.denied("subscribe_denied").await;
    stack.denied("name_invalid").await;

    attacker.subscribed("device-connect/acme/#").await;
    attacker.subscribed("$share/g/device-connect/acme/+/event/#").await;
    for (client, tenant) in [(&mut witness, "globex"), (&mut neighbour, "acme-2")] {
        for topic in ["cam-1/event/motion", "cam-1/cmd", "registry"] {
            client.published(&format!("device-connect/{tenant}/{topic}"), "secret").await;
            assert_eq!(client.payload().await, "secret");
        }
    }
    attacker.nothing().await;
    attacker.published("device-connect/acme/cam-1/cmd", "own").await;
    assert_eq!(attacker.payload().await, "own");
}

async fn no_topic_reaches_beyond_the_tenant(mode: Mode) {
    let stack = Stack::mqtt_in(mode).tenants(&["acme", "acme-2", "globex"]).start().await;
    let mut witness = stack.witness("globex").await;
    let mut neighbour = stack.witness("acme-2").await;
    let mut own = stack.witness("acme").await;
    let mut attacker = stack.member("acme", "attacker").await;
    let denied = [
        "device-connect/globex/cam-1/event/motion",
        "device-connect/globex",
        "device-connect/acme-2/cam-1/event/motion",
        "device-connect/acme-2",
        "device-connect/acme-",
        "device-connect/acm",
        "device-connect/Acme/cam-1",
        "device-connect/acme\u{301}/cam-1",
        "device-connect/ac\u{ad}me/cam-1",
        "device-connect/\u{430}cme/cam-1",
        "device-connect/%61cme/cam-1",
        "device-connect/../device-connect/globex/cam-1",
        "device-connect/./acme/cam-1",
        "device-connect",
        "globex/cam-1/event/motion",
        "elsewhere/acme/cam-1",
        "_reply",
        "_reply/a/b",
    ];
    let own_of_a_broker = [
        "$SYS/broker/uptime",
        "$SYS",
        "$CONTROL/dynamic-security/v1",
        "$share/g/device-connect/acme/cam-1",
        "$delayed/1/device-connect/globex/cam-1",
        "$device-connect/acme/cam-1",
    ];
    let invalid = [
        "device-connect//globex/cam-1",
        "/device-connect/globex/cam-1",
        "device-connect/acme//cam-1",
        "device-connect/acme/",
        "device-connect/acme/cam-1/",
        "/",
        "//",
        "device-connect/acme/cam\u{7f}",
        "device-connect/acme/cam\u{85}",
        "device-connect/acme/cam\n1",
    ];
    // The front lets nobody say what another broker could take for more than a name.
    let dollar = if mode.is_embedded() { DENIED } else { ReasonCode::TOPIC_NAME_INVALID };
    for qos in QOS {
        for (topics, reason) in [
            (&denied[..], DENIED),
            (&own_of_a_broker, dollar),
            (&invalid, ReasonCode::TOPIC_NAME_INVALID),
        ] {
            for topic in topics {
                let told = attacker.publish_with(topic, "attack", qos, false, &[]).await;
                let silent = qos == QoS::AtMostOnce;
                assert_eq!(told, if silent { ReasonCode::SUCCESS } else { reason }, "{topic:?}");
            }
        }
    }
    attacker.ping().await;
    let refusals = ["publish_denied", "name_invalid"].map(|why| stack.refusals("publish", why));
    let mut expected = [denied.len(), invalid.len()];
    expected[usize::from(!mode.is_embedded())] += own_of_a_broker.len();
    assert_eq!(refusals, expected.map(|topics| 3 * topics as u64));
    stack.denied("publish_denied").await;
    for client in [&mut witness, &mut neighbour, &mut own] {
        client.nothing().await;
    }

    // What looks like a way out is a name like any other inside the own tenant.
    for topic in [
        "device-connect/acme",
        "device-connect/acme/../globex/cam-1",
        "device-connect/acme/%2e%2e/globex",
        "device-connect/acme/globex/cam-1/event/e\u{301}",
        "device-connect/acme/$SYS/x",
    ] {
        attacker.published(topic, "own").await;
        assert_eq!(own.message().await.topic, topic);
    }
    witness.nothing().await;
    neighbour.nothing().await;
}

async fn the_longest_and_the_deepest_names_are_decided_about_like_others(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut witness = stack.witness("globex").await;
    let mut own = stack.witness("acme").await;
    let mut attacker = stack.member("acme", "attacker").await;
    let long = |tenant: &str| {
        let start = format!("device-connect/{tenant}/");
        format!("{start}{}", "x".repeat(65_535 - start.len()))
    };
    let deep = |tenant: &str| format!("device-connect/{tenant}{}", "/a".repeat(10_000));

    assert_eq!(attacker.publish1(&long("globex"), "attack").await, DENIED);
    assert_eq!(attacker.subscribe(&long("globex")).await, DENIED);
    for tenant in ["globex", "acme"] {
        let told = attacker.publish1(&deep(tenant), "attack").await;
        assert_eq!(told, ReasonCode::TOPIC_NAME_INVALID, "more levels than any name has");
        for filter in [deep(tenant), format!("{}/#", deep(tenant))] {
            assert_eq!(attacker.subscribe(&filter).await, ReasonCode::TOPIC_FILTER_INVALID);
        }
    }
    witness.nothing().await;
    attacker.subscribed(&long("acme")).await;
    attacker.published(&long("acme"), "own").await;
    assert_eq!(own.message().await.topic.len(), 65_535);
    assert_eq!(attacker.payload().await, "own");
}

async fn a_device_is_confined_within_its_tenant_too(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut own = stack.witness("acme").await;
    let mut device = stack.device("acme", "cam-1").await;
    for topic in [
        "device-connect/acme/cam-2/heartbeat",
        "device-connect/acme/cam-2/event/motion",
        "device-connect/acme/device/online",
        "device-connect/acme/broadcast",
    ] {
        assert_eq!(device.publish1(topic, "forged").await, DENIED, "{topic}");
    }
    for filter in [
        "device-connect/acme/#",
        "device-connect/acme/+/cmd",
        "device-connect/acme/cam-2/cmd",
        "$share/g/device-connect/acme/+/cmd",
    ] {
        assert_eq!(device.subscribe(filter).await, DENIED, "{filter}");
    }
    device.published("device-connect/acme/cam-2/cmd", "own").await;
    assert_eq!(own.payload().await, "own", "nothing forged came before it");
    device.subscribed("device-connect/acme/cam-1/cmd").await;
    own.published("device-connect/acme/cam-1/cmd", "do").await;
    assert_eq!(device.payload().await, "do");
}

async fn the_same_topic_in_two_tenants_is_two_topics(mode: Mode) {
    // Another broker has one name space for all, in which the prefix keeps them apart.
    let stack = Stack::mqtt_in(mode).upstream_prefix("{tenant}/").start().await;
    let mut globex = stack.member("globex", "asks").await;
    let mut acme = stack.member("acme", "asks").await;
    // The one name that both may use: whoever guesses it in another tenant gains nothing.
    let topic = "_reply/5d9e9a60";
    for client in [&mut globex, &mut acme] {
        client.subscribed(topic).await;
        client.subscribed(&format!("$share/g/{topic}")).await;
    }
    acme.published(topic, "answer").await;
    for _ in 0..2 {
        assert_eq!(acme.payload().await, "answer");
    }
    assert_eq!(acme.retain(topic, "kept").await, ReasonCode::SUCCESS);
    globex.nothing().await;
    let mut late = stack.member("globex", "late").await;
    late.subscribed(topic).await;
    late.nothing().await;
    assert_eq!(late.retain(topic, "").await, ReasonCode::SUCCESS, "its own, which is not there");
    let mut own = stack.member("acme", "late").await;
    own.subscribed(topic).await;
    assert_eq!(own.payload().await, "kept");
}

/// Waits until so many messages are retained. Those of another broker are not counted here.
async fn is_kept(mode: Mode, stack: &Stack, messages: u64) {
    if mode.is_embedded() {
        eventually("so many are kept", || {
            stack.metric("bulkhead_mqtt_retained_messages") == messages
        })
        .await;
    }
}

async fn retained_messages_are_neither_read_nor_changed_from_another_tenant(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut owner = stack.member("globex", "owner").await;
    let topic = "device-connect/globex/cam-1/state";
    assert_eq!(owner.retain(topic, "original").await, ReasonCode::SUCCESS);
    is_kept(mode, &stack, 1).await;

    let mut attacker = stack.member("acme", "attacker").await;
    for filter in ["#", "+/+/+/state", "device-connect/+/cam-1/state", topic, "$share/g/#"] {
        assert_eq!(attacker.subscribe(filter).await, DENIED, "{filter}");
    }
    attacker.subscribed("device-connect/acme/#").await;
    attacker.nothing().await;
    for payload in ["overwritten", ""] {
        assert_eq!(attacker.retain(topic, payload).await, DENIED);
    }
    assert_eq!(stack.refusals("publish", "publish_denied"), 2);
    let mut late = stack.member("globex", "late").await;
    late.subscribed("device-connect/globex/#").await;
    let kept = late.message().await;
    assert_eq!((kept.payload.as_str(), kept.retain), ("original", true));
    // The same within the own tenant.
    assert_eq!(owner.retain(topic, "changed").await, ReasonCode::SUCCESS);
    assert_eq!(late.payload().await, "changed");
    assert_eq!(owner.retain(topic, "").await, ReasonCode::SUCCESS);
    is_kept(mode, &stack, 0).await;
    let mut late = stack.member("globex", "later").await;
    late.subscribed("device-connect/globex/#").await;
    late.nothing().await;
}

async fn a_will_stays_within_the_tenant(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let door = stack.tcp();
    let mut witness = stack.witness("globex").await;
    let mut own = stack.witness("acme").await;
    let hello = || stack.hello("heir", &Token::role("acme", "member"));
    let refused = [
        "device-connect/globex/cam-1/event/gone",
        "device-connect/acme-2/cam-1/event/gone",
        "$SYS/broker/state",
        "device-connect/acme//gone",
    ];
    for topic in refused {
        assert_eq!(door.refuse(&hello().will(topic, "attack")).await, DENIED, "{topic}");
    }
    let topic = "device-connect/acme/cam-1/event/gone";
    let misled = hello()
        .will(topic, "attack")
        .will_with(Property::ResponseTopic("device-connect/globex/cam-1/cmd"));
    assert_eq!(door.refuse(&misled).await, DENIED);
    // `$SYS` is nobody's name before another broker.
    let invalid = if mode.is_embedded() { 1 } else { 2 };
    assert_eq!(stack.refusals("will", "publish_denied"), 4 - invalid);
    assert_eq!(stack.refusals("will", "name_invalid"), invalid);
    assert_eq!(stack.refusals("will", "response_topic_denied"), 1);
    stack.denied("response_topic_denied").await;

    door.connect(&hello().will(topic, "own")).await.vanish();
    assert_eq!(own.payload().await, "own");
    witness.nothing().await;
    // A goodbye takes the will with it, unless the client asks for it.
    door.connect(&hello().will(topic, "never")).await.goodbye().await;
    let mut leaver = door.connect(&hello().will(topic, "wanted")).await;
    leaver.disconnect(ReasonCode::DISCONNECT_WITH_WILL).await;
    assert_eq!(own.payload().await, "wanted");
}

async fn a_response_topic_does_not_point_into_another_tenant(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut own = stack.witness("acme").await;
    let mut attacker = stack.member("acme", "attacker").await;
    let topic = "device-connect/acme/cam-1/cmd";
    for (qos, response) in [
        (QoS::AtLeastOnce, "device-connect/globex/cam-1/cmd"),
        (QoS::ExactlyOnce, "device-connect/acme-2/cam-1/cmd"),
        (QoS::AtLeastOnce, "$SYS/x"),
        (QoS::AtLeastOnce, "device-connect/acme//cmd"),
    ] {
        let properties = [Property::ResponseTopic(response)];
        let told = attacker.publish_with(topic, "attack", qos, false, &properties).await;
        assert_eq!(told, DENIED, "{response}");
    }
    stack.denied("response_topic_denied").await;
    assert_eq!(stack.refusals("publish", "response_topic_denied"), 4);
    let properties = [Property::ResponseTopic("_reply/1b4e28ba"), Property::CorrelationData(b"7")];
    attacker.publish_with(topic, "own", QoS::AtLeastOnce, false, &properties).await;
    let request = own.message().await;
    assert_eq!(request.payload, "own", "nothing came before it");
    assert_eq!(request.properties.get().response_topic(), Some("_reply/1b4e28ba"));
    assert_eq!(request.properties.get().correlation_data(), Some(&b"7"[..]));
}

async fn who_a_client_says_it_is_changes_nothing(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut witness = stack.witness("globex").await;
    let mut own = stack.witness("acme").await;
    let mut hello = stack.hello("globex", &Token::role("acme", "member"));
    hello.user = Some("globex".to_owned());
    for (name, value) in [("tenant", "globex"), ("bulkhead-tenant", "globex"), ("role", "service")]
    {
        hello = hello.with(Property::UserProperty(name, value));
    }
    let mut attacker = stack.tcp().connect(&hello).await;
    let properties = [Property::UserProperty("tenant", "globex")];
    let topic = "device-connect/globex/cam-1/event/motion";
    let told = attacker.publish_with(topic, "attack", QoS::AtLeastOnce, false, &properties).await;
    assert_eq!(told, DENIED);
    assert_eq!(attacker.subscribe("device-connect/globex/#").await, DENIED);
    let topic = "device-connect/acme/cam-1/event/motion";
    attacker.publish_with(topic, "own", QoS::AtLeastOnce, false, &properties).await;
    let message = own.message().await;
    let claimed: Vec<_> = message.properties.get().user_properties().collect();
    assert_eq!(claimed, [("tenant", "globex")], "carried, and of no meaning");
    witness.nothing().await;
}

async fn the_same_client_id_in_two_tenants_is_two_clients(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let (globex, acme) = (Token::role("globex", "member"), Token::role("acme", "member"));
    let topic = "device-connect/globex/cam-1/cmd";
    one_id_and_two_clients(&stack, &globex, &acme, topic).await;
}

async fn the_same_client_id_at_two_devices_of_a_tenant_is_two_clients(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let (victim, attacker) = (Token::device("acme", "cam-1"), Token::device("acme", "cam-2"));
    let topic = "device-connect/acme/cam-1/cmd";
    one_id_and_two_clients(&stack, &victim, &attacker, topic).await;
}

/// Whoever uses another's client id gets neither its session nor its messages, and neither ends its
/// connection nor fires its will.
async fn one_id_and_two_clients(stack: &Stack, victim: &Token, attacker: &Token, topic: &str) {
    let door = stack.tcp();
    let tenant = if topic.contains("globex") { "globex" } else { "acme" };
    let mut witness = stack.witness(tenant).await;
    let hello = |token: &Token| stack.hello("one-id", token).resume(600);
    let last = format!("device-connect/{tenant}/cam-1/event/gone");
    let mut first = door.connect(&hello(victim).will(&last, "will")).await;
    first.subscribed(topic).await;

    let mut other = door.connect(&hello(attacker)).await;
    assert!(!other.present, "no session of another identity");
    other.nothing().await;
    first.ping().await;
    drop(other);
    first.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    witness.published(topic, "queued").await;
    assert_eq!(witness.payload().await, "queued", "and no will");

    let mut other = door.connect(&hello(attacker)).await;
    assert!(other.present, "its own");
    other.nothing().await;
    let clean = hello(attacker).clean();
    let mut other = {
        let other_again = door.connect(&clean).await;
        assert_eq!(other.closed().await, Some(ReasonCode::SESSION_TAKEN_OVER));
        other_again
    };
    other.nothing().await;

    let mut first = door.connect(&hello(victim)).await;
    assert!(first.present, "its session outlived the other's clean start");
    assert_eq!(first.payload().await, "queued");
    other.ping().await;
    witness.nothing().await;
}

async fn each_filter_of_a_mixed_subscribe_has_its_own_answer(mode: Mode) {
    let stack = Stack::mqtt_in(mode).start().await;
    let mut witness = stack.witness("globex").await;
    let mut client = stack.member("acme", "mixed").await;
    let options = SubscriptionOptions::of_qos;
    let codes = client
        .subscribe_with(
            &[
                ("device-connect/acme/a", options(QoS::AtMostOnce)),
                ("device-connect/globex/#", options(QoS::AtLeastOnce)),
                ("device-connect/acme/b", options(QoS::AtLeastOnce)),
                ("a#", options(QoS::AtMostOnce)),
                ("device-connect/acme/c", options(QoS::ExactlyOnce)),
                ("$share/g/#", options(QoS::AtLeastOnce)),
            ],
            &[],
        )
        .await;
    assert_eq!(codes.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 0x87, 1, 0x8f, 2, 0x87]);
    witness.published("device-connect/globex/a", "secret").await;
    assert_eq!(witness.payload().await, "secret");
    for topic in ["device-connect/acme/a", "device-connect/acme/b", "device-connect/acme/c"] {
        client.published(topic, "own").await;
        assert_eq!(client.message().await.topic, topic);
    }
    // What is not there cannot be ended, and another's is not there.
    let codes = client
        .unsubscribe(&["device-connect/globex/#", "never", "device-connect/acme/b", "a#"])
        .await;
    assert_eq!(codes.iter().map(|c| c.0).collect::<Vec<_>>(), [0x11, 0x11, 0, 0x8f]);
    witness.published("device-connect/globex/a", "secret").await;
    assert_eq!(witness.payload().await, "secret", "its subscription lives");
    client.published("device-connect/acme/b", "unheard").await;
    client.nothing().await;
}

async fn with_a_mount_clients_name_nothing_outside_their_tenant(mode: Mode) {
    let stack = Stack::mqtt_in(mode).mqtt("mount = \"device-connect/{tenant}\"").start().await;
    let mut globex = stack.member("globex", "witness").await;
    globex.subscribed("#").await;
    globex.subscribed("$share/g/#").await;
    let mut acme = stack.member("acme", "attacker").await;
    acme.subscribed("#").await;
    for topic in [
        "cam-1/event/motion",
        "device-connect/globex/cam-1/event/motion",
        "../globex/cam-1",
        "$SYS/x",
        "device-connect/{tenant}/x",
    ] {
        let response = [Property::ResponseTopic("device-connect/globex/cmd")];
        let told = acme.publish_with(topic, "own", QoS::AtLeastOnce, false, &response).await;
        assert_eq!(told, ReasonCode::SUCCESS, "{topic} is a name of its own");
        let heard = acme.message().await;
        assert_eq!(heard.topic, topic, "as it was said");
    }
    assert_eq!(acme.publish1("/device-connect/globex/x", "").await.0, 0x90);
    assert_eq!(acme.retain("kept", "own").await, ReasonCode::SUCCESS);
    assert_eq!(acme.payload().await, "own");
    let hello = stack.hello("heir", &Token::role("acme", "member")).will("gone", "will");
    stack.tcp().connect(&hello).await.vanish();
    assert_eq!(acme.message().await.topic, "gone");
    globex.nothing().await;
    let mut late = stack.member("globex", "late").await;
    late.subscribed("kept").await;
    late.subscribed("#").await;
    late.nothing().await;
    let mut late = stack.member("acme", "late").await;
    late.subscribed("+").await;
    assert_eq!(late.message().await.topic, "kept");
}

bulkhead_tests::in_both_modes! {
    tenants_are_apart_over_tcp_in_version_3,
    tenants_are_apart_over_tcp_in_version_5,
    tenants_are_apart_over_tls_in_version_3,
    tenants_are_apart_over_tls_in_version_5,
    tenants_are_apart_over_websocket_in_version_3,
    tenants_are_apart_over_websocket_in_version_5,
    tenants_are_apart_over_websocket_and_tls_in_version_3,
    tenants_are_apart_over_websocket_and_tls_in_version_5,
    no_filter_reaches_beyond_the_tenant,
    no_topic_reaches_beyond_the_tenant,
    the_longest_and_the_deepest_names_are_decided_about_like_others,
    a_device_is_confined_within_its_tenant_too,
    the_same_topic_in_two_tenants_is_two_topics,
    retained_messages_are_neither_read_nor_changed_from_another_tenant,
    a_will_stays_within_the_tenant,
    a_response_topic_does_not_point_into_another_tenant,
    who_a_client_says_it_is_changes_nothing,
    the_same_client_id_in_two_tenants_is_two_clients,
    the_same_client_id_at_two_devices_of_a_tenant_is_two_clients,
    each_filter_of_a_mixed_subscribe_has_its_own_answer,
    with_a_mount_clients_name_nothing_outside_their_tenant,
}
