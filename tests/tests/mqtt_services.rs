//! Platform services, which work for all tenants at the MQTT broker.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_tests::mqtt::codec::{Property, QoS, ReasonCode, Version};
use bulkhead_tests::mqtt::{Client, Door, Hello, Message, Mode, SERVICE_ISSUER};
use bulkhead_tests::{Stack, Token, eventually};
use serde_json::json;

const TAKEN: ReasonCode = ReasonCode::SUCCESS;
const DENIED: ReasonCode = ReasonCode::NOT_AUTHORIZED;

async fn start(mode: Mode) -> Stack {
    Stack::mqtt_in(mode).config(SERVICE_ISSUER).start().await
}

/// Before another broker, with this before every name there.
async fn start_below(prefix: &str) -> Stack {
    let stack = Stack::mqtt_in(Mode::Upstream).upstream_prefix(prefix);
    stack.config(SERVICE_ISSUER).start().await
}

async fn service(stack: &Stack, client_id: &str) -> Client {
    stack.tcp().connect(&stack.hello(client_id, &stack.service_token())).await
}

async fn a_service_hears_all_tenants_and_speaks_to_one_at_a_time(mode: Mode) {
    let told = if mode.is_embedded() { DENIED } else { ReasonCode::TOPIC_NAME_INVALID };
    hears_all_tenants_and_speaks_to_one_at_a_time(start(mode).await, told).await;
}

async fn hears_all_tenants_and_speaks_to_one_at_a_time(stack: Stack, told: ReasonCode) {
    let (mut acme, mut globex) = (stack.witness("acme").await, stack.witness("globex").await);
    let mut service = service(&stack, "registry").await;
    service.subscribed("device-connect/+/registry").await;
    service.subscribed("$share/g/device-connect/+/discovery").await;
    for (client, tenant) in [(&mut acme, "acme"), (&mut globex, "globex")] {
        for name in ["registry", "discovery"] {
            let topic = format!("device-connect/{tenant}/{name}");
            client.published(&topic, "register").await;
            assert_eq!(service.message().await.topic, topic);
            assert_eq!(client.message().await.topic, topic);
        }
    }
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let topic = "device-connect/acme/cam-1/cmd";
        assert_eq!(service.publish_with(topic, "do", qos, false, &[]).await, TAKEN);
        let heard = acme.message().await;
        assert_eq!((heard.topic.as_str(), heard.payload.as_str()), (topic, "do"));
    }
    globex.nothing().await;
    acme.nothing().await;
    // All tenants is not everything.
    for filter in ["#", "+/#", "$SYS/#", "device-connect/#", "_reply/#", "$share/g/#"] {
        assert_eq!(service.subscribe(filter).await, DENIED, "{filter}");
    }
    for topic in ["device-connect", "elsewhere/acme/x"] {
        assert_eq!(service.publish1(topic, "attack").await, DENIED, "{topic}");
    }
    assert_eq!(service.publish1("$SYS/x", "attack").await, told);
    stack.denied("subscribe_denied").await;
    stack.denied("publish_denied").await;
}

async fn what_bounds_a_tenant_does_not_bound_a_service(mode: Mode) {
    let quotas = "[quotas]\nmessages_per_second = 2\npayload_bytes = 4";
    let stack = Stack::mqtt_in(mode).config(SERVICE_ISSUER).config(quotas).start().await;
    let mut service = service(&stack, "registry").await;
    for _ in 0..20 {
        let topic = "device-connect/acme/device/online";
        assert_eq!(service.publish1(topic, "longer than four bytes").await, TAKEN);
    }
    let mut acme = stack.member("acme", "member").await;
    let told = acme.publish1("device-connect/acme/x", "longer than four bytes").await;
    assert_eq!(told, ReasonCode::QUOTA_EXCEEDED);
}

/// Names that carry no tenant: a service says the tenant before them.
async fn a_service_answers_into_the_tenant_that_it_names(mode: Mode) {
    answers_into_the_tenant_that_it_names(start(mode).await).await;
}

