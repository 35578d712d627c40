//! MQTT: at Bulkhead's own broker or front as a platform service, or at any other as a trusted client.
//!
//! A request says in its payload where it wants its answer; the answer goes there in the tenant that the
//! request came from. Bulkhead's broker says in CONNACK that it takes names of a tenant from a service
//! (`$tenant/<tenant>/…`), and whether it tells who publishes.

use super::{Backend, BackendError, Connections, Hearing};
use crate::fleet::{Asked, Asker, Fleet, Who};
use crate::presence::Via;
use crate::wire::{Subject, is_reply_topic};
use bulkhead_control::config::RegistryMqtt;
use bulkhead_control::files::read_text;
use bulkhead_policy::{Broker, DeviceId, TenantId, service};
use data_encoding::BASE64;
use futures::future::BoxFuture;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAckProperties, Filter, Packet, Publish, RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

/// First and longest pause between attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// How often the broker is asked for a sign of life.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Requests to the broker that wait to be sent.
const WAITING: usize = 4096;

/// Messages that the broker may send before they are acknowledged.
const RECEIVE_MAXIMUM: u16 = 1024;

/// Bytes of a message, either way.
const MAX_MESSAGE: u32 = 16 * 1024 * 1024;

/// Bytes of an answer.
const MAX_ANSWER: usize = MAX_MESSAGE as usize - 1024;

/// A request as devices wrap it.
#[derive(Deserialize)]
struct Envelope {
    /// The request itself, in Base64.
    data: String,
    /// Where the answer is wanted.
    reply_to: String,
}

/// The way over MQTT: a connection for each tenant, or for some, so that what one sends fills its own
/// queue at the broker.
pub(crate) struct Mqtt {
    config: RegistryMqtt,
    stop: CancellationToken,
    connections: Arc<Connections<Shared>>,
}

/// One connection.
struct Shared {
    config: RegistryMqtt,
    hearing: Hearing,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    connection: Option<Connection>,
    tenants: HashMap<TenantId, (Arc<Fleet>, CancellationToken)>,
}

#[derive(Clone)]
struct Connection {
    client: AsyncClient,
    /// The broker takes names of a tenant.
    addresses_tenants: bool,
    /// The broker says who publishes.
    identifies: bool,
    /// Bytes of a message that the broker takes.
    most: usize,
}

impl Mqtt {
    /// Connects, now or when the broker is there.
    ///
    /// # Errors
    /// [`BackendError`] for a configuration that cannot be used.
    pub(crate) fn start(
        config: &RegistryMqtt,
        stop: CancellationToken,
    ) -> Result<Self, BackendError> {
        let mqtt = Self { config: config.clone(), stop, connections: Arc::default() };
        let first = mqtt.open();
        // What is wrong with the settings is said at the start.
        first.options()?;
        mqtt.connections.add(first);
        Ok(mqtt)
    }

