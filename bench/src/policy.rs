//! The decision core: what compiling and asking a device's grants costs. CPU time of one thread, on
//! MQTT, where every single publication is asked about.

use crate::case::{Case, Goal};
use crate::cpu;
use crate::report::Measured;
use crate::session::Session;
use crate::stats::median;
use bulkhead_policy::{Broker, DeviceId, Grants, Principal, Role, RoleName, Scope, TenantId};
use std::hint::black_box;

const CHECK: Case = Case { name: "policy.check", unit: "ns", goal: Some(Goal::ValueAtMost(100.0)) };
const COMPILE: Case =
    Case { name: "policy.compile", unit: "µs", goal: Some(Goal::ValueAtMost(5.0)) };

/// The cases of this group.
pub const CASES: &[Case] = &[CHECK, COMPILE];

/// Names that a device publishes to, and one that it may not, each with what its time is called.
const NAMES: [(&str, &str, bool); 4] = [
    ("own_event_ns", "device-connect/acme/cam-1/event/motion", true),
    ("other_cmd_ns", "device-connect/acme/cam-2/cmd", true),
    ("registry_ns", "device-connect/acme/registry", true),
    ("foreign_ns", "device-connect/globex/cam-1/event/motion", false),
];

/// Measures the cases that are wanted.
pub fn run(session: &mut Session) {
    let (runs, calls) = session.effort().choose((15, 400_000), (3, 50_000));
    let roles = Role::built_in().unwrap();
    let role = &roles["device"];
    let principal = device();
    if session.wants(CHECK.name) {
        check(session, &Grants::compile(role, Broker::Mqtt, &principal).unwrap(), runs, calls);
    }
    if session.wants(COMPILE.name) {
        let values = (0..runs)
            .map(|_| {
                1e6 * seconds_per_call(calls / 20, || {
                    Grants::compile(black_box(role), Broker::Mqtt, black_box(&principal))
                })
            })
            .collect();
        session.record(Measured::new(COMPILE, values));
    }
}

/// The value is the mean over the names of one repetition; each name's median is a detail.
fn check(session: &mut Session, grants: &Grants, runs: usize, calls: u32) {
    let mut means = Vec::new();
    let mut by_name = [(); NAMES.len()].map(|()| Vec::new());
    for _ in 0..runs {
        let mut sum = 0.0;
        for ((_, name, allowed), values) in NAMES.iter().zip(&mut by_name) {
            let ask = || Broker::Mqtt.name(black_box(name)).map(|name| grants.publish(&name));
            assert_eq!(ask().is_ok_and(|verdict| verdict.is_ok()), *allowed, "{name}");
            let value = 1e9 * seconds_per_call(calls, ask);
            values.push(value);
            sum += value;
        }
        means.push(sum / f64::from(u32::try_from(NAMES.len()).unwrap()));
    }
    let measured = NAMES
        .iter()
        .zip(&by_name)
        .fold(Measured::new(CHECK, means), |m, ((detail, ..), values)| {
            m.detail(detail, median(values))
        });
    session.record(measured);
}

fn seconds_per_call<T>(calls: u32, mut call: impl FnMut() -> T) -> f64 {
    let started = cpu::of_thread();
    for _ in 0..calls {
        black_box(call());
    }
    (cpu::of_thread() - started) / f64::from(calls)
}

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
