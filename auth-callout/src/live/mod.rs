//! What is done to a running system: accounts are made known, live connections are cut.

mod follow;
mod provision;
mod sweep;
mod system;

pub use follow::{Accounts, Follower};
pub use provision::Provisioner;
pub use sweep::Sweeper;
pub use system::{Closings, Connection, SystemClient, SystemError};
