//! What Bulkhead's services share at run time.
//!
//! ```text
//!  bulkhead.toml ─▶ Config ─▶ Control ──┬─ Verifier   issuers' keys, verified tokens
//!                                       ├─ Directory  tenants, from a file or etcd
//!                                       ├─ Audit      a hash-chained log
//!                                       ├─ Metrics    for Prometheus
//!                                       └─ HTTP       admin port, credentials exchange ◀─ identity
//!
//!  a client's token ─▶ Authenticator::identify ─▶ Authenticator::admit ─▶ Admission
//! ```
//!
//! A broker adapter needs [`Authenticator`] alone: it asks who a client is, whether it is welcome and
//! what it may do, and is told by [`Changes`] when to ask again.

pub mod audit;
mod auth;
mod changes;
pub mod config;
mod cut;
pub mod directory;
pub mod etcd;
pub mod files;
pub mod http;
pub mod identity;
pub mod issuer;
pub mod limits;
pub mod listen;
pub mod log;
pub mod metrics;
mod pending;
pub mod program;
mod runtime;
pub mod tls;
pub mod transport;
pub mod usage;
mod x509;

pub use auth::{Admission, Authenticator, Granted, Identified, Rights};
pub use changes::{Change, Changes};
pub use cut::Cut;
pub use pending::{Entered, Pending};
pub use runtime::{Control, StartError};
