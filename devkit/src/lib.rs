//! Pinned tools and real servers for `bulkhead dev`, the tests and the benchmarks.
//!
//! [`Tools`] finds a program on `PATH` or fetches a pinned one; [`NatsServer`], [`Etcd`],
//! [`MosquittoServer`] and [`ZenohServer`] run it on loopback in a folder of their own; [`Server`] is
//! the guard under all of them and serves any other program as well:
//!
//! ```no_run
//! use bulkhead_devkit::{NatsServer, Tools};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let binary = Tools::open()?.nats_server()?;
//! let mut nats = NatsServer::start(&binary, "work/nats".as_ref(), "max_payload: 64KB")?;
//! println!("{}", nats.client_url());
//! nats.kill()?;
//! nats.restart()?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything here blocks the calling thread for a stated time at most, except a fetch, which takes
//! as long as the network does. Only Unix is supported.

pub mod etcd;
pub mod mosquitto;
pub mod nats;
pub mod node;
pub mod process;
pub mod tools;
pub mod zenoh;

mod config;
mod error;
mod fetch;
mod home;
mod http;
mod lifeline;
mod path;
mod port;
mod python;
mod tail;
mod version;

pub use error::Error;
pub use etcd::Etcd;
pub use mosquitto::{Mosquitto, MosquittoServer};
pub use nats::NatsServer;
pub use node::MqttJs;
pub use port::free_port;
pub use process::Server;
pub use tools::{PluginBuild, Tools};
pub use zenoh::ZenohServer;
