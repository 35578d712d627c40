//! Tenant isolation before a Zenoh router.

mod gate;
mod handshake;
mod host;
mod ingress;
mod link;
mod listen;
mod metrics;
mod plugin;
mod rules;
mod seat;
mod session;
mod settings;
mod wire;

pub use plugin::{Bulkhead, start};
