//! A Zenoh router with the gate linked in, for those who would rather not match the ABI of plugins.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    bulkhead_zenoh::zenohd::run().await
}
