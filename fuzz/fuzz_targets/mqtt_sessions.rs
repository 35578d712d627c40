//! Sequences of packets of several clients, well formed and not, through the whole session layer.
//!
//! No task may panic, and no byte of one tenant's payloads may reach a client of the other.

#![no_main]

use bulkhead_control::config::MqttConfig;
use bulkhead_mqtt_broker::Broker;
use bulkhead_mqtt_broker::codec::{
    AckKind, Connect, Frame, PropertiesBuf, Property, PublishHeader, QoS, ReasonCode,
    RetainHandling, SubscriptionOptions, Version, Will, ack, client_disconnect, connect, pingreq,
    publish, subscribe, unsubscribe,
};
use bulkhead_mqtt_broker::hook::{AllowAll, Answer, Attempt, Hook};
use bulkhead_policy::{DenyReason, TenantId};
use libfuzzer_sys::fuzz_target;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const TENANTS: [&str; 2] = ["acme", "globex"];
const TOPICS: [&str; 6] = ["a", "a/b", "b", "", "$x/y", "a/b/c"];
const FILTERS: [&str; 9] =
    ["a", "a/+", "#", "+/b", "$share/g/a/#", "$share/g/#", "$share//x", "a#", "$x/#"];

/// Bytes of the largest packet.
const MAX_PACKET: usize = 4096;

/// Packets that wait to be read by a client of the target.
const PIPE: usize = 1 << 20;

/// How long an answer is waited for that always comes, as far as is known.
const LOST: Duration = Duration::from_millis(50);

struct ByUserName;

impl Hook for ByUserName {
    fn connect<'a>(&'a self, attempt: Attempt<'a>) -> Answer<'a> {
        let tenant = TenantId::parse(attempt.user_name.unwrap_or_default());
        Box::pin(std::future::ready(match tenant {
            Ok(tenant) => Ok(Arc::new(AllowAll::of(tenant)) as Arc<_>),
            Err(_) => Err(DenyReason::TenantInvalid),
        }))
    }
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
});

static BROKER: LazyLock<Broker> = LazyLock::new(|| {
    let _entered = RUNTIME.enter();
    let mut config = MqttConfig::new(Vec::new());
    config.max_packet_bytes = MAX_PACKET;
    config.routers = 1;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    Broker::start(&config, ByUserName, &prometheus::Registry::new(), &tasks, &stop).unwrap()
});

struct Client {
    tenant: usize,
    version: Version,
    stream: DuplexStream,
    serving: JoinHandle<()>,
    /// What it has said, and how much of that are whole packets.
    said: Vec<u8>,
    whole: usize,
    /// What it has heard, and how much of that was looked at.
    heard: Vec<u8>,
    read: usize,
    /// Nothing will answer it any more.
    is_lost: bool,
}

/// Bytes that choose what happens.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.next()) % of.len()]
    }

    fn some(&mut self) -> &'a [u8] {
        let n = usize::from(self.next() % 32).min(self.0.len());
        let (some, rest) = self.0.split_at(n);
        self.0 = rest;
        some
    }

    fn qos(&mut self) -> QoS {
        self.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
    }
}

/// What only a tenant's own clients may hear.
fn mark(tenant: usize) -> Vec<u8> {
    format!("payload-of-{}", TENANTS[tenant]).into_bytes()
}

