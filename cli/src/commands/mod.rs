//! The commands.

mod audit;
mod check;
mod creds;
mod dev;
mod devices;
mod exchange;
mod init;
mod nats;
mod ready;
mod serve;
mod tenant;
mod token;
mod verify;

pub(crate) use creds::causes;
pub use serve::{Services, start as start_services, start_by as start_services_by};

use crate::args::{Args, Command};
use crate::output::Output;
use bulkhead_control::audit::{Audit, AuditError, Record};
use bulkhead_control::config::{Config, ConfigError, LogConfig};
use bulkhead_control::directory::Store;
use bulkhead_control::log;
use bulkhead_control::metrics::Metrics;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What a command comes to.
pub(crate) type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

/// What every command is given.
pub(crate) struct Context {
    path: PathBuf,
    output: Output,
}

impl Context {
    fn config(&self) -> Result<Config, ConfigError> {
        Config::load(&self.path)
    }

    async fn store(&self) -> Result<Store, Box<dyn std::error::Error>> {
        let config = self.config()?;
        Ok(Store::open(&config.directory).await?)
    }

    /// Writes down what was done on the command line, in a log beside the configured one: that one
    /// belongs to a running service.
    fn audit(&self, config: &Config, record: Record) -> Result<(), Box<dyn std::error::Error>> {
        if let Some(path) = &config.audit.path {
            let log = cli_log(path);
            let audit = Audit::open(&log, &Metrics::new(&config.metrics)?).map_err(|error| {
                match error {
                    AuditError::Io { .. } | AuditError::InUse(_) => error.to_string(),
                    broken => format!(
                        "audit log {log}: {broken}; look into it, then move it and {log}.head away",
                        log = log.display()
                    ),
                }
            })?;
            audit.record(record);
            audit.close();
        }
        Ok(())
    }

    /// Prints one line, or its JSON.
    fn done(&self, value: serde_json::Value, text: String) -> Outcome {
        self.output.print(&value, || text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Starts logging as configured.
fn start_log(config: &LogConfig) -> Result<(), String> {
    log::init(config).map_err(|error| {
        format!(
            "log.filter: {error}; write a level, such as \"info\", or directives, such as \
             \"info,bulkhead_control=debug\""
        )
    })
}

/// Where the command line writes down what it does, beside this log.
fn cli_log(log: &Path) -> PathBuf {
    beside(log, ".cli")
}

/// The file whose name is this one's with something after it.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Runs the typed command.
pub(crate) async fn run(args: Args) -> Outcome {
    let context = Context { path: args.config, output: Output { json: args.json } };
    match args.command {
        Command::Dev(args) => dev::run(&context, args).await,
        Command::Init(args) => init::run(&context, args),
        Command::Check => check::run(&context).await,
        Command::Serve => serve::run(&context).await,
        Command::Ready(args) => ready::run(&context, args).await,
        Command::Tenant(command) => tenant::run(&context, command).await,
        Command::Device(command) => tenant::run_device(&context, command).await,
        Command::Devices(command) => devices::run(&context, command).await,
        Command::Token(command) => token::run(&context, command).await,
        Command::Creds(command) => creds::run(&context, command).await,
        Command::Exchange(command) => exchange::run(&context, command),
        Command::Nats(command) => nats::run(&context, command),
        Command::Audit(command) => audit::run(&context, command),
        Command::Verify(args) => verify::run(&context, args).await,
    }
}
