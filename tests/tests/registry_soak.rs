//! Many devices over three backends, with replicas of the registry, etcd and the brokers of all three killed
//! meanwhile by a schedule that a seed decides. Afterwards presence has to be the truth, and nobody who went on beating
//! may ever have been called offline.
//!
//! `BULKHEAD_SOAK=600` lets it run for so many seconds with 5,000 devices; without it a short one runs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use async_nats::ConnectOptions;
use bulkhead_tests::registry::{Keys, registration};
use bulkhead_tests::zenoh::Link;
use bulkhead_tests::{Replica, Stack, Token, eventually_async};
use data_encoding::BASE64;
use etcd_client::{Client, EventType, WatchOptions};
use futures::StreamExt;
use rumqttc::QoS;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

const PROGRAM: &str = env!("CARGO_BIN_EXE_replica");
/// Where devices' keys are, and what is written there when all is over.
const ROOT: &str = "/device-connect/";
const DEVICES: &str = "/device-connect/acme/devices/";
const END: &str = "/device-connect/the-end";

/// Largest message of what happened.
const MAX_EVENTS_BYTES: usize = 64 * 1024 * 1024;

const SEED: u64 = 0x5EED_2026;

/// Time to live and time between beats, in seconds. A broker may be away for longer than a beat, and a
/// replica is given up before a device is.
const TTL: u32 = 12;
const EVERY: f64 = 3.0;

/// The devices that are meant to be there, by backend.
type Alive = Arc<Mutex<BTreeSet<String>>>;

/// A generator that gives the same on every machine (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

fn named(backend: &str, count: usize) -> Alive {
    Arc::new(Mutex::new((0..count).map(|n| format!("{backend}-{n}")).collect()))
}

fn heartbeat(device: &str) -> String {
    json!({"device_id": device, "ts": 1.5}).to_string()
}

fn request(device: &str) -> String {
    let mut request = registration(device);
    request["params"]["device_ttl"] = json!(TTL);
    request.to_string()
}

/// What a device answers that is asked who it is.
fn answer(device: &str) -> String {
    let mut params = registration(device)["params"].clone();
    params["device_ttl"] = json!(TTL);
    json!({"jsonrpc": "2.0", "id": 1, "result": params}).to_string()
}

/// Beats for whoever is alive, evenly over time.
async fn beat_for_ever(alive: Alive, mut say: impl AsyncFnMut(&str)) {
    loop {
        let began = Instant::now();
        let devices: Vec<String> = alive.lock().unwrap().iter().cloned().collect();
        for (n, device) in devices.iter().enumerate() {
            let due = began + Duration::from_secs_f64(EVERY * n as f64 / devices.len() as f64);
            tokio::time::sleep_until(due).await;
            if alive.lock().unwrap().contains(device) {
                say(device).await;
            }
        }
        tokio::time::sleep_until(began + Duration::from_secs_f64(EVERY)).await;
    }
}

async fn over_nats(stack: &Stack, alive: Alive) -> Vec<AbortOnDropHandle<()>> {
    let token = stack.token(&Token::role("acme", "member").ttl(3600));
    let options = ConnectOptions::with_token(token).max_reconnects(None);
    let client = options
        .reconnect_delay_callback(|_| Duration::from_millis(200))
        .request_timeout(Some(Duration::from_secs(3)))
        .connect(stack.url())
        .await
        .unwrap();
    let mut asked = client.subscribe("device-connect.acme.*.cmd").await.unwrap();
    let (answering, known) = (client.clone(), Arc::clone(&alive));
    let answers = tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            let device = message.subject.split('.').nth(2).unwrap().to_owned();
            let is_alive = known.lock().unwrap().contains(&device);
            if let (Some(reply), true) = (message.reply, is_alive) {
                let _ = answering.publish(reply, answer(&device).into()).await;
            }
        }
    });
    let beats = tokio::spawn(beat_for_ever(alive, async move |device: &str| {
        let subject = format!("device-connect.acme.{device}.heartbeat");
        let _ = client.publish(subject, heartbeat(device).into()).await;
    }));
    [answers, beats].map(AbortOnDropHandle::new).into()
}

