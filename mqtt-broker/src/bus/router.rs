use rumqttd::local::{LinkBuilder, LinkError, LinkRx, LinkTx};
use rumqttd::protocol::{Disconnect, DisconnectReasonCode, Packet};
use rumqttd::{Notification, Router, RouterConfig};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Bytes of one segment of a tenant's log.
const SEGMENT_BYTES: usize = 64 * 1024;

/// Segments of a tenant's log. All but one together hold more than [`GIVEN`](super::lane::GIVEN),
/// so that a segment is dropped only when all of it was handed on.
const SEGMENTS: usize = 4;

/// Links to one router: more tenants than one process serves.
const MAX_LINKS: usize = 1_000_000;

/// Batches that a router hands on at a time.
const BURST: u64 = 100;

/// How long a router may take to answer before it counts as dead. After a [`HEARTBEAT`], this and
/// [`LINK_WITHIN`], 7 s, one that hangs has been replaced: no publisher waits longer for it.
const DEAD_AFTER: Duration = Duration::from_secs(5);

/// How long a router may take to link before it counts as dead.
const LINK_WITHIN: Duration = Duration::from_secs(1);

/// How often a router is asked.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Pause before another attempt at something that a router did not take.
pub(super) const RETRY: Duration = Duration::from_millis(20);

type Connect = dyn Fn(&str) -> Result<(LinkTx, LinkRx), Box<LinkError>> + Send + Sync;

/// One router, replaced when it dies.
pub(super) struct Shard {
    id: usize,
    router: Mutex<Arc<Connect>>,
    /// Counts the routers that there were.
    generation: watch::Sender<u64>,
    next_topic: AtomicU64,
    /// Topics whose tenant is gone. A router never forgets one, so they are used again.
    free_topics: Mutex<BTreeSet<u64>>,
    /// Held while a link is made.
    linking: tokio::sync::Mutex<()>,
    /// Links that are not used any more, of which the router has not heard.
    leaving: Mutex<Vec<LinkTx>>,
}

/// A link to one of a shard's routers.
pub(super) struct Linked {
    /// Which of them.
    pub(super) generation: u64,
    pub(super) tx: LinkTx,
    pub(super) rx: LinkRx,
}

impl Shard {
    pub(super) fn start(id: usize) -> Self {
        Self {
            id,
            router: Mutex::new(spawn(id)),
            generation: watch::Sender::new(0),
            next_topic: AtomicU64::new(1),
            free_topics: Mutex::default(),
            linking: tokio::sync::Mutex::default(),
            leaving: Mutex::default(),
        }
    }

