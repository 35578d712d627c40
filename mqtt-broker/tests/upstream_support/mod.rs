//! A broker, the front before it, and clients that say exactly what they are told to.

#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each test uses some of it, and stops at a surprise"
)]

use bulkhead_control::config::{MqttConfig, UpstreamConfig};
use bulkhead_devkit::{MosquittoServer, Tools};
use bulkhead_mqtt_broker::Broker;
use bulkhead_mqtt_broker::codec::{
    self, AckKind, Connect, Frame, MAX_FRAME, Properties, PropertiesBuf, Property, PublishHeader,
    QoS, ReasonCode, ServerPacket, SubscriptionOptions, Version, Will, ack, matches, publish,
};
use bulkhead_mqtt_broker::hook::{Access, Answer, Attempt, Hook, Noted, Renewal};
use bulkhead_policy::{DenyReason, DeviceId, Quotas, Scope, TenantId, Verdict};
use jiff::Timestamp;
use prometheus::Registry;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long anything may take that has to happen. Far beyond what it takes: tests do not measure.
pub const WITHIN: Duration = Duration::from_secs(20);

pub const BOTH: [Version; 2] = [Version::V311, Version::V5];

/// What each tenant may do, until it is changed.
#[derive(Clone, Debug)]
pub struct Rights {
    pub publish: Vec<String>,
    pub subscribe: Vec<String>,
    pub suspended: bool,
    pub mount: String,
    pub quotas: Quotas,
    pub expires_at: Option<Timestamp>,
}

/// The rights of all tenants. A token is `tenant` or `tenant/device`.
#[derive(Clone, Debug, Default)]
pub struct World(Arc<Mutex<HashMap<String, (u64, Rights)>>>);

impl World {
    /// Everything below the tenant's name.
    pub fn of(tenants: &[&str]) -> Self {
        let world = Self::default();
        for tenant in tenants {
            let all = vec![format!("{tenant}/#")];
            world.0.lock().unwrap().insert(
                (*tenant).to_owned(),
                (
                    0,
                    Rights {
                        publish: all.clone(),
                        subscribe: all,
                        suspended: false,
                        mount: String::new(),
                        quotas: Quotas::default(),
                        expires_at: None,
                    },
                ),
            );
        }
        world
    }

    /// With `<tenant>/` before everything that clients say.
    pub fn mounted(tenants: &[&str]) -> Self {
        let world = Self::of(tenants);
        for tenant in tenants {
            world.set(tenant, |rights| rights.mount = format!("{tenant}/"));
        }
        world
    }

    pub fn set(&self, tenant: &str, change: impl FnOnce(&mut Rights)) {
        let mut all = self.0.lock().unwrap();
        let (version, rights) = all.get_mut(tenant).unwrap();
        *version += 1;
        change(rights);
    }
}

struct Whoever {
    world: World,
    scope: Scope,
    tenant: String,
    device: Option<DeviceId>,
    version: u64,
    rights: Rights,
}

impl Whoever {
    fn new(world: &World, tenant: &str, device: Option<DeviceId>) -> Verdict<Self> {
        let all = world.0.lock().unwrap();
        let (version, rights) = all.get(tenant).ok_or(DenyReason::TenantUnknown)?.clone();
        if rights.suspended {
            return Err(DenyReason::TenantSuspended);
        }
        Ok(Self {
            world: world.clone(),
            scope: Scope::Tenant(TenantId::parse(tenant).unwrap()),
            tenant: tenant.to_owned(),
            device,
            version,
            rights,
        })
    }
}

impl Hook for World {
    fn mount(&self, tenant: &TenantId) -> String {
        self.0.lock().unwrap().get(tenant.as_str()).unwrap().1.mount.clone()
    }

    fn connect<'a>(&'a self, attempt: Attempt<'a>) -> Answer<'a> {
        Box::pin(async move {
            let token = attempt.tokens.first().ok_or(DenyReason::TokenMissing)?;
            let token = std::str::from_utf8(token).unwrap();
            let (tenant, device) = match token.split_once('/') {
                Some((tenant, device)) => (tenant, Some(DeviceId::parse(device).unwrap())),
                None => (token, None),
            };
            let access: Arc<dyn Access> = Arc::new(Whoever::new(self, tenant, device)?);
            Ok(access)
        })
    }
}

impl Access for Whoever {
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn device(&self) -> Option<&DeviceId> {
        self.device.as_ref()
    }

    fn publish(&self, topic: &str) -> Verdict<()> {
        let allowed = self.rights.publish.iter().any(|filter| matches(filter, topic));
        if allowed { Ok(()) } else { Err(DenyReason::PublishDenied) }
    }

