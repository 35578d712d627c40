//! Sequences of packets of several clients, well formed and not, through the whole session layer.
//!
//! No task may panic, and no byte of one tenant's payloads may reach a client of the other.

#![no_main]

use bulkhead_control::config::MqttConfig;
use bulkhead_mqtt_broker::Broker;
use bulkhead_mqtt_broker::codec::{
    AckKind, Connect, PropertiesBuf, Property, PublishHeader, QoS, ReasonCode, RetainHandling,
    SubscriptionOptions, Version, Will, ack, client_disconnect, connect, pingreq, publish,
    subscribe, unsubscribe,
};
use bulkhead_mqtt_broker::hook::{AllowAll, Answer, Attempt, Hook};
use bulkhead_policy::{DenyReason, TenantId};
use libfuzzer_sys::fuzz_target;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const TENANTS: [&str; 2] = ["acme", "globex"];
const TOPICS: [&str; 6] = ["a", "a/b", "b", "", "$x/y", "a/b/c"];
const FILTERS: [&str; 9] =
    ["a", "a/+", "#", "+/b", "$share/g/a/#", "$share/g/#", "$share//x", "a#", "$x/#"];

/// Packets that wait to be read by a client of the target.
const PIPE: usize = 1 << 20;

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
    config.max_packet_bytes = 4096;
    config.routers = 1;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    Broker::start(&config, ByUserName, &prometheus::Registry::new(), &tasks, &stop).unwrap()
});

struct Client {
    tenant: usize,
    version: Version,
    stream: DuplexStream,
    serving: JoinHandle<()>,
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
    let broker = &*BROKER;
    let mut choices = Choices(data);
    let mut clients: Vec<Client> = Vec::new();
    while !choices.0.is_empty() {
        if clients.len() < 4 && (clients.is_empty() || choices.next() % 6 == 0) {
            let tenant = usize::from(choices.next()) % TENANTS.len();
            let (near, far) = duplex(PIPE);
            let serving = tokio::spawn(async move {
                broker.serve(far, IpAddr::V4(Ipv4Addr::LOCALHOST)).await;
            });
            let (hello, version) = hello(&mut choices, tenant);
            let mut client = Client { tenant, version, stream: near, serving };
            let _ = client.stream.write_all(&hello).await;
            clients.push(client);
            continue;
        }
        let at = usize::from(choices.next()) % clients.len();
        let client = &mut clients[at];
        let packet = packet(&mut choices, client.tenant, client.version);
        if client.stream.write_all(&packet).await.is_err() {
            check(clients.swap_remove(at)).await;
        }
    }
    for client in clients {
        check(client).await;
    }
}

/// Ends a client: it has heard nothing of the other tenant, and its task did not panic.
async fn check(mut client: Client) {
    // What is under way arrives, or the connection has ended.
    let mut heard = Vec::new();
    let mut ping = Vec::new();
    pingreq(&mut ping);
    let _ = client.stream.write_all(&ping).await;
    let _ =
        tokio::time::timeout(Duration::from_millis(2), client.stream.read_to_end(&mut heard)).await;
    let foreign = mark(1 - client.tenant);
    assert!(
        !heard.windows(foreign.len()).any(|window| window == foreign),
        "a payload of {} reached {}",
        TENANTS[1 - client.tenant],
        TENANTS[client.tenant]
    );
    drop(client.stream);
    client.serving.await.unwrap();
}

fuzz_target!(|data: &[u8]| {
    RUNTIME.block_on(run(data));
});
