//! One tenant that is served: its devices, what they say, and what is written and told about them.

use crate::backend::Backend;
use crate::metrics::Metrics;
use crate::ownership::Fence;
use crate::presence::{Beat, Device, Event, Full, Limits, Presence, Via, Written};
use crate::store::{Store, StoreError};
use crate::watch::{Change, Changes};
use crate::wire::{
    Code, Heartbeat, Question, Registration, Request, RpcError, Subject, Transition, fitting,
    lifecycle, pull_request, pulled, seconds, with_result,
};
use bulkhead_control::audit::{Event as AuditEvent, Record};
use bulkhead_control::{Authenticator, Granted};
use bulkhead_policy::{Broker, DeviceId, Discover, Requester, TenantId};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Devices of one write; etcd takes 128 operations, and some devices need two.
const BATCH: usize = 60;

/// How long a registration is not answered because it is not written yet. After that it is answered from
/// memory: the device is present, whether or not the store is there.
const PATIENCE: Duration = Duration::from_secs(2);

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

/// Devices that are not asked again yet.
const MAX_PULLED: usize = 10_000;

/// How long a device is not asked again that did not answer.
const PULL_PAUSE: Duration = Duration::from_secs(5);

/// Registrations and questions of a tenant that are worked on at a time.
const REGISTRATIONS: usize = 1024;
const DISCOVERIES: usize = 16;

/// Heartbeats of a tenant that wait; more are lost.
const INBOX: usize = 4096;

/// Largest heartbeat, in bytes.
const MAX_BEAT: usize = 64 * 1024;

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
    registrations: Arc<Semaphore>,
    discoveries: Arc<Semaphore>,
    pulling: Arc<Semaphore>,
    /// Heartbeats that came where one tenant must not hold up another.
    inbox: mpsc::Sender<Heard>,
    unheard: Mutex<Option<mpsc::Receiver<Heard>>>,
    /// When heartbeats were last lost because there were too many.
    gap: Mutex<Option<Instant>>,
    has_loaded: AtomicBool,
    pulled: Mutex<HashMap<DeviceId, Instant>>,
    /// When the process was last known not to have slept.
    awake_since: Mutex<Instant>,
    /// What is in memory may be newer than the store for this long already.
    behind_since: Mutex<Option<Instant>>,
    is_refenced: AtomicBool,
}

/// A heartbeat, and under which name it came.
struct Heard {
    device: Option<DeviceId>,
    payload: Vec<u8>,
    via: Via,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Registration,
    Discovery,
}

