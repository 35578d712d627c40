//! Since when an etcd is away, as the replica knows that asks it for its own lease.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The last sign of life of an etcd.
#[derive(Debug)]
pub(crate) struct Contact {
    known: Mutex<Known>,
    /// How long a replica's lease lasts.
    ttl: Duration,
}

#[derive(Debug)]
struct Known {
    /// When the question was asked that etcd answered last. The lease lasts from then on at the least.
    confirmed: Instant,
    is_lost: bool,
    /// Whether there were other replicas then, who take over from one that is silent.
    has_others: bool,
}

impl Contact {
    pub(super) fn new(ttl: Duration) -> Self {
        let known = Known { confirmed: Instant::now(), is_lost: true, has_others: false };
        Self { known: Mutex::new(known), ttl }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that etcd has confirmed the lease, which it was asked for then.
    pub(crate) fn confirmed(&self, asked: Instant) {
        let mut known = self.lock();
        known.confirmed = asked;
        known.is_lost = false;
    }

    /// Notes that etcd does not answer.
    pub(crate) fn lost(&self) {
        self.lock().is_lost = true;
    }

    /// Notes whether there are other replicas.
    pub(crate) fn others(&self, has_others: bool) {
        self.lock().has_others = has_others;
    }

    /// Whether another replica may have taken over by now what is this one's, without its knowing.
    pub(crate) fn is_doubtful(&self) -> bool {
        let known = self.lock();
        known.has_others && known.confirmed.elapsed() > self.ttl
    }

    /// Since when etcd is away; `None` while it is there. One that says nothing for as long as the lease
    /// lasts is away, noticed or not.
    pub(crate) fn away_since(&self) -> Option<Instant> {
        let known = self.lock();
        let is_away = known.is_lost || known.confirmed.elapsed() > self.ttl;
        is_away.then_some(known.confirmed)
    }
}

#[cfg(test)]
mod tests {
    use super::Contact;
    use std::time::{Duration, Instant};

    #[test]
    fn an_etcd_is_away_since_its_last_answer() {
        let contact = Contact::new(Duration::from_secs(10));
        let asked = Instant::now();
        contact.confirmed(asked);
        assert_eq!(contact.away_since(), None);
        contact.lost();
        assert_eq!(contact.away_since(), Some(asked));
        let Some(long_ago) = asked.checked_sub(Duration::from_secs(11)) else { return };
        contact.confirmed(long_ago);
        assert_eq!(contact.away_since(), Some(long_ago), "nobody has noticed yet");
        assert!(!contact.is_doubtful(), "nobody else could take over");
        contact.others(true);
        assert!(contact.is_doubtful());
        contact.confirmed(Instant::now());
        assert!(!contact.is_doubtful());
    }
}
