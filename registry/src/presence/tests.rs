//! Random operations against a simple account of what has to be true.

use super::{Beat, Document, Event, Full, Limits, Presence, Turn, Via};
use crate::store::Stored;
use crate::wire::Registration;
use bulkhead_policy::DeviceId;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const DEVICES: usize = 4;
const LIMITS: Limits = Limits { devices: 3, bytes: 1 << 20, document: 1 << 16 };

#[derive(Clone, Debug)]
enum Step {
    Register(usize, u32),
    Beat(usize, Option<i64>),
    Pass(u64),
    /// Writes at most so many, and they are written or not.
    Write(usize, bool),
    /// Something happens to a device while it is being written.
    WriteWhile(Box<Step>),
    /// Somebody removes a device from the store.
    Evict(usize),
    /// What the store has is looked at again, after another had the tenant or not.
    Restore(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let simple = prop_oneof![
        (0..DEVICES, 1..5_u32).prop_map(|(device, ttl)| Step::Register(device, ttl)),
        (0..DEVICES, proptest::option::of(0..3_i64)).prop_map(|(d, value)| Step::Beat(d, value)),
        (1..4_u64).prop_map(Step::Pass),
    ];
    prop_oneof![
        4 => simple.clone(),
        2 => (1..4_usize, any::<bool>()).prop_map(|(most, works)| Step::Write(most, works)),
        1 => simple.prop_map(|step| Step::WriteWhile(Box::new(step))),
        1 => (0..DEVICES).prop_map(Step::Evict),
        1 => any::<bool>().prop_map(Step::Restore),
    ]
}

fn id(n: usize) -> DeviceId {
    DeviceId::parse(&format!("cam-{n}")).unwrap()
}

fn registration(n: usize, ttl: u32) -> Registration {
    let params = json!({"device_id": id(n), "device_ttl": ttl, "capabilities": {},
        "identity": {}, "status": {"ts": "t"}});
    Registration::parse(params.as_object().unwrap().clone()).unwrap()
}

/// A presence, a store, and what others were told.
struct World {
    presence: Presence,
    now: Instant,
    last_heard: BTreeMap<DeviceId, (Instant, u32)>,
    store: BTreeMap<DeviceId, String>,
    told: BTreeSet<DeviceId>,
}

impl World {
    fn new() -> Self {
        Self {
            presence: Presence::new(LIMITS),
            now: Instant::now(),
            last_heard: BTreeMap::new(),
            store: BTreeMap::new(),
            told: BTreeSet::new(),
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Register(n, ttl) => {
                let at = Timestamp::UNIX_EPOCH;
                let taken = self.presence.register(registration(*n, *ttl), Via::Nats, self.now, at);
                if taken.is_ok() {
                    self.last_heard.insert(id(*n), (self.now, *ttl));
                }
            }
            Step::Beat(n, value) => {
                let mut status = Map::new();
                if let Some(value) = value {
                    status.insert("battery".to_owned(), json!(value));
                }
                if self.presence.beat(&id(*n), &status, Via::Nats, self.now) != Beat::Unknown {
                    let ttl = self.presence.devices[&id(*n)].document.ttl();
                    self.last_heard.insert(id(*n), (self.now, ttl));
                }
            }
            Step::Pass(seconds) => {
                self.now += Duration::from_secs(*seconds);
                let heard = (self.now - Duration::from_secs(3600), self.now);
                self.presence.expire(self.now, |_| Some(heard));
            }
            Step::Write(most, works) => self.write(*most, *works, None),
            Step::WriteWhile(step) => self.write(2, true, Some(step)),
            Step::Evict(n) => {
                if self.presence.devices.get(&id(*n)).is_some_and(|device| device.pending.is_none())
                {
                    self.store.remove(&id(*n));
                    self.presence.evict(&id(*n), self.now);
                    self.last_heard.insert(id(*n), (self.now, 0));
                }
            }
            Step::Restore(was_anothers) => {
                if *was_anothers {
                    self.presence.clear();
                    self.last_heard.clear();
                    // Whoever removed a key meanwhile has told nobody here.
                    self.told = self.store.keys().cloned().collect();
                }
                self.restore();
            }
        }
        self.check();
    }

    fn restore(&mut self) {
        let mut stored = Vec::new();
        for (device, text) in &self.store {
            let document = Document::parse(text.as_bytes()).unwrap();
            if !self.presence.has(device) {
                self.last_heard.insert(device.clone(), (self.now, document.ttl()));
            }
            stored.push(Stored { device: device.clone(), document, lease: None });
        }
        self.presence.restore(stored, false, self.now);
    }

