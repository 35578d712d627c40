use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a tool could not be had or a server could not be run.
///
/// The text says what failed and what to do; the cause, where there is one, is the
/// [`source`](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither the environment nor a home folder says where fetched tools belong.
    #[error("no folder to keep fetched tools in: set BULKHEAD_TOOLS_DIR (or HOME)")]
    NoToolsFolder,

    /// A file or folder could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, as a verb: "create", "lock".
        action: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// There is no Python to fetch a tool with.
    #[error(
        "{tool} cannot be fetched without Python >= {at_least} on PATH: \
         install Python 3 with venv and pip{alternative}"
    )]
    NoPython {
        /// The tool that was wanted.
        tool: &'static str,
        /// The oldest Python that will do.
        at_least: String,
        /// How to do without the fetch, as the end of a sentence; may be empty.
        alternative: &'static str,
    },

    /// Making a Python environment, installing packages or unpacking them failed.
    #[error(
        "{tool} cannot be fetched, {step} failed: check {check}{alternative}; \
         its output ends:\n{output}"
    )]
    Fetch {
        /// The tool that was wanted.
        tool: &'static str,
        /// The command that failed.
        step: &'static str,
        /// What it takes, to be looked at first.
        check: &'static str,
        /// How to do without the fetch, as the end of a sentence; may be empty.
        alternative: &'static str,
        /// The end of what the command printed, 4 KiB at most.
        output: String,
    },

    /// There is no Node.js, or no npm, to run or fetch a tool with.
    #[error("{tool} needs {missing} on PATH: install Node.js 18 or newer with npm")]
    NoNode {
        /// The tool that was wanted.
        tool: &'static str,
        /// The program that was not found.
        missing: &'static str,
    },

    /// A package was installed but lacks the program it is known for.
    #[error("{package} has no {inside} for this platform{alternative}")]
    NotInPackage {
        /// The package, with its version.
        package: &'static str,
        /// Where the program was expected.
        inside: &'static str,
        /// How to do without it, as the end of a sentence.
        alternative: &'static str,
    },

    /// What is built of this workspace could not be.
    #[error(
        "cannot build {}: check that there is cargo with Rust as this was built with, and the network; \
         its output ends:\n{output}",
        manifest.display()
    )]
    Build {
        /// The manifest of the package.
        manifest: PathBuf,
        /// The end of what cargo printed, 4 KiB at most.
        output: String,
    },

    /// A program could not be started.
    #[error("cannot start {name} from {}", program.display())]
    Spawn {
        /// What it is called in messages.
        name: String,
        /// The program.
        program: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// A signal could not be delivered, or the process not waited for.
    #[error("cannot {action} {name}")]
    Control {
        /// The server's name.
        name: String,
        /// What was tried, as a verb.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },

    /// Something was asked of a server that has ended.
    #[error("cannot {action} {name}: it is not running; start it again first")]
    NotRunning {
        /// The server's name.
        name: String,
        /// What was tried, as a verb.
        action: &'static str,
    },

    /// A server ended by itself before it was ready.
    #[error("{name} ended ({status}) before it was ready; its log ends:\n{log}")]
    Exited {
        /// The server's name.
        name: String,
        /// Its exit status, as text.
        status: String,
        /// The end of its log.
        log: String,
    },

    /// A server kept running but was not ready in time.
    #[error("{name} was not ready within {within:?}; its log ends:\n{log}")]
    NotReady {
        /// The server's name.
        name: String,
        /// How long it was given.
        within: Duration,
        /// The end of its log.
        log: String,
    },

    /// nats-server refused a new configuration and goes on with the old one.
    #[error("nats-server refused the new configuration; it logged:\n{log}")]
    ReloadRefused {
        /// What it logged about it.
        log: String,
    },

    /// No loopback port in the searched range was free.
    #[error("no free loopback port from {first} to {last}: end some of the programs that listen")]
    NoFreePort {
        /// The first port tried.
        first: u16,
        /// The last port tried.
        last: u16,
    },
}

impl Error {
    /// For `map_err` on a file operation.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    /// Whether a server ended because another program had its port.
    pub(crate) fn is_port_conflict(&self) -> bool {
        // Go begins it with a small letter, the C library with a capital.
        matches!(self, Self::Exited { log, .. } if log.contains("ddress already in use"))
    }
}
