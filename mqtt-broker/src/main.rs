//! The MQTT broker by itself, as a container runs it.

use bulkhead_control::config::Config;
use bulkhead_control::{Control, StartError, log};
use std::path::PathBuf;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-mqtt-broker: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).map_or_else(|| "bulkhead.toml".into(), PathBuf::from);
    let config = Config::load(&path)?;
    log::init(&config.log)?;
    let control = Control::start(config, Some(path)).await?;
    // Where NATS is configured too, its service has the exchange, for all backends.
    let has_exchange = control.config().nats.is_none();
    let issuers = if has_exchange { control.issuers()? } else { Vec::new() };
    bulkhead_mqtt_broker::start(&control)
        .map_err(|cause| StartError::Backend { backend: "mqtt", cause: cause.into() })?;
    if has_exchange {
        control.start_exchange(issuers).await?;
    }
    control.wait().await;
    control.shutdown().await;
    Ok(())
}
