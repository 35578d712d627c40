//! A real nats-server.

mod ports;

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::config;
use crate::error::Error;
use crate::nats::ports::Ports;
use crate::port::{free_port, retry_on_conflict};
use crate::process::Server;

/// How long a server may take to be ready, or to say what it thinks of a new configuration.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// A nats-server on 127.0.0.1, in a folder of its own, killed when dropped.
///
/// It dereferences to the [`Server`] it runs in: `kill`, `pause`, `resume`, `log` and so on.
#[derive(Debug)]
pub struct NatsServer {
    home: Home,
    config: String,
    ports: Ports,
    server: Server,
}

/// What stays the same over restarts.
#[derive(Debug)]
struct Home {
    binary: PathBuf,
    dir: PathBuf,
    client: u16,
    monitor: u16,
}

impl NatsServer {
    /// Starts `binary` with `config` and waits, 10 s at most, until it accepts connections.
    ///
    /// The client port, the monitoring port and the folder of JetStream (`<dir>/jetstream`) are set
    /// on the command line, which wins over the text. The rest is the text's:
    /// - A cluster listens where its `listen` says, `127.0.0.1:-1` meaning any free port. JetStream
    ///   in a cluster wants routes in every server, and so ports that are known before.
    /// - Every other listener that is to keep its port over a restart needs one in the text, for
    ///   example from [`free_port`].
    /// - Relative paths start from `dir`.
    /// - The log has to stay where it is (no `log_file`), or [`reload`](Self::reload) cannot tell
    ///   how it went.
    ///
    /// `dir` is made if it is missing. The configuration is kept in `<dir>/nats.conf`, readable by
    /// its owner only; the log is `<dir>/nats-server.log`.
    ///
    /// # Errors
    ///
    /// [`Error::Exited`] with the log if the server does not accept the configuration,
    /// [`Error::NotReady`], [`Error::Spawn`], [`Error::File`] or [`Error::NoFreePort`].
    pub fn start(binary: &Path, dir: &Path, config: &str) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
        let dir = dir.canonicalize().map_err(Error::file("find", dir))?;
        let binary = std::path::absolute(binary).map_err(Error::file("find", binary))?;
        let mut home = Home { binary, dir, client: 0, monitor: 0 };
        let (server, ports) = retry_on_conflict(|| {
            home.client = free_port()?;
            home.monitor = free_port()?;
            home.launch(config, None)
        })?;
        Ok(Self { home, config: config.to_owned(), ports, server })
    }

    /// Where clients connect: `nats://127.0.0.1:<port>`, or `tls://` if the text asks for TLS.
    pub fn client_url(&self) -> &str {
        &self.ports.client
    }

    /// Where `/varz`, `/connz` and the like are served: `http://127.0.0.1:<port>`.
    pub fn monitor_url(&self) -> &str {
        &self.ports.monitor
    }

    /// What other servers put into their `routes` to reach this one, if it listens for a cluster.
    pub fn cluster_url(&self) -> Option<&str> {
        self.ports.cluster.as_deref()
    }

    /// Ends the server, unless it has ended, and starts it with the same ports, folder and
    /// configuration.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start); the server is not running then.
    pub fn restart(&mut self) -> Result<(), Error> {
        let config = self.config.clone();
        self.restart_with(&config)
    }

    /// A [`restart`](Self::restart) with another configuration.
    ///
    /// A cluster on any free port (`-1`) gets the one it had by a command-line option that also
    /// takes away the `authorization` of the `cluster` block: with one, give it a port in the text.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start); the server is not running then.
    pub fn restart_with(&mut self, config: &str) -> Result<(), Error> {
        self.server.stop()?;
        let cluster = self.ports.cluster.as_deref().filter(|_| asks_for_any_port(config));
        let (server, ports) = retry_on_conflict(|| self.home.launch(config, cluster))?;
        self.server = server;
        self.ports = ports;
        config.clone_into(&mut self.config);
        Ok(())
    }

    /// Makes the server read its configuration again (SIGHUP) and waits, 10 s at most, until it
    /// has: for files that the text includes or names.
    ///
    /// # Errors
    ///
    /// [`Error::ReloadRefused`] if the server goes on with the old one; otherwise as for
    /// [`Server::wait_until`] and [`Server::hang_up`].
    pub fn reload(&self) -> Result<(), Error> {
        let position = self.server.log_position();
        self.server.hang_up()?;
        self.server.wait_until(READY_WITHIN, || {
            let log = self.server.log_from(position);
            if log.contains("Reloaded server configuration") {
                Some(Ok(()))
            } else if log.contains("Failed to reload server configuration") {
                Some(Err(Error::ReloadRefused { log }))
            } else {
                None
            }
        })?
    }

    /// A [`reload`](Self::reload) with another configuration. A refused one leaves no trace.
    ///
    /// # Errors
    ///
    /// As for [`reload`](Self::reload), and [`Error::File`].
    pub fn reload_with(&mut self, config: &str) -> Result<(), Error> {
        self.home.write_config(config)?;
        if let Err(error) = self.reload() {
            self.home.write_config(&self.config)?;
            return Err(error);
        }
        config.clone_into(&mut self.config);
        Ok(())
    }
}

impl Deref for NatsServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Home {
    fn launch(&self, config: &str, cluster: Option<&str>) -> Result<(Server, Ports), Error> {
        self.write_config(config)?;
        // The file of an earlier run would be taken for this one's.
        for old in self.ports_files() {
            fs::remove_file(&old).map_err(Error::file("remove", &old))?;
        }
        let mut command = Command::new(&self.binary);
        command
            .current_dir(&self.dir)
            .arg("--config")
            .arg(self.config_file())
            .args(["--addr", "127.0.0.1"])
            .args(["--port", &self.client.to_string()])
            .args(["--http_port", &self.monitor.to_string()])
            // Left to itself, every server of the machine would keep its streams in one folder.
            .arg("--store_dir")
            .arg(self.dir.join("jetstream"))
            .arg("--ports_file_dir")
            .arg(&self.dir);
        if let Some(url) = cluster {
            command.args(["--cluster", url]);
        }
        let server = Server::spawn("nats-server", command, &self.dir)?;
        let ports = server.wait_until(READY_WITHIN, || {
            self.ports_files().find_map(|path| Ports::parse(&fs::read_to_string(path).ok()?))
        })?;
        Ok((server, ports))
    }

    fn config_file(&self) -> PathBuf {
        self.dir.join("nats.conf")
    }

    fn write_config(&self, config: &str) -> Result<(), Error> {
        config::write(&self.config_file(), config)
    }

    fn ports_files(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "ports"))
    }
}

/// Whether `-1` stands somewhere as a value of its own, which elsewhere than in a listener does no
/// harm.
fn asks_for_any_port(config: &str) -> bool {
    config.contains("cluster")
        && config
            .split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.'))
            .any(|word| word == "-1")
}

#[cfg(test)]
mod tests {
    use super::asks_for_any_port;

    #[test]
    fn any_port_is_a_word_of_its_own() {
        for text in ["cluster { listen: 127.0.0.1:-1 }", "cluster {\n port=-1\n}"] {
            assert!(asks_for_any_port(text), "{text}");
        }
        for text in ["cluster { name: c-1, port: 6222 }", "max_connections: -1", ""] {
            assert!(!asks_for_any_port(text), "{text}");
        }
    }
}
