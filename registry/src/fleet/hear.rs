//! Heartbeats, and asking devices for what they did not say.

use super::pulls::{Outcome, Pull};
use super::{Fleet, Heard, lock};
use crate::presence::{Beat, Via};
use crate::wire::{Heartbeat, pull_request, pulled};
use bulkhead_policy::DeviceId;
use jiff::Timestamp;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Largest heartbeat, in bytes.
const MAX_BEAT: usize = 64 * 1024;

impl Fleet {
    /// Hears a heartbeat in its turn. It comes from where those of other tenants come too.
    pub(crate) fn post(&self, device: Option<DeviceId>, payload: Vec<u8>, via: Via) {
        if !self.may_be_beat(payload.len(), via) {
            return;
        }
        let bytes = payload.len();
        if !self.inbox.push(Heard { device, payload, via }, bytes) {
            self.lost(via);
        }
        self.inbox_peak.fetch_max(self.inbox.len(), Ordering::Relaxed);
    }

    /// Notes that a heartbeat was lost: nobody can be blamed for silence before now.
    pub(crate) fn lost(&self, via: Via) {
        *lock(&self.gap) = Some(Instant::now());
        self.common.metrics.beats.with_label_values(&[via.label(), "lost"]).inc();
    }

    /// Whether something is small enough to be a heartbeat. If not it is nobody's sign of life, and what one
    /// device sends keeps no other from falling silent.
    pub(crate) fn may_be_beat(&self, bytes: usize, via: Via) -> bool {
        let may = bytes <= MAX_BEAT;
        if !may {
            self.common.metrics.beats.with_label_values(&[via.label(), "refused"]).inc();
        }
        may
    }

    /// Hears a heartbeat that came under a device's name.
    pub(crate) fn beat(self: &Arc<Self>, device: Option<DeviceId>, payload: &[u8], via: Via) {
        let outcome = self.hear(device, payload, via);
        self.common.metrics.beats.with_label_values(&[via.label(), outcome]).inc();
    }

    fn hear(self: &Arc<Self>, device: Option<DeviceId>, payload: &[u8], via: Via) -> &'static str {
        let Some(device) = device else { return "refused" };
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
        lock(&self.pulls).unknown(device, via, Instant::now());
        self.find_out_more();
    }

    /// Goes on finding out about devices, as many at a time as may be.
    fn find_out_more(self: &Arc<Self>) {
        let Ok(permit) = Arc::clone(&self.pulling).try_acquire_owned() else { return };
        let Some(first) = lock(&self.pulls).next() else { return };
        let fleet = Arc::clone(self);
        tokio::spawn(async move {
            let mut next = Some(first);
            while let Some(pull) = next {
                fleet.find_out(&pull).await;
                next = lock(&fleet.pulls).next();
            }
            drop(permit);
            // Somebody may have come while there was no permit left for it.
            fleet.find_out_more();
        });
    }

    async fn find_out(&self, pull: &Pull) {
        let Pull { device, via, .. } = pull;
        // It may have registered while it waited for its turn.
        let outcome = if lock(&self.presence).has(device) {
            Outcome::Known
        } else {
            let came = if via.is_deaf() {
                self.remember(device, *via).await
            } else {
                self.pull(pull).await
            };
            self.common.metrics.pulls.with_label_values(&[via.label(), came]).inc();
            match came {
                "registered" => Outcome::Known,
                "silent" | "refused" => Outcome::Mute,
                _ => Outcome::Later,
            }
        };
        lock(&self.pulls).asked(device, outcome, Instant::now());
    }

    async fn pull(&self, pull: &Pull) -> &'static str {
        let Pull { device, via, patience } = pull;
        let via = *via;
        let Some(backend) = self.common.backends.iter().find(|b| b.via() == via) else {
            return "no_backend";
        };
        let question = pull_request(device, Timestamp::now().as_millisecond());
        let answer = backend.pull(self.tenant.clone(), device.clone(), question, *patience).await;
        let Some(answer) = answer else { return "silent" };
        let Some(registration) = pulled(&answer, device) else { return "refused" };
        let at = Timestamp::now();
        let registered = lock(&self.presence).register(registration, via, Instant::now(), at);
        self.wake.notify_one();
        if registered.is_ok() { "registered" } else { "full" }
    }

    async fn remember(&self, device: &DeviceId, via: Via) -> &'static str {
        let found = self.common.store.remembered(&self.tenant, device).await;
        let Ok(Some(document)) = found else { return "unknown" };
        let revived = lock(&self.presence).revive(device.clone(), document, via, Instant::now());
        self.wake.notify_one();
        if revived.is_ok() { "registered" } else { "full" }
    }
}
