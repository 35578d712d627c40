//! The NATS backend, before real nats-servers on loopback.
//!
//! ```text
//! Wire, many connections ──▶ nats-server ──▶ service, a process of its own     connect, suspend,
//!                                                                              onboard
//! FakeServer, questions  ──▶ Callout, in this process                          handler
//! ```

mod connect;
mod fake_server;
mod handler;
mod onboard;
mod site;
mod suspend;
mod wire;

pub use site::{DirectoryIn, Site};

use crate::case::Case;
use crate::limits::raise_file_limit;
use crate::session::Session;
use tokio::runtime::Runtime;

/// The cases of this group.
pub const CASES: &[Case] = &[
    connect::LEVELS[0].case,
    connect::LEVELS[0].noauth,
    connect::LEVELS[1].case,
    connect::LEVELS[1].noauth,
    connect::LEVELS[2].case,
    connect::LEVELS[2].noauth,
    handler::VARIANTS[0].case,
    handler::VARIANTS[1].case,
    handler::VARIANTS[2].case,
    handler::VARIANTS[3].case,
    suspend::CASE,
    suspend::CASE_ETCD,
    onboard::CASE,
    onboard::CASE_ETCD,
];

/// Measures the cases that are wanted.
pub fn run(session: &mut Session) {
    // A thousand connections are a thousand open files, here and in the server.
    raise_file_limit();
    let runtime = Runtime::new().unwrap();
    handler::run(session, &runtime);
    connect::run(session, &runtime);
    suspend::run(session, &runtime);
    onboard::run(session, &runtime);
}