/// Whom a question came from, as far as the broker says.
pub(crate) struct Asker {
    pub(crate) broker: Broker,
    pub(crate) requester: Option<Requester>,
    /// Bytes that the answer may have.
    pub(crate) most: usize,
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
        let (inbox, unheard) = mpsc::channel(INBOX);
        Arc::new(Self {
            created,
            inbox,
            unheard: Mutex::new(Some(unheard)),
            gap: Mutex::default(),
            has_loaded: AtomicBool::new(false),
            tenant,
            presence: Mutex::new(Presence::new(common.limits)),
            common,
            fence: Mutex::new(fence),
            wake: Notify::new(),
            registrations: Arc::new(Semaphore::new(REGISTRATIONS)),
            discoveries: Arc::new(Semaphore::new(DISCOVERIES)),
            pulling: Arc::new(Semaphore::new(PULLS)),
            pulled: Mutex::default(),
            awake_since: Mutex::new(Instant::now()),
            behind_since: Mutex::default(),
            is_refenced: AtomicBool::new(false),
        })
    }

    /// Goes on under another key: what the store has is looked at again.
    pub(crate) fn refence(&self, fence: &Fence) {
        let mut own = lock(&self.fence);
        if *own != *fence {
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
            let _ = self.write_all().await;
        }
        self.common.changes.gone(&self);
    }

    async fn listen(self: Arc<Self>, mut unheard: mpsc::Receiver<Heard>) {
        while let Some(Heard { device, payload, via }) = unheard.recv().await {
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
        Ok(lock(&self.presence).restore(stored, needs_leases, Instant::now()))
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
            let (next_write, deadline) = {
                let mut presence = lock(&self.presence);
                presence.expire(now, |via| self.heard(via));
                let next_write = presence.next_write(self.window());
                (next_write.map(|at| at.max(not_before)), presence.next_deadline())
            };
            if next_write.is_some_and(|at| at <= now) {
                match self.write_all().await {
                    Ok(()) => {
                        pause = None;
                        *lock(&self.behind_since) = None;
                    }
                    Err(error) => {
                        self.common.metrics.write_errors.inc();
                        lock(&self.behind_since).get_or_insert(now);
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

    /// Writes what waited when it began, and tells what can be told then.
    async fn write_all(&self) -> Result<(), StoreError> {
        let mut left = lock(&self.presence).waiting();
        while left > 0 {
            let writes = lock(&self.presence).writes(BATCH);
            if writes.is_empty() {
                return Ok(());
            }
            left = left.saturating_sub(writes.len());
            let fence = self.fence();
            let leases = self.common.store.commit(&self.tenant, &fence, &writes).await?;
            let written = lock(&self.presence).written(writes, leases, Instant::now());
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

    /// Hears a heartbeat in its turn. It comes from where those of other tenants come too.
    pub(crate) fn post(&self, device: Option<DeviceId>, payload: Vec<u8>, via: Via) {
        let is_lost = payload.len() > MAX_BEAT
            || self.inbox.try_send(Heard { device, payload, via }).is_err();
        if is_lost {
            *lock(&self.gap) = Some(Instant::now());
            self.common.metrics.beats.with_label_values(&[via.label(), "lost"]).inc();
        }
    }

    /// Hears a heartbeat that came under a device's name.
    pub(crate) fn beat(self: &Arc<Self>, device: Option<DeviceId>, payload: &[u8], via: Via) {
        let outcome = self.hear(device, payload, via);
        self.common.metrics.beats.with_label_values(&[via.label(), outcome]).inc();
    }

    fn hear(self: &Arc<Self>, device: Option<DeviceId>, payload: &[u8], via: Via) -> &'static str {
        let Some(device) = device else { return "refused" };
        if payload.len() > MAX_BEAT {
            return "refused";
        }
        let Some(beat) = Heartbeat::parse(payload, &device) else { return "refused" };
        if let Some(sent) = beat.sent {
            // A device whose clock is ahead is not older than new.
            let age = Timestamp::now().as_duration().as_secs_f64() - sent;
            self.common.metrics.lag.with_label_values(&[via.label()]).observe(age.max(0.0));
        }
        let heard = lock(&self.presence).beat(&device, &beat.status, via, Instant::now());
        match heard {
            Beat::Unchanged => {
                self.common.metrics.writes_saved.inc();
                "unchanged"
            }
            Beat::Changed => {
                self.wake.notify_one();
                "changed"
            }
            Beat::TooLarge => "too_large",
            Beat::Unknown => {
                self.recover(device, via);
                "unknown"
            }
        }
    }

    /// Finds out about a device that beats and is not known.
    fn recover(self: &Arc<Self>, device: DeviceId, via: Via) {
        let now = Instant::now();
        {
            let mut pulled = lock(&self.pulled);
            if pulled.get(&device).is_some_and(|until| *until > now) {
                return;
            }
            if pulled.len() >= MAX_PULLED {
                pulled.retain(|_, until| *until > now);
                if pulled.len() >= MAX_PULLED {
                    return;
                }
            }
            // Who beats more is not asked more.
            pulled.insert(device.clone(), now + PULL_PAUSE);
        }
        let Ok(permit) = Arc::clone(&self.pulling).try_acquire_owned() else {
            // Its next beat is its next chance.
            lock(&self.pulled).remove(&device);
            return;
        };
        let fleet = Arc::clone(self);
        tokio::spawn(async move {
            let _permit = permit;
            let outcome = if via.is_deaf() {
                fleet.remember(&device, via).await
            } else {
                fleet.pull(&device, via).await
            };
            fleet.common.metrics.pulls.with_label_values(&[via.label(), outcome]).inc();
        });
    }

    async fn pull(&self, device: &DeviceId, via: Via) -> &'static str {
        let Some(backend) = self.common.backends.iter().find(|b| b.via() == via) else {
            return "no_backend";
        };
        let question = pull_request(device, Timestamp::now().as_millisecond());
        let Some(answer) = backend.pull(self.tenant.clone(), device.clone(), question).await else {
            return "silent";
        };
        let Some(registration) = pulled(&answer, device) else { return "refused" };
        let at = Timestamp::now();
        let registered = lock(&self.presence).register(registration, via, Instant::now(), at);
        self.wake.notify_one();
        match registered {
            Ok(_) => {
                lock(&self.pulled).remove(device);
                "registered"
            }
            Err(_) => "full",
        }
    }

    async fn remember(&self, device: &DeviceId, via: Via) -> &'static str {
        let found = self.common.store.remembered(&self.tenant, device).await;
        let Ok(Some(document)) = found else { return "unknown" };
        let revived = lock(&self.presence).revive(device.clone(), document, via, Instant::now());
        self.wake.notify_one();
        match revived {
            Ok(()) => {
                lock(&self.pulled).remove(device);
                "registered"
            }
            Err(_) => "full",
        }
    }

    /// Leave to work on something, when there is room.
    pub(crate) async fn permit(&self, asked: Asked) -> Option<OwnedSemaphorePermit> {
        Arc::clone(self.permits(asked)).acquire_owned().await.ok()
    }

    /// The same, if there is room now.
    pub(crate) fn try_permit(&self, asked: Asked, via: Via) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(self.permits(asked)).try_acquire_owned().ok();
        if permit.is_none() {
            self.count_asked(asked, via, "overloaded");
        }
        permit
    }

    fn permits(&self, asked: Asked) -> &Arc<Semaphore> {
        match asked {
            Asked::Registration => &self.registrations,
            Asked::Discovery => &self.discoveries,
        }
    }

    fn count_asked(&self, asked: Asked, via: Via, outcome: &str) {
        let metrics = &self.common.metrics;
        let counter = match asked {
            Asked::Registration => &metrics.registrations,
            Asked::Discovery => &metrics.discoveries,
        };
        counter.with_label_values(&[via.label(), outcome]).inc();
    }

    /// Answers a request.
    pub(crate) async fn answer(
        &self,
        asked: Asked,
        payload: &[u8],
        asker: &Asker,
        via: Via,
    ) -> Vec<u8> {
        if payload.len() > self.common.limits.document {
            self.count_asked(asked, via, "refused");
            let error = RpcError::new(Code::InvalidParams, Full::Document.to_string());
            return error.answer(&Value::Null);
        }
        let request = match Request::parse(payload) {
            Ok(request) => request,
            Err(answer) => {
                self.count_asked(asked, via, "refused");
                return answer;
            }
        };
        let id = request.id.clone();
        let outcome = match asked {
            Asked::Registration => {
                self.registered(request, asker, via).await.map(|result| result.to_string())
            }
            Asked::Discovery => self.found(&request, asker),
        };
        let counted = match (&outcome, asked) {
            (Err(_), _) => "refused",
            (Ok(_), Asked::Registration) => "registered",
            (Ok(_), Asked::Discovery) => "answered",
        };
        self.count_asked(asked, via, counted);
        let answer = match outcome {
            Ok(result) => with_result(&id, &result),
            Err(error) => error.answer(&id),
        };
        fitting(answer, &id, asker.most)
    }

    async fn registered(
        &self,
        request: Request,
        asker: &Asker,
        via: Via,
    ) -> Result<Value, RpcError> {
        if request.method != "registerDevice" {
            return Err(RpcError::new(Code::MethodNotFound, "method not found"));
        }
        let registration = Registration::parse(request.params)
            .map_err(|message| RpcError::new(Code::InvalidParams, message))?;
        self.may_speak_for(asker, &registration.device)?;
        let registered =
            lock(&self.presence).register(registration, via, Instant::now(), Timestamp::now());
        let (id, written) =
            registered.map_err(|full| RpcError::new(Code::Internal, full.to_string()))?;
        self.wake.notify_one();
        if lock(&self.behind_since).is_none() {
            // Whoever waits for too long is answered from memory.
            if let Ok(Err(_gone)) = tokio::time::timeout(PATIENCE, written).await {
                return Err(RpcError::new(Code::Internal, Full::Closed.to_string()));
            }
        }
        Ok(json!({"status": "registered", "device_registration_id": id.to_string()}))
    }

    /// Whoever may beat for a device may register it.
    fn may_speak_for(&self, asker: &Asker, device: &DeviceId) -> Result<(), RpcError> {
        let Some(requester) = &asker.requester else { return Ok(()) };
        let name = Subject::Heartbeat(Some(device)).on(asker.broker, &self.tenant);
        let may = self.granted(asker, requester).is_some_and(|granted| {
            asker.broker.name(&name).is_ok_and(|name| granted.grants.publish(&name).is_ok())
        });
        if may {
            return Ok(());
        }
        let record = Record::new(AuditEvent::Deny, "registry").tenant(&self.tenant);
        self.common.auth.audit().record(record.detail(format!("{requester} registers {device}")));
        tracing::info!(tenant = %self.tenant, %requester, %device, "a registration was refused");
        let message = format!("device_id: this connection may not speak for '{device}'");
        Err(RpcError::new(Code::InvalidParams, message))
    }

    fn granted(&self, asker: &Asker, requester: &Requester) -> Option<Granted> {
        if requester.tenant != self.tenant {
            return None;
        }
        self.common.auth.granted(asker.broker, requester).ok()
    }

    fn found(&self, request: &Request, asker: &Asker) -> Result<String, RpcError> {
        let question = Question::of(request)?;
        // Where no broker says who asks, the tenant is all that is known.
        let (discover, own) = match &asker.requester {
            None => (Discover::Everything, None),
            Some(requester) => match self.granted(asker, requester) {
                Some(granted) => (granted.discover, requester.device.clone()),
                None => (Discover::Nothing, None),
            },
        };
        let sees = |id: &DeviceId, device: &Device| {
            discover.admits(device.device_type.as_deref(), own.as_ref() == Some(id))
        };
        let presence = lock(&self.presence);
        let mut result = match question {
            Question::List(filter, page) => {
                let too_large = || {
                    let message =
                        "the answer is larger than a message may be; ask for pages with limit";
                    RpcError::new(Code::Failed, message)
                };
                presence.list(&filter, page, sees, asker.most).ok_or_else(too_large)?
            }
            Question::Get(id) => presence.get(&id, sees),
            Question::Describe => presence.describe(sees),
        };
        drop(presence);
        let behind = *lock(&self.behind_since);
        if let Some(behind) = behind
            && result.pop().is_some()
        {
            result += &format!(",\"store_behind_seconds\":{}}}", behind.elapsed().as_secs());
        }
        Ok(result)
    }

    /// Who is present.
    pub(crate) fn present(&self) -> HashSet<DeviceId> {
        lock(&self.presence).visible(|_, _| true).map(|(id, _)| id.clone()).collect()
    }

    /// Adds its numbers to the sums of all.
    pub(crate) fn count(&self) -> (usize, usize) {
        let presence = lock(&self.presence);
        (presence.len(), presence.waiting())
    }

    /// What people see of the devices: type, location, and when each was last heard of.
    pub(crate) fn listing(&self, discover: &Discover, own: Option<&DeviceId>) -> Vec<Value> {
        let presence = lock(&self.presence);
        let visible = presence
            .visible(|id, device| discover.admits(device.device_type.as_deref(), own == Some(id)));
        let entry = |(id, device): (&DeviceId, &Device)| {
            json!({"tenant": self.tenant, "device": id, "type": device.device_type,
                "location": device.location, "seen": seconds(device.seen_at())})
        };
        visible.map(entry).collect()
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
