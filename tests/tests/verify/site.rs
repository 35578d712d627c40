//! Deployments as people have them, and the command pointed at them.

use bulkhead_devkit::{MosquittoServer, NatsServer, Tools, ZenohServer};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the command said.
#[derive(Debug)]
pub struct Verdict {
    pub code: Option<i32>,
    pub report: Value,
    pub stderr: String,
}

/// Points `bulkhead verify` at what this file says.
pub async fn verify(folder: &Path, deployment: &str) -> Verdict {
    std::fs::write(folder.join("deployment.toml"), deployment).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_replica"));
    command.args(["verify", "--json", "deployment.toml"]).current_dir(folder).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    assert!(!stderr.contains("panicked"), "{stderr}");
    Verdict { code: output.status.code(), report, stderr }
}

impl Verdict {
    /// The rows of a backend with this result.
    pub fn rows(&self, backend: &str, result: &str) -> Vec<&str> {
        let rows = self.report["rows"].as_array().unwrap().iter();
        rows.filter(|row| row["backend"] == backend && row["result"] == result)
            .map(|row| row["row"].as_str().unwrap())
            .collect()
    }

    /// Why a row is as it is.
    pub fn reason(&self, backend: &str, name: &str) -> &str {
        let rows = self.report["rows"].as_array().unwrap();
        let row = rows.iter().find(|row| row["backend"] == backend && row["row"] == name);
        row.unwrap_or_else(|| panic!("no row {name}: {self}"))["reason"].as_str().unwrap()
    }

    /// Every row holds, and there are at least so many.
    pub fn is_isolated(&self, least: usize) {
        let rows = self.report["rows"].as_array().unwrap();
        assert!(rows.iter().all(|row| row["result"] == "isolated"), "{self}");
        assert!(rows.len() >= least, "{self}");
        assert_eq!((self.code, &self.report["result"]), (Some(0), &"isolated".into()), "{self}");
    }

    /// Exactly these rows are leaks, and all others hold.
    pub fn leaks_by(&self, backend: &str, rows: &[&str]) {
        assert_eq!(self.rows(backend, "leak"), rows, "{self}");
        assert_eq!(self.rows(backend, "unknown"), [""; 0], "{self}");
        assert_eq!((self.code, &self.report["result"]), (Some(1), &"leak".into()), "{self}");
    }

    /// It could not be told, and no row is a leak.
    pub fn is_unknown(&self) {
        assert_eq!((self.code, &self.report["result"]), (Some(3), &"unknown".into()), "{self}");
        let rows = self.report["rows"].as_array().unwrap();
        assert!(rows.iter().all(|row| row["result"] != "leak"), "{self}");
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {:#}\n{}", self.code, self.report, self.stderr)
    }
}

/// A mosquitto with the users alice and bob and an access list.
pub async fn mosquitto(folder: &Path, list: &str, more: &str) -> MosquittoServer {
    for (user, password) in [("alice", "wonder"), ("bob", "builder")] {
        std::fs::write(folder.join(format!("{user}.password")), password).unwrap();
    }
    let dir = folder.join("mosquitto");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("list"), list).unwrap();
    let config = format!("password_file passwords\nacl_file list\n{more}\n");
    tokio::task::spawn_blocking(move || {
        let programs = Tools::open().unwrap().mosquitto().unwrap();
        for (create, user, password) in [("-c", "alice", "wonder"), ("", "bob", "builder")] {
            let mut command = Command::new(&programs.passwd);
            let create = (!create.is_empty()).then_some(create);
            command.args(create).args(["-b", "passwords", user, password]).current_dir(&dir);
            assert!(command.status().unwrap().success());
        }
        MosquittoServer::start(&programs.broker, &dir, &config).unwrap()
    })
    .await
    .unwrap()
}

/// A mosquitto that takes everybody's word: without a list of passwords it checks none.
pub async fn open_mosquitto(folder: &Path) -> MosquittoServer {
    for user in ["alice", "bob"] {
        std::fs::write(folder.join(format!("{user}.password")), "unchecked").unwrap();
    }
    let dir = folder.join("mosquitto");
    tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&dir).unwrap();
        let programs = Tools::open().unwrap().mosquitto().unwrap();
        MosquittoServer::start(&programs.broker, &dir, "allow_anonymous true\n").unwrap()
    })
    .await
    .unwrap()
}

/// The section for such a mosquitto, with more for each of its users.
pub fn mqtt_section(broker: &MosquittoServer, alice: &str, bob: &str) -> String {
    format!(
        "[mqtt]\nurls = [\"mqtt://{}\"]\n\
         [mqtt.a]\nname = \"alice\"\nuser = \"alice\"\npassword_file = \"alice.password\"\n{alice}\n\
         [mqtt.b]\nname = \"bob\"\nuser = \"bob\"\npassword_file = \"bob.password\"\n{bob}\n",
        broker.address()
    )
}

/// A nats-server of people who have no Bulkhead, and passwords of alice and bob.
pub async fn nats(folder: &Path, config: &str) -> NatsServer {
    for (user, password) in [("alice", "wonder"), ("bob", "builder")] {
        std::fs::write(folder.join(format!("{user}.password")), password).unwrap();
    }
    let (dir, config) = (folder.join("nats"), config.to_owned());
    tokio::task::spawn_blocking(move || {
        let binary = Tools::open().unwrap().nats_server().unwrap();
        NatsServer::start(&binary, &dir, &config).unwrap()
    })
    .await
    .unwrap()
}

/// The section for such a server.
pub fn nats_section(server: &NatsServer) -> String {
    format!(
        "[nats]\nurls = [\"{}\"]\n\
         [nats.a]\nname = \"alice\"\nuser = \"alice\"\npassword_file = \"alice.password\"\n\
         [nats.b]\nname = \"bob\"\nuser = \"bob\"\npassword_file = \"bob.password\"\n",
        server.client_url()
    )
}

/// A zenohd without the gate; `more` is added to its configuration.
pub async fn zenohd(folder: &Path, more: Value) -> ZenohServer {
    let dir = folder.join("zenohd");
    tokio::task::spawn_blocking(move || {
        let binary = Tools::open().unwrap().zenohd().unwrap();
        ZenohServer::start(&binary, &dir, |port| {
            let mut config = serde_json::json!({
                "mode": "router",
                "listen": {"endpoints": [format!("tcp/127.0.0.1:{port}")]},
                "scouting": {"multicast": {"enabled": false}},
            });
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            config.to_string()
        })
        .unwrap()
    })
    .await
    .unwrap()
}
