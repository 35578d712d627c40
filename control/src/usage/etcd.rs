//! What is counted, in etcd.
//!
//! ```text
//! /bulkhead/usage/processes/<n>                   a process; under a lease that it keeps alive
//! /bulkhead/usage/readers/<counter>               whose counter is read by which; likewise
//! /bulkhead/usage/now/<tenant>/<n>                what tenants have at the moment; likewise
//! /bulkhead/usage/counts/<day>/<tenant>/<n>       what was counted; under a lease of two days
//! /bulkhead/usage/counts/marks/<counter>/<tenant> how far a counter was read; likewise
//! ```
//!
//! A process writes under the lowest number that is free, and goes on with what the one before counted
//! under it: there are never more records than processes were there at a time. Each write is bound to the
//! number still being its own.

use super::store::{About, Heard, MAX_PROCESSES, UsageError, Write, Written, named, unnamed};
use crate::config::EtcdConfig;
use crate::etcd::{TIMEOUT, connect, keep_alive};
use bulkhead_policy::{Amounts, Day, Mark, TenantId};
use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, KeyValue, PutOptions, Txn, TxnOp,
    WatchOptions, WatchStream,
};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// Everything of this.
const USAGE: &str = "/bulkhead/usage/";
const PROCESSES: &str = "/bulkhead/usage/processes/";
const READERS: &str = "/bulkhead/usage/readers/";
const NOW: &str = "/bulkhead/usage/now/";
const COUNTS: &str = "/bulkhead/usage/counts/";
const MARKS: &str = "marks";

/// How long what was counted is kept, in seconds, from when something of its day was first written.
const KEPT: i64 = 2 * 86_400 + 3_600;

/// How long a process is there after its last sign of life, at the least.
const SILENT: Duration = Duration::from_secs(5);

/// Operations of one transaction: etcd takes 128 by default.
const OPERATIONS: usize = 100;

/// Largest answer: every record of two days at once.
const MAX_ANSWER_BYTES: usize = 512 * 1024 * 1024;

/// The store in etcd, as one process uses it.
pub(super) struct EtcdStore {
    config: EtcdConfig,
    /// Seconds that the process is there after its last sign of life.
    ttl: i64,
    claim: Option<Claim>,
    session: Option<Session>,
    /// The lease of what is counted on a day. It is not kept alive, so that old days go away.
    kept: Option<(Day, i64)>,
    about: Option<About>,
    reads: HashSet<String>,
}

/// A number.
#[derive(Clone, Debug)]
struct Claim {
    process: u32,
    /// When its key was made: it is still this process's while that is so.
    revision: i64,
    lease: i64,
}

struct Session {
    client: Client,
    watch: WatchStream,
}

impl Claim {
    fn key(&self) -> String {
        format!("{PROCESSES}{}", self.process)
    }

    fn holds(&self) -> Compare {
        Compare::create_revision(self.key(), CompareOp::Equal, self.revision)
    }
}

impl EtcdStore {
    pub(super) fn new(config: EtcdConfig, interval: Duration) -> Self {
        let ttl = SILENT.max(interval * 4).as_secs();
        Self {
            config,
            ttl: i64::try_from(ttl).unwrap_or(i64::MAX),
            claim: None,
            session: None,
            kept: None,
            about: None,
            reads: HashSet::new(),
        }
    }

