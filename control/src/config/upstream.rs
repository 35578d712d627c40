use super::{Listener, Problem};
use secrecy::SecretString;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The broker behind the front, which then has no sessions and messages of its own. Written as a
/// table, or as nothing but its URL.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamConfig {
    /// Where it is.
    pub url: UpstreamUrl,
    /// Whom the front connects as. Clients' own names and tokens never go there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// File with that user's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// PEM file of the authority of the broker's certificate, instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The front's own certificate, for a broker that asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// The key of that certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Whether `mqtt://` may leave this machine, where messages and the password cross the network
    /// in the clear. Default no.
    pub plaintext: bool,
    /// What stands before every name of a tenant on the broker, such as `{tenant}/`. Default nothing.
    /// Nobody who connects to the front sees it.
    pub prefix: String,
    /// First levels of names that are a tenant's own although they do not hold it, such as replies. On the
    /// broker they stand under `_tenant/` and the tenant, after the prefix; whoever is connected to the
    /// broker itself has to say them so. Default `_reply`. None where the prefix or the mount holds the
    /// tenant.
    pub private: Vec<String>,
}

/// First levels of names that no tenant shares, unless it is said otherwise.
fn private() -> Vec<String> {
    vec!["_reply".to_owned()]
}

/// Where a broker is: `mqtt://` or `mqtts://`, a name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamUrl {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// A DNS name or an address; one of IPv6 without brackets.
    pub host: String,
    /// The port; by default 1883, with TLS 8883.
    pub port: u16,
}

/// The table form. A type of its own, so that its errors are those of a table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    url: UpstreamUrl,
    user: Option<String>,
    password_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    #[serde(default)]
    plaintext: bool,
    #[serde(default)]
    prefix: String,
    #[serde(default = "private")]
    private: Vec<String>,
}

impl UpstreamConfig {
    /// A broker that asks for nothing.
    pub fn new(url: UpstreamUrl) -> Self {
        Self {
            url,
            user: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            plaintext: false,
            prefix: String::new(),
            private: private(),
        }
    }

    /// The password, read from its file.
    ///
    /// # Errors
    /// What the system says when the file cannot be read.
    pub fn password(&self) -> std::io::Result<Option<SecretString>> {
        let Some(path) = &self.password_file else { return Ok(None) };
        Ok(Some(crate::files::read_text(path)?.trim_end().to_owned().into()))
    }

    pub(super) fn check(&self, listeners: &[Listener]) -> Result<(), Problem> {
        let has_tls_file =
            self.ca_file.is_some() || self.cert_file.is_some() || self.key_file.is_some();
        if has_tls_file && !self.url.tls {
            return Err(Problem::new(
                "url",
                "does not use the certificates that are given",
                "write mqtts://, or leave ca_file, cert_file and key_file out",
            ));
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(Problem::new("cert_file", "has no key", "set cert_file and key_file both"));
        }
        if self.password_file.is_some() && self.user.is_none() {
            return Err(Problem::new(
                "password_file",
                "belongs to nobody",
                "set user and password_file both",
            ));
        }
        if !self.url.tls && !self.plaintext && !self.url.is_loopback() {
            return Err(Problem::new(
                "url",
                "would let messages and the password cross the network in the clear",
                "write mqtts://, or say plaintext = true where the network is trusted",
            ));
        }
        let own = listeners.iter().find(|listener| {
            let ip = listener.address.ip();
            let here = ip.is_loopback() || ip.is_unspecified();
            listener.address.port() == self.url.port
                && ((self.url.is_loopback() && here) || self.url.address() == Some(ip))
        });
        if let Some(own) = own {
            return Err(Problem::new(
                "url",
                &format!("is this front's own listener {own}"),
                "let the broker and the front listen on different ports",
            ));
        }
        let is_plain = |level: &str| {
            !level.is_empty()
                && !level.contains(['+', '#', '$', '*', '>', '{', '}', '/'])
                && !level.contains(char::is_control)
        };
        if !self.private.iter().all(|level| is_plain(level)) {
            return Err(Problem::new(
                "private",
                "holds something that is no first level of a topic",
                "write each without / and wildcards, such as [\"_reply\"]",
            ));
        }
        if !self.prefix.is_empty() {
            let levels = self.prefix.strip_suffix('/').unwrap_or_default();
            if !levels.split('/').all(|level| level == "{tenant}" || is_plain(level)) {
                return Err(Problem::new(
                    "prefix",
                    "is no beginning of a topic",
                    "write plain levels or {tenant}, each with a / behind it, such as \"{tenant}/\"",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.password_file, &mut self.ca_file, &mut self.cert_file, &mut self.key_file]
            .into_iter()
            .filter_map(Option::as_mut)
    }
}

impl UpstreamUrl {
    fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether another setting that names this host and port means the same broker.
    pub(super) fn is_at(&self, host: &str, port: u16) -> bool {
        let other = Self { tls: self.tls, host: host.to_owned(), port };
        let same = self.host.eq_ignore_ascii_case(host)
            || self.address().is_some_and(|a| other.address() == Some(a));
        self.port == port && (same || (self.is_loopback() && other.is_loopback()))
    }

    fn is_loopback(&self) -> bool {
        self.address().map_or(self.host == "localhost", |address| address.is_loopback())
    }
}

/// `mqtts://broker.example.com:8883`.
impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{}{close}:{}", self.host, self.port)
    }
}

impl FromStr for UpstreamUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The text itself stays out of the error: somebody may have put a password into it.
        let wrong = || {
            "this is no broker's URL; write mqtt:// or mqtts:// with a host and a port, such as \
             mqtts://broker.example.com:8883, and the user apart, as user and password_file"
                .to_owned()
        };
        let (scheme, authority) = text.split_once("://").ok_or_else(wrong)?;
        let tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            _ => return Err(wrong()),
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
                (host, if port.is_empty() { None } else { port.strip_prefix(':') })
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let is_name = !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if !is_name && !host.contains(':') {
            return Err(wrong());
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?,
            None if authority.ends_with(host) || authority.ends_with(']') => {
                if tls {
                    8883
                } else {
                    1883
                }
            }
            None => return Err(wrong()),
        };
        Ok(Self { tls, host: host.to_owned(), port })
    }
}

