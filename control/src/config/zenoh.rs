use super::listeners::Listeners;
use super::{ListenerTls, Problem};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The Zenoh backend: a gate before the router that carries it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ZenohConfig {
    /// Where tenants' clients connect, as Zenoh writes it: `tls/[::]:7447`, and the same with `tcp`,
    /// `ws` and `quic`.
    pub listeners: Vec<ZenohListener>,
    /// The certificate of `tls` and `quic`, and whose certificates clients may show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// The URLs that go into devices' credentials. Default: the encrypted listeners that have an address
    /// which devices could be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_urls: Option<Vec<String>>,
    /// The authority of the listeners' certificate, in PEM, which goes into devices' credentials.
    /// Default: `tls.cert_file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_ca_file: Option<PathBuf>,
    /// Whether `bulkhead serve` runs a router of its own, with the gate linked in. Default no: a zenohd
    /// loads the gate as a plugin.
    #[serde(default)]
    pub own_router: bool,
    /// Whether `tcp` and `ws` may listen off loopback, where tokens cross the network in the clear.
    /// Default no.
    #[serde(default)]
    pub plaintext: bool,
    /// The socket between the gate and its router. Default: the one among the router's own listeners
    /// (`listen/endpoints` of its configuration) that begins with `unixsock-stream/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_socket: Option<PathBuf>,
    /// Listeners of the router itself that only other routers and the platform's own programs can
    /// reach, as its configuration writes them. Any other one is a way around the gate.
    #[serde(default)]
    pub trusted_listeners: Vec<String>,
    /// What happens if there is a way around the gate. Default `refuse`.
    #[serde(default)]
    pub around: Around,
    /// Largest message, in bytes; larger ones in pieces are given up. Default 16 MiB.
    #[serde(default = "max_message_bytes")]
    pub max_message_bytes: usize,
    /// Longest time without a sign of life that a client may ask for. Default 5 minutes.
    #[serde(default = "max_lease")]
    pub max_lease: SignedDuration,
    /// How long a connection may take to become a session, the TLS handshake included. Default 10 s.
    #[serde(default = "handshake_timeout")]
    pub handshake_timeout: SignedDuration,
    /// Connections of one address (an IPv6 /64 counts as one) that are no sessions yet. Default 256.
    #[serde(default = "pending_per_source")]
    pub pending_per_source: usize,
    /// Sessions of all tenants. Default 10,000.
    #[serde(default = "max_sessions")]
    pub max_sessions: usize,
    /// Subscribers, queryables, liveliness tokens and interests of one session. Default 1,000.
    #[serde(default = "max_declarations")]
    pub max_declarations_per_session: usize,
    /// Names that all sessions of one tenant have declared, each counted once. Default 10,000.
    #[serde(default = "max_names")]
    pub max_names_per_tenant: usize,
    /// Declarations and interests of one tenant's sessions together that the router gets per second, with
    /// bursts of a second's worth: it compares each with all that it has. More of them wait. Default 1,000.
    #[serde(default = "max_declarations_of_tenant")]
    pub max_declarations_per_second: u64,
    /// Queries of one session that wait for an answer. Default 1,000.
    #[serde(default = "max_queries")]
    pub max_queries_per_session: usize,
    /// Queries of all sessions of one tenant that wait for an answer. Default 100,000.
    #[serde(default = "max_queries_of_tenant")]
    pub max_queries_per_tenant: usize,
    /// Bytes that the gate keeps for all clients of one tenant: what waits for those that are behind, and
    /// what has come of messages in pieces. At least `max_message_bytes`. Default 512 MiB.
    #[serde(default = "max_bytes_of_tenant")]
    pub max_bytes_per_tenant: usize,
}

/// Where connections are accepted, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ZenohListener {
    /// What carries Zenoh.
    pub link: ZenohLink,
    /// The address.
    pub address: SocketAddr,
}

/// What carries Zenoh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZenohLink {
    /// TCP.
    Tcp,
    /// TLS.
    Tls,
    /// WebSocket.
    Ws,
    /// QUIC.
    Quic,
}

/// What happens if tenants could reach the router around the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Around {
    /// The gate does not start.
    #[default]
    Refuse,
    /// It warns, and starts.
    Warn,
}

const LINKS: [(ZenohLink, &str); 4] = [
    (ZenohLink::Tcp, "tcp"),
    (ZenohLink::Tls, "tls"),
    (ZenohLink::Ws, "ws"),
    (ZenohLink::Quic, "quic"),
];

impl ZenohLink {
    /// Whether it is encrypted.
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::Quic)
    }
}

impl fmt::Display for ZenohListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = LINKS.iter().find(|(link, _)| *link == self.link).map_or("", |(_, name)| name);
        write!(f, "{name}/{}", self.address)
    }
}

