use super::REGISTER;
use super::load::Load;
use super::original::{self, Original};
use super::site::Registry;
use crate::cpu;
use crate::report::Measured;
use crate::session::Session;
use crate::stats::quantile;
use std::time::Instant;
use tokio::runtime::Runtime;

/// Devices that register first, so that nothing is done for the first time.
const WARM: usize = 50;

/// Long enough that nobody goes away meanwhile.
const TTL: u32 = 3600;

struct Phase {
    cpu_us: f64,
    per_second: f64,
    p99_ms: f64,
}

fn measure(runtime: &Runtime, load: &Load, pid: u32, devices: usize) -> Phase {
    runtime.block_on(async {
        load.until_served().await;
        load.register(0..WARM, TTL).await;
    });
    let (cpu, began) = (cpu::of_process(pid), Instant::now());
    let took = runtime.block_on(load.register(WARM..WARM + devices, TTL));
    let seconds = began.elapsed().as_secs_f64();
    Phase {
        cpu_us: (cpu::of_process(pid) - cpu) * 1e6 / devices as f64,
        per_second: devices as f64 / seconds,
        p99_ms: quantile(&took, 0.99) * 1e3,
    }
}

pub fn run(session: &mut Session, runtime: &Runtime) {
    let (ours_count, peer_count) = session.effort().choose((10_000, 500), (2_000, 100));
    let runs = session.effort().choose(3, 1);
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..runs {
        let registry = Registry::start(runtime);
        let own = measure(runtime, &registry.load(runtime), registry.pid(), ours_count);
        drop(registry);
        let original = Original::start(runtime);
        let theirs = measure(runtime, &original.load(runtime), original.pid(), peer_count);
        ours.push(own.cpu_us);
        peer.push(theirs.cpu_us);
        last = Some((own, theirs));
    }
    let (own, theirs) = last.unwrap();
    session.record(
        Measured::new(REGISTER, ours)
            .against(original::NAME, peer)
            .detail("per_second", own.per_second)
            .detail("peer_per_second", theirs.per_second)
            .detail("p99_ms", own.p99_ms)
            .detail("peer_p99_ms", theirs.p99_ms),
    );
}
