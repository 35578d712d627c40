use super::etcd::Etcd;
use super::load::Load;
use super::original::{self, Original};
use super::site::Registry;
use super::{BEAT_CHANGED, BEAT_UNCHANGED, ETCD_PER_BEAT, PAGE200};
use crate::cpu;
use crate::report::Measured;
use crate::session::Session;
use crate::stats::{median, quantile};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Devices of the fleet.
const DEVICES: usize = 10_500;

/// Heartbeats that are sent before it is waited until they are heard.
const BURST: usize = 5_000;

/// Long enough that nobody goes away meanwhile.
const TTL: u32 = 3600;

/// Devices of the original's fleet: it registers fewer than a hundred a second.
const PEER_DEVICES: usize = 200;

/// How often a device beats, in seconds.
pub const EVERY: f64 = 5.0;

/// Sends so many heartbeats, and returns the CPU time of each at the registry, in microseconds.
fn cost(
    runtime: &Runtime,
    registry: &Registry,
    load: &Load,
    beats: usize,
    change: impl Fn(usize) -> Option<usize>,
) -> f64 {
    let before = registry.beats(runtime);
    let cpu = cpu::of_process(registry.pid());
    let mut sent = 0;
    while sent < beats {
        let burst = BURST.min(beats - sent);
        runtime.block_on(async {
            for n in sent..sent + burst {
                load.beat(n % DEVICES, change(n)).await;
            }
            load.flush().await;
        });
        sent += burst;
        let deadline = Instant::now() + Duration::from_secs(60);
        while registry.beats(runtime) - before < sent as f64 {
            assert!(Instant::now() < deadline, "heartbeats are lost");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    // What is written is part of it.
    while registry.metric(runtime, "bulkhead_registry_waiting", "") > 0.0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    (cpu::of_process(registry.pid()) - cpu) * 1e6 / beats as f64
}

/// The original, with a fleet of its own. What a heartbeat costs it does not depend on the fleet.
struct Peer {
    original: Original,
    load: Load,
    etcd: Etcd,
    /// What a device says that beats after all others.
    mark: usize,
}

impl Peer {
    fn start(runtime: &Runtime) -> Self {
        let original = Original::start(runtime);
        let load = original.load(runtime);
        runtime.block_on(async {
            load.until_served().await;
            load.register(0..PEER_DEVICES, TTL).await;
        });
        Self { load, etcd: original.etcd(runtime), original, mark: 1_000_000_000 }
    }

    /// As [`cost`]: it hears one heartbeat after the other, so all are heard when the last is.
    fn cost(
        &mut self,
        runtime: &Runtime,
        beats: usize,
        change: impl Fn(usize) -> Option<usize>,
    ) -> f64 {
        self.mark += 1;
        let after = self.etcd.revision(runtime);
        let cpu = cpu::of_process(self.original.pid());
        runtime.block_on(async {
            for n in 0..beats {
                self.load.beat(n % PEER_DEVICES, change(n)).await;
            }
            self.load.beat(0, Some(self.mark)).await;
            self.load.flush().await;
        });
        self.etcd.until_battery(runtime, after, self.mark);
        (cpu::of_process(self.original.pid()) - cpu) * 1e6 / (beats + 1) as f64
    }
}

pub fn run(session: &mut Session, runtime: &Runtime) {
    let registry = Registry::start(runtime);
    let load = registry.load(runtime);
    session.note("10,500 devices register");
    runtime.block_on(async {
        load.until_served().await;
        load.register(0..DEVICES, TTL).await;
    });
    let runs = session.effort().choose(5, 1);
    let beats = session.effort().choose(100_000, 20_000);
    let peer_beats = session.effort().choose(1_000, 100);
    let mut peer =
        session.wants_any([BEAT_UNCHANGED.name, BEAT_CHANGED.name]).then(|| Peer::start(runtime));
    if let Some(peer) = peer.as_mut().filter(|_| session.wants(BEAT_UNCHANGED.name)) {
        let (ours, theirs) = (0..runs)
            .map(|_| {
                let own = cost(runtime, &registry, &load, beats, |_| None);
                (own, peer.cost(runtime, peer_beats, |_| None))
            })
            .unzip();
        session.record(Measured::new(BEAT_UNCHANGED, ours).against(original::NAME, theirs));
    }
    if let Some(peer) = peer.as_mut().filter(|_| session.wants(BEAT_CHANGED.name)) {
        let commits =
            || registry.metric(runtime, "bulkhead_registry_etcd_requests_total", "commit");
        let before = commits();
        let (ours, theirs) = (0..runs)
            .map(|run| {
                let own = cost(runtime, &registry, &load, beats, |n| Some(run * beats + n));
                (own, peer.cost(runtime, peer_beats, |n| Some(run * beats + n)))
            })
            .unzip();
        let requests = (commits() - before) / (runs * beats) as f64;
        session.record(
            Measured::new(BEAT_CHANGED, ours)
                .against(original::NAME, theirs)
                .detail("etcd_requests_per_beat", requests),
        );
    }
    drop(peer);
    if session.wants(PAGE200.name) {
        pages(session, runtime, &load);
    }
    if session.wants(ETCD_PER_BEAT.name) {
        etcd_per_beat(session, runtime, &registry, &load);
    }
}

fn pages(session: &mut Session, runtime: &Runtime, load: &Load) {
    let runs = session.effort().choose(50, 10);
    let ask = |method: &str, params: serde_json::Value| {
        let request = json!({"id": 1, "method": format!("discovery/{method}"), "params": params});
        runtime.block_on(load.timed(&request))
    };
    let page = |run: usize| json!({"limit": 200, "offset": 200 * (run % 50)});
    let (took, bytes): (Vec<_>, Vec<_>) =
        (0..runs).map(|run| ask("listDevices", page(run))).unzip();
    let ms: Vec<_> = took.iter().map(|seconds| seconds * 1e3).collect();
    let times = |method: &str, params: serde_json::Value| {
        let all: Vec<_> = (0..runs).map(|_| ask(method, params.clone()).0 * 1e3).collect();
        median(&all)
    };
    let get = times("getDevice", json!({"device_id": super::load::name(5_000)}));
    let describe = times("describeFleet", json!({}));
    let filtered =
        times("listDevices", json!({"limit": 200, "device_type": "CAM", "location": "la"}));
    let p99 = quantile(&ms, 0.99);
    session.record(
        Measured::new(PAGE200, ms)
            .detail("p99_ms", p99)
            .detail("bytes", bytes[0] as f64)
            .detail("get_ms", get)
            .detail("describe_ms", describe)
            .detail("filtered_page_ms", filtered),
    );
}

/// As devices beat: each so often, with keep-alives of leases in between.
fn etcd_per_beat(session: &mut Session, runtime: &Runtime, registry: &Registry, load: &Load) {
    let (devices, seconds) = session.effort().choose((1_000, 60), (1_000, 15));
    let requests = || registry.metric(runtime, "bulkhead_registry_etcd_requests_total", "");
    let commits = || registry.metric(runtime, "bulkhead_registry_etcd_requests_total", "commit");
    // What was changed for another case is written first.
    let mut written = -1.0;
    while commits() != written {
        written = commits();
        std::thread::sleep(Duration::from_secs(2));
    }
    let before = (requests(), registry.beats(runtime));
    runtime.block_on(load.paced(devices, EVERY, Duration::from_secs(seconds), |_| None));
    let beats = registry.beats(runtime) - before.1;
    let per_beat = (requests() - before.0) / beats;
    session.record(Measured::new(ETCD_PER_BEAT, vec![per_beat]).detail("beats", beats));
}
