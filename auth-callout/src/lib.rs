//! Bulkhead's NATS backend.
//!
//! A stock nats-server asks this service about each connection (`auth_callout`, ADR-26). In operator
//! mode every tenant has an account of its own, which the service makes known to the servers, so that
//! isolation is the server's own:
//!
//! ```text
//!  client ──CONNECT, tenant token──▶ nats-server ──$SYS.REQ.USER.AUTH──▶ service ─▶ Callout
//!                                        ▲                                             │
//!                                        └── user JWT: account, permissions, expiry ◀──┘
//!
//!  directory ──changes──▶ Follower ─┬─▶ Provisioner ──account JWT──▶ every server
//!                                   └─▶ Sweeper ──CONNZ, KICK──▶ live connections
//! ```

mod accounts;
mod callout;
mod carrier;
mod credentials;
mod init;
pub mod jwt;
mod keyring;
pub mod live;
mod mode;
pub mod nkey;
mod operator;
mod permissions;
mod service;
pub mod xkey;

pub use callout::{BACKEND, Callout};
pub use credentials::NatsCredentials;
pub use init::{InitError, Initialized, init, rotate};
pub use keyring::{Keyring, KeyringError, KeyringFile, RotateError, Rotation};
pub use live::{Provisioner, SystemClient};
pub use mode::{ConfigMode, ConfigModeError, Mode};
pub use operator::Operator;
pub use service::{NatsError, start};