    fn subscribe(&self, filter: &str) -> Verdict<()> {
        let included = |allowed: &String| {
            allowed == filter
                || allowed.strip_suffix('#').is_some_and(|below| filter.starts_with(below))
        };
        let allowed = self.rights.subscribe.iter().any(included);
        if allowed { Ok(()) } else { Err(DenyReason::SubscribeDenied) }
    }

    fn receives(&self, topic: &str) -> bool {
        self.rights.subscribe.iter().any(|filter| matches(filter, topic))
    }

    fn expires_at(&self) -> Option<Timestamp> {
        self.rights.expires_at
    }

    fn quotas(&self) -> Quotas {
        self.rights.quotas
    }

    fn note(&self, _: Noted) {}

    fn renew(&self) -> Verdict<Renewal> {
        let now = Self::new(&self.world, &self.tenant, self.device.clone())?;
        if now.version == self.version {
            return Ok(Renewal::Unchanged);
        }
        Ok(Renewal::Changed(Arc::new(now)))
    }
}

/// A running front.
pub struct Front {
    pub broker: Broker,
    pub world: World,
    pub registry: Registry,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Front {
    /// Before the broker at this URL.
    pub async fn before(url: &str, world: &World) -> Self {
        Self::start(UpstreamConfig::new(url.parse().unwrap()), world, |_| ()).await
    }

    pub async fn start(
        upstream: UpstreamConfig,
        world: &World,
        change: impl FnOnce(&mut MqttConfig),
    ) -> Self {
        let mut config = MqttConfig::new(vec!["tcp://127.0.0.1:0".parse().unwrap()]);
        config.upstream = Some(upstream);
        change(&mut config);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let registry = Registry::new();
        let broker = Broker::start(&config, world.clone(), &registry, &tasks, &stop).unwrap();
        Self { broker, world: world.clone(), registry, tasks, stop }
    }

    pub fn address(&self) -> SocketAddr {
        self.broker.addresses()[0]
    }

    /// Changes a tenant's rights, and lets the front know.
    pub fn change(&self, tenant: &str, change: impl FnOnce(&mut Rights)) -> u64 {
        self.world.set(tenant, change);
        let cut = self.broker.reassess(Some(&TenantId::parse(tenant).unwrap()));
        cut.values().sum()
    }

    pub fn client(&self, version: Version, token: &str, id: &str) -> Hello {
        Hello::new(self.address(), version, token, id)
    }

    /// A client that is connected, with a session that ends with the connection.
    pub async fn connected(&self, version: Version, token: &str, id: &str) -> Client {
        self.client(version, token, id).connect().await
    }

    /// The value of a metric, over all its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        metrics.iter().map(|m| m.get_counter().get_value() + m.get_gauge().get_value()).sum()
    }

