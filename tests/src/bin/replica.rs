//! `bulkhead` as a process of its own, for tests that kill or freeze it.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead_cli::run(bulkhead_cli::Args::parse())
}
