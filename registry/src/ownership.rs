//! Which replica has which tenants.
//!
//! Tenants are divided into [`PARTITIONS`]. A replica has a partition while its key under
//! `/bulkhead/registry/partitions/` is its own; the key is under the replica's lease, so it goes with
//! it, and others take over. Who should have which follows from who is there (rendezvous hashing): one
//! more replica moves only what becomes its own.
//!
//! Each write of presence is bound to the key's revision ([`Fence`]). Whoever lost a partition, and does
//! not know it yet, writes nothing, and tells nobody what it could not write.

use crate::metrics::Metrics;
use crate::store::{EtcdStore, StoreError};
use aws_lc_rs::digest::{SHA256, digest};
use bulkhead_control::etcd::keep_alive;
use bulkhead_policy::TenantId;
use etcd_client::{
    Compare, CompareOp, EventType, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How many parts tenants are divided into: the most replicas that have something to do.
pub(crate) const PARTITIONS: u8 = 64;

/// Everything of replicas.
const PREFIX: &str = "/bulkhead/registry/replicas/";
const MEMBERS: &str = "/bulkhead/registry/replicas/members/";
const KEYS: &str = "/bulkhead/registry/replicas/partitions/";

/// Who last claimed each partition, under no lease: it tells whether another had it in between.
const LAST: &str = "/bulkhead/registry/replicas/last/";

/// What stands there of one that was given away.
const GIVEN_AWAY: &str = "given away";

/// Longest name of a machine (RFC 1035 §2.3.4).
const MAX_HOST: usize = 253;

/// First and longest pause between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long a partition's tenants may take to write what waits before it is given away.
const HANDOVER: Duration = Duration::from_secs(3);

/// The right to write: the key of a partition, and its revision while it is this replica's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fence {
    key: String,
    revision: i64,
    /// The revision when it last was claimed after another replica had had it; 0 if never.
    inherited: i64,
}

impl Fence {
    /// The right of whoever made a key.
    #[cfg(test)]
    pub(crate) fn of(key: &str, revision: i64) -> Self {
        Self { key: key.to_owned(), revision, inherited: 0 }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    /// Whether another replica had the partition since it was held with an earlier right.
    pub(crate) fn is_inherited_since(&self, earlier: &Self) -> bool {
        self.inherited > earlier.revision
    }
}

/// What this replica has.
pub(crate) type Owned = BTreeMap<u8, Fence>;

/// The part that a tenant is in.
pub(crate) fn partition_of(tenant: &TenantId) -> u8 {
    digest(&SHA256, tenant.as_str().as_bytes()).as_ref().first().copied().unwrap_or(0) % PARTITIONS
}

/// What other replicas have, by their names.
pub(crate) type Elsewhere = BTreeMap<u8, String>;

/// How the tenants are shared out.
pub(crate) struct Shares {
    pub(crate) owned: watch::Receiver<Arc<Owned>>,
    pub(crate) elsewhere: watch::Receiver<Arc<Elsewhere>>,
    /// For partitions that this replica no longer has, once their tenants have written what they had.
    pub(crate) released: Option<mpsc::Sender<u8>>,
}

impl Shares {
    /// Everything, for a process that shares its store with nobody.
    pub(crate) fn alone() -> Self {
        let all = (0..PARTITIONS).map(|partition| (partition, Fence::default())).collect();
        Self {
            owned: watch::Sender::new(Arc::new(all)).subscribe(),
            elsewhere: watch::Sender::default().subscribe(),
            released: None,
        }
    }
}

/// One replica among others.
pub(crate) struct Replica {
    etcd: Arc<EtcdStore>,
    metrics: Metrics,
    /// Its name, new at each start, with where its admin port is.
    name: String,
    /// How long it is there after its last sign of life.
    ttl: Duration,
    owned: watch::Sender<Arc<Owned>>,
    elsewhere: watch::Sender<Arc<Elsewhere>>,
    /// Partitions whose tenants have written what they had.
    released: mpsc::Receiver<u8>,
    lease: Option<i64>,
    /// Partitions that are being given away, and until when that may take.
    leaving: BTreeMap<u8, Instant>,
    /// When each was last claimed that another had before, by the revision.
    inherited: BTreeMap<u8, i64>,
    /// Whether it has been here before, so that what it gets now was another's.
    has_settled: bool,
}

/// What etcd has about replicas.
#[derive(Default)]
struct View {
    members: BTreeSet<String>,
    /// Who has it, and the revision of the key.
    holders: BTreeMap<u8, (String, i64)>,
}

impl View {
    fn put(&mut self, key: &[u8], value: &[u8], revision: i64) {
        let (Ok(key), Ok(value)) = (std::str::from_utf8(key), std::str::from_utf8(value)) else {
            return;
        };
        if let Some(member) = key.strip_prefix(MEMBERS) {
            self.members.insert(member.to_owned());
        } else if let Some(partition) = key.strip_prefix(KEYS).and_then(|p| p.parse().ok()) {
            self.holders.insert(partition, (value.to_owned(), revision));
        }
    }

