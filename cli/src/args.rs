//! What can be typed.

use bulkhead_policy::{DeviceId, Resource, RoleName, TenantId};
use clap::{Parser, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use std::path::PathBuf;

/// Tenant isolation for NATS, MQTT and Zenoh.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 typed wrong, 3 a check found something wrong. See \
                  `bulkhead verify --help` for its own."
)]
pub struct Args {
    /// The configuration.
    #[arg(long, global = true, env = "BULKHEAD_CONFIG", default_value = "bulkhead.toml")]
    pub config: PathBuf,
    /// Print JSON, for scripts.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start everything on this machine, measure the isolation of two tenants, and stay up to be tried.
    Dev(Dev),
    /// Write a configuration, or keys: of NATS, of the exchange, of an issuer, of TLS.
    Init(Init),
    /// Check the configuration and what it refers to.
    Check,
    /// Run the configured services.
    Serve,
    /// Ask a running service whether it is ready: exits with 3 if it is not.
    Ready(Ready),
    /// Add, list and change tenants.
    #[command(subcommand)]
    Tenant(Tenant),
    /// Shut devices out, and let them in again.
    #[command(subcommand)]
    Device(Device),
    /// Show which devices are present, as a registry knows it.
    #[command(subcommand)]
    Devices(Devices),
    /// Make, read and revoke tokens.
    #[command(subcommand)]
    Token(Token),
    /// Issue credentials files for devices.
    #[command(subcommand)]
    Creds(Creds),
    /// Rotate the keys of the exchange.
    #[command(subcommand)]
    Exchange(Exchange),
    /// Rotate the keys of NATS's operator mode.
    #[command(subcommand)]
    Nats(Nats),
    /// Check the audit log.
    #[command(subcommand)]
    Audit(Audit),
    /// Try, with the credentials of two tenants of any deployment, what they can do to each other.
    Verify(Verify),
}

/// `bulkhead dev`.
#[derive(Debug, clap::Args)]
pub struct Dev {
    /// Print the isolation matrix and exit: 0 only if every row holds.
    #[arg(long)]
    pub once: bool,
    /// Where keys, tenants and configuration are kept.
    #[arg(long, default_value = ".bulkhead/dev")]
    pub dir: PathBuf,
}

/// `bulkhead verify`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 isolated, 1 a leak was found, 2 typed or configured wrong, 3 some row \
                        could not be told."
)]
pub struct Verify {
    /// The file with the brokers and what two tenants show them.
    #[arg(required_unless_present = "example")]
    pub deployment: Option<PathBuf>,
    /// Print such a file, with every setting explained, and exit.
    #[arg(long, conflicts_with = "deployment")]
    pub example: bool,
}

/// `bulkhead init`.
#[derive(Debug, clap::Args)]
pub struct Init {
    /// What to write besides the configuration.
    #[command(subcommand)]
    pub what: Option<InitWhat>,
}

/// What `init` can write.
#[derive(Debug, Subcommand)]
pub enum InitWhat {
    /// Operator, accounts, keys and a server configuration for NATS in operator mode.
    Nats {
        /// The folder to write.
        #[arg(long, default_value = "nats")]
        dir: PathBuf,
        /// Where the server listens.
        #[arg(long, value_parser = address, default_value = "127.0.0.1:4222")]
        listen: String,
    },
    /// The keys that sign credentials for MQTT and Zenoh, which the first start of the exchange makes
    /// otherwise.
    Exchange {
        /// The folder to write.
        #[arg(long, default_value = "exchange")]
        dir: PathBuf,
    },
    /// An Ed25519 key that signs tokens, and the key set (JWKS) that verifies them. What is there stays.
    Issuer {
        /// The folder to write.
        #[arg(long, default_value = "issuer")]
        dir: PathBuf,
        /// What the files are called: NAME.key and NAME.jwks.json.
        #[arg(long, default_value = "issuer", value_parser = file_name)]
        name: String,
        /// Where the key set goes, which is all that others need. Default: beside the key.
        #[arg(long)]
        jwks: Option<PathBuf>,
    },
    /// A certificate for TLS and its key, and the authority that signs it. What is there stays, but a
    /// certificate that ends within 30 days, or lacks something, is issued again for its old key.
    ///
    /// Exits with 3 if that wants the authority's key, which is elsewhere, and the old one has not ended.
    Tls(Tls),
}

