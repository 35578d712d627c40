//! A thousand tenants at once, each with a publisher and those who hear it.

use super::brokers::Target;
use super::crowd;
use super::load::{Load, events};
use super::publisher::{Free, Publisher};
use super::site::Site;
use super::subscribers::Subscribers;
use super::wire;
use crate::case::Case;
use crate::memory;
use crate::report::Measured;
use crate::session::Session;
use crate::stats::median;
use bulkhead_mqtt_broker::codec::QoS;
use bulkhead_policy::TenantId;
use std::time::Duration;

/// The case.
pub const CASE: Case = Case { name: "mqtt.tenants", unit: "1/s", goal: None };

/// Clients of a tenant that receive; one more publishes.
const SUBSCRIBERS: usize = 9;

/// Threads that publish, each for its share of the tenants in turn.
const THREADS: usize = 4;

/// Messages that a publisher sends before it is the next tenant's turn.
const AT_A_TIME: usize = 10;

/// Bytes of a message.
const PAYLOAD: usize = 100;

/// Bytes of a megabyte.
const MB: f64 = 1024.0 * 1024.0;

/// Measures the case if it is wanted.
pub fn run(session: &mut Session) {
    if !session.wants(CASE.name) {
        return;
    }
    session.note(CASE.name);
    let (tenants, runs, length) = session
        .effort()
        .choose((1_000, 3, Duration::from_secs(2)), (100, 1, Duration::from_millis(500)));
    let tenants: Vec<_> =
        (0..tenants).map(|i| TenantId::parse(&format!("tenant-{i}")).unwrap()).collect();
    let site = Site::start(&tenants);
    let target = Target::of_site(&site);
    let started = memory::resident(target.pid);
    let clients: Vec<_> = crowd::connect_all(&tenants, |tenant, source| {
        let admitted = |client: &str| {
            wire::connect_from(source, target.address, &target.hello(tenant, client)).unwrap()
        };
        let subscribers: Vec<_> = (0..SUBSCRIBERS)
            .map(|i| {
                let mut stream = admitted(&format!("sub-{i}"));
                wire::subscribe(&mut stream, &events(tenant, "+"), QoS::AtMostOnce);
                stream
            })
            .collect();
        let publisher = Free::new(admitted("cam-0"), &events(tenant, "cam-0"), PAYLOAD, AT_A_TIME);
        (publisher, subscribers)
    });
    let (mut publishers, subscribers): (Vec<_>, Vec<_>) = clients.into_iter().unzip();
    let connected = memory::resident(target.pid);
    let shares = std::iter::from_fn(|| {
        let share = publishers.len().min(tenants.len().div_ceil(THREADS));
        (share > 0).then(|| Publisher::Free(publishers.drain(..share).collect()))
    });
    let shares = shares.collect();
    let subscribers = Subscribers::new(subscribers.into_iter().flatten().collect());
    let mut load = Load::new(target, shares, subscribers, SUBSCRIBERS);
    let samples: Vec<_> = (0..runs).map(|_| load.run(length)).collect();
    let loaded = memory::resident(target.pid);
    let arrived: f64 = samples.iter().map(|sample| sample.arrived).sum();
    let us = |seconds: f64| seconds / arrived * 1e6;
    let lost: Vec<_> = samples.iter().map(|sample| sample.lost).collect();
    session.record(
        Measured::new(CASE, samples.iter().map(|sample| sample.rate).collect())
            .cpu_us_per_op(us(samples.iter().map(|sample| sample.broker_cpu).sum()))
            .detail("client_us", us(samples.iter().map(|sample| sample.client_cpu).sum()))
            .detail("lost_percent", 100.0 * median(&lost))
            .detail("started_mb", started / MB)
            .detail("connected_mb", connected / MB)
            .detail("loaded_mb", loaded / MB),
    );
}
