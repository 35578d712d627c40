use super::listeners::Listeners;
use super::{ListenerTls, Problem, UpstreamConfig};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The MQTT backend.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// Where to listen: `tcp://`, `tls://`, `ws://` and `wss://`, each with an address and a port.
    pub listeners: Vec<Listener>,
    /// The certificate of `tls://` and `wss://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Public keys of the exchange, as a JWKS, whose credentials are accepted. Default that of
    /// `exchange.keys`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange_jwks_file: Option<PathBuf>,
    /// The URLs that go into devices' credentials. Default the listeners whose addresses devices could
    /// reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_urls: Option<Vec<String>>,
    /// Whether `tcp://` and `ws://` may listen off loopback, where tokens cross the network in the
    /// clear. Default no.
    #[serde(default)]
    pub plaintext: bool,
    /// What stands before every name that a client says, such as `device-connect/{tenant}`, so that
    /// its clients need not know their tenant. Default nothing: names carry the tenant themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    /// Another broker, such as `mqtt://127.0.0.1:1884`, that keeps sessions and messages. Default
    /// none: this one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamConfig>,
    /// What happens to a publish that is denied, for clients of MQTT 3.1.1, which have no way to be
    /// told. Default `close`.
    #[serde(default)]
    pub denied_publish: DeniedPublish,
    /// Folder of sessions and retained messages that survive a restart. Nothing does unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Largest packet, in bytes. Default 262,144.
    #[serde(default = "max_packet_bytes")]
    pub max_packet_bytes: usize,
    /// Messages of QoS 1 and 2 under way to one client, and from one client, at a time. Default 256.
    #[serde(default = "max_in_flight")]
    pub max_in_flight: u16,
    /// Bytes that wait for one client before further messages to it are dropped. Default 4 MiB.
    #[serde(default = "session_queue_bytes")]
    pub session_queue_bytes: usize,
    /// Longest session expiry that a client gets. Default 7 days.
    #[serde(default = "max_session_expiry")]
    pub max_session_expiry: SignedDuration,
    /// Longest keep alive that a client gets, for those of MQTT 5; 3.1.1 has no way to shorten what
    /// the client chose. Default 20 minutes.
    #[serde(default = "max_keep_alive")]
    pub max_keep_alive: SignedDuration,
    /// How long a connection may take to get to its CONNECT, the TLS and WebSocket handshakes
    /// included. Default 10 s.
    #[serde(default = "handshake_timeout")]
    pub handshake_timeout: SignedDuration,
    /// Connections of one address (an IPv6 /64 counts as one) that have not come to their CONNECT.
    /// Default 256.
    #[serde(default = "pending_per_source")]
    pub pending_per_source: usize,
    /// Connections of all tenants. Default 100,000.
    #[serde(default = "max_connections")]
    pub max_connections: usize,
    /// Sessions of one tenant, connected or not. Default 50,000.
    #[serde(default = "max_sessions")]
    pub max_sessions_per_tenant: usize,
    /// Subscriptions of one session. Default 1,000.
    #[serde(default = "max_subscriptions")]
    pub max_subscriptions_per_session: usize,
    /// Routers that move the messages; each serves some of the tenants. Default 2.
    #[serde(default = "routers")]
    pub routers: usize,
}

/// Where connections are accepted, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Listener {
    /// What is spoken below MQTT.
    pub transport: Transport,
    /// The address.
    pub address: SocketAddr,
}

/// What is spoken below MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// TLS.
    Tls,
    /// WebSocket (MQTT 5 §6).
    Ws,
    /// WebSocket over TLS.
    Wss,
}

/// What happens to a publish of an MQTT 3.1.1 client that is denied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeniedPublish {
    /// The connection ends.
    #[default]
    Close,
    /// The message is dropped and counted, and at QoS 1 and 2 never acknowledged.
    Drop,
}

const TRANSPORTS: [(Transport, &str); 4] = [
    (Transport::Tcp, "tcp"),
    (Transport::Tls, "tls"),
    (Transport::Ws, "ws"),
    (Transport::Wss, "wss"),
];

impl Transport {
    /// Whether it is encrypted.
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// Whether it is a WebSocket.
    pub fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = TRANSPORTS.iter().find(|(transport, _)| transport == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl Listener {
    /// As a client is told where to connect.
    fn url(&self) -> String {
        let scheme = match self.transport {
            Transport::Tcp => "mqtt",
            Transport::Tls => "mqtts",
            Transport::Ws => "ws",
            Transport::Wss => "wss",
        };
        format!("{scheme}://{}", self.address)
    }
}

/// `tcp://127.0.0.1:1883`.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport, self.address)
    }
}

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "'{text}' is no listener; write tcp, tls, ws or wss, :// and an address with a \
                 port, such as tls://[::]:8883"
            )
        };
        let (transport, address) = text.split_once("://").ok_or_else(wrong)?;
        let transport = TRANSPORTS.iter().find(|(_, name)| *name == transport);
        let (transport, _) = transport.ok_or_else(wrong)?;
        Ok(Self { transport: *transport, address: address.parse().map_err(|_| wrong())? })
    }
}