/// `bulkhead init tls`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("purpose").args(["host", "client"]).required(true).multiple(true))]
pub struct Tls {
    /// The folder to write.
    #[arg(long, default_value = "tls")]
    pub dir: PathBuf,
    /// What the files are called: NAME.pem and NAME.key.
    #[arg(long, default_value = "tls", value_parser = file_name)]
    pub name: String,
    /// A DNS name or address by which clients reach the server. May be given more than once.
    #[arg(long)]
    pub host: Vec<String>,
    /// Its owner is a client, who is known by the common name.
    #[arg(long)]
    pub client: bool,
    /// The common name. Default: the first host, or the files' name.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub common_name: Option<String>,
    /// The authority's certificate. Default: ca.pem in the folder.
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// The authority's key, which may be kept elsewhere in between. Default: ca.key in the folder.
    #[arg(long)]
    pub ca_key: Option<PathBuf>,
}

/// `bulkhead ready`.
#[derive(Debug, clap::Args)]
pub struct Ready {
    /// Ask the service on this host, at the configured port or another one (host:port). Default: this
    /// machine.
    #[arg(long, value_name = "HOST")]
    pub service: Option<String>,
    /// How long it may take to answer.
    #[arg(long, default_value = "4s")]
    pub timeout: SignedDuration,
}

/// `bulkhead exchange`.
#[derive(Debug, Subcommand)]
pub enum Exchange {
    /// Make new keys, and have brokers trust them beside the old ones. The exchange signs with them from
    /// its next start on.
    Rotate {
        /// The folder of the keys. Default: `exchange.keys` of the configuration, and the files that it
        /// names for brokers to verify by.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// A file of authorities by which a broker verifies devices' certificates. May be given more than
        /// once.
        #[arg(long)]
        client_ca_file: Vec<PathBuf>,
        /// A key set by which a broker verifies MQTT passwords. May be given more than once.
        #[arg(long)]
        exchange_jwks_file: Vec<PathBuf>,
    },
}

