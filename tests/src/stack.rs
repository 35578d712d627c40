//! A nats-server or a cluster of them with Bulkhead's services before it, Bulkhead's MQTT broker, or a
//! Zenoh router with Bulkhead's gate before it.

use crate::clock::TestClock;
use crate::folder::Folder;
use crate::mqtt::{Door, Mode, SERVICE_ISSUER};
use crate::process::Replica;
use crate::wait::eventually;
use crate::zenoh::{Entrance, LINKS};
use bulkhead_cli::signer::{Signer, TokenRequest};
use bulkhead_cli::{Services, start_services_by};
use bulkhead_control::Control;
use bulkhead_control::config::{Config, Transport, ZenohLink};
use bulkhead_control::directory::Store;
use bulkhead_devkit::{Etcd, MosquittoServer, NatsServer, Tools, free_port};
use bulkhead_mqtt_broker::Broker;
use bulkhead_policy::{Tenant, TenantId};
use bulkhead_zenoh::Router;
use jiff::SignedDuration;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// `iss` of the tokens.
pub const ISSUER: &str = "https://issuer.test";

/// `aud` of the tokens.
pub const AUDIENCE: &str = "bulkhead";

/// The MQTT broker's listeners, in the order of its configuration.
const TRANSPORTS: [Transport; 4] = [Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];

/// What is to be started.
#[derive(Clone, Debug)]
pub struct StackBuilder {
    servers: usize,
    etcd: bool,
    in_process: bool,
    server_config: String,
    config: String,
    nats: String,
    mqtt: Option<String>,
    zenoh: Option<String>,
    registry: Option<String>,
    registry_elsewhere: bool,
    issues: bool,
    client_ca: Option<String>,
    mode: Mode,
    prefix: String,
    mosquitto: String,
    issuer_keys: String,
    issuer_roles: Vec<String>,
    tenants: Vec<String>,
    clock: TestClock,
}

/// Running servers and services, in a temporary folder. Dropping it ends the servers.
pub struct Stack {
    // Fields are dropped in this order: services and servers before their folder.
    control: Option<Control>,
    servers: Vec<NatsServer>,
    etcd: Option<Etcd>,
    exchange: Option<SocketAddr>,
    mqtt: Option<Broker>,
    zenoh: Option<Router>,
    mosquitto: Option<MosquittoServer>,
    ports: Ports,
    signer: Signer,
    clock: TestClock,
    folder: Folder,
}

/// Ports for TCP of the MQTT broker and of the gate, where a registry, or a process of its own, has to know
/// them.
#[derive(Clone, Copy, Debug, Default)]
struct Ports {
    mqtt: Option<u16>,
    zenoh: Option<u16>,
}

/// What a test's token says.
#[derive(Clone, Debug)]
pub struct Token {
    tenant: String,
    device: Option<String>,
    role: Option<String>,
    ttl: SignedDuration,
    extra: Value,
}

impl Token {
    /// A device's token, with the issuer's default role.
    pub fn device(tenant: &str, device: &str) -> Self {
        Self { device: Some(device.to_owned()), role: None, ..Self::role(tenant, "device") }
    }

    /// The token of somebody with a role and no device.
    pub fn role(tenant: &str, role: &str) -> Self {
        Self {
            tenant: tenant.to_owned(),
            device: None,
            role: Some(role.to_owned()),
            ttl: SignedDuration::from_mins(10),
            extra: json!({}),
        }
    }

    /// Changes how long it is valid.
    #[must_use]
    pub fn ttl(self, seconds: i64) -> Self {
        Self { ttl: SignedDuration::from_secs(seconds), ..self }
    }

    /// Sets claims, or removes those that are null.
    #[must_use]
    pub fn with(self, extra: Value) -> Self {
        Self { extra, ..self }
    }

