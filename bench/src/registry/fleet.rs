use super::load::registration;
use super::site::Registry;
use super::{BYTES_PER_DEVICE, FLEET_100K};
use crate::report::Measured;
use crate::session::Session;
use crate::{cpu, memory};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How often a device beats, in seconds; its time to live is three times that.
const EVERY: f64 = 5.0;
const TTL: u32 = 15;

pub fn run(session: &mut Session, runtime: &Runtime) {
    let (devices, seconds) = session.effort().choose((100_000, 60), (20_000, 20));
    let registry = Registry::start(runtime);
    let load = registry.load(runtime);
    runtime.block_on(load.until_served());
    let empty = memory::resident(registry.pid());
    session.note(&format!("{devices} devices register"));
    let (mut registered, mut sent) = (0, 0_usize);
    let began = Instant::now();
    // Who is there already beats while the others come.
    while registered < devices {
        let next = (registered + 2_000).min(devices);
        runtime.block_on(load.register(registered..next, TTL));
        registered = next;
        let due = (began.elapsed().as_secs_f64() / EVERY * registered as f64) as usize;
        runtime.block_on(async {
            while sent < due {
                load.beat(sent % registered, None).await;
                sent += 1;
            }
            load.flush().await;
        });
    }
    let used = memory::resident(registry.pid()) - empty;
    let document = registration("cam-000000", TTL).len() as f64;
    session.record(
        Measured::new(BYTES_PER_DEVICE, vec![used / devices as f64 - document])
            .detail("document_bytes", document),
    );
    session.note(&format!("{devices} devices beat every {EVERY} s"));
    let offline =
        || registry.metric(runtime, "bulkhead_registry_transitions_total", "kind=\"offline\"");
    let before = (offline(), registry.beats(runtime), cpu::of_process(registry.pid()));
    let (began, mut sent) = (Instant::now(), 0_usize);
    while began.elapsed() < Duration::from_secs(seconds) {
        let due = (began.elapsed().as_secs_f64() / EVERY * devices as f64) as usize;
        runtime.block_on(async {
            while sent < due {
                load.beat(sent % devices, None).await;
                sent += 1;
            }
            load.flush().await;
        });
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = began.elapsed().as_secs_f64();
    let cpu = cpu::of_process(registry.pid()) - before.2;
    let beats = registry.beats(runtime) - before.1;
    let present = registry.metric(runtime, "bulkhead_registry_devices", "");
    session.record(
        Measured::new(FLEET_100K, vec![offline() - before.0])
            .detail("devices", present)
            .detail("beats_per_second", beats / took)
            .detail("sent_per_second", sent as f64 / took)
            .detail("cores", cpu / took),
    );
}