/// `bulkhead tenant`.
#[derive(Debug, Subcommand)]
pub enum Tenant {
    /// Add a tenant.
    Create {
        /// Its id: letters, digits, `-` and `_`.
        tenant: TenantId,
        /// Its limits.
        #[command(flatten)]
        quotas: QuotaArgs,
    },
    /// List all tenants.
    List,
    /// Show one tenant.
    Show {
        /// Which.
        tenant: TenantId,
    },
    /// Cut a tenant off, and let nobody of it in.
    Suspend {
        /// Which.
        tenant: TenantId,
    },
    /// Let a suspended tenant in again.
    Resume {
        /// Which.
        tenant: TenantId,
    },
    /// Remove a tenant.
    Delete {
        /// Which.
        tenant: TenantId,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Show or change a tenant's limits.
    Quota {
        /// Whose.
        tenant: TenantId,
        /// Limits to set, such as `messages_per_day=1000000`; the options below say the same.
        #[arg(value_name = "NAME=VALUE")]
        set: Vec<Assignment>,
        /// Limits to take back: those configured for every tenant hold again.
        #[arg(long, value_name = "NAME", num_args = 1..)]
        unset: Vec<QuotaName>,
        /// What to change.
        #[command(flatten)]
        quotas: QuotaArgs,
    },
}

/// Limits of a tenant; a number, or `none` for the configured default.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct QuotaArgs {
    /// Connections at a time.
    #[arg(long, value_name = "N|none")]
    pub connections: Option<Limit>,
    /// Subscriptions (NATS: of each connection).
    #[arg(long, value_name = "N|none")]
    pub subscriptions: Option<Limit>,
    /// Published messages per second.
    #[arg(long, value_name = "N|none")]
    pub messages_per_second: Option<Limit>,
    /// Published bytes per second.
    #[arg(long, value_name = "N|none")]
    pub bytes_per_second: Option<Limit>,
    /// Bytes of one payload.
    #[arg(long, value_name = "N|none")]
    pub payload_bytes: Option<Limit>,
    /// Retained messages.
    #[arg(long, value_name = "N|none")]
    pub retained_messages: Option<Limit>,
    /// Bytes of all retained messages.
    #[arg(long, value_name = "N|none")]
    pub retained_bytes: Option<Limit>,
    /// Bytes queued for clients that are away or slow.
    #[arg(long, value_name = "N|none")]
    pub queued_bytes: Option<Limit>,
    /// Authentications per minute.
    #[arg(long, value_name = "N|none")]
    pub authentications_per_minute: Option<Limit>,
    /// Published messages per day (UTC), over all brokers.
    #[arg(long, value_name = "N|none")]
    pub messages_per_day: Option<Limit>,
    /// Published bytes per day (UTC), over all brokers.
    #[arg(long, value_name = "N|none")]
    pub bytes_per_day: Option<Limit>,
    /// Authentications per day (UTC), over all brokers.
    #[arg(long, value_name = "N|none")]
    pub authentications_per_day: Option<Limit>,
    /// JetStream streams; with it and some bytes, JetStream is on.
    #[arg(long, value_name = "N|none")]
    pub jetstream_streams: Option<Limit>,
    /// JetStream consumers.
    #[arg(long, value_name = "N", value_parser = number(), requires = "jetstream_streams")]
    pub jetstream_consumers: Option<u64>,
    /// JetStream bytes on disk.
    #[arg(long, value_name = "N", value_parser = number(), requires = "jetstream_streams")]
    pub jetstream_storage_bytes: Option<u64>,
    /// JetStream bytes in memory.
    #[arg(long, value_name = "N", value_parser = number(), requires = "jetstream_streams")]
    pub jetstream_memory_bytes: Option<u64>,
}

/// A limit's name, as the directory and the configuration have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaName {
    /// One of a resource.
    Of(Resource),
    /// All of JetStream's.
    JetStream,
    /// The number of JetStream's streams.
    Streams,
    /// The number of their consumers.
    Consumers,
    /// JetStream's bytes on disk.
    StorageBytes,
    /// JetStream's bytes in memory.
    MemoryBytes,
}

impl QuotaName {
    /// JetStream's.
    const JETSTREAM: [(&str, Self); 5] = [
        ("jetstream", Self::JetStream),
        ("jetstream.streams", Self::Streams),
        ("jetstream.consumers", Self::Consumers),
        ("jetstream.storage_bytes", Self::StorageBytes),
        ("jetstream.memory_bytes", Self::MemoryBytes),
    ];
}

impl std::str::FromStr for QuotaName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = Resource::ALL.iter().map(|resource| (resource.name(), Self::Of(*resource)));
        let all: Vec<_> = plain.chain(Self::JETSTREAM).collect();
        let found = all.iter().find(|(name, _)| *name == text);
        let names = || all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        found.map(|(_, found)| *found).ok_or_else(|| format!("is none of {}", names()))
    }
}

/// A limit that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Which.
    pub name: QuotaName,
    /// To what.
    pub limit: Limit,
}

impl std::str::FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=');
        let (name, limit) = parts.ok_or("is no name=value, such as connections=100")?;
        let name = name.parse().map_err(|error| format!("'{name}' {error}"))?;
        Ok(Self { name, limit: limit.parse()? })
    }
}

/// The largest number that TOML has.
const MAX_LIMIT: u64 = i64::MAX.unsigned_abs();

