//! A folder with a configuration, and the process that runs on it.

use super::signer::{AUD, ISS};
use super::until_true;
use bulkhead_control::config::{Config, ConfigError};
use bulkhead_control::{Admission, Authenticator, Control, StartError};
use bulkhead_policy::{Broker, Verdict};
use std::path::PathBuf;
use tempfile::TempDir;
use toml::{Table, Value};

/// The configuration's file.
const CONFIG: &str = "bulkhead.toml";

/// What the directory holds unless a test says otherwise.
pub const TENANTS: &str = "[tenants.acme]\n[tenants.globex]\n";

/// A folder of its own, gone at the end of the test.
pub struct Site {
    folder: TempDir,
}

impl Site {
    /// A folder with a directory of the tenants `acme` and `globex`.
    pub fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        site.write("tenants.toml", TENANTS);
        site
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a file there in one step.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        bulkhead_control::files::write_secret(&self.path(name), content.as_ref()).unwrap();
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    /// Replaces the configuration.
    pub fn configure(&self, config: &str) {
        self.write(CONFIG, config);
    }

    /// Reads the configuration as a service does.
    pub fn load(&self, config: &str) -> Result<Config, ConfigError> {
        self.configure(config);
        Config::load(&self.path(CONFIG))
    }

    /// Starts a process on it.
    pub async fn try_start(&self, config: &str) -> Result<Control, StartError> {
        let config = self.load(config)?;
        Control::start(config, Some(self.path(CONFIG))).await
    }

    /// Starts a process that has what it needs, and waits until it is ready.
    pub async fn start(&self, config: &str) -> Control {
        let control = self.try_start(config).await.unwrap();
        ready(&control).await;
        control
    }
}

/// Waits until a process is ready.
pub async fn ready(control: &Control) {
    let missing = || control.readiness().missing();
    until_true("ready", || missing().is_empty()).await;
}

/// An issuer with some settings replaced. It has no keys: `changes` says where they are.
pub fn issuer(changes: &str) -> Table {
    let mut table: Table = toml::from_str(&format!(
        r#"
        name = "corp"
        issuer = "{ISS}"
        audiences = ["{AUD}"]
        algorithms = ["EdDSA", "ES256", "ES384", "RS256"]
        tenants = ["acme", "globex"]
        "#
    ))
    .unwrap();
    merge(&mut table, toml::from_str(changes).unwrap());
    table
}

/// A configuration with some settings replaced.
pub fn config(changes: &str, issuers: Vec<Table>) -> String {
    let mut table: Table = toml::from_str("admin.listen = \"127.0.0.1:0\"").unwrap();
    merge(&mut table, toml::from_str(changes).unwrap());
    let directory = table.entry("directory").or_insert_with(|| Value::Table(Table::new()));
    let directory = directory.as_table_mut().unwrap();
    if !directory.contains_key("etcd") {
        directory.insert("file".to_owned(), "tenants.toml".into());
    }
    table.insert(
        "issuers".to_owned(),
        Value::Array(issuers.into_iter().map(Value::Table).collect()),
    );
    toml::to_string(&table).unwrap()
}

fn merge(into: &mut Table, changes: Table) {
    for (name, value) in changes {
        match (into.get_mut(&name), value) {
            (Some(Value::Table(have)), Value::Table(new)) => merge(have, new),
            (_, value) => {
                into.insert(name, value);
            }
        }
    }
}

/// What a broker adapter does with a client's token.
pub async fn enter(auth: &Authenticator, token: &str) -> Verdict<Admission> {
    let principal = auth.identify(token, None).await?;
    auth.admit(Broker::Mqtt, principal)
}

/// The value of one line of the metrics, 0 while there is none.
pub fn metric(control: &Control, series: &str) -> f64 {
    let text = control.auth().metrics().encode().unwrap();
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or_default()
}
