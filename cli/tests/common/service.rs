//! A running `bulkhead serve`.

use super::{Home, WITHIN, secrets};
use bulkhead_devkit::Server;
use serde_json::Value;

/// The process, and where it listens. Dropping it ends the process.
pub struct Service {
    pub server: Server,
    /// `host:port` of the exchange, if there is one.
    pub exchange: Option<String>,
    /// `host:port` of the admin port.
    pub admin: String,
}

impl Service {
    /// Starts the service of a folder and waits until it serves.
    pub fn start(home: &Home) -> Self {
        let mut command = home.command(["serve"]);
        command
            .env("BULKHEAD__LOG__FORMAT", "json")
            // Without a server NATS has much to say, all of it known.
            .env("BULKHEAD__LOG__FILTER", "info,async_nats=off,bulkhead_auth_callout=off");
        let server = Server::spawn("serve", command, home.folder()).unwrap();
        let admin = server.wait_until(WITHIN, || field(&server.log(), "serving", "admin")).unwrap();
        let exchange = field(&server.log(), "credentials are issued", "address");
        Self { server, exchange, admin }
    }

    /// The exchange's address for `--exchange`.
    pub fn url(&self) -> String {
        format!("http://{}", self.exchange.as_ref().unwrap())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let log = self.server.log();
            assert_eq!(secrets::in_text(&log), None, "a secret in the log");
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}

/// A field of the first log line whose message begins so.
fn field(log: &str, message: &str, field: &str) -> Option<String> {
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line =
        lines.find(|line| line["message"].as_str().is_some_and(|m| m.starts_with(message)))?;
    Some(line[field].as_str()?.to_owned())
}
