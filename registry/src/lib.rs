//! Which devices are present: Device Connect's registry, kept apart by tenant.
//!
//! ```text
//!   NATS ─┐                         ┌─ presence/   one tenant's devices, without I/O or a clock
//!   MQTT ─┼─ backend/ ─▶ Fleet ─────┤
//!  Zenoh ─┘     ▲          │        └─ store/      transitions, in etcd or in a file
//!               └──────────┘ device/online, device/offline, requestRegistration
//!
//!  ownership: which replica has which tenants       watch: what changes, for people and programs
//! ```
//!
//! What devices say is in [`wire`]: registration, heartbeat and discovery as Device Connect's devices
//! speak them. A device that beats and has not changed costs no request to the store; only what
//! changes is written, gathered for a moment, and what is told to others is told once it is written.

mod backend;
mod backlog;
mod fleet;
mod metrics;
mod ownership;
mod presence;
mod service;
mod store;
mod strays;
mod watch;
pub mod wire;

pub use service::{RegistryError, start};
