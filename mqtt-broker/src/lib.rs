//! An MQTT 3.1.1 and 5 broker whose tenants cannot reach each other.
//!
//! ```text
//!  listen ──▶ connection ──▶ hook: who is it, may it?
//!  TCP, TLS,      │ ▲
//!  WebSocket      │ │ packets
//!                 ▼ │
//!  Lane ──▶ rumqttd router ──▶ Realm: one tenant's sessions, subscriptions, retained messages
//! ```
//!
//! The session layer is this crate's own: a client's bytes are decoded, checked and decided about
//! before anything of them goes on. The embedded router carries batches of what was allowed, one log
//! for each tenant. With another broker behind it, the same front relays to that: see `upstream`.

pub mod codec;
pub mod hook;

mod aliases;
mod broker;
mod bus;
mod clock;
mod connection;
mod incarnation;
mod listen;
mod metrics;
mod policy;
mod realm;
mod record;
mod refusal;
mod service;
mod settings;
mod store;
mod upstream;

pub use listen::ListenError;
pub use policy::TenantPolicy;
pub use service::{Broker, MqttError, start};
pub use store::StoreError;
pub use upstream::UpstreamError;