async fn answers_into_the_tenant_that_it_names(stack: Stack) {
    let mut service = service(&stack, "registry").await;
    let (mut acme, mut globex) =
        (stack.member("acme", "asks").await, stack.member("globex", "listens").await);
    let reply = "_reply/0f0e0d0c0b0a09080706050403020100";
    acme.subscribed(reply).await;
    globex.subscribed(reply).await;
    assert_eq!(service.publish1(&format!("$tenant/acme/{reply}"), "answer").await, TAKEN);
    let heard = acme.message().await;
    assert_eq!((heard.topic.as_str(), heard.payload.as_str()), (reply, "answer"));
    globex.nothing().await;
    // What is no grant stays none, and a tenant is not named twice.
    for topic in [
        "$tenant/acme/elsewhere/x",
        "$tenant/acme/device-connect/globex/x",
        "$tenant/acme/$tenant/globex/_reply/a",
        "$tenant/acme",
        "$tenant//_reply/a",
        "$tenant/-/_reply/a",
    ] {
        let told = service.publish1(topic, "attack").await;
        assert!(told.is_error(), "{topic}: {told:?}");
    }
    // It is a service's way of saying it, and nobody else's.
    for topic in [format!("$tenant/globex/{reply}"), format!("$tenant/acme/{reply}")] {
        let told = acme.publish1(&topic, "attack").await;
        assert!(told.is_error(), "{topic}: {told:?}");
    }
    globex.nothing().await;
    acme.nothing().await;
}

