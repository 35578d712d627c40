//! Everything on one machine, and the measurement of its isolation.

mod environment;
mod matrix;
mod registry;

pub use environment::{DevError, Environment};
pub use matrix::measure;