    /// The claims.
    pub fn claims(&self) -> Value {
        let request = TokenRequest::new(ISSUER, AUDIENCE, self.ttl).unwrap();
        let mut claims = json!(request);
        claims["tenant"] = json!(self.tenant);
        claims["device"] = json!(self.device);
        claims["role"] = json!(self.role);
        for (name, value) in self.extra.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        claims
    }
}

impl Default for StackBuilder {
    fn default() -> Self {
        Self {
            servers: 1,
            etcd: false,
            in_process: true,
            server_config: String::new(),
            config: String::new(),
            nats: String::new(),
            mqtt: None,
            zenoh: None,
            registry: None,
            registry_elsewhere: false,
            issues: false,
            client_ca: None,
            mode: Mode::Embedded,
            prefix: String::new(),
            mosquitto: "allow_anonymous true\nset_tcp_nodelay true\n".to_owned(),
            issuer_keys: "jwks_file = \"issuer.jwks.json\"".to_owned(),
            issuer_roles: ["device", "member", "viewer", "operator"].map(str::to_owned).to_vec(),
            tenants: vec!["acme".to_owned(), "globex".to_owned()],
            clock: TestClock::default(),
        }
    }
}

impl StackBuilder {
    /// A cluster of so many servers.
    #[must_use]
    pub fn servers(self, servers: usize) -> Self {
        Self { servers, ..self }
    }

    /// Keeps the directory in an etcd of its own.
    #[must_use]
    pub fn etcd(self) -> Self {
        Self { etcd: true, ..self }
    }

    /// Starts no service: the test starts replicas.
    #[must_use]
    pub fn without_service(self) -> Self {
        Self { in_process: false, ..self }
    }

    /// Adds to the servers' configuration.
    #[must_use]
    pub fn server_config(self, text: &str) -> Self {
        Self { server_config: format!("{}{text}\n", self.server_config), ..self }
    }

    /// Adds to `bulkhead.toml`, after everything else.
    #[must_use]
    pub fn config(self, text: &str) -> Self {
        Self { config: format!("{}{text}\n", self.config), ..self }
    }

    /// Adds to the table `[nats]`.
    #[must_use]
    pub fn nats(self, text: &str) -> Self {
        Self { nats: format!("{}{text}\n", self.nats), ..self }
    }

    /// Adds to the table `[mqtt]`.
    #[must_use]
    pub fn mqtt(self, text: &str) -> Self {
        Self { mqtt: Some(format!("{}{text}\n", self.mqtt.unwrap_or_default())), ..self }
    }

    /// Adds to the table `[zenoh]`.
    #[must_use]
    pub fn zenoh(self, text: &str) -> Self {
        Self { zenoh: Some(format!("{}{text}\n", self.zenoh.unwrap_or_default())), ..self }
    }

    /// Starts the registry, over every backend that there is: in the etcd, if there is one, else in a
    /// file. The text is added to the table `[registry]`.
    #[must_use]
    pub fn registry(self, text: &str) -> Self {
        Self { registry: Some(format!("{}{text}\n", self.registry.unwrap_or_default())), ..self }
    }

    /// Lets the test start replicas of the registry, by [`Stack::registry_replica`], over every backend
    /// that there is.
    #[must_use]
    pub fn registry_elsewhere(self) -> Self {
        Self { registry_elsewhere: true, ..self }
    }

    /// Gives the exchange keys of its own, in the folder `exchange`: it issues credentials for MQTT or
    /// Zenoh, whose listeners ask for client certificates.
    #[must_use]
    pub fn issues(self) -> Self {
        let stack = Self { issues: true, ..self }.client_ca("exchange/ca.pem");
        match stack.zenoh {
            Some(_) => stack.zenoh("device_urls = [\"zenoh+tls://broker.example:7447\"]"),
            None => stack.mqtt("device_urls = [\"mqtts://broker.example:8883\"]"),
        }
    }

    /// Has the listeners of MQTT and Zenoh ask for certificates of these authorities.
    #[must_use]
    pub fn client_ca(self, path: &str) -> Self {
        Self { client_ca: Some(path.to_owned()), ..self }
    }

