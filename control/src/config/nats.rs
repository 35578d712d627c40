use super::Problem;
use bulkhead_policy::TenantId;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The NATS backend.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// `nats://` or `tls://` URLs of the cluster.
    pub servers: Vec<String>,
    /// PEM file of the servers' certificate authority, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The URLs that go into devices' credentials. Default `servers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_urls: Option<Vec<String>>,
    /// Where devices find the authority's file, for their credentials; by default they use their
    /// system's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_ca_file: Option<String>,
    /// Operator mode, with an account for each tenant. This or `config_mode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<OperatorAccounts>,
    /// Config mode, with accounts that stand in the server's file. This or `operator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_mode: Option<ConfigModeAccounts>,
    /// Whether every replica answers every request and the first answer counts. A frozen replica
    /// then refuses nobody, at the price of doing all work in each. Default no: replicas share a
    /// queue group.
    #[serde(default)]
    pub hedged: bool,
    /// Requests worked on at a time; more wait, and those that wait past their deadline are shed.
    /// Default 1,024.
    #[serde(default = "in_flight")]
    pub max_in_flight: usize,
    /// Kinds of connection that tenants may use. Default `["standard"]`.
    #[serde(default = "standard")]
    pub connection_types: BTreeSet<ConnectionType>,
    /// Networks that tenants may come from; everywhere unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<IpNet>,
}

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionType {
    /// The NATS protocol over TCP or TLS.
    Standard,
    /// The NATS protocol over a WebSocket.
    Websocket,
    /// MQTT, on the server's own listener.
    Mqtt,
    /// A leaf node.
    Leafnode,
}

/// Operator mode: the keys that `bulkhead init nats` made.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorAccounts {
    /// The folder of keys.
    pub keys: PathBuf,
}

/// Config mode: accounts and users that stand in the server's own file.
///
/// Adding an account there takes a reload, and a reload drops every client that the callout
/// admitted: they reconnect, but live connections are cut. Tenants that come and go want operator
/// mode.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigModeAccounts {
    /// File with the account seed (`SA…`) whose public key is the server's `auth_callout.issuer`.
    pub issuer_seed_file: PathBuf,
    /// File with the curve seed (`SX…`) whose public key is the server's `auth_callout.xkey`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xkey_seed_file: Option<PathBuf>,
    /// The service's own user, one of `auth_callout.auth_users`.
    pub user: String,
    /// File with that user's password.
    pub password_file: PathBuf,
    /// A user of the system account, for cutting live connections.
    pub system_user: String,
    /// File with the system user's password.
    pub system_password_file: PathBuf,
    /// Account of each tenant. A tenant that is not here is refused.
    pub accounts: BTreeMap<TenantId, String>,
    /// Account of service principals; they are refused without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
}

/// How tenants and accounts go together.
#[derive(Clone, Copy, Debug)]
pub enum AccountMode<'a> {
    /// An account for each tenant, made and pushed by the service.
    Operator(&'a OperatorAccounts),
    /// Accounts in the server's file.
    Config(&'a ConfigModeAccounts),
}

fn in_flight() -> usize {
    1024
}

fn standard() -> BTreeSet<ConnectionType> {
    BTreeSet::from([ConnectionType::Standard])
}

impl NatsConfig {
    /// Operator mode with everything else as by default.
    pub fn operator(servers: Vec<String>, keys: PathBuf) -> Self {
        Self {
            servers,
            ca_file: None,
            device_urls: None,
            device_ca_file: None,
            operator: Some(OperatorAccounts { keys }),
            config_mode: None,
            hedged: false,
            max_in_flight: in_flight(),
            connection_types: standard(),
            sources: Vec::new(),
        }
    }

    /// The configured mode; `None` if there is none, which [`Config::load`](super::Config::load)
    /// refuses.
    pub fn mode(&self) -> Option<AccountMode<'_>> {
        self.operator
            .as_ref()
            .map(AccountMode::Operator)
            .or(self.config_mode.as_ref().map(AccountMode::Config))
    }

    pub(super) fn check(&self, _dev: bool) -> Result<(), Problem> {
        if self.servers.is_empty() {
            return Err(Problem::new(
                "servers",
                "is empty",
                "list the servers, such as [\"nats://127.0.0.1:4222\"]",
            ));
        }
        if self.operator.is_some() == self.config_mode.is_some() {
            return Err(Problem::new(
                "",
                "needs exactly one of operator and config_mode",
                "run `bulkhead init nats` and set operator = { keys = \"nats\" }, or fill in \
                 [nats.config_mode] for a server with fixed accounts",
            ));
        }
        if self.device_urls.as_ref().is_some_and(Vec::is_empty) {
            return Err(Problem::new(
                "device_urls",
                "is empty",
                "leave it out, or list the servers as devices reach them",
            ));
        }
        if self.max_in_flight == 0 {
            return Err(Problem::new("max_in_flight", "is 0", "choose at least 1"));
        }
        if self.connection_types.is_empty() {
            return Err(Problem::new(
                "connection_types",
                "is empty, so nobody could connect",
                "leave it out, or list some of standard, websocket, mqtt, leafnode",
            ));
        }
        let Some(fixed) = &self.config_mode else {
            return Ok(());
        };
        let privileged = ["SYS", "$SYS", "$G"];
        for (tenant, account) in &fixed.accounts {
            let shared = fixed.accounts.iter().any(|(t, a)| t != tenant && a == account);
            if shared || privileged.contains(&account.as_str()) {
                return Err(Problem::new(
                    &format!("config_mode.accounts.{tenant}"),
                    "is an account that this tenant would share with others or with the system",
                    "give each tenant an account of its own",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths: Vec<_> = self.ca_file.iter_mut().collect();
        paths.extend(self.operator.iter_mut().map(|operator| &mut operator.keys));
        if let Some(fixed) = &mut self.config_mode {
            paths.extend([
                &mut fixed.issuer_seed_file,
                &mut fixed.password_file,
                &mut fixed.system_password_file,
            ]);
            paths.extend(fixed.xkey_seed_file.as_mut());
        }
        paths
    }
}
