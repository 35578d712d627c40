use super::router::Shard;
use crate::hook::Access;
use crate::realm::Session;
use bytes::Bytes;
use rumqttd::Notification;
use rumqttd::local::{LinkRx, LinkTx};
use rumqttd::protocol::{Disconnect, DisconnectReasonCode, Packet, Publish};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, watch};

/// Bytes that a tenant's clients may have under way before they have to wait. Each of them may pass it
/// once, by what it has read.
const CREDIT: usize = 128 * 1024;

/// Bytes that a router is given before it has handed them on; a batch that is larger goes alone. It is
/// less than what the log holds, so that the router never drops what was not handed on.
pub(super) const GIVEN: usize = 128 * 1024;

/// What a batch weighs beyond its bytes.
const OVERHEAD: usize = 64;

/// Messages of one publisher, in the form of [`record`](crate::record).
pub(crate) struct Batch {
    /// Who published them, and is told when they have been handed on; nobody for wills.
    pub(crate) publisher: Option<Arc<Session>>,
    /// With whose rights.
    pub(crate) access: Option<Arc<dyn Access>>,
    /// The messages.
    pub(crate) records: Bytes,
}

/// The way in: where one tenant's messages go into its router's log.
pub(crate) struct Lane {
    shard: Arc<Shard>,
    topic: u64,
    state: Mutex<State>,
    room: Notify,
}

#[derive(Default)]
struct State {
    link: Option<LinkTx>,
    /// What the router has not handed on, in order.
    pending: VecDeque<Batch>,
    /// How many of these it was given, the first ones.
    given: usize,
    /// Their bytes.
    given_bytes: usize,
    /// The bytes of all of them, and of what is being routed.
    bytes: usize,
}

/// The way out: where they come out of it, in the same order.
pub(crate) struct Drain {
    lane: Arc<Lane>,
    link: Option<LinkRx>,
    generation: watch::Receiver<u64>,
    /// What was handed on and not taken yet.
    ready: VecDeque<Batch>,
}

impl Lane {
    pub(super) fn open(shard: Arc<Shard>) -> (Arc<Self>, Drain) {
        let topic = shard.take_topic();
        let generation = shard.generation();
        let lane = Arc::new(Self { shard, topic, state: Mutex::default(), room: Notify::new() });
        (Arc::clone(&lane), Drain { lane, link: None, generation, ready: VecDeque::new() })
    }

    #[cfg(test)]
    pub(super) fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Gives messages to the router. Whoever then [has no room](Self::has_room) should wait before it
    /// reads on.
    pub(crate) fn push(&self, batch: Batch) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bytes += batch.records.len() + OVERHEAD;
        state.pending.push_back(batch);
        self.give_on(&mut state);
    }

    /// Gives the router as much as its log holds. Without a link the messages wait; the drain gives
    /// them to the router that it finds.
    fn give_on(&self, state: &mut State) {
        let State { link: Some(link), pending, given, given_bytes, .. } = state else { return };
        while let Some(next) = pending.get(*given) {
            let bytes = next.records.len() + OVERHEAD;
            if *given > 0 && *given_bytes + bytes > GIVEN {
                return;
            }
            self.give(link, next.records.clone());
            *given += 1;
            *given_bytes += bytes;
        }
    }

    /// A router that is gone takes nothing; the drain finds that out and gives it to the next.
    fn give(&self, link: &mut LinkTx, records: Bytes) {
        let topic = Bytes::from(self.name());
        let mut waiting = link.buffer();
        if waiting.is_empty() {
            drop(waiting);
            let _ = link.publish(topic, records);
        } else {
            // The router has been told, and has not looked yet.
            waiting.push_back(Packet::Publish(Publish::new(topic, records, false), None));
        }
    }

    fn name(&self) -> String {
        format!("t{}", self.topic)
    }

    /// Whether more may be published.
    pub(crate) fn has_room(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).bytes < CREDIT
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).bytes == 0
    }

    /// Waits until more may be published.
    pub(crate) async fn room(&self) {
        loop {
            let notified = self.room.notified();
            if self.has_room() {
                return;
            }
            notified.await;
        }
    }

    /// Gives back the room of a batch that was routed.
    pub(crate) fn routed(&self, bytes: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.bytes;
        state.bytes = before.saturating_sub(bytes + OVERHEAD);
        if before >= CREDIT && state.bytes < CREDIT {
            self.room.notify_waiters();
        }
    }

    /// What the router has handed on, up to this batch; what it left out comes before it.
    fn take(&self, records: &Bytes, ready: &mut VecDeque<Batch>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let handed_on = |batch: &Batch| batch.records.as_ptr() == records.as_ptr();
        let Some(found) = state.pending.iter().take(state.given).position(handed_on) else {
            return;
        };
        if found > 0 {
            tracing::error!(batches = found, "a router has left out messages");
        }
        let first = ready.len();
        ready.extend(state.pending.drain(..=found));
        let bytes: usize =
            ready.iter().skip(first).map(|batch| batch.records.len() + OVERHEAD).sum();
        state.given -= found + 1;
        state.given_bytes -= bytes;
        self.give_on(&mut state);
    }

    /// Takes a new link, and gives the router everything that the last one had not handed on.
    fn relink(&self, link: LinkTx) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.given, state.given_bytes) = (0, 0);
        state.link = Some(link);
        self.give_on(&mut state);
    }
}

impl Drain {
    #[cfg(test)]
    pub(super) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// The next batch. It never ends: a router that dies is replaced.
    pub(crate) async fn next(&mut self) -> Batch {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return batch;
            }
            let notification = match &mut self.link {
                Some(link) => {
                    tokio::select! {
                        biased;
                        notification = link.next() => notification.ok(),
                        _ = self.generation.changed() => None,
                    }
                }
                None => None,
            };
            match notification {
                Some(Some(Notification::Forward(forward))) => {
                    self.lane.take(&forward.publish.payload, &mut self.ready);
                }
                Some(Some(Notification::Unschedule)) => {
                    // The router waits for this before it hands on more.
                    if let Some(link) = &self.link {
                        let _ = link.wake().await;
                    }
                }
                Some(_) => {}
                None => self.relink().await,
            }
        }
    }

    async fn relink(&mut self) {
        let generation = *self.generation.borrow_and_update();
        if self.link.take().is_some() {
            self.lane.state.lock().unwrap_or_else(PoisonError::into_inner).link = None;
            self.lane.shard.replace(generation);
            self.generation.borrow_and_update();
        }
        let (tx, rx) = self.lane.shard.link(&self.lane.name()).await;
        self.lane.relink(tx);
        self.link = Some(rx);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = &mut state.link {
            // A dropped link frees nothing in the router.
            let goodbye = Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection };
            link.buffer().push_back(Packet::Disconnect(goodbye, None));
            let _ = link.publish("", "");
        }
        self.shard.give_back(self.topic);
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("topic", &self.topic).finish_non_exhaustive()
    }
}
