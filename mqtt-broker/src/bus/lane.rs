use super::router::{RETRY, Shard};
use crate::hook::Access;
use crate::realm::Session;
use bytes::Bytes;
use rumqttd::Notification;
use rumqttd::local::{LinkRx, LinkTx};
use rumqttd::protocol::{Packet, Publish};
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
    stalled: Notify,
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
    /// The router takes nothing more at the moment. The drain tries again.
    is_stalled: bool,
}

/// The way out: where they come out of it, in the same order.
pub(crate) struct Drain {
    lane: Arc<Lane>,
    link: Option<LinkRx>,
    /// Which of the shard's routers that is of.
    linked: u64,
    generation: watch::Receiver<u64>,
    /// What was handed on and not taken yet.
    ready: VecDeque<Batch>,
}

impl Lane {
    pub(super) fn open(shard: Arc<Shard>) -> (Arc<Self>, Drain) {
        let topic = shard.take_topic();
        let generation = shard.generation();
        let (room, stalled) = (Notify::new(), Notify::new());
        let lane = Arc::new(Self { shard, topic, state: Mutex::default(), room, stalled });
        let drain = Drain {
            lane: Arc::clone(&lane),
            link: None,
            linked: 0,
            generation,
            ready: VecDeque::new(),
        };
        (lane, drain)
    }

    #[cfg(test)]
    pub(super) fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Gives messages to the router, and never waits for it. Whoever then
    /// [has no room](Self::has_room) should wait before it reads on.
    pub(crate) fn push(&self, batch: Batch) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bytes += batch.records.len() + OVERHEAD;
        state.pending.push_back(batch);
        self.give_on(&mut state);
    }

    /// Gives the router as much as its log holds. Without a link the messages wait; the drain gives
    /// them to the router that it finds.
    fn give_on(&self, state: &mut State) {
        let State { link: Some(link), pending, given, given_bytes, is_stalled, .. } = state else {
            return;
        };
        *is_stalled = false;
        while let Some(next) = pending.get(*given) {
            let bytes = next.records.len() + OVERHEAD;
            if *given > 0 && *given_bytes + bytes > GIVEN {
                return;
            }
            if !self.give(link, next.records.clone()) {
                *is_stalled = true;
                return self.stalled.notify_one();
            }
            *given += 1;
            *given_bytes += bytes;
        }
    }

    /// Says whether the router has it. One that is gone, or whose channel is full, takes nothing: to
    /// wait here for one that hangs would be to hang too.
    fn give(&self, link: &mut LinkTx, records: Bytes) -> bool {
        let topic = Bytes::from(self.name());
        let mut waiting = link.buffer();
        if !waiting.is_empty() {
            // The router has been told, and has not looked yet.
            waiting.push_back(Packet::Publish(Publish::new(topic, records, false), None));
            return true;
        }
        drop(waiting);
        // Where it could not be told it may have looked all the same, because of what it was told
        // before: then nothing is there any more.
        link.try_publish(topic, records).is_ok() || link.buffer().pop_back().is_none()
    }

    /// Waits until it is time to try again to give the router something.
    async fn stalled(&self) {
        loop {
            let notified = self.stalled.notified();
            if self.state.lock().unwrap_or_else(PoisonError::into_inner).is_stalled {
                break;
            }
            notified.await;
        }
        tokio::time::sleep(RETRY).await;
    }

    fn try_again(&self) {
        self.give_on(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
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

    /// Waits until more may be published: for a router that does not move, no longer than it takes
    /// until that is replaced.
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
                        () = self.lane.stalled() => {
                            self.lane.try_again();
                            continue;
                        }
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
                    let Some(link) = &self.link else { continue };
                    let is_told = tokio::select! {
                        biased;
                        woken = link.wake() => woken.is_ok(),
                        _ = self.generation.changed() => false,
                    };
                    if !is_told {
                        self.relink().await;
                    }
                }
                Some(_) => {}
                None => self.relink().await,
            }
        }
    }

    async fn relink(&mut self) {
        if self.link.take().is_some() {
            self.lane.state.lock().unwrap_or_else(PoisonError::into_inner).link = None;
            // Nothing happens if it is this that it was told.
            self.lane.shard.replace(self.linked);
        }
        let linked = self.lane.shard.link(&self.lane.name()).await;
        // Whatever came after it is seen.
        self.generation.mark_unchanged();
        if *self.generation.borrow() != linked.generation {
            self.generation.mark_changed();
        }
        self.linked = linked.generation;
        self.lane.relink(linked.tx);
        self.link = Some(linked.rx);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = state.link.take() {
            self.shard.unlink(link);
        }
        self.shard.give_back(self.topic);
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("topic", &self.topic).finish_non_exhaustive()
    }
}
