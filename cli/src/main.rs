//! The command `bulkhead`.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead_cli::run(bulkhead_cli::Args::parse())
}
