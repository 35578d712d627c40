//! How many revisions heartbeats make in etcd, which keeps each of them until it is compacted.

use super::REVISIONS_PER_BEAT;
use super::beats::EVERY;
use super::etcd::Etcd;
use super::load::Load;
use super::original::{self, Original};
use super::site::Registry;
use crate::report::Measured;
use crate::session::Session;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Long enough that nobody goes away meanwhile.
const TTL: u32 = 3600;

/// Devices that beat. The original hears fewer than a hundred changed heartbeats a second, and a revision
/// for each however many there are.
const DEVICES: usize = 1_000;
const PEER_DEVICES: usize = 100;

/// Longer than changes are gathered before they are written.
const GATHERED: Duration = Duration::from_secs(1);

/// Of one of the two, revisions for each heartbeat.
struct Revisions {
    changed: f64,
    unchanged: f64,
}

/// Has devices beat, all the same and then each with another value every time.
fn measure(runtime: &Runtime, load: &Load, etcd: &Etcd, devices: usize, seconds: u64) -> Revisions {
    runtime.block_on(load.register(0..devices, TTL));
    let mut mark = 1_000_000;
    // What one device says after all others, and after what they said was written, is the last revision.
    let mut settle = |after| {
        mark += 1;
        std::thread::sleep(GATHERED);
        runtime.block_on(async {
            load.beat(0, Some(mark)).await;
            load.flush().await;
        });
        etcd.until_battery(runtime, after, mark)
    };
    let mut per_beat = |change: fn(usize) -> Option<usize>| {
        settle(etcd.revision(runtime));
        let before = etcd.revision(runtime);
        let how_long = Duration::from_secs(seconds);
        let sent = runtime.block_on(load.paced(devices, EVERY, how_long, change));
        // The mark is a revision too.
        (settle(before) - 1) as f64 / sent as f64
    };
    let unchanged = per_beat(|_| None);
    Revisions { changed: per_beat(Some), unchanged }
}

pub fn run(session: &mut Session, runtime: &Runtime) {
    let (runs, seconds) = session.effort().choose((3, 20), (1, 6));
    let registry = Registry::start(runtime);
    let load = registry.load(runtime);
    let original = Original::start(runtime);
    let peer_load = original.load(runtime);
    runtime.block_on(async {
        load.until_served().await;
        peer_load.until_served().await;
    });
    let (etcd, peer_etcd) = (registry.etcd(runtime), original.etcd(runtime));
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        ours.push(measure(runtime, &load, &etcd, DEVICES, seconds));
        peer.push(measure(runtime, &peer_load, &peer_etcd, PEER_DEVICES, seconds));
    }
    let most = |all: &[Revisions]| all.iter().map(|one| one.unchanged).fold(0.0, f64::max);
    let unchanged = [most(&ours), most(&peer)];
    let changed = |all: Vec<Revisions>| all.into_iter().map(|one| one.changed).collect();
    session.record(
        Measured::new(REVISIONS_PER_BEAT, changed(ours))
            .against(original::NAME, changed(peer))
            .detail("unchanged", unchanged[0])
            .detail("peer_unchanged", unchanged[1]),
    );
}
