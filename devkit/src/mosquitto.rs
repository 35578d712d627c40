//! A real mosquitto.

mod programs;

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use crate::config;
use crate::error::Error;
use crate::home::Home;
use crate::port::{free_port, retry_on_conflict};
use crate::process::Server;

pub use programs::Mosquitto;

/// How long a broker may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// A mosquitto broker on 127.0.0.1, in a folder of its own, killed when dropped.
///
/// It dereferences to the [`Server`] it runs in: `kill`, `pause`, `resume`, `hang_up` (which makes
/// it read its configuration again), `log` and so on.
#[derive(Debug)]
pub struct MosquittoServer {
    home: Home,
    config: String,
    server: Server,
}

impl MosquittoServer {
    /// Starts `binary` with `config` and waits, 10 s at most, until it accepts connections.
    ///
    /// The configuration begins with a `listener` on a free port and `user root`; the text follows:
    /// - What it says about a listener before it opens another one is about this listener: `cafile`,
    ///   `certfile`, `keyfile`, `require_certificate`, `protocol websockets`.
    /// - Nobody may connect unless it says who: `allow_anonymous true`, or a `password_file`.
    /// - Another listener that is to keep its port over a restart needs one in the text, for example
    ///   from [`free_port`].
    /// - Relative paths start from `dir`; with `persistence true` the data is kept there too.
    /// - It has to log information on standard error, as it does by default (no `log_dest`), or it
    ///   is never seen to be ready.
    ///
    /// `dir` is made if it is missing. The configuration is kept in `<dir>/mosquitto.conf`, readable
    /// by its owner only; the log is `<dir>/mosquitto.log`.
    ///
    /// # Errors
    ///
    /// [`Error::Exited`] with the log if the broker does not accept the configuration,
    /// [`Error::NotReady`], [`Error::Spawn`], [`Error::File`] or [`Error::NoFreePort`].
    pub fn start(binary: &Path, dir: &Path, config: &str) -> Result<Self, Error> {
        let mut home = Home::make(binary, dir)?;
        let server = retry_on_conflict(|| {
            home.port = free_port()?;
            launch(&home, config)
        })?;
        Ok(Self { home, config: config.to_owned(), server })
    }

    /// Where clients connect: `127.0.0.1:<port>`.
    pub fn address(&self) -> SocketAddr {
        self.home.address()
    }

    /// Ends the broker, unless it has ended, and starts it with the same port, folder and
    /// configuration.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start); the broker is not running then.
    pub fn restart(&mut self) -> Result<(), Error> {
        let config = self.config.clone();
        self.restart_with(&config)
    }

    /// A [`restart`](Self::restart) with another configuration.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start); the broker is not running then.
    pub fn restart_with(&mut self, config: &str) -> Result<(), Error> {
        self.server.stop()?;
        self.server = retry_on_conflict(|| launch(&self.home, config))?;
        config.clone_into(&mut self.config);
        Ok(())
    }
}

impl Deref for MosquittoServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

fn launch(home: &Home, config: &str) -> Result<Server, Error> {
    let file = home.dir.join("mosquitto.conf");
    // Started by root it would become a user who cannot read its files; others do not look at
    // that line.
    let head = format!("listener {} 127.0.0.1\nuser root\n", home.port);
    config::write(&file, &(head + config))?;
    let mut command = home.command();
    command.arg("-c").arg(file);
    let server = Server::spawn("mosquitto", command, &home.dir)?;
    server.wait_until(READY_WITHIN, || {
        // Whoever had taken the port would accept connections too, but not say this here.
        let log = server.log();
        log.lines()
            .any(|line| line.contains("mosquitto version") && line.ends_with("running"))
            .then_some(())
    })?;
    Ok(server)
}
