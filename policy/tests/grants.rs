//! What the built-in roles allow, and above all what they do not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_policy::{
    Broker, DenyReason, DeviceId, Grants, KeyExpr, Principal, Role, RoleName, Scope, TenantId,
};

fn principal(tenant: &str, device: Option<&str>) -> Principal {
    Principal {
        scope: Scope::Tenant(TenantId::parse(tenant).unwrap()),
        device: device.map(|d| DeviceId::parse(d).unwrap()),
        role: RoleName::parse("device").unwrap(),
        issuer: "corp".into(),
        token_id: None,
        origin: None,
        issued_at: None,
        expires_at: jiff::Timestamp::MAX,
    }
}

fn grants(role: &str, broker: Broker) -> Grants {
    let roles = Role::built_in().unwrap();
    Grants::compile(&roles[role], broker, &principal("acme", Some("cam-1"))).unwrap()
}

fn may_publish(grants: &Grants, topic: &str) -> bool {
    grants.publish(&Broker::Mqtt.name(topic).unwrap()).is_ok()
}

fn may_subscribe(grants: &Grants, filter: &str) -> bool {
    grants.subscribe(&Broker::Mqtt.filter(filter).unwrap()).is_ok()
}

#[test]
fn a_device_does_what_a_device_does() {
    let device = grants("device", Broker::Mqtt);
    for topic in [
        "device-connect/acme/cam-1/heartbeat",
        "device-connect/acme/cam-1/event/motion",
        "device-connect/acme/cam-1/event/async_reply/77",
        "device-connect/acme/cam-2/cmd",
        "device-connect/acme/registry",
        "device-connect/acme/discovery",
        "_reply/0123456789abcdef0123456789abcdef",
    ] {
        assert!(may_publish(&device, topic), "{topic}");
    }
    for filter in [
        "device-connect/acme/cam-1/cmd",
        "device-connect/acme/+/event/#",
        "device-connect/acme/cam-2/event/motion",
        "device-connect/acme/device/online",
        "device-connect/acme/broadcast",
        "_reply/0123456789abcdef0123456789abcdef",
    ] {
        assert!(may_subscribe(&device, filter), "{filter}");
    }
}

#[test]
fn a_device_does_nothing_else() {
    let device = grants("device", Broker::Mqtt);
    for topic in [
        "device-connect/acme/cam-2/heartbeat",
        "device-connect/acme/cam-2/event/motion",
        "device-connect/acme/device/online",
        "device-connect/acme/device/offline",
        "device-connect/acme/broadcast",
        "device-connect/globex/cam-1/event/motion",
        "device-connect/acme-2/cam-1/heartbeat",
        "device-connect/Acme/cam-1/heartbeat",
        "$SYS/broker/uptime",
    ] {
        assert!(!may_publish(&device, topic), "{topic}");
    }
    for filter in [
        "#",
        "+/#",
        "device-connect/#",
        "device-connect/+/cam-1/cmd",
        "device-connect/acme/#",
        "device-connect/acme/+/cmd",
        "device-connect/acme/cam-2/cmd",
        "device-connect/acme/+/heartbeat",
        "device-connect/globex/+/event/#",
        "_reply/#",
        "_reply/+",
        "$SYS/#",
    ] {
        assert!(!may_subscribe(&device, filter), "{filter}");
    }
}

#[test]
fn a_member_stays_inside_its_tenant_and_a_viewer_only_looks() {
    let member = grants("member", Broker::Mqtt);
    assert!(may_publish(&member, "device-connect/acme/device/online"));
    assert!(may_subscribe(&member, "device-connect/acme/#"));
    assert!(!may_subscribe(&member, "device-connect/+/registry"));
    assert!(!may_publish(&member, "device-connect/globex/registry"));
    let viewer = grants("viewer", Broker::Mqtt);
    assert!(may_subscribe(&viewer, "device-connect/acme/#"));
    assert!(!may_publish(&viewer, "device-connect/acme/registry"));
}

#[test]
fn a_device_role_needs_a_device() {
    let roles = Role::built_in().unwrap();
    let nobody = principal("acme", None);
    assert_eq!(
        Grants::compile(&roles["device"], Broker::Nats, &nobody),
        Err(DenyReason::DeviceRequired)
    );
    assert!(Grants::compile(&roles["viewer"], Broker::Nats, &nobody).is_ok());
}

#[test]
fn a_denial_wins_by_overlap_and_again_on_delivery() {
    let role: Role = toml::from_str(
        r#"
        subscribe = ["plant/{tenant}/**"]
        deny_subscribe = ["plant/{tenant}/secret/**"]
        publish = ["plant/{tenant}/**"]
        deny_publish = ["plant/{tenant}/*/locked"]
        "#,
    )
    .unwrap();
    let grants = Grants::compile(&role, Broker::Mqtt, &principal("acme", None)).unwrap();
    assert!(may_subscribe(&grants, "plant/acme/line/#"));
    assert!(!may_subscribe(&grants, "plant/acme/#"), "it overlaps what is denied");
    assert!(!may_subscribe(&grants, "plant/acme/+/x"));
    assert!(grants.receives(&Broker::Mqtt.name("plant/acme/line/1").unwrap()));
    assert!(!grants.receives(&Broker::Mqtt.name("plant/acme/secret/1").unwrap()));
    assert!(may_publish(&grants, "plant/acme/door/open"));
    assert!(!may_publish(&grants, "plant/acme/door/locked"));
}

#[test]
fn only_services_see_the_gate_and_only_where_they_know_the_router() {
    let roles = Role::built_in().unwrap();
    let status = KeyExpr::parse("@/a1/router/status/plugins/bulkhead/**").unwrap();
    for (name, role) in &roles {
        let mut principal = principal("acme", Some("cam-1"));
        let service = name.as_str() == "service";
        if service {
            principal.scope = Scope::Service;
        }
        let grants = Grants::compile(role, Broker::Zenoh, &principal).unwrap();
        assert_eq!(grants.subscribe_keys(&status).is_ok(), service, "{name}");
        assert!(grants.publish_keys(&status).is_err(), "{name}");
        for other in ["@/*/router/status/plugins/bulkhead/**", "@/a1/router/**", "@/**"] {
            let other = KeyExpr::parse(other).unwrap();
            assert!(grants.subscribe_keys(&other).is_err(), "{name} {other}");
        }
        // What a client asks for when it asks for everything.
        let all = if service { "device-connect/**" } else { "device-connect/acme/**" };
        assert_eq!(grants.common_keys().as_deref(), Some(all), "{name}");
    }
}