impl<'de> Deserialize<'de> for Listener {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Listener {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn max_packet_bytes() -> usize {
    256 * 1024
}

fn max_in_flight() -> u16 {
    256
}

fn session_queue_bytes() -> usize {
    4 * 1024 * 1024
}

fn max_session_expiry() -> SignedDuration {
    SignedDuration::from_hours(7 * 24)
}

fn max_keep_alive() -> SignedDuration {
    SignedDuration::from_mins(20)
}

fn handshake_timeout() -> SignedDuration {
    SignedDuration::from_secs(10)
}

fn pending_per_source() -> usize {
    256
}

fn max_connections() -> usize {
    100_000
}

fn max_sessions() -> usize {
    50_000
}

fn max_subscriptions() -> usize {
    1_000
}

fn routers() -> usize {
    2
}

impl MqttConfig {
    /// These listeners, with everything else as by default.
    pub fn new(listeners: Vec<Listener>) -> Self {
        Self {
            listeners,
            tls: None,
            exchange_jwks_file: None,
            device_urls: None,
            plaintext: false,
            mount: None,
            upstream: None,
            denied_publish: DeniedPublish::default(),
            data: None,
            max_packet_bytes: max_packet_bytes(),
            max_in_flight: max_in_flight(),
            session_queue_bytes: session_queue_bytes(),
            max_session_expiry: max_session_expiry(),
            max_keep_alive: max_keep_alive(),
            handshake_timeout: handshake_timeout(),
            pending_per_source: pending_per_source(),
            max_connections: max_connections(),
            max_sessions_per_tenant: max_sessions(),
            max_subscriptions_per_session: max_subscriptions(),
            routers: routers(),
        }
    }

    /// The URLs that go into devices' credentials: those configured, or made of the listeners whose
    /// address is one to connect to.
    pub fn device_urls(&self) -> Vec<String> {
        let reachable = |listener: &&Listener| {
            listener.address.port() != 0 && !listener.address.ip().is_unspecified()
        };
        let own = || self.listeners.iter().filter(reachable).map(Listener::url).collect();
        self.device_urls.clone().unwrap_or_else(own)
    }

    pub(super) fn check(&self, dev: bool) -> Result<(), Problem> {
        let of = |listener: &Listener| (listener.address, listener.transport.is_encrypted());
        let listeners = Listeners {
            all: self.listeners.iter().map(of).collect(),
            section: "mqtt",
            example: "tls://[::]:8883",
            encrypted: "tls:// or wss://",
            has_tls: self.tls.is_some(),
            plaintext: self.plaintext,
        };
        listeners.check(dev)?;
        if self.device_urls.as_ref().is_some_and(Vec::is_empty) {
            return Err(Problem::new(
                "device_urls",
                "is empty",
                "leave it out, or list the listeners as devices reach them",
            ));
        }
        if let Some(mount) = &self.mount {
            let segments: Vec<_> = mount.split('/').collect();
            let plain = |segment: &&str| !segment.is_empty() && !segment.contains(['+', '#', '$']);
            if !segments.contains(&"{tenant}") || !segments.iter().all(plain) {
                return Err(Problem::new(
                    "mount",
                    "does not keep tenants apart",
                    "write plain segments with {tenant} as one of them, such as \
                     \"device-connect/{tenant}\"",
                ));
            }
        }
        if let Some(upstream) = &self.upstream {
            upstream.check(&self.listeners).map_err(|p| p.under("upstream"))?;
            if self.data.is_some() {
                return Err(Problem::new(
                    "data",
                    "would stay empty, since the upstream broker keeps sessions and messages",
                    "leave out data or upstream",
                ));
            }
        }
        let second = SignedDuration::from_secs(1);
        let least = [
            ("max_packet_bytes", self.max_packet_bytes >= 1024, "choose at least 1024"),
            (
                "max_packet_bytes",
                self.max_packet_bytes <= 256 * 1024 * 1024,
                "choose at most 268435456, the largest that MQTT has",
            ),
            ("max_in_flight", self.max_in_flight > 0, "choose at least 1"),
            (
                "session_queue_bytes",
                self.session_queue_bytes >= self.max_packet_bytes,
                "choose at least max_packet_bytes, so that one message fits",
            ),
            (
                "max_session_expiry",
                !self.max_session_expiry.is_negative(),
                "choose at least \"0s\"",
            ),
            (
                "max_keep_alive",
                (second..=SignedDuration::from_secs(65_535)).contains(&self.max_keep_alive),
                "choose 1 to 65535 seconds",
            ),
            ("handshake_timeout", self.handshake_timeout >= second, "choose at least \"1s\""),
            ("pending_per_source", self.pending_per_source > 0, "choose at least 1"),
            ("max_connections", self.max_connections > 0, "choose at least 1"),
            ("max_sessions_per_tenant", self.max_sessions_per_tenant > 0, "choose at least 1"),
            (
                "max_subscriptions_per_session",
                self.max_subscriptions_per_session > 0,
                "choose at least 1",
            ),
            ("routers", (1..=64).contains(&self.routers), "choose 1 to 64"),
        ];
        Problem::of_bounds(&least)
    }

    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let upstream = self.upstream.iter_mut().flat_map(UpstreamConfig::paths);
        let tls = self.tls.iter_mut().flat_map(ListenerTls::paths);
        tls.chain(&mut self.exchange_jwks_file).chain(&mut self.data).chain(upstream)
    }
}