    /// What stands before every name of a tenant on the mosquitto, if there is one.
    #[must_use]
    pub fn upstream_prefix(self, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..self }
    }

    /// Adds to the mosquitto's configuration, if there is one.
    #[must_use]
    pub fn mosquitto(self, text: &str) -> Self {
        Self { mosquitto: format!("{}{text}\n", self.mosquitto), ..self }
    }

    /// Replaces where the issuer's keys come from.
    #[must_use]
    pub fn issuer_keys(self, text: &str) -> Self {
        Self { issuer_keys: text.to_owned(), ..self }
    }

    /// Replaces the roles that the issuer may hand out.
    #[must_use]
    pub fn issuer_roles(self, roles: &[&str]) -> Self {
        Self { issuer_roles: roles.iter().map(|r| (*r).to_owned()).collect(), ..self }
    }

    /// Replaces the tenants that are there at the start.
    #[must_use]
    pub fn tenants(self, tenants: &[&str]) -> Self {
        Self { tenants: tenants.iter().map(|t| (*t).to_owned()).collect(), ..self }
    }

    /// Has the service of this process count days by this clock.
    #[must_use]
    pub fn clock(self, clock: &TestClock) -> Self {
        Self { clock: clock.clone(), ..self }
    }

    /// Starts everything and waits until it is ready.
    pub async fn start(self) -> Stack {
        let folder = Folder::new();
        let signer = Signer::create(&folder.path().join("issuer.pem")).unwrap();
        std::fs::write(folder.path().join("issuer.jwks.json"), signer.jwks().to_string()).unwrap();
        let mut servers = Vec::new();
        if self.servers > 0 {
            let keys = folder.path().join("nats");
            bulkhead_auth_callout::init(&keys, "").unwrap();
            servers = start_servers(&keys, self.servers, self.server_config.clone()).await;
        }
        for (backend, has) in [("mqtt", self.mqtt.is_some()), ("zenoh", self.zenoh.is_some())] {
            if has {
                let names = ["localhost", "127.0.0.1"].map(str::to_owned);
                let made = rcgen::generate_simple_self_signed(names).unwrap();
                let write = |kind: &str, text: String| {
                    let path = folder.path().join(format!("{backend}.{kind}"));
                    std::fs::write(path, text).unwrap();
                };
                write("pem", made.cert.pem());
                write("key", made.signing_key.serialize_pem());
            }
        }
        let etcd = if self.etcd { Some(start_etcd(folder.path()).await) } else { None };
        let mosquitto = match self.mode {
            Mode::Embedded => None,
            Mode::Upstream => Some(start_mosquitto(folder.path(), self.mosquitto.clone()).await),
        };
        let mut stack = Stack {
            control: None,
            servers,
            etcd,
            exchange: None,
            mqtt: None,
            zenoh: None,
            mosquitto,
            ports: self.ports(),
            signer,
            clock: self.clock.clone(),
            folder,
        };
        std::fs::write(stack.config_path(), self.configuration(&stack)).unwrap();
        let store = stack.store().await;
        for tenant in &self.tenants {
            store.create(&tenant.parse().unwrap(), Tenant::default()).await.unwrap();
        }
        if self.in_process {
            stack.start_service().await;
        }
        stack
    }

    fn ports(&self) -> Ports {
        let is_told = self.registry.is_some() || self.registry_elsewhere;
        let told = |has: bool| (has && is_told).then(|| free_port().unwrap());
        Ports { mqtt: told(self.mqtt.is_some()), zenoh: told(self.zenoh.is_some()) }
    }

    fn configuration(&self, stack: &Stack) -> String {
        let urls: Vec<_> = stack.servers.iter().map(|s| s.client_url().to_owned()).collect();
        let directory = match &stack.etcd {
            Some(etcd) => format!("etcd = {{ endpoints = [\"{}\"] }}", etcd.endpoint()),
            None => "file = \"tenants.toml\"".to_owned(),
        };
        let nats = if stack.servers.is_empty() {
            String::new()
        } else {
            let own = &self.nats;
            format!("[nats]\nservers = {urls:?}\noperator = {{ keys = \"nats\" }}\n{own}\n")
        };
        let keys = if self.issues { ", keys = \"exchange\"" } else { "" };
        let client_ca = self.client_ca.as_ref();
        let client_ca =
            client_ca.map_or_else(String::new, |path| format!(", client_ca_file = {path:?}"));
        let upstream = stack.mosquitto.as_ref().map_or_else(String::new, |mosquitto| {
            let (address, prefix) = (mosquitto.address(), &self.prefix);
            format!("upstream = {{ url = \"mqtt://{address}\", prefix = \"{prefix}\" }}\n")
        });
        let (mqtt_port, zenoh_port) =
            (stack.ports.mqtt.unwrap_or(0), stack.ports.zenoh.unwrap_or(0));
        let mqtt = self.mqtt.as_ref().map_or_else(String::new, |own| {
            let listeners = TRANSPORTS.map(|transport| match transport {
                Transport::Tcp => format!("{transport}://127.0.0.1:{mqtt_port}"),
                _ => format!("{transport}://127.0.0.1:0"),
            });
            format!(
                "[mqtt]\nlisteners = {listeners:?}\n\
                 tls = {{ cert_file = \"mqtt.pem\", key_file = \"mqtt.key\"{client_ca} }}\n\
                 {upstream}{own}\n"
            )
        });
        let zenoh = self.zenoh.as_ref().map_or_else(String::new, |own| {
            let listeners = LINKS.map(|(link, name)| match link {
                ZenohLink::Tcp => format!("{name}/127.0.0.1:{zenoh_port}"),
                _ => format!("{name}/127.0.0.1:0"),
            });
            format!(
                "[zenoh]\nlisteners = {listeners:?}\nown_router = true\n\
                 tls = {{ cert_file = \"zenoh.pem\", key_file = \"zenoh.key\"{client_ca} }}\n\
                 {own}\n"
            )
        });
        if self.registry_elsewhere {
            let token = stack.token(&stack.service_token().ttl(3600));
            std::fs::write(stack.folder().join("service.token"), token).unwrap();
        }
        let services = if self.registry_elsewhere { SERVICE_ISSUER } else { "" };
        let registry = self.registry.as_ref().map_or_else(String::new, |own| {
            let store = match &stack.etcd {
                Some(etcd) => format!("etcd = {{ endpoints = [\"{}\"] }}", etcd.endpoint()),
                None => "file = \"registry.redb\"".to_owned(),
            };
            let mut text = format!("store = {{ {store} }}\n{own}\n");
            if self.mqtt.is_some() {
                text += &format!(
                    "mqtt = {{ url = \"mqtt://127.0.0.1:{mqtt_port}\", token_file = \"service.token\" }}\n"
                );
            }
            if self.zenoh.is_some() {
                text += &format!(
                    "zenoh = {{ connect = [\"tcp/127.0.0.1:{zenoh_port}\"], token_file = \"service.token\" }}\n"
                );
            }
            let token = stack.token(&stack.service_token().ttl(3600));
            std::fs::write(stack.folder().join("service.token"), token).unwrap();
            format!("{SERVICE_ISSUER}\n[registry]\n{text}")
        });
        format!(
            "dev = true\n\
             audit = {{ path = \"audit.jsonl\" }}\n\
             admin = {{ listen = \"127.0.0.1:0\" }}\n\
             exchange = {{ listen = \"127.0.0.1:0\"{keys} }}\n\
             [directory]\n{directory}\nstale_after = \"2s\"\n\
             [[issuers]]\n\
             name = \"test\"\nissuer = \"{ISSUER}\"\naudiences = [\"{AUDIENCE}\"]\n\
             algorithms = [\"EdDSA\"]\ntenants = \"all\"\nleeway = \"0s\"\n\
             roles = {:?}\nkeys = {{ {} }}\n\
             {nats}{mqtt}{zenoh}{services}{registry}{}",
            self.issuer_roles, self.issuer_keys, self.config
        )
    }
}