/// A limit that is set or taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(pub Option<u64>);

impl std::str::FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            number => match number.parse() {
                Ok(n) if n <= MAX_LIMIT => Ok(Self(Some(n))),
                Ok(_) => Err(format!("is more than {MAX_LIMIT}")),
                Err(_) => Err("is neither a number nor `none`".to_owned()),
            },
        }
    }
}

/// `bulkhead device`.
#[derive(Debug, Subcommand)]
pub enum Device {
    /// Cut a device off, and let it in no more.
    Revoke {
        /// Its tenant.
        #[arg(long)]
        tenant: TenantId,
        /// The device.
        device: DeviceId,
    },
    /// Let a revoked device in again.
    Restore {
        /// Its tenant.
        #[arg(long)]
        tenant: TenantId,
        /// The device.
        device: DeviceId,
    },
}

/// `bulkhead token`.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Sign a token: for a service of the platform, or for development and tests. Tenants' tokens are
    /// your identity provider's in production.
    Mint(Mint),
    /// Show what a token says and whether it would be accepted.
    Inspect {
        /// The token, or `-` to read it from standard input.
        token: String,
    },
    /// Revoke one token by its id, or all that were issued to a tenant before a time.
    Revoke {
        /// The tenant.
        #[arg(long)]
        tenant: TenantId,
        /// The token's `jti`.
        #[arg(required_unless_present = "issued_before")]
        id: Option<String>,
        /// When the token has expired anyway, so that its entry can go. Default: in a year.
        #[arg(long, conflicts_with = "issued_before")]
        until: Option<Timestamp>,
        /// Refuse every token issued before this time (RFC 3339, or `now`).
        #[arg(long, value_parser = time, conflicts_with = "id")]
        issued_before: Option<Timestamp>,
    },
}

/// `bulkhead token mint`.
#[derive(Debug, clap::Args)]
pub struct Mint {
    /// The tenant.
    #[arg(long, required_unless_present = "service")]
    pub tenant: Option<TenantId>,
    /// A service of the platform, instead of a tenant: its name, which becomes the token's `sub`.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tenant", "device"])]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub service: Option<String>,
    /// The device.
    #[arg(long)]
    pub device: Option<DeviceId>,
    /// The role. Default: `service` for a service, else the issuer's default role.
    #[arg(long)]
    pub role: Option<RoleName>,
    /// How long it is valid.
    #[arg(long, default_value = "1h")]
    pub ttl: SignedDuration,
    /// The issuer's private Ed25519 key in PEM.
    #[arg(long)]
    pub key: PathBuf,
    /// Which configured issuer to sign as. Default: the first that signs for tenants, or for services.
    #[arg(long)]
    pub issuer: Option<String>,
    /// Sign as this issuer (`iss`) without a configuration.
    #[arg(long, conflicts_with = "issuer")]
    pub iss: Option<String>,
    /// Whom the token is for (`aud`), where there is no configuration.
    #[arg(long, requires = "iss", default_value = "bulkhead")]
    pub aud: String,
    /// The file to write, readable by its owner alone. Default: standard output.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// `bulkhead creds`.
#[derive(Debug, Subcommand)]
pub enum Creds {
    /// Issue a Device Connect credentials file, with this machine's keys or through an exchange.
    Issue(Issue),
}

/// `bulkhead creds issue`.
#[derive(Debug, clap::Args)]
pub struct Issue {
    /// The tenant; through an exchange, the token says.
    #[arg(long, required_unless_present = "exchange", conflicts_with = "exchange")]
    pub tenant: Option<TenantId>,
    /// The device.
    #[arg(long, required_unless_present = "exchange")]
    pub device: Option<DeviceId>,
    /// The role.
    #[arg(long, default_value = "device", conflicts_with = "exchange")]
    pub role: RoleName,
    /// How long they are valid. Default: what the exchange is configured to give, or 30 days.
    #[arg(long)]
    pub ttl: Option<SignedDuration>,
    /// The backend. Default: the only one that is configured.
    #[arg(long, value_enum)]
    pub backend: Option<Backend>,
    /// Add a client certificate (MQTT).
    #[arg(long)]
    pub certificate: bool,
    /// The file to write, readable by its owner alone. Default: standard output.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Ask this exchange, such as https://bulkhead.example:8443, instead of signing here.
    #[arg(long, requires = "token_file")]
    pub exchange: Option<String>,
    /// File with the tenant token to show the exchange.
    #[arg(long, requires = "exchange")]
    pub token_file: Option<PathBuf>,
    /// PEM file of the authority that signed the exchange's certificate.
    #[arg(long, requires = "exchange")]
    pub ca_file: Option<PathBuf>,
}

/// Backends with credentials files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// NATS.
    Nats,
    /// MQTT.
    Mqtt,
    /// Zenoh.
    Zenoh,
}

