//! Device Connect's own registry, which ours takes the place of.

use super::etcd::Etcd;
use super::load::Load;
use super::site::{servers, tenant};
use crate::nats::Site;
use bulkhead_devkit::{Server, Tools};
use std::process::Command;
use tokio::runtime::Runtime;

/// What it is called in the report.
pub const NAME: &str = "device-connect-server 0.2.5";

/// It, before servers of its own that are like ours.
pub struct Original {
    // The registry ends before what it needs.
    server: Server,
    site: Site,
}

impl Original {
    pub fn start(runtime: &Runtime) -> Self {
        let site = servers(runtime);
        let python = Tools::open().unwrap().original_registry().unwrap();
        let (host, port) =
            site.etcd_endpoint().trim_start_matches("http://").rsplit_once(':').unwrap();
        let mut command = Command::new(python);
        command
            .env_clear()
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .args(["-m", "device_connect_server.registry.service.main"])
            .env("MESSAGING_BACKEND", "nats")
            .env("NATS_URL", site.nats().client_url())
            .env("MESSAGING_URLS", site.nats().client_url())
            .env("MESSAGING_CREDENTIALS_FILE", site.folder().join("nats").join("registry.creds"))
            .env("NATS_CREDENTIALS_FILE", site.folder().join("nats").join("registry.creds"))
            .env("ETCD_HOST", host)
            .env("ETCD_PORT", port)
            .env("TENANT", tenant().as_str());
        let server = Server::spawn("original", command, site.folder()).unwrap();
        Self { server, site }
    }

    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub fn load(&self, runtime: &Runtime) -> Load {
        let member = self.site.member(&tenant());
        runtime.block_on(Load::connect(self.site.nats().client_url(), &member))
    }

    /// Its etcd.
    pub fn etcd(&self, runtime: &Runtime) -> Etcd {
        Etcd::connect(runtime, self.site.etcd_endpoint())
    }
}
