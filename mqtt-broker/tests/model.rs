//! Random operations of several clients of two tenants, beside a simple model of what each of them
//! should get. Both tenants use the same client ids, topics and groups: what isolates them is who they
//! are and nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use bulkhead_control::config::MqttConfig;
use bulkhead_mqtt_broker::Broker;
use bulkhead_mqtt_broker::codec::{AckKind, QoS, matches};
use bulkhead_mqtt_broker::hook::{AllowAll, Answer, Attempt, Hook};
use bulkhead_policy::{DenyReason, TenantId};
use common::{Client, Heard};
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Client ids of each tenant.
const IDS: [&str; 2] = ["one", "other"];

const TENANTS: [&str; 2] = ["acme", "globex"];

/// Lets everybody do everything in the tenant that the user name says.
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

/// Whose client, and which of its two.
type Who = (usize, usize);

#[derive(Clone, Debug)]
enum Op {
    Connect(Who, bool),
    Disconnect(Who),
    Subscribe(Who, String, QoS),
    Unsubscribe(Who, String),
    Publish(Who, String, QoS, bool, bool),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let who = (0..TENANTS.len(), 0..IDS.len());
    let qos = select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
    let filter = select(vec!["a", "a/b", "a/+", "a/#", "+/b", "#", "+"]).prop_map(str::to_owned);
    let topic = select(vec!["a", "a/b", "b/b", "a/b/c"]).prop_map(str::to_owned);
    let op = prop_oneof![
        2 => (who.clone(), any::<bool>()).prop_map(|(who, clean)| Op::Connect(who, clean)),
        1 => who.clone().prop_map(Op::Disconnect),
        4 => (who.clone(), filter.clone(), qos.clone()).prop_map(|(w, f, q)| Op::Subscribe(w, f, q)),
        1 => (who.clone(), filter).prop_map(|(w, f)| Op::Unsubscribe(w, f)),
        6 => (who, topic, qos, any::<bool>(), any::<bool>())
            .prop_map(|(w, t, q, retain, empty)| Op::Publish(w, t, q, retain, retain && empty)),
    ];
    prop::collection::vec(op, 1..40)
}

/// A message as a client gets it.
type Got = (String, Vec<u8>, QoS, bool);

#[derive(Default)]
struct Session {
    subscriptions: BTreeMap<String, QoS>,
    waiting: Vec<Got>,
}

/// What should be.
#[derive(Default)]
struct Model {
    sessions: HashMap<Who, Session>,
    retained: HashMap<(usize, String), (Vec<u8>, QoS)>,
}

impl Model {
    fn subscribe(&mut self, who: Who, filter: &str, qos: QoS) {
        let retained: Vec<Got> = self
            .retained
            .iter()
            .filter(|((tenant, topic), _)| *tenant == who.0 && matches(filter, topic))
            .map(|((_, topic), (payload, of))| (topic.clone(), payload.clone(), qos.min(*of), true))
            .collect();
        let session = self.sessions.get_mut(&who).unwrap();
        session.subscriptions.insert(filter.to_owned(), qos);
        session.waiting.extend(retained);
    }

    fn publish(
        &mut self,
        tenant: usize,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        retain: bool,
        online: &dyn Fn(Who) -> bool,
    ) {
        if retain {
            let key = (tenant, topic.to_owned());
            if payload.is_empty() {
                self.retained.remove(&key);
            } else {
                self.retained.insert(key, (payload.to_vec(), qos));
            }
        }
        for (who, session) in self.sessions.iter_mut().filter(|(who, _)| who.0 == tenant) {
            let granted = session.subscriptions.iter().filter(|(f, _)| matches(f, topic));
            let Some(granted) = granted.map(|(_, qos)| *qos).max() else { continue };
            let qos = granted.min(qos);
            if qos > QoS::AtMostOnce || online(*who) {
                session.waiting.push((topic.to_owned(), payload.to_vec(), qos, false));
            }
        }
    }
}

/// Clients beside a running broker.
struct World {
    address: SocketAddr,
    clients: HashMap<Who, Client>,
    model: Model,
    next: u32,
    /// What came while something else was waited for.
    early: HashMap<Who, Vec<Got>>,
}

