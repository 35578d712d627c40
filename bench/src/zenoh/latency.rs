//! How long a message there and another one back take, and a question and its answer.

use super::routers::{Routers, TENANT, Target};
use crate::case::{Case, Goal};
use crate::report::Measured;
use crate::session::Session;
use crate::stats::quantile;
use ::zenoh::pubsub::{Publisher, Subscriber};
use ::zenoh::qos::CongestionControl;
use ::zenoh::query::Queryable;
use ::zenoh::{Session as Client, Wait};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// The cases.
pub const ROUND_TRIP: Case =
    Case { name: "zenoh.rtt_p50", unit: "us", goal: Some(Goal::RatioAtMost(1.5)) };
pub const QUERY: Case = Case { name: "zenoh.get_p50", unit: "us", goal: None };

/// Bytes of a message.
const PAYLOAD: usize = 64;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked, again and again.
type Ask = (Case, fn(&Echo));

/// Two clients of a router, one of which answers the other.
struct Echo {
    asking: Client,
    ping: Publisher<'static>,
    pongs: Receiver<()>,
    question: String,
    _answering: (Subscriber<()>, Subscriber<()>, Queryable<()>, Client),
}

/// Measures the cases that are wanted.
pub fn run(session: &mut Session, routers: &Routers) {
    if !session.wants_any([ROUND_TRIP.name, QUERY.name]) {
        return;
    }
    let echoes = [routers.gated(), routers.direct(), routers.acl()].map(Echo::connect);
    let asks: [Ask; 2] = [(ROUND_TRIP, Echo::round_trip), (QUERY, Echo::query)];
    for (case, ask) in asks {
        if !session.wants(case.name) {
            continue;
        }
        session.note(case.name);
        let runs = session.effort().choose(7, 2);
        let length = session.effort().choose(Duration::from_secs(2), Duration::from_millis(300));
        let mut p50: [Vec<f64>; 3] = Default::default();
        let mut p99: [Vec<f64>; 3] = Default::default();
        for _ in 0..runs {
            for (echo, (p50, p99)) in echoes.iter().zip(p50.iter_mut().zip(&mut p99)) {
                let times = echo.times(ask, length);
                p50.push(quantile(&times, 0.5));
                p99.push(quantile(&times, 0.99));
            }
        }
        let [gated, direct, acl] = p50;
        let [gated_p99, direct_p99, _] = p99;
        session.record(
            Measured::new(case, gated)
                .against("zenohd alone", direct)
                .detail("acl_us", crate::stats::median(&acl))
                .detail("p99_us", crate::stats::median(&gated_p99))
                .detail("peer_p99_us", crate::stats::median(&direct_p99)),
        );
    }
}

impl Echo {
    fn connect(target: Target<'_>) -> Self {
        let event =
            |device: &str, name: &str| format!("device-connect/{TENANT}/{device}/event/{name}");
        let (asking, answering) = (target.open("cam-1"), target.open("cam-2"));
        let publisher = |client: &Client, key: String| {
            let publisher = client.declare_publisher(key);
            publisher.congestion_control(CongestionControl::Block).express(true).wait().unwrap()
        };
        let pong = publisher(&answering, event("cam-2", "pong"));
        let pinged = answering
            .declare_subscriber(event("cam-1", "ping"))
            .callback(move |ping| pong.put(ping.payload().clone()).wait().unwrap())
            .wait()
            .unwrap();
        let (sender, pongs) = channel();
        let ponged = asking
            .declare_subscriber(event("cam-2", "pong"))
            .callback(move |_| sender.send(()).unwrap_or_default())
            .wait()
            .unwrap();
        let question = format!("device-connect/{TENANT}/cam-2/cmd");
        let answer = answering
            .declare_queryable(question.clone())
            .callback(|query| query.reply(query.key_expr(), vec![0; PAYLOAD]).wait().unwrap())
            .wait()
            .unwrap();
        let ping = publisher(&asking, event("cam-1", "ping"));
        let echo =
            Self { asking, ping, pongs, question, _answering: (pinged, ponged, answer, answering) };
        echo.wait();
        echo
    }

    /// Waits until everything that was declared is known.
    fn wait(&self) {
        let started = Instant::now();
        let known = || {
            self.ping.put(vec![0; PAYLOAD]).wait().unwrap();
            let answers = self.asking.get(&self.question).wait().unwrap();
            self.pongs.recv_timeout(Duration::from_millis(100)).is_ok() && answers.recv().is_ok()
        };
        while !known() {
            assert!(started.elapsed() < PATIENCE, "nobody answers");
        }
        while self.pongs.recv_timeout(Duration::from_millis(200)).is_ok() {}
    }

    fn round_trip(&self) {
        self.ping.put(vec![0; PAYLOAD]).wait().unwrap();
        self.pongs.recv_timeout(PATIENCE).expect("a pong");
    }

    fn query(&self) {
        let answers = self.asking.get(&self.question).wait().unwrap();
        let mut count = 0;
        while let Ok(answer) = answers.recv() {
            answer.result().expect("an answer");
            count += 1;
        }
        assert_eq!(count, 1);
    }

    /// Asks again and again, and returns how long each time took, in microseconds.
    fn times(&self, ask: impl Fn(&Self), length: Duration) -> Vec<f64> {
        let (started, mut times) = (Instant::now(), Vec::new());
        while started.elapsed() < length {
            let asked = Instant::now();
            ask(self);
            times.push(asked.elapsed().as_secs_f64() * 1e6);
        }
        // The first ones are of another kind.
        times.split_off(times.len() / 10)
    }
}
