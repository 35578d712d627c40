//! What is done to a running system: accounts are made known, live connections are cut.

mod follow;
mod provision;
mod sweep;
mod system;
mod usage;

pub use follow::{Accounts, Follower};
pub use provision::Provisioner;
pub use sweep::Sweeper;
pub use system::{AccountUse, Closings, Connection, ServerUse, SystemClient, SystemError};
pub use usage::UsageReader;
