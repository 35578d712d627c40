use super::{EtcdConfig, Problem};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// The registry of devices: who is present, over the backends that are given here.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// Where presence is kept: `{ etcd = { endpoints = […] } }`, which any number of replicas share,
    /// or `{ file = "registry.redb" }`, for one process on one machine.
    pub store: RegistryStore,
    /// NATS; by default the servers of `[nats]`, if that is in operator mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats: Option<RegistryNats>,
    /// MQTT; not served unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<RegistryMqtt>,
    /// Zenoh; not served unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zenoh: Option<RegistryZenoh>,
    /// How long changes of one device's status are gathered before they are written. Default 100 ms.
    #[serde(default = "window")]
    pub window: SignedDuration,
    /// How long after its last sign of life a replica is given up and others take its tenants over.
    /// Default 10 s; at least 2 s. It should be shorter than the devices' time to live.
    #[serde(default = "takeover_after")]
    pub takeover_after: SignedDuration,
    /// Devices of one tenant that are present at a time. Default 100,000.
    #[serde(default = "max_devices")]
    pub max_devices: usize,
    /// Bytes of the documents of one tenant's devices. Default 512 MiB.
    #[serde(default = "max_bytes")]
    pub max_bytes: usize,
    /// Largest document of a device, in bytes. Default 256 KiB.
    #[serde(default = "max_document_bytes")]
    pub max_document_bytes: usize,
    /// Bytes that one tenant's devices may have written per second, on average over a minute or so: what
    /// changes beyond that is gathered for longer. Default 1 MiB.
    #[serde(default = "max_written_bytes_per_second")]
    pub max_written_bytes_per_second: usize,
    /// How long a device that cannot be asked for its document (over MQTT) is remembered after its
    /// last registration or its end. Default 30 days.
    #[serde(default = "remember")]
    pub remember: SignedDuration,
}

/// Where presence is kept.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryStore {
    /// An etcd. This or `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdConfig>,
    /// A file of this process alone. This or `etcd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// The registry's way to NATS.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryNats {
    /// `nats://` or `tls://` URLs. Default `nats.servers`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
    /// The registry's credentials. Default `registry.creds` in the folder `nats.operator.keys`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<PathBuf>,
    /// PEM file of the servers' certificate authority, instead of the system's. Default `nats.ca_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// The registry's way to an MQTT broker.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryMqtt {
    /// `mqtt://host:port` or `mqtts://host:port`.
    pub url: String,
    /// File with the token of a platform service (or another password). It is read at each connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// User name. Default `registry`; Bulkhead's own broker takes any.
    #[serde(default = "registry_user")]
    pub user: String,
    /// PEM file of the broker's certificate authority, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The registry's own certificate, for a broker that asks for one. It is read at each connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// The key of that certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// The registry's way to a Zenoh router.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryZenoh {
    /// Endpoints as Zenoh writes them: `tls/host:7447`. Each is tried until one is reached.
    pub connect: Vec<String>,
    /// File with the token of a platform service. It is read at each connection. Without one the
    /// endpoints have to be of a router that trusts this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// PEM file of the router's certificate authority, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// Largest document that can be configured.
const MAX_DOCUMENT_BYTES: usize = 700 * 1024;

fn window() -> SignedDuration {
    SignedDuration::from_millis(100)
}

fn takeover_after() -> SignedDuration {
    SignedDuration::from_secs(10)
}

fn max_devices() -> usize {
    100_000
}

fn max_bytes() -> usize {
    512 * 1024 * 1024
}

fn max_document_bytes() -> usize {
    256 * 1024
}

fn max_written_bytes_per_second() -> usize {
    1024 * 1024
}

fn remember() -> SignedDuration {
    SignedDuration::from_hours(30 * 24)
}

fn registry_user() -> String {
    "registry".to_owned()
}

impl RegistryConfig {
    /// With a store and everything else as by default.
    pub fn new(store: RegistryStore) -> Self {
        Self {
            store,
            nats: None,
            mqtt: None,
            zenoh: None,
            window: window(),
            takeover_after: takeover_after(),
            max_devices: max_devices(),
            max_bytes: max_bytes(),
            max_document_bytes: max_document_bytes(),
            max_written_bytes_per_second: max_written_bytes_per_second(),
            remember: remember(),
        }
    }

