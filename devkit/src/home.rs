use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;

/// What stays the same over restarts of a server: its program, its folder and its port.
#[derive(Debug)]
pub struct Home {
    binary: PathBuf,
    pub dir: PathBuf,
    pub port: u16,
}

impl Home {
    /// Makes the folder if it is missing. There is no port yet.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn make(binary: &Path, dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
        let dir = dir.canonicalize().map_err(Error::file("find", dir))?;
        let binary = std::path::absolute(binary).map_err(Error::file("find", binary))?;
        Ok(Self { binary, dir, port: 0 })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The program, to be started in its folder.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.dir);
        command
    }
}
