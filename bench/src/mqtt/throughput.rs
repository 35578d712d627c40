//! Messages per second and how long they take, beside mosquitto, stock rumqttd and ourselves without a
//! policy.

use super::brokers::{Mosquitto, Open, Target};
use super::load::{Load, Sample, Shape};
use super::site::Site;
use crate::case::{Case, Goal};
use crate::report::Measured;
use crate::session::Session;
use crate::stats::{median, quantile};
use bulkhead_mqtt_broker::codec::QoS;
use bulkhead_policy::TenantId;
use std::time::Duration;

/// Bytes of a message, and of one of the `….1k` cases.
const PAYLOAD: usize = 100;
const LARGE_PAYLOAD: usize = 1024;

/// Messages of QoS 1 and 2 that a publisher has under way.
const WINDOW: u16 = 100;

/// The same where the time that they take is measured.
const SATURATED_WINDOW: u16 = 20;

/// Who is measured against whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contest {
    /// The service with tokens and the tenants' policy, against mosquitto that lets everybody in.
    Mosquitto,
    /// Ours that lets everybody in, against stock rumqttd.
    Rumqttd,
    /// The service with tokens and the tenants' policy, against ours that lets everybody in.
    AllowAll,
    /// The service before mosquitto, against that mosquitto.
    Upstream,
}

/// What is exchanged, and who has to carry it.
pub struct Variant {
    /// The case.
    pub case: Case,
    contest: Contest,
    shape: Shape,
}

const fn fan_in(qos: QoS) -> Shape {
    let (publishers, subscribers) = (4, 1);
    Shape { publishers, subscribers, qos, payload: PAYLOAD, window: WINDOW, timed: false }
}

const fn fan_out(qos: QoS) -> Shape {
    Shape { publishers: 1, subscribers: 20, ..fan_in(qos) }
}

const fn large(shape: Shape) -> Shape {
    Shape { payload: LARGE_PAYLOAD, ..shape }
}

const fn against(contest: Contest, name: &'static str, goal: Option<f64>, shape: Shape) -> Variant {
    let goal = match goal {
        Some(ratio) => Some(Goal::RatioAtLeast(ratio)),
        None => None,
    };
    Variant { case: Case { name, unit: "1/s", goal }, contest, shape }
}

const fn mosquitto(name: &'static str, goal: Option<f64>, shape: Shape) -> Variant {
    against(Contest::Mosquitto, name, goal, shape)
}

const fn rumqttd(name: &'static str, shape: Shape) -> Variant {
    against(Contest::Rumqttd, name, None, shape)
}

use QoS::{AtLeastOnce as QOS1, AtMostOnce as QOS0, ExactlyOnce as QOS2};

/// The cases of messages per second.
pub const VARIANTS: [Variant; 17] = [
    mosquitto("mqtt.qos0.fanin", Some(3.0), fan_in(QOS0)),
    mosquitto("mqtt.qos0.fanout", Some(8.0), fan_out(QOS0)),
    mosquitto("mqtt.qos1.fanin", Some(4.0), fan_in(QOS1)),
    mosquitto("mqtt.qos1.fanout", Some(10.0), fan_out(QOS1)),
    against(Contest::AllowAll, "mqtt.acl", Some(0.95), fan_in(QOS0)),
    against(Contest::Upstream, "mqtt.upstream", Some(0.8), fan_in(QOS0)),
    against(Contest::Upstream, "mqtt.upstream.fanout", None, fan_out(QOS0)),
    against(Contest::Upstream, "mqtt.upstream.qos1", None, fan_in(QOS1)),
    mosquitto("mqtt.qos0.fanin.1k", None, large(fan_in(QOS0))),
    mosquitto("mqtt.qos0.fanout.1k", None, large(fan_out(QOS0))),
    mosquitto("mqtt.qos1.fanin.1k", None, large(fan_in(QOS1))),
    mosquitto("mqtt.qos1.fanout.1k", None, large(fan_out(QOS1))),
    mosquitto("mqtt.qos2.fanin", None, fan_in(QOS2)),
    rumqttd("mqtt.qos0.fanin.rumqttd", fan_in(QOS0)),
    rumqttd("mqtt.qos0.fanout.rumqttd", fan_out(QOS0)),
    rumqttd("mqtt.qos1.fanin.rumqttd", fan_in(QOS1)),
    rumqttd("mqtt.qos1.fanout.rumqttd", fan_out(QOS1)),
];

const fn percentile(name: &'static str) -> Case {
    Case { name, unit: "ms", goal: Some(Goal::RatioAtMost(1.0)) }
}

/// The cases of the time from publish to arrival, each with its quantile.
pub const SATURATED: [(Case, f64); 2] =
    [(percentile("mqtt.qos1.saturated_p50"), 0.5), (percentile("mqtt.qos1.saturated_p99"), 0.99)];

/// Repetitions of one side.
#[derive(Default)]
struct Samples {
    rates: Vec<f64>,
    lost: Vec<f64>,
    arrived: f64,
    broker_cpu: f64,
    client_cpu: f64,
    /// Milliseconds, each quantile of [`SATURATED`] by repetition.
    quantiles: [Vec<f64>; SATURATED.len()],
}