    pub(super) fn check(&self, has_nats: bool) -> Result<(), Problem> {
        if self.store.etcd.is_some() == self.store.file.is_some() {
            return Err(Problem::new(
                "store",
                "needs exactly one place",
                "set either store = { etcd = { endpoints = [\"https://…:2379\"] } } or \
                 store = { file = \"registry.redb\" }",
            ));
        }
        if let Some(etcd) = &self.store.etcd {
            etcd.check().map_err(|p| p.under("store.etcd"))?;
        }
        if !has_nats && self.nats.is_none() && self.mqtt.is_none() && self.zenoh.is_none() {
            return Err(Problem::new(
                "",
                "serves no backend",
                "set [nats] in operator mode, registry.nats, registry.mqtt or registry.zenoh",
            ));
        }
        if let Some(nats) = &self.nats
            && !has_nats
            && (nats.servers.is_empty() || nats.credentials_file.is_none())
        {
            return Err(Problem::new(
                "nats",
                "does not say where, or as whom, to connect, and [nats] is not in operator mode",
                "set servers = [\"nats://…:4222\"] and credentials_file",
            ));
        }
        if let Some(mqtt) = &self.mqtt
            && mqtt.host_and_port().is_none()
        {
            return Err(Problem::new(
                "mqtt.url",
                "is no URL of an MQTT broker",
                "write mqtt://host:1883 or mqtts://host:8883",
            ));
        }
        if let Some(mqtt) = &self.mqtt
            && let Some((host, _, false)) = mqtt.host_and_port()
            && mqtt.token_file.is_some()
            && !is_loopback(host)
        {
            return Err(Problem::new(
                "mqtt.url",
                "would send the token across the network in the clear",
                "use mqtts://, or a broker on loopback",
            ));
        }
        if let Some(mqtt) = &self.mqtt {
            if mqtt.cert_file.is_some() != mqtt.key_file.is_some() {
                let remedy = "set cert_file and key_file both";
                return Err(Problem::new("mqtt.cert_file", "has no key", remedy));
            }
            let encrypted = mqtt.host_and_port().is_some_and(|(_, _, encrypted)| encrypted);
            if mqtt.cert_file.is_some() && !encrypted {
                return Err(Problem::new(
                    "mqtt.url",
                    "does not use the certificate that is given",
                    "write mqtts://, or leave cert_file and key_file out",
                ));
            }
        }
        if let Some(zenoh) = &self.zenoh
            && zenoh.token_file.is_some()
            && let Some(open) = zenoh.connect.iter().find(|endpoint| is_open(endpoint))
        {
            let what = format!("has {open}, where the token would cross the network in the clear");
            return Err(Problem::new("zenoh.connect", &what, "use tls/ or quic/, or loopback"));
        }
        if self.zenoh.as_ref().is_some_and(|zenoh| zenoh.connect.is_empty()) {
            return Err(Problem::new(
                "zenoh.connect",
                "is empty",
                "list at least one endpoint, such as [\"tls/router.example:7447\"]",
            ));
        }
        let bounds = [
            ("window", self.window, SignedDuration::ZERO, SignedDuration::from_secs(10)),
            (
                "takeover_after",
                self.takeover_after,
                SignedDuration::from_secs(2),
                SignedDuration::from_mins(10),
            ),
            (
                "remember",
                self.remember,
                SignedDuration::from_mins(1),
                SignedDuration::from_hours(24 * 3650),
            ),
        ];
        for (name, value, least, most) in bounds {
            if value < least || value > most {
                let remedy = format!("choose between {least:#} and {most:#}");
                return Err(Problem::new(name, "is out of range", &remedy));
            }
        }
        let counts = [
            ("max_devices", self.max_devices, 1),
            ("max_bytes", self.max_bytes, 1024),
            ("max_document_bytes", self.max_document_bytes, 1024),
            ("max_written_bytes_per_second", self.max_written_bytes_per_second, 1024),
        ];
        for (name, value, least) in counts {
            if value < least {
                let remedy = format!("choose at least {least}");
                return Err(Problem::new(name, "is too small", &remedy));
            }
        }
        // Two of one document have to fit into a request, which etcd bounds to 1.5 MiB.
        if self.max_document_bytes > MAX_DOCUMENT_BYTES {
            return Err(Problem::new(
                "max_document_bytes",
                "is more than etcd takes",
                "choose at most 716800",
            ));
        }
        Ok(())
    }

    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let mut paths: Vec<&mut PathBuf> = self.store.file.iter_mut().collect();
        if let Some(etcd) = &mut self.store.etcd {
            paths.extend(etcd.paths());
        }
        if let Some(nats) = &mut self.nats {
            paths.extend(nats.credentials_file.iter_mut().chain(&mut nats.ca_file));
        }
        if let Some(mqtt) = &mut self.mqtt {
            let files =
                [&mut mqtt.token_file, &mut mqtt.ca_file, &mut mqtt.cert_file, &mut mqtt.key_file];
            paths.extend(files.into_iter().flatten());
        }
        if let Some(zenoh) = &mut self.zenoh {
            paths.extend(zenoh.token_file.iter_mut().chain(&mut zenoh.ca_file));
        }
        paths.into_iter()
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Whether a Zenoh endpoint is neither encrypted nor on this machine.
fn is_open(endpoint: &str) -> bool {
    let Some((link, address)) = endpoint.split_once('/') else { return false };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    matches!(link, "tcp" | "ws" | "udp") && !is_loopback(host.trim_matches(['[', ']']))
}

impl RegistryMqtt {
    /// The broker's host and port, and whether the connection is encrypted.
    pub fn host_and_port(&self) -> Option<(&str, u16, bool)> {
        let (rest, encrypted) = match self.url.strip_prefix("mqtts://") {
            Some(rest) => (rest, true),
            None => (self.url.strip_prefix("mqtt://")?, false),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (rest, if encrypted { 8883 } else { 1883 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then_some((host, port, encrypted))
    }
}

#[cfg(test)]
mod tests {
    use super::RegistryConfig;

    fn check(text: &str) -> Result<(), String> {
        let text = format!("store = {{ file = \"r.redb\" }}\n{text}");
        let config: RegistryConfig = toml::from_str(&text).unwrap();
        config.check(true).map_err(|problem| problem.setting)
    }

    #[test]
    fn a_token_does_not_cross_the_network_in_the_clear() {
        let mqtt = |url| check(&format!("mqtt = {{ url = \"{url}\", token_file = \"t\" }}"));
        for url in
            ["mqtt://127.0.0.1:1883", "mqtt://[::1]:1883", "mqtt://localhost", "mqtts://b:8883"]
        {
            assert_eq!(mqtt(url), Ok(()), "{url}");
        }
        for url in ["mqtt://broker:1883", "mqtt://10.0.0.1", "http://b", "mqtt://"] {
            assert_eq!(mqtt(url), Err("mqtt.url".to_owned()), "{url}");
        }
        let zenoh = |at| check(&format!("zenoh = {{ connect = [\"{at}\"], token_file = \"t\" }}"));
        for at in ["tls/router:7447", "quic/router:7447", "tcp/127.0.0.1:7447", "tcp/[::1]:7447"] {
            assert_eq!(zenoh(at), Ok(()), "{at}");
        }
        for at in ["tcp/router:7447", "ws/10.0.0.1:7449"] {
            assert_eq!(zenoh(at), Err("zenoh.connect".to_owned()), "{at}");
        }
        assert_eq!(check("zenoh = { connect = [\"tcp/router:7447\"] }"), Ok(()), "it has no token");
    }

    #[test]
    fn a_certificate_has_a_key_and_is_shown() {
        let mqtt = |rest: &str| check(&format!("mqtt = {{ url = {rest} }}"));
        let both = "cert_file = \"c\", key_file = \"k\"";
        assert_eq!(mqtt(&format!("\"mqtts://b:8883\", {both}")), Ok(()));
        assert_eq!(mqtt(&format!("\"mqtt://[::1]\", {both}")), Err("mqtt.url".to_owned()));
        for half in ["cert_file = \"c\"", "key_file = \"k\""] {
            let found = mqtt(&format!("\"mqtts://b:8883\", {half}"));
            assert_eq!(found, Err("mqtt.cert_file".to_owned()), "{half}");
        }
    }

    #[test]
    fn what_etcd_would_refuse_is_refused() {
        assert_eq!(check("max_document_bytes = 1000000"), Err("max_document_bytes".to_owned()));
        assert_eq!(check("takeover_after = \"1s\""), Err("takeover_after".to_owned()));
        let none = check("max_written_bytes_per_second = 0");
        assert_eq!(none, Err("max_written_bytes_per_second".to_owned()));
    }
}
