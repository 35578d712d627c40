//! The registry, over a real nats-server and in a real etcd.
//!
//! ```text
//! Load, one connection ──▶ nats-server ──▶ registry, a process of its own ──▶ etcd
//!                                          or Device Connect's own, as the peer
//! ```

mod beats;
mod etcd;
mod fleet;
mod load;
mod original;
mod register;
mod revisions;
mod site;
mod sizes;

use crate::case::{Case, Goal};
use crate::session::Session;
use tokio::runtime::Runtime;

const REGISTER: Case =
    Case { name: "registry.register", unit: "us_cpu", goal: Some(Goal::ValueAtMost(400.0)) };
const BEAT_UNCHANGED: Case =
    Case { name: "registry.beat_unchanged", unit: "us_cpu", goal: Some(Goal::ValueAtMost(20.0)) };
const BEAT_CHANGED: Case =
    Case { name: "registry.beat_changed", unit: "us_cpu", goal: Some(Goal::ValueAtMost(100.0)) };
const ETCD_PER_BEAT: Case =
    Case { name: "registry.etcd_per_beat", unit: "requests", goal: Some(Goal::ValueAtMost(0.01)) };
const PAGE200: Case =
    Case { name: "registry.page200", unit: "ms", goal: Some(Goal::ValueAtMost(5.0)) };
const FLEET_100K: Case =
    Case { name: "registry.fleet_100k", unit: "offlines", goal: Some(Goal::ValueAtMost(0.0)) };
const BYTES_PER_DEVICE: Case = Case {
    name: "registry.bytes_per_device",
    unit: "bytes",
    goal: Some(Goal::ValueAtMost(4096.0)),
};

const REVISIONS_PER_BEAT: Case = one("registry.revisions_per_beat", "revisions");

/// The fleets of the cases below, which have a case for each.
const SIZES: [usize; 3] = [1_000, 10_500, 100_000];
const LIST: [Case; 3] = [
    one("registry.list.1000", "ms"),
    one("registry.list.10500", "ms"),
    one("registry.list.100000", "ms"),
];
const PAGE: [Case; 3] = [
    one("registry.page.1000", "ms"),
    one("registry.page.10500", "ms"),
    one("registry.page.100000", "ms"),
];
const GET: [Case; 3] = [
    one("registry.get.1000", "ms"),
    one("registry.get.10500", "ms"),
    one("registry.get.100000", "ms"),
];
const DESCRIBE: [Case; 3] = [
    one("registry.describe.1000", "ms"),
    one("registry.describe.10500", "ms"),
    one("registry.describe.100000", "ms"),
];

const fn one(name: &'static str, unit: &'static str) -> Case {
    Case { name, unit, goal: None }
}

/// The cases of this group.
pub const CASES: &[Case] = &[
    REGISTER,
    BEAT_UNCHANGED,
    BEAT_CHANGED,
    REVISIONS_PER_BEAT,
    ETCD_PER_BEAT,
    PAGE200,
    LIST[0],
    LIST[1],
    LIST[2],
    PAGE[0],
    PAGE[1],
    PAGE[2],
    GET[0],
    GET[1],
    GET[2],
    DESCRIBE[0],
    DESCRIBE[1],
    DESCRIBE[2],
    FLEET_100K,
    BYTES_PER_DEVICE,
];

/// Measures the cases that are wanted.
pub fn run(session: &mut Session) {
    let runtime = Runtime::new().unwrap();
    if session.wants(REGISTER.name) {
        register::run(session, &runtime);
    }
    if session.wants_any([BEAT_UNCHANGED.name, BEAT_CHANGED.name, ETCD_PER_BEAT.name, PAGE200.name])
    {
        beats::run(session, &runtime);
    }
    if session.wants(REVISIONS_PER_BEAT.name) {
        revisions::run(session, &runtime);
    }
    sizes::run(session, &runtime);
    if session.wants_any([FLEET_100K.name, BYTES_PER_DEVICE.name]) {
        fleet::run(session, &runtime);
    }
}
