//! The way of messages through the embedded rumqttd routers.
//!
//! ```text
//!  connection ──▶ Lane ──▶ rumqttd router ──▶ Drain ──▶ Realm::route
//!                  one log, one link and one dispatcher for each tenant
//! ```
//!
//! A router sees neither clients nor their topics: only batches of validated messages, under one
//! fixed topic for each tenant. What it was given and has not handed on is kept here, so that a
//! router that dies is replaced and loses nothing.

mod lane;
mod router;

pub(crate) use lane::{Batch, Drain, Lane};

use router::Shard;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The routers. Each serves the tenants whose names fall to it.
#[derive(Debug)]
pub(crate) struct Bus {
    shards: Box<[Arc<Shard>]>,
}

impl Bus {
    /// Starts `routers` routers, and watches over them until it is told to stop.
    pub(crate) fn start(routers: usize, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        let shards: Box<[_]> = (0..routers.max(1)).map(|id| Arc::new(Shard::start(id))).collect();
        for shard in &shards {
            tasks.spawn(Arc::clone(shard).watch_over(stop.clone()));
        }
        Self { shards }
    }

    /// A lane of its own for a tenant, and its end.
    pub(crate) fn lane(&self, tenant: &str) -> Option<(Arc<Lane>, Drain)> {
        let mut hasher = DefaultHasher::new();
        tenant.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % (self.shards.len() as u64)).ok()?;
        Some(Lane::open(Arc::clone(self.shards.get(index)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Batch, Bus};
    use bytes::Bytes;
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    fn batch(n: u32) -> Batch {
        Batch { publisher: None, access: None, records: Bytes::copy_from_slice(&n.to_be_bytes()) }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_router_that_dies_is_replaced_and_loses_nothing() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let bus = Bus::start(1, &tasks, &stop);
        let (lane, mut drain) = bus.lane("acme").unwrap();
        let pushing = tokio::spawn(async move {
            for n in 0..2_000 {
                lane.room().await;
                lane.push(batch(n));
                if n % 500 == 250 {
                    lane.shard().crash();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            lane
        });
        for n in 0..2_000 {
            let next = tokio::time::timeout(Duration::from_secs(30), drain.next()).await.unwrap();
            assert_eq!(next.records, batch(n).records, "in order, once each");
            drain.lane().routed(next.records.len());
        }
        let lane = pushing.await.unwrap();
        assert!(*lane.shard().generation().borrow() >= 1, "a router had to be replaced");
        stop.cancel();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn more_than_the_log_holds_waits_and_none_of_it_is_lost() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let bus = Bus::start(1, &tasks, &stop);
        let (lane, mut drain) = bus.lane("acme").unwrap();
        let sizes = (0..200_usize).map(|n| 4 + (n * 7919) % 100_000);
        for (n, size) in (0_u32..).zip(sizes.clone()) {
            let mut records = vec![0; size];
            records[..4].copy_from_slice(&n.to_be_bytes());
            lane.push(Batch { publisher: None, access: None, records: records.into() });
        }
        for (n, size) in (0_u32..).zip(sizes) {
            let next = tokio::time::timeout(Duration::from_secs(30), drain.next()).await.unwrap();
            assert_eq!((next.records.len(), &next.records[..4]), (size, &n.to_be_bytes()[..]));
            lane.routed(next.records.len());
        }
        assert!(lane.is_idle());
        stop.cancel();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_publishes_too_much_waits() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let bus = Bus::start(1, &tasks, &stop);
        let (lane, mut drain) = bus.lane("acme").unwrap();
        while lane.has_room() {
            lane.push(Batch { publisher: None, access: None, records: vec![0; 1024].into() });
        }
        let waiting = tokio::spawn({
            let lane = std::sync::Arc::clone(&lane);
            async move { lane.room().await }
        });
        let next = drain.next().await;
        assert!(!waiting.is_finished(), "handed on is not yet routed");
        lane.routed(next.records.len());
        tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap();
        let (other, _) = bus.lane("globex").unwrap();
        assert!(other.has_room(), "another tenant's lane is its own");
        stop.cancel();
    }
}
