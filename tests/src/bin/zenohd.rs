//! `bulkhead-zenohd`, for tests of the program.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    bulkhead_zenoh::zenohd::run().await
}
