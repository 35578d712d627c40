//! A nats-server, the services and two tenants, in one folder.

use crate::commands::{Services, start_services};
use crate::signer::{Signer, SignerError, TokenRequest};
use bulkhead_auth_callout::InitError;
use bulkhead_control::config::{Config, ConfigError};
use bulkhead_control::directory::{Store, StoreError};
use bulkhead_control::{Control, StartError, files};
use bulkhead_devkit::{NatsServer, Tools};
use bulkhead_policy::{DeviceId, NameError, RoleName, Tenant, TenantId};
use bulkhead_zenoh::Router;
use jiff::SignedDuration;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `iss` of the tokens. The name can belong to nobody (RFC 2606 §2).
const ISSUER: &str = "https://issuer.invalid/bulkhead-dev";

/// `iss` of the token of the platform's own services.
const SERVICES: &str = "https://issuer.invalid/bulkhead-dev-services";

/// `aud` of the tokens.
const AUDIENCE: &str = "bulkhead";

/// The file with a token of somebody of acme.
const MEMBER_TOKEN: &str = "acme.token";

/// How long everything may take to be ready.
const READY: Duration = Duration::from_secs(15);

/// The tenants.
pub const TENANTS: [&str; 2] = ["acme", "globex"];

/// A running environment. Dropping it ends the servers.
pub struct Environment {
    folder: PathBuf,
    signer: Signer,
    nats: NatsServer,
    control: Control,
    exchange: Option<std::net::SocketAddr>,
    mqtt: SocketAddr,
    zenoh: Router,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevError {
    /// A tool or a server.
    #[error(transparent)]
    Devkit(#[from] bulkhead_devkit::Error),
    /// A file.
    #[error("{0}; check the path, or choose another with --dir")]
    Io(#[from] io::Error),
    /// The issuer.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// NATS's keys.
    #[error(transparent)]
    Init(#[from] InitError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tenants.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The services.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A name.
    #[error("{0}")]
    Name(#[from] NameError),
    /// Something was not ready in time.
    #[error("not ready in time: {missing}; see the logs in {}", folder.display())]
    NotReady {
        /// What.
        missing: String,
        /// Where the logs are.
        folder: PathBuf,
    },
    /// A client could not do what it should be able to.
    #[error("a client failed: {0}")]
    Client(String),
    /// A background task ended badly.
    #[error("{0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Environment {
    /// Starts everything in a folder, which keeps keys and tenants from one start to the next.
    ///
    /// # Errors
    /// [`DevError`].
    pub async fn start(folder: &Path) -> Result<Self, DevError> {
        files::create_private_folder(folder)?;
        let folder = folder.canonicalize()?;
        let key = folder.join("issuer.pem");
        let signer = if key.exists() { Signer::read(&key)? } else { Signer::create(&key)? };
        files::write_secret(
            &folder.join("issuer.jwks.json"),
            signer.jwks().to_string().as_bytes(),
        )?;
        let nats = start_nats(folder.join("nats")).await?;
        let path = folder.join("bulkhead.toml");
        let (mqtt, zenoh) = (bulkhead_devkit::free_port()?, bulkhead_devkit::free_port()?);
        files::write_secret(&path, configuration(nats.client_url(), mqtt, zenoh).as_bytes())?;
        write_service_token(&signer, &folder)?;
        let config = Config::load(&path)?;
        let store = Store::open(&config.directory).await?;
        for tenant in TENANTS {
            match store.create(&TenantId::parse(tenant)?, Tenant::default()).await {
                Ok(_) | Err(StoreError::Exists(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let Services { control, exchange, mqtt, zenoh } =
            start_services(config, Some(path)).await?;
        let zenoh = zenoh.ok_or_else(|| DevError::Client("Zenoh is not served".to_owned()))?;
        let mqtt = mqtt.and_then(|broker| broker.addresses().first().copied());
        let mqtt = mqtt.ok_or_else(|| DevError::Client("MQTT is not served".to_owned()))?;
        let environment = Self { folder, signer, nats, control, exchange, mqtt, zenoh };
        let member = environment.token("acme", None, "member")?;
        files::write_secret(&environment.folder.join(MEMBER_TOKEN), member.as_bytes())?;
        environment.ready().await?;
        Ok(environment)
    }

    /// A token for a member, or with a device for that device.
    ///
    /// # Errors
    /// [`DevError`].
    pub fn token(
        &self,
        tenant: &str,
        device: Option<&str>,
        role: &str,
    ) -> Result<String, DevError> {
        let mut request = TokenRequest::new(ISSUER, AUDIENCE, SignedDuration::from_hours(1))?;
        request.tenant = Some(TenantId::parse(tenant)?);
        request.device = device.map(DeviceId::parse).transpose()?;
        request.role = Some(RoleName::parse(role)?);
        Ok(self.signer.sign(&request)?)
    }

    /// Where NATS clients connect.
    pub fn nats_url(&self) -> &str {
        self.nats.client_url()
    }

    /// Where MQTT clients connect.
    pub fn mqtt_address(&self) -> SocketAddr {
        self.mqtt
    }

    /// Where Zenoh clients connect, as Zenoh writes it.
    pub fn zenoh_endpoint(&self) -> String {
        let address = self.zenoh.gate().addresses().first();
        address.map_or_else(String::new, |address| format!("tcp/{address}"))
    }

    /// What a person could try now.
    ///
    /// # Errors
    /// [`DevError`].
    pub fn invitation(&self) -> Result<String, DevError> {
        let config = self.folder.join("bulkhead.toml");
        let config = config.display();
        let key = self.folder.join("issuer.pem");
        let key = key.display();
        let mut text = format!(
            "NATS {nats}\nMQTT mqtt://{mqtt}\nZenoh {zenoh}\nTry, in another terminal:\n\n  \
             export BULKHEAD_CONFIG={config}\n  \
             bulkhead token mint --key {key} --tenant acme --device cam-1\n  \
             mosquitto_sub -h {host} -p {port} -u any -P \"$(bulkhead token mint --key {key} --tenant \
             acme --role member)\" -t 'device-connect/acme/#' -v\n  \
             bulkhead creds issue --backend nats --tenant acme --device cam-1 --out \
             cam-1.creds.json\n  \
             bulkhead creds issue --backend mqtt --tenant acme --device cam-1 --out \
             cam-1.mqtt.json\n  \
             bulkhead devices list --url http://{admin} --token-file {member}\n  \
             bulkhead tenant suspend acme     # cuts acme's connections within a second\n  \
             bulkhead tenant resume acme\n  \
             bulkhead audit verify\n  \
             curl -s http://{admin}/metrics | grep bulkhead_\n",
            nats = self.nats_url(),
            mqtt = self.mqtt,
            zenoh = self.zenoh_endpoint(),
            host = self.mqtt.ip(),
            port = self.mqtt.port(),
            admin = self.control.admin_address(),
            member = self.folder.join(MEMBER_TOKEN).display(),
        );
        if let Some(exchange) = self.exchange {
            text += &format!(
                "  curl -s -X POST -H \"Authorization: Bearer $(bulkhead token mint --key {key} \
                 --tenant acme --device cam-1)\" -d '{{\"backend\": \"mqtt\"}}' \
                 http://{exchange}/v1/credentials\n"
            );
        }
        Ok(text + "\nCtrl-C ends everything.")
    }

    /// Waits until somebody ends it, who does by `interrupted`.
    pub async fn wait(&self, interrupted: impl Future<Output = ()>) {
        self.control.wait(interrupted).await;
    }

    /// Ends everything in order.
    pub async fn stop(self) {
        self.control.shutdown().await;
        self.zenoh.close().await;
        drop(self.nats);
    }

    async fn ready(&self) -> Result<(), DevError> {
        let deadline = tokio::time::Instant::now() + READY;
        loop {
            let missing = self.control.readiness().missing();
            if missing.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                return Err(DevError::NotReady {
                    missing: missing.join(", "),
                    folder: self.folder.clone(),
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn start_nats(folder: PathBuf) -> Result<NatsServer, DevError> {
    let config = folder.join("nats-server.conf");
    if !config.exists() {
        bulkhead_auth_callout::init(&folder, "")?;
    }
    let text = files::read_text(&config)?;
    Ok(tokio::task::spawn_blocking(move || -> Result<_, bulkhead_devkit::Error> {
        let binary = Tools::open()?.nats_server()?;
        NatsServer::start(&binary, &folder, &text)
    })
    .await??)
}

/// What the registry shows to the MQTT broker and to the Zenoh router.
fn write_service_token(signer: &Signer, folder: &Path) -> Result<(), DevError> {
    let mut request = TokenRequest::new(SERVICES, AUDIENCE, SignedDuration::from_hours(24 * 30))?;
    request.role = Some(RoleName::parse("service")?);
    files::write_secret(&folder.join("service.token"), signer.sign(&request)?.as_bytes())?;
    Ok(())
}

fn configuration(nats: &str, mqtt: u16, zenoh: u16) -> String {
    format!(
        "# Written anew by each `bulkhead dev`.\n\
         dev = true\n\
         directory = {{ file = \"tenants.toml\" }}\n\
         audit = {{ path = \"audit.jsonl\" }}\n\
         admin = {{ listen = \"127.0.0.1:0\" }}\n\
         exchange = {{ listen = \"127.0.0.1:0\", keys = \"exchange\" }}\n\
         mqtt = {{ listeners = [\"tcp://127.0.0.1:{mqtt}\"], data = \"mqtt\" }}\n\
         zenoh = {{ listeners = [\"tcp/127.0.0.1:{zenoh}\"], own_router = true }}\n\
         nats = {{ servers = [\"{nats}\"], operator = {{ keys = \"nats\" }} }}\n\
         \n\
         [[issuers]]\n\
         name = \"dev\"\n\
         issuer = \"{ISSUER}\"\n\
         audiences = [\"{AUDIENCE}\"]\n\
         algorithms = [\"EdDSA\"]\n\
         keys.jwks_file = \"issuer.jwks.json\"\n\
         tenants = \"all\"\n\
         roles = [\"device\", \"member\", \"viewer\", \"operator\"]\n\
         \n\
         [[issuers]]\n\
         name = \"services\"\n\
         issuer = \"{SERVICES}\"\n\
         audiences = [\"{AUDIENCE}\"]\n\
         algorithms = [\"EdDSA\"]\n\
         keys.jwks_file = \"issuer.jwks.json\"\n\
         service = true\n\
         roles = [\"service\"]\n\
         default_role = \"service\"\n\
         \n\
         [registry]\n\
         store = {{ file = \"registry.redb\" }}\n\
         mqtt = {{ url = \"mqtt://127.0.0.1:{mqtt}\", token_file = \"service.token\" }}\n\
         zenoh = {{ connect = [\"tcp/127.0.0.1:{zenoh}\"], token_file = \"service.token\" }}\n"
    )
}