impl FromStr for ZenohListener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!(
                "'{text}' is no listener; write tcp/, tls/, ws/ or quic/ with an address and a \
                 port, such as 'tls/[::]:7447'"
            )
        };
        let (name, address) = text.split_once('/').ok_or_else(wrong)?;
        let (link, _) = LINKS.iter().find(|(_, known)| *known == name).ok_or_else(wrong)?;
        Ok(Self { link: *link, address: address.parse().map_err(|_| wrong())? })
    }
}

impl<'de> Deserialize<'de> for ZenohListener {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for ZenohListener {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn max_message_bytes() -> usize {
    16 * 1024 * 1024
}

fn max_lease() -> SignedDuration {
    SignedDuration::from_mins(5)
}

fn handshake_timeout() -> SignedDuration {
    SignedDuration::from_secs(10)
}

fn pending_per_source() -> usize {
    256
}

fn max_sessions() -> usize {
    10_000
}

fn max_declarations() -> usize {
    1_000
}

fn max_declarations_of_tenant() -> u64 {
    1_000
}

fn max_names() -> usize {
    10_000
}

fn max_queries() -> usize {
    1_000
}

fn max_queries_of_tenant() -> usize {
    100_000
}

fn max_bytes_of_tenant() -> usize {
    512 * 1024 * 1024
}

impl ZenohConfig {
    /// The defaults, with these listeners.
    pub fn new(listeners: Vec<ZenohListener>) -> Self {
        Self {
            listeners,
            tls: None,
            device_urls: None,
            device_ca_file: None,
            own_router: false,
            plaintext: false,
            router_socket: None,
            trusted_listeners: Vec::new(),
            around: Around::Refuse,
            max_message_bytes: max_message_bytes(),
            max_lease: max_lease(),
            handshake_timeout: handshake_timeout(),
            pending_per_source: pending_per_source(),
            max_sessions: max_sessions(),
            max_declarations_per_session: max_declarations(),
            max_names_per_tenant: max_names(),
            max_declarations_per_second: max_declarations_of_tenant(),
            max_queries_per_session: max_queries(),
            max_queries_per_tenant: max_queries_of_tenant(),
            max_bytes_per_tenant: max_bytes_of_tenant(),
        }
    }

    /// The URLs that go into devices' credentials, as Device Connect writes them: those configured, or
    /// made of the encrypted listeners whose address is one to connect to.
    pub fn device_urls(&self) -> Vec<String> {
        let reachable = |listener: &&ZenohListener| {
            let address = listener.address;
            listener.link.is_encrypted() && address.port() != 0 && !address.ip().is_unspecified()
        };
        let url = |listener: &ZenohListener| match listener.link {
            ZenohLink::Quic => format!("zenoh+quic://{}", listener.address),
            _ => format!("zenoh+tls://{}", listener.address),
        };
        let own = || self.listeners.iter().filter(reachable).map(url).collect();
        self.device_urls.clone().unwrap_or_else(own)
    }

    pub(super) fn check(&self, dev: bool) -> Result<(), Problem> {
        let of = |listener: &ZenohListener| (listener.address, listener.link.is_encrypted());
        let listeners = Listeners {
            all: self.listeners.iter().map(of).collect(),
            section: "zenoh",
            example: "tls/[::]:7447",
            encrypted: "tls/ or quic/",
            has_tls: self.tls.is_some(),
            plaintext: self.plaintext,
        };
        listeners.check(dev)?;
        let second = SignedDuration::from_secs(1);
        let least = [
            (
                "max_message_bytes",
                (65_536..=1 << 30).contains(&self.max_message_bytes),
                "choose 65536 to 1073741824",
            ),
            ("max_lease", self.max_lease >= second * 10, "choose at least \"10s\""),
            ("handshake_timeout", self.handshake_timeout >= second, "choose at least \"1s\""),
            ("pending_per_source", self.pending_per_source > 0, "choose at least 1"),
            ("max_sessions", self.max_sessions > 0, "choose at least 1"),
            (
                "max_declarations_per_session",
                self.max_declarations_per_session > 0,
                "choose at least 1",
            ),
            ("max_names_per_tenant", self.max_names_per_tenant > 0, "choose at least 1"),
            (
                "max_declarations_per_second",
                self.max_declarations_per_second > 0,
                "choose at least 1",
            ),
            ("max_queries_per_session", self.max_queries_per_session > 0, "choose at least 1"),
            ("max_queries_per_tenant", self.max_queries_per_tenant > 0, "choose at least 1"),
            (
                "max_bytes_per_tenant",
                self.max_bytes_per_tenant >= self.max_message_bytes,
                "choose at least zenoh.max_message_bytes",
            ),
        ];
        Problem::of_bounds(&least)
    }

    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let tls = self.tls.iter_mut().flat_map(ListenerTls::paths);
        tls.chain(&mut self.device_ca_file).chain(&mut self.router_socket)
    }
}
