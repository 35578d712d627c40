//! What was acknowledged survives kill -9, and what is of QoS 2 arrives once.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use bulkhead_mqtt_broker::codec::{AckKind, QoS, ReasonCode};
use common::{Client, Heard, WITHIN};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The broker as a process of its own, over a data folder.
struct Process {
    child: Child,
}

impl Process {
    /// Starts it with what `site` wrote into a folder.
    fn start(folder: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_bulkhead-mqtt-broker"))
            .arg(folder.join("bulkhead.toml"))
            .spawn()
            .unwrap();
        Self { child }
    }

    /// As the kernel does when it runs out of memory.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A configuration in a folder, and where the broker will be.
fn site() -> (tempfile::TempDir, SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::fs::write(folder.path().join("secret"), common::SECRET).unwrap();
    std::fs::write(folder.path().join("tenants.toml"), "[tenants.acme]\n").unwrap();
    let config = format!(
        "dev = true\n\
         directory.file = \"tenants.toml\"\n\
         admin.listen = \"127.0.0.1:0\"\n\
         mqtt = {{ listeners = [\"tcp://{address}\"], data = \"data\" }}\n\
         log.filter = \"warn\"\n\
         [[issuers]]\n\
         name = \"dev\"\n\
         issuer = \"dev\"\n\
         audiences = [\"bulkhead\"]\n\
         algorithms = [\"HS256\"]\n\
         keys.secret_file = \"secret\"\n\
         tenants = [\"acme\"]\n"
    );
    std::fs::write(folder.path().join("bulkhead.toml"), config).unwrap();
    (folder, address)
}

fn connect(address: SocketAddr, id: &str, clean: bool) -> (Client, bool) {
    let deadline = Instant::now() + WITHIN;
    loop {
        match Client::connect(address, id, clean) {
            Ok(connected) => return connected,
            Err(error) => assert!(Instant::now() < deadline, "no connection: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a publisher knows of one message that is under way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Published,
    Released,
}

/// Publishes numbers at QoS 1 and 2 in turn until it is told to stop and everything is acknowledged.
/// Returns what was.
fn publish_all(address: SocketAddr, stop: &AtomicBool) -> BTreeSet<u32> {
    let mut acknowledged = BTreeSet::new();
    let mut under_way: BTreeMap<u16, (u32, Stage)> = BTreeMap::new();
    let mut next = 0_u32;
    let qos_of = |n: u32| if n.is_multiple_of(2) { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
    loop {
        let (mut client, _) = connect(address, "publisher", false);
        let mut attempt = || -> io::Result<bool> {
            for (id, (n, stage)) in &under_way {
                match stage {
                    Stage::Published => {
                        client.publish(
                            "device-connect/acme/q/x",
                            &n.to_be_bytes(),
                            qos_of(*n),
                            *id,
                            true,
                            false,
                        )?;
                    }
                    Stage::Released => client.ack(AckKind::PubRel, *id)?,
                }
            }
            loop {
                while under_way.len() < 20 && !stop.load(Ordering::Relaxed) {
                    let id = u16::try_from(next % 60_000 + 1).unwrap();
                    under_way.insert(id, (next, Stage::Published));
                    let n = next;
                    next += 1;
                    client.publish(
                        "device-connect/acme/q/x",
                        &n.to_be_bytes(),
                        qos_of(n),
                        id,
                        false,
                        false,
                    )?;
                }
                if under_way.is_empty() {
                    return Ok(true);
                }
                match client.poll()? {
                    Some(Heard::PubAck(id, reason)) => {
                        assert!(!reason.is_error(), "{reason}");
                        acknowledged.insert(under_way.remove(&id).unwrap().0);
                    }
                    Some(Heard::PubRec(id, reason)) => {
                        assert!(!reason.is_error(), "{reason}");
                        if let Some((_, stage)) = under_way.get_mut(&id) {
                            *stage = Stage::Released;
                        }
                        client.ack(AckKind::PubRel, id)?;
                    }
                    Some(Heard::PubComp(id)) => {
                        acknowledged.extend(under_way.remove(&id).map(|(n, _)| n));
                    }
                    _ => {}
                }
            }
        };
        if matches!(attempt(), Ok(true)) {
            return acknowledged;
        }
    }
}

/// Receives until everything that was acknowledged is there, as a client that does its part of QoS 2.
fn receive_all(address: SocketAddr, expected: &Mutex<Option<BTreeSet<u32>>>) -> HashMap<u32, u32> {
    let mut counts: HashMap<u32, u32> = HashMap::new();
    let mut unreleased: BTreeSet<u16> = BTreeSet::new();
    let deadline = Instant::now() + 4 * WITHIN;
    let mut first = true;
    loop {
        let (mut client, present) = connect(address, "subscriber", false);
        assert!(first || present, "the session is gone");
        if first {
            client.subscribe("device-connect/acme/q/#", QoS::ExactlyOnce).unwrap();
            first = false;
        }
        let mut attempt = || -> io::Result<()> {
            loop {
                match client.poll()? {
                    Some(Heard::Publish { payload, qos, id, .. }) => {
                        let n = u32::from_be_bytes(payload.try_into().unwrap());
                        if qos == QoS::ExactlyOnce {
                            if unreleased.insert(id) {
                                *counts.entry(n).or_default() += 1;
                            }
                            client.ack(AckKind::PubRec, id)?;
                        } else {
                            *counts.entry(n).or_default() += 1;
                            client.ack(AckKind::PubAck, id)?;
                        }
                    }
                    Some(Heard::PubRel(id)) => {
                        unreleased.remove(&id);
                        client.ack(AckKind::PubComp, id)?;
                    }
                    _ => {}
                }
                let expected = expected.lock().unwrap();
                if let Some(expected) = &*expected {
                    let missing = expected.iter().filter(|n| !counts.contains_key(n)).count();
                    if missing == 0 && unreleased.is_empty() {
                        return Ok(());
                    }
                    assert!(Instant::now() < deadline, "{missing} acknowledged messages are lost");
                }
            }
        };
        if attempt().is_ok() {
            return counts;
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_of_qos_2_comes_twice() {
    let (folder, address) = site();
    let mut broker = Process::start(folder.path());
    let (stop, expected) = (AtomicBool::new(false), Mutex::new(None));
    let counts = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive_all(address, &expected));
        // There has to be somebody to keep messages for.
        std::thread::sleep(Duration::from_millis(500));
        let publishing = scope.spawn(|| publish_all(address, &stop));
        for pause in [400, 150, 700, 250, 500] {
            std::thread::sleep(Duration::from_millis(pause));
            broker.kill();
            broker = Process::start(folder.path());
        }
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        let acknowledged = publishing.join().unwrap();
        assert!(acknowledged.len() > 100, "only {} messages", acknowledged.len());
        *expected.lock().unwrap() = Some(acknowledged);
        receiving.join().unwrap()
    });
    let twice: Vec<_> = counts.iter().filter(|(n, times)| *n % 2 == 1 && **times > 1).collect();
    assert!(twice.is_empty(), "of QoS 2, and more than once: {twice:?}");
}

#[test]
fn sessions_subscriptions_and_retained_messages_survive() {
    let (folder, address) = site();
    let mut broker = Process::start(folder.path());
    let (mut subscriber, present) = connect(address, "subscriber", false);
    assert!(!present);
    subscriber.subscribe("device-connect/acme/a/#", QoS::AtLeastOnce).unwrap();
    drop(subscriber);
    let (mut publisher, _) = connect(address, "publisher", true);
    for (topic, payload, retain) in
        [("r/kept", "1", true), ("r/gone", "1", true), ("r/gone", "", true), ("a/b", "2", false)]
    {
        let topic = format!("device-connect/acme/{topic}");
        publisher.publish(&topic, payload.as_bytes(), QoS::AtLeastOnce, 1, false, retain).unwrap();
        let heard = publisher.next().unwrap();
        assert!(matches!(heard, Heard::PubAck(1, reason) if !reason.is_error()), "{heard:?}");
    }
    broker.kill();
    broker = Process::start(folder.path());
    let (mut subscriber, present) = connect(address, "subscriber", false);
    assert!(present, "the session is gone");
    let heard = subscriber.next().unwrap();
    assert!(matches!(&heard, Heard::Publish { payload, .. } if payload == b"2"), "{heard:?}");
    // The subscription is still there.
    let (mut publisher, _) = connect(address, "publisher", true);
    publisher.publish("device-connect/acme/a/c", b"3", QoS::AtLeastOnce, 1, false, false).unwrap();
    let heard = subscriber.next().unwrap();
    assert!(matches!(&heard, Heard::Publish { payload, .. } if payload == b"3"), "{heard:?}");
    let (mut reader, _) = connect(address, "reader", true);
    reader.subscribe("device-connect/acme/r/#", QoS::AtMostOnce).unwrap();
    let heard = reader.next().unwrap();
    assert!(
        matches!(&heard, Heard::Publish { topic, .. } if topic.ends_with("/r/kept")),
        "{heard:?}"
    );
    // A session that is begun anew is forgotten on disk too.
    drop(connect(address, "subscriber", true));
    // What is acknowledged after it is on disk after it.
    publisher.publish("device-connect/acme/b", b"", QoS::AtLeastOnce, 7, false, false).unwrap();
    while !matches!(publisher.next().unwrap(), Heard::PubAck(7, _)) {}
    drop(broker);
    let _broker = Process::start(folder.path());
    let (_, present) = connect(address, "publisher", false);
    assert!(present);
    let (mut subscriber, _) = connect(address, "subscriber", false);
    publisher = connect(address, "publisher", false).0;
    publisher.publish("device-connect/acme/a/d", b"4", QoS::AtLeastOnce, 2, false, false).unwrap();
    let heard = publisher.next().unwrap();
    assert_eq!(heard, Heard::PubAck(2, ReasonCode::NO_MATCHING_SUBSCRIBERS));
    assert_eq!(subscriber.poll().unwrap(), None);
}
