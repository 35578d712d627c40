//! The NATS auth-callout service by itself, as a container runs it.

use bulkhead_control::{StartError, program};
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    program::run("bulkhead-auth-callout", async |control| {
        let mut issuers = control.issuers()?;
        let issuer = bulkhead_auth_callout::start(control)
            .await
            .map_err(|cause| StartError::Backend { backend: "nats", cause: cause.into() })?;
        issuers.extend(issuer);
        control.start_exchange(issuers).await?;
        Ok(())
    })
    .await
}
