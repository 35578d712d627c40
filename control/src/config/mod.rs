//! The configuration file, `bulkhead.toml`: one file for all services, each reading its section.
//!
//! Unknown keys are errors. Every setting can also be given by the environment: `BULKHEAD__` and the
//! path with `__` between its parts, so `BULKHEAD__ADMIN__LISTEN=127.0.0.1:9200` sets
//! `admin.listen`. A value is read as TOML where it is TOML, else as text.

mod directory;
mod issuer;
mod listeners;
mod load;
mod mqtt;
mod nats;
mod registry;
mod service;
mod upstream;
mod usage;
mod zenoh;

pub use directory::{DirectoryConfig, EtcdConfig, Source};
pub use issuer::{IssuerConfig, KeySource, TenantSet};
pub use load::{ConfigError, Loaded};
pub use mqtt::{DeniedPublish, Listener, MqttConfig, Transport};
pub use nats::{AccountMode, ConfigModeAccounts, ConnectionType, NatsConfig, OperatorAccounts};
pub use registry::{RegistryConfig, RegistryMqtt, RegistryNats, RegistryStore, RegistryZenoh};
pub use service::{
    AdminConfig, AuditConfig, ExchangeConfig, LimitsConfig, ListenerTls, LogConfig, LogFormat,
    MetricsConfig, TlsFiles,
};
pub use upstream::{UpstreamConfig, UpstreamUrl};
pub use usage::UsageConfig;
pub use zenoh::{Around, ZenohConfig, ZenohLink, ZenohListener};

use crate::identity::TOKEN_KEYS;
use bulkhead_policy::{Broker, Quotas, Role, RoleName, RoleSet, keeps_apart};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Everything that `bulkhead.toml` can hold.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Relaxes what only a developer's own machine may relax: secrets as issuer keys, plain HTTP for
    /// the exchange. Everything then listens on loopback only.
    #[serde(default)]
    pub dev: bool,
    /// Where the tenants are known.
    pub directory: DirectoryConfig,
    /// Who signs tokens.
    pub issuers: Vec<IssuerConfig>,
    /// Limits of every tenant that has none of its own.
    #[serde(default)]
    pub quotas: Quotas,
    /// Roles besides, or instead of, the built-in ones.
    #[serde(default)]
    pub roles: BTreeMap<RoleName, Role>,
    /// Counting what tenants use.
    #[serde(default)]
    pub usage: UsageConfig,
    /// Limits on failed and concurrent authentications.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// The audit log.
    #[serde(default)]
    pub audit: AuditConfig,
    /// Prometheus metrics.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// Health, readiness and metrics over HTTP.
    #[serde(default)]
    pub admin: AdminConfig,
    /// The endpoint that turns tenant tokens into credentials; off unless given.
    #[serde(default)]
    pub exchange: Option<ExchangeConfig>,
    /// Logging.
    #[serde(default)]
    pub log: LogConfig,
    /// The NATS backend; off unless given.
    #[serde(default)]
    pub nats: Option<NatsConfig>,
    /// The MQTT backend; off unless given.
    #[serde(default)]
    pub mqtt: Option<MqttConfig>,
    /// The Zenoh backend; off unless given.
    #[serde(default)]
    pub zenoh: Option<ZenohConfig>,
    /// The registry of devices; off unless given.
    #[serde(default)]
    pub registry: Option<RegistryConfig>,
}

