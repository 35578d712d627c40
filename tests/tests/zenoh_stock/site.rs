//! A stock zenohd with the gate loaded, and its clients.

use bulkhead_cli::signer::Signer;
use bulkhead_devkit::{Error, PluginBuild, Tools, ZenohServer, free_port};
use bulkhead_tests::{AUDIENCE, ISSUER, Token, eventually_async};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use zenoh::handlers::FifoChannelHandler;
use zenoh::pubsub::Subscriber;
use zenoh::sample::{Locality, Sample};
use zenoh::{Config, Session};

/// `iss` of the platform's own programs.
const PLATFORM: &str = "https://platform.test";

/// How long nothing has to arrive for it to count as nothing, after something that was sent later.
const NOTHING: Duration = Duration::from_millis(250);

/// What is known to all routers of a test: who signs tokens, and which tenants there are.
pub struct Realm {
    tenants: Signer,
    platform: Signer,
    folder: tempfile::TempDir,
}

/// How a router differs from one that works.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Changes the router's configuration.
    pub router: Option<fn(&mut Value)>,
    /// Where the plugin is, if elsewhere.
    pub plugin: Option<PathBuf>,
    /// The router that it connects to.
    pub connect: Option<String>,
}

/// A running router.
pub struct Site {
    pub server: ZenohServer,
    socket: String,
    admin: u16,
    trusted: u16,
    encrypted: u16,
}

impl Realm {
    /// Tenants acme and globex.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let signer = |name: &str| {
            let signer = Signer::create(&folder.path().join(format!("{name}.pem"))).unwrap();
            let jwks = folder.path().join(format!("{name}.jwks.json"));
            std::fs::write(jwks, signer.jwks().to_string()).unwrap();
            signer
        };
        let (tenants, platform) = (signer("tenants"), signer("platform"));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join("gate.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("gate.key"), made.signing_key.serialize_pem()).unwrap();
        let realm = Self { tenants, platform, folder };
        realm.tenants("[tenants.acme]\n[tenants.globex]\n");
        realm
    }

    /// Writes the directory.
    pub fn tenants(&self, text: &str) {
        let next = self.folder.path().join("tenants.next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, self.folder.path().join("tenants.toml")).unwrap();
    }

    /// The certificate of every gate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("gate.pem")
    }

    /// A token of a member of a tenant.
    pub fn member(&self, tenant: &str) -> String {
        self.tenants.sign(&Token::role(tenant, "member").claims()).unwrap()
    }

    /// A token of one of the platform's own programs.
    pub fn service(&self) -> String {
        let claims = Token::role("", "service").with(json!({ "iss": PLATFORM, "tenant": null }));
        self.platform.sign(&claims.claims()).unwrap()
    }

    /// Starts a router with the plugin in a folder of that name.
    pub async fn start(&self, name: &str) -> Site {
        self.try_start(name, Wishes::default()).await.unwrap()
    }

    /// The same for a router that differs.
    ///
    /// # Errors
    /// Why it does not run.
    pub async fn try_start(&self, name: &str, wishes: Wishes) -> Result<Site, Error> {
        let root = self.folder.path().to_owned();
        let dir = root.join(name);
        let starting = tokio::task::spawn_blocking(move || {
            let binary = Tools::open()?.zenohd()?;
            let plugin = wishes.plugin.clone().unwrap_or_else(|| built_plugin().to_owned());
            std::fs::create_dir_all(&dir).unwrap();
            let (mut admin, mut trusted, mut encrypted) = (0, 0, 0);
            let server = ZenohServer::start(&binary, &dir, |port| {
                (admin, trusted) = (free_port().unwrap(), free_port().unwrap());
                encrypted = free_port().unwrap();
                let own = gate(&root, [port, encrypted], admin, trusted);
                std::fs::write(dir.join("bulkhead.toml"), own).unwrap();
                let mut router = router(&dir, trusted, &plugin, wishes.connect.as_deref());
                if let Some(change) = wishes.router {
                    change(&mut router);
                }
                router.to_string()
            })?;
            Ok(Site { server, socket: socket(&dir), admin, trusted, encrypted })
        });
        let site = starting.await.unwrap()?;
        eventually_async("the gate is ready", async || {
            let ready = reqwest::get(format!("http://127.0.0.1:{}/readyz", site.admin)).await;
            ready.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        Ok(site)
    }
}

/// The folder of the plugin, built once.
pub fn built_plugin() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| Tools::zenoh_plugin(PluginBuild::Quick).unwrap())
}

fn gate(root: &Path, [plain, encrypted]: [u16; 2], admin: u16, trusted: u16) -> String {
    let mut text = format!("dev = true\nadmin = {{ listen = \"127.0.0.1:{admin}\" }}\n");
    let tenants = root.join("tenants.toml");
    write!(text, "[directory]\nfile = {tenants:?}\n").unwrap();
    for (name, issuer, rest) in [
        ("tenants", ISSUER, "tenants = \"all\"\nroles = [\"device\", \"member\", \"viewer\"]"),
        ("platform", PLATFORM, "service = true\nroles = [\"service\"]\ndefault_role = \"service\""),
    ] {
        let jwks = root.join(format!("{name}.jwks.json"));
        write!(
            text,
            "[[issuers]]\nname = {name:?}\nissuer = {issuer:?}\naudiences = [{AUDIENCE:?}]\n\
             algorithms = [\"EdDSA\"]\n{rest}\nkeys = {{ jwks_file = {jwks:?} }}\n"
        )
        .unwrap();
    }
    write!(
        text,
        "[zenoh]\nlisteners = [\"tcp/127.0.0.1:{plain}\", \"tls/127.0.0.1:{encrypted}\", \
         \"quic/127.0.0.1:{encrypted}\"]\n\
         tls = {{ cert_file = \"{folder}/gate.pem\", key_file = \"{folder}/gate.key\" }}\n\
         trusted_listeners = [\"tcp/127.0.0.1:{trusted}\"]\n",
        folder = root.display()
    )
    .unwrap();
    text
}