impl World {
    fn run(&mut self, op: Op) {
        match op {
            Op::Connect(who, clean) => {
                let user = TENANTS[who.0];
                let taken = self.clients.remove(&who);
                let (client, present) =
                    Client::connect_as(self.address, user, IDS[who.1], clean).unwrap();
                drop(taken);
                let known = self.model.sessions.contains_key(&who);
                assert_eq!(present, known && !clean, "session present");
                if clean {
                    self.model.sessions.remove(&who);
                }
                self.model.sessions.entry(who).or_default();
                self.clients.insert(who, client);
            }
            Op::Disconnect(who) => {
                if let Some(client) = self.clients.remove(&who) {
                    client.disconnect().unwrap();
                }
            }
            Op::Subscribe(who, filter, qos) => {
                let Some(client) = self.clients.get_mut(&who) else { return };
                client.subscribe(&filter, qos).unwrap();
                self.model.subscribe(who, &filter, qos);
            }
            Op::Unsubscribe(who, filter) => {
                let Some(client) = self.clients.get_mut(&who) else { return };
                client.unsubscribe(&filter).unwrap();
                self.model.sessions.get_mut(&who).unwrap().subscriptions.remove(&filter);
            }
            Op::Publish(who, topic, qos, retain, empty) => {
                let Some(client) = self.clients.get_mut(&who) else { return };
                self.next += 1;
                let payload = if empty { Vec::new() } else { self.next.to_be_bytes().to_vec() };
                let id = if qos == QoS::AtMostOnce { 0 } else { 7 };
                client.publish(&topic, &payload, qos, id, false, retain).unwrap();
                let clients = &self.clients;
                let online = |who: Who| clients.contains_key(&who);
                self.model.publish(who.0, &topic, &payload, qos, retain, &online);
                // What was published has been handed on when something after it comes back.
                let got = self.settle(who);
                self.early.insert(who, got);
            }
        }
        let everybody: Vec<Who> = self.clients.keys().copied().collect();
        for who in everybody {
            let mut got = self.settle(who);
            let mut expected =
                std::mem::take(&mut self.model.sessions.get_mut(&who).unwrap().waiting);
            got.sort();
            expected.sort();
            assert_eq!(got, expected, "what {who:?} got, and what it should have");
        }
    }

    /// Everything that a client has got, once the broker has worked off what it sent.
    fn settle(&mut self, who: Who) -> Vec<Got> {
        let mut got = Vec::new();
        let client = self.clients.get_mut(&who).unwrap();
        // A message to nobody in particular comes back acknowledged after those before it.
        client.publish("settled", b"", QoS::AtLeastOnce, 9, false, false).unwrap();
        let mut unreleased = BTreeSet::new();
        loop {
            match client.next().unwrap() {
                Heard::Publish { topic, payload, qos, id, retain, .. } => {
                    if topic != "settled" {
                        got.push((topic, payload, qos, retain));
                    }
                    match qos {
                        QoS::AtMostOnce => {}
                        QoS::AtLeastOnce => client.ack(AckKind::PubAck, id).unwrap(),
                        QoS::ExactlyOnce => {
                            unreleased.insert(id);
                            client.ack(AckKind::PubRec, id).unwrap();
                        }
                    }
                }
                Heard::PubRel(id) => {
                    unreleased.remove(&id);
                    client.ack(AckKind::PubComp, id).unwrap();
                }
                Heard::PubRec(id, _) => client.ack(AckKind::PubRel, id).unwrap(),
                Heard::PingResp if unreleased.is_empty() => break,
                Heard::PubAck(9, _) | Heard::PingResp => client.ping().unwrap(),
                _ => {}
            }
        }
        let mut all = self.early.remove(&who).unwrap_or_default();
        all.append(&mut got);
        all
    }
}

#[test]
fn each_client_gets_what_is_meant_for_it_and_nothing_else() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let config = MqttConfig::new(vec!["tcp://127.0.0.1:0".parse().unwrap()]);
    let registry = prometheus::Registry::new();
    let broker = Broker::start(&config, ByUserName, &registry, &tasks, &stop).unwrap();
    let address = broker.addresses()[0];
    let next = AtomicU32::new(0);
    let config = ProptestConfig { cases: 200, max_shrink_iters: 200, ..ProptestConfig::default() };
    proptest!(config, |(ops in ops())| {
        let mut world = World {
            address,
            clients: HashMap::new(),
            model: Model::default(),
            next: next.fetch_add(1_000, Ordering::Relaxed),
            early: HashMap::new(),
        };
        // What the last case left is gone.
        for who in (0..TENANTS.len()).flat_map(|t| (0..IDS.len()).map(move |i| (t, i))) {
            let (mut client, _) = Client::connect_as(address, TENANTS[who.0], IDS[who.1], true).unwrap();
            for topic in ["a", "a/b", "b/b", "a/b/c"] {
                client.publish(topic, b"", QoS::AtMostOnce, 0, false, true).unwrap();
            }
            world.clients.insert(who, client);
            world.model.sessions.entry(who).or_default();
            world.settle(who);
        }
        for op in ops {
            world.run(op);
        }
    });
    stop.cancel();
}
