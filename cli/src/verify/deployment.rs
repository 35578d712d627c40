//! What is to be verified: a TOML file with the brokers, and what two tenants show them.

use super::ear::{DEVICE_CONNECT, separator};
use super::identity::{Identity, Pem, Shown};
use bulkhead_control::files::read_text;
use bulkhead_policy::Broker;
use jiff::SignedDuration;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long is waited for what must not arrive, after everything has arrived that had to.
const WAIT: Duration = Duration::from_millis(500);

/// Segments of a prefix.
const MAX_SEGMENTS: usize = 16;

/// An example, with every setting.
pub const EXAMPLE: &str = include_str!("example.toml");

/// A deployment, and two tenants' credentials.
#[derive(Debug)]
pub struct Deployment {
    pub(crate) pace: Pace,
    pub(crate) nats: Option<Target>,
    pub(crate) mqtt: Option<Target>,
    pub(crate) zenoh: Option<Target>,
}

/// How long it may take.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// How long is waited at least for what must not arrive.
    pub(crate) wait: Duration,
    pub(crate) stop: Stop,
}

/// Ends a run early.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on nothing new is begun.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// One broker, as its tenants reach it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) a: Party,
    pub(crate) b: Party,
    /// Whether a stream may be made, and removed, on NATS.
    pub(crate) jetstream: bool,
}

/// A tenant.
#[derive(Clone, Debug)]
pub(crate) struct Party {
    /// What the report calls it.
    pub(crate) name: String,
    /// The setting that its settings are below.
    pub(crate) setting: String,
    pub(crate) urls: Vec<String>,
    /// Authorities of the broker's certificate, in PEM; without them the system's.
    pub(crate) authorities: Option<Pem>,
    pub(crate) identity: Identity,
    /// Below this it may publish and subscribe.
    pub(crate) prefix: String,
    pub(crate) inbox_prefix: Option<String>,
    pub(crate) client_id_prefix: String,
    /// Whether MQTT 3.1.1 is spoken, instead of 5.
    pub(crate) is_mqtt_311: bool,
}

/// Why a deployment cannot be verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeploymentError {
    /// The file cannot be read.
    #[error("{0}; name the file that says what to verify: see `bulkhead verify --example`")]
    Read(std::io::Error),
    /// The text is no TOML, or a key is unknown, missing or of the wrong type.
    #[error("{place}: {message}; see `bulkhead verify --example`")]
    Syntax {
        /// `file:line:column`.
        place: String,
        /// What is wrong, in TOML's own words.
        message: String,
    },
    /// A setting is well formed and cannot be right.
    #[error("{}: {setting}: {what}; {remedy}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// The setting's path.
        setting: String,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
}

