//! A publisher and its subscriber.

use super::routers::{TENANT, Target};
use crate::cpu;
use ::zenoh::bytes::ZBytes;
use ::zenoh::pubsub::{Publisher, Subscriber};
use ::zenoh::qos::CongestionControl;
use ::zenoh::{Session, Wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long messages flow before the clock runs.
const WARM_UP: Duration = Duration::from_millis(300);

/// How long nothing more has to arrive for everything to have arrived.
const REST: Duration = Duration::from_millis(100);

/// A publisher and a subscriber of one name, connected.
pub struct Pair {
    publisher: Publisher<'static>,
    arrived: Arc<AtomicU64>,
    pid: u32,
    _subscriber: Subscriber<()>,
    _sessions: [Session; 2],
}

/// What one load came to.
pub struct Sample {
    /// Messages that arrived.
    pub arrived: f64,
    /// The same per second.
    pub rate: f64,
    /// CPU time of the router's process, in seconds.
    pub cpu: f64,
}

impl Pair {
    /// Connects both. The publisher waits rather than drops.
    pub fn connect(target: Target<'_>) -> Self {
        let key = format!("device-connect/{TENANT}/cam-1/event/load");
        let sessions = [target.open("cam-1"), target.open("cam-2")];
        let arrived = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&arrived);
        let subscriber = sessions[1]
            .declare_subscriber(key.clone())
            .callback(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
            })
            .wait()
            .unwrap();
        let publisher = sessions[0]
            .declare_publisher(key)
            .congestion_control(CongestionControl::Block)
            .wait()
            .unwrap();
        Self { publisher, arrived, pid: target.pid(), _subscriber: subscriber, _sessions: sessions }
    }

    /// The router's process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Publishes as fast as it goes.
    pub fn flood(&self, payload: usize, length: Duration) -> Sample {
        self.load(length, |stop| {
            let payload = ZBytes::from(vec![0; payload]);
            while !stop.load(Ordering::Relaxed) {
                self.publisher.put(payload.clone()).wait().unwrap();
            }
        })
    }

    /// Publishes so many messages each millisecond.
    pub fn pace(&self, payload: usize, each_ms: u64, length: Duration) -> Sample {
        self.load(length, |stop| {
            let payload = ZBytes::from(vec![0; payload]);
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..each_ms {
                    self.publisher.put(payload.clone()).wait().unwrap();
                }
                next += Duration::from_millis(1);
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        })
    }

    fn load(&self, length: Duration, publish: impl FnOnce(&AtomicBool) + Send) -> Sample {
        let stop = AtomicBool::new(false);
        let sample = std::thread::scope(|scope| {
            let publishing = scope.spawn(|| publish(&stop));
            std::thread::sleep(WARM_UP);
            let (before, cpu, started) =
                (self.arrived(), cpu::of_process(self.pid), Instant::now());
            std::thread::sleep(length);
            let (after, used, took) =
                (self.arrived(), cpu::of_process(self.pid) - cpu, started.elapsed());
            stop.store(true, Ordering::Relaxed);
            publishing.join().unwrap();
            let arrived = after - before;
            Sample { arrived, rate: arrived / took.as_secs_f64(), cpu: used }
        });
        assert!(sample.arrived > 0.0, "nothing arrives");
        self.settle();
        sample
    }

    /// Waits for what is under way, which would otherwise be the next one's to carry.
    fn settle(&self) {
        loop {
            let before = self.arrived();
            std::thread::sleep(REST);
            if self.arrived() - before < 1.0 {
                return;
            }
        }
    }

    fn arrived(&self) -> f64 {
        self.arrived.load(Ordering::Relaxed) as f64
    }
}