    fn open(&self) -> Arc<Shared> {
        let shared = Arc::new(Shared {
            config: self.config.clone(),
            hearing: Hearing::default(),
            inside: Mutex::default(),
        });
        tokio::spawn(keep_connected(Arc::clone(&shared), self.stop.clone()));
        shared
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn options(&self) -> Result<MqttOptions, BackendError> {
        let config = &self.config;
        let (host, port, encrypted) = config.host_and_port().unwrap_or(("127.0.0.1", 1883, false));
        let id = format!("bulkhead-registry-{}", uuid::Uuid::new_v4().simple());
        let mut options = MqttOptions::new(id, host, port);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_clean_start(true);
        options.set_receive_maximum(Some(RECEIVE_MAXIMUM));
        options.set_max_packet_size(Some(MAX_MESSAGE));
        options.set_request_channel_capacity(WAITING);
        if let Some(path) = &config.token_file {
            let token = read_text(path).map_err(|cause| BackendError::File {
                setting: "registry.mqtt.token_file",
                cause,
            })?;
            options.set_credentials(&config.user, token.trim());
        }
        if encrypted {
            options.set_transport(Transport::tls_with_config(self.tls()?));
        }
        Ok(options)
    }

    fn tls(&self) -> Result<TlsConfiguration, BackendError> {
        let mut roots = rustls::RootCertStore::empty();
        let failed = |cause: String| BackendError::Setting {
            setting: "registry.mqtt.ca_file",
            cause,
            remedy: "name a PEM file with the authority of the broker's certificate",
        };
        match &self.config.ca_file {
            Some(path) => {
                let found = CertificateDer::pem_file_iter(path);
                for one in found.map_err(|error| failed(error.to_string()))? {
                    let one = one.map_err(|error| failed(error.to_string()))?;
                    roots.add(one).map_err(|error| failed(error.to_string()))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
        }
        if roots.is_empty() {
            return Err(failed("there is no authority".to_owned()));
        }
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        let config = match (&self.config.cert_file, &self.config.key_file) {
            (Some(cert_file), Some(key_file)) => {
                let (chain, key) = identity(cert_file, key_file)?;
                config.with_client_auth_cert(chain, key).map_err(|error| BackendError::Setting {
                    setting: "registry.mqtt.cert_file",
                    cause: error.to_string(),
                    remedy: "check that key_file is the key of cert_file",
                })?
            }
            _ => config.with_no_client_auth(),
        };
        Ok(TlsConfiguration::Rustls(Arc::new(config)))
    }

    fn connection(&self) -> Option<Connection> {
        self.lock().connection.clone()
    }

    fn fleet(&self, tenant: &str) -> Option<Arc<Fleet>> {
        let inside = self.lock();
        let (fleet, until) = inside.tenants.get(tenant)?;
        (!until.is_cancelled()).then(|| Arc::clone(fleet))
    }
}

/// What the registry shows a broker that asks for a certificate.
fn identity(
    cert_file: &Path,
    key_file: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), BackendError> {
    let read =
        |setting, path| read_text(path).map_err(|cause| BackendError::File { setting, cause });
    let wrong = |setting, what: &str, remedy| BackendError::Setting {
        setting,
        cause: format!("it holds no {what} in PEM"),
        remedy,
    };
    let setting = "registry.mqtt.cert_file";
    let text = read(setting, cert_file)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| {
        wrong(setting, "certificate", "name the certificate that the broker knows the registry by")
    })?;
    let setting = "registry.mqtt.key_file";
    let text = read(setting, key_file)?;
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| wrong(setting, "private key", "name the key of cert_file"))?;
    Ok((chain, key))
}

/// Has a connection to the broker, for as long as the process runs. Each reads the token anew.
async fn keep_connected(shared: Arc<Shared>, stop: CancellationToken) {
    let mut pause = BACKOFF.0;
    while !stop.is_cancelled() {
        match shared.options() {
            Ok(options) => {
                let (client, mut events) = AsyncClient::new(options, WAITING);
                let ended = stop.run_until_cancelled(converse(&shared, &client, &mut events)).await;
                let was_there = shared.hearing.span().is_some();
                shared.lock().connection = None;
                shared.hearing.ends();
                // When everything ends, the broker may be gone before this hears of it.
                let Some(error) = ended.filter(|_| !stop.is_cancelled()) else {
                    let _ = client.try_disconnect();
                    return;
                };
                tracing::warn!(%error, "the registry's MQTT broker is away");
                if was_there {
                    pause = BACKOFF.0;
                }
            }
            Err(error) => tracing::error!(%error, "the registry cannot connect to the MQTT broker"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Hears the broker until that fails, and says why.
async fn converse(shared: &Arc<Shared>, client: &AsyncClient, events: &mut EventLoop) -> String {
    let mut here: Option<Connection> = None;
    loop {
        let event = events.poll().await;
        if matches!(event, Ok(Event::Incoming(_))) {
            shared.hearing.lives();
        }
        match event {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                let properties = connack.properties.as_ref();
                let connection = Connection::of(client, properties);
                if !connection.addresses_tenants {
                    tracing::debug!(
                        "the registry's MQTT broker is none of Bulkhead's: devices that are connected to it \
                         through a front are not served"
                    );
                }
                let tenants: Vec<_> = {
                    let mut inside = shared.lock();
                    inside.connection = Some(connection.clone());
                    inside.tenants.retain(|_, (_, until)| !until.is_cancelled());
                    inside.tenants.keys().cloned().collect()
                };
                here = Some(connection);
                shared.hearing.begins();
                let client = client.clone();
                // The queue of requests is emptied by this loop alone.
                tokio::spawn(async move {
                    for tenant in tenants {
                        subscribe(&client, &tenant).await;
                    }
                });
            }
            Ok(Event::Incoming(Packet::Publish(message))) => {
                if let Some(connection) = &here {
                    hear(shared, connection, message);
                }
            }
            Ok(Event::Incoming(Packet::Disconnect(disconnect))) => {
                return format!("it closed the connection: {:?}", disconnect.reason_code);
            }
            Ok(Event::Incoming(Packet::SubAck(answer))) => {
                let is_granted = |reason: &_| matches!(reason, SubscribeReasonCode::Success(_));
                if !answer.return_codes.iter().all(is_granted) {
                    return format!("it refused a subscription: {:?}", answer.return_codes);
                }
            }
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
    }
}

fn filters(tenant: &TenantId) -> [String; 3] {
    let subjects = [Subject::Heartbeat(None), Subject::Discovery, Subject::Registry];
    subjects.map(|subject| subject.on(Broker::Mqtt, tenant))
}

async fn subscribe(client: &AsyncClient, tenant: &TenantId) {
    let filters = filters(tenant).map(|filter| Filter {
        // What is retained is from another time.
        retain_forward_rule: RetainForwardRule::Never,
        ..Filter::new(filter, QoS::AtLeastOnce)
    });
    if let Err(error) = client.subscribe_many(filters).await {
        tracing::debug!(%error, "not subscribed");
    }
}

fn hear(shared: &Arc<Shared>, connection: &Connection, message: Publish) {
    if message.retain {
        // It is from another time, and nobody waits for an answer.
        return;
    }
    let Ok(topic) = std::str::from_utf8(&message.topic) else { return };
    let mut segments = topic.split('/').skip(1);
    let Some(fleet) = segments.next().and_then(|tenant| shared.fleet(tenant)) else { return };
    match (segments.next(), segments.next(), segments.next()) {
        (Some("registry"), None, None) => {
            request(connection, &fleet, &message, Asked::Registration);
        }
        (Some("discovery"), None, None) => request(connection, &fleet, &message, Asked::Discovery),
        (Some(_), Some("heartbeat"), None) => {
            let device = Subject::beating(topic, Broker::Mqtt);
            fleet.post(device, message.payload.to_vec(), Via::Mqtt);
        }
        _ => {}
    }
}

/// Answers a request; one that says nowhere to answer, or somewhere that is no reply topic, is left.
fn request(connection: &Connection, fleet: &Arc<Fleet>, message: &Publish, asked: Asked) {
    let admitted = fleet.admit(asked, message.payload.len(), Via::Mqtt);
    // Where the answer goes has not been read yet.
    let Ok(mut permit) = admitted else { return };
    let Ok(envelope) = serde_json::from_slice::<Envelope>(&message.payload) else { return };
    if !is_reply_topic(&envelope.reply_to) {
        tracing::debug!(tenant = %fleet.tenant, "an answer was wanted where none goes");
        return;
    }
    let Ok(request) = BASE64.decode(envelope.data.as_bytes()) else { return };
    let asker = Asker {
        broker: Broker::Mqtt,
        who: if connection.identifies { who(message) } else { Who::Untold },
        most: connection.most,
    };
    let (connection, fleet) = (connection.clone(), Arc::clone(fleet));
    tokio::spawn(async move {
        let answer = fleet.answer(asked, &request, &asker, Via::Mqtt, &mut permit).await;
        let topic = if connection.addresses_tenants {
            service::in_tenant(&fleet.tenant, &envelope.reply_to)
        } else {
            envelope.reply_to
        };
        let sent = connection.client.publish(topic, QoS::AtLeastOnce, false, answer).await;
        if let Err(error) = sent {
            tracing::debug!(%error, "an answer could not be sent");
        }
        drop(permit);
    });
}

/// Who published, as the broker says: nothing of a service of the platform.
fn who(message: &Publish) -> Who {
    let all = message.properties.iter().flat_map(|properties| &properties.user_properties);
    let mut told = all.filter(|(name, _)| name == service::PUBLISHER);
    match (told.next(), told.next()) {
        (None, _) => Who::Untold,
        (Some((_, told)), None) => told.parse().map_or(Who::Unreadable, Who::Known),
        (Some(_), Some(_)) => Who::Unreadable,
    }
}

impl Connection {
    fn of(client: &AsyncClient, properties: Option<&ConnAckProperties>) -> Self {
        let says = |what: &str| {
            properties.is_some_and(|properties| {
                let mut all = properties.user_properties.iter();
                all.any(|(name, value)| name == service::OFFERS && value == what)
            })
        };
        let most = properties.and_then(|properties| properties.max_packet_size);
        let most = most.map_or(MAX_ANSWER, |most| usize::try_from(most).unwrap_or(MAX_ANSWER));
        Self {
            client: client.clone(),
            addresses_tenants: says(service::TENANT_NAMES),
            identifies: says(service::PUBLISHER),
            most: most.min(MAX_ANSWER).saturating_sub(1024),
        }
    }
}

impl Backend for Mqtt {
    fn via(&self) -> Via {
        Via::Mqtt
    }

    fn broker(&self) -> Broker {
        Broker::Mqtt
    }

    fn is_heard(&self) -> bool {
        self.connections.any(|shared| shared.hearing.span().is_some())
    }

    fn heard(&self, tenant: &TenantId) -> Option<(Instant, Instant)> {
        self.connections.of(tenant)?.hearing.span()
    }

    fn attach(&self, fleet: Arc<Fleet>) -> BoxFuture<'_, DropGuard> {
        Box::pin(async move {
            let until = CancellationToken::new();
            let tenant = fleet.tenant.clone();
            let placed = self.connections.place(&tenant, || Some(self.open()));
            let Some((placement, shared)) = placed else {
                return until.drop_guard();
            };
            let connection = {
                let mut inside = shared.lock();
                inside.tenants.insert(tenant.clone(), (fleet, until.clone()));
                inside.connection.clone()
            };
            if let Some(connection) = connection {
                subscribe(&connection.client, &tenant).await;
            }
            let (ended, connections) = (until.clone(), Arc::clone(&self.connections));
            tokio::spawn(async move {
                ended.cancelled().await;
                connections.remove(&tenant, placement);
                let connection = {
                    let mut inside = shared.lock();
                    // It may be served here again by now.
                    let is_over =
                        inside.tenants.get(&tenant).is_some_and(|(_, u)| u.is_cancelled());
                    if !is_over {
                        return;
                    }
                    inside.tenants.remove(&tenant);
                    inside.connection.clone()
                };
                if let Some(connection) = connection {
                    for filter in filters(&tenant) {
                        let _ = connection.client.unsubscribe(filter).await;
                    }
                }
            });
            until.drop_guard()
        })
    }

    fn publish(&self, tenant: &TenantId, name: String, payload: Vec<u8>) -> BoxFuture<'_, ()> {
        let connection = self.connections.of(tenant).and_then(|shared| shared.connection());
        // Nobody waits for a broker that does not take it: the others have to be told too.
        if let Some(connection) = connection {
            let sent = connection.client.try_publish(name, QoS::AtLeastOnce, false, payload);
            if let Err(error) = sent {
                tracing::debug!(%error, "not published");
            }
        }
        Box::pin(std::future::ready(()))
    }

    /// Devices do not unwrap what they are asked over MQTT, and so never answer.
    fn pull(
        &self,
        _: TenantId,
        _: DeviceId,
        _: Vec<u8>,
        _: Duration,
    ) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(std::future::ready(None))
    }
}