    fn write(&mut self, most: usize, works: bool, meanwhile: Option<&Step>) {
        let writes = self.presence.writes(most, Turn::All);
        if let Some(step) = meanwhile {
            self.apply(step);
        }
        if !works {
            return;
        }
        for write in &writes {
            match &write.document {
                Some(document) => drop(self.store.insert(write.device.clone(), document.clone())),
                None => drop(self.store.remove(&write.device)),
            }
        }
        let leases = vec![None; writes.len()];
        for written in self.presence.written(writes, leases, self.now) {
            let Some(event) = written.event else { continue };
            match event {
                Event::Online { device } => {
                    assert!(self.store.contains_key(&device), "told before it was written");
                    self.told.insert(device);
                }
                Event::Offline { device, .. } => {
                    assert!(self.told.remove(&device), "{device} goes, and was never there");
                    assert!(!self.store.contains_key(&device));
                }
                Event::Changed { device } => assert!(self.told.contains(&device), "{device}"),
            }
        }
    }

    /// What holds at any time.
    fn check(&self) {
        let presence = &self.presence;
        let queued: BTreeSet<_> = presence.queue.values().collect();
        assert_eq!(queued.len(), presence.queue.len(), "a device waits once");
        for (id, device) in &presence.devices {
            let place = device.pending.as_ref().map(|pending| pending.place);
            assert_eq!(place.and_then(|place| presence.queue.get(&place)), place.map(|_| id));
            assert_eq!(place.is_some(), queued.contains(id), "{id}");
            let comes_or_goes = device.leaving || !device.told;
            assert!(
                place.is_none_or(|place| !place.may_wait || !comes_or_goes),
                "{id} may not wait"
            );
            assert!(device.leaving || device.scheduled.is_some(), "{id} would stay for ever");
        }
        let scheduled = presence.devices.values().filter(|d| d.scheduled.is_some()).count();
        assert_eq!(scheduled, presence.deadlines.len(), "a device is looked at once");
        let bytes: usize = presence.devices.values().map(|d| d.document.len()).sum();
        assert_eq!(bytes, presence.bytes);
        assert!(presence.len() <= LIMITS.devices);
        let visible = presence.devices.values().filter(|device| !device.leaving).count();
        assert_eq!(presence.present().count(), visible);
    }

