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

    /// Takes so many batches out of a drain.
    async fn take(drain: &mut super::Drain, batches: u32) {
        for n in 0..batches {
            let next = tokio::time::timeout(Duration::from_secs(30), drain.next()).await.unwrap();
            assert_eq!(next.records, batch(n).records, "in order, once each");
            drain.lane().routed(next.records.len());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_router_that_dies_is_replaced_once_for_all_its_tenants() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let bus = Bus::start(1, &tasks, &stop);
        let mut lanes: Vec<_> = (0..5).map(|n| bus.lane(&n.to_string()).unwrap()).collect();
        for (lane, drain) in &mut lanes {
            lane.push(batch(0));
            take(drain, 1).await;
        }
        let shard = std::sync::Arc::clone(&bus.shards[0]);
        shard.crash();
        let mut generation = shard.generation();
        let taking: Vec<_> = lanes
            .into_iter()
            .map(|(lane, mut drain)| {
                tokio::spawn(async move {
                    while *drain.lane().shard().generation().borrow() == 0 {
                        let _ = tokio::time::timeout(Duration::from_millis(50), drain.next()).await;
                    }
                    lane.push(batch(0));
                    take(&mut drain, 1).await;
                    // It is served for as long as there is nothing wrong.
                    let more = tokio::time::timeout(Duration::from_millis(500), drain.next()).await;
                    assert!(more.is_err(), "nothing more");
                })
            })
            .collect();
        for taken in taking {
            taken.await.unwrap();
        }
        assert_eq!(*generation.borrow_and_update(), 1);
        stop.cancel();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_waits_for_a_router_that_hangs_and_it_is_replaced() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let bus = Bus::start(1, &tasks, &stop);
        let (lane, mut drain) = bus.lane("acme").unwrap();
        lane.push(batch(0));
        take(&mut drain, 1).await;
        let (leaver, mut left) = bus.lane("globex").unwrap();
        leaver.push(batch(0));
        take(&mut left, 1).await;
        let shard = std::sync::Arc::clone(&bus.shards[0]);
        let hanging = tokio::task::spawn_blocking(move || shard.hang()).await.unwrap();
        let pushing = tokio::task::spawn_blocking({
            let lane = std::sync::Arc::clone(&lane);
            move || {
                for n in 0..1_000 {
                    lane.push(batch(n));
                }
                drop((leaver, left));
            }
        });
        tokio::time::timeout(Duration::from_secs(30), pushing).await.unwrap().unwrap();
        take(&mut drain, 1_000).await;
        assert!(*lane.shard().generation().borrow() >= 1);
        lane.push(batch(0));
        take(&mut drain, 1).await;
        drop(hanging);
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
