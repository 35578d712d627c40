//! Load tests of Bulkhead, and their report.
//!
//! ```text
//! Args ─▶ Session ─▶ group ─▶ Measured ─▶ Report: a table, or one JSON object per line
//!                     ├─ policy   in this process
//!                     ├─ nats     real nats-servers on loopback, the service in a process of its own
//!                     ├─ mqtt     our broker and others on loopback, each in a process of its own
//!                     ├─ zenoh    stock zenohds on loopback, with the gate and without
//!                     └─ registry the registry over NATS, in etcd, and the one that it replaces
//! ```
//!
//! `README.md` says what each case measures and what it is compared with.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark stops at the first surprise: a number from a broken setup is worse than none"
)]

mod args;
mod case;
mod connecting;
mod cores;
mod cpu;
mod issuer;
mod limits;
mod memory;
mod mqtt;
mod nats;
mod policy;
mod registry;
mod report;
mod session;
mod stats;
mod suspension;
mod zenoh;

use args::{Args, Group};
use clap::Parser;
use session::Session;
use std::process::ExitCode;

/// First argument of the process that runs the service, which is this program once more.
const SERVE: &str = "serve";

/// The same of the process that runs our broker for everybody, and of the one that runs rumqttd. The
/// second argument is where it listens.
const SERVE_OPEN: &str = "serve-open";
const SERVE_RUMQTTD: &str = "serve-rumqttd";

fn main() -> ExitCode {
    let typed: Vec<_> = std::env::args().skip(1).collect();
    match typed.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [SERVE, ..] => return bulkhead_cli::run(bulkhead_cli::Args::parse()),
        [SERVE_OPEN, address] => return mqtt::serve_open(address),
        [SERVE_RUMQTTD, address] => return mqtt::serve_rumqttd(address),
        _ => {}
    }
    let args = Args::parse();
    let mut session = match Session::new(&args) {
        Ok(session) => session,
        Err(error) => {
            eprintln!("bulkhead-bench: {error}");
            return ExitCode::from(2);
        }
    };
    if matches!(args.group, Group::Policy | Group::All) {
        policy::run(&mut session);
    }
    if matches!(args.group, Group::Nats | Group::All) {
        nats::run(&mut session);
    }
    if matches!(args.group, Group::Mqtt | Group::All) {
        mqtt::run(&mut session);
    }
    if matches!(args.group, Group::Zenoh | Group::All) {
        zenoh::run(&mut session);
    }
    if matches!(args.group, Group::Registry | Group::All) {
        registry::run(&mut session);
    }
    session.finish();
    ExitCode::SUCCESS
}
