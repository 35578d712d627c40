//! What a decision costs: compiling a connection's grants, and checking one name against them.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark stops at a surprise"
)]

use bulkhead_policy::{Broker, DeviceId, Grants, Principal, Role, RoleName, Scope, TenantId};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;

fn device() -> Principal {
    Principal {
        scope: Scope::Tenant(TenantId::parse("acme").unwrap()),
        device: Some(DeviceId::parse("cam-1").unwrap()),
        role: RoleName::parse("device").unwrap(),
        issuer: "corp".into(),
        token_id: None,
        origin: None,
        issued_at: None,
        expires_at: jiff::Timestamp::MAX,
    }
}

fn grants(c: &mut Criterion) {
    let principal = device();
    let roles = Role::built_in().unwrap();
    let role = &roles["device"];
    c.bench_function("policy.compile", |b| {
        b.iter(|| Grants::compile(black_box(role), Broker::Mqtt, black_box(&principal)));
    });

    let grants = Grants::compile(role, Broker::Mqtt, &principal).unwrap();
    let cases = [
        ("own", "device-connect/acme/cam-1/event/motion"),
        ("other_cmd", "device-connect/acme/cam-2/cmd"),
        ("foreign", "device-connect/globex/cam-1/event/motion"),
    ];
    for (case, topic) in cases {
        c.bench_function(&format!("policy.check/{case}"), |b| {
            b.iter(|| Broker::Mqtt.name(black_box(topic)).map(|name| grants.publish(&name)));
        });
    }
}

criterion_group!(benches, grants);
criterion_main!(benches);
