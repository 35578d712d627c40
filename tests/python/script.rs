//! Runs the Python programs of this folder, and others: real clients in processes of their own.

#![allow(dead_code, reason = "each test needs a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a surprise")]

use bulkhead_devkit::{Server, Tools};
use bulkhead_tests::eventually;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

/// How long a program may take from when its result is waited for.
const WITHIN: Duration = Duration::from_secs(60);

/// A running program. It is killed when this is dropped.
pub struct Script {
    server: Server,
}

impl Script {
    /// Starts a program with its one argument. What it prints goes to `<name>.log` in the folder.
    pub async fn start(folder: &Path, program: &str, name: &str, input: &Value) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(program);
        let input = input.to_string();
        Self::of(folder, name, move || {
            let mut command = Command::new(Tools::open().unwrap().python().unwrap());
            // The environment could tell a Device Connect device to go elsewhere.
            command.env_clear().env("PYTHONDONTWRITEBYTECODE", "1").arg(program).arg(input);
            command
        })
        .await
    }

    /// Starts another program.
    pub async fn of(
        folder: &Path,
        name: &str,
        command: impl FnOnce() -> Command + Send + 'static,
    ) -> Self {
        let (folder, name) = (folder.to_owned(), name.to_owned());
        let server = spawn_blocking(move || Server::spawn(&name, command(), &folder).unwrap());
        Self { server: server.await.unwrap() }
    }

    /// Waits until the program has ended by itself and returns what it has printed.
    pub async fn output(self) -> String {
        let deadline = Instant::now() + WITHIN;
        while self.server.is_running() {
            assert!(Instant::now() < deadline, "takes too long: {}", self.server.log());
            sleep(Duration::from_millis(20)).await;
        }
        self.server.log()
    }

    /// Waits until the program has printed something.
    pub async fn prints(&self, text: &str) {
        let what = format!("{} prints {text}", self.server.name());
        eventually(&what, || self.server.log().contains(text)).await;
    }

    /// Waits until the program has ended by itself and returns its result.
    pub async fn result(self) -> Value {
        let name = self.server.name().to_owned();
        let log = self.output().await;
        log.lines()
            .last()
            .and_then(|line| serde_json::from_str(line).ok())
            .unwrap_or_else(|| panic!("{name} could not be run: {log}"))
    }

    /// Stops the program where it is, as a device that sleeps.
    pub fn pause(&self) {
        self.server.pause().unwrap();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.server.resume().unwrap();
    }

    /// Asks the program to end, if it has not, and returns its result.
    pub async fn stop(self) -> Value {
        let this = spawn_blocking(move || {
            self.server.stop().unwrap();
            self
        });
        this.await.unwrap().result().await
    }
}
