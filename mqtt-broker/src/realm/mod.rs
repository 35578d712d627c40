//! What one tenant has: its sessions, subscriptions, retained messages and limits.
//!
//! Nothing of it can be named from another realm. Platform services have a realm of their own, which
//! is offered every message, and whose messages are offered to the tenants that their topics name.

mod acknowledge;
mod delivery;
mod link;
mod outgoing;
mod restore;
mod retained;
mod route;
mod service;
mod session;
mod subscribe;
mod trie;
mod usage;
mod will;
mod window;

pub(crate) use link::Link;
pub(crate) use service::published_by;
pub(crate) use session::{Session, SessionKey, Subscription, Will};
pub(crate) use trie::MAX_LEVELS;
pub(crate) use usage::{Counter, Usage};

use crate::broker::Shared;
use crate::bus::{Drain, Lane};
use crate::clock::Deadline;
use crate::codec::{ReasonCode, Version};
use crate::hook::{Access, Noted, Operation, Renewal};
use crate::incarnation::Incarnation;
use crate::settings::FALLBACK;
use crate::store::{Meta, Steps};
use arc_swap::ArcSwap;
use bulkhead_control::usage::Gauges;
use bulkhead_policy::{DenyReason, Quotas, Resource, TenantId, Verdict};
use retained::Retained;
use session::State;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use trie::Trie;

/// One tenant's part of the broker; or that of the platform's services.
pub(crate) struct Realm {
    /// The tenant; `None` for services.
    pub(crate) tenant: Option<TenantId>,
    /// What stands before every name that its clients say.
    pub(crate) mount: Box<str>,
    /// Where its messages go.
    pub(crate) lane: Arc<Lane>,
    /// Ends its dispatcher.
    pub(crate) stop: CancellationToken,
    /// What it uses of its quotas.
    pub(crate) usage: Usage,
    /// Its quotas, as its clients were last admitted with.
    pub(crate) quotas: ArcSwap<Quotas>,
    /// Bytes that wait for its clients.
    queued: Arc<AtomicU64>,
    shared: Arc<Shared>,
    /// Whose this is, of the tenants that have had the name.
    incarnation: Mutex<Incarnation>,
    inside: Mutex<Inside>,
}

struct Inside {
    /// The tenant is gone: nothing comes in any more.
    is_over: bool,
    sessions: HashMap<SessionKey, Arc<Session>>,
    subscriptions: Trie<Arc<Session>>,
    retained: Retained,
    timers: BTreeMap<(Instant, u64), (Timer, Arc<Session>)>,
}

impl Inside {
    fn cancel_timers(&mut self, session: &Session) {
        for at in std::mem::take(&mut session.lock().timers) {
            self.timers.remove(&(at, session.serial));
        }
    }
}

/// What happens to a session that is away.
#[derive(Clone, Copy, Debug)]
enum Timer {
    Will,
    Expiry,
}

/// What a client asks for in CONNECT, after it was let in.
pub(crate) struct Attach<'a> {
    pub(crate) key: SessionKey,
    pub(crate) access: Arc<dyn Access>,
    pub(crate) clean_start: bool,
    pub(crate) expiry: u32,
    pub(crate) will: Option<Will>,
    pub(crate) version: Version,
    pub(crate) max_packet: usize,
    pub(crate) receive_maximum: u16,
    pub(crate) alias_maximum: u16,
    /// CONNACK, for a session that was there already or was not: the first that the client hears.
    pub(crate) connack: &'a (dyn Fn(bool) -> Vec<u8> + Sync),
}

/// A session with a connection.
pub(crate) struct Attached {
    pub(crate) session: Arc<Session>,
    /// Which of the session's connections this is.
    pub(crate) generation: u64,
}

impl Realm {
    pub(crate) fn new(
        tenant: Option<TenantId>,
        mount: &str,
        incarnation: Incarnation,
        lane: Arc<Lane>,
        stop: CancellationToken,
        shared: Arc<Shared>,
    ) -> Self {
        let realm = Self {
            tenant,
            mount: mount.into(),
            lane,
            stop,
            usage: Usage::default(),
            quotas: ArcSwap::default(),
            queued: Arc::default(),
            shared,
            incarnation: Mutex::new(incarnation),
            inside: Mutex::new(Inside {
                is_over: false,
                sessions: HashMap::new(),
                subscriptions: Trie::new(),
                retained: Retained::default(),
                timers: BTreeMap::new(),
            }),
        };
        realm.keep_incarnation(incarnation);
        realm
    }

