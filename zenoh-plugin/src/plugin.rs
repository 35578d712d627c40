//! The plugin that a router loads.

use crate::gate::Gate;
use crate::host::Host;
use crate::listen::listen;
use crate::metrics::Metrics;
use crate::settings::Settings;
use bulkhead_control::Control;
use bulkhead_control::config::Config;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use zenoh::internal::plugins::{Response, RunningPlugin, RunningPluginTrait, ZenohPlugin};
use zenoh::internal::runtime::DynamicRuntime;
use zenoh_plugin_trait::{Plugin, PluginControl, plugin_long_version, plugin_version};

/// Bulkhead, as a router sees it.
#[derive(Debug)]
pub struct Bulkhead;

impl ZenohPlugin for Bulkhead {}

impl Plugin for Bulkhead {
    type StartArgs = DynamicRuntime;
    type Instance = RunningPlugin;

    const DEFAULT_NAME: &'static str = "bulkhead";
    const PLUGIN_VERSION: &'static str = plugin_version!();
    const PLUGIN_LONG_VERSION: &'static str = plugin_long_version!();

    fn start(name: &str, runtime: &DynamicRuntime) -> zenoh::Result<RunningPlugin> {
        let options = runtime.get_config().get_plugin_config(name)?;
        let options: Options = serde_json::from_value(options)
            .map_err(|error| format!("plugins/{name}: {error}"))?;
        let config = Config::load(&options.config)?;
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .thread_name("bulkhead")
            .enable_all()
            .build()?;
        // A router that has the plugin linked in is on a thread of its runtime here, where none may wait.
        let starting = std::thread::scope(|scope| {
            let start = || tokio.block_on(start_in_router(config, options.config, runtime));
            scope.spawn(start).join()
        });
        let gate = starting.map_err(|_| "the gate did not start")??;
        Ok(Box::new(Running { tokio: Some(tokio), gate }))
    }
}

/// What `plugins/bulkhead` of the router's configuration may say.
#[derive(Debug, Deserialize)]
struct Options {
    /// Path of Bulkhead's own configuration.
    config: PathBuf,
}

struct Running {
    tokio: Option<tokio::runtime::Runtime>,
    gate: Control,
}

impl PluginControl for Running {}

impl RunningPluginTrait for Running {
    fn adminspace_getter<'a>(
        &'a self,
        _: &'a zenoh::key_expr::KeyExpr<'a>,
        _: &str,
    ) -> zenoh::Result<Vec<Response>> {
        Ok(Vec::new())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gate.stop().cancel();
        if let Some(tokio) = self.tokio.take() {
            tokio.shutdown_background();
        }
    }
}

async fn start_in_router(
    config: Config,
    file: PathBuf,
    runtime: &DynamicRuntime,
) -> zenoh::Result<Control> {
    let control = Control::start(config, Some(file)).await?;
    start(&control, runtime).await?;
    Ok(control)
}

/// Starts the gate within a running [`Control`], before a router of this process.
///
/// # Errors
/// What is wrong with the configuration, or with the ports.
pub async fn start(control: &Control, runtime: &DynamicRuntime) -> zenoh::Result<Vec<SocketAddr>> {
    let config = control.config().zenoh.as_ref().ok_or("[zenoh] is not configured; set zenoh.listeners")?;
    let metrics = Metrics::new(control.auth().metrics().registry())?;
    let strangers = metrics.strangers.clone();
    let host = Arc::new(Host::new(move |peer| {
        strangers.inc();
        tracing::warn!(zid = %peer.zid, links = ?peer.links, "somebody reached the router around the gate");
    }));
    runtime.new_handler(Arc::clone(&host) as Arc<_>);
    let socket = config.router_socket.clone().ok_or("zenoh.router_socket is missing")?;
    let gate = Arc::new(Gate::new(
        Arc::clone(control.auth()),
        host,
        Settings::of(config),
        metrics,
        socket,
        control.tasks().clone(),
        control.stop().clone(),
    ));
    let addresses = listen(config, &gate).await?;
    control.tasks().spawn(Arc::clone(&gate).look_after());
    control.tasks().spawn(Arc::clone(&gate).follow());
    Ok(addresses)
}
