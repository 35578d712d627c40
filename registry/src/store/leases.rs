//! Leases that devices share.
//!
//! A lease is the net for when every replica is gone: it lasts longer than the devices under it, and is
//! kept alive while one of them is here. That costs a request per lease every third of its time, for
//! however many devices.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The shortest time that a lease lasts, in seconds, at the least; the others are doubled and doubled again.
const SHORTEST: i64 = 30;

/// By how much a lease outlasts the time after which another replica takes over, which keeps it alive then.
const OUTLASTS: u32 = 3;

/// Devices under one lease: when it is lost, so many are written again.
const MAX_DEVICES: usize = 10_000;

/// A lease in etcd. It is kept alive while somebody holds it.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) id: i64,
    /// Seconds.
    ttl: i64,
    is_lost: AtomicBool,
}

impl Lease {
    /// Whether it lasts as long as those of a class.
    pub(super) fn suits(&self, class: i64) -> bool {
        self.ttl >= class
    }

    /// Whether etcd no longer knows it, and what was under it is gone.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }
}

impl PartialEq for Lease {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Lease {}

/// The leases of one process.
pub(crate) struct Leases {
    /// Seconds.
    shortest: i64,
    known: Mutex<Known>,
    losses: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    /// Each, and when it was last kept alive.
    all: BTreeMap<i64, (Arc<Lease>, Option<Instant>)>,
    /// Which one new devices get, by its time to live.
    current: BTreeMap<i64, Arc<Lease>>,
}

impl Leases {
    /// None yet, of replicas that take over after so long.
    pub(super) fn new(takeover_after: Duration) -> Self {
        let outlasts = takeover_after.saturating_mul(OUTLASTS).as_secs();
        let shortest = i64::try_from(outlasts).unwrap_or(i64::MAX).max(SHORTEST);
        Self { shortest, known: Mutex::default(), losses: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is told when some are lost.
    pub(super) fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    /// How many are kept alive.
    pub(super) fn len(&self) -> usize {
        self.lock().all.len()
    }

    /// How long a lease lasts for a device with this time to live, in seconds.
    pub(super) fn class(&self, ttl: u32) -> i64 {
        let mut class = self.shortest;
        while class < 2 * i64::from(ttl) {
            class *= 2;
        }
        class
    }

    /// The lease for new devices of a class, if there is one with room.
    pub(super) fn current(&self, class: i64) -> Option<Arc<Lease>> {
        let known = self.lock();
        let lease = known.current.get(&class).filter(|lease| !lease.is_lost())?;
        // Two are held here.
        (Arc::strong_count(lease) < MAX_DEVICES + 2).then(|| Arc::clone(lease))
    }

    /// Takes a new one for the devices of its class.
    pub(super) fn granted(&self, id: i64, ttl: i64) -> Arc<Lease> {
        let lease = self.adopt(id, ttl);
        self.lock().current.insert(ttl, Arc::clone(&lease));
        lease
    }

    fn adopt(&self, id: i64, ttl: i64) -> Arc<Lease> {
        let mut known = self.lock();
        let fresh = || {
            let lease = Lease { id, ttl, is_lost: AtomicBool::new(false) };
            (Arc::new(lease), Some(Instant::now()))
        };
        Arc::clone(&known.all.entry(id).or_insert_with(fresh).0)
    }

    /// The same, for a lease that is found. How long it lasts is not known, nor for how long it will still
    /// do so: it is due at once.
    pub(super) fn adopt_unknown(&self, id: i64) -> Arc<Lease> {
        let mut known = self.lock();
        let fresh = || {
            let lease = Lease { id, ttl: self.shortest, is_lost: AtomicBool::new(false) };
            (Arc::new(lease), None)
        };
        Arc::clone(&known.all.entry(id).or_insert_with(fresh).0)
    }

    /// Which leases are due to be kept alive. Those that nobody holds any more are let go.
    pub(super) fn due(&self, now: Instant) -> Vec<i64> {
        let mut known = self.lock();
        let Known { all, current } = &mut *known;
        // A lease that no device is under is held here, and perhaps as a current one.
        let held = |lease: &Arc<Lease>, current: &BTreeMap<i64, Arc<Lease>>| {
            let is_current = current.get(&lease.ttl).is_some_and(|other| other == lease);
            Arc::strong_count(lease) > 1 + usize::from(is_current)
        };
        all.retain(|_, (lease, _)| held(lease, current));
        current.retain(|_, lease| all.contains_key(&lease.id));
        let third = |lease: &Lease| Duration::from_secs(lease.ttl.unsigned_abs()) / 3;
        let is_due = |(lease, kept): &&(Arc<Lease>, Option<Instant>)| {
            kept.is_none_or(|kept| now.saturating_duration_since(kept) >= third(lease))
        };
        all.values().filter(is_due).map(|(lease, _)| lease.id).collect()
    }

    /// Notes that one was kept alive.
    pub(super) fn kept(&self, id: i64, now: Instant) {
        if let Some((_, kept)) = self.lock().all.get_mut(&id) {
            *kept = Some(now);
        }
    }

    /// Notes that etcd does not know one any more.
    pub(super) fn lost(&self, id: i64) {
        let mut known = self.lock();
        if let Some((lease, _)) = known.all.remove(&id) {
            lease.is_lost.store(true, Ordering::Release);
            known.current.retain(|_, current| *current != lease);
        }
        drop(known);
        self.losses.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::Leases;
    use std::time::{Duration, Instant};

    fn leases(takeover_after: u64) -> Leases {
        Leases::new(Duration::from_secs(takeover_after))
    }

    #[test]
    fn a_lease_outlasts_its_devices() {
        let leases = leases(10);
        assert_eq!([1, 15, 16, 86_400].map(|ttl| leases.class(ttl)), [30, 30, 60, 245_760]);
        let short = leases.granted(7, 30);
        assert!(short.suits(leases.class(15)) && !short.suits(leases.class(16)));
    }

    #[test]
    fn a_lease_outlasts_a_takeover() {
        for (takeover_after, shortest) in [(2, 30), (10, 30), (11, 33), (600, 1_800)] {
            assert_eq!(leases(takeover_after).class(1), shortest, "{takeover_after}");
        }
        assert_eq!(leases(60).class(200), 720);
    }

    #[test]
    fn one_that_is_found_is_kept_alive_at_once() {
        let leases = leases(10);
        let found = leases.adopt_unknown(7);
        assert_eq!(leases.due(Instant::now()), [found.id]);
    }

    #[test]
    fn what_nobody_holds_is_let_go() {
        let leases = leases(10);
        let held = leases.granted(7, 30);
        drop(leases.granted(8, 60));
        let later = Instant::now() + Duration::from_secs(11);
        assert_eq!(leases.due(later), [7]);
        assert!(leases.current(60).is_none() && leases.current(30) == Some(held.clone()));
        leases.kept(7, later);
        assert!(leases.due(later).is_empty());
        let losses = leases.losses();
        leases.lost(7);
        assert!(held.is_lost() && losses.has_changed().unwrap() && leases.current(30).is_none());
    }
}
