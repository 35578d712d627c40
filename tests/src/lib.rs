//! What the end-to-end tests share: servers, services, tokens and clients, each test with its own.
//!
//! ```text
//! Stack::new() ─▶ temporary folder: keys, tenants, configuration
//!    .start()  ─▶ nats-server(s) ─▶ services in this process, ready
//! ```
//!
//! Everything here stops the test at the first surprise: a harness has no caller that could handle it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness stops the test at the first surprise"
)]

mod client;
mod clock;
mod config_mode;
mod edge;
mod folder;
mod issued;
pub mod mqtt;
mod passage;
mod pings;
mod process;
pub mod registry;
mod stack;
mod tls;
mod wait;
pub mod zenoh;

pub use bulkhead_control::config::Transport;
pub use client::{Actor, connect_error, next, nothing};
pub use clock::TestClock;
pub use config_mode::ConfigModeSite;
pub use passage::Passage;
pub use pings::ping_and_read_nothing;
pub use process::Replica;
pub use stack::{AUDIENCE, ISSUER, Stack, StackBuilder, Token};
pub use tls::client as tls_client;
pub use wait::{WITHIN, eventually, eventually_async};
