use crate::wait::eventually;
use bulkhead_devkit::Server;
use std::ops::Deref;
use std::path::Path;
use std::process::Command;

/// A service in a process of its own, which can be killed and frozen. It dereferences to [`Server`].
pub struct Replica {
    server: Server,
    admin: String,
}

impl Replica {
    pub(crate) async fn start(program: &str, name: &str, config: &Path, folder: &Path) -> Self {
        let audit = folder.join(format!("audit-{name}.jsonl"));
        let mut command = Command::new(program);
        command
            .args(["serve", "--config"])
            .arg(config)
            .env("BULKHEAD__AUDIT__PATH", audit)
            .env("BULKHEAD__LOG__FILTER", "info");
        let server = Server::spawn(name, command, folder).unwrap();
        // The admin port is the system's choice; the log says where it is.
        eventually("the replica serves", || server.log().contains("serving")).await;
        let log = server.log();
        let admin = log.lines().find(|line| line.contains("serving")).unwrap();
        let address = admin.rsplit("admin=").next().unwrap().trim().to_owned();
        crate::eventually_async("the replica is ready", async || {
            let ready = reqwest::get(format!("http://{address}/readyz")).await;
            ready.is_ok_and(|response| response.status().is_success())
        })
        .await;
        Self { server, admin: address }
    }

    /// Where its admin port is: `127.0.0.1:9180`.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// What its admin port says under a path.
    pub async fn asked(&self, path: &str) -> serde_json::Value {
        let answer = reqwest::get(format!("http://{}{path}", self.admin)).await.unwrap();
        answer.json().await.unwrap()
    }
}

impl Deref for Replica {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}
