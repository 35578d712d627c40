//! The plugin that a router loads.

use crate::service::{ZenohGate, start};
use bulkhead_control::config::{Config, ZenohListener};
use bulkhead_control::{Control, log};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use zenoh::internal::plugins::{Response, RunningPlugin, RunningPluginTrait, ZenohPlugin};
use zenoh::internal::runtime::DynamicRuntime;
use zenoh::key_expr::KeyExpr;
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

    fn start(name: &str, router: &DynamicRuntime) -> zenoh::Result<RunningPlugin> {
        let options = router.get_config().get_plugin_config(name).unwrap_or_else(|_| json!({}));
        let options = Options::read(options).map_err(|error| {
            format!(
                "plugins/{name} of the router's configuration: {error}; it takes \"config\", the path \
                 of Bulkhead's own configuration, and \"listeners\" in the place of zenoh.listeners"
            )
        })?;
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .thread_name("bulkhead")
            .enable_all()
            .build()?;
        // A router that has the plugin linked in is on a thread of its runtime here, where none may wait.
        let starting =
            std::thread::scope(|scope| scope.spawn(|| tokio.block_on(run(options, router))).join());
        let started = starting.unwrap_or_else(|_| Err("the gate did not start".into()));
        let (control, gate) = match started {
            Ok(started) => started,
            Err(error) => {
                // Nor may one wait there for a runtime to end.
                tokio.shutdown_background();
                return Err(error);
            }
        };
        Ok(Box::new(Running { tokio: Some(tokio), control, gate }))
    }
}

/// What `plugins/bulkhead` of the router's configuration may say. The router logs it, so nothing in it
/// is secret.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Path of Bulkhead's own configuration.
    config: PathBuf,
    /// Where tenants' clients connect, instead of what `zenoh.listeners` says there.
    listeners: Option<Vec<ZenohListener>>,
}

impl Options {
    fn read(mut options: Value) -> Result<Self, serde_json::Error> {
        if let Some(options) = options.as_object_mut() {
            // These are the router's own, for any plugin: `__required__`, `__path__` and the like.
            options.retain(|name, _| !name.starts_with("__"));
        }
        serde_json::from_value(options)
    }
}

async fn run(options: Options, router: &DynamicRuntime) -> zenoh::Result<(Control, ZenohGate)> {
    // Checked like any other: the router's configuration is no way to listen in the clear.
    let listeners = options.listeners.map(|listeners| json!(listeners).to_string());
    let above = listeners.map(|listeners| ("BULKHEAD__ZENOH__LISTENERS".to_owned(), listeners));
    let config = Config::load_with(&options.config, above)?;
    // A router that has the plugin linked in logs already.
    let _ = log::init(&config.log);
    let control = Control::start(config, Some(options.config)).await?;
    let gate = start(&control, router)?;
    Ok((control, gate))
}

struct Running {
    tokio: Option<tokio::runtime::Runtime>,
    control: Control,
    gate: ZenohGate,
}

impl PluginControl for Running {}

impl RunningPluginTrait for Running {
    fn adminspace_getter<'a>(
        &'a self,
        asked: &'a KeyExpr<'a>,
        prefix: &str,
    ) -> zenoh::Result<Vec<Response>> {
        let told = self.gate.status().told(prefix, asked);
        Ok(told.into_iter().map(|(key, value)| Response::new(key, value)).collect())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control.stop().cancel();
        if let Some(tokio) = self.tokio.take() {
            tokio.shutdown_background();
        }
    }
}