fn socket(dir: &Path) -> String {
    format!("unixsock-stream/{}", dir.join("router.sock").display())
}

fn router(dir: &Path, trusted: u16, plugin: &Path, connect: Option<&str>) -> Value {
    let socket = socket(dir);
    json!({
        "mode": "router",
        "listen": { "endpoints": [socket, format!("tcp/127.0.0.1:{trusted}")] },
        "connect": { "endpoints": connect.into_iter().collect::<Vec<_>>() },
        "scouting": { "multicast": { "enabled": false } },
        "transport": { "unicast": { "max_sessions": 10_000, "accept_pending": 1_000 } },
        "plugins_loading": { "enabled": true, "search_dirs": [plugin] },
        "plugins": { "bulkhead": { "__required__": true, "config": "bulkhead.toml" } },
    })
}

impl Site {
    /// Where tenants' clients connect.
    pub fn gate(&self) -> String {
        format!("tcp/{}", self.server.address())
    }

    /// Where tenants' clients connect by these.
    pub fn encrypted(&self, link: &str) -> String {
        format!("{link}/localhost:{}", self.encrypted)
    }

    /// Where nobody but the gate connects.
    pub fn socket(&self) -> String {
        self.socket.clone()
    }

    /// Where the platform's own programs and other routers connect.
    pub fn trusted(&self) -> String {
        format!("tcp/127.0.0.1:{}", self.trusted)
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let url = format!("http://127.0.0.1:{}/metrics", self.admin);
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {text}"))
    }
}

/// Opens a session, with a token or without one.
pub async fn open(endpoint: &str, token: Option<&str>) -> zenoh::Result<Session> {
    open_trusting(endpoint, token, None).await
}

/// Connects as another router would.
pub async fn open_as_router(endpoint: &str) -> zenoh::Result<Session> {
    let mut config = Config::default();
    for (setting, value) in [
        ("mode", json!("router")),
        ("connect/endpoints", json!([endpoint])),
        ("listen/endpoints", json!([])),
        ("scouting/multicast/enabled", json!(false)),
    ] {
        config.insert_json5(setting, &value.to_string())?;
    }
    zenoh::open(config).await
}

/// The same over an encrypted link, to a gate with this certificate.
pub async fn open_trusting(
    endpoint: &str,
    token: Option<&str>,
    certificate: Option<&Path>,
) -> zenoh::Result<Session> {
    let mut settings = vec![
        ("mode", json!("client")),
        ("connect/endpoints", json!([endpoint])),
        ("connect/timeout_ms", json!(10_000)),
        ("connect/exit_on_failure", json!(true)),
        ("scouting/multicast/enabled", json!(false)),
    ];
    if let Some(token) = token {
        settings.push(("transport/auth/usrpwd/user", json!(token)));
        settings.push(("transport/auth/usrpwd/password", json!("any")));
    }
    settings
        .extend(certificate.map(|file| ("transport/link/tls/root_ca_certificate", json!(file))));
    let mut config = Config::default();
    for (setting, value) in settings {
        config.insert_json5(setting, &value.to_string())?;
    }
    zenoh::open(config).await
}

/// What a session hears from others.
pub struct Ear(Subscriber<FifoChannelHandler<Sample>>);

impl Ear {
    /// Subscribes, and does not wait.
    pub async fn of(session: &Session, keys: &str) -> Self {
        let subscriber = session.declare_subscriber(keys.to_owned());
        Self(subscriber.allowed_origin(Locality::Remote).await.unwrap())
    }

    /// Has a message sent until it arrives here, and returns every key that arrived before.
    pub async fn hears(&self, sender: &Session, key: &str) -> Vec<String> {
        let mut heard = Vec::new();
        eventually_async(&format!("{key} arrives"), async || {
            sender.put(key, "probe").await.unwrap();
            while let Ok(Ok(sample)) = tokio::time::timeout(NOTHING, self.0.recv_async()).await {
                if sample.key_expr().as_str() == key {
                    return true;
                }
                heard.push(sample.key_expr().to_string());
            }
            false
        })
        .await;
        heard
    }

    /// Makes sure that nothing arrives.
    pub async fn nothing(&self) {
        if let Ok(Ok(sample)) = tokio::time::timeout(NOTHING, self.0.recv_async()).await {
            panic!("{} arrived", sample.key_expr());
        }
    }
}

/// Asks, and returns every answer by key.
pub async fn ask(session: &Session, keys: &str) -> Vec<(String, Value)> {
    let replies = session.get(keys).timeout(Duration::from_secs(10)).await.unwrap();
    let mut all = Vec::new();
    while let Ok(reply) = replies.recv_async().await {
        let Ok(sample) = reply.result() else { continue };
        let value = serde_json::from_slice(&sample.payload().to_bytes()).unwrap_or_default();
        all.push((sample.key_expr().to_string(), value));
    }
    all
}
