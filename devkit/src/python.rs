use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::path::on_path;
use crate::tail::last_lines;
use crate::version::Version;

/// Names an interpreter may have, the one meant by default first.
const NAMES: [&str; 5] = ["python3", "python3.14", "python3.13", "python3.12", "python3.11"];

/// What would make pip, or what it starts, look or install outside the environment.
const MISLEADING: [&str; 5] = ["PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"];

/// Keeps the working folder out of where modules are imported from.
const ISOLATED: &str = "-I";

/// What a failed command with pip needs.
const CHECK: &str = "the network and that Python has venv and pip (Debian: python3-venv)";

/// How much of the output of a failed command is kept, in bytes.
const OUTPUT_TAIL: usize = 4 * 1024;

/// For whom something is installed, to be named when it fails.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Purpose {
    pub(crate) tool: &'static str,
    /// How to do without, as the end of a sentence; may be empty.
    pub(crate) alternative: &'static str,
}

/// One fetch, under way.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) purpose: Purpose,
    /// Shared, as their standard input, with the commands that are run: should this process be
    /// killed, they hold the lock until they too have ended and write nothing any more.
    pub(crate) lock: File,
}

/// A virtual environment. It stays where it is made: its scripts hold its path.
#[derive(Debug)]
pub(crate) struct Venv {
    folder: PathBuf,
}

impl Venv {
    /// The environment that may be in `folder`.
    pub(crate) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Makes it with the first Python on `PATH` that is new enough; `folder` must not exist.
    pub(crate) fn create(self, at_least: Version, fetch: &Fetch) -> Result<Self, Error> {
        let mut command = fetch.python(at_least)?;
        command.args(["-m", "venv"]).arg(&self.folder);
        fetch.run(command, "python3 -m venv", CHECK)?;
        Ok(self)
    }

    pub(crate) fn interpreter(&self) -> PathBuf {
        self.folder.join("bin").join("python")
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Installs what a requirements file pins, refusing every file whose hash it does not hold.
    pub(crate) fn install<const N: usize>(
        &self,
        requirements: &Path,
        options: [OsString; N],
        fetch: &Fetch,
    ) -> Result<(), Error> {
        let mut command = Command::new(self.interpreter());
        command
            .args([ISOLATED, "-m", "pip", "install", "--disable-pip-version-check"])
            .args(["--no-input", "--progress-bar", "off"])
            .args(["--require-hashes", "--only-binary", ":all:"])
            .args(options)
            .arg("--requirement")
            .arg(requirements)
            // A user install may be the default of the machine and excludes a target.
            .env("PIP_USER", "0");
        fetch.run(command, "pip install", CHECK)
    }
}

impl Fetch {
    /// The first Python on `PATH` that is new enough, isolated from the working folder.
    pub(crate) fn python(&self, at_least: Version) -> Result<Command, Error> {
        let (interpreter, _) = NAMES
            .iter()
            .flat_map(|name| on_path(name))
            .find(|(_, version)| *version >= at_least)
            .ok_or_else(|| Error::NoPython {
                tool: self.purpose.tool,
                at_least: format!("{}.{}", at_least.major, at_least.minor),
                alternative: self.purpose.alternative,
            })?;
        let mut command = Command::new(interpreter);
        command.arg(ISOLATED);
        Ok(command)
    }

    /// Runs a command to its end; `check` says what to look at should it fail.
    pub(crate) fn run(
        &self,
        mut command: Command,
        step: &'static str,
        check: &'static str,
    ) -> Result<(), Error> {
        let failed = |output: String| Error::Fetch {
            tool: self.purpose.tool,
            step,
            check,
            alternative: self.purpose.alternative,
            output,
        };
        for name in MISLEADING {
            command.env_remove(name);
        }
        let output = self
            .lock
            .try_clone()
            .and_then(|lock| command.stdin(lock).output())
            .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let mut printed = output.stdout;
        printed.extend(output.stderr);
        Err(failed(last_lines(&printed, OUTPUT_TAIL)))
    }
}
