//! A Zenoh router with the gate linked in, as a program.

use crate::plugin::Bulkhead;
use bulkhead_control::program::interrupted;
use std::panic;
use std::path::Path;
use std::process::ExitCode;
use zenoh::internal::plugins::PluginsManager;
use zenoh::internal::runtime::{Runtime, RuntimeBuilder};

/// What is logged where `RUST_LOG` says nothing: of the router as much as zenohd logs, and as much of the gate.
const LOG: &str = "z=info,bulkhead=info";

/// Runs it until the system asks the process to end (SIGTERM, SIGINT). The router's configuration is in
/// the file of the first argument; what goes wrong is said on standard error.
#[expect(clippy::print_stderr, reason = "there may be no log yet, and a person has started it")]
pub async fn run() -> ExitCode {
    let outcome = match std::env::args_os().nth(1) {
        Some(file) => serve(Path::new(&file)).await,
        None => Err("name the router's configuration file".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-zenohd: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(file: &Path) -> zenoh::Result<()> {
    zenoh::init_log_from_env_or(LOG);
    let read = zenoh::Config::from_file(file);
    let mut config = read.map_err(|error| format!("{}: {error}", file.display()))?;
    // As zenohd is where nothing else is said.
    if config.get_json("mode").is_ok_and(|mode| mode == "null") {
        config.insert_json5("mode", "\"router\"")?;
    }
    config.insert_json5("adminspace/enabled", "true")?;
    let mut plugins = PluginsManager::static_plugins_only();
    plugins.declare_static_plugin::<Bulkhead, _>("bulkhead", true);
    plugins.plugin_mut("bulkhead").ok_or("no plugin")?.load()?;
    let interrupted = interrupted();
    let mut runtime = build(RuntimeBuilder::new(config).plugins_manager(plugins)).await?;
    runtime.start().await?;
    interrupted.await;
    runtime.close().await?;
    Ok(())
}

/// The router, with its plugin started. It panics where a plugin that it has to have does not start: that
/// is an error of the configuration here, like any other.
async fn build(builder: RuntimeBuilder) -> zenoh::Result<Runtime> {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let built = tokio::spawn(builder.build()).await;
    panic::set_hook(usual);
    built.unwrap_or_else(|failed| {
        let said = failed.try_into_panic().ok().and_then(|said| said.downcast::<String>().ok());
        Err(said.map_or_else(|| "the router did not start".to_owned(), |said| *said).into())
    })
}