fn hello(choices: &mut Choices<'_>, tenant: usize) -> (Vec<u8>, Version) {
    let version = choices.pick(&[Version::V311, Version::V5]);
    let mut properties = PropertiesBuf::default();
    if version == Version::V5 {
        let flags = choices.next();
        if flags & 1 != 0 {
            properties.push(Property::SessionExpiry(60));
        }
        if flags & 2 != 0 {
            properties.push(Property::ReceiveMaximum(u16::from(choices.next() % 3) + 1));
        }
        if flags & 4 != 0 {
            properties.push(Property::TopicAliasMaximum(2));
        }
        if flags & 8 != 0 {
            properties.push(Property::MaximumPacketSize(u32::from(choices.next()) + 1));
        }
    }
    let payload = mark(tenant);
    let nothing = PropertiesBuf::default();
    let will = (choices.next() % 3 == 0).then(|| Will {
        qos: choices.qos(),
        retain: choices.next() % 2 == 0,
        topic: choices.pick(&TOPICS[..3]),
        properties: nothing.as_properties(),
        payload: &payload,
    });
    let mut out = Vec::new();
    connect(
        &mut out,
        &Connect {
            version,
            clean_start: choices.next() % 2 == 0,
            keep_alive: 60,
            client_id: choices.pick(&["one", "other"]),
            properties: properties.as_properties(),
            will,
            user_name: Some(TENANTS[tenant]),
            password: None,
        },
    );
    (out, version)
}