impl<'de> Deserialize<'de> for UpstreamUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(Error::custom)
    }
}

impl Serialize for UpstreamUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UpstreamConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UrlOrTable)
    }
}

struct UrlOrTable;

impl<'de> Visitor<'de> for UrlOrTable {
    type Value = UpstreamConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a broker's URL, or a table with url, user, password_file, ca_file and others")
    }

    fn visit_str<E: Error>(self, url: &str) -> Result<UpstreamConfig, E> {
        Ok(UpstreamConfig::new(url.parse().map_err(E::custom)?))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<UpstreamConfig, A::Error> {
        let table = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(UpstreamConfig {
            url: table.url,
            user: table.user,
            password_file: table.password_file,
            ca_file: table.ca_file,
            cert_file: table.cert_file,
            key_file: table.key_file,
            plaintext: table.plaintext,
            prefix: table.prefix,
            private: table.private,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{UpstreamConfig, UpstreamUrl};
    use crate::config::MqttConfig;

    fn section(upstream: &str) -> Result<MqttConfig, toml::de::Error> {
        toml::from_str(&format!("listeners = [\"tcp://127.0.0.1:1883\"]\nupstream = {upstream}"))
    }

    #[test]
    fn one_line_is_enough() {
        let config = section("\"mqtt://127.0.0.1:1884\"").unwrap();
        assert_eq!(config.upstream.as_ref().unwrap().url.to_string(), "mqtt://127.0.0.1:1884");
        config.check(false).unwrap();
        let table = "{ url = \"mqtts://b.example.com\", user = \"front\", prefix = \"{tenant}/\" }";
        let config = section(table).unwrap();
        assert_eq!(config.upstream.as_ref().unwrap().url.port, 8883);
        assert_eq!(config.upstream.as_ref().unwrap().private, ["_reply"]);
        config.check(false).unwrap();
        let unknown = section("{ url = \"mqtt://[::1]\", pasword_file = \"x\" }").unwrap_err();
        assert!(unknown.to_string().contains("pasword_file"), "{unknown}");
    }

    #[test]
    fn urls_are_read_and_written() {
        for (text, whole) in [
            ("mqtt://localhost", "mqtt://localhost:1883"),
            ("mqtts://10.0.0.1/", "mqtts://10.0.0.1:8883"),
            ("mqtt://[::1]:1884", "mqtt://[::1]:1884"),
            ("mqtt://[::1]", "mqtt://[::1]:1883"),
        ] {
            assert_eq!(text.parse::<UpstreamUrl>().unwrap().to_string(), whole);
        }
        for text in [
            "127.0.0.1:1883",
            "tcp://a:1",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://a:0",
            "mqtt://a:b",
            "mqtt://a:",
            "mqtt://[::1",
            "mqtt://[::1]1883",
            "mqtt://[a]:1",
            "mqtt://a/b",
            "mqtt://u:secret@a:1883",
        ] {
            let error = text.parse::<UpstreamUrl>().unwrap_err();
            assert!(!error.contains("secret") && error.contains("mqtts://"), "{text}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        let with = |url: &str, change: &dyn Fn(&mut UpstreamConfig)| {
            let mut config = section(&format!("\"{url}\"")).unwrap();
            change(config.upstream.as_mut().unwrap());
            config.check(false).map_err(|problem| problem.setting)
        };
        let setting = |name: &str| Err(format!("upstream.{name}"));
        assert_eq!(with("mqtt://broker:1883", &|_| ()), setting("url"));
        assert_eq!(with("mqtt://broker:1883", &|u| u.plaintext = true), Ok(()));
        assert_eq!(with("mqtt://localhost:1883", &|_| ()), setting("url"), "itself");
        let ca = |u: &mut UpstreamConfig| u.ca_file = Some("ca.pem".into());
        assert_eq!(with("mqtt://[::1]:1884", &ca), setting("url"));
        assert_eq!(with("mqtts://broker", &ca), Ok(()));
        let half = |u: &mut UpstreamConfig| u.key_file = Some("key.pem".into());
        assert_eq!(with("mqtts://broker", &half), setting("cert_file"));
        let nobody = |u: &mut UpstreamConfig| u.password_file = Some("password".into());
        assert_eq!(with("mqtts://broker", &nobody), setting("password_file"));
        for (prefix, good) in [
            ("{tenant}/", true),
            ("bulkhead/{tenant}/", true),
            ("bulkhead", false),
            ("/", false),
            ("a//", false),
            ("+/", false),
            ("$SYS/", false),
            ("x{tenant}/", false),
        ] {
            let outcome = with("mqtts://broker", &|u| u.prefix = prefix.to_owned());
            assert_eq!(outcome.is_ok(), good, "{prefix}");
        }
    }
}
