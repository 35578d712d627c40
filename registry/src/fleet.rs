//! One tenant that is served: its devices, what they say, and what is written and told about them.

use crate::backend::Backend;
use crate::metrics::Metrics;
use crate::ownership::Fence;
use crate::presence::{Beat, Device, Event, Full, Limits, Presence, Via, transition_of};
use crate::store::{Store, StoreError};
use crate::watch::{Change, Changes};
use crate::wire::{
    Code, Heartbeat, Question, Registration, Request, RpcError, Subject, Transition, lifecycle,
    pull_request, pulled, seconds, with_result,
};
use bulkhead_control::audit::{Event as AuditEvent, Record};
use bulkhead_control::{Authenticator, Granted};
use bulkhead_policy::{Broker, DeviceId, Discover, Requester, TenantId};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, watch};
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

/// Registrations and questions of a tenant that are worked on at a time; more are refused.
const REGISTRATIONS: usize = 4096;
const DISCOVERIES: usize = 64;

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
    registrations: Semaphore,
    discoveries: Semaphore,
    pulling: Semaphore,
    pulled: Mutex<HashMap<DeviceId, Instant>>,
    /// When the process was last known not to have slept.
    awake_since: Mutex<Instant>,
    /// What is in memory may be newer than the store for this long already.
    behind_since: Mutex<Option<Instant>>,
    is_refenced: AtomicBool,
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
    pub(crate) fn new(tenant: TenantId, common: Arc<Common>, fence: Fence) -> Arc<Self> {
        Arc::new(Self {
            tenant,
            presence: Mutex::new(Presence::new(common.limits)),
            common,
            fence: Mutex::new(fence),
            wake: Notify::new(),
            registrations: Semaphore::new(REGISTRATIONS),
            discoveries: Semaphore::new(DISCOVERIES),
            pulling: Semaphore::new(PULLS),
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

    /// Serves the tenant until it is told to stop; then it writes what waits.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        if stop.run_until_cancelled(self.load()).await.is_none() {
            return;
        }
        let attached = async {
            let mut guards = Vec::new();
            for backend in &self.common.backends {
                guards.push(backend.attach(Arc::clone(&self)).await);
            }
            guards
        };
        let Some(guards) = stop.run_until_cancelled(attached).await else { return };
        self.attend(&stop).await;
        drop(guards);
        // One try: who comes after has what is in the store, and asks the devices for the rest.
        let _ = self.write_all().await;
        self.common.changes.gone(&self.tenant);
    }

    /// Reads what the store has.
    async fn load(&self) {
        let mut pause = BACKOFF.0;
        loop {
            match self.common.store.load(&self.tenant).await {
                Ok(stored) => {
                    let present = lock(&self.presence).restore(stored, Instant::now());
                    tracing::info!(tenant = %self.tenant, devices = present, "presence is served");
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

    async fn attend(&self, stop: &CancellationToken) {
        let mut losses = self.common.store.losses();
        let mut pause: Option<Duration> = None;
        let mut not_before = Instant::now();
        let mut ticked = Instant::now();
        loop {
            let now = Instant::now();
            if now.saturating_duration_since(ticked) > STALL {
                *lock(&self.awake_since) = now;
            }
            ticked = now;
            if self.is_refenced.swap(false, Ordering::AcqRel) {
                self.load().await;
            }
            let (next_write, deadline) = {
                let mut presence = lock(&self.presence);
                presence.expire(now, |via| self.heard_since(via));
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
                continue;
            }
            let wait = [next_write, deadline].into_iter().flatten().min();
            let wait = wait.map_or(TICK, |at| at.saturating_duration_since(now)).min(TICK);
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
        }
    }

    /// How long changes of a status are gathered.
    fn window(&self) -> Duration {
        if self.common.store.is_short() {
            self.common.window.max(LONG_WINDOW)
        } else {
            self.common.window
        }
    }

    /// Since when devices can be heard that way, the process's own sleep considered.
    fn heard_since(&self, via: Via) -> Option<Instant> {
        let awake = *lock(&self.awake_since);
        let mut since = awake;
        for backend in &self.common.backends {
            if via == Via::Unknown || backend.via() == via {
                since = since.max(backend.heard_since()?);
            }
        }
        Some(since)
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
            let events = lock(&self.presence).written(writes, leases);
            for event in &events {
                self.tell(event).await;
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
        if let Some(transition) = transition_of(event) {
            self.publish(transition, device, at).await;
        }
        self.common.changes.send(|| {
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
            backend.publish(name, payload.clone()).await;
        }
    }

    /// Hears a heartbeat that came under a device's name.
    pub(crate) fn beat(self: &Arc<Self>, device: Option<DeviceId>, payload: &[u8], via: Via) {
        let outcome = self.heard(device, payload, via);
        self.common.metrics.beats.with_label_values(&[label(via), outcome]).inc();
    }

    fn heard(self: &Arc<Self>, device: Option<DeviceId>, payload: &[u8], via: Via) -> &'static str {
        let Some(device) = device else { return "refused" };
        if payload.len() > self.common.limits.document {
            return "refused";
        }
        let Some(beat) = Heartbeat::parse(payload, &device) else { return "refused" };
        if let Some(sent) = beat.sent {
            // A device whose clock is ahead is not older than new.
            let age = Timestamp::now().as_duration().as_secs_f64() - sent;
            self.common.metrics.lag.with_label_values(&[label(via)]).observe(age.max(0.0));
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
        if self.pulling.available_permits() == 0 {
            // Its next beat is its next chance.
            lock(&self.pulled).remove(&device);
            return;
        }
        let fleet = Arc::clone(self);
        tokio::spawn(async move {
            let Ok(_permit) = fleet.pulling.acquire().await else { return };
            let outcome = if via.is_deaf() {
                fleet.remember(&device, via).await
            } else {
                fleet.pull(&device, via).await
            };
            fleet.common.metrics.pulls.with_label_values(&[label(via), outcome]).inc();
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

    /// Answers a registration.
    pub(crate) async fn register(&self, payload: &[u8], asker: &Asker, via: Via) -> Vec<u8> {
        let request = match Request::parse(payload) {
            Ok(request) => request,
            Err(answer) => {
                self.common.metrics.registrations.with_label_values(&[label(via), "refused"]).inc();
                return answer;
            }
        };
        let id = request.id.clone();
        let outcome = self.registered(request, payload.len(), asker, via).await;
        let counted = if outcome.is_ok() { "registered" } else { "refused" };
        self.common.metrics.registrations.with_label_values(&[label(via), counted]).inc();
        match outcome {
            Ok(result) => with_result(&id, &result.to_string()),
            Err(error) => error.answer(&id),
        }
    }

    async fn registered(
        &self,
        request: Request,
        bytes: usize,
        asker: &Asker,
        via: Via,
    ) -> Result<Value, RpcError> {
        let Ok(_permit) = self.registrations.try_acquire() else {
            return Err(RpcError::new(Code::Internal, "too many registrations at a time"));
        };
        if request.method != "registerDevice" {
            return Err(RpcError::new(Code::MethodNotFound, "method not found"));
        }
        if bytes > self.common.limits.document {
            return Err(RpcError::new(Code::InvalidParams, Full::Document.to_string()));
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
            // Whoever waits in vain is answered from memory.
            let _ = tokio::time::timeout(PATIENCE, written).await;
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

    /// Answers a question about devices.
    pub(crate) fn discover(&self, payload: &[u8], asker: &Asker, via: Via) -> Vec<u8> {
        let answered = |outcome: &str| {
            self.common.metrics.discoveries.with_label_values(&[label(via), outcome]).inc();
        };
        let request = match Request::parse(payload) {
            Ok(request) => request,
            Err(answer) => {
                answered("refused");
                return answer;
            }
        };
        match self.found(&request, asker) {
            Ok(result) => {
                answered("answered");
                with_result(&request.id, &result)
            }
            Err(error) => {
                answered("refused");
                error.answer(&request.id)
            }
        }
    }

    fn found(&self, request: &Request, asker: &Asker) -> Result<String, RpcError> {
        let Ok(_permit) = self.discoveries.try_acquire() else {
            return Err(RpcError::new(Code::Failed, "too many questions at a time"));
        };
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

    /// Adds its numbers to the sums of all.
    pub(crate) fn count(&self) -> (usize, usize) {
        let presence = lock(&self.presence);
        (presence.len(), presence.waiting())
    }

    /// What people see of the devices: id, type, location, and the document.
    pub(crate) fn listing(&self, discover: &Discover, own: Option<&DeviceId>) -> String {
        let presence = lock(&self.presence);
        let mut out = String::from("[");
        let visible = presence
            .visible(|id, device| discover.admits(device.device_type.as_deref(), own == Some(id)));
        for (i, (id, device)) in visible.enumerate() {
            if i > 0 {
                out.push(',');
            }
            let entry = json!({"tenant": self.tenant, "device": id, "type": device.device_type,
                "location": device.location, "seen": seconds(device.seen_at())});
            out += &entry.to_string();
        }
        out.push(']');
        out
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

fn label(via: Via) -> &'static str {
    match via {
        Via::Nats => "nats",
        Via::Mqtt => "mqtt",
        Via::Zenoh => "zenoh",
        Via::Unknown => "unknown",
    }
}