impl Stack {
    /// One server and one service, with the tenants `acme` and `globex`.
    #[expect(clippy::new_ret_no_self, reason = "a stack begins with the choice of what it has")]
    pub fn new() -> StackBuilder {
        StackBuilder::default()
    }

    /// The MQTT broker with a listener of each transport and no nats-server, with the tenants `acme`
    /// and `globex`.
    pub fn mqtt() -> StackBuilder {
        StackBuilder { servers: 0, ..StackBuilder::default() }.mqtt("")
    }

    /// A Zenoh router with the gate before it, a listener of each link and no nats-server, with the
    /// tenants `acme` and `globex`.
    pub fn zenoh() -> StackBuilder {
        StackBuilder { servers: 0, ..StackBuilder::default() }.zenoh("")
    }

    /// The same as [`mqtt`](Self::mqtt) in a mode: [`Upstream`](Mode::Upstream) with a mosquitto of its own behind it.
    pub fn mqtt_in(mode: Mode) -> StackBuilder {
        StackBuilder { mode, ..Self::mqtt() }
    }

    /// Starts the service in this process.
    pub async fn start_service(&mut self) {
        let config = Config::load(&self.config_path()).unwrap();
        if std::env::var_os("BULKHEAD__LOG__FILTER").is_some() {
            bulkhead_control::log::init(&config.log).unwrap();
        }
        let Services { control, exchange, mqtt, zenoh } =
            start_services_by(config, Some(self.config_path()), self.clock.clock()).await.unwrap();
        eventually("the service is ready", || control.readiness().missing().is_empty()).await;
        self.control = Some(control);
        self.exchange = exchange;
        self.mqtt = mqtt;
        self.zenoh = zenoh;
    }