    pub(super) async fn open(&mut self, today: Day) -> Result<(u32, Vec<Heard>), UsageError> {
        self.session = None;
        let mut client = connect(&self.config).await?;
        let claim = self.claim(&mut client).await?;
        // Only now: what the process before had under way can no longer be written.
        let options = GetOptions::new().with_prefix();
        let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES);
        let found = kv.get(COUNTS, Some(options)).await?;
        let revision = found.header().map_or(0, etcd_client::ResponseHeader::revision);
        let mut heard = Vec::with_capacity(found.kvs().len());
        for one in found.kvs() {
            let Some(one_heard) = read(one) else { continue };
            if let Heard::Count { day, process, .. } = &one_heard
                && (*day, *process) == (today, claim.process)
                && one.lease() != 0
            {
                self.kept = Some((today, one.lease()));
            }
            heard.push(one_heard);
        }
        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let watch = client.watch(COUNTS, Some(options)).await?;
        self.session = Some(Session { client, watch });
        Ok((claim.process, heard))
    }

    /// The number that this process has, or the lowest that is free.
    async fn claim(&mut self, client: &mut Client) -> Result<Claim, UsageError> {
        if let Some(claim) = &self.claim {
            let found = client.get(claim.key(), None).await?;
            let is_own =
                found.kvs().first().is_some_and(|kv| kv.create_revision() == claim.revision);
            if is_own {
                return Ok(claim.clone());
            }
        }
        self.claim = None;
        self.about = None;
        self.kept = None;
        self.reads.clear();
        let lease = client.lease_grant(self.ttl, None).await?.id();
        let options = GetOptions::new().with_prefix().with_keys_only();
        let found = client.get(PROCESSES, Some(options)).await?;
        let taken: HashSet<_> = found.kvs().iter().filter_map(process_of).collect();
        for process in (0..MAX_PROCESSES).filter(|process| !taken.contains(process)) {
            let mut claim = Claim { process, revision: 0, lease };
            let is_free = Compare::version(claim.key(), CompareOp::Equal, 0);
            let put = TxnOp::put(claim.key(), "{}", Some(PutOptions::new().with_lease(lease)));
            let answer = client.txn(Txn::new().when([is_free]).and_then([put])).await?;
            if answer.succeeded() {
                claim.revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
                return Ok(self.claim.insert(claim).clone());
            }
        }
        Err(UsageError::Full)
    }

    pub(super) async fn next(&mut self) -> Result<Vec<Heard>, UsageError> {
        let Some(session) = &mut self.session else { return Err(UsageError::Lost) };
        let ended = |why: &str| etcd_client::Error::WatchError(why.to_owned());
        let message = session.watch.message().await?.ok_or_else(|| ended("the watch ended"))?;
        if message.canceled() {
            return Err(ended(message.cancel_reason()).into());
        }
        // What was kept long enough says nothing by going.
        let puts = message.events().iter().filter(|event| event.event_type() == EventType::Put);
        Ok(puts.filter_map(|event| read(event.kv()?)).collect())
    }

    pub(super) async fn write(
        &mut self,
        about: About,
        writes: &[Write],
        counters: Vec<String>,
        today: Day,
    ) -> Result<HashSet<String>, UsageError> {
        let (Some(session), Some(claim)) = (&self.session, self.claim.clone()) else {
            return Err(UsageError::Lost);
        };
        let mut client = session.client.clone();
        if !keep_alive(&mut client, claim.lease).await? {
            return Err(UsageError::Lost);
        }
        if self.about.as_ref() != Some(&about) {
            let text = serde_json::to_string(&about).unwrap_or_default();
            let options = PutOptions::new().with_lease(claim.lease);
            transact(&mut client, &claim, vec![TxnOp::put(claim.key(), text, Some(options))])
                .await?;
            self.about = Some(about);
        }
        self.read_counters(&mut client, &claim, counters).await?;
        if writes.is_empty() {
            return Ok(self.reads.clone());
        }
        let kept = match self.kept {
            Some((day, kept)) if day == today => kept,
            _ => {
                let kept = client.lease_grant(KEPT, None).await?.id();
                self.kept = Some((today, kept));
                kept
            }
        };
        let mut operations = Vec::new();
        for write in writes {
            let own = operations_of(write, &claim, kept);
            if operations.len() + own.len() > OPERATIONS && !operations.is_empty() {
                self.keep(&mut client, &claim, std::mem::take(&mut operations)).await?;
            }
            operations.extend(own);
        }
        self.keep(&mut client, &claim, operations).await?;
        Ok(self.reads.clone())
    }

    async fn keep(
        &mut self,
        client: &mut Client,
        claim: &Claim,
        operations: Vec<TxnOp>,
    ) -> Result<(), UsageError> {
        let written = transact(client, claim, operations).await;
        if written.is_err() {
            // Whatever it was, it may have been the lease.
            self.kept = None;
        }
        written
    }

    /// Takes over the counters that nobody reads.
    async fn read_counters(
        &mut self,
        client: &mut Client,
        claim: &Claim,
        counters: Vec<String>,
    ) -> Result<(), UsageError> {
        self.reads.retain(|counter| counters.contains(counter));
        for counter in counters {
            if self.reads.contains(&counter) {
                continue;
            }
            let key = format!("{READERS}{counter}");
            let is_free = Compare::version(key.clone(), CompareOp::Equal, 0);
            let options = PutOptions::new().with_lease(claim.lease);
            let put = TxnOp::put(key.clone(), claim.process.to_string(), Some(options));
            let look = TxnOp::get(key, None);
            let txn = Txn::new().when([is_free, claim.holds()]).and_then([put]).or_else([look]);
            let answer = client.txn(txn).await?;
            let is_own = || {
                answer.op_responses().iter().any(|one| match one {
                    etcd_client::TxnOpResponse::Get(got) => {
                        got.kvs().first().is_some_and(|kv| kv.lease() == claim.lease)
                    }
                    _ => false,
                })
            };
            if answer.succeeded() || is_own() {
                self.reads.insert(counter);
            }
        }
        Ok(())
    }

    pub(super) async fn close(mut self: Box<Self>) {
        if let (Some(mut session), Some(claim)) = (self.session.take(), self.claim.take()) {
            // Without this it goes by itself, later.
            let revoked = session.client.lease_revoke(claim.lease);
            let _ = tokio::time::timeout(TIMEOUT, revoked).await;
        }
    }
}

