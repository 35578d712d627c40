//! `bulkhead serve`: every configured service in one process.

use super::{Context, Outcome};
use bulkhead_control::config::Config;
use bulkhead_control::program::interrupted;
use bulkhead_control::usage::Clock;
use bulkhead_control::{Control, StartError};
use bulkhead_mqtt_broker::Broker;
use bulkhead_zenoh::Router;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;

pub(super) async fn run(context: &Context) -> Outcome {
    let config = context.config()?;
    super::start_log(&config.log)?;
    let mut interrupted = pin!(interrupted());
    let Services { control, zenoh, .. } = tokio::select! {
        started = start(config, Some(context.path.clone())) => started?,
        () = &mut interrupted => return Ok(ExitCode::SUCCESS),
    };
    tracing::info!(admin = %control.admin_address(), "serving");
    control.wait(interrupted).await;
    control.shutdown().await;
    if let Some(router) = zenoh {
        router.close().await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything that the configuration has, running.
#[derive(Debug)]
pub struct Services {
    /// What they share.
    pub control: Control,
    /// Where the exchange is.
    pub exchange: Option<SocketAddr>,
    /// The MQTT broker.
    pub mqtt: Option<Broker>,
    /// The Zenoh router of this process.
    pub zenoh: Option<Router>,
}

/// Starts what the configuration has.
///
/// # Errors
/// [`StartError`].
pub async fn start(config: Config, file: Option<PathBuf>) -> Result<Services, StartError> {
    start_in(Control::start(config, file).await?).await
}

/// The same, with another clock for what is counted by the day.
///
/// # Errors
/// [`StartError`].
pub async fn start_by(
    config: Config,
    file: Option<PathBuf>,
    clock: Clock,
) -> Result<Services, StartError> {
    start_in(Control::start_by(config, file, clock).await?).await
}

async fn start_in(control: Control) -> Result<Services, StartError> {
    let mut issuers = control.issuers()?;
    if control.config().nats.is_some() {
        let issuer = bulkhead_auth_callout::start(&control)
            .await
            .map_err(|cause| StartError::Backend { backend: "nats", cause: cause.into() })?;
        issuers.extend(issuer);
    }
    let mut mqtt = None;
    if control.config().mqtt.is_some() {
        let broker = bulkhead_mqtt_broker::start(&control)
            .map_err(|cause| StartError::Backend { backend: "mqtt", cause: cause.into() })?;
        tracing::info!(addresses = ?broker.addresses(), "MQTT clients are served");
        mqtt = Some(broker);
    }
    let mut zenoh = None;
    if control.config().zenoh.as_ref().is_some_and(|zenoh| zenoh.own_router) {
        let router = Router::start(&control)
            .await
            .map_err(|cause| StartError::Backend { backend: "zenoh", cause: cause.into() })?;
        tracing::info!(addresses = ?router.gate().addresses(), "Zenoh clients are served");
        zenoh = Some(router);
    }
    if control.config().registry.is_some() {
        bulkhead_registry::start(&control)
            .await
            .map_err(|cause| StartError::Backend { backend: "registry", cause: cause.into() })?;
    }
    let exchange = control.start_exchange(issuers).await?;
    if let Some(address) = exchange {
        tracing::info!(%address, "credentials are issued at /v1/credentials");
    }
    Ok(Services { control, exchange, mqtt, zenoh })
}
