//! The registry by itself, as a container runs it.

use bulkhead_control::{StartError, program};
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    program::run("bulkhead-registry", async |control| {
        bulkhead_registry::start(control)
            .await
            .map_err(|cause| StartError::Backend { backend: "registry", cause: cause.into() })
    })
    .await
}
