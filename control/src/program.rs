//! What the services' `main` have in common.

use crate::config::Config;
use crate::{Control, StartError, log};
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs one service by itself, as a container does, until it is told to end. The configuration is in
/// the file of the first argument, else in `bulkhead.toml`.
///
/// `start` starts the service's backend. What goes wrong is said on standard error, after the
/// program's `name`.
#[expect(clippy::print_stderr, reason = "there may be no log yet, and a person has started it")]
pub async fn run(
    name: &str,
    start: impl AsyncFnOnce(&Control) -> Result<(), StartError>,
) -> ExitCode {
    match serve(start).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(
    start: impl AsyncFnOnce(&Control) -> Result<(), StartError>,
) -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).map_or_else(|| "bulkhead.toml".into(), PathBuf::from);
    let config = Config::load(&path)?;
    log::init(&config.log)?;
    let interrupted = interrupted();
    let control = Control::start(config, Some(path)).await?;
    start(&control).await?;
    control.wait(interrupted).await;
    control.shutdown().await;
    Ok(())
}

/// Resolves when the system asks the process to end (SIGTERM, SIGINT). It is heard from now on, so that
/// what has begun by then can be ended in order.
///
/// It needs a tokio runtime.
pub fn interrupted() -> impl Future<Output = ()> + Send {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{Signal, SignalKind, signal};
        async fn arrived(listening: std::io::Result<Signal>) {
            match listening {
                Ok(mut signal) => drop(signal.recv().await),
                Err(error) => {
                    tracing::warn!(%error, "a signal to end cannot be waited for");
                    std::future::pending().await
                }
            }
        }
        let (terminate, interrupt) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
        async move {
            tokio::select! {
                () = arrived(terminate) => {}
                () = arrived(interrupt) => {}
            }
        }
    }
    #[cfg(not(unix))]
    {
        async {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
