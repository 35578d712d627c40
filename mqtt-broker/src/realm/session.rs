use super::link::Link;
use super::window::{Stage, Waiting, Window};
use crate::codec::{ReasonCode, SubscriptionOptions};
use crate::hook::Access;
use crate::store::SessionStore;
use bulkhead_policy::DeviceId;
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

/// Bytes that may wait for a client that keeps up before its tenant's publishers are slowed down.
const BACKLOG_BYTES: usize = 64 * 1024;

/// Whose session it is. Client ids are names that clients choose, so they are their device's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionKey {
    /// The device, if the token names one.
    pub(crate) device: Option<DeviceId>,
    /// The client id.
    pub(crate) client_id: Arc<str>,
}

/// A client's session (MQTT 5 §4.1), connected or not.
#[derive(Debug)]
pub(crate) struct Session {
    /// Whose it is.
    pub(crate) key: SessionKey,
    /// Different from that of every other session of this process.
    pub(crate) serial: u64,
    /// Tells the connection that there is something to send, or to end.
    pub(crate) wake: Notify,
    /// Tells the dispatcher that the client has caught up.
    pub(crate) drained: Notify,
    /// Counts the changes of its rights, so that its connection need not lock to see that there was
    /// none.
    pub(crate) rights: AtomicU64,
    state: Mutex<State>,
}

/// What is true of a session now.
pub(crate) struct State {
    /// What its client may do.
    pub(crate) access: Arc<dyn Access>,
    /// Its connection.
    pub(crate) link: Option<Link>,
    /// Counts its connections, so that an old one knows that it is.
    pub(crate) generation: u64,
    /// Seconds for which it outlives its connection; `u32::MAX` is for ever.
    pub(crate) expiry: u32,
    /// Its subscriptions, by filter as the client wrote it, `$share/…` included.
    pub(crate) subscriptions: BTreeMap<Box<str>, Subscription>,
    /// Its will.
    pub(crate) will: Option<Will>,
    /// When something happens to it while it is away.
    pub(crate) timers: Vec<Instant>,
    /// Messages of QoS 2 that it published and has not released.
    pub(crate) received: HashSet<u16>,
    /// Messages of QoS 1 and 2 on their way to it.
    pub(super) window: Window,
    /// Messages that wait.
    pub(super) queue: VecDeque<Queued>,
    pub(super) queued_bytes: usize,
    /// What waits for all clients of the tenant, in bytes.
    pub(super) tenant_queued: Arc<AtomicU64>,
    /// Bytes before the socket that are counted in it.
    pub(super) counted_out: usize,
    /// The number of the next message that is kept for it.
    pub(super) next_number: u64,
    /// Where it is kept, if it survives a restart.
    pub(super) store: Option<SessionStore>,
    /// It did not keep up, so nobody waits for it.
    pub(super) is_slow: bool,
}

/// How it subscribes to one filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// Its options.
    pub(crate) options: SubscriptionOptions,
    /// Its identifier.
    pub(crate) id: Option<u32>,
}

/// What is published when its connection ends without DISCONNECT (MQTT 5 §3.1.2.5).
#[derive(Clone, Debug)]
pub(crate) struct Will {
    /// The message, as a [`record`](crate::record).
    pub(crate) record: Bytes,
    /// Seconds that a message lives once it is published.
    pub(crate) expiry: Option<u32>,
    /// Seconds to wait before.
    pub(crate) delay: u32,
}

/// A message that waits in a session's queue.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) waiting: Waiting,
    pub(super) number: u64,
}

impl Session {
    pub(crate) fn new(
        key: SessionKey,
        serial: u64,
        access: Arc<dyn Access>,
        tenant_queued: Arc<AtomicU64>,
    ) -> Self {
        Self {
            key,
            serial,
            wake: Notify::new(),
            drained: Notify::new(),
            rights: AtomicU64::new(0),
            state: Mutex::new(State {
                access,
                link: None,
                generation: 0,
                expiry: 0,
                subscriptions: BTreeMap::new(),
                will: None,
                timers: Vec::new(),
                received: HashSet::new(),
                window: Window::new(),
                queue: VecDeque::new(),
                queued_bytes: 0,
                tenant_queued,
                counted_out: 0,
                next_number: 1,
                store: None,
                is_slow: false,
            }),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends its connection. Says whether it has one that was not to end anyway.
    pub(crate) fn close(&self, reason: ReasonCode) -> bool {
        let mut state = self.lock();
        let Some(link) = state.link.as_mut().filter(|link| link.close.is_none()) else {
            return false;
        };
        link.close = Some(reason);
        drop(state);
        self.wake.notify_one();
        true
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.link = None;
        self.count_out();
        self.set_queued(0);
    }
}

impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl State {
    /// Whether it has not kept up with its messages but may still do so.
    pub(crate) fn has_backlog(&self) -> bool {
        let out = self.link.as_ref().map_or(0, |link| link.out.len());
        self.link.is_some() && !self.is_slow && self.queued_bytes + out > BACKLOG_BYTES
    }

    /// Nobody waits for it until it has caught up.
    pub(crate) fn give_up_on(&mut self) {
        self.is_slow = true;
    }

    pub(super) fn set_queued(&mut self, bytes: usize) {
        let (before, after) = (self.queued_bytes as u64, bytes as u64);
        self.queued_bytes = bytes;
        if after >= before {
            self.tenant_queued.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.tenant_queued.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// The connection, if it is this one.
    pub(crate) fn link_of(&mut self, generation: u64) -> Option<&mut Link> {
        self.link.as_mut().filter(|_| self.generation == generation)
    }

    /// Why the connection has to end, if it has to. `None` if it is not the session's any more.
    pub(crate) fn closing(&self, generation: u64) -> Option<Option<ReasonCode>> {
        self.link.as_ref().filter(|_| self.generation == generation).map(|link| link.close)
    }

    /// Takes out everything that waits, for whoever comes after this session.
    pub(crate) fn take_waiting(&mut self) -> Vec<Waiting> {
        let in_flight: Vec<_> = self
            .window
            .iter()
            .filter_map(|flight| match &flight.stage {
                Stage::Published1(kept) => kept.clone(),
                _ => None,
            })
            .collect();
        self.window.clear();
        self.set_queued(0);
        in_flight.into_iter().chain(self.queue.drain(..).map(|queued| queued.waiting)).collect()
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("queued_bytes", &self.queued_bytes).finish_non_exhaustive()
    }
}
