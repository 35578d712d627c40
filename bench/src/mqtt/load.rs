//! Publishers and subscribers of one broker, loading it for a while, again and again.

use super::brokers::Target;
use super::publisher::{Free, Publisher, Windowed};
use super::subscribers::Subscribers;
use super::tally::Tally;
use super::wire;
use crate::cpu;
use bulkhead_mqtt_broker::codec::QoS;
use bulkhead_policy::TenantId;
use std::time::{Duration, Instant};

/// How long before what arrives is counted.
const WARM_UP: Duration = Duration::from_millis(250);

/// How long nothing may arrive before the rest counts as lost.
const QUIET: Duration = Duration::from_millis(400);

/// How long the rest may take.
const DRAIN: Duration = Duration::from_secs(20);

/// Messages, and who exchanges them.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Clients that publish, each to a topic of its own.
    pub publishers: usize,
    /// Clients that get everything.
    pub subscribers: usize,
    /// Of publishing and of subscribing.
    pub qos: QoS,
    /// Bytes.
    pub payload: usize,
    /// Messages of QoS 1 and 2 that each publisher has under way.
    pub window: u16,
    /// Whether times are taken.
    pub timed: bool,
}

/// Clients of a broker.
pub struct Load {
    name: &'static str,
    pid: u32,
    publishers: Vec<Publisher>,
    subscribers: Subscribers,
    /// How many get each message.
    copies: usize,
    timed: bool,
}

/// What came of it, once.
pub struct Sample {
    /// Messages per second that arrived.
    pub rate: f64,
    /// Messages that arrived in that time.
    pub arrived: f64,
    /// Of all that should have arrived, until the end, how much did not: 0 to 1.
    pub lost: f64,
    /// Seconds of processor time of the broker.
    pub broker_cpu: f64,
    /// The clients'.
    pub client_cpu: f64,
    /// Seconds from publish to arrival, if they were taken.
    pub times: Vec<f64>,
}

impl Load {
    /// Connects clients of one tenant.
    pub fn connect(target: Target<'_>, tenant: &TenantId, shape: Shape) -> Self {
        let Shape { qos, payload, window, timed, .. } = shape;
        let connect = |client: &str| wire::admitted(target.address, &target.hello(tenant, client));
        let subscribers = (0..shape.subscribers)
            .map(|i| {
                let mut stream = connect(&format!("sub-{i}"));
                wire::subscribe(&mut stream, &events(tenant, "+"), qos);
                stream
            })
            .collect();
        let publishers = (0..shape.publishers)
            .map(|i| {
                let client = format!("cam-{i}");
                let (stream, topic) = (connect(&client), events(tenant, &client));
                match qos {
                    QoS::AtMostOnce => {
                        Publisher::Free(vec![Free::new(stream, &topic, payload, usize::MAX)])
                    }
                    _ => Publisher::Windowed(Windowed::new(
                        stream, &topic, qos, payload, window, timed,
                    )),
                }
            })
            .collect();
        let subscribers = Subscribers::new(subscribers);
        Self { timed, ..Self::new(target, publishers, subscribers, shape.subscribers) }
    }

    /// Clients that are connected already.
    pub fn new(
        target: Target<'_>,
        publishers: Vec<Publisher>,
        subscribers: Subscribers,
        copies: usize,
    ) -> Self {
        let (name, pid) = (target.name, target.pid);
        Self { name, pid, publishers, subscribers, copies, timed: false }
    }

    /// Loads the broker for so long, and leaves it with nothing to do.
    pub fn run(&mut self, length: Duration) -> Sample {
        let tally = Tally::new();
        let cpu = || (cpu::of_process(self.pid), cpu::of_this_process());
        std::thread::scope(|scope| {
            // However this goes: a scope waits for its threads.
            let ending = tally.ending();
            let subscribers = scope.spawn(|| self.subscribers.run(&tally));
            let publishers: Vec<_> = self
                .publishers
                .iter_mut()
                .map(|publisher| scope.spawn(|| publisher.run(&tally)))
                .collect();
            std::thread::sleep(WARM_UP);
            let (before, started, count) = (cpu(), Instant::now(), tally.count());
            tally.take_times(self.timed);
            std::thread::sleep(length);
            tally.take_times(false);
            let arrived = (tally.count() - count) as f64;
            let (took, after) = (started.elapsed().as_secs_f64(), cpu());
            tally.end_publishing();
            let published: u64 = publishers
                .into_iter()
                .map(|publisher| publisher.join().unwrap_or_else(|_| failed(self.name)))
                .sum();
            let expected = published * self.copies as u64;
            drain(&tally, expected);
            drop(ending);
            subscribers.join().unwrap_or_else(|_| failed(self.name));
            assert!(tally.count() <= expected, "more arrived than was published");
            Sample {
                rate: arrived / took,
                arrived,
                lost: 1.0 - tally.count() as f64 / expected as f64,
                broker_cpu: after.0 - before.0,
                client_cpu: after.1 - before.1,
                times: tally.times(),
            }
        })
    }
}

fn failed<T>(name: &str) -> T {
    panic!("{name}: a client failed");
}

/// A device's events, in the name space of the built-in roles.
pub fn events(tenant: &TenantId, device: &str) -> String {
    format!("device-connect/{tenant}/{device}/event/load")
}

/// Waits for what is still on its way.
fn drain(tally: &Tally, expected: u64) {
    let started = Instant::now();
    let (mut last, mut since) = (tally.count(), Instant::now());
    while last < expected && since.elapsed() < QUIET {
        assert!(started.elapsed() < DRAIN, "a broker does not come to an end");
        std::thread::sleep(Duration::from_millis(2));
        let count = tally.count();
        if count > last {
            (last, since) = (count, Instant::now());
        }
    }
}
