//! A real etcd.

use std::env;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::Error;
use crate::http;
use crate::port::{free_port, retry_on_conflict};
use crate::process::Server;

/// How long etcd may take to be healthy: 30 s, since it waits for the disk and for an election.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// An etcd of one member on 127.0.0.1, in a folder of its own, killed when dropped.
///
/// It dereferences to the [`Server`] it runs in: `kill`, `pause`, `resume`, `log` and so on.
#[derive(Debug)]
pub struct Etcd {
    home: Home,
    endpoint: String,
    server: Server,
}

/// What stays the same over restarts.
#[derive(Debug)]
struct Home {
    binary: PathBuf,
    dir: PathBuf,
    /// Tells this etcd from another one that took its ports first.
    name: String,
    client: u16,
    peer: u16,
}

impl Etcd {
    /// Starts `binary` on free ports and waits, 30 s at most, until it is healthy.
    ///
    /// `dir` is made if it is missing; data of an earlier run in it is used again. The data is in
    /// `<dir>/data`, the log (warnings and worse) is `<dir>/etcd.log`.
    ///
    /// # Errors
    ///
    /// [`Error::Exited`] with the log, [`Error::NotReady`], [`Error::Spawn`], [`Error::File`] or
    /// [`Error::NoFreePort`].
    pub fn start(binary: &Path, dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
        let dir = dir.canonicalize().map_err(Error::file("find", dir))?;
        let binary = std::path::absolute(binary).map_err(Error::file("find", binary))?;
        let mut home = Home { binary, dir, name: String::new(), client: 0, peer: 0 };
        let server = retry_on_conflict(|| {
            home.client = free_port()?;
            home.peer = free_port()?;
            home.name = format!("bulkhead-{}-{}", std::process::id(), home.client);
            home.launch()
        })?;
        Ok(Self { endpoint: url(home.client), home, server })
    }

    /// Where clients connect: `http://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Ends etcd, unless it has ended, and starts it with the same ports and data.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start); etcd is not running then.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.server.stop()?;
        self.server = retry_on_conflict(|| self.home.launch())?;
        Ok(())
    }
}

impl Deref for Etcd {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Home {
    fn launch(&self) -> Result<Server, Error> {
        let (client, peer) = (url(self.client), url(self.peer));
        let mut command = Command::new(&self.binary);
        command
            .current_dir(&self.dir)
            .args(["--name", &self.name])
            .arg("--data-dir")
            .arg(self.dir.join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("{}={peer}", self.name)])
            .args(["--log-level", "warn"]);
        // It takes any option from the environment too; only this one says how to run at all.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("ETCD_") && text != "ETCD_UNSUPPORTED_ARCH" {
                command.env_remove(&name);
            }
        }
        let server = Server::spawn("etcd", command, &self.dir)?;
        server.wait_until(READY_WITHIN, || {
            // Once it answers as a peer both ports are its own, and only then is the health its own.
            let says = |port, path, text: &str| {
                http::get(port, path).is_ok_and(|answer| answer.contains(text))
            };
            (says(self.peer, "/members", &format!(r#""name":"{}""#, self.name))
                && says(self.client, "/health", r#""health":"true""#))
            .then_some(())
        })?;
        Ok(server)
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
