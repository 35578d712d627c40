//! Everything on one machine, and the measurement of its isolation.

mod environment;
mod matrix;
mod mqtt;
mod nats;
mod registry;
mod zenoh;

pub use environment::{DevError, Environment};
pub use matrix::{Matrix, Row, Seen};
pub use nats::settle;