async fn over_zenoh(stack: &Stack, alive: Alive) -> (zenoh::Session, AbortOnDropHandle<()>) {
    let token = stack.token(&Token::role("acme", "member").ttl(3600));
    let session = stack.entrance(Link::Tcp).try_connect(Some(&token)).await.unwrap();
    let known = Arc::clone(&alive);
    let runtime = tokio::runtime::Handle::current();
    session
        .declare_queryable("device-connect/acme/*/cmd")
        .callback(move |query| {
            let device = query.key_expr().as_str().split('/').nth(2).unwrap().to_owned();
            let is_alive = known.lock().unwrap().contains(&device);
            runtime.spawn(async move {
                if is_alive {
                    let _ = query.reply(query.key_expr().clone(), answer(&device)).await;
                }
            });
        })
        .background()
        .await
        .unwrap();
    let speaker = session.clone();
    let beats = tokio::spawn(beat_for_ever(alive, async move |device: &str| {
        let key = format!("device-connect/acme/{device}/heartbeat");
        let _ = speaker.put(key, heartbeat(device)).await;
    }));
    (session, AbortOnDropHandle::new(beats))
}

/// MQTT's devices register once, and are remembered.
async fn over_mqtt(stack: &Stack, alive: Alive) -> Vec<AbortOnDropHandle<()>> {
    let token = stack.token(&Token::role("acme", "member").ttl(3600));
    let port = stack.tcp().address.port();
    let mut options = rumqttc::MqttOptions::new("soak", "127.0.0.1", port);
    options.set_credentials("any", token);
    let (client, mut events) = rumqttc::AsyncClient::new(options, 1_000);
    let (sender, mut answers) = tokio::sync::mpsc::unbounded_channel();
    // It comes back by itself, as long as it is asked.
    let coming = tokio::spawn(async move {
        loop {
            match events.poll().await {
                Ok(rumqttc::Event::Incoming(rumqttc::Packet::Publish(answer))) => {
                    let _ = sender.send(answer.payload);
                }
                Ok(_) => {}
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    });
    let reply = "_reply/00000000000000000000000000000001";
    client.subscribe(reply, QoS::AtLeastOnce).await.unwrap();
    let devices: Vec<String> = alive.lock().unwrap().iter().cloned().collect();
    for device in &devices {
        let data = BASE64.encode(request(device).as_bytes());
        let envelope = json!({"data": data, "reply_to": reply, "request_id": "1"}).to_string();
        let sent =
            client.publish("device-connect/acme/registry", QoS::AtLeastOnce, false, envelope);
        sent.await.unwrap();
        let answer = answers.recv().await.unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["result"]["status"], "registered", "{answer}");
    }
    let beats = tokio::spawn(beat_for_ever(alive, async move |device: &str| {
        let topic = format!("device-connect/acme/{device}/heartbeat");
        let _ = client.try_publish(topic, QoS::AtMostOnce, false, heartbeat(device));
    }));
    [coming, beats].map(AbortOnDropHandle::new).into()
}

/// Registers over NATS, until it is answered. Returns how often it asked.
async fn register(client: &async_nats::Client, device: &str) -> usize {
    let mut asked_times = 0;
    eventually_async(&format!("{device} registers"), async || {
        asked_times += 1;
        let asked = client.request("device-connect.acme.registry", request(device).into()).await;
        asked.is_ok_and(|answer| String::from_utf8_lossy(&answer.payload).contains("registered"))
    })
    .await;
    asked_times
}

/// What etcd went through about a device.
#[derive(Debug, Default)]
struct Past {
    puts: usize,
    deletes: usize,
}

/// Follows everything that happens to devices' keys from a revision on, until the key [`END`] is written.
/// Nobody's key may go, deleted or with its lease, who has not fallen silent.
async fn follow_keys(endpoint: String, from: i64, fallen: Alive) -> BTreeMap<String, Past> {
    let mut pasts: BTreeMap<String, Past> = BTreeMap::new();
    let mut next = from;
    loop {
        let heard: Result<(), etcd_client::Error> = async {
            let client = Client::connect([&endpoint], None).await?;
            // What was missed comes at once.
            let mut client = client.watch_client().max_decoding_message_size(MAX_EVENTS_BYTES);
            let options = WatchOptions::new().with_prefix().with_start_revision(next);
            let mut events = client.watch(ROOT, Some(options)).await?;
            while let Some(message) = events.message().await? {
                assert!(!message.canceled(), "nothing is compacted away: {message:?}");
                for event in message.events() {
                    let one = event.kv().unwrap();
                    next = one.mod_revision() + 1;
                    if one.key() == END.as_bytes() {
                        return Ok(());
                    }
                    let device = one.key_str()?.strip_prefix(DEVICES).unwrap();
                    let past = pasts.entry(device.to_owned()).or_default();
                    match event.event_type() {
                        EventType::Put => past.puts += 1,
                        EventType::Delete => {
                            past.deletes += 1;
                            let is_silent = fallen.lock().unwrap().contains(device);
                            assert!(is_silent, "{device} beats and its key is gone");
                        }
                    }
                }
            }
            Err(etcd_client::Error::WatchError("it ended".to_owned()))
        }
        .await;
        if heard.is_ok() {
            return pasts;
        }
        // It is restarted now and then; what was missed is still there.
        sleep(Duration::from_millis(100)).await;
    }
}

async fn present(client: &async_nats::Client) -> Option<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut offset = json!(0);
    while !offset.is_null() {
        let params = json!({"limit": 200, "offset": offset});
        let question = json!({"id": 1, "method": "discovery/listDevices", "params": params});
        let asked = client.request("device-connect.acme.discovery", question.to_string().into());
        let answer: Value = serde_json::from_slice(&asked.await.ok()?.payload).ok()?;
        let page = answer.get("result")?;
        for device in page["devices"].as_array()? {
            found.insert(device["device_id"].as_str()?.to_owned());
        }
        offset = page["next_offset"].clone();
    }
    Some(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_is_the_truth_whatever_is_killed() {
    let seconds: Option<u64> =
        std::env::var("BULKHEAD_SOAK").ok().and_then(|text| text.parse().ok());
    let (seconds, each) = seconds.map_or((45, 60), |seconds| (seconds, 1_666));
    let stack = Stack::new().etcd().mqtt("").zenoh("").registry_elsewhere();
    let mut stack = stack.without_service().start().await;
    // The MQTT broker, the Zenoh router and whoever answers nats-server.
    let mut brokers = stack.replica(PROGRAM, "brokers").await;
    let mut replicas: Vec<Option<Replica>> = Vec::new();
    for name in ["first", "second"] {
        replicas.push(Some(stack.registry_replica(PROGRAM, name).await));
    }
    let token = stack.token(&Token::role("acme", "member").ttl(3600));
    let console = ConnectOptions::with_token(token)
        .max_reconnects(None)
        .reconnect_delay_callback(|_| Duration::from_millis(200))
        .request_timeout(Some(Duration::from_secs(3)))
        .connect(stack.url())
        .await
        .unwrap();
    let [nats, mqtt, zenoh] = ["nats", "mqtt", "zenoh"].map(|backend| named(backend, each));
    // Who is not registered yet is asked when it beats.
    let _nats = over_nats(&stack, Arc::clone(&nats)).await;
    let _zenoh = over_zenoh(&stack, Arc::clone(&zenoh)).await;
    let _mqtt = over_mqtt(&stack, Arc::clone(&mqtt)).await;
    let everybody = || -> BTreeSet<String> {
        [&nats, &mqtt, &zenoh].iter().flat_map(|a| a.lock().unwrap().clone()).collect()
    };
    let deadline = Instant::now() + Duration::from_secs(120);
    while present(&console).await != Some(everybody()) {
        assert!(Instant::now() < deadline, "not everybody comes");
        sleep(Duration::from_millis(500)).await;
    }
    let mut keys = Keys::of(&mut stack).await;
    eventually_async("everybody is written", async || {
        keys.leases("acme").await.into_keys().collect::<BTreeSet<_>>() == everybody()
    })
    .await;
    let first = everybody();
    let from = keys.client().status().await.unwrap().header().unwrap().revision() + 1;
    // From here on who is called offline has to have fallen silent.
    let mut told = console.subscribe("device-connect.acme.device.offline").await.unwrap();
    let fallen: Alive = Arc::default();
    let (endpoint, silent) = (stack.etcd().endpoint().to_owned(), Arc::clone(&fallen));
    let following = AbortOnDropHandle::new(tokio::spawn(follow_keys(endpoint, from, silent)));
    let expected = Arc::clone(&fallen);
    let listening = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(message) = told.next().await {
            let event: Value = serde_json::from_slice(&message.payload).unwrap();
            let device = event["params"]["device_id"].as_str().unwrap().to_owned();
            assert!(
                expected.lock().unwrap().contains(&device),
                "{device} beats and is called offline"
            );
        }
    }));
    let mut chance = Chance(SEED);
    let mut serial = 0;
    // Each, and how often it can have been written: for each time that it asked, and once more if etcd was
    // restarted then, which may have taken a write without saying so.
    let mut newcomers: BTreeMap<String, usize> = BTreeMap::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        sleep(Duration::from_secs(2)).await;
        // Some fall silent, some come.
        for alive in [&nats, &mqtt, &zenoh] {
            let silent: Vec<String> = {
                let mut alive = alive.lock().unwrap();
                let n = chance.below(alive.len().max(1));
                let chosen: Vec<_> = alive.iter().skip(n).take(1).cloned().collect();
                alive.retain(|device| !chosen.contains(device));
                chosen
            };
            fallen.lock().unwrap().extend(silent);
        }
        serial += 1;
        let newcomer = format!("nats-new-{serial}");
        newcomers.insert(newcomer.clone(), register(&console, &newcomer).await);
        nats.lock().unwrap().insert(newcomer);
        match chance.below(7) {
            0 => {
                stack.etcd().restart().unwrap();
                *newcomers.get_mut(&format!("nats-new-{serial}")).unwrap() += 1;
            }
            1 => stack.servers()[0].restart().unwrap(),
            2 | 3 => {
                let which = chance.below(2);
                if let Some(replica) = replicas[which].take() {
                    replica.kill().unwrap();
                }
                let name = format!("replica-{which}-{serial}");
                replicas[which] = Some(stack.registry_replica(PROGRAM, &name).await);
            }
            4 => {
                brokers.kill().unwrap();
                brokers = stack.replica(PROGRAM, &format!("brokers-{serial}")).await;
            }
            _ => {}
        }
    }
    // Whoever is silent is gone after a time to live, what a replica's end adds, and what a broker's does.
    let mut last = None;
    let deadline = Instant::now() + Duration::from_secs(60);
    while last != Some(everybody()) {
        assert!(
            Instant::now() < deadline,
            "too many: {:?}; too few: {:?}",
            last.as_ref().map(|l: &BTreeSet<_>| l - &everybody()),
            last.as_ref().map(|l| &everybody() - l)
        );
        sleep(Duration::from_secs(1)).await;
        last = present(&console).await;
    }
    let stored = keys.leases("acme").await;
    assert_eq!(stored.keys().cloned().collect::<BTreeSet<_>>(), everybody());
    assert!(stored.values().all(|lease| *lease != 0), "a key without a lease stays for ever");
    // Nobody changes, and leases outlive whoever is killed: a device is written when it comes and deleted
    // when it goes, whatever happens to replicas, brokers and etcd in between.
    keys.client().put(END, "", None).await.unwrap();
    let mut pasts = following.await.unwrap();
    let fallen = fallen.lock().unwrap().clone();
    for device in first.iter().chain(newcomers.keys()) {
        let past = pasts.remove(device).unwrap_or_default();
        let most = newcomers.get(device).copied().unwrap_or(0);
        let fewest = most.min(1);
        assert!((fewest..=most).contains(&past.puts), "{device}: {past:?}, not {fewest} to {most}");
        assert_eq!(past.deletes, usize::from(fallen.contains(device)), "{device}: {past:?}");
    }
    assert!(pasts.is_empty(), "nobody knows them: {pasts:?}");
    assert!(!listening.is_finished(), "somebody was called offline who beats");
}