    /// Whether this is of the tenant that has the name now. One of which that was not known becomes
    /// known by it.
    pub(crate) fn belongs_to(&self, now: Incarnation) -> bool {
        let mut own = self.incarnation.lock().unwrap_or_else(PoisonError::into_inner);
        let is_still = own.is_still(now);
        if is_still && *own != now && now != Incarnation::Unknown {
            *own = now;
            self.keep_incarnation(now);
        }
        is_still
    }

    fn keep_incarnation(&self, incarnation: Incarnation) {
        if let (Some(store), Some(tenant)) = (&self.shared.store, &self.tenant) {
            let mut steps = Steps::default();
            steps.tenant(tenant.as_str(), incarnation.created());
            store.take(steps);
        }
    }

    /// Nothing is kept of the tenant, so it makes no difference which one it was.
    pub(crate) fn forget_incarnation(&self) {
        self.keep_incarnation(Incarnation::Unknown);
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Routes what comes out of the router until nobody needs it any more.
    pub(crate) async fn dispatch(self: Arc<Self>, mut drain: Drain) {
        loop {
            let batch = drain.next().await;
            let behind = self.route(&batch);
            for session in behind {
                route::wait_for(&session).await;
            }
            // A busy tenant lets others have their turn.
            tokio::task::consume_budget().await;
        }
    }

    /// Gives a client its session, and takes it from a former connection.
    ///
    /// # Errors
    /// [`DenyReason::ConnectionQuotaExceeded`], [`DenyReason::SessionQuotaExceeded`], or
    /// [`DenyReason::TenantUnknown`] if the tenant is gone meanwhile.
    pub(crate) fn attach(&self, attach: Attach<'_>) -> Verdict<Attached> {
        let quotas = attach.access.quotas().or(FALLBACK);
        self.quotas.store(Arc::new(quotas));
        let mut inside = self.lock();
        if inside.is_over {
            return Err(DenyReason::TenantUnknown);
        }
        let known = inside.sessions.get(&attach.key).cloned();
        if known.is_none() && inside.sessions.len() >= self.shared.settings.max_sessions {
            return Err(DenyReason::SessionQuotaExceeded);
        }
        let is_connected = known.as_ref().is_some_and(|session| session.lock().link.is_some());
        if !is_connected && !self.usage.connections.add(quotas.connections) {
            return Err(DenyReason::ConnectionQuotaExceeded);
        }
        let resumed = known.filter(|session| {
            self.leave_old_connection(session, attach.clean_start);
            if attach.clean_start {
                self.end(&mut inside, session);
            }
            !attach.clean_start
        });
        let present = resumed.is_some();
        let session = resumed.unwrap_or_else(|| {
            let serial = self.shared.next_serial();
            let session = Arc::new(Session::new(
                attach.key.clone(),
                serial,
                Arc::clone(&attach.access),
                Arc::clone(&self.queued),
            ));
            inside.sessions.insert(attach.key.clone(), Arc::clone(&session));
            session
        });
        inside.cancel_timers(&session);
        if present {
            // Rights may have changed since it was here.
            self.take_over_access(&mut inside, &session, Arc::clone(&attach.access));
        }
        let mut state = session.lock();
        state.generation += 1;
        state.expiry = attach.expiry;
        state.will = attach.will;
        state.link = Some(Link {
            version: attach.version,
            out: (attach.connack)(present),
            close: None,
            max_packet: attach.max_packet,
            receive_maximum: attach.receive_maximum,
            alias_maximum: attach.alias_maximum,
            aliases: HashMap::new(),
            unacknowledged: 0,
        });
        let generation = state.generation;
        self.keep(&session, &mut state, 0);
        state.resend(self.mount.len());
        drop(state);
        Ok(Attached { session, generation })
    }

    /// Takes the session from a connection that it still has, whose will is then due unless a session
    /// that goes on makes it wait (MQTT 5 §3.1.3.2.2).
    fn leave_old_connection(&self, session: &Arc<Session>, ends: bool) {
        let mut state = session.lock();
        state.generation += 1;
        let was_connected = state.link.take().is_some();
        state.count_out();
        let will = state.will.take().filter(|will| ends || (was_connected && will.delay == 0));
        drop(state);
        session.wake.notify_one();
        if let Some(will) = will {
            self.publish_will(session, &will);
        }
    }

    /// Ends a session's connection. With `will`, the will is due.
    pub(crate) fn detach(&self, session: &Arc<Session>, generation: u64, will: bool) {
        let mut inside = self.lock();
        let mut state = session.lock();
        if state.generation != generation || state.link.is_none() {
            // Another connection has it.
            return;
        }
        state.link = None;
        state.count_out();
        self.usage.connections.remove(1);
        let expiry = state.expiry;
        let will = state.will.take().filter(|_| will);
        let due = will.as_ref().filter(|will| will.delay == 0 || expiry == 0).cloned();
        let now = Instant::now();
        if let (Some(will), None) = (will, &due) {
            let at = now + Duration::from_secs(will.delay.min(expiry).into());
            state.will = Some(will);
            state.timers.push(at);
            inside.timers.insert((at, session.serial), (Timer::Will, Arc::clone(session)));
        }
        if expiry > 0 && expiry != u32::MAX {
            // Never at the same time as the will, which comes first.
            let at = now + Duration::from_secs(expiry.into()) + Duration::from_millis(1);
            state.timers.push(at);
            inside.timers.insert((at, session.serial), (Timer::Expiry, Arc::clone(session)));
        }
        self.keep(session, &mut state, Deadline::after(expiry).to_bits());
        drop(state);
        if let Some(will) = due {
            self.publish_will(session, &will);
        }
        if expiry == 0 {
            self.end(&mut inside, session);
        }
    }

    /// Keeps a session that outlives its connection, where there is a store; `ends` is when it does,
    /// 0 while it is connected.
    fn keep(&self, session: &Session, state: &mut State, ends: u32) {
        let Some(store) = &self.shared.store else { return };
        if state.expiry == 0 {
            return state.keep_no_longer();
        }
        if state.store().is_none() {
            state.keep_in(store.session());
        }
        let text = |text: &str| Box::from(text);
        let meta = Meta {
            tenant: text(self.name()),
            device: session.key.device.as_ref().map_or(text(""), |device| text(device.as_str())),
            client_id: text(&session.key.client_id),
            expiry: state.expiry,
            ends,
        };
        if let Some(store) = state.store() {
            let mut steps = Steps::default();
            store.put_meta(&mut steps, &meta);
            store.take(steps);
        }
    }

    /// The tenant's name; empty for services.
    pub(crate) fn name(&self) -> &str {
        self.tenant.as_ref().map_or("", TenantId::as_str)
    }

    /// Does what is due for sessions that are away.
    pub(crate) fn tick(&self, now: Instant) {
        let mut inside = self.lock();
        while let Some(entry) = inside.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let (timer, session) = entry.remove();
            match timer {
                Timer::Will => {
                    let will = session.lock().will.take();
                    if let Some(will) = will {
                        self.publish_will(&session, &will);
                    }
                }
                Timer::Expiry => self.end(&mut inside, &session),
            }
        }
    }