/// What is wrong with one setting.
struct Problem {
    setting: String,
    what: String,
    remedy: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    wait: Option<SignedDuration>,
    nats: Option<Section>,
    mqtt: Option<Section>,
    zenoh: Option<Section>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    urls: Option<Vec<String>>,
    ca_file: Option<PathBuf>,
    jetstream: Option<bool>,
    version: Option<String>,
    a: Tenant,
    b: Tenant,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tenant {
    name: Option<String>,
    urls: Option<Vec<String>>,
    prefix: Option<String>,
    credentials_file: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    #[serde(default)]
    anonymous: bool,
    inbox_prefix: Option<String>,
    client_id_prefix: Option<String>,
}

impl Deployment {
    /// Reads the file and everything that it refers to; relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`DeploymentError`], which names file, setting and remedy.
    pub fn read(path: &Path) -> Result<Self, DeploymentError> {
        let text = read_text(path).map_err(DeploymentError::Read)?;
        let file: File = toml::from_str(&text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let before = text.get(..start).unwrap_or(&text);
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
            DeploymentError::Syntax {
                place: format!("{}:{line}:{column}", path.display()),
                message: error.message().to_owned(),
            }
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        file.resolve(folder).map_err(|Problem { setting, what, remedy }| DeploymentError::Setting {
            path: path.to_owned(),
            setting,
            what,
            remedy,
        })
    }

    /// What ends its verification early.
    pub fn stop(&self) -> &Stop {
        &self.pace.stop
    }

    /// A deployment that is known already.
    pub(crate) fn of(nats: Target, mqtt: Target, zenoh: Target) -> Self {
        let pace = Pace { wait: WAIT, ..Pace::default() };
        Self { pace, nats: Some(nats), mqtt: Some(mqtt), zenoh: Some(zenoh) }
    }
}

impl Party {
    /// A tenant that shows a token, and has the names below this.
    pub(crate) fn with_token(name: &str, url: String, token: String, prefix: String) -> Self {
        Self {
            name: name.to_owned(),
            setting: name.to_owned(),
            urls: vec![url],
            authorities: None,
            identity: Identity { shown: Shown::Token(token.into()), certificate: None },
            prefix,
            inbox_prefix: None,
            client_id_prefix: String::new(),
            is_mqtt_311: false,
        }
    }
}

impl File {
    fn resolve(self, folder: &Path) -> Result<Deployment, Problem> {
        let wait = match self.wait {
            None => WAIT,
            Some(wait) => Duration::try_from(wait)
                .ok()
                .filter(|wait| (Duration::from_millis(50)..=Duration::from_secs(30)).contains(wait))
                .ok_or_else(|| {
                    Problem::new("wait", "is out of its bounds", "choose 50ms to 30s")
                })?,
        };
        if self.nats.is_none() && self.mqtt.is_none() && self.zenoh.is_none() {
            return Err(Problem::new(
                "nats, mqtt, zenoh",
                "there is no broker to verify",
                "add a section for one: see `bulkhead verify --example`",
            ));
        }
        let resolve = |broker, section: Option<Section>| {
            section.map(|section| section.resolve(broker, folder)).transpose()
        };
        Ok(Deployment {
            pace: Pace { wait, ..Pace::default() },
            nats: resolve(Broker::Nats, self.nats)?,
            mqtt: resolve(Broker::Mqtt, self.mqtt)?,
            zenoh: resolve(Broker::Zenoh, self.zenoh)?,
        })
    }
}

impl Section {
    fn resolve(self, broker: Broker, folder: &Path) -> Result<Target, Problem> {
        let section = section_name(broker);
        if self.jetstream.is_some() && broker != Broker::Nats {
            return Err(misplaced(&format!("{section}.jetstream"), "nats"));
        }
        let version = format!("{section}.version");
        let is_mqtt_311 = match self.version.as_deref() {
            Some(_) if broker != Broker::Mqtt => return Err(misplaced(&version, "mqtt")),
            None | Some("5") => false,
            Some("3.1.1") => true,
            Some(other) => {
                let what = format!("'{other}' is no version of MQTT that can be spoken");
                return Err(Problem::new(&version, &what, "write \"5\" or \"3.1.1\""));
            }
        };
        let authorities = self
            .ca_file
            .map(|path| pem(&format!("{section}.ca_file"), &folder.join(path)))
            .transpose()?;
        let common = Common { broker, folder, urls: self.urls, authorities, is_mqtt_311 };
        let a = self.a.resolve(&common, "a")?;
        let b = self.b.resolve(&common, "b")?;
        if a.name == b.name {
            return Err(Problem::new(
                &format!("{section}.b.name"),
                &format!("both tenants are called '{}'", b.name),
                "show credentials of two tenants, or give each a name of its own",
            ));
        }
        Ok(Target { a, b, jetstream: self.jetstream.unwrap_or(true) })
    }
}

/// What the tenants of a broker have in common.
struct Common<'a> {
    broker: Broker,
    folder: &'a Path,
    urls: Option<Vec<String>>,
    authorities: Option<Pem>,
    is_mqtt_311: bool,
}

impl Tenant {
    fn resolve(self, common: &Common<'_>, which: &str) -> Result<Party, Problem> {
        let broker = common.broker;
        let setting = format!("{}.{which}", section_name(broker));
        let at = |key: &str| format!("{setting}.{key}");
        for (key, is_set, own) in [
            ("inbox_prefix", self.inbox_prefix.is_some(), Broker::Nats),
            ("client_id_prefix", self.client_id_prefix.is_some(), Broker::Mqtt),
        ] {
            if is_set && own != broker {
                return Err(misplaced(&at(key), section_name(own)));
            }
        }
        let read = |key: &str, path: &Path| secret(&at(key), &common.folder.join(path));
        let ways = [
            self.credentials_file.is_some(),
            self.password_file.is_some(),
            self.token_file.is_some(),
            self.anonymous,
        ];
        let has_certificate = self.cert_file.is_some() || self.key_file.is_some();
        match ways.iter().filter(|is| **is).count() {
            0 if !has_certificate => {
                return Err(Problem::new(
                    &setting,
                    "says nothing of what the tenant shows",
                    "set credentials_file, user and password_file, token_file, cert_file and key_file, or \
                     anonymous = true for a broker that asks for nothing",
                ));
            }
            0 | 1 => {}
            _ => {
                return Err(Problem::new(
                    &setting,
                    "shows several credentials",
                    "leave one of credentials_file, password_file, token_file and anonymous",
                ));
            }
        }
        if self.user.is_some() && self.password_file.is_none() && self.token_file.is_none() {
            return Err(Problem::new(
                &at("user"),
                "comes without a password",
                "add password_file, the file that holds it",
            ));
        }
        let mut found = Found::default();
        let shown = if let Some(path) = &self.credentials_file {
            let text = read("credentials_file", path)?;
            found = Found::read(broker, &at("credentials_file"), &text)?;
            found.shown.take().unwrap_or(Shown::Nothing)
        } else if let Some(path) = &self.password_file {
            let user = self.user.clone().ok_or_else(|| {
                Problem::new(&at("user"), "is missing", "name whose password it is")
            })?;
            Shown::Password { user, password: read("password_file", path)?.into() }
        } else if let Some(path) = &self.token_file {
            let token = SecretString::from(read("token_file", path)?);
            match self.user {
                Some(user) => Shown::Password { user, password: token },
                None => Shown::Token(token),
            }
        } else {
            Shown::Nothing
        };
        let certificate = match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => Some((
                pem(&at("cert_file"), &common.folder.join(cert))?,
                pem(&at("key_file"), &common.folder.join(key))?,
            )),
            (None, None) => found.certificate,
            (Some(_), None) => {
                return Err(Problem::new(
                    &at("key_file"),
                    "is missing",
                    "name the certificate's key",
                ));
            }
            (None, Some(_)) => {
                return Err(Problem::new(
                    &at("cert_file"),
                    "is missing",
                    "name the key's certificate",
                ));
            }
        };
        let urls = self.urls.or_else(|| common.urls.clone()).or(found.urls).unwrap_or_default();
        let urls: Vec<String> = urls.iter().map(|url| plain_url(broker, url)).collect();
        check_urls(broker, &urls).map_err(|(what, remedy)| {
            Problem::new(&format!("{}.urls", section_name(broker)), &what, remedy)
        })?;
        let prefix = self.prefix.or(found.prefix).unwrap_or_default();
        check_prefix(broker, &prefix).map_err(|what| {
            Problem::new(
                &at("prefix"),
                &what,
                "write a name that the tenant may publish and \
                                                subscribe below, without wildcards",
            )
        })?;
        Ok(Party {
            name: self.name.or(found.tenant).unwrap_or_else(|| which.to_owned()),
            setting,
            urls,
            authorities: common.authorities.clone().or(found.authorities),
            identity: Identity { shown, certificate },
            prefix,
            inbox_prefix: self.inbox_prefix,
            client_id_prefix: self.client_id_prefix.unwrap_or_default(),
            is_mqtt_311: common.is_mqtt_311,
        })
    }
}

