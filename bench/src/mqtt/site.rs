//! The service with its MQTT broker in a process of its own, and an issuer; everything else as by
//! default.

use crate::issuer::Issuer;
use bulkhead_control::config::Config;
use bulkhead_control::directory::Store;
use bulkhead_devkit::{Server, free_port};
use bulkhead_policy::TenantId;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long the service may take to listen.
const READY: Duration = Duration::from_secs(30);

/// Service and issuer, in a temporary folder. Dropping it ends them.
pub struct Site {
    // Fields are dropped in this order: the service before its folder.
    service: Server,
    address: SocketAddr,
    issuer: Issuer,
    folder: tempfile::TempDir,
}

impl Site {
    /// Starts everything, with these tenants in a directory that is a file.
    pub fn start(tenants: &[TenantId]) -> Self {
        Self::start_with(tenants, "")
    }

    /// The same as a front before another broker, which lets everybody in.
    pub fn before(broker: SocketAddr, tenants: &[TenantId]) -> Self {
        Self::start_with(tenants, &format!(", upstream = \"mqtt://{broker}\""))
    }

    fn start_with(tenants: &[TenantId], mqtt: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issuer = Issuer::create(folder.path());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
        let mut directory = String::new();
        for tenant in tenants {
            writeln!(directory, "[tenants.{tenant}]").unwrap();
        }
        std::fs::write(folder.path().join("tenants.toml"), directory).unwrap();
        let configuration = format!(
            "directory = {{ file = \"tenants.toml\" }}\n\
             admin = {{ listen = \"127.0.0.1:0\" }}\n\
             mqtt = {{ listeners = [\"tcp://{address}\"]{mqtt} }}\n\
             {}",
            issuer.configuration()
        );
        let path = config_path(folder.path());
        std::fs::write(&path, configuration).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([crate::SERVE, "--config"]).arg(path);
        let service = Server::spawn("service", command, folder.path()).unwrap();
        service.wait_until(READY, || TcpStream::connect(address).ok()).unwrap();
        Self { service, address, issuer, folder }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Process id of the service.
    pub fn pid(&self) -> u32 {
        self.service.pid()
    }

    /// The directory, to change it.
    pub fn store(&self, runtime: &Runtime) -> Store {
        let config = Config::load(&config_path(self.folder.path())).unwrap();
        runtime.block_on(Store::open(&config.directory)).unwrap()
    }

    /// A device's token, good for an hour. No two are the same.
    pub fn token(&self, tenant: &TenantId, device: &str) -> String {
        self.issuer.token(tenant, device)
    }
}

fn config_path(folder: &Path) -> PathBuf {
    folder.join("bulkhead.toml")
}