fn operations_of(write: &Write, claim: &Claim, kept: i64) -> Vec<TxnOp> {
    let Write { tenant, counts, marks, gauges } = write;
    let process = claim.process;
    let mut operations = Vec::new();
    let mut put = |key: String, text: Vec<u8>, lease| {
        operations.push(TxnOp::put(key, text, Some(PutOptions::new().with_lease(lease))));
    };
    for (day, amounts) in counts {
        put(format!("{COUNTS}{day}/{tenant}/{process}"), json(amounts), kept);
    }
    for (counter, mark) in marks {
        put(format!("{COUNTS}{MARKS}/{counter}/{tenant}"), json(mark), kept);
    }
    let key = format!("{NOW}{tenant}/{process}");
    match gauges {
        Some(gauges) if gauges.is_empty() => operations.push(TxnOp::delete(key, None)),
        Some(gauges) => put(key, json(&named(gauges)), claim.lease),
        None => {}
    }
    operations
}

/// Writes, if the number is still this process's.
async fn transact(
    client: &mut Client,
    claim: &Claim,
    operations: Vec<TxnOp>,
) -> Result<(), UsageError> {
    let txn = Txn::new().when([claim.holds()]).and_then(operations);
    if client.txn(txn).await?.succeeded() { Ok(()) } else { Err(UsageError::Lost) }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    // Nothing in these can fail to be written.
    serde_json::to_vec(value).unwrap_or_default()
}

/// What a key and its value say; `None` if nothing that this release knows.
fn read(kv: &KeyValue) -> Option<Heard> {
    let mut parts = kv.key_str().ok()?.strip_prefix(COUNTS)?.split('/');
    let (first, second, third) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    if first == MARKS {
        let mark: Mark = serde_json::from_slice(kv.value()).ok()?;
        let tenant = TenantId::parse(third).ok()?;
        return Some(Heard::Mark { counter: second.to_owned(), tenant, mark });
    }
    let amounts: Amounts = serde_json::from_slice(kv.value()).ok()?;
    Some(Heard::Count {
        day: first.parse().ok()?,
        tenant: TenantId::parse(second).ok()?,
        process: third.parse().ok()?,
        amounts,
    })
}

fn process_of(kv: &KeyValue) -> Option<u32> {
    kv.key_str().ok()?.rsplit('/').next()?.parse().ok()
}

