//! The ways to devices: one for each broker.
//!
//! A backend hears registrations, questions and heartbeats of the tenants that are attached to it, and
//! carries what their fleets say. Tenant and device come from the name that the broker enforces.

mod mqtt;
mod nats;
mod request_info;
mod zenoh;

pub(crate) use mqtt::Mqtt;
pub(crate) use nats::Nats;
pub(crate) use zenoh::Zenoh;

use crate::fleet::Fleet;
use crate::presence::Via;
use bulkhead_policy::{Broker, DeviceId, TenantId};
use futures::future::BoxFuture;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::DropGuard;

/// How long a device has to answer a question, at the most.
pub(crate) const PULL_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections of one backend. Beyond so many tenants some share one.
const MAX_CONNECTIONS: usize = 256;

/// Why a backend cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    /// A file.
    #[error("{setting}: {cause}; check the path and its permissions")]
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

    /// Whether it hears anything at all.
    fn is_heard(&self) -> bool;

    /// Since when it hears a tenant without a gap, and its last sign of life; `None` while it hears nothing.
    fn heard(&self, tenant: &TenantId) -> Option<(Instant, Instant)>;

    /// Hears a tenant until the guard is dropped.
    fn attach(&self, fleet: Arc<Fleet>) -> BoxFuture<'_, DropGuard>;

    /// Says something in a tenant that nobody answers.
    fn publish(&self, tenant: &TenantId, name: String, payload: Vec<u8>) -> BoxFuture<'_, ()>;

    /// Asks a device; `None` without an answer within `patience`.
    fn pull(
        &self,
        tenant: TenantId,
        device: DeviceId,
        question: Vec<u8>,
        patience: Duration,
    ) -> BoxFuture<'_, Option<Vec<u8>>>;
}

/// How long devices may take to connect again to a broker that was away, besides their time to live.
const RECONNECT: Duration = Duration::from_secs(5);

/// Whether a broker can be heard, since when, and when it last gave a sign of life.
#[derive(Default)]
struct Hearing(Mutex<Heard>);

#[derive(Clone, Copy, Default)]
enum Heard {
    #[default]
    NotYet,
    Since(Instant, Instant),
    NoMore,
}

impl Hearing {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn span(&self) -> Option<(Instant, Instant)> {
        match *self.lock() {
            Heard::Since(since, until) => Some((since, until)),
            Heard::NotYet | Heard::NoMore => None,
        }
    }

    /// It is there (again), or there was a gap.
    fn begins(&self) {
        let mut heard = self.lock();
        let now = Instant::now();
        let since = match *heard {
            Heard::NotYet => now,
            // Devices come back one after the other.
            Heard::Since(..) | Heard::NoMore => now + RECONNECT,
        };
        *heard = Heard::Since(since, now);
    }

    /// It says something.
    fn lives(&self) {
        if let Heard::Since(_, until) = &mut *self.lock() {
            *until = Instant::now();
        }
    }

    fn ends(&self) {
        let mut heard = self.lock();
        if matches!(*heard, Heard::Since(..)) {
            *heard = Heard::NoMore;
        }
    }
}

/// Connections of one backend, each for some of the tenants: what one tenant sends can cost its own
/// connection, and fill its own queues, without the others' noticing.
struct Connections<C> {
    inside: Mutex<Placed<C>>,
}

struct Placed<C> {
    all: Vec<(Arc<C>, usize)>,
    /// Each tenant's, and which of its placements that was.
    of: HashMap<TenantId, (u64, Arc<C>)>,
    placements: u64,
}

impl<C> Default for Connections<C> {
    fn default() -> Self {
        Self { inside: Mutex::new(Placed { all: Vec::new(), of: HashMap::new(), placements: 0 }) }
    }
}

impl<C> Connections<C> {
    fn lock(&self) -> MutexGuard<'_, Placed<C>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, which is nobody's yet.
    fn add(&self, connection: Arc<C>) {
        self.lock().all.push((connection, 0));
    }

    fn any(&self, is: impl Fn(&C) -> bool) -> bool {
        self.lock().all.iter().any(|(connection, _)| is(connection))
    }

    /// The tenant's.
    fn of(&self, tenant: &TenantId) -> Option<Arc<C>> {
        self.lock().of.get(tenant).map(|(_, connection)| Arc::clone(connection))
    }

    /// Whether the next tenant would share one although there could be more.
    fn wants_another(&self) -> bool {
        let inside = self.lock();
        inside.all.len() < MAX_CONNECTIONS && inside.all.iter().all(|(_, tenants)| *tenants > 0)
    }

    /// Gives a tenant one: of its own while there are few, else the one with the fewest. Returns it with
    /// what ends the placement.
    fn place(
        &self,
        tenant: &TenantId,
        open: impl FnOnce() -> Option<Arc<C>>,
    ) -> Option<(u64, Arc<C>)> {
        let mut inside = self.lock();
        let has_free = inside.all.iter().any(|(_, tenants)| *tenants == 0);
        if !has_free
            && inside.all.len() < MAX_CONNECTIONS
            && let Some(connection) = open()
        {
            inside.all.push((connection, 0));
        }
        let (connection, tenants) = inside.all.iter_mut().min_by_key(|(_, tenants)| *tenants)?;
        *tenants += 1;
        let connection = Arc::clone(connection);
        inside.placements += 1;
        let placement = inside.placements;
        let before = inside.of.insert(tenant.clone(), (placement, Arc::clone(&connection)));
        if let Some((_, before)) = before {
            inside.leave(&before);
        }
        Some((placement, connection))
    }

    /// The tenant is gone, unless it has been placed again since.
    fn remove(&self, tenant: &TenantId, placement: u64) {
        let mut inside = self.lock();
        if inside.of.get(tenant).is_some_and(|(current, _)| *current == placement)
            && let Some((_, connection)) = inside.of.remove(tenant)
        {
            inside.leave(&connection);
        }
    }
}

impl<C> Placed<C> {
    fn leave(&mut self, connection: &Arc<C>) {
        for (one, tenants) in &mut self.all {
            if Arc::ptr_eq(one, connection) {
                *tenants = tenants.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Connections, MAX_CONNECTIONS};
    use bulkhead_policy::TenantId;
    use std::sync::Arc;

    fn tenant(n: usize) -> TenantId {
        TenantId::parse(&format!("t{n}")).unwrap()
    }

    #[test]
    fn tenants_have_connections_of_their_own_while_there_are_few() {
        let connections: Connections<usize> = Connections::default();
        let place = |n| connections.place(&tenant(n), || Some(Arc::new(n))).unwrap();
        let first: Vec<_> = (0..MAX_CONNECTIONS).map(place).collect();
        assert!(first.iter().enumerate().all(|(n, (_, connection))| **connection == n));
        place(MAX_CONNECTIONS);
        assert_eq!(connections.lock().all.len(), MAX_CONNECTIONS);
        // One that is left is the next one's, and a late farewell takes nothing away.
        let (old, connection) = &first[7];
        connections.remove(&tenant(7), *old);
        let (_, again) = place(7);
        assert!(Arc::ptr_eq(&again, connection));
        connections.remove(&tenant(7), *old);
        assert!(connections.of(&tenant(7)).is_some());
    }
}