    fn delete(&mut self, key: &[u8]) {
        let Ok(key) = std::str::from_utf8(key) else { return };
        if let Some(member) = key.strip_prefix(MEMBERS) {
            self.members.remove(member);
        } else if let Some(partition) = key.strip_prefix(KEYS).and_then(|p| p.parse().ok()) {
            let partition: u8 = partition;
            self.holders.remove(&partition);
        }
    }

    /// Who should have a partition.
    fn choice(&self, partition: u8) -> Option<&str> {
        let weight = |member: &&String| {
            let text = format!("{member}/{partition}");
            digest(&SHA256, text.as_bytes()).as_ref().to_vec()
        };
        self.members.iter().max_by_key(weight).map(String::as_str)
    }
}

/// What people call this machine, as far as the system says.
fn host() -> String {
    let said = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let said = said.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    // A name of DNS; what stands in a key has no slashes.
    let is_of_name = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let name: String = said.trim().chars().filter(is_of_name).take(MAX_HOST).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

fn key(partition: u8) -> String {
    format!("{KEYS}{partition:02}")
}

impl Replica {
    /// One that has nothing yet, and whose admin port is on this port of the machine.
    pub(crate) fn new(
        etcd: Arc<EtcdStore>,
        ttl: Duration,
        admin_port: u16,
        metrics: &Metrics,
    ) -> (Self, Shares) {
        let (owned, owned_receiver) = watch::channel(Arc::default());
        let (elsewhere, elsewhere_receiver) = watch::channel(Arc::default());
        let (sender, released) = mpsc::channel(PARTITIONS.into());
        let shares =
            Shares { owned: owned_receiver, elsewhere: elsewhere_receiver, released: Some(sender) };
        let replica = Self {
            etcd,
            metrics: metrics.clone(),
            name: format!("{}:{admin_port}#{}", host(), Uuid::new_v4()),
            ttl,
            owned,
            elsewhere,
            released,
            lease: None,
            leaving: BTreeMap::new(),
            inherited: BTreeMap::new(),
            has_settled: false,
        };
        (replica, shares)
    }

    /// Takes part until it is told to stop; then it gives everything away.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut pause = BACKOFF.0;
        loop {
            let began = Instant::now();
            let Some(Err(error)) = stop.run_until_cancelled(self.session()).await else { break };
            tracing::warn!(%error, "the registry's etcd is away; presence is kept in memory");
            self.metrics.store_up.set(0);
            self.etcd.contact().lost();
            if began.elapsed() > BACKOFF.1 {
                pause = BACKOFF.0;
            }
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
        self.leave().await;
    }

    /// Gives everything away at once: whoever stays need not wait for the lease to end.
    async fn leave(mut self) {
        self.owned.send_replace(Arc::default());
        let Some(lease) = self.lease else { return };
        let written = async {
            let mut waiting: BTreeSet<u8> = (0..PARTITIONS).collect();
            while !waiting.is_empty() {
                let Some(partition) = self.released.recv().await else { break };
                waiting.remove(&partition);
            }
        };
        let _ = tokio::time::timeout(HANDOVER, written).await;
        let revoked = async { self.etcd.client().await.ok()?.lease_revoke(lease).await.ok() };
        let _ = tokio::time::timeout(HANDOVER, revoked).await;
    }

    async fn session(&mut self) -> Result<(), StoreError> {
        let mut client = self.etcd.client().await?;
        let asked = Instant::now();
        let lease = self.join().await?;
        let options = GetOptions::new().with_prefix();
        self.etcd.asked("range");
        let found = client.get(PREFIX, Some(options)).await?;
        let mut view = View::default();
        for one in found.kvs() {
            view.put(one.key(), one.value(), one.create_revision());
        }
        let revision = found.header().map_or(0, etcd_client::ResponseHeader::revision);
        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let mut events = client.watch(PREFIX, Some(options)).await?;
        let mut beat = tokio::time::interval(self.ttl / 3);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        beat.tick().await;
        let mut is_confirmed = false;
        self.metrics.store_up.set(1);
        tracing::info!(
            replica = self.name,
            others = view.members.len().saturating_sub(1),
            "the registry's etcd is there"
        );
        loop {
            self.reconcile(&mut view, lease).await?;
            if !std::mem::replace(&mut is_confirmed, true) {
                // Not before it is known what is still this replica's.
                self.etcd.contact().confirmed(asked);
            }
            self.has_settled = true;
            tokio::select! {
                _ = beat.tick() => {
                    self.etcd.asked("keep_alive");
                    let asked = Instant::now();
                    if !keep_alive(&mut client, lease).await? {
                        self.lease = None;
                        return Err(etcd_client::Error::LeaseKeepAliveError(
                            "this replica was silent for too long".to_owned(),
                        )
                        .into());
                    }
                    self.etcd.contact().confirmed(asked);
                }
                message = events.message() => {
                    let ended = || etcd_client::Error::WatchError("the watch ended".to_owned());
                    let message = message?.ok_or_else(ended)?;
                    if message.canceled() {
                        return Err(ended().into());
                    }
                    for event in message.events() {
                        let Some(one) = event.kv() else { continue };
                        match event.event_type() {
                            EventType::Put => view.put(one.key(), one.value(), one.create_revision()),
                            EventType::Delete => view.delete(one.key()),
                        }
                    }
                }
                Some(partition) = self.released.recv() => {
                    if let Some(until) = self.leaving.get_mut(&partition) {
                        *until = Instant::now();
                    }
                }
            }
        }
    }

    /// Is there, for others to see. Returns the lease that says so.
    async fn join(&mut self) -> Result<i64, StoreError> {
        let mut client = self.etcd.client().await?;
        if let Some(lease) = self.lease {
            self.etcd.asked("keep_alive");
            if keep_alive(&mut client, lease).await? {
                return Ok(lease);
            }
            self.lease = None;
        }
        let seconds = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        self.etcd.asked("lease");
        let lease = client.lease_grant(seconds, None).await?.id();
        let options = PutOptions::new().with_lease(lease);
        self.etcd.asked("put");
        client.put(format!("{MEMBERS}{}", self.name), "", Some(options)).await?;
        self.lease = Some(lease);
        Ok(lease)
    }

    /// Takes what it should have and nobody has, and gives away what another should have.
    async fn reconcile(&mut self, view: &mut View, lease: i64) -> Result<(), StoreError> {
        view.members.insert(self.name.clone());
        self.etcd.contact().others(view.members.len() > 1);
        let before = Arc::clone(&self.owned.borrow());
        let mut owned = Owned::clone(&before);
        let mut claims = Vec::new();
        for partition in 0..PARTITIONS {
            let is_choice = view.choice(partition) == Some(self.name.as_str());
            match view.holders.get(&partition) {
                Some((holder, _)) if *holder != self.name => {
                    owned.remove(&partition);
                    self.leaving.remove(&partition);
                }
                Some((_, revision)) if is_choice => {
                    self.leaving.remove(&partition);
                    owned.insert(partition, self.fence(partition, *revision));
                }
                Some(_) => {
                    owned.remove(&partition);
                    let until = Instant::now() + HANDOVER;
                    self.leaving.entry(partition).or_insert(until);
                }
                None if is_choice => claims.push(partition),
                None => {
                    owned.remove(&partition);
                    self.leaving.remove(&partition);
                }
            }
        }
        for partition in claims {
            // Who has it instead is to be heard first; there may be more of that.
            let Some(revision) = self.claim(partition, lease).await? else { break };
            view.holders.insert(partition, (self.name.clone(), revision));
            owned.insert(partition, self.fence(partition, revision));
        }
        if owned != *before {
            self.metrics.partitions.set(i64::try_from(owned.len()).unwrap_or(i64::MAX));
            self.owned.send_replace(Arc::new(owned));
        }
        let elsewhere = view.holders.iter().filter(|(_, (holder, _))| *holder != self.name);
        let elsewhere: Elsewhere =
            elsewhere.map(|(partition, (holder, _))| (*partition, holder.clone())).collect();
        if **self.elsewhere.borrow() != elsewhere {
            self.elsewhere.send_replace(Arc::new(elsewhere));
        }
        self.give_away(view).await
    }

    fn fence(&self, partition: u8, revision: i64) -> Fence {
        let inherited = self.inherited.get(&partition).copied().unwrap_or(0);
        Fence { key: key(partition), revision, inherited }
    }

    /// Returns the revision of the key if it is this replica's now.
    async fn claim(&mut self, partition: u8, lease: i64) -> Result<Option<i64>, StoreError> {
        let mut client = self.etcd.client().await?;
        let key = key(partition);
        let is_free = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
        let options = PutOptions::new().with_lease(lease);
        let put = TxnOp::put(key, self.name.as_str(), Some(options));
        let note = PutOptions::new().with_prev_key();
        let note = TxnOp::put(last(partition), self.name.as_str(), Some(note));
        self.etcd.asked("claim");
        let answer = client.txn(Txn::new().when([is_free]).and_then([put, note])).await?;
        if !answer.succeeded() {
            return Ok(None);
        }
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        let before = answer.op_responses().into_iter().find_map(|done| match done {
            TxnOpResponse::Put(mut done) => done.take_prev_key(),
            _ => None,
        });
        let before = before.map(|before| before.value().to_vec()).unwrap_or_default();
        if !before.is_empty() && before != self.name.as_bytes() {
            self.inherited.insert(partition, revision);
            if self.has_settled && before != GIVEN_AWAY.as_bytes() {
                self.metrics.takeovers.inc();
            }
        }
        Ok(Some(revision))
    }

    async fn give_away(&mut self, view: &mut View) -> Result<(), StoreError> {
        let now = Instant::now();
        let due: Vec<u8> =
            self.leaving.iter().filter(|(_, until)| **until <= now).map(|(p, _)| *p).collect();
        for partition in due {
            let mut client = self.etcd.client().await?;
            let key = key(partition);
            let is_ours = Compare::value(key.as_str(), CompareOp::Equal, self.name.as_str());
            self.etcd.asked("release");
            let delete = TxnOp::delete(key, None);
            let note = TxnOp::put(last(partition), GIVEN_AWAY, None);
            client.txn(Txn::new().when([is_ours]).and_then([delete, note])).await?;
            view.holders.remove(&partition);
            self.leaving.remove(&partition);
        }
        Ok(())
    }
}

fn last(partition: u8) -> String {
    format!("{LAST}{partition:02}")
}

#[cfg(test)]
mod tests {
    use super::{PARTITIONS, View};

    fn of(members: &[&str]) -> View {
        View { members: members.iter().map(|m| (*m).to_owned()).collect(), ..View::default() }
    }

    #[test]
    fn one_more_replica_moves_its_share_only() {
        let (two, three) = (of(&["a", "b"]), of(&["a", "b", "c"]));
        let mut moved = 0;
        for partition in 0..PARTITIONS {
            let (before, after) = (two.choice(partition), three.choice(partition));
            if before != after {
                assert_eq!(after, Some("c"));
                moved += 1;
            }
        }
        assert!((8..=36).contains(&moved), "{moved}");
    }
}
