use super::etcd::Etcd;
use super::load::Load;
use crate::nats::{DirectoryIn, Site};
use bulkhead_devkit::Server;
use bulkhead_policy::TenantId;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long the registry may take to be ready.
const READY: Duration = Duration::from_secs(30);

/// NATS with its callout, an etcd, and our registry in a process of its own.
pub struct Registry {
    // The registry ends before what it needs.
    registry: Server,
    admin: String,
    site: Site,
}

pub fn tenant() -> TenantId {
    TenantId::parse("acme").unwrap()
}

/// NATS with its callout, and an etcd.
pub fn servers(runtime: &Runtime) -> Site {
    Site::start(runtime, DirectoryIn::Etcd, &[tenant()])
}

impl Registry {
    pub fn start(runtime: &Runtime) -> Self {
        let site = servers(runtime);
        let path: PathBuf = site.folder().join("registry.toml");
        let etcd = format!("{{ endpoints = [\"{}\"] }}", site.etcd_endpoint());
        let text = format!(
            "directory = {{ etcd = {etcd} }}\n\
             admin = {{ listen = \"127.0.0.1:0\" }}\n\
             {}\n\
             [registry]\n\
             store = {{ etcd = {etcd} }}\n\
             nats = {{ servers = [\"{}\"], credentials_file = \"nats/registry.creds\" }}\n",
            site.issuer_configuration(),
            site.nats().client_url(),
        );
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([crate::SERVE, "--config"]).arg(&path);
        let registry = Server::spawn("registry", command, site.folder()).unwrap();
        let serving = || {
            let log = registry.log();
            let line = log.lines().find(|line| line.contains("admin="))?;
            Some(line.rsplit("admin=").next()?.trim().to_owned())
        };
        let admin = registry.wait_until(READY, serving).unwrap();
        Self { registry, admin, site }
    }

    pub fn pid(&self) -> u32 {
        self.registry.pid()
    }

    pub fn load(&self, runtime: &Runtime) -> Load {
        runtime.block_on(Load::connect(self.site.nats().client_url(), &self.site.member(&tenant())))
    }

    /// Its etcd.
    pub fn etcd(&self, runtime: &Runtime) -> Etcd {
        Etcd::connect(runtime, self.site.etcd_endpoint())
    }

    /// The sum of a metric over all its labels that contain a text.
    pub fn metric(&self, runtime: &Runtime, name: &str, label: &str) -> f64 {
        let url = format!("http://{}/metrics", self.admin);
        let text =
            runtime.block_on(async { reqwest::get(url).await.unwrap().text().await.unwrap() });
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Heartbeats that were heard.
    pub fn beats(&self, runtime: &Runtime) -> f64 {
        self.metric(runtime, "bulkhead_registry_beats_total", "")
    }
}