/// Who published, as a service is told.
fn publisher(message: &Message) -> Vec<String> {
    let all = message.properties.get();
    let own = all.user_properties().filter(|(name, _)| *name == "bulkhead-publisher");
    own.map(|(_, value)| value.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_told_who_publishes_and_by_the_broker_alone() {
    let stack = start(Mode::Embedded).await;
    let mut service = service(&stack, "registry").await;
    service.subscribed("device-connect/+/registry").await;
    let hello = stack.hello("cam", &Token::device("acme", "cam-1"));
    let mut cam = stack.tcp().connect(&hello).await;
    let topic = "device-connect/acme/registry";
    let forged = [
        Property::UserProperty("own", "kept"),
        Property::UserProperty("bulkhead-publisher", "acme/cam-2/device"),
    ];
    cam.publish_with(topic, "x", QoS::AtLeastOnce, false, &forged).await;
    let heard = service.message().await;
    assert_eq!(publisher(&heard), ["acme/cam-1/device"]);
    let all = heard.properties.get();
    assert!(all.user_properties().any(|own| own == ("own", "kept")), "other properties stay");
    // The tenant's own clients hear what was said.
    let mut member = stack.member("acme", "member").await;
    member.subscribed(topic).await;
    cam.publish_with(topic, "x", QoS::AtLeastOnce, true, &forged).await;
    assert_eq!(publisher(&member.message().await), ["acme/cam-2/device"]);
    assert_eq!(publisher(&service.message().await), ["acme/cam-1/device"]);
    // Of what was retained nobody knows who it was.
    let mut late = self::service(&stack, "late").await;
    late.subscribed("device-connect/acme/registry").await;
    assert_eq!(publisher(&late.message().await), [""; 0]);
}

async fn nobody_becomes_a_service_by_a_claim(mode: Mode) {
    let stack = start(mode).await;
    for token in [
        Token::role("acme", "service"),
        Token::role("acme", "service").with(json!({"tenant": null})),
        Token::role("acme", "service").with(json!({"iss": "https://platform.test"})),
        Token::role("acme", "member").with(json!({"iss": "https://platform.test"})),
    ] {
        for version in [Version::V311, Version::V5] {
            let hello = stack.hello("attacker", &token).version(version);
            assert_eq!(stack.tcp().refuse(&hello).await, DENIED, "{token:?}");
        }
    }
    stack.denied("role_not_allowed").await;
    stack.denied("tenant_not_allowed").await;
    service(&stack, "own").await.subscribed("device-connect/+/registry").await;
}

async fn a_client_id_of_a_service_is_no_tenants(mode: Mode) {
    let stack = start(mode).await;
    let mut service = service(&stack, "one-id").await;
    let mut member = stack.member("acme", "one-id").await;
    service.ping().await;
    member.subscribed("device-connect/acme/#").await;
    service.published("device-connect/acme/x", "own").await;
    assert_eq!(member.payload().await, "own");
}

/// Waits until one message is retained. Those of another broker are not counted here.
async fn one_is_kept(mode: Mode, stack: &Stack) {
    if mode.is_embedded() {
        eventually("one is kept", || stack.metric("bulkhead_mqtt_retained_messages") == 1).await;
    }
}

async fn what_a_service_has_retained_is_kept_once_and_with_its_tenant(mode: Mode) {
    is_kept_once_and_with_its_tenant(mode, start(mode).await).await;
}

async fn is_kept_once_and_with_its_tenant(mode: Mode, stack: Stack) {
    let (mut acme, mut globex) = (stack.witness("acme").await, stack.witness("globex").await);
    let mut service = service(&stack, "registry").await;
    let topic = "device-connect/acme/cam-1/state";
    assert_eq!(globex.retain("device-connect/globex/cam-1/state", "theirs").await, TAKEN);
    assert_eq!(globex.payload().await, "theirs");
    assert_eq!(service.retain(topic, "kept").await, TAKEN);
    assert_eq!(acme.payload().await, "kept");
    globex.nothing().await;
    for (tenant, expected) in [("acme", "kept"), ("globex", "theirs")] {
        let mut late = stack.member(tenant, "late").await;
        late.subscribed(&format!("device-connect/{tenant}/#")).await;
        assert_eq!(late.payload().await, expected);
        late.nothing().await;
    }
    service.subscribed("device-connect/+/cam-1/state").await;
    let mut kept = [service.payload().await, service.payload().await];
    kept.sort();
    assert_eq!(kept, ["kept", "theirs"]);
    service.nothing().await;
    // What the tenant removes is gone for the service too.
    assert_eq!(acme.retain(topic, "").await, TAKEN);
    assert_eq!(service.payload().await, "");
    let mut late = self::service(&stack, "late").await;
    late.subscribed("device-connect/acme/cam-1/state").await;
    late.nothing().await;
    one_is_kept(mode, &stack).await;
}

async fn what_a_service_has_retained_waits_for_a_tenant_that_was_not_there_yet(mode: Mode) {
    let stack = start(mode).await;
    let mut service = service(&stack, "registry").await;
    assert_eq!(service.retain("device-connect/acme/cam-1/state", "kept").await, TAKEN);
    let mut late = stack.member("acme", "late").await;
    late.subscribed("device-connect/acme/#").await;
    assert_eq!(late.payload().await, "kept");
}

async fn a_name_that_holds_tenants_more_than_once_reaches_the_first_once(mode: Mode) {
    let stack = start(mode).await;
    let (mut acme, mut globex) = (stack.witness("acme").await, stack.witness("globex").await);
    let mut service = service(&stack, "registry").await;
    for topic in ["device-connect/acme/cam-1/event/acme", "device-connect/acme/globex/event/acme"] {
        service.published(topic, "once").await;
        assert_eq!(acme.message().await.topic, topic);
        acme.nothing().await;
    }
    globex.nothing().await;
}

async fn what_is_retained_for_a_device_called_like_another_tenant_is_not_kept_with_that(
    mode: Mode,
) {
    let stack = start(mode).await;
    let (mut acme, mut globex) = (stack.witness("acme").await, stack.witness("globex").await);
    let mut service = service(&stack, "registry").await;
    let topic = "device-connect/acme/globex/cmd";
    assert_eq!(service.retain(topic, "kept").await, TAKEN);
    assert_eq!(acme.message().await.topic, topic);
    acme.nothing().await;
    globex.nothing().await;
    one_is_kept(mode, &stack).await;
    for (tenant, expected) in [("acme", Some("kept")), ("globex", None)] {
        let mut late = stack.member(tenant, "late").await;
        late.subscribed(&format!("device-connect/{tenant}/#")).await;
        if let Some(expected) = expected {
            assert_eq!(late.payload().await, expected);
        }
        late.nothing().await;
    }
}

async fn a_message_of_a_service_waits_for_a_session_that_is_away(mode: Mode) {
    let stack = start(mode).await;
    let hello = stack.hello("cam-1", &Token::device("acme", "cam-1")).resume(600);
    let mut device = stack.tcp().connect(&hello).await;
    device.subscribed("device-connect/acme/cam-1/cmd").await;
    device.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    let mut service = service(&stack, "registry").await;
    service.published("device-connect/acme/cam-1/cmd", "queued").await;
    let mut device = stack.tcp().connect(&hello).await;
    assert_eq!(device.payload().await, "queued");
}

/// What stands before names on another broker is nothing that a service has to know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_another_broker_with_a_prefix_a_service_says_and_hears_the_same() {
    for prefix in ["{tenant}/", "sites/{tenant}/x/", "sites/"] {
        hears_all_tenants_and_speaks_to_one_at_a_time(start_below(prefix).await, DENIED).await;
        answers_into_the_tenant_that_it_names(start_below(prefix).await).await;
        is_kept_once_and_with_its_tenant(Mode::Upstream, start_below(prefix).await).await;
    }
}

/// A name that carries no tenant is heard from all of them, by whoever knows it.
async fn a_service_hears_replies_of_all_tenants(mode: Mode) {
    for prefix in ["", "{tenant}/"] {
        let stack = Stack::mqtt_in(mode).upstream_prefix(prefix).config(SERVICE_ISSUER);
        let stack = stack.start().await;
        let mut service = service(&stack, "registry").await;
        let reply = "_reply/0f0e0d0c0b0a09080706050403020100";
        service.subscribed(reply).await;
        for tenant in ["acme", "globex"] {
            let mut member = stack.member(tenant, "says").await;
            member.published(reply, tenant).await;
            let heard = service.message().await;
            assert_eq!((heard.topic.as_str(), heard.payload.as_str()), (reply, tenant));
        }
    }
}

/// Whoever is connected to the broker behind and may speak in one tenant's place there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_hears_nothing_in_anothers_name_from_a_tenants_place() {
    let mut stack = start_below("{tenant}/").await;
    let mut service = service(&stack, "registry").await;
    service.subscribed("device-connect/+/cam-1/+").await;
    let behind = Door { address: stack.mosquitto().address(), ..stack.tcp() };
    let mut attacker = behind.connect(&Hello::new("attacker", "").without_password()).await;
    attacker.published("acme/device-connect/globex/cam-1/acme", "forged").await;
    let reply = [Property::ResponseTopic("acme/device-connect/globex/cam-1/acme")];
    let topic = "acme/device-connect/acme/cam-1/acme";
    assert_eq!(attacker.publish_with(topic, "own", QoS::AtLeastOnce, false, &reply).await, TAKEN);
    let heard = service.message().await;
    assert_eq!((&*heard.topic, &*heard.payload), ("device-connect/acme/cam-1/acme", "own"));
    assert_eq!(heard.properties.get().response_topic(), None, "nor would an answer go there");
    let mut member = stack.member("globex", "own").await;
    member.published("device-connect/globex/cam-1/acme", "own").await;
    assert_eq!(service.message().await.payload, "own");
    service.nothing().await;
}

bulkhead_tests::in_both_modes! {
    a_service_hears_replies_of_all_tenants,
    a_service_hears_all_tenants_and_speaks_to_one_at_a_time,
    a_service_answers_into_the_tenant_that_it_names,
    what_bounds_a_tenant_does_not_bound_a_service,
    nobody_becomes_a_service_by_a_claim,
    a_client_id_of_a_service_is_no_tenants,
    what_a_service_has_retained_is_kept_once_and_with_its_tenant,
    what_a_service_has_retained_waits_for_a_tenant_that_was_not_there_yet,
    a_name_that_holds_tenants_more_than_once_reaches_the_first_once,
    what_is_retained_for_a_device_called_like_another_tenant_is_not_kept_with_that,
    a_message_of_a_service_waits_for_a_session_that_is_away,
}