/// What a credentials file says.
#[derive(Default)]
struct Found {
    tenant: Option<String>,
    urls: Option<Vec<String>>,
    prefix: Option<String>,
    shown: Option<Shown>,
    certificate: Option<(Pem, Pem)>,
    authorities: Option<Pem>,
}

impl Found {
    /// Reads credentials of NATS (`.creds`), or of Device Connect, in JSON.
    fn read(broker: Broker, setting: &str, text: &str) -> Result<Self, Problem> {
        if broker == Broker::Nats && text.contains("BEGIN NATS USER JWT") {
            let shown = Some(Shown::Creds(text.to_owned().into()));
            return Ok(Self { shown, ..Self::default() });
        }
        let section_name = section_name(broker);
        let problem = |what: &str| {
            Problem::new(
                setting,
                what,
                "write there what `bulkhead creds issue` or the exchange gives, or for NATS a .creds \
                 file",
            )
        };
        let file: Value = serde_json::from_str(text)
            // What it says might quote a secret.
            .map_err(|_| problem("is no credentials file"))?;
        let section = file
            .get(section_name)
            .ok_or_else(|| problem(&format!("has no section '{section_name}'")))?;
        let text_at =
            |pointer: &str| section.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let pem_at = |name: &str| -> Result<Option<Pem>, Problem> {
            let inline = text_at(&format!("/tls/{name}_pem")).map(|text| Pem(text.into()));
            let path = text_at(&format!("/tls/{name}_file"));
            inline.map_or_else(
                || path.map(|path| pem(setting, Path::new(&path))).transpose(),
                |inline| Ok(Some(inline)),
            )
        };
        let shown = match broker {
            Broker::Nats => match (text_at("/jwt"), text_at("/nkey_seed")) {
                (Some(jwt), Some(seed)) => Some(Shown::creds(&jwt, &seed)),
                _ => return Err(problem("has no jwt and nkey_seed")),
            },
            Broker::Mqtt | Broker::Zenoh => {
                let user = text_at("/credentials/username");
                user.zip(text_at("/credentials/password"))
                    .map(|(user, password)| Shown::Password { user, password: password.into() })
            }
        };
        let certificate = pem_at("cert")?.zip(pem_at("key")?);
        if shown.is_none() && certificate.is_none() {
            return Err(problem("has neither a password nor a certificate"));
        }
        let name_of = |key: &str| file.get(key).and_then(Value::as_str).map(str::to_owned);
        let tenant = name_of("tenant");
        // Whichever role it has, a device publishes its events, and hears those of its tenant.
        let prefix = tenant.clone().zip(name_of("device_id")).map(|(tenant, device)| {
            [DEVICE_CONNECT, &tenant, &device, "event"].join(separator(broker))
        });
        let urls = section.get("urls").and_then(Value::as_array);
        let urls =
            urls.map(|urls| urls.iter().filter_map(Value::as_str).map(str::to_owned).collect());
        Ok(Self { tenant, urls, prefix, shown, certificate, authorities: pem_at("ca")? })
    }
}

