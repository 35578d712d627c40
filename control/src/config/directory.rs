use super::Problem;
use jiff::SignedDuration;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where the tenants are known, and what holds when they are not.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryConfig {
    /// A TOML file with one table for each tenant. This or `etcd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// An etcd, which keeps tenants under `/bulkhead/tenants/`. This or `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdConfig>,
    /// Whether a tenant that the directory does not know is admitted. Default no.
    #[serde(default)]
    pub open: bool,
    /// Whether the tenant `default`, Device Connect's fallback for clients that name none, may
    /// exist. Default no.
    #[serde(default)]
    pub allow_default_tenant: bool,
    /// How long the last good state serves while the directory cannot be read. Default 5 minutes.
    #[serde(default = "five_minutes")]
    pub stale_after: SignedDuration,
}

/// The two kinds of directory.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A TOML file.
    File(&'a PathBuf),
    /// An etcd.
    Etcd(&'a EtcdConfig),
}

/// How etcd is reached.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdConfig {
    /// `http://` or `https://` endpoints.
    pub endpoints: Vec<String>,
    /// User name, where etcd asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// File with that user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// PEM file of etcd's certificate authority, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file of a client certificate, with `key_file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// PEM file of the client certificate's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

fn five_minutes() -> SignedDuration {
    SignedDuration::from_mins(5)
}

impl DirectoryConfig {
    /// A directory in a file, closed, with everything else as by default.
    pub fn in_file(path: PathBuf) -> Self {
        Self {
            file: Some(path),
            etcd: None,
            open: false,
            allow_default_tenant: false,
            stale_after: five_minutes(),
        }
    }

    /// A directory in etcd, closed, with everything else as by default.
    pub fn in_etcd(etcd: EtcdConfig) -> Self {
        Self { file: None, etcd: Some(etcd), ..Self::in_file(PathBuf::new()) }
    }

    /// The configured source; the file if both or neither are given, which [`Config::load`]
    /// refuses.
    ///
    /// [`Config::load`]: super::Config::load
    pub fn source(&self) -> Option<Source<'_>> {
        self.file.as_ref().map(Source::File).or(self.etcd.as_ref().map(Source::Etcd))
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.file.is_some() == self.etcd.is_some() {
            return Err(Problem::new(
                "",
                "needs exactly one source",
                "set either file = \"tenants.toml\" or etcd = { endpoints = [\"https://…:2379\"] }",
            ));
        }
        if let Some(etcd) = &self.etcd {
            etcd.check().map_err(|p| p.under("etcd"))?;
        }
        if self.stale_after < SignedDuration::from_secs(1) {
            return Err(Problem::new("stale_after", "is too short", "choose at least \"1s\""));
        }
        Ok(())
    }

    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths: Vec<_> = self.file.iter_mut().collect();
        if let Some(etcd) = &mut self.etcd {
            paths.extend(etcd.paths());
        }
        paths
    }
}

impl EtcdConfig {
    /// Endpoints without user or TLS files.
    pub fn at(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            user: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }

    /// The password, read from its file.
    ///
    /// # Errors
    /// What the system says when the file cannot be read.
    pub fn password(&self) -> std::io::Result<Option<SecretString>> {
        let Some(path) = &self.password_file else {
            return Ok(None);
        };
        Ok(Some(std::fs::read_to_string(path)?.trim_end().to_owned().into()))
    }

    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let files =
            [&mut self.password_file, &mut self.ca_file, &mut self.cert_file, &mut self.key_file];
        files.into_iter().flatten()
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.endpoints.is_empty() {
            return Err(Problem::new("endpoints", "is empty", "list at least one endpoint"));
        }
        if self.user.is_some() != self.password_file.is_some() {
            return Err(Problem::new("user", "has no password", "set user and password_file both"));
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(Problem::new("cert_file", "has no key", "set cert_file and key_file both"));
        }
        Ok(())
    }
}