impl Backend {
    /// The section of the credentials file.
    pub fn section(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Mqtt => "mqtt",
            Self::Zenoh => "zenoh",
        }
    }
}

/// `bulkhead nats`.
#[derive(Debug, Subcommand)]
pub enum Nats {
    /// Add a new key, which running services take over and use ten seconds later. Older ones stay good
    /// until two more rotations.
    Rotate {
        /// Which key.
        what: RotateWhat,
    },
}

/// What can be rotated.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RotateWhat {
    /// The key that signs the callout's answers and issued credentials.
    Issuer,
    /// The keys that sign the tenants' users.
    Tenants,
    /// The key that requests are encrypted for.
    Xkey,
}

/// `bulkhead devices`.
#[derive(Debug, Subcommand)]
pub enum Devices {
    /// List who is present.
    List {
        /// Which registry, and whose devices.
        #[command(flatten)]
        at: RegistryAt,
    },
    /// Print who comes, changes and goes, as it happens.
    Watch {
        /// Which registry, and whose devices.
        #[command(flatten)]
        at: RegistryAt,
    },
}

/// Where a registry is asked, and as whom.
#[derive(Debug, clap::Args)]
pub struct RegistryAt {
    /// The registry's admin port. Default: `admin.listen` of the configuration.
    #[arg(long)]
    pub url: Option<String>,
    /// File with the token of somebody of the tenant, or of a platform service.
    #[arg(long, env = "BULKHEAD_TOKEN_FILE")]
    pub token_file: PathBuf,
    /// Whose devices; a platform service sees all without it.
    #[arg(long)]
    pub tenant: Option<TenantId>,
}

/// `bulkhead audit`.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Check the log's hash chain: exits with 3 if a line was edited, removed or added.
    Verify {
        /// The log. Default: the configured one.
        path: Option<PathBuf>,
    },
}

fn number() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(..=MAX_LIMIT)
}

/// The beginning of a file's name.
fn file_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err("write letters, digits, '.', '-' and '_'; the folder is --dir".to_owned())
}

/// What may stand in a server's configuration and in a URL without being read as anything else.
fn address(text: &str) -> Result<String, String> {
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let in_ipv6 = |c: char| c.is_ascii_hexdigit() || c == ':';
    let parts = text.rsplit_once(':').filter(|(host, port)| {
        let ipv6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let plain = ipv6.map_or(host.chars().all(in_name), |host| host.chars().all(in_ipv6));
        plain && !host.is_empty() && port.parse::<u16>().is_ok()
    });
    let (host, port) = parts.ok_or("write it as host:port, such as 127.0.0.1:4222")?;
    Ok(format!("{host}:{port}"))
}

fn time(text: &str) -> Result<Timestamp, String> {
    if text == "now" {
        return Ok(Timestamp::now());
    }
    text.parse().map_err(|error| format!("{error}; write it as 2026-01-31T12:00:00Z, or `now`"))
}
