//! One tenant that is served: its devices, what they say, and what is written and told about them.

mod answer;
mod budget;
mod hear;
mod pulls;
mod room;
mod scan;

pub(crate) use answer::{Asked, Asker, Who};
pub(crate) use room::Permit;

use crate::backend::Backend;
use crate::backlog::{Backlog, Unheard, backlog};
use crate::metrics::Metrics;
use crate::ownership::Fence;
use crate::presence::{Event, Limits, Memory, Presence, Turn, Via, Write, Written};
use crate::store::{Store, StoreError};
use crate::watch::{Change, Changes};
use crate::wire::{Transition, lifecycle};
use budget::Budget;
use bulkhead_control::Authenticator;
use bulkhead_policy::{DeviceId, TenantId};
use jiff::Timestamp;
use pulls::Pulls;
use room::Room;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// Devices of one write; etcd takes 128 operations, and some devices need two.
const BATCH: usize = 60;

/// First and longest pause after a write that did not succeed.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long changes of a status are gathered while the store has little room.
const LONG_WINDOW: Duration = Duration::from_secs(10);

/// How often time is looked at, at the least.
const TICK: Duration = Duration::from_secs(1);

/// A tick that comes later than this was the process's own sleep: nobody could be heard meanwhile.
const STALL: Duration = Duration::from_secs(3);

/// Devices of a tenant that are asked for their registration at a time.
const PULLS: usize = 16;

/// Registrations of a tenant that are worked on at a time, and bytes of them: those of a whole fleet that
/// comes back at once.
const REGISTRATIONS: (usize, usize) = (16_384, 32 * 1024 * 1024);

/// The same of questions.
const DISCOVERIES: (usize, usize) = (256, 8 * 1024 * 1024);

/// Large answers of a tenant that are on their way at a time.
const LARGE_ANSWERS: usize = 16;

/// Heartbeats of a tenant that wait, and bytes of them; more are lost.
const INBOX: (usize, usize) = (4096, 32 * 1024 * 1024);

/// What all tenants share.
pub(crate) struct Common {
    pub(crate) store: Store,
    pub(crate) backends: Vec<Arc<dyn Backend>>,
    pub(crate) auth: Arc<Authenticator>,
    pub(crate) metrics: Metrics,
    pub(crate) changes: Changes,
    pub(crate) limits: Limits,
    /// How long changes of a status are gathered.
    pub(crate) window: Duration,
    /// Bytes per second that a tenant may write.
    pub(crate) written_per_second: usize,
}

/// A tenant that is served.
pub(crate) struct Fleet {
    pub(crate) tenant: TenantId,
    pub(crate) common: Arc<Common>,
    presence: Mutex<Presence>,
    fence: Mutex<Fence>,
    wake: Notify,
    /// Of the tenants that have had the name, which one it is.
    created: Option<Timestamp>,
    registrations: Room,
    discoveries: Room,
    /// All devices are looked at for one question at a time.
    scanning: Semaphore,
    memory: Mutex<Memory>,
    /// It was said that a device is in no page.
    has_left_out: AtomicBool,
    pulling: Arc<Semaphore>,
    /// Heartbeats that came where one tenant must not hold up another.
    inbox: Backlog<Heard>,
    unheard: Mutex<Option<Unheard<Heard>>>,
    /// The most that waited there since that was last counted.
    inbox_peak: AtomicUsize,
    /// When heartbeats were last lost because there were too many.
    gap: Mutex<Option<Instant>>,
    has_loaded: AtomicBool,
    pulls: Mutex<Pulls>,
    /// When the process was last known not to have slept.
    awake_since: Mutex<Instant>,
    budget: Mutex<Budget>,
    /// It was said that the budget is used up, and it still is.
    is_over_budget: AtomicBool,
    /// What waits to be written could not be for this long already.
    unwritten_since: Mutex<Option<Instant>>,
    is_refenced: AtomicBool,
    /// Another replica has had the tenant since what is in memory was written.
    is_inherited: AtomicBool,
}

/// Numbers of a tenant.
pub(crate) struct Count {
    /// Devices that are present.
    pub(crate) devices: usize,
    /// Devices whose state waits to be written.
    pub(crate) waiting: usize,
    /// The most heartbeats that waited at a time since the last count.
    pub(crate) inbox_peak: usize,
    /// Devices that are asked for their registration, or wait for that.
    pub(crate) pulls: usize,
}

