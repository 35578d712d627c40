//! Heartbeats, and asking devices for what they did not say.

use super::{Fleet, Heard, lock};
use crate::presence::{Beat, Via};
use crate::wire::{Heartbeat, pull_request, pulled};
use bulkhead_policy::DeviceId;
use jiff::Timestamp;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Devices that are not asked again yet.
const MAX_PULLED: usize = 10_000;

/// How long a device is not asked again that did not answer.
const PULL_PAUSE: Duration = Duration::from_secs(5);

/// Largest heartbeat, in bytes.
const MAX_BEAT: usize = 64 * 1024;

impl Fleet {
    /// Hears a heartbeat in its turn. It comes from where those of other tenants come too.
    pub(crate) fn post(&self, device: Option<DeviceId>, payload: Vec<u8>, via: Via) {
        let is_lost = payload.len() > MAX_BEAT
            || self.inbox.try_send(Heard { device, payload, via }).is_err();
        if is_lost {
            *lock(&self.gap) = Some(Instant::now());
            self.common.metrics.beats.with_label_values(&[via.label(), "lost"]).inc();
        }
        let waiting = self.inbox.max_capacity().saturating_sub(self.inbox.capacity());
        self.inbox_peak.fetch_max(waiting, Ordering::Relaxed);
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
}