    /// Ends the service of this process.
    pub async fn stop_service(&mut self) {
        if let Some(control) = self.control.take() {
            control.shutdown().await;
        }
        if let Some(router) = self.zenoh.take() {
            router.close().await;
        }
    }

    /// Starts the service as a process of its own: `program` is this package's `replica`.
    pub async fn replica(&self, program: &str, name: &str) -> Replica {
        Replica::start(program, name, &self.config_path(), self.folder()).await
    }

    /// The registry by itself, over the stack's backends and in its etcd, as a process of its own.
    pub async fn registry_replica(&self, program: &str, name: &str) -> Replica {
        let etcd = self.etcd.as_ref().expect("the stack has an etcd").endpoint();
        self.registry_replica_by(program, name, etcd).await
    }

    /// The same, with a way of its own to etcd.
    pub async fn registry_replica_by(&self, program: &str, name: &str, etcd: &str) -> Replica {
        let path = self.folder().join(format!("registry-{name}.toml"));
        let mut others = String::new();
        if self.ports.mqtt.is_some() {
            let url = format!("mqtt://{}", self.tcp().address);
            others += &format!("mqtt = {{ url = \"{url}\", token_file = \"service.token\" }}\n");
        }
        if self.ports.zenoh.is_some() {
            let connect = format!("tcp/{}", self.entrance(ZenohLink::Tcp).address);
            let connect = format!("connect = [\"{connect}\"], token_file = \"service.token\"");
            others += &format!("zenoh = {{ {connect} }}\n");
        }
        let text = format!(
            "dev = true\n\
             admin = {{ listen = \"127.0.0.1:0\" }}\n\
             directory = {{ etcd = {{ endpoints = [\"{etcd}\"] }} }}\n\
             [[issuers]]\n\
             name = \"test\"\nissuer = \"{ISSUER}\"\naudiences = [\"{AUDIENCE}\"]\n\
             algorithms = [\"EdDSA\"]\ntenants = \"all\"\nleeway = \"0s\"\n\
             keys = {{ jwks_file = \"issuer.jwks.json\" }}\n\
             {SERVICE_ISSUER}\n\
             [registry]\n\
             store = {{ etcd = {{ endpoints = [\"{etcd}\"] }} }}\n\
             takeover_after = \"3s\"\n\
             nats = {{ servers = {:?}, credentials_file = \"nats/registry.creds\" }}\n\
             {others}",
            self.urls(),
        );
        std::fs::write(&path, text).unwrap();
        Replica::start(program, name, &path, self.folder()).await
    }