/// What everybody has written of one tenant.
pub(super) async fn look(
    config: &EtcdConfig,
    tenant: &TenantId,
    day: Day,
) -> Result<Written, UsageError> {
    let mut client = connect(config).await?;
    let all = || Some(GetOptions::new().with_prefix());
    let counts = client.get(format!("{COUNTS}{day}/{tenant}/"), all()).await?;
    let now = client.get(format!("{NOW}{tenant}/"), all()).await?;
    let processes = client.get(PROCESSES, all()).await?;
    let counts = counts.kvs().iter().filter_map(|kv| serde_json::from_slice(kv.value()).ok());
    let gauges = now.kvs().iter().filter_map(|kv| {
        let named: BTreeMap<String, u64> = serde_json::from_slice(kv.value()).ok()?;
        Some(unnamed(&named))
    });
    let about = processes.kvs().iter().filter_map(|kv| serde_json::from_slice(kv.value()).ok());
    Ok(Written { counts: counts.collect(), gauges: gauges.collect(), about: about.collect() })
}

/// Looks whether keys can be read and written: one is put and deleted at once.
pub(super) async fn check(config: &EtcdConfig) -> Result<String, UsageError> {
    let mut client = connect(config).await?;
    let key = format!("{USAGE}check");
    client.get(COUNTS, Some(GetOptions::new().with_prefix().with_count_only())).await?;
    client.put(key.as_str(), "", None).await?;
    client.delete(key.as_str(), None).await?;
    Ok(format!("etcd, under {USAGE}"))
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore").field("claim", &self.claim).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{EtcdStore, MARKS, Written, look};
    use crate::config::EtcdConfig;
    use crate::etcd::connect;
    use crate::usage::book::Gauges;
    use crate::usage::store::{About, Heard, UsageError, Write};
    use bulkhead_devkit::{Etcd, Tools};
    use bulkhead_policy::{Amounts, Day, Mark, Resource, TenantId};
    use jiff::Timestamp;
    use std::time::Duration;

    fn acme() -> TenantId {
        TenantId::parse("acme").unwrap()
    }

    fn today() -> Day {
        Day::of(Timestamp::now())
    }

    struct Site {
        etcd: Etcd,
        _folder: tempfile::TempDir,
    }

    impl Site {
        fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let binary = Tools::open().unwrap().etcd().unwrap();
            Self { etcd: Etcd::start(&binary, folder.path()).unwrap(), _folder: folder }
        }

        fn config(&self) -> EtcdConfig {
            EtcdConfig::at(vec![self.etcd.endpoint().to_owned()])
        }

        fn store(&self) -> EtcdStore {
            EtcdStore::new(self.config(), Duration::from_millis(100))
        }
    }

    fn writes(messages: u64, connections: u64) -> Vec<Write> {
        let amounts = Amounts { messages, ..Amounts::default() };
        vec![Write {
            tenant: acme(),
            counts: vec![(today(), amounts)],
            marks: vec![("nats-x".to_owned(), Mark { messages, bytes: 1 })],
            gauges: Some(Gauges::from([(Resource::Connections, connections)])),
        }]
    }

    async fn write(store: &mut EtcdStore, messages: u64) -> Result<(), UsageError> {
        store.write(About::default(), &writes(messages, 1), Vec::new(), today()).await.map(drop)
    }

    /// Ends a process as the system does: its lease goes.
    async fn end(site: &Site, store: &EtcdStore) {
        let lease = store.claim.as_ref().unwrap().lease;
        connect(&site.config()).await.unwrap().lease_revoke(lease).await.unwrap();
    }

    #[tokio::test]
    async fn each_process_has_a_number_and_hears_of_the_others() {
        let site = Site::start();
        let (mut one, mut other) = (site.store(), site.store());
        assert_eq!(one.open(today()).await.unwrap(), (0, Vec::new()));
        assert_eq!(other.open(today()).await.unwrap(), (1, Vec::new()));
        write(&mut one, 5).await.unwrap();
        let mut heard = Vec::new();
        // The first answer is that it listens.
        while heard.is_empty() {
            heard = other.next().await.unwrap();
        }
        let amounts = Amounts { messages: 5, ..Amounts::default() };
        let count = Heard::Count { day: today(), tenant: acme(), process: 0, amounts };
        let mark = Mark { messages: 5, bytes: 1 };
        let mark = Heard::Mark { counter: "nats-x".to_owned(), tenant: acme(), mark };
        assert_eq!(heard, [count, mark]);
        // The same process keeps its number.
        assert_eq!(one.open(today()).await.unwrap().0, 0);
        write(&mut other, 2).await.unwrap();
        let Written { counts, gauges, about } =
            look(&site.config(), &acme(), today()).await.unwrap();
        assert_eq!(counts.iter().map(|a| a.messages).sum::<u64>(), 7);
        assert_eq!((gauges.len(), about.len()), (2, 2));
        // Who goes takes along what it has at the moment, and leaves what it has counted.
        Box::new(one).close().await;
        let Written { counts, gauges, about } =
            look(&site.config(), &acme(), today()).await.unwrap();
        assert_eq!((counts.len(), gauges.len(), about.len()), (2, 1, 1));
    }

    #[tokio::test]
    async fn whoever_has_lost_its_number_writes_nothing_more_under_it() {
        let site = Site::start();
        let (mut lost, mut next) = (site.store(), site.store());
        lost.open(today()).await.unwrap();
        write(&mut lost, 5).await.unwrap();
        end(&site, &lost).await;
        // The next one goes on with the record, not beside it.
        let (process, heard) = next.open(today()).await.unwrap();
        assert_eq!((process, heard.len()), (0, 2));
        write(&mut next, 9).await.unwrap();
        assert!(matches!(write(&mut lost, 6).await, Err(UsageError::Lost)));
        let claim = lost.claim.clone().unwrap();
        let mut client = connect(&site.config()).await.unwrap();
        let put = etcd_client::TxnOp::put("/bulkhead/usage/x", "", None);
        let written = super::transact(&mut client, &claim, vec![put]).await;
        assert!(matches!(written, Err(UsageError::Lost)), "whatever its lease is");
        assert_eq!(lost.open(today()).await.unwrap().0, 1);
        let Written { counts, .. } = look(&site.config(), &acme(), today()).await.unwrap();
        assert_eq!(counts.iter().map(|a| a.messages).collect::<Vec<_>>(), [9]);
    }

    #[tokio::test]
    async fn a_counter_has_one_reader_at_a_time() {
        let site = Site::start();
        let (mut one, mut other) = (site.store(), site.store());
        one.open(today()).await.unwrap();
        other.open(today()).await.unwrap();
        let reads = async |store: &mut EtcdStore, counter: &str| {
            let wanted = vec![counter.to_owned()];
            store.write(About::default(), &[], wanted, today()).await.unwrap().contains(counter)
        };
        assert!(reads(&mut one, "nats-x").await && !reads(&mut other, "nats-x").await);
        assert!(reads(&mut other, "nats-y").await && !reads(&mut one, "nats-y").await);
        assert!(reads(&mut one, "nats-x").await);
        end(&site, &one).await;
        assert!(reads(&mut other, "nats-x").await);
    }

    #[tokio::test]
    async fn what_was_counted_goes_away_by_itself() {
        let site = Site::start();
        let mut store = site.store();
        store.open(today()).await.unwrap();
        write(&mut store, 1).await.unwrap();
        let mut client = connect(&site.config()).await.unwrap();
        let options = etcd_client::GetOptions::new().with_prefix();
        let found = client.get("/bulkhead/usage/", Some(options)).await.unwrap();
        let keys: Vec<_> = found.kvs().iter().map(|kv| kv.key_str().unwrap()).collect();
        assert_eq!(keys.len(), 4, "{keys:?}");
        assert!(found.kvs().iter().all(|kv| kv.lease() != 0), "nothing stays for ever: {keys:?}");
        let of_days = found.kvs().iter().find(|kv| kv.key_str().unwrap().contains(MARKS)).unwrap();
        let ttl = client.lease_time_to_live(of_days.lease(), None).await.unwrap().ttl();
        assert!((2 * 86_400..3 * 86_400).contains(&ttl), "{ttl}");
        // A process that begins anew takes no further lease for the same day.
        end(&site, &store).await;
        let mut next = site.store();
        next.open(today()).await.unwrap();
        write(&mut next, 2).await.unwrap();
        assert_eq!(client.leases().await.unwrap().leases().len(), 2);
    }
}
