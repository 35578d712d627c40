//! What a session costs in memory that does nothing.

use super::brokers::{Mosquitto, Target};
use super::crowd;
use super::site::Site;
use super::wire;
use crate::case::{Case, Goal};
use crate::memory;
use crate::report::Measured;
use crate::session::Session;
use bulkhead_mqtt_broker::codec::QoS;
use bulkhead_policy::TenantId;
use std::time::Duration;

/// The case.
pub const CASE: Case =
    Case { name: "mqtt.idle_session", unit: "KB", goal: Some(Goal::ValueAtMost(12.0)) };

/// Sessions, if the system lets them be.
const SESSIONS: usize = 20_000;

/// Files that are open beside connections, here or in a broker.
const OTHER_FILES: u64 = 100;

/// Connections made before anything is measured, so that what is made once is there.
const FIRST: usize = 100;

/// How long everything has to come to rest.
const REST: Duration = Duration::from_millis(500);

/// Bytes of a kilobyte.
const KB: f64 = 1024.0;

/// Measures the case if it is wanted.
pub fn run(session: &mut Session, file_limit: Option<u64>) {
    if !session.wants(CASE.name) {
        return;
    }
    session.note(CASE.name);
    let allowed = file_limit.map_or(SESSIONS, |limit| {
        usize::try_from(limit.saturating_sub(OTHER_FILES)).unwrap().saturating_sub(FIRST)
    });
    let sessions = session.effort().choose(SESSIONS, 2_000).min(allowed);
    let tenant = TenantId::parse("acme").unwrap();
    let (ours, subscribed) = {
        let site = Site::start(std::slice::from_ref(&tenant));
        measure(Target::of_site(&site), &tenant, sessions)
    };
    let folder = tempfile::tempdir().unwrap();
    let mosquitto = Mosquitto::open(folder.path());
    let (peer, peer_subscribed) = measure(mosquitto.target(), &tenant, sessions);
    session.record(
        Measured::new(CASE, vec![ours])
            .against("mosquitto", vec![peer])
            .detail("sessions", sessions as f64)
            .detail("subscribed_kb", subscribed)
            .detail("peer_subscribed_kb", peer_subscribed),
    );
}

/// Memory of a session, and of one that has subscribed to its commands.
fn measure(target: Target<'_>, tenant: &TenantId, sessions: usize) -> (f64, f64) {
    let names = |from: usize, count: usize| -> Vec<String> {
        (from..from + count).map(|i| format!("cam-{i}")).collect()
    };
    let resident = || {
        std::thread::sleep(REST);
        memory::resident(target.pid)
    };
    let _first = crowd::connect(target, tenant, &names(0, FIRST));
    let before = resident();
    let clients = names(FIRST, sessions);
    let mut crowd = crowd::connect(target, tenant, &clients);
    let connected = resident();
    for (stream, client) in crowd.iter_mut().zip(&clients) {
        wire::subscribe(stream, &format!("device-connect/{tenant}/{client}/cmd"), QoS::AtLeastOnce);
    }
    let subscribed = resident();
    let each = |after: f64| (after - before) / KB / sessions as f64;
    (each(connected), each(subscribed))
}
