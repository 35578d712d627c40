//! The MQTT broker by itself, as a container runs it.

use bulkhead_control::{StartError, program};
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    program::run("bulkhead-mqtt-broker", async |control| {
        // Where NATS is configured too, its service has the exchange, for all backends.
        let has_exchange = control.config().nats.is_none();
        let issuers = if has_exchange { control.issuers()? } else { Vec::new() };
        bulkhead_mqtt_broker::start(control)
            .map_err(|cause| StartError::Backend { backend: "mqtt", cause: cause.into() })?;
        if has_exchange {
            control.start_exchange(issuers).await?;
        }
        Ok(())
    })
    .await
}
