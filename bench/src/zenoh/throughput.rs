//! Messages per second.

use super::pair::{Pair, Sample};
use super::routers::Routers;
use crate::case::{Case, Goal};
use crate::cores::Apart;
use crate::report::Measured;
use crate::session::Session;
use crate::stats::median;
use std::time::Duration;

/// How large messages are.
pub struct Variant {
    /// The case.
    pub case: Case,
    payload: usize,
}

const fn variant(name: &'static str, payload: usize, goal: Option<Goal>) -> Variant {
    Variant { case: Case { name, unit: "1/s", goal }, payload }
}

const NEARLY_ALL: Option<Goal> = Some(Goal::RatioAtLeast(0.95));

/// The cases beside the router alone.
pub const VARIANTS: [Variant; 4] = [
    variant("zenoh.pub.8", 8, None),
    variant("zenoh.pub.64", 64, NEARLY_ALL),
    variant("zenoh.pub.1k", 1024, NEARLY_ALL),
    variant("zenoh.pub.64k", 64 * 1024, NEARLY_ALL),
];

/// The case beside the router's own access control, and its payload.
pub const ACL: Case =
    Case { name: "zenoh.pub.64.acl", unit: "1/s", goal: Some(Goal::RatioAtLeast(1.0)) };
const ACL_PAYLOAD: usize = 64;

/// Repetitions of one router.
#[derive(Default)]
struct Samples {
    rates: Vec<f64>,
    arrived: f64,
    cpu: f64,
}

/// Measures the cases that are wanted.
pub fn run(session: &mut Session, routers: &Routers) {
    if !session.wants_any(VARIANTS.iter().map(|variant| variant.case.name).chain([ACL.name])) {
        return;
    }
    let pairs = [routers.gated(), routers.direct(), routers.acl()].map(Pair::connect);
    let runs = session.effort().choose(15, 2);
    let length = session.effort().choose(Duration::from_secs(1), Duration::from_millis(400));
    for Variant { case, payload } in VARIANTS {
        let with_acl = payload == ACL_PAYLOAD && session.wants(ACL.name);
        if !session.wants(case.name) && !with_acl {
            continue;
        }
        session.note(case.name);
        let sides = if with_acl { &pairs[..] } else { &pairs[..2] };
        let measure = || {
            let mut samples: [Samples; 3] = Default::default();
            for _ in 0..runs {
                for (pair, samples) in sides.iter().zip(&mut samples) {
                    samples.add(&pair.flood(payload, length));
                }
            }
            samples
        };
        let [gated, direct, acl] = measure();
        let apart = Apart::begin(sides.iter().map(Pair::pid)).map(|_apart| measure());
        let against = |case, name, peer: &Samples, apart: Option<(&Samples, &Samples)>| {
            let measured = gated.against(case, name, peer);
            let Some((ours, peer)) = apart else { return measured };
            measured
                .detail("apart_per_s", ours.rate())
                .detail("peer_apart_per_s", peer.rate())
                .detail("apart_ratio", ours.rate() / peer.rate())
                .detail("apart_cpu_ratio", peer.us() / ours.us())
        };
        let beside = apart.as_ref().map(|[ours, peer, _]| (ours, peer));
        session.record(against(case, "zenohd alone", &direct, beside));
        if with_acl {
            let beside = apart.as_ref().map(|[ours, _, peer]| (ours, peer));
            session.record(against(ACL, "zenohd with its own access control", &acl, beside));
        }
    }
}

impl Samples {
    fn add(&mut self, sample: &Sample) {
        self.rates.push(sample.rate);
        self.arrived += sample.arrived;
        self.cpu += sample.cpu;
    }

    fn against(&self, case: Case, name: &'static str, peer: &Self) -> Measured {
        Measured::new(case, self.rates.clone())
            .against(name, peer.rates.clone())
            .cpu_us_per_op(self.us())
            .detail("peer_us", peer.us())
            .detail("cpu_ratio", peer.us() / self.us())
    }

    /// Messages per second, the median.
    fn rate(&self) -> f64 {
        median(&self.rates)
    }

    /// CPU time of the router's process for one message, in microseconds.
    fn us(&self) -> f64 {
        self.cpu / self.arrived * 1e6
    }
}
