//! The NATS auth-callout service by itself, as a container runs it.

use bulkhead_control::config::Config;
use bulkhead_control::{Control, StartError, log};
use std::path::PathBuf;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-auth-callout: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).map_or_else(|| "bulkhead.toml".into(), PathBuf::from);
    let config = Config::load(&path)?;
    log::init(&config.log)?;
    let control = Control::start(config, Some(path)).await?;
    let mut issuers = control.issuers()?;
    let issuer = bulkhead_auth_callout::start(&control)
        .await
        .map_err(|cause| StartError::Backend { backend: "nats", cause: cause.into() })?;
    issuers.extend(issuer);
    control.start_exchange(issuers).await?;
    control.wait().await;
    control.shutdown().await;
    Ok(())
}
