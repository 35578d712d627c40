//! Tenant isolation before a Zenoh router.
//!
//! ```text
//!  client ──▶ listen ──▶ session ──┬─▶ ingress ─▶ wire::Inbound ─▶ rules ─▶ the router's own handler
//!             tcp, tls,  who it is │
//!             ws, quic             └─◀ relay ◀── wire::Outbound ◀ rules ◀── the router, by its socket
//! ```
//!
//! Each client has a session with the gate, which has one of its own with the router. What the client
//! sends is read once, checked, and handed to the router as the objects that were checked; what the
//! router sends to the client is looked through on its way.

mod aside;
mod budget;
mod declarations;
mod door;
mod exposure;
/// What fuzzers run.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::wire::agreement::{batches, messages};
    pub use crate::wire::resources::names;
}
mod gate;
mod handshake;
mod host;
mod ingress;
mod kill;
mod link;
mod listen;
mod metrics;
mod plugin;
mod pressure;
mod router;
mod rules;
mod seat;
mod service;
mod session;
mod settings;
mod status;
mod threads;
mod wire;
pub mod zenohd;

pub use listen::ListenError;
pub use plugin::Bulkhead;
pub use router::Router;
pub use service::{ZenohError, ZenohGate, start};
pub use status::{SessionStatus, Status, TenantStatus};
