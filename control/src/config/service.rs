use super::Problem;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Limits on authentications, whoever asks.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Failed authentications per minute from one address (an IPv6 /64 counts as one). After that,
    /// only tokens that have been verified lately pass from there. Default 60.
    pub failures_per_minute: u32,
    /// Verified tokens that are kept, so that a reconnect costs no signature check. Default 100,000.
    pub cached_tokens: u64,
}

/// Where decisions are written down.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// The audit log: JSON lines in a hash chain. Off unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// What Prometheus gets to see.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Whether metrics that can carry a tenant label do. Default no.
    pub tenant_label: bool,
    /// Most distinct tenants in that label; the others share `_other`. Default 100.
    pub max_tenants: usize,
}

/// Health, readiness and metrics over HTTP.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Where to listen. Default 127.0.0.1:9180.
    pub listen: SocketAddr,
    /// File with the Bearer token that `/metrics` asks for; required off loopback. `/healthz` and
    /// `/readyz` ask for nothing and tell nothing but yes or no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// The endpoint that turns a tenant token into a credentials file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExchangeConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Its certificate; required unless `dev = true` and the address is loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
    /// The folder of keys that sign credentials for MQTT, made at the first start. Credentials for NATS
    /// are signed by the keys of `nats.operator`. None are issued for MQTT unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<PathBuf>,
    /// How long issued credentials live. Default 30 days.
    #[serde(default = "thirty_days")]
    pub credentials_ttl: SignedDuration,
    /// Credentials issued per minute to one tenant. Default 60.
    #[serde(default = "sixty")]
    pub per_minute: u32,
}

/// A certificate chain and its key, in PEM.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub cert_file: PathBuf,
    /// The leaf's private key.
    pub key_file: PathBuf,
}

/// A certificate chain and its key, and who may sign clients' certificates, in PEM.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// The chain, leaf first.
    pub cert_file: PathBuf,
    /// The leaf's private key.
    pub key_file: PathBuf,
    /// The authorities of the certificates that the exchange issues to devices. Clients are asked for
    /// one, and may have none. Nobody is asked unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
}

/// Logging, to standard error.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// One line of text or of JSON for each event.
    pub format: LogFormat,
    /// A level, or directives such as `info,bulkhead_control=debug`.
    pub filter: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { failures_per_minute: 60, cached_tokens: 100_000 }
    }
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { tenant_label: false, max_tenants: 100 }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9180)), token_file: None }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

fn thirty_days() -> SignedDuration {
    SignedDuration::from_hours(30 * 24)
}

fn sixty() -> u32 {
    60
}

impl LimitsConfig {
    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.failures_per_minute == 0 {
            return Err(Problem::new(
                "failures_per_minute",
                "is 0, which would lock every address out for ever",
                "choose at least 1",
            ));
        }
        Ok(())
    }
}

impl AdminConfig {
    pub(super) fn check(&self, dev: bool) -> Result<(), Problem> {
        if self.listen.ip().is_loopback() {
            return Ok(());
        }
        if dev {
            return Err(Problem::new(
                "listen",
                "is reachable from other machines, with dev = true",
                "listen on loopback, or set dev = false",
            ));
        }
        if self.token_file.is_none() {
            return Err(Problem::new(
                "listen",
                "is reachable from other machines, without a token",
                "set token_file, or listen on 127.0.0.1",
            ));
        }
        Ok(())
    }
}

impl ExchangeConfig {
    pub(super) fn check(&self, dev: bool) -> Result<(), Problem> {
        let loopback = self.listen.ip().is_loopback();
        if self.tls.is_none() && !(dev && loopback) {
            return Err(Problem::new(
                "tls",
                "is not set, so tokens and credentials would cross the network in the clear",
                "set tls = { cert_file = …, key_file = … }",
            ));
        }
        if self.credentials_ttl < SignedDuration::from_secs(1) {
            return Err(Problem::new("credentials_ttl", "is too short", "choose at least \"1s\""));
        }
        if self.per_minute == 0 {
            return Err(Problem::new(
                "per_minute",
                "is 0, so nothing would ever be issued",
                "choose at least 1, or drop [exchange]",
            ));
        }
        Ok(())
    }
}

impl TlsFiles {
    pub(super) fn paths(&mut self) -> [&mut PathBuf; 2] {
        [&mut self.cert_file, &mut self.key_file]
    }
}

impl ListenerTls {
    /// The listener's own certificate.
    pub fn files(&self) -> TlsFiles {
        TlsFiles { cert_file: self.cert_file.clone(), key_file: self.key_file.clone() }
    }

    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.cert_file, &mut self.key_file].into_iter().chain(&mut self.client_ca_file)
    }
}
