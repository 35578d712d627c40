//! Subscriptions of sessions, which outlive their connections as those do in the broker.

use super::tenancy::Handle;
use crate::realm::{Counter, SessionKey};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of the filters of one session.
const MAX_OPEN_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of filters of one tenant's sessions that are away. What is beyond them is forgotten, and
/// does not count any more.
const MAX_KEPT_BYTES: usize = 64 * 1024 * 1024;

/// What the filters of a session weigh besides their own bytes.
const OVERHEAD: usize = 256;

/// One session's open subscriptions. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub(super) struct Open(Arc<Mutex<Filters>>);

#[derive(Debug, Default)]
struct Filters {
    /// As the client wrote them.
    all: HashSet<Box<str>>,
    bytes: usize,
    /// The session has ended: there will be no more.
    is_over: bool,
}

/// Those of one tenant's sessions, connected or not.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    sessions: HashMap<SessionKey, Session>,
    /// What those that are away weigh.
    kept: usize,
}

#[derive(Debug)]
struct Session {
    open: Open,
    /// Whose connection it has, or had.
    owner: Arc<Handle>,
    /// When it ends, if it is away, and what it weighs.
    away: Option<(Instant, usize)>,
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, Filters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has(&self, filter: &str) -> bool {
        self.lock().all.contains(filter)
    }

    /// Adds a subscription that the broker is being asked for, within these limits. Says whether
    /// there was room for it.
    pub(super) fn add(
        &self,
        filter: &str,
        max: usize,
        counter: &Counter,
        of_tenant: Option<u64>,
    ) -> bool {
        let mut filters = self.lock();
        if filters.all.contains(filter) {
            return true;
        }
        let bytes = filters.bytes + filter.len();
        if filters.is_over || filters.all.len() >= max || bytes > MAX_OPEN_BYTES {
            return false;
        }
        if !counter.add(of_tenant) {
            return false;
        }
        filters.all.insert(filter.into());
        filters.bytes = bytes;
        true
    }

    /// Ends one, if it is there.
    pub(super) fn remove(&self, filter: &str, counter: &Counter) {
        let mut filters = self.lock();
        if filters.all.remove(filter) {
            filters.bytes -= filter.len();
            counter.remove(1);
        }
    }

    /// Ends those that are not allowed any more, and returns them.
    pub(super) fn retain(
        &self,
        mut is_allowed: impl FnMut(&str) -> bool,
        counter: &Counter,
    ) -> Vec<Box<str>> {
        let mut filters = self.lock();
        let ended: Vec<_> = filters.all.extract_if(|filter| !is_allowed(filter)).collect();
        filters.bytes -= ended.iter().map(|filter| filter.len()).sum::<usize>();
        counter.remove(ended.len() as u64);
        ended
    }

    /// Ends all, for ever.
    fn end(&self, counter: &Counter) {
        let mut filters = self.lock();
        counter.remove(filters.all.len() as u64);
        *filters = Filters { is_over: true, ..Filters::default() };
    }

    fn weight(&self) -> usize {
        let filters = self.lock();
        if filters.all.is_empty() { 0 } else { filters.bytes + OVERHEAD }
    }
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn are_none(&self) -> bool {
        self.lock().sessions.is_empty()
    }

    /// Whether there may be this session.
    pub(super) fn have_room(&self, key: &SessionKey, max: usize) -> bool {
        let all = self.lock();
        all.sessions.len() < max || all.sessions.contains_key(key)
    }

    /// The subscriptions of a session that a client now has; those of before, if it goes on.
    pub(super) fn attach(&self, owner: &Arc<Handle>, goes_on: bool, counter: &Counter) -> Open {
        let mut all = self.lock();
        let before = all.sessions.remove(&owner.key);
        let weight = before.as_ref().and_then(|before| before.away).map_or(0, |(_, n)| n);
        all.kept -= weight;
        let open = match before {
            Some(before) if goes_on => before.open,
            before => {
                before.inspect(|before| before.open.end(counter));
                Open::default()
            }
        };
        let session = Session { open: open.clone(), owner: Arc::clone(owner), away: None };
        all.sessions.insert(owner.key.clone(), session);
        open
    }

    /// A client has gone. Its session outlives it for so long, unless another connection has it.
    pub(super) fn detach(&self, owner: &Arc<Handle>, outlives: Duration, counter: &Counter) {
        let mut all = self.lock();
        let All { sessions, kept } = &mut *all;
        let Some(session) = sessions.get_mut(&owner.key) else { return };
        if !Arc::ptr_eq(&session.owner, owner) {
            return;
        }
        let weight = session.open.weight();
        if outlives.is_zero() || weight == 0 || *kept + weight > MAX_KEPT_BYTES {
            session.open.end(counter);
            sessions.remove(&owner.key);
        } else {
            *kept += weight;
            session.away = Some((Instant::now() + outlives, weight));
        }
    }

    /// Forgets sessions that have ended while they were away.
    pub(super) fn expire(&self, counter: &Counter) {
        let now = Instant::now();
        let mut all = self.lock();
        let All { sessions, kept } = &mut *all;
        sessions.retain(|_, session| match session.away {
            Some((until, weight)) if until <= now => {
                *kept -= weight;
                session.open.end(counter);
                false
            }
            _ => true,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::Open;
    use crate::realm::Counter;

    #[test]
    fn what_is_open_counts_once_and_within_limits() {
        let (open, counter) = (Open::default(), Counter::default());
        assert!(open.add("a", 1000, &counter, Some(2)) && open.add("a", 1000, &counter, Some(2)));
        assert!(open.add("b", 1000, &counter, Some(2)) && !open.add("c", 1000, &counter, Some(2)));
        open.remove("x", &counter);
        open.remove("a", &counter);
        assert_eq!(counter.get(), 1);
        assert_eq!(open.retain(|filter| filter != "b", &counter).len(), 1);
        assert_eq!(counter.get(), 0);
        let long = "x".repeat(65_535);
        let added =
            (0..100).filter(|n| open.add(&format!("{n}{long}"), 1000, &counter, None)).count();
        assert!(added == 63, "{added}");
        open.end(&counter);
        assert!(counter.get() == 0 && !open.add("a", 1000, &counter, None));
    }
}