    /// Forgets everything for good: nothing of a tenant that is gone is left for one of the same name.
    pub(crate) fn clear(&self) {
        let mut inside = self.lock();
        inside.is_over = true;
        let sessions: Vec<_> = inside.sessions.values().cloned().collect();
        for session in sessions {
            let gone = DenyReason::TenantUnknown;
            if session.close(closing_reason(gone)) {
                let access = Arc::clone(&session.lock().access);
                access.note(Noted::Terminated(gone));
            }
            session.lock().will = None;
            self.end(&mut inside, &session);
        }
        let retained = std::mem::take(&mut inside.retained);
        if let Some(store) = &self.shared.store {
            let mut steps = Steps::default();
            retained.topics().for_each(|topic| steps.release(self.name(), topic));
            steps.tenant(self.name(), None);
            store.take(steps);
        }
    }

    /// Forgets retained messages that have expired.
    pub(crate) fn expire_retained(&self) {
        // Held until they are given to the store, so that no newer one of their topics is before them.
        let mut inside = self.lock();
        let gone = inside.retained.expire();
        if let Some(store) = &self.shared.store {
            let mut steps = Steps::default();
            gone.iter().for_each(|topic| steps.release(self.name(), topic));
            store.take(steps);
        }
    }

    /// Ends a session: nothing of it is left.
    fn end(&self, inside: &mut Inside, session: &Arc<Session>) {
        let mut state = session.lock();
        let will = state.will.take();
        let subscriptions = std::mem::take(&mut state.subscriptions);
        let waiting = state.take_waiting();
        state.keep_no_longer();
        // A connection that it still has may not bring it back.
        state.expiry = 0;
        drop(state);
        for filter in subscriptions.keys() {
            self.remove_from_trie(inside, session, filter);
        }
        self.usage.subscriptions.remove(subscriptions.len() as u64);
        if inside.sessions.get(&session.key).is_some_and(|known| known == session) {
            inside.sessions.remove(&session.key);
        }
        inside.cancel_timers(session);
        self.hand_on(inside, session, waiting);
        if let Some(will) = will {
            self.publish_will(session, &will);
        }
    }

