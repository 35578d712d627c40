//! What the command `bulkhead` does.
//!
//! [`Args`] says what can be typed; each command is a module of `commands`; [`dev`] starts everything
//! on one machine and measures its isolation.

mod args;
mod commands;
pub mod dev;
mod output;
pub mod signer;
pub mod verify;

pub use args::Args;
pub use commands::{Services, start_services, start_services_by};

use std::process::ExitCode;

/// Exit code of a command that could not do its work.
const FAILED: u8 = 1;

/// Exit code of a check that found something wrong.
const NOT_AS_IT_SHOULD_BE: u8 = 3;

/// Runs a command. The exit code is 0 for done, 1 for failed, 2 for a command that was typed wrong and
/// 3 for a check that found something wrong.
pub fn run(args: Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(format_args!("bulkhead: no threads can be started: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    let outcome = runtime.block_on(commands::run(args));
    // What was interrupted may have left something running that nobody waits for, such as a download.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            output::complain(format_args!("bulkhead: {error}"));
            ExitCode::from(FAILED)
        }
    }
}
