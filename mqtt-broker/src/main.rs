//! The MQTT broker by itself, as a container runs it.

use bulkhead_control::{StartError, program};
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    program::run("bulkhead-mqtt-broker", async |control| {
        bulkhead_mqtt_broker::start(control)
            .map_err(|cause| StartError::Backend { backend: "mqtt", cause: cause.into() })?;
        Ok(())
    })
    .await
}