    /// Asks again what each client may do, and cuts off who may not stay. Says how many those were,
    /// by reason.
    pub(crate) fn reassess(&self) -> HashMap<DenyReason, u64> {
        let sessions: Vec<_> = self.lock().sessions.values().cloned().collect();
        let mut cut = HashMap::new();
        for session in sessions {
            if let Some(reason) = self.reassess_session(&session) {
                *cut.entry(reason).or_default() += 1;
            }
        }
        cut
    }

    /// The same for one session. Says why it was cut off, if it was.
    pub(crate) fn reassess_session(&self, session: &Arc<Session>) -> Option<DenyReason> {
        let access = Arc::clone(&session.lock().access);
        match access.renew() {
            Ok(Renewal::Unchanged) => None,
            Ok(Renewal::Changed(access)) => {
                self.quotas.store(Arc::new(access.quotas().or(FALLBACK)));
                self.take_over_access(&mut self.lock(), session, access);
                None
            }
            Err(reason) => session.close(closing_reason(reason)).then(|| {
                access.note(Noted::Terminated(reason));
                reason
            }),
        }
    }

    /// Gives a session other rights: subscriptions and waiting messages beyond them are gone.
    pub(crate) fn renew(&self, session: &Arc<Session>, access: Arc<dyn Access>) {
        self.take_over_access(&mut self.lock(), session, access);
    }

    fn take_over_access(
        &self,
        inside: &mut Inside,
        session: &Arc<Session>,
        access: Arc<dyn Access>,
    ) {
        let mut state = session.lock();
        let denied: HashSet<Box<str>> = state
            .subscriptions
            .keys()
            .filter(|filter| !self.may_subscribe(&*access, filter))
            .cloned()
            .collect();
        state.subscriptions.retain(|filter, _| !denied.contains(filter));
        let dropped = state.filter_waiting(|topic| access.receives(topic));
        if let Some(store) = state.store() {
            let mut steps = Steps::default();
            denied.iter().for_each(|filter| store.unsubscribe(&mut steps, filter));
            store.take(steps);
        }
        state.access = access;
        drop(state);
        session.rights.fetch_add(1, Ordering::Release);
        for filter in &denied {
            self.remove_from_trie(inside, session, filter);
        }
        self.usage.subscriptions.remove(denied.len() as u64);
        self.shared.metrics.denied(Operation::Subscribe, DenyReason::RightsChanged, denied.len());
        self.shared.metrics.denied(Operation::Receive, DenyReason::RightsChanged, dropped);
    }

    /// Counts what was refused, and tells whoever decided.
    pub(crate) fn denied(&self, access: &dyn Access, operation: Operation, reason: DenyReason) {
        self.shared.metrics.denied(operation, reason, 1);
        access.note(Noted::Denied(operation, reason));
    }

    /// Closes every connection.
    pub(crate) fn close_all(&self, reason: ReasonCode) {
        let sessions: Vec<_> = self.lock().sessions.values().cloned().collect();
        for session in sessions {
            session.close(reason);
        }
    }

    /// Whether nothing is left of the tenant.
    pub(crate) fn is_idle(&self) -> bool {
        self.counts() == (0, 0) && self.lane.is_idle() && self.usage.is_at_rest()
    }

    /// What the tenant has here.
    pub(crate) fn gauges(&self) -> Gauges {
        let inside = self.lock();
        let retained = (inside.retained.len(), inside.retained.bytes());
        drop(inside);
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Gauges::from([
            (Resource::Connections, self.usage.connections.get()),
            (Resource::Subscriptions, self.usage.subscriptions.get()),
            (Resource::RetainedMessages, count(retained.0)),
            (Resource::RetainedBytes, count(retained.1)),
            (Resource::QueuedBytes, self.queued.load(Ordering::Relaxed)),
        ])
    }

    /// How many sessions and retained messages there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let inside = self.lock();
        (inside.sessions.len(), inside.retained.len())
    }
}

/// The reason in DISCONNECT for why a client is cut off.
pub(crate) fn closing_reason(reason: DenyReason) -> ReasonCode {
    match reason {
        DenyReason::TokenExpired => ReasonCode::MAXIMUM_CONNECT_TIME,
        DenyReason::TenantSuspended
        | DenyReason::TenantUnknown
        | DenyReason::DeviceRevoked
        | DenyReason::TokenRevoked
        | DenyReason::TokenSuperseded => ReasonCode::ADMINISTRATIVE_ACTION,
        _ => ReasonCode::NOT_AUTHORIZED,
    }
}

impl fmt::Debug for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Realm").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}