    /// The service of this process.
    pub fn control(&self) -> &Control {
        self.control.as_ref().expect("the stack has a service in this process")
    }

    /// Where `POST /v1/credentials` is.
    pub fn exchange_url(&self) -> String {
        format!("http://{}/v1/credentials", self.exchange.expect("the exchange is configured"))
    }

    /// The MQTT broker.
    pub fn broker(&self) -> &Broker {
        self.mqtt.as_ref().expect("the stack has an MQTT broker")
    }

    /// The mosquitto behind it.
    pub fn mosquitto(&mut self) -> &mut MosquittoServer {
        self.mosquitto.as_mut().expect("the stack has a mosquitto")
    }

    /// The MQTT broker's listener of a transport.
    pub fn door(&self, transport: Transport) -> Door {
        let address = match (self.ports.mqtt, transport) {
            (Some(port), Transport::Tcp) => loopback(port),
            _ => {
                let at = TRANSPORTS.iter().position(|t| *t == transport).unwrap();
                self.broker().addresses()[at]
            }
        };
        Door { transport, address, certificate: self.folder().join("mqtt.pem"), identity: None }
    }

    /// Where MQTT clients come in over TCP.
    pub fn tcp(&self) -> Door {
        self.door(Transport::Tcp)
    }

    /// The Zenoh router.
    pub fn router(&self) -> &Router {
        self.zenoh.as_ref().expect("the stack has a Zenoh router")
    }

    /// Where Zenoh clients come in by a link.
    pub fn entrance(&self, link: ZenohLink) -> Entrance {
        let address = match (self.ports.zenoh, link) {
            (Some(port), ZenohLink::Tcp) => loopback(port),
            _ => {
                let at = LINKS.iter().position(|(known, _)| *known == link).unwrap();
                self.router().gate().addresses()[at]
            }
        };
        Entrance {
            link,
            address,
            certificate: self.folder().join("zenoh.pem"),
            identity: None,
            window: None,
        }
    }