/// A heartbeat, and under which name it came.
struct Heard {
    device: Option<DeviceId>,
    payload: Vec<u8>,
    via: Via,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fleet {
    pub(crate) fn new(
        tenant: TenantId,
        created: Option<Timestamp>,
        common: Arc<Common>,
        fence: Fence,
    ) -> Arc<Self> {
        let (inbox, unheard) = backlog(INBOX.0, INBOX.1);
        Arc::new(Self {
            created,
            inbox,
            unheard: Mutex::new(Some(unheard)),
            inbox_peak: AtomicUsize::new(0),
            gap: Mutex::default(),
            has_loaded: AtomicBool::new(false),
            tenant,
            presence: Mutex::new(Presence::new(common.limits)),
            budget: Mutex::new(Budget::new(common.written_per_second, Instant::now())),
            is_over_budget: AtomicBool::new(false),
            common,
            fence: Mutex::new(fence),
            wake: Notify::new(),
            // The answer to a registration is never large.
            registrations: Room::new(REGISTRATIONS.0, REGISTRATIONS.1, REGISTRATIONS.0),
            discoveries: Room::new(DISCOVERIES.0, DISCOVERIES.1, LARGE_ANSWERS),
            scanning: Semaphore::new(1),
            memory: Mutex::default(),
            has_left_out: AtomicBool::new(false),
            pulling: Arc::new(Semaphore::new(PULLS)),
            pulls: Mutex::default(),
            awake_since: Mutex::new(Instant::now()),
            unwritten_since: Mutex::default(),
            is_refenced: AtomicBool::new(false),
            is_inherited: AtomicBool::new(false),
        })
    }

    /// Goes on under another key: what the store has is looked at again.
    pub(crate) fn refence(&self, fence: &Fence) {
        let mut own = lock(&self.fence);
        if *own != *fence {
            self.is_inherited.fetch_or(fence.is_inherited_since(&own), Ordering::AcqRel);
            own.clone_from(fence);
            self.is_refenced.store(true, Ordering::Release);
            self.wake.notify_one();
        }
    }

    pub(crate) fn fence(&self) -> Fence {
        lock(&self.fence).clone()
    }

    /// Whether what the store has is known.
    pub(crate) fn has_loaded(&self) -> bool {
        self.has_loaded.load(Ordering::Acquire)
    }

    /// Serves the tenant until it is told to stop; then it writes what waits.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        if stop.run_until_cancelled(self.load()).await.is_some() {
            self.common.changes.served(&self);
            let unheard = lock(&self.unheard).take();
            let listening = unheard.map(|unheard| {
                let (fleet, stop) = (Arc::clone(&self), stop.clone());
                tokio::spawn(async move { stop.run_until_cancelled(fleet.listen(unheard)).await })
            });
            let attached = async {
                let mut guards = Vec::new();
                for backend in &self.common.backends {
                    guards.push(backend.attach(Arc::clone(&self)).await);
                }
                guards
            };
            if let Some(guards) = stop.run_until_cancelled(attached).await {
                self.attend(&stop).await;
                drop(guards);
            }
            if let Some(listening) = listening {
                listening.abort();
            }
            lock(&self.presence).close();
            // One try: who comes after has what is in the store, and asks the devices for the rest.
            let _ = self.write(|_| Some(Turn::All)).await;
        }
        self.common.changes.gone(&self);
    }

    async fn listen(self: Arc<Self>, mut unheard: Unheard<Heard>) {
        while let Some(Heard { device, payload, via }) = unheard.next().await {
            self.beat(device, &payload, via);
            tokio::task::consume_budget().await;
        }
    }

    /// Reads what the store has.
    async fn load(&self) {
        let mut pause = BACKOFF.0;
        loop {
            match self.try_load().await {
                Ok(present) => {
                    tracing::info!(tenant = %self.tenant, devices = present, "presence is served");
                    self.has_loaded.store(true, Ordering::Release);
                    return;
                }
                Err(error) => {
                    tracing::warn!(tenant = %self.tenant, %error, "presence cannot be read yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
            }
        }
    }

    async fn try_load(&self) -> Result<usize, StoreError> {
        let store = &self.common.store;
        if let Some(created) = self.created {
            store.enter(&self.tenant, created, &self.fence()).await?;
        }
        let stored = store.load(&self.tenant).await?;
        let needs_leases = store.needs_leases();
        let mut presence = lock(&self.presence);
        if self.is_inherited.swap(false, Ordering::AcqRel) {
            presence.clear();
            *lock(&self.unwritten_since) = None;
        }
        Ok(presence.restore(stored, needs_leases, Instant::now()))
    }

    async fn attend(&self, stop: &CancellationToken) {
        let mut losses = self.common.store.losses();
        let mut pause: Option<Duration> = None;
        let mut not_before = Instant::now();
        loop {
            let now = Instant::now();
            if self.is_refenced.swap(false, Ordering::AcqRel)
                && stop.run_until_cancelled(self.load()).await.is_none()
            {
                return;
            }
            let deadline = {
                let mut presence = lock(&self.presence);
                presence.expire(now, |via| self.heard(via));
                presence.next_deadline()
            };
            let next_write = self.next_write(now).map(|at| at.max(not_before));
            if next_write.is_some_and(|at| at <= now) {
                // When a change is due, all that wait with it are written: in one go they cost less.
                let with_changes = self.is_change_due(now);
                match self.write(|now| self.turn(now, with_changes)).await {
                    Ok(()) => {
                        pause = None;
                        *lock(&self.unwritten_since) = None;
                    }
                    Err(error) => {
                        self.common.metrics.write_errors.inc();
                        lock(&self.unwritten_since).get_or_insert(now);
                        let next = pause.map_or(BACKOFF.0, |pause| (pause * 2).min(BACKOFF.1));
                        if pause.is_none() {
                            tracing::warn!(tenant = %self.tenant, %error, "presence waits to be written");
                        }
                        pause = Some(next);
                        not_before = Instant::now() + next;
                    }
                }
                if stop.is_cancelled() {
                    return;
                }
                continue;
            }
            let wait = [next_write, deadline].into_iter().flatten().min();
            let wait = wait.map_or(TICK, |at| at.saturating_duration_since(now)).min(TICK);
            let asleep = Instant::now();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
                () = lost(&mut losses) => {
                    let lost = lock(&self.presence).renew_leases(Instant::now());
                    if lost > 0 {
                        tracing::info!(tenant = %self.tenant, devices = lost, "leases were lost");
                    }
                }
            }
            if asleep.elapsed() > wait + STALL {
                *lock(&self.awake_since) = Instant::now();
            }
        }
    }

    /// Since when what is in memory may differ from the store, because that cannot be reached; `None` while
    /// it can.
    pub(crate) fn behind_since(&self) -> Option<Instant> {
        let unwritten = *lock(&self.unwritten_since);
        unwritten.into_iter().chain(self.common.store.away_since()).min()
    }

    /// How long changes of a status are gathered.
    fn window(&self) -> Duration {
        let window = self.common.window;
        if self.common.store.is_short() { window.max(LONG_WINDOW) } else { window }
    }

    /// From when to when devices could be heard that way, the process's own sleep considered.
    fn heard(&self, via: Via) -> Option<(Instant, Instant)> {
        let mut since = *lock(&self.awake_since);
        since = (*lock(&self.gap)).map_or(since, |gap| since.max(gap));
        let mut until = Instant::now();
        for backend in &self.common.backends {
            if via == Via::Unknown || backend.via() == via {
                let (from, to) = backend.heard(&self.tenant)?;
                since = since.max(from);
                until = until.min(to);
            }
        }
        Some((since, until))
    }

    /// When something has its turn to be written.
    fn next_write(&self, now: Instant) -> Option<Instant> {
        let (urgent, changed) = {
            let presence = lock(&self.presence);
            (presence.urgent_since(), presence.changed_since())
        };
        let mut budget = lock(&self.budget);
        let urgent = urgent.map(|since| since.max(budget.from(true, now)));
        let due = changed.map(|since| since + self.window());
        let may = budget.from(false, now);
        if budget.is_full(now) {
            self.is_over_budget.store(false, Ordering::Relaxed);
        }
        drop(budget);
        if due.is_some_and(|due| due <= now) && may > now {
            self.warn_of_budget();
        }
        urgent.into_iter().chain(due.map(|due| due.max(may))).min()
    }

    fn is_change_due(&self, now: Instant) -> bool {
        let changed = lock(&self.presence).changed_since();
        changed.is_some_and(|since| since + self.window() <= now)
    }

    /// What has its turn now.
    fn turn(&self, now: Instant, with_changes: bool) -> Option<Turn> {
        let mut budget = lock(&self.budget);
        if with_changes && budget.from(false, now) <= now {
            return Some(Turn::All);
        }
        (budget.from(true, now) <= now).then_some(Turn::Urgent)
    }

    fn warn_of_budget(&self) {
        if !self.is_over_budget.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                tenant = %self.tenant,
                "a tenant's devices change more than may be written, and are written more rarely; see \
                 which of them do, or raise registry.max_written_bytes_per_second"
            );
        }
    }

    /// Writes as much as waited when it began, of what has its turn, and tells what can be told then.
    async fn write(&self, turn: impl Fn(Instant) -> Option<Turn>) -> Result<(), StoreError> {
        let mut left = lock(&self.presence).waiting();
        while left > 0 {
            let Some(turn) = turn(Instant::now()) else { return Ok(()) };
            let writes = lock(&self.presence).writes(BATCH, turn);
            if writes.is_empty() {
                return Ok(());
            }
            left = left.saturating_sub(writes.len());
            let fence = self.fence();
            let leases = self.common.store.commit(&self.tenant, &fence, &writes).await?;
            let now = Instant::now();
            lock(&self.budget).spend(writes.iter().map(Write::bytes).sum(), now);
            let written = lock(&self.presence).written(writes, leases, now);
            for Written { event, waiting } in written {
                if let Some(event) = event {
                    self.tell(&event).await;
                }
                for waiting in waiting {
                    // Whoever no longer waits has gone on without.
                    let _ = waiting.send(());
                }
            }
        }
        Ok(())
    }

    async fn tell(&self, event: &Event) {
        let at = Timestamp::now();
        let (device, kind, gone) = match event {
            Event::Online { device } => (device, "online", None),
            Event::Offline { device, device_type } => (device, "offline", device_type.as_ref()),
            Event::Changed { device } => (device, "changed", None),
        };
        self.common.metrics.transitions.with_label_values(&[kind]).inc();
        if let Some(transition) = event.transition() {
            self.publish(transition, device, at).await;
        }
        self.common.changes.send(&self.tenant, || {
            let presence = lock(&self.presence);
            Change {
                tenant: self.tenant.clone(),
                device: device.clone(),
                device_type: gone.cloned().or_else(|| presence.device_type(device)),
                kind,
                at,
                document: presence.document(device),
            }
        });
    }

    async fn publish(&self, transition: Transition, device: &DeviceId, at: Timestamp) {
        let payload = lifecycle(transition, device, at);
        for backend in &self.common.backends {
            let name = transition.subject().on(backend.broker(), &self.tenant);
            backend.publish(&self.tenant, name, payload.clone()).await;
        }
    }

    /// Looks at a device whose key was removed: if it was not by this registry, it is let go.
    pub(crate) async fn removed(&self, device: &DeviceId) {
        let Some(lease) = lock(&self.presence).settled_lease(device) else { return };
        let removed = self.common.store.is_removed(&self.tenant, device, &lease).await;
        if matches!(removed, Ok(true)) {
            tracing::info!(tenant = %self.tenant, %device, "somebody has removed a device's key");
            lock(&self.presence).evict(device, Instant::now());
            self.wake.notify_one();
        }
    }

    /// Who is present.
    pub(crate) fn present(&self) -> HashSet<DeviceId> {
        lock(&self.presence).present().cloned().collect()
    }

    /// How many there are of everything; what waited in the inbox is counted from now on.
    pub(crate) fn count(&self) -> Count {
        let asked = PULLS.saturating_sub(self.pulling.available_permits());
        let pulls = asked + lock(&self.pulls).waiting();
        let presence = lock(&self.presence);
        Count {
            devices: presence.len(),
            waiting: presence.waiting(),
            inbox_peak: self.inbox_peak.swap(0, Ordering::Relaxed),
            pulls,
        }
    }
}

async fn lost(losses: &mut Option<watch::Receiver<u64>>) {
    match losses {
        Some(losses) => {
            if losses.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}