fn packet(choices: &mut Choices<'_>, tenant: usize, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    let id = u16::from(choices.next() % 4);
    match choices.next() % 12 {
        0..=3 => {
            let alias = [Property::TopicAlias(u16::from(choices.next() % 4))];
            let with_alias = version == Version::V5 && choices.next() % 4 == 0;
            let qos = choices.qos();
            let header = PublishHeader {
                dup: qos != QoS::AtMostOnce && choices.next() % 4 == 0,
                qos,
                retain: choices.next() % 3 == 0,
                topic: choices.pick(&TOPICS),
                packet_id: id,
            };
            let payload = if choices.next() % 8 == 0 { Vec::new() } else { mark(tenant) };
            let extra: &[Property<'_>] = if with_alias { &alias } else { &[] };
            publish(&mut out, version, header, &[], extra, &payload);
        }
        4 | 5 => {
            let options = SubscriptionOptions {
                qos: choices.qos(),
                no_local: version == Version::V5 && choices.next() % 4 == 0,
                retain_as_published: version == Version::V5 && choices.next() % 2 == 0,
                retain_handling: if version == Version::V5 {
                    choices.pick(&[RetainHandling::Send, RetainHandling::SendIfNew])
                } else {
                    RetainHandling::Send
                },
            };
            let filters = [(choices.pick(&FILTERS), options)];
            subscribe(&mut out, version, id.max(1), &[], &filters);
        }
        6 => unsubscribe(&mut out, version, id.max(1), &[], &[choices.pick(&FILTERS)]),
        7 | 8 => {
            let kinds = [AckKind::PubAck, AckKind::PubRec, AckKind::PubRel, AckKind::PubComp];
            let reason = choices.pick(&[ReasonCode::SUCCESS, ReasonCode::UNSPECIFIED_ERROR]);
            ack(&mut out, version, choices.pick(&kinds), id, reason);
        }
        9 => pingreq(&mut out),
        10 => client_disconnect(&mut out, version, ReasonCode::SUCCESS, &[]),
        _ => out.extend_from_slice(choices.some()),
    }
    out
}

async fn run(data: &[u8]) {
    let mut choices = Choices(data);
    let mut clients: Vec<Client> = Vec::new();
    while !choices.0.is_empty() {
        if clients.len() < 4 && (clients.is_empty() || choices.next() % 6 == 0) {
            let tenant = usize::from(choices.next()) % TENANTS.len();
            let (hello, version) = hello(&mut choices, tenant);
            clients.push(Client::open(tenant, version, &hello).await);
            continue;
        }
        let at = usize::from(choices.next()) % clients.len();
        let client = &mut clients[at];
        let packet = packet(&mut choices, client.tenant, client.version);
        if !client.say(&packet).await {
            clients.swap_remove(at).end().await;
        }
    }
    // What clients have said is under way,
    for client in &mut clients {
        client.catch_up().await;
    }
    // has been handed to whoever gets it,
    for tenant in 0..TENANTS.len() {
        route(tenant).await;
    }
    // and has arrived there: the first answer may have been there before it.
    for client in &mut clients {
        client.catch_up().await;
        client.catch_up().await;
    }
    for client in clients {
        client.end().await;
    }
}

impl Client {
    async fn open(tenant: usize, version: Version, hello: &[u8]) -> Self {
        let broker = &*BROKER;
        let (stream, far) = duplex(PIPE);
        let serving = tokio::spawn(async move {
            broker.serve(far, IpAddr::V4(Ipv4Addr::LOCALHOST)).await;
        });
        let (said, heard) = (Vec::new(), Vec::new());
        let mut client = Self {
            tenant,
            version,
            stream,
            serving,
            said,
            whole: 0,
            heard,
            read: 0,
            is_lost: false,
        };
        client.say(hello).await;
        client
    }

    /// Says something, if the connection is there.
    async fn say(&mut self, bytes: &[u8]) -> bool {
        self.said.extend_from_slice(bytes);
        while let Ok(Some(frame)) = Frame::find(&self.said[self.whole..], MAX_PACKET) {
            self.whole += frame.len;
        }
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Waits for the answer to everything that was said, or for the end.
    async fn catch_up(&mut self) {
        if self.is_lost {
            return;
        }
        if self.whole < self.said.len() {
            // The broker waits for the rest of a packet, or has closed.
            self.is_lost = true;
            let _ = self.stream.shutdown().await;
            let _ = self.stream.read_to_end(&mut self.heard).await;
            return;
        }
        let mut ping = Vec::new();
        pingreq(&mut ping);
        if !self.say(&ping).await {
            return;
        }
        let answered = tokio::time::timeout(LOST, self.find(0xd0)).await;
        self.is_lost = !answered.unwrap_or_default();
    }

    /// Reads up to a packet that begins with this byte. Says whether there was one before the end.
    async fn find(&mut self, first: u8) -> bool {
        loop {
            while let Ok(Some(frame)) = Frame::find(&self.heard[self.read..], usize::MAX) {
                let found = self.heard[self.read] == first;
                self.read += frame.len;
                if found {
                    return true;
                }
            }
            if !matches!(self.stream.read_buf(&mut self.heard).await, Ok(n) if n > 0) {
                return false;
            }
        }
    }

    /// Ends it: it has heard nothing of the other tenant, and its task did not panic.
    async fn end(mut self) {
        let _ = self.stream.shutdown().await;
        let _ = self.stream.read_to_end(&mut self.heard).await;
        let foreign = mark(1 - self.tenant);
        assert!(
            !self.heard.windows(foreign.len()).any(|window| window == foreign),
            "a payload of {} reached {}",
            TENANTS[1 - self.tenant],
            TENANTS[self.tenant]
        );
        drop(self.stream);
        self.serving.await.unwrap();
    }
}

/// Waits until a tenant's messages that are under way have been routed: a message after them is
/// acknowledged then.
async fn route(tenant: usize) {
    static LAST: [Mutex<Option<Client>>; 2] = [Mutex::const_new(None), Mutex::const_new(None)];
    let version = Version::V311;
    let mut last = LAST[tenant].lock().await;
    if last.is_none() {
        let mut hello = Vec::new();
        let nothing = PropertiesBuf::default();
        connect(
            &mut hello,
            &Connect {
                version,
                clean_start: true,
                keep_alive: 0,
                client_id: TENANTS[tenant],
                properties: nothing.as_properties(),
                will: None,
                user_name: Some(TENANTS[tenant]),
                password: None,
            },
        );
        *last = Some(Client::open(tenant, version, &hello).await);
    }
    let client = last.as_mut().unwrap();
    let qos = QoS::AtLeastOnce;
    let header = PublishHeader { dup: false, qos, retain: false, topic: "last", packet_id: 1 };
    let mut message = Vec::new();
    publish(&mut message, version, header, &[], &[], b"");
    client.stream.write_all(&message).await.unwrap();
    assert!(client.find(0x40).await, "the last message is acknowledged");
    client.heard.drain(..client.read);
    client.read = 0;
}

fuzz_target!(|data: &[u8]| {
    RUNTIME.block_on(run(data));
});
