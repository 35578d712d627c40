//! Logging to standard error.

use crate::config::{LogConfig, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Starts logging. Only the first call of a process has an effect.
///
/// # Errors
/// [`ParseError`] if the configured filter is none.
pub fn init(config: &LogConfig) -> Result<(), ParseError> {
    // The embedded router opens a span for each message, which costs more than moving it does.
    let filter: EnvFilter = format!("rumqttd=off,{}", config.filter).parse()?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        // Told on standard error as well, with a panic if that is what cannot be written to.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    // A logger that is there already, as in tests, is as good.
    let _ = match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
