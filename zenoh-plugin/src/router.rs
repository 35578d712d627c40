//! A router of this process, for those who have none.

use crate::service::{ZenohError, ZenohGate, start};
use bulkhead_control::Control;
use serde_json::json;
use std::path::Path;
use tempfile::TempDir;
use zenoh::internal::runtime::{DynamicRuntime, Runtime, RuntimeBuilder};

/// A router with the gate before it, which nobody reaches but through the gate.
pub struct Router {
    runtime: Runtime,
    gate: ZenohGate,
    /// Where the socket is; gone with the router.
    _folder: TempDir,
}

impl Router {
    /// Starts one. Its socket is in a folder that only the process's own user can enter.
    ///
    /// # Errors
    /// [`ZenohError`].
    pub async fn start(control: &Control) -> Result<Self, ZenohError> {
        let failed = |error: zenoh::Error| ZenohError::Router(error.to_string());
        let folder = tempfile::Builder::new().prefix("bulkhead-zenoh-").tempdir()?;
        let config = config(folder.path()).map_err(failed)?;
        let mut runtime = RuntimeBuilder::new(config).build().await.map_err(failed)?;
        runtime.start().await.map_err(failed)?;
        let gate = start(control, &DynamicRuntime::from(runtime.clone()))?;
        Ok(Self { runtime, gate, _folder: folder })
    }

    /// The gate.
    pub fn gate(&self) -> &ZenohGate {
        &self.gate
    }

    /// Ends the router, whose gate ends with its [`Control`].
    pub async fn close(self) {
        if let Err(error) = self.runtime.close().await {
            tracing::warn!(%error, "the router did not close");
        }
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("gate", &self.gate).finish_non_exhaustive()
    }
}

fn config(folder: &Path) -> zenoh::Result<zenoh::Config> {
    let mut config = zenoh::Config::default();
    let socket = format!("unixsock-stream/{}", folder.join("router.sock").display());
    let settings = [
        ("mode", json!("router")),
        ("listen/endpoints", json!([socket])),
        ("connect/endpoints", json!([])),
        ("scouting/multicast/enabled", json!(false)),
        ("scouting/gossip/enabled", json!(false)),
        // The gate has bounds of its own, below these.
        ("transport/unicast/max_sessions", json!(100_000)),
        ("transport/unicast/accept_pending", json!(10_000)),
    ];
    for (setting, value) in settings {
        config.insert_json5(setting, &value.to_string())?;
    }
    Ok(config)
}
