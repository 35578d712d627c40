//! A real zenohd.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::config;
use crate::error::Error;
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

/// What stays the same over restarts.
#[derive(Debug)]
struct Home {
    binary: PathBuf,
    dir: PathBuf,
    port: u16,
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
        fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
        let dir = dir.canonicalize().map_err(Error::file("find", dir))?;
        let binary = std::path::absolute(binary).map_err(Error::file("find", binary))?;
        let mut home = Home { binary, dir, port: 0 };
        let (server, config) = retry_on_conflict(|| {
            home.port = free_port()?;
            let config = config(home.port);
            Ok((home.launch(&config)?, config))
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
        self.server = retry_on_conflict(|| self.home.launch(&self.config))?;
        Ok(())
    }
}

impl Deref for ZenohServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Home {
    fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    fn launch(&self, config: &str) -> Result<Server, Error> {
        let file = self.dir.join("zenohd.json5");
        config::write(&file, config)?;
        let mut command = Command::new(&self.binary);
        command
            .current_dir(&self.dir)
            .arg("--config")
            .arg(file)
            // What it says about itself is how it is seen to be ready.
            .env("RUST_LOG", "info");
        let server = Server::spawn("zenohd", command, &self.dir)?;
        server.wait_until(READY_WITHIN, || {
            // Whoever had taken the port would accept connections too, but not say this here.
            let reached = server.log().contains("Zenoh can be reached at: ");
            (reached && TcpStream::connect(self.address()).is_ok()).then_some(())
        })?;
        Ok(server)
    }
}