impl Problem {
    fn new(setting: &str, what: &str, remedy: &str) -> Self {
        Self { setting: setting.to_owned(), what: what.to_owned(), remedy: remedy.to_owned() }
    }
}

fn section_name(broker: Broker) -> &'static str {
    match broker {
        Broker::Nats => "nats",
        Broker::Mqtt => "mqtt",
        Broker::Zenoh => "zenoh",
    }
}

fn misplaced(setting: &str, section: &str) -> Problem {
    Problem::new(setting, &format!("belongs to [{section}]"), "take it out here")
}

fn secret(setting: &str, path: &Path) -> Result<String, Problem> {
    let text = read_text(path).map_err(|error| {
        Problem::new(setting, &error.to_string(), "check the path and its permissions")
    })?;
    match text.trim() {
        "" => Err(Problem::new(
            setting,
            &format!("{} is empty", path.display()),
            "write there what the tenant shows, and nothing else",
        )),
        text => Ok(text.to_owned()),
    }
}

fn pem(setting: &str, path: &Path) -> Result<Pem, Problem> {
    let text = secret(setting, path)?;
    if text.contains("-----BEGIN ") {
        return Ok(Pem(text.into()));
    }
    Err(Problem::new(setting, &format!("{} is no PEM", path.display()), "name a file in PEM"))
}