    /// Everything is written, and nobody speaks any more.
    fn settle(&mut self) {
        for _ in 0..10 {
            self.write(DEVICES, true, None);
            self.check();
        }
        assert_eq!(self.presence.waiting(), 0, "what can be written is written");
        let present: BTreeMap<_, _> =
            self.presence.devices.iter().map(|(id, d)| (id.clone(), d.document.text())).collect();
        assert_eq!(present, self.store, "the store has what is present, as it is");
        assert_eq!(self.told, present.keys().cloned().collect(), "and that is what was told");
        for (device, (heard, ttl)) in &self.last_heard {
            let is_due = *heard + Duration::from_secs((*ttl).into()) <= self.now;
            if !is_due {
                assert!(present.contains_key(device), "{device} beats and is gone");
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_present_written_and_told_agree(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
        }
        world.settle();
        world.apply(&Step::Pass(3600));
        world.settle();
        prop_assert_eq!(world.presence.len(), 0, "nobody is there for ever");
    }
}

#[test]
fn nobody_falls_silent_while_nothing_can_be_heard() {
    let mut presence = Presence::new(LIMITS);
    let began = Instant::now();
    let at = Timestamp::UNIX_EPOCH;
    drop(presence.register(registration(0, 2), Via::Nats, began, at).unwrap());
    let after = |seconds| began + Duration::from_secs(seconds);
    assert_eq!(presence.expire(after(10), |_| None), 0, "the broker is away");
    let heard = |until| move |_| Some((after(12), after(until)));
    assert_eq!(presence.expire(after(13), heard(13)), 0, "and was not there for long");
    assert_eq!(presence.expire(after(15), heard(13)), 0, "and has been silent itself since");
    assert_eq!(presence.expire(after(16), heard(15)), 1);
}

#[test]
fn what_grows_has_a_bound() {
    let mut presence = Presence::new(Limits { document: 1_000, ..LIMITS });
    let (now, at) = (Instant::now(), Timestamp::UNIX_EPOCH);
    for n in 0..3 {
        drop(presence.register(registration(n, 9), Via::Nats, now, at).unwrap());
    }
    assert!(presence.register(registration(3, 9), Via::Nats, now, at).is_err());
    let mut status = Map::new();
    status.insert("x".to_owned(), Value::String("x".repeat(1_000)));
    assert_eq!(presence.beat(&id(0), &status, Via::Nats, now), Beat::TooLarge);
    let mut large = registration(0, 9);
    large.identity.insert("x".to_owned(), Value::String("x".repeat(1_000)));
    assert!(presence.register(large, Via::Nats, now, at).is_err());
    assert_eq!(presence.len(), 3);
}

#[test]
fn whoever_has_gone_on_without_is_not_kept() {
    let mut presence = Presence::new(LIMITS);
    let (now, at) = (Instant::now(), Timestamp::UNIX_EPOCH);
    // Nothing is written meanwhile, as while the store is away.
    for _ in 0..1_000 {
        drop(presence.register(registration(0, 9), Via::Nats, now, at).unwrap());
    }
    let waiting =
        |presence: &Presence| presence.devices[&id(0)].pending.as_ref().unwrap().waiting.len();
    assert!(waiting(&presence) <= 1);
    let (_, mut last) = presence.register(registration(0, 9), Via::Nats, now, at).unwrap();
    let writes = presence.writes(9, Turn::All);
    for written in presence.written(writes, vec![None], now) {
        for waiting in written.waiting {
            let _ = waiting.send(());
        }
    }
    assert_eq!(last.try_recv(), Ok(()), "whoever waits is told");
}

#[test]
fn a_presence_that_is_given_away_takes_nobody_in() {
    let mut presence = Presence::new(LIMITS);
    let (now, at) = (Instant::now(), Timestamp::UNIX_EPOCH);
    presence.close();
    assert_eq!(
        presence.register(registration(0, 9), Via::Nats, now, at).unwrap_err(),
        Full::Closed
    );
    assert_eq!((presence.len(), presence.waiting()), (0, 0));
}

#[test]
fn who_comes_and_goes_is_written_before_and_without_what_merely_changes() {
    let mut presence = Presence::new(Limits { devices: 9, ..LIMITS });
    let (began, at) = (Instant::now(), Timestamp::UNIX_EPOCH);
    let after = |millis| began + Duration::from_millis(millis);
    let write = |presence: &mut Presence, turn, now| -> Vec<String> {
        let writes = presence.writes(9, turn);
        let ids = writes.iter().map(|write| write.device.to_string()).collect();
        let leases = vec![None; writes.len()];
        presence.written(writes, leases, now);
        ids
    };
    let change = |presence: &mut Presence, n, now| {
        let status = Map::from_iter([("battery".to_owned(), json!(presence.places))]);
        assert_eq!(presence.beat(&id(n), &status, Via::Nats, now), Beat::Changed);
    };
    for n in 0..3 {
        drop(presence.register(registration(n, 9), Via::Nats, began, at).unwrap());
    }
    assert_eq!(presence.urgent_since(), Some(began));
    assert_eq!(write(&mut presence, Turn::Urgent, began), ["cam-0", "cam-1", "cam-2"]);
    assert_eq!((presence.urgent_since(), presence.changed_since()), (None, None));

    change(&mut presence, 0, after(1));
    change(&mut presence, 1, after(5));
    // Whoever registers again is there already.
    drop(presence.register(registration(2, 9), Via::Nats, after(7), at).unwrap());
    assert_eq!((presence.urgent_since(), presence.changed_since()), (None, Some(after(1))));
    drop(presence.register(registration(3, 9), Via::Nats, after(8), at).unwrap());
    assert_eq!(presence.urgent_since(), Some(after(8)));
    assert_eq!(write(&mut presence, Turn::Urgent, after(9)), ["cam-3"]);
    assert_eq!(write(&mut presence, Turn::Urgent, after(9)), [""; 0]);

    // Who falls silent goes before whoever changed earlier, itself among them.
    change(&mut presence, 0, after(10));
    presence.expire(after(9_006), |_| Some((began, after(9_006))));
    assert_eq!(write(&mut presence, Turn::Urgent, after(9_006)), ["cam-1"]);
    assert_eq!(write(&mut presence, Turn::All, after(9_006)), ["cam-0", "cam-2"]);
    assert_eq!(presence.waiting(), 0);
}