/// The brokers.
struct Brokers {
    site: Site,
    open: Open,
    mosquitto: Mosquitto,
    rumqttd: Open,
    front: Site,
    /// One more mosquitto: what is published before the other must not arrive at its subscribers.
    _behind: Mosquitto,
    // Dropped last.
    _folder: tempfile::TempDir,
}

/// Measures the cases that are wanted.
pub fn run(session: &mut Session) {
    let variants: Vec<_> =
        VARIANTS.into_iter().filter(|variant| session.wants(variant.case.name)).collect();
    let saturated = session.wants_any(SATURATED.map(|(case, _)| case.name));
    if variants.is_empty() && !saturated {
        return;
    }
    session.note("mqtt: starting the brokers");
    let tenant = TenantId::parse("acme").unwrap();
    let brokers = Brokers::start(&tenant);
    for Variant { case, contest, shape } in variants {
        session.note(case.name);
        let (full, quick) = match (case.goal, contest) {
            (_, Contest::AllowAll) => (9, 3),
            (Some(_), _) => (5, 2),
            (None, _) => (3, 1),
        };
        let runs = session.effort().choose(full, quick);
        let [ours, peer] = brokers.compare(session, &tenant, contest, shape, runs);
        let measured = Measured::new(case, ours.rates.clone())
            .against(contest.peer_name(), peer.rates.clone());
        session.record(with_costs(measured, &ours, &peer));
    }
    if saturated {
        session.note("mqtt.qos1.saturated");
        let shape = Shape { window: SATURATED_WINDOW, timed: true, ..fan_in(QOS1) };
        let contest = Contest::Mosquitto;
        let runs = session.effort().choose(5, 2);
        let [ours, peer] = brokers.compare(session, &tenant, contest, shape, runs);
        for (((case, _), ms), peer_ms) in
            SATURATED.into_iter().zip(&ours.quantiles).zip(&peer.quantiles)
        {
            let measured =
                Measured::new(case, ms.clone()).against(contest.peer_name(), peer_ms.clone());
            session.record(
                with_costs(measured, &ours, &peer)
                    .detail("messages_per_s", median(&ours.rates))
                    .detail("peer_messages_per_s", median(&peer.rates)),
            );
        }
    }
}

fn with_costs(measured: Measured, ours: &Samples, peer: &Samples) -> Measured {
    measured
        .cpu_us_per_op(ours.us(ours.broker_cpu))
        .detail("client_us", ours.us(ours.client_cpu))
        .detail("lost_percent", 100.0 * median(&ours.lost))
        .detail("peer_us", peer.us(peer.broker_cpu))
        .detail("peer_client_us", peer.us(peer.client_cpu))
        .detail("peer_lost_percent", 100.0 * median(&peer.lost))
        .detail("cpu_ratio", peer.us(peer.broker_cpu) / ours.us(ours.broker_cpu))
}

impl Contest {
    fn peer_name(self) -> &'static str {
        match self {
            Self::Mosquitto => "mosquitto",
            Self::Rumqttd => "rumqttd",
            Self::AllowAll => "a hook that allows all",
            Self::Upstream => "mosquitto itself",
        }
    }
}

impl Brokers {
    fn start(tenant: &TenantId) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let behind = Mosquitto::open(&at("behind"));
        Self {
            front: Site::before(behind.target().address, std::slice::from_ref(tenant)),
            site: Site::start(std::slice::from_ref(tenant)),
            open: Open::ours(&at("open")),
            mosquitto: Mosquitto::open(&at("mosquitto")),
            _behind: behind,
            rumqttd: Open::rumqttd(&at("rumqttd")),
            _folder: folder,
        }
    }

    /// Ours and its peer.
    fn targets(&self, contest: Contest) -> [Target<'_>; 2] {
        match contest {
            Contest::Mosquitto => [Target::of_site(&self.site), self.mosquitto.target()],
            Contest::Rumqttd => [self.open.target(), self.rumqttd.target()],
            Contest::AllowAll => [Target::of_site(&self.site), self.open.target()],
            Contest::Upstream => [Target::of_site(&self.front), self.mosquitto.target()],
        }
    }

    /// Loads ours and its peer in turn.
    fn compare(
        &self,
        session: &Session,
        tenant: &TenantId,
        contest: Contest,
        shape: Shape,
        runs: usize,
    ) -> [Samples; 2] {
        let length =
            session.effort().choose(Duration::from_millis(1000), Duration::from_millis(300));
        let mut loads = self.targets(contest).map(|target| Load::connect(target, tenant, shape));
        let mut samples = <[Samples; 2]>::default();
        for _ in 0..runs {
            for (load, samples) in loads.iter_mut().zip(&mut samples) {
                samples.add(load.run(length));
            }
        }
        samples
    }
}

impl Samples {
    fn add(&mut self, sample: Sample) {
        self.rates.push(sample.rate);
        self.lost.push(sample.lost);
        self.arrived += sample.arrived;
        self.broker_cpu += sample.broker_cpu;
        self.client_cpu += sample.client_cpu;
        if !sample.times.is_empty() {
            for ((_, q), values) in SATURATED.into_iter().zip(&mut self.quantiles) {
                values.push(1e3 * quantile(&sample.times, q));
            }
        }
    }

    /// Microseconds per message that arrived.
    fn us(&self, seconds: f64) -> f64 {
        seconds / self.arrived * 1e6
    }
}
