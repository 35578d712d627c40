//! A Zenoh router with the gate linked in, for those who would rather not match the ABI of plugins.

use bulkhead_zenoh::Bulkhead;
use std::process::ExitCode;
use zenoh::internal::plugins::PluginsManager;
use zenoh::internal::runtime::RuntimeBuilder;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-zenohd: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> zenoh::Result<()> {
    zenoh::init_log_from_env_or("error");
    let path = std::env::args_os().nth(1).ok_or("name the router's configuration file")?;
    let config = zenoh::Config::from_file(path)?;
    let mut plugins = PluginsManager::static_plugins_only();
    plugins.declare_static_plugin::<Bulkhead, _>("bulkhead", true);
    plugins.plugin_mut("bulkhead").ok_or("no plugin")?.load()?;
    let mut runtime = RuntimeBuilder::new(config).plugins_manager(plugins).build().await?;
    runtime.start().await?;
    tokio::signal::ctrl_c().await?;
    runtime.close().await?;
    Ok(())
}