impl Config {
    /// Reads, completes from the environment, and checks a configuration file. Relative paths in it
    /// are relative to its folder.
    ///
    /// # Errors
    /// [`ConfigError`], which names file, line, setting and remedy.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(path, [])
    }

    /// The same, with settings that stand above the environment's, written like them.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load_with(
        path: &Path,
        above: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        Loaded::read(path, load::environment()?.into_iter().chain(above))?.into_config()
    }

    /// The built-in roles with the configured ones over them.
    pub fn role_set(&self) -> RoleSet {
        let mut roles = Role::built_in().unwrap_or_default();
        roles.extend(self.roles.iter().map(|(name, role)| (name.clone(), role.clone())));
        roles
    }

    /// Checks that roles keep tenants apart on these brokers.
    pub(crate) fn check_roles(&self, brokers: &[Broker]) -> Result<(), Problem> {
        let roles = self.role_set();
        for (name, role) in &self.roles {
            role.validate(brokers).map_err(|error| {
                Problem::new(&format!("roles.{name}"), &error.to_string(), "change the role")
            })?;
        }
        for &broker in brokers {
            keeps_apart(&roles, broker).map_err(|overlap| {
                // One of the two is configured: the built-in ones go together.
                let first = self.roles.contains_key(&overlap.role);
                let name = if first { &overlap.role } else { &overlap.other };
                let remedy = "put {tenant} at the same place in both, or begin them with different words, at \
                              {tenant} with one that no tenant can be called, such as _plant";
                Problem::new(&format!("roles.{name}"), &overlap.to_string(), remedy)
            })?;
        }
        if brokers.contains(&Broker::Zenoh) {
            for issuer in self.issuers.iter().filter(|issuer| !issuer.service) {
                for name in &issuer.roles {
                    let checked = roles.get(name).map_or(Ok(()), Role::validate_for_tenants);
                    checked.map_err(|error| {
                        let remedy = format!("or take the role from issuer '{}'", issuer.name);
                        Problem::new(&format!("roles.{name}"), &error.to_string(), &remedy)
                    })?;
                }
            }
        }
        Ok(())
    }

    /// The brokers that are configured.
    pub fn brokers(&self) -> Vec<Broker> {
        let mut brokers = Vec::new();
        if self.nats.is_some() {
            brokers.push(Broker::Nats);
        }
        if self.mqtt.is_some() {
            brokers.push(Broker::Mqtt);
        }
        if self.zenoh.is_some() {
            brokers.push(Broker::Zenoh);
        }
        brokers
    }

    /// The folder of the exchange's own keys, if credentials are issued by them.
    pub fn exchange_keys(&self) -> Option<&Path> {
        self.exchange.as_ref().and_then(|exchange| exchange.keys.as_deref())
    }

    /// The public keys by which MQTT verifies credentials of the exchange.
    pub fn mqtt_exchange_jwks(&self) -> Option<PathBuf> {
        let configured = self.mqtt.as_ref()?.exchange_jwks_file.clone();
        configured.or_else(|| Some(self.exchange_keys()?.join(TOKEN_KEYS)))
    }

    fn check(&self) -> Result<(), Problem> {
        if self.issuers.is_empty() {
            return Err(Problem::new(
                "issuers",
                "nobody can sign tokens",
                "add an [[issuers]] table with name, issuer, audiences, algorithms, keys and tenants",
            ));
        }
        self.directory.check().map_err(|p| p.under("directory"))?;
        self.usage.check(&self.directory).map_err(|p| p.under("usage"))?;
        if self.directory.open && self.quotas.has_daily() {
            return Err(Problem::new(
                "quotas",
                "limits by the day, and directory.open admits tenants that nobody counts by the day",
                "take the quotas per day out, or set directory.open = false",
            ));
        }
        let roles = self.role_set();
        let (mut names, mut issuers) = (BTreeSet::new(), BTreeSet::new());
        for (i, issuer) in self.issuers.iter().enumerate() {
            issuer.check(&roles, self.dev).map_err(|p| p.under(&format!("issuers[{i}]")))?;
            if !names.insert(&issuer.name) || !issuers.insert(&issuer.issuer) {
                return Err(Problem::new(
                    &format!("issuers[{i}]"),
                    "an issuer of this name or `iss` stands above already",
                    "give each issuer a name and an `issuer` of its own",
                ));
            }
        }
        self.check_roles(&self.brokers())?;
        self.admin.check(self.dev).map_err(|p| p.under("admin"))?;
        self.limits.check().map_err(|p| p.under("limits"))?;
        if let Some(exchange) = &self.exchange {
            exchange.check(self.dev).map_err(|p| p.under("exchange"))?;
        }
        if let Some(nats) = &self.nats {
            nats.check(self.dev).map_err(|p| p.under("nats"))?;
        }
        if let Some(mqtt) = &self.mqtt {
            mqtt.check(self.dev).map_err(|p| p.under("mqtt"))?;
            if self.exchange_keys().is_some() && mqtt.device_urls().is_empty() {
                return Err(Problem::new(
                    "mqtt.device_urls",
                    "is not set, and no listener has an address that devices could be told",
                    "list the listeners as devices reach them, such as \
                     [\"mqtts://broker.example:8883\"]",
                ));
            }
        }
        if let Some(zenoh) = &self.zenoh {
            zenoh.check(self.dev).map_err(|p| p.under("zenoh"))?;
        }
        if let Some(registry) = &self.registry {
            let has_nats = self.nats.as_ref().is_some_and(|nats| nats.operator.is_some());
            registry.check(has_nats).map_err(|p| p.under("registry"))?;
        }
        if self.upstream_around_front().is_some_and(|upstream| !upstream.prefix.is_empty()) {
            return Err(Problem::new(
                "registry.mqtt.url",
                "is mqtt.upstream.url, the broker behind the front, where names begin with \
                 mqtt.upstream.prefix: the registry would hear nothing of the front's devices",
                "name a listener of the front, and a token_file with the token of a platform service",
            ));
        }
        Ok(())
    }

    /// The broker behind the front, if the registry is to connect to it around the front.
    fn upstream_around_front(&self) -> Option<&UpstreamConfig> {
        let upstream = self.mqtt.as_ref()?.upstream.as_ref()?;
        let (host, port, _) = self.registry.as_ref()?.mqtt.as_ref()?.host_and_port()?;
        upstream.url.is_at(host, port).then_some(upstream)
    }

    /// Whether the registry is to connect to the broker behind the front, and what it answers there does
    /// not reach the front's devices, because their replies are elsewhere.
    pub fn loses_registry_answers(&self) -> bool {
        let has_mount = self.mqtt.as_ref().is_some_and(|mqtt| mqtt.mount.is_some());
        self.upstream_around_front()
            .is_some_and(|upstream| has_mount || upstream.private.iter().any(|own| own == "_reply"))
    }

    /// Makes every relative path relative to `folder`.
    fn resolve_paths(&mut self, folder: &Path) {
        let resolve = |path: &mut PathBuf| {
            if path.is_relative() {
                *path = folder.join(&*path);
            }
        };
        self.directory.paths().into_iter().for_each(resolve);
        for issuer in &mut self.issuers {
            issuer.keys.path().into_iter().for_each(resolve);
            issuer.keys.ca_file().into_iter().for_each(resolve);
        }
        self.usage.folder.iter_mut().for_each(resolve);
        self.audit.path.iter_mut().for_each(resolve);
        self.admin.token_file.iter_mut().for_each(resolve);
        if let Some(exchange) = &mut self.exchange {
            exchange.tls.iter_mut().flat_map(TlsFiles::paths).for_each(resolve);
            exchange.keys.iter_mut().for_each(resolve);
        }
        if let Some(nats) = &mut self.nats {
            nats.paths().into_iter().for_each(resolve);
        }
        if let Some(mqtt) = &mut self.mqtt {
            mqtt.paths().for_each(resolve);
        }
        if let Some(zenoh) = &mut self.zenoh {
            zenoh.paths().for_each(resolve);
        }
        if let Some(registry) = &mut self.registry {
            registry.paths().for_each(resolve);
        }
    }
}

/// What is wrong with one setting, before it is known where that setting stands.
#[derive(Debug)]
pub(crate) struct Problem {
    setting: String,
    what: String,
    remedy: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.setting, self.what, self.remedy)
    }
}

impl Problem {
    fn new(setting: &str, what: &str, remedy: &str) -> Self {
        Self { setting: setting.to_owned(), what: what.to_owned(), remedy: remedy.to_owned() }
    }

    /// The first setting of these that is out of its bounds, each with whether it is within and what to
    /// choose.
    fn of_bounds(settings: &[(&str, bool, &str)]) -> Result<(), Self> {
        match settings.iter().find(|(_, within, _)| !within) {
            Some((setting, _, remedy)) => Err(Self::new(setting, "is out of its bounds", remedy)),
            None => Ok(()),
        }
    }

    fn under(mut self, parent: &str) -> Self {
        self.setting = if self.setting.is_empty() {
            parent.to_owned()
        } else {
            format!("{parent}.{}", self.setting)
        };
        self
    }
}
