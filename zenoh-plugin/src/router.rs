//! A router of this process, for those who have none.

use crate::service::{ZenohError, ZenohGate, start};
use bulkhead_control::Control;
use serde_json::json;
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use tempfile::TempDir;
use tokio::runtime::Handle;
use zenoh::bytes::Encoding;
use zenoh::internal::runtime::{DynamicRuntime, Runtime, RuntimeBuilder};
use zenoh::query::Query;
use zenoh::session::Session;

/// What the names of folders for sockets begin with.
const FOLDER: &str = "bulkhead-zenoh-";

/// The socket in such a folder.
const SOCKET: &str = "router.sock";

/// A router with the gate before it, which nobody reaches but through the gate.
pub struct Router {
    runtime: Runtime,
    gate: ZenohGate,
    admin: Session,
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
        let folder = tempfile::Builder::new()
            .prefix(FOLDER)
            .permissions(Permissions::from_mode(0o700))
            .tempdir()?;
        sweep(folder.path());
        let config = config(folder.path()).map_err(failed)?;
        let mut runtime = RuntimeBuilder::new(config).build().await.map_err(failed)?;
        runtime.start().await.map_err(failed)?;
        let gate = start(control, &DynamicRuntime::from(runtime.clone()))?;
        let admin = tell(&runtime, &gate).await.map_err(failed)?;
        Ok(Self { runtime, gate, admin, _folder: folder })
    }

    /// The gate.
    pub fn gate(&self) -> &ZenohGate {
        &self.gate
    }

    /// A session within the process, for what the platform runs beside the gate. It sees all tenants.
    ///
    /// # Errors
    /// What the router says.
    pub async fn session(&self) -> zenoh::Result<Session> {
        within(&self.runtime).await
    }

    /// Ends the router, whose gate ends with its [`Control`].
    pub async fn close(self) {
        let _ = self.admin.close().await;
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

async fn within(runtime: &Runtime) -> zenoh::Result<Session> {
    zenoh::session::init(DynamicRuntime::from(runtime.clone())).await
}

/// Tells in the admin space what the gate is doing, as a router does of the plugins that it has loaded.
async fn tell(runtime: &Runtime, gate: &ZenohGate) -> zenoh::Result<Session> {
    let session = within(runtime).await?;
    let prefix = format!("@/{}/router/status/plugins/bulkhead", session.zid());
    let (gate, below) = (gate.clone(), prefix.clone());
    let here = Handle::current();
    let answer = move |query: Query| {
        let (gate, below) = (gate.clone(), below.clone());
        here.spawn(async move {
            for (key, value) in gate.status().told(&below, query.key_expr()) {
                let reply = query.reply(key, value.to_string());
                if let Err(error) = reply.encoding(Encoding::APPLICATION_JSON).await {
                    tracing::debug!(%error, "nobody hears the status");
                }
            }
        });
    };
    session.declare_queryable(format!("{prefix}/**")).callback(answer).background().await?;
    Ok(session)
}

/// Removes the folders beside this one whose routers are gone: those of processes that were killed, which
/// could not.
fn sweep(own: &Path) {
    let Some((beside, owner)) = own.parent().zip(own.metadata().ok().map(|m| m.uid())) else {
        return;
    };
    let others = beside.read_dir().into_iter().flatten().flatten();
    for other in
        others.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(FOLDER.as_bytes()))
    {
        // No link, and nobody else's; a socket that nobody listens on is one that nobody will.
        let is_ours = other.metadata().is_ok_and(|found| found.is_dir() && found.uid() == owner);
        let refused = || UnixStream::connect(other.path().join(SOCKET)).err().map(|e| e.kind());
        if is_ours && refused() == Some(ErrorKind::ConnectionRefused) {
            let removed = std::fs::remove_dir_all(other.path());
            tracing::debug!(folder = %other.path().display(), ok = removed.is_ok(), "left behind");
        }
    }
}

fn config(folder: &Path) -> zenoh::Result<zenoh::Config> {
    let mut config = zenoh::Config::default();
    let socket = format!("unixsock-stream/{}", folder.join(SOCKET).display());
    let settings = [
        ("mode", json!("router")),
        ("listen/endpoints", json!([socket])),
        ("connect/endpoints", json!([])),
        ("scouting/multicast/enabled", json!(false)),
        ("scouting/gossip/enabled", json!(false)),
        ("adminspace/enabled", json!(true)),
        // The gate has bounds of its own, below these.
        ("transport/unicast/max_sessions", json!(100_000)),
        ("transport/unicast/accept_pending", json!(10_000)),
    ];
    for (setting, value) in settings {
        config.insert_json5(setting, &value.to_string())?;
    }
    Ok(config)
}
