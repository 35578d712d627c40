//! What tools ask, of fleets of several sizes.

use super::load::{Load, params};
use super::original::{self, Original};
use super::site::Registry;
use super::{DESCRIBE, GET, LIST, PAGE, SIZES};
use crate::report::Measured;
use crate::session::Session;
use crate::stats::median;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::runtime::Runtime;

/// Long enough that nobody goes away meanwhile.
const TTL: u32 = 3600;

/// The largest fleet that the original is asked to list: it reads and decodes all of it for one page, and
/// beyond this that takes longer than any client waits.
const PEER_LISTS: usize = 10_500;

/// How long the original keeps what it has read of a fleet, and a little more.
const PEER_FORGETS: Duration = Duration::from_millis(2_200);

/// What stock clients ask for at a time.
const STOCK_PAGE: usize = 100;

/// What one of the two took, in milliseconds, run by run.
#[derive(Default)]
struct Times {
    list: Vec<f64>,
    page: Vec<f64>,
    get: Vec<f64>,
    describe: Vec<f64>,
    /// A page that is asked for while the one before is still known.
    page_again: Vec<f64>,
}

/// One of the two, with its fleet.
struct Asked<'a> {
    load: &'a Load,
    devices: usize,
    times: Times,
    /// How long to wait so that it has nothing at hand.
    forgets: Duration,
}

impl<'a> Asked<'a> {
    fn new(load: &'a Load, devices: usize, forgets: Duration) -> Self {
        Self { load, devices, times: Times::default(), forgets }
    }

    fn ask(&self, runtime: &Runtime, method: &str, params: Value) -> f64 {
        let request = json!({"id": 1, "method": format!("discovery/{method}"), "params": params});
        let (seconds, answer) = runtime.block_on(self.load.answered(&request));
        assert!(answer.starts_with(b"{") && !has_error(&answer), "{method} is refused");
        seconds * 1e3
    }

    /// As the stock client lists: page after page.
    fn walk(&self, runtime: &Runtime) -> f64 {
        let (mut offset, mut found, mut took) = (Some(0), 0, 0.0);
        while let Some(from) = offset {
            let request = json!({"id": 1, "method": "discovery/listDevices",
                "params": {"offset": from, "limit": STOCK_PAGE}});
            let (seconds, answer) = runtime.block_on(self.load.answered(&request));
            let answer: Answer = serde_json::from_slice(&answer).expect("an answer to a page");
            took += seconds;
            found += answer.result.devices.len();
            offset = answer.result.next_offset;
        }
        assert_eq!(found, self.devices, "the list has every device once");
        took * 1e3
    }

    /// One run; `lists` says whether it can be asked for lists at this size.
    fn run(&mut self, runtime: &Runtime, lists: bool) {
        let fresh = || std::thread::sleep(self.forgets);
        let device = super::load::name(self.devices / 2);
        let get = self.ask(runtime, "getDevice", json!({"device_id": device}));
        self.times.get.push(get);
        if !lists {
            return;
        }
        let page = json!({"limit": 200, "offset": self.devices / 2});
        fresh();
        let first = self.ask(runtime, "listDevices", page.clone());
        let again = self.ask(runtime, "listDevices", page);
        fresh();
        let describe = self.ask(runtime, "describeFleet", json!({}));
        fresh();
        let list = self.walk(runtime);
        self.times.page.push(first);
        self.times.page_again.push(again);
        self.times.describe.push(describe);
        self.times.list.push(list);
    }
}

/// What of an answer to a page is of use.
#[derive(serde::Deserialize)]
struct Answer {
    result: Page,
}

#[derive(serde::Deserialize)]
struct Page {
    devices: Vec<serde::de::IgnoredAny>,
    next_offset: Option<usize>,
}

fn has_error(answer: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Failed {
        error: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Failed>(answer).is_ok_and(|failed| failed.error.is_some())
}

/// Ours registers its fleet; the original's is put into its etcd, since it registers fewer than a hundred a
/// second. Both run at the same time, and are asked in turn.
pub fn run(session: &mut Session, runtime: &Runtime) {
    for (nth, size) in SIZES.into_iter().enumerate() {
        let cases = [LIST, PAGE, GET, DESCRIBE].map(|cases| cases[nth]);
        if !session.wants_any(cases.map(|case| case.name)) {
            continue;
        }
        // The largest is not for a quick run.
        let devices = session.effort().choose(size, size.min(20_000));
        let registry = Registry::start(runtime);
        let load = registry.load(runtime);
        session.note(&format!("{devices} devices register"));
        runtime.block_on(async {
            load.until_served().await;
            load.register(0..devices, TTL).await;
        });
        let original = Original::start(runtime);
        let peer_load = original.load(runtime);
        original.etcd(runtime).seed(runtime, devices, |device| params(device, TTL));
        runtime.block_on(peer_load.until_served());

        let runs = session.effort().choose(5, 2);
        let mut ours = Asked::new(&load, devices, Duration::ZERO);
        let mut peer = Asked::new(&peer_load, devices, PEER_FORGETS);
        for _ in 0..runs {
            ours.run(runtime, true);
            peer.run(runtime, devices <= PEER_LISTS);
        }
        let again = [&ours, &peer].map(|asked| asked.times.page_again.clone());
        let (ours, peer) = (ours.times, peer.times);
        for (case, own, theirs) in [
            (cases[0], ours.list, peer.list),
            (cases[1], ours.page, peer.page),
            (cases[2], ours.get, peer.get),
            (cases[3], ours.describe, peer.describe),
        ] {
            let mut measured = Measured::new(case, own).detail("devices", devices as f64);
            if !theirs.is_empty() {
                measured = measured.against(original::NAME, theirs);
            }
            if case.name == cases[1].name {
                measured = measured.detail("again_ms", median(&again[0]));
                if !again[1].is_empty() {
                    measured = measured.detail("peer_again_ms", median(&again[1]));
                }
            }
            session.record(measured);
        }
    }
}