    pub async fn ready(&self) {
        eventually("the broker is there", async || self.broker.is_ready()).await;
    }

    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        timeout(WITHIN, self.tasks.wait()).await.expect("everything ends");
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A mosquitto that takes everybody.
pub fn mosquitto(dir: &Path) -> MosquittoServer {
    mosquitto_with(dir, "allow_anonymous true\n")
}

pub fn mosquitto_with(dir: &Path, config: &str) -> MosquittoServer {
    let programs = Tools::open().unwrap().mosquitto().unwrap();
    MosquittoServer::start(&programs.broker, dir, config).unwrap()
}

/// Mosquitto and the front.
pub async fn site(world: &World) -> (TempDir, MosquittoServer, Front) {
    let dir = tempfile::tempdir().unwrap();
    let mosquitto = mosquitto(dir.path());
    let front = Front::before(&format!("mqtt://{}", mosquitto.address()), world).await;
    (dir, mosquitto, front)
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !holds().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A CONNECT.
pub struct Hello {
    address: SocketAddr,
    pub version: Version,
    pub token: String,
    pub id: String,
    pub clean: bool,
    pub keep_alive: u16,
    pub properties: PropertiesBuf,
    pub will: Option<(String, Vec<u8>, QoS, bool, PropertiesBuf)>,
}

impl Hello {
    pub fn new(address: SocketAddr, version: Version, token: &str, id: &str) -> Self {
        Self {
            address,
            version,
            token: token.to_owned(),
            id: id.to_owned(),
            clean: true,
            keep_alive: 60,
            properties: PropertiesBuf::new(),
            will: None,
        }
    }

    /// With a session that outlives the connection.
    pub fn kept(mut self) -> Self {
        self.clean = false;
        self.with(Property::SessionExpiry(3600))
    }

    pub fn with(mut self, property: Property<'_>) -> Self {
        self.properties.push(property);
        self
    }

    pub fn will(mut self, topic: &str, payload: &str) -> Self {
        let properties = PropertiesBuf::new();
        let payload = payload.as_bytes().to_vec();
        self.will = Some((topic.to_owned(), payload, QoS::AtLeastOnce, false, properties));
        self
    }

    /// Has the will wait so many seconds.
    pub fn delayed(mut self, seconds: u32) -> Self {
        if let Some(will) = &mut self.will {
            will.4.push(Property::WillDelay(seconds));
        }
        self
    }

    /// Says it. Returns the answer too, which may be the end.
    pub async fn say(self) -> (Client, Got) {
        let mut packet = Vec::new();
        codec::connect(
            &mut packet,
            &Connect {
                version: self.version,
                clean_start: self.clean,
                keep_alive: self.keep_alive,
                client_id: &self.id,
                properties: self.properties.as_properties(),
                will: self.will.as_ref().map(|(topic, payload, qos, retain, properties)| Will {
                    qos: *qos,
                    retain: *retain,
                    topic,
                    properties: properties.as_properties(),
                    payload,
                }),
                user_name: Some("whoever"),
                password: Some(self.token.as_bytes()),
            },
        );
        let stream = TcpStream::connect(self.address).await.unwrap();
        let mut client =
            Client { stream, buffer: Vec::new(), before: VecDeque::new(), version: self.version };
        client.send(&packet).await;
        let answer = client.next().await;
        (client, answer)
    }

    pub async fn connect(self) -> Client {
        let (client, answer) = self.say().await;
        assert!(matches!(answer, Got::ConnAck { reason: ReasonCode::SUCCESS, .. }), "{answer:?}");
        client
    }

    /// Says it, and gets its session of before.
    pub async fn resume(self) -> Client {
        let (client, answer) = self.say().await;
        let Got::ConnAck { present, reason, .. } = answer else { panic!("{answer:?}") };
        assert_eq!((present, reason), (true, ReasonCode::SUCCESS));
        client
    }

    /// Says it, and is refused.
    pub async fn refused(self) -> ReasonCode {
        match self.say().await.1 {
            Got::ConnAck { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }
}

/// A connection that says what it is told to.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    /// What came before the answer that was waited for.
    before: VecDeque<Got>,
    pub version: Version,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    ConnAck {
        present: bool,
        reason: ReasonCode,
        assigned: Option<String>,
        max_packet: Option<u32>,
    },
    Publish {
        topic: String,
        payload: Vec<u8>,
        qos: u8,
        retain: bool,
        id: u16,
        response: Option<String>,
    },
    Ack(AckKind, u16, ReasonCode),
    SubAck(u16, Vec<u8>),
    UnsubAck(u16, Vec<u8>),
    PingResp,
    Disconnect(ReasonCode),
    Auth(ReasonCode),
    End,
}

impl Client {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub async fn next(&mut self) -> Got {
        match self.before.pop_front() {
            Some(got) => got,
            None => timeout(WITHIN, self.read()).await.expect("something comes"),
        }
    }

    /// The answer to something. Messages may come before it.
    pub async fn answer(&mut self) -> Got {
        loop {
            match timeout(WITHIN, self.read()).await.expect("an answer comes") {
                message @ Got::Publish { .. } => self.before.push_back(message),
                answer => return answer,
            }
        }
    }

    async fn read(&mut self) -> Got {
        loop {
            if let Some(frame) = Frame::find(&self.buffer, MAX_FRAME).unwrap() {
                let packet = ServerPacket::decode(&frame, self.version).unwrap();
                let (got, len) = (Got::of(&packet), frame.len);
                self.buffer.drain(..len);
                return got;
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(n) if n > 0 => {}
                _ => return Got::End,
            }
        }
    }

    /// The next message: its topic and payload. QoS 1 and 2 are acknowledged.
    pub async fn message(&mut self) -> (String, String) {
        let got = self.next().await;
        let Got::Publish { topic, payload, qos, id, .. } = got else {
            panic!("no message: {got:?}");
        };
        match qos {
            1 => self.ack(AckKind::PubAck, id).await,
            2 => {
                self.ack(AckKind::PubRec, id).await;
                let released = self.next().await;
                assert_eq!(released, Got::Ack(AckKind::PubRel, id, ReasonCode::SUCCESS));
                self.ack(AckKind::PubComp, id).await;
            }
            _ => {}
        }
        (topic, String::from_utf8(payload).unwrap())
    }

    /// Nothing waits: a PINGREQ is the next to be answered, after what was to come has had its time.
    pub async fn nothing(&mut self) {
        // The order of two connections through the broker is not known, so it is given a moment.
        sleep(Duration::from_millis(150)).await;
        self.send(&[0xC0, 0]).await;
        assert_eq!(self.next().await, Got::PingResp);
    }

    pub async fn ack(&mut self, kind: AckKind, id: u16) {
        let mut out = Vec::new();
        ack(&mut out, self.version, kind, id, ReasonCode::SUCCESS);
        self.send(&out).await;
    }

    pub async fn publish_with(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        retain: bool,
        id: u16,
        properties: &[Property<'_>],
    ) {
        let mut out = Vec::new();
        let header = PublishHeader { dup: false, qos, retain, topic, packet_id: id };
        publish(&mut out, self.version, header, &[], properties, payload);
        self.send(&out).await;
    }

    /// Publishes at QoS 1, and returns the answer.
    pub async fn publish(&mut self, topic: &str, payload: &str) -> ReasonCode {
        self.publish_with(topic, payload.as_bytes(), QoS::AtLeastOnce, false, 9, &[]).await;
        match self.answer().await {
            // Some brokers say that nobody listens.
            Got::Ack(AckKind::PubAck, 9, ReasonCode::NO_MATCHING_SUBSCRIBERS) => {
                ReasonCode::SUCCESS
            }
            Got::Ack(AckKind::PubAck, 9, reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    pub async fn subscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let options = SubscriptionOptions::of_qos(QoS::ExactlyOnce);
        let filters: Vec<_> = filters.iter().map(|filter| (*filter, options)).collect();
        let mut out = Vec::new();
        codec::subscribe(&mut out, self.version, 77, &[], &filters);
        self.send(&out).await;
        match self.answer().await {
            Got::SubAck(77, codes) => codes,
            other => panic!("{other:?}"),
        }
    }

    pub async fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        codec::unsubscribe(&mut out, self.version, 78, &[], filters);
        self.send(&out).await;
        match self.answer().await {
            Got::UnsubAck(78, codes) => codes,
            other => panic!("{other:?}"),
        }
    }

    pub async fn disconnect(mut self) {
        let mut out = Vec::new();
        codec::client_disconnect(&mut out, self.version, ReasonCode::NORMAL_DISCONNECTION, &[]);
        self.send(&out).await;
        assert_eq!(self.next().await, Got::End);
    }

    /// Waits until it is cut off, and returns the reason; 3.1.1 hears none.
    pub async fn cut(&mut self) -> Option<ReasonCode> {
        loop {
            match self.next().await {
                Got::Disconnect(reason) => {
                    assert_eq!(self.next().await, Got::End);
                    return Some(reason);
                }
                Got::End => return None,
                _ => {}
            }
        }
    }
}

impl Got {
    fn of(packet: &ServerPacket<'_>) -> Self {
        let acked = |kind, ack: &codec::Ack<'_>| Self::Ack(kind, ack.packet_id, ack.reason);
        match packet {
            ServerPacket::ConnAck { session_present, reason, properties } => Self::ConnAck {
                present: *session_present,
                reason: *reason,
                assigned: properties.assigned_client_id().map(str::to_owned),
                max_packet: properties.maximum_packet_size(),
            },
            ServerPacket::Publish(message) => Self::Publish {
                topic: message.topic.to_owned(),
                payload: message.payload.to_vec(),
                qos: message.qos as u8,
                retain: message.retain,
                id: message.packet_id,
                response: message.properties.response_topic().map(str::to_owned),
            },
            ServerPacket::PubAck(ack) => acked(AckKind::PubAck, ack),
            ServerPacket::PubRec(ack) => acked(AckKind::PubRec, ack),
            ServerPacket::PubRel(ack) => acked(AckKind::PubRel, ack),
            ServerPacket::PubComp(ack) => acked(AckKind::PubComp, ack),
            ServerPacket::SubAck { packet_id, codes, .. } => {
                Self::SubAck(*packet_id, codes.to_vec())
            }
            ServerPacket::UnsubAck { packet_id, codes, .. } => {
                Self::UnsubAck(*packet_id, codes.to_vec())
            }
            ServerPacket::PingResp => Self::PingResp,
            ServerPacket::Disconnect(disconnect) => Self::Disconnect(disconnect.reason),
            ServerPacket::Auth(auth) => Self::Auth(auth.reason),
        }
    }
}

/// No properties.
pub fn none() -> Properties<'static> {
    Properties::default()
}
