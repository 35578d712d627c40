//! A nats-server as `bulkhead init nats` configures it, the service before it in a process of its own,
//! and an issuer; everything else as by default.

use super::wire;
use crate::issuer::Issuer;
use bulkhead_control::config::Config;
use bulkhead_control::directory::Store;
use bulkhead_devkit::{Etcd, NatsServer, Server, Tools};
use bulkhead_policy::{Tenant, TenantId};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long the service may take to be ready with all tenants.
const READY: Duration = Duration::from_secs(60);

/// Accounts that the server has from its configuration: the system's, the callout's, the registry's.
const OWN_ACCOUNTS: usize = 3;

/// Where the directory is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryIn {
    /// `tenants.toml`, the embedded default.
    File,
    /// An etcd of its own.
    Etcd,
}

/// Servers, service and issuer, in a temporary folder. Dropping it ends them.
pub struct Site {
    // Fields are dropped in this order: the service before what it needs, the folder last.
    service: Option<Server>,
    nats: NatsServer,
    etcd: Option<Etcd>,
    issuer: Issuer,
    folder: tempfile::TempDir,
}

impl Site {
    /// Starts everything but the service.
    pub fn prepare(runtime: &Runtime, directory: DirectoryIn, tenants: &[TenantId]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tools = Tools::open().unwrap();
        let issuer = Issuer::create(folder.path());
        let keys = folder.path().join("nats");
        bulkhead_auth_callout::init(&keys, "").unwrap();
        let text = std::fs::read_to_string(keys.join("nats-server.conf")).unwrap();
        let home = folder.path().join("server");
        let nats = NatsServer::start(&tools.nats_server().unwrap(), &home, &text).unwrap();
        let etcd = (directory == DirectoryIn::Etcd)
            .then(|| Etcd::start(&tools.etcd().unwrap(), &folder.path().join("etcd")).unwrap());
        let site = Self { service: None, nats, etcd, issuer, folder };
        std::fs::write(site.config_path(), site.configuration()).unwrap();
        site.create(runtime, tenants);
        site
    }

    /// Starts everything, and waits until the server knows every tenant's account and the first tenant
    /// is admitted.
    pub fn start(runtime: &Runtime, directory: DirectoryIn, tenants: &[TenantId]) -> Self {
        let mut site = Self::prepare(runtime, directory, tenants);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([crate::SERVE, "--config"]).arg(site.config_path());
        let service = Server::spawn("service", command, site.folder()).unwrap();
        let accounts = site.folder().join("server").join("accounts");
        let known = || std::fs::read_dir(&accounts).map_or(0, Iterator::count);
        let all = OWN_ACCOUNTS + tenants.len();
        service.wait_until(READY, || (known() >= all).then_some(())).unwrap();
        site.service = Some(service);
        wire::until_admitted(site.address(), &site.hello(&tenants[0], "first"));
        site
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        wire::address(&self.nats)
    }

    /// The nats-server.
    pub fn nats(&self) -> &NatsServer {
        &self.nats
    }

    /// Process id of the service.
    pub fn service_pid(&self) -> u32 {
        self.service.as_ref().expect("the service runs").pid()
    }

    /// The etcd of the directory.
    pub fn etcd_endpoint(&self) -> &str {
        self.etcd.as_ref().expect("the directory is in etcd").endpoint()
    }

    /// The token of a member of a tenant, good for an hour.
    pub fn member(&self, tenant: &TenantId) -> String {
        self.issuer.member(tenant)
    }

    /// What a configuration says about the issuer.
    pub fn issuer_configuration(&self) -> String {
        self.issuer.configuration()
    }

    /// The folder of everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration.
    pub fn config(&self) -> Config {
        Config::load(&self.config_path()).unwrap()
    }

    /// The directory, to change it.
    pub fn store(&self, runtime: &Runtime) -> Store {
        runtime.block_on(Store::open(&self.config().directory)).unwrap()
    }

    /// A device's token, good for an hour. No two are the same.
    pub fn token(&self, tenant: &TenantId, device: &str) -> String {
        self.issuer.token(tenant, device)
    }

    /// What a client with such a token says first.
    pub fn hello(&self, tenant: &TenantId, device: &str) -> Vec<u8> {
        wire::hello(&format!("\"auth_token\":\"{}\",", self.token(tenant, device)))
    }

    fn config_path(&self) -> PathBuf {
        self.folder().join("bulkhead.toml")
    }

    fn configuration(&self) -> String {
        let directory = match &self.etcd {
            Some(etcd) => format!("etcd = {{ endpoints = [\"{}\"] }}", etcd.endpoint()),
            None => "file = \"tenants.toml\"".to_owned(),
        };
        format!(
            "directory = {{ {directory} }}\n\
             admin = {{ listen = \"127.0.0.1:0\" }}\n\
             nats = {{ servers = [\"{}\"], operator = {{ keys = \"nats\" }} }}\n\
             {}",
            self.nats.client_url(),
            self.issuer.configuration()
        )
    }

    /// Puts tenants into the directory, a file all at once: one by one it is written anew each time.
    fn create(&self, runtime: &Runtime, tenants: &[TenantId]) {
        if self.etcd.is_none() {
            let mut text = String::new();
            for tenant in tenants {
                writeln!(text, "[tenants.{tenant}]").unwrap();
            }
            std::fs::write(self.folder().join("tenants.toml"), text).unwrap();
            return;
        }
        let store = self.store(runtime);
        runtime.block_on(async {
            for tenant in tenants {
                store.create(tenant, Tenant::default()).await.unwrap();
            }
        });
    }
}
