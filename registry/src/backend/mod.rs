//! The ways to devices: one for each broker.
//!
//! A backend hears registrations, questions and heartbeats of the tenants that are attached to it, and
//! carries what their fleets say. Tenant and device come from the name that the broker enforces.

mod mqtt;
mod nats;
mod zenoh;

pub(crate) use mqtt::Mqtt;
pub(crate) use nats::Nats;
pub(crate) use zenoh::Zenoh;

use crate::fleet::Fleet;
use crate::presence::Via;
use bulkhead_policy::{Broker, DeviceId, TenantId};
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::DropGuard;

/// How long a device has to answer a question.
pub(crate) const PULL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a backend cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    /// A file.
    #[error("{setting}: {cause}")]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The library does not take a setting.
    #[error("{setting}: {cause}; {remedy}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What it says.
        cause: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// A way to devices.
pub(crate) trait Backend: Send + Sync {
    /// Which.
    fn via(&self) -> Via;

    /// Its name among what has to be ready.
    fn name(&self) -> &'static str {
        match self.broker() {
            Broker::Nats => "registry: NATS",
            Broker::Mqtt => "registry: MQTT",
            Broker::Zenoh => "registry: Zenoh",
        }
    }

    /// Whose syntax names have there.
    fn broker(&self) -> Broker;

    /// Since when it hears without a gap; `None` while it hears nothing.
    fn heard_since(&self) -> Option<Instant>;

    /// Hears a tenant until the guard is dropped.
    fn attach(&self, fleet: Arc<Fleet>) -> BoxFuture<'_, DropGuard>;

    /// Says something that nobody answers.
    fn publish(&self, name: String, payload: Vec<u8>) -> BoxFuture<'_, ()>;

    /// Asks a device; `None` without an answer in time.
    fn pull(
        &self,
        tenant: TenantId,
        device: DeviceId,
        question: Vec<u8>,
    ) -> BoxFuture<'_, Option<Vec<u8>>>;
}

/// How long devices may take to connect again to a broker that was away, besides their time to live.
const RECONNECT: Duration = Duration::from_secs(5);

/// Whether a broker can be heard, and since when.
#[derive(Default)]
struct Hearing(Mutex<Heard>);

#[derive(Clone, Copy, Default)]
enum Heard {
    #[default]
    NotYet,
    Since(Instant),
    NoMore,
}

impl Hearing {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn since(&self) -> Option<Instant> {
        match *self.lock() {
            Heard::Since(since) => Some(since),
            Heard::NotYet | Heard::NoMore => None,
        }
    }

    /// It is there (again), or there was a gap.
    fn begins(&self) {
        let mut heard = self.lock();
        let now = Instant::now();
        *heard = Heard::Since(match *heard {
            Heard::NotYet => now,
            // Devices come back one after the other.
            Heard::Since(_) | Heard::NoMore => now + RECONNECT,
        });
    }

    fn ends(&self) {
        let mut heard = self.lock();
        if matches!(*heard, Heard::Since(_)) {
            *heard = Heard::NoMore;
        }
    }
}
