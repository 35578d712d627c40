//! What can be typed.

use bulkhead_policy::{DeviceId, RoleName, TenantId};
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
    /// Write a configuration, with `nats` the keys and configuration of a nats-server, or with
    /// `exchange` the keys of the exchange.
    Init(Init),
    /// Check the configuration and what it refers to.
    Check,
    /// Run the configured services.
    Serve,
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
    /// The keys that sign credentials for MQTT, which the first start of the exchange makes otherwise.
    Exchange {
        /// The folder to write.
        #[arg(long, default_value = "exchange")]
        dir: PathBuf,
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
        /// What to change.
        #[command(flatten)]
        quotas: QuotaArgs,
    },
}

/// Limits of a tenant; a number, or `none` for the configured default.
#[derive(Debug, Default, clap::Args)]
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
    /// Sign a token. For development and tests: in production your identity provider does.
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
    #[arg(long)]
    pub tenant: TenantId,
    /// The device.
    #[arg(long)]
    pub device: Option<DeviceId>,
    /// The role. Default: the issuer's default role.
    #[arg(long)]
    pub role: Option<RoleName>,
    /// How long it is valid.
    #[arg(long, default_value = "1h")]
    pub ttl: SignedDuration,
    /// The issuer's private Ed25519 key in PEM.
    #[arg(long)]
    pub key: PathBuf,
    /// Which configured issuer to sign as. Default: the first.
    #[arg(long)]
    pub issuer: Option<String>,
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
    /// Add a new key. Running services take it over; older ones stay good until two more rotations.
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