/// A URL as the broker's client takes it: Device Connect writes Zenoh's endpoints as URLs.
fn plain_url(broker: Broker, url: &str) -> String {
    let zenoh = || {
        let (scheme, rest) = url.split_once("://")?;
        let link = scheme.strip_prefix("zenoh+").or((scheme == "zenoh").then_some("tcp"))?;
        Some(format!("{link}/{rest}"))
    };
    (broker == Broker::Zenoh).then(zenoh).flatten().unwrap_or_else(|| url.to_owned())
}

/// What is wrong with the addresses, and what would be right.
fn check_urls(broker: Broker, urls: &[String]) -> Result<(), (String, &'static str)> {
    let (schemes, remedy): (&[&str], _) = match broker {
        Broker::Nats => (
            &["nats://", "tls://", "ws://", "wss://"],
            "list where clients connect, such as [\"nats://broker.example:4222\"]",
        ),
        Broker::Mqtt => (
            &["mqtt://", "mqtts://"],
            "list where clients connect, such as [\"mqtts://broker.example:8883\"]",
        ),
        Broker::Zenoh => (
            &["tcp/", "tls/", "quic/", "ws/", "udp/", "unixsock-stream/"],
            "list where clients connect, such as [\"tls/router.example:7447\"]",
        ),
    };
    if urls.is_empty() {
        return Err(("is not set, and the credentials name none".to_owned(), remedy));
    }
    for url in urls {
        if !schemes.iter().any(|scheme| url.starts_with(scheme)) {
            return Err((format!("'{url}' is none that can be connected to"), remedy));
        }
        if url.contains('@') {
            return Err(("an address holds credentials".to_owned(), "put them into a file"));
        }
    }
    Ok(())
}

