//! Who is connected through the front, by tenant.

use super::relay::End;
use super::subscriptions::Sessions;
use super::wills::Wills;
use crate::hook::{Access, Noted, Renewal};
use crate::realm::{SessionKey, Usage, closing_reason};
use bulkhead_policy::{DenyReason, Verdict};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// One tenant's clients here, and what they use of its quotas; or those of the platform's services.
#[derive(Debug)]
pub(super) struct Tenancy {
    pub(super) usage: Usage,
    pub(super) wills: Wills,
    pub(super) sessions: Sessions,
    clients: Mutex<HashMap<SessionKey, Arc<Handle>>>,
}

/// What others see of one client's relay.
pub(super) struct Handle {
    pub(super) key: SessionKey,
    /// Tells the relay that there is something to look at.
    pub(super) wake: Notify,
    /// Counts the changes of its rights.
    rights: AtomicU64,
    /// Whether it is the one that counts as a connection of its session.
    counts: AtomicBool,
    state: Mutex<State>,
}

struct State {
    access: Arc<dyn Access>,
    end: Option<End>,
}

/// A relay's place in its tenancy; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) tenancy: Arc<Tenancy>,
    pub(super) handle: Arc<Handle>,
}

impl Tenancy {
    pub(super) fn new() -> Self {
        Self {
            usage: Usage::default(),
            wills: Wills::default(),
            sessions: Sessions::default(),
            clients: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Arc<Handle>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a client its place. One that is connected here with the same client id loses it, as the
    /// broker will tell it too.
    ///
    /// # Errors
    /// [`DenyReason::ConnectionQuotaExceeded`], [`DenyReason::SessionQuotaExceeded`], or why it may
    /// not stay after all.
    pub(super) fn enter(
        self: &Arc<Self>,
        key: SessionKey,
        access: Arc<dyn Access>,
        max_sessions: usize,
    ) -> Verdict<Seat> {
        if !self.sessions.have_room(&key, max_sessions) {
            return Err(DenyReason::SessionQuotaExceeded);
        }
        let handle = Arc::new(Handle {
            key: key.clone(),
            wake: Notify::new(),
            rights: AtomicU64::new(0),
            counts: AtomicBool::new(true),
            state: Mutex::new(State { access: Arc::clone(&access), end: None }),
        });
        let mut clients = self.lock();
        let former = clients.get(&key).cloned();
        let has_place = former.as_ref().is_some_and(|f| f.counts.swap(false, Ordering::Relaxed));
        if !has_place && !self.usage.connections.add(access.quotas().connections) {
            return Err(DenyReason::ConnectionQuotaExceeded);
        }
        self.wills.forget(&key);
        clients.insert(key, Arc::clone(&handle));
        drop(clients);
        if let Some(former) = former {
            former.end(End::TakenOver);
        }
        let seat = Seat { tenancy: Arc::clone(self), handle };
        // What changed since the client was let in was told to those who had a place.
        match access.renew()? {
            Renewal::Unchanged => {}
            Renewal::Changed(access) => seat.handle.replace(access),
        }
        Ok(seat)
    }

    /// Forgets what has come to its end while its client was away.
    pub(super) fn expire(&self) {
        self.wills.expire();
        self.sessions.expire(&self.usage.subscriptions);
    }

    /// Whether nothing is left of the tenant.
    pub(super) fn is_idle(&self) -> bool {
        let nobody = self.len() == 0 && self.wills.are_none() && self.sessions.are_none();
        nobody && self.usage.is_at_rest()
    }

    /// How many clients there are.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Asks again what each client may do, and ends those that may not stay. Says how many those
    /// were, by reason.
    pub(super) fn reassess(&self) -> HashMap<DenyReason, u64> {
        let handles: Vec<_> = self.lock().values().cloned().collect();
        let mut cut = HashMap::new();
        for handle in handles {
            if let Some(reason) = handle.reassess() {
                *cut.entry(reason).or_default() += 1;
            }
        }
        cut
    }
}

impl Handle {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the client may do now.
    pub(super) fn access(&self) -> Arc<dyn Access> {
        Arc::clone(&self.lock().access)
    }

    /// Gives it other rights.
    pub(super) fn replace(&self, access: Arc<dyn Access>) {
        self.lock().access = access;
        self.rights.fetch_add(1, Ordering::Release);
        self.wake.notify_one();
    }

    /// Asks again what the client may do. Says why it is ended, if it is.
    pub(super) fn reassess(&self) -> Option<DenyReason> {
        let access = self.access();
        match access.renew() {
            Ok(Renewal::Unchanged) => None,
            Ok(Renewal::Changed(access)) => {
                self.replace(access);
                None
            }
            Err(reason) => self.end(End::Closed(closing_reason(reason))).then(|| {
                access.note(Noted::Terminated(reason));
                reason
            }),
        }
    }

    /// How often its rights were replaced, or it was ended.
    pub(super) fn rights(&self) -> u64 {
        self.rights.load(Ordering::Acquire)
    }

    /// Ends it. Says whether it had not been told to end before.
    fn end(&self, end: End) -> bool {
        let mut state = self.lock();
        let is_first = state.end.is_none();
        state.end.get_or_insert(end);
        drop(state);
        self.rights.fetch_add(1, Ordering::Release);
        self.wake.notify_one();
        is_first
    }

    /// Why it has to end.
    pub(super) fn ending(&self) -> Option<End> {
        self.lock().end
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut clients = self.tenancy.lock();
        if self.handle.counts.swap(false, Ordering::Relaxed) {
            self.tenancy.usage.connections.remove(1);
        }
        if clients.get(&self.handle.key).is_some_and(|known| Arc::ptr_eq(known, &self.handle)) {
            clients.remove(&self.handle.key);
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("key", &self.key).finish_non_exhaustive()
    }
}
