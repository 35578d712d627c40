//! Device Connect's own registry, which ours takes the place of.

use crate::nats::Site;
use bulkhead_devkit::{Server, Tools};
use std::process::Command;

/// Starts it before the same servers.
pub fn start(site: &Site) -> Server {
    let python = Tools::open().unwrap().original_registry().unwrap();
    let (host, port) = site.etcd_endpoint().trim_start_matches("http://").rsplit_once(':').unwrap();
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
        .env("TENANT", super::site::tenant().as_str());
    Server::spawn("original", command, site.folder()).unwrap()
}