fn check_prefix(broker: Broker, prefix: &str) -> Result<(), String> {
    if prefix.is_empty() {
        return Ok(());
    }
    let segments = prefix.split(separator(broker)).count();
    match broker.name(prefix) {
        Ok(_) if segments <= MAX_SEGMENTS => Ok(()),
        Ok(_) => Err(format!("has more than {MAX_SEGMENTS} segments")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Deployment, EXAMPLE};
    use std::path::Path;

    fn read(files: &[(&str, &str)], text: &str) -> Result<Deployment, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let path = folder.path().join("deployment.toml");
        std::fs::write(&path, text).unwrap();
        Deployment::read(&path).map_err(|error| error.to_string())
    }

    const SECRETS: &[(&str, &str)] = &[("a.txt", "alpha\n"), ("b.txt", "beta\n"), ("empty", " \n")];

    const MQTT: &str = "[mqtt]\nurls = [\"mqtt://127.0.0.1:1883\"]\n\
                        a = { user = \"a\", password_file = \"a.txt\" }\n\
                        b = { user = \"b\", password_file = \"b.txt\" }\n";

    #[test]
    fn a_small_file_is_enough() {
        let deployment = read(SECRETS, MQTT).unwrap();
        let mqtt = deployment.mqtt.as_ref().unwrap();
        assert_eq!((mqtt.a.name.as_str(), mqtt.b.name.as_str()), ("a", "b"));
        assert!(deployment.nats.is_none());
        assert!(!format!("{deployment:?}").contains("alpha"), "no secret is shown");
    }

    #[test]
    fn credentials_of_device_connect_say_where_and_who() {
        let of = |tenant: &str| {
            format!(
                r#"{{"device_id": "cam-1", "tenant": "{tenant}", "auth_type": "mtls", "zenoh": {{
                   "urls": ["zenoh+tls://router:7447"], "tls": {{"ca_pem": "-----BEGIN C-----",
                   "cert_pem": "-----BEGIN C-----", "key_pem": "-----BEGIN K-----"}}}}}}"#
            )
        };
        let (a, b) = (of("acme"), of("globex"));
        let text = "[zenoh]\na.credentials_file = \"a.json\"\nb.credentials_file = \"b.json\"\n";
        let deployment = read(&[("a.json", &a), ("b.json", &b)], text).unwrap();
        let zenoh = deployment.zenoh.unwrap();
        assert_eq!((zenoh.a.name.as_str(), zenoh.b.name.as_str()), ("acme", "globex"));
        assert_eq!(zenoh.a.urls, ["tls/router:7447"]);
        assert_eq!(zenoh.b.prefix, "device-connect/globex/cam-1/event");
        assert!(zenoh.a.identity.certificate.is_some() && zenoh.a.authorities.is_some());
    }

    #[test]
    fn what_is_wrong_is_named_with_a_remedy() {
        let replaced = |from: &str, to: &str| MQTT.replace(from, to);
        for (text, mentions) in [
            (String::new(), ["nats, mqtt, zenoh", "--example"]),
            ("[mqtt]\nurl = 1\n".to_owned(), ["deployment.toml:2:1", "urls"]),
            (format!("wait = \"1h\"\n{MQTT}"), ["wait", "50ms"]),
            (replaced("mqtt://", "http://"), ["mqtt.urls", "mqtts://broker.example"]),
            (replaced("mqtt://", "mqtt://u:p@"), ["mqtt.urls", "put them into a file"]),
            (replaced("urls = [\"mqtt://127.0.0.1:1883\"]", ""), ["mqtt.urls", "is not set"]),
            (replaced("[mqtt]\n", "[mqtt]\nversion = \"3\"\n"), ["mqtt.version", "3.1.1"]),
            (replaced("b.txt", "c.txt"), ["mqtt.b.password_file", "check the path"]),
            (replaced("b.txt", "empty"), ["mqtt.b.password_file", "is empty"]),
            (replaced("user = \"b\", ", ""), ["mqtt.b.user", "whose password"]),
            (replaced(", password_file = \"b.txt\"", ""), ["mqtt.b", "password_file"]),
            (
                replaced(
                    "password_file = \"b.txt\"",
                    "password_file = \"b.txt\", anonymous = true",
                ),
                ["mqtt.b", "leave one"],
            ),
            (
                replaced("password_file = \"b.txt\"", "password_file = \"b.txt\", name = \"a\""),
                ["mqtt.b.name", "two tenants"],
            ),
            (
                replaced(
                    "password_file = \"b.txt\"",
                    "password_file = \"b.txt\", prefix = \"x/#\"",
                ),
                ["mqtt.b.prefix", "without wildcards"],
            ),
            (
                replaced(
                    "password_file = \"b.txt\"",
                    "password_file = \"b.txt\", cert_file = \"x\"",
                ),
                ["mqtt.b.key_file", "the certificate's key"],
            ),
            (
                replaced(
                    "password_file = \"b.txt\"",
                    "password_file = \"b.txt\", inbox_prefix = \"x\"",
                ),
                ["mqtt.b.inbox_prefix", "[nats]"],
            ),
            (
                replaced("user = \"b\", password_file", "credentials_file"),
                ["mqtt.b.credentials_file", "bulkhead creds issue"],
            ),
        ] {
            let error = read(SECRETS, &text).unwrap_err();
            for mention in mentions {
                assert!(
                    error.contains(mention),
                    "{mention:?} is missing from {error:?} for {text}"
                );
            }
            assert!(!error.contains("beta"), "{error}");
        }
        let missing = Deployment::read(Path::new("/nowhere.toml")).unwrap_err().to_string();
        assert!(missing.contains("/nowhere.toml") && missing.contains("--example"), "{missing}");
    }

    #[test]
    fn the_example_is_read_as_it_stands() {
        let creds = "-----BEGIN NATS USER JWT-----";
        let pem = "-----BEGIN X-----";
        let files: Vec<_> = ["acme.creds", "globex.creds"]
            .map(|name| (name, creds))
            .into_iter()
            .chain(["ca.pem", "globex.pem", "globex.key"].map(|name| (name, pem)))
            .chain(["acme.password", "globex.password", "acme.token"].map(|name| (name, "x")))
            .collect();
        let deployment = read(&files, EXAMPLE).unwrap();
        assert!(
            deployment.nats.is_some() && deployment.mqtt.is_some() && deployment.zenoh.is_some()
        );
    }
}
