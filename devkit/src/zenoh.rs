//! A real zenohd.

use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use crate::config;
use crate::error::Error;
use crate::home::Home;
use crate::port::{free_port, retry_on_conflict};
use crate::process::Server;

/// How long a router may take to be ready: it loads its plugins first.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A stock Zenoh router on 127.0.0.1, in a folder of its own, killed when dropped.
///
/// It dereferences to the [`Server`] it runs in: `kill`, `pause`, `resume`, `log` and so on.
#[derive(Debug)]
pub struct ZenohServer {
    home: Home,
    config: String,
    server: Server,
}

impl ZenohServer {
    /// Starts `binary` and waits, 30 s at most, until something accepts connections on a free port:
    /// the router, or a plugin before it.
    ///
    /// `config` makes the configuration (JSON5) for a port. It may be asked more than once, since a
    /// port that is taken meanwhile is changed for another. Relative paths start from `dir`.
    ///
    /// `dir` is made if it is missing. The configuration is kept in `<dir>/zenohd.json5`, readable by
    /// its owner only; the log is `<dir>/zenohd.log`.
    ///
    /// # Errors
    ///
    /// [`Error::Exited`] with the log if the router or a plugin that it has to have does not accept the
    /// configuration, [`Error::NotReady`], [`Error::Spawn`], [`Error::File`] or [`Error::NoFreePort`].
    pub fn start(
        binary: &Path,
        dir: &Path,
        mut config: impl FnMut(u16) -> String,
    ) -> Result<Self, Error> {
        let mut home = Home::make(binary, dir)?;
        let (server, config) = retry_on_conflict(|| {
            home.port = free_port()?;
            let config = config(home.port);
            Ok((launch(&home, &config)?, config))
        })?;
        Ok(Self { home, config, server })
    }

    /// Where clients connect: `127.0.0.1:<port>`.
    pub fn address(&self) -> SocketAddr {
        self.home.address()
    }

    /// Ends the router, unless it has ended, and starts it with the same port, folder and
    /// configuration.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start); the router is not running then.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.server.stop()?;
        self.server = retry_on_conflict(|| launch(&self.home, &self.config))?;
        Ok(())
    }
}

impl Deref for ZenohServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

fn launch(home: &Home, config: &str) -> Result<Server, Error> {
    let file = home.dir.join("zenohd.json5");
    config::write(&file, config)?;
    let mut command = home.command();
    command
        .arg("--config")
        .arg(file)
        // What it says about itself is how it is seen to be ready.
        .env("RUST_LOG", "info");
    let server = Server::spawn("zenohd", command, &home.dir)?;
    server.wait_until(READY_WITHIN, || {
        // Whoever had taken the port would accept connections too, but not say this here.
        let reached = server.log().contains("Zenoh can be reached at: ");
        (reached && TcpStream::connect(home.address()).is_ok()).then_some(())
    })?;
    Ok(server)
}