    /// The folder of everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `bulkhead.toml`.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("bulkhead.toml")
    }

    /// The first server's address.
    pub fn url(&self) -> &str {
        self.servers[0].client_url()
    }

    /// The servers.
    pub fn servers(&mut self) -> &mut [NatsServer] {
        &mut self.servers
    }

    /// The servers' addresses.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.client_url().to_owned()).collect()
    }

    /// The etcd.
    pub fn etcd(&mut self) -> &mut Etcd {
        self.etcd.as_mut().expect("the stack has an etcd")
    }

    /// The directory, to change it.
    pub async fn store(&self) -> Store {
        let config = Config::load(&self.config_path()).unwrap();
        Store::open(&config.directory).await.unwrap()
    }

    /// Changes a tenant in the directory.
    pub async fn change(&self, tenant: &str, change: impl Fn(&mut Tenant)) {
        let id: TenantId = tenant.parse().unwrap();
        self.store().await.update(&id, change).await.unwrap();
    }

    /// The issuer.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Signs a token.
    pub fn token(&self, token: &Token) -> String {
        self.signer.sign(&token.claims()).unwrap()
    }

    /// The metrics, in text.
    pub fn metrics(&self) -> String {
        self.control().auth().metrics().encode().unwrap()
    }

    /// The value of a metric, whose name is written with its labels; 0 as long as it is not there.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.metrics();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// How often the MQTT broker, or the Zenoh gate, refused this operation for this reason.
    pub fn refusals(&self, operation: &str, reason: &str) -> u64 {
        let (backend, labels) =
            (self.backend(), format!("operation=\"{operation}\",reason=\"{reason}\""));
        self.metric(&format!("bulkhead_{backend}_denied_total{{{labels}}}"))
    }

    /// How many live connections of MQTT or Zenoh were cut for this reason.
    pub fn terminations(&self, reason: &str) -> u64 {
        let labels = format!("backend=\"{}\",reason=\"{reason}\"", self.backend());
        self.metric(&format!("bulkhead_terminations_total{{{labels}}}"))
    }

    /// For how many connections of MQTT or Zenoh the time to cut was measured, since it was `learned` or
    /// since somebody `revoked` it.
    pub fn cuts(&self, since: &str) -> u64 {
        let labels = format!("backend=\"{}\",since=\"{since}\"", self.backend());
        self.metric(&format!("bulkhead_time_to_cut_seconds_count{{{labels}}}"))
    }

    fn backend(&self) -> &'static str {
        if self.zenoh.is_some() { "zenoh" } else { "mqtt" }
    }

    /// Writes another `bulkhead.toml`, made of the present one, which running services take over.
    pub fn reconfigure(&self, change: impl FnOnce(String) -> String) {
        let config = std::fs::read_to_string(self.config_path()).unwrap();
        let next = self.folder().join("bulkhead.toml.next");
        std::fs::write(&next, change(config)).unwrap();
        std::fs::rename(next, self.config_path()).unwrap();
    }

    /// The records of the audit log so far.
    pub fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder().join("audit.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until a denial with this reason is both counted and written down.
    pub async fn denied(&self, reason: &str) {
        let label = format!("reason=\"{reason}\"}}");
        eventually(&format!("{reason} is counted"), || self.metrics().contains(&label)).await;
        eventually(&format!("{reason} is in the audit log"), || {
            self.audit().iter().any(|record| record["reason"] == reason)
        })
        .await;
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Starts the servers of one operator; more than one form a cluster.
async fn start_servers(keys: &Path, count: usize, extra: String) -> Vec<NatsServer> {
    let text = std::fs::read_to_string(keys.join("nats-server.conf")).unwrap() + &extra;
    let folder = keys.parent().unwrap().join("servers");
    tokio::task::spawn_blocking(move || {
        let binary = Tools::open().unwrap().nats_server().unwrap();
        let mut servers: Vec<NatsServer> = Vec::new();
        for n in 0..count {
            let mut config = format!("server_name: s{n}\n{text}");
            if count > 1 {
                let port = bulkhead_devkit::free_port().unwrap();
                let routes: Vec<_> = servers.iter().filter_map(NatsServer::cluster_url).collect();
                config += &format!(
                    "cluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: {routes:?} }}\n"
                );
            }
            let home = folder.join(format!("s{n}"));
            servers.push(NatsServer::start(&binary, &home, &config).unwrap());
        }
        servers
    })
    .await
    .unwrap()
}

async fn start_etcd(folder: &Path) -> Etcd {
    let home = folder.join("etcd");
    tokio::task::spawn_blocking(move || {
        Etcd::start(&Tools::open().unwrap().etcd().unwrap(), &home).unwrap()
    })
    .await
    .unwrap()
}

async fn start_mosquitto(folder: &Path, config: String) -> MosquittoServer {
    let home = folder.join("mosquitto");
    tokio::task::spawn_blocking(move || {
        let programs = Tools::open().unwrap().mosquitto().unwrap();
        MosquittoServer::start(&programs.broker, &home, &config).unwrap()
    })
    .await
    .unwrap()
}