    /// A topic that nobody else uses.
    pub(super) fn take_topic(&self) -> u64 {
        let free = self.free_topics.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
        free.unwrap_or_else(|| self.next_topic.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn give_back(&self, topic: u64) {
        self.free_topics.lock().unwrap_or_else(PoisonError::into_inner).insert(topic);
    }

    /// Which router this is, and changes when it is replaced.
    pub(super) fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// A link that is subscribed to a topic. It waits for as long as it takes: a router that does not
    /// answer is replaced meanwhile.
    pub(super) async fn link(&self, topic: &str) -> Linked {
        // One at a time, so that a router that dies leaves no more than one of them behind.
        let _turn = self.linking.lock().await;
        loop {
            let generation = *self.generation.borrow();
            let connect = Arc::clone(&self.router.lock().unwrap_or_else(PoisonError::into_inner));
            let name = topic.to_owned();
            let (answer, linked) = oneshot::channel();
            // The router's answer is waited for by a blocking receive without an end of its own: a
            // router that dies just then leaves this thread behind, and the runtime must not wait for
            // it when the process ends.
            let started =
                std::thread::Builder::new().name("mqtt-link".to_owned()).spawn(move || {
                    let link = || {
                        let (mut tx, rx) = connect(&name)?;
                        tx.subscribe(name).map_err(Box::new)?;
                        Ok::<_, Box<LinkError>>((tx, rx))
                    };
                    // Whoever asked may have given up.
                    let _ = answer.send(link());
                });
            if let Err(error) = started {
                tracing::error!(router = self.id, %error, "no thread for a link");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            match timeout(LINK_WITHIN, linked).await {
                Ok(Ok(Ok((tx, rx)))) => return Linked { generation, tx, rx },
                failed => {
                    let error = failed.map(|done| done.map(|linked| linked.map(|_| ())));
                    tracing::error!(router = self.id, ?error, "a router does not answer");
                    self.replace(generation);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Starts another router in the place of this one, unless somebody was faster.
    pub(super) fn replace(&self, generation: u64) {
        let mut router = self.router.lock().unwrap_or_else(PoisonError::into_inner);
        if *self.generation.borrow() == generation {
            tracing::error!(router = self.id, "the router is replaced");
            *router = spawn(self.id);
            self.leaving.lock().unwrap_or_else(PoisonError::into_inner).clear();
            self.generation.send_modify(|generation| *generation += 1);
        }
    }

    /// Ends a link: one that is dropped frees nothing in the router.
    pub(super) fn unlink(&self, mut link: LinkTx) {
        if !say_goodbye(&mut link) {
            self.leaving.lock().unwrap_or_else(PoisonError::into_inner).push(link);
        }
    }

    /// Sends itself a message now and then, and replaces a router that does not hand it on.
    pub(super) async fn watch_over(self: Arc<Self>, stop: CancellationToken) {
        let watching = async {
            loop {
                let Linked { generation, mut tx, mut rx } = self.link("heartbeat").await;
                while *self.generation.borrow() == generation {
                    tokio::time::sleep(HEARTBEAT).await;
                    let beat = async {
                        while tx.try_publish("heartbeat", "beat").is_err() {
                            tx.buffer().clear();
                            tokio::time::sleep(RETRY).await;
                        }
                        while !matches!(rx.next().await.ok()?, Some(Notification::Forward(_))) {}
                        Some(())
                    };
                    if !matches!(timeout(DEAD_AFTER, beat).await, Ok(Some(()))) {
                        self.replace(generation);
                    }
                    let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
                    leaving.retain_mut(|link| !say_goodbye(link));
                }
            }
        };
        stop.run_until_cancelled(watching).await;
    }

    /// Lets the router hang, with a channel that takes nothing more, until what is returned is
    /// dropped: it waits for the lock of a link's buffer, which somebody else holds.
    #[cfg(test)]
    pub(super) fn hang(&self) -> std::sync::mpsc::Sender<()> {
        let connect = Arc::clone(&self.router.lock().unwrap());
        let (release, released) = std::sync::mpsc::channel();
        let (hanging, hangs) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (mut tx, _rx) = connect("hang").unwrap();
            let (mut other, _other_rx) = connect("other").unwrap();
            loop {
                tx.publish("hang", "x").unwrap();
                let buffer = tx.buffer();
                // Otherwise the router was faster.
                if !buffer.is_empty() {
                    while other.shadow("x").is_ok() {}
                    hanging.send(()).unwrap();
                    let _ = released.recv();
                    return;
                }
            }
        });
        hangs.recv().unwrap();
        release
    }

    /// Kills the router by what is known to kill it: a topic whose first character is no single byte.
    #[cfg(test)]
    pub(super) fn crash(&self) {
        let connect = Arc::clone(&self.router.lock().unwrap());
        std::thread::spawn(move || {
            let (mut tx, rx) = connect("crash").unwrap();
            tx.subscribe("é/x").unwrap();
            let _ = tx.publish("é/x", "x");
            std::thread::sleep(Duration::from_millis(100));
            drop(rx);
        });
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Says whether the router was told.
fn say_goodbye(link: &mut LinkTx) -> bool {
    let reason_code = DisconnectReasonCode::NormalDisconnection;
    link.buffer().push_back(Packet::Disconnect(Disconnect { reason_code }, None));
    // What comes after it is not looked at.
    link.try_publish("", "").is_ok()
}

fn spawn(id: usize) -> Arc<Connect> {
    let config = RouterConfig {
        max_connections: MAX_LINKS.min(65_536),
        max_outgoing_packet_count: BURST,
        max_segment_size: SEGMENT_BYTES,
        max_segment_count: SEGMENTS,
        ..RouterConfig::default()
    };
    // The router's own event type has no public name, so its channel stays inside.
    let events = Router::new(id, config).spawn();
    Arc::new(move |name| {
        let (tx, rx, _) = LinkBuilder::new(name, events.clone()).build().map_err(Box::new)?;
        Ok((tx, rx))
    })
}
