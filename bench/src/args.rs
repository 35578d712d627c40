//! What can be typed.

use clap::{Parser, ValueEnum};

/// Load tests of Bulkhead.
#[derive(Debug, Parser)]
#[command(name = "bulkhead-bench", version)]
#[command(
    after_help = "The exit code is 0 once everything was measured, whether or not a goal is \
                        met; a setup that does not work ends the run with a panic."
)]
pub struct Args {
    /// What to measure.
    pub group: Group,
    /// Only these cases, and those below them: `nats.connect` is all of it.
    #[arg(value_name = "CASE-PREFIX")]
    pub cases: Vec<String>,
    /// Print one JSON object per case and line, as soon as it is measured.
    #[arg(long)]
    pub json: bool,
    /// Fewer and shorter repetitions, in a minute for most groups: to see that it runs, not to compare.
    #[arg(long)]
    pub quick: bool,
}

/// Cases that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// The decision core.
    Policy,
    /// The NATS backend.
    Nats,
    /// The MQTT backend.
    Mqtt,
    /// The Zenoh backend.
    Zenoh,
    /// The registry of devices.
    Registry,
    /// Everything.
    All,
}
