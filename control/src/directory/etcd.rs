//! A directory in etcd: read whole once, then watched from that revision on.

use super::document;
use super::{Directory, Snapshot};
use crate::config::EtcdConfig;
use crate::etcd::{PROGRESS, TIMEOUT, connect};
use bulkhead_policy::{Tenant, TenantId};
use etcd_client::{Client, EventType, GetOptions, KeyValue, KvClient, WatchOptions, WatchStream};
use std::time::Duration;

/// Where the tenants are.
pub(super) const PREFIX: &str = "/bulkhead/tenants/";

/// First and longest pause between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// Largest answer: every tenant at once.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Follows etcd for ever. Each time the watch ends, by a compaction, an outage or a new leader, all
/// is read again, so that nothing that happened meanwhile is missed.
pub(super) async fn follow(directory: &Directory, config: &EtcdConfig) {
    let mut pause = BACKOFF.0;
    loop {
        let before = directory.age();
        let error = match follow_once(directory, config).await {
            Err(error) => error,
            Ok(never) => match never {},
        };
        directory.report("etcd", &error);
        // A session that got as far as a state starts the next without delay.
        let progressed = directory.age() < before || before.is_none() && directory.age().is_some();
        pause = if progressed { BACKOFF.0 } else { (pause * 2).min(BACKOFF.1) };
        tokio::time::sleep(pause).await;
    }
}

/// For reading every tenant at once.
pub(super) fn all(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES)
}

async fn follow_once(
    directory: &Directory,
    config: &EtcdConfig,
) -> Result<std::convert::Infallible, etcd_client::Error> {
    let mut client = within(connect(config)).await?;
    let progress = PROGRESS.min(directory.stale_after() / 4);
    let options = GetOptions::new().with_prefix();
    let found = all(&client).get(PREFIX, Some(options)).await?;
    let revision = found.header().map_or(0, |header| header.revision());
    let mut clashing = read_all(directory, found.kvs());

    // Without a leader the watch would be silent for ever instead of ending.
    let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
    let mut watch = within(client.watch(PREFIX, Some(options))).await?;
    loop {
        match tokio::time::timeout(progress, watch.message()).await {
            Ok(message) => {
                let ended = || etcd_client::Error::WatchError("the watch ended".to_owned());
                let message = message?.ok_or_else(ended)?;
                if message.canceled() {
                    return Err(etcd_client::Error::WatchError(format!(
                        "the watch was cancelled (compacted to {}): {}",
                        message.compact_revision(),
                        message.cancel_reason()
                    )));
                }
                for event in message.events() {
                    clashing |= apply(directory, event.event_type(), event.kv());
                }
                // One of two ids that clash may be gone now, and the other come into its own.
                if clashing && !message.events().is_empty() {
                    let options = GetOptions::new().with_prefix();
                    let found = all(&client).get(PREFIX, Some(options)).await?;
                    clashing = read_all(directory, found.kvs());
                }
                directory.mark_synced();
            }
            Err(_elapsed) => within(confirm(directory, &mut client, &mut watch)).await?,
        }
    }
}

/// Nothing that etcd is asked may keep the state from being looked at anew, whatever its answer hangs on.
async fn within<T>(
    asked: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, etcd_client::Error> {
    let silent = |_| etcd_client::Error::WatchError("etcd does not answer".to_owned());
    tokio::time::timeout(TIMEOUT * 2, asked).await.map_err(silent)?
}

/// Asks etcd for its revision through a linearised read, and then the watch for its own: only when
/// both answer is the state known to be current.
async fn confirm(
    directory: &Directory,
    client: &mut Client,
    watch: &mut WatchStream,
) -> Result<(), etcd_client::Error> {
    client.get(PREFIX, Some(GetOptions::new().with_prefix().with_count_only())).await?;
    watch.request_progress().await?;
    match watch.message().await? {
        Some(message) if !message.canceled() => {
            for event in message.events() {
                apply(directory, event.event_type(), event.kv());
            }
            directory.mark_synced();
            Ok(())
        }
        _ => Err(etcd_client::Error::WatchError("the watch ended".to_owned())),
    }
}

/// Takes over all tenants; returns whether ids clash.
fn read_all(directory: &Directory, kvs: &[KeyValue]) -> bool {
    let current = directory.snapshot();
    let mut tenants = Vec::with_capacity(kvs.len());
    for kv in kvs {
        match read_one(kv) {
            Ok((id, tenant)) => tenants.push((id, tenant)),
            Err(error) => {
                directory.report("content", &error);
                // Its last good state stays; who never had one cannot be admitted.
                let known = id_of(kv).ok().and_then(|id| Some((current.get(&id)?.clone(), id)));
                tenants.extend(known.map(|(tenant, id)| (id, Tenant::clone(&tenant))));
            }
        }
    }
    let (next, clashing) = without_case_clashes(directory, current.next(tenants));
    directory.replace(next);
    clashing
}

/// Takes over one change; returns whether ids clash.
fn apply(directory: &Directory, event: EventType, kv: Option<&KeyValue>) -> bool {
    let Some(kv) = kv else { return false };
    let current = directory.snapshot();
    match (event, read_one(kv)) {
        (EventType::Put, Ok((id, tenant))) => {
            let next = current.with(id, Some(tenant));
            let (next, clashing) = without_case_clashes(directory, next);
            directory.replace(next);
            return clashing;
        }
        (EventType::Delete, _) => match id_of(kv) {
            Ok(id) => directory.replace(current.with(id, None)),
            Err(error) => directory.report("content", &error),
        },
        // A tenant that was changed into something unreadable keeps its last good state.
        (EventType::Put, Err(error)) => directory.report("content", &error),
    }
    false
}

/// Leaves out each tenant whose id is another's but for case, the first in byte order staying, and
/// says whether there was one.
fn without_case_clashes(directory: &Directory, mut snapshot: Snapshot) -> (Snapshot, bool) {
    let mut clashing = false;
    while let Err(error @ document::DocumentError::CaseClash(..)) =
        document::check_all(snapshot.iter().map(|(id, tenant)| (id, &**tenant)))
    {
        directory.report("content", &error);
        let document::DocumentError::CaseClash(_, later) = error else { break };
        snapshot = snapshot.with(later, None);
        clashing = true;
    }
    (snapshot, clashing)
}

fn id_of(kv: &KeyValue) -> Result<TenantId, String> {
    let key = String::from_utf8_lossy(kv.key()).into_owned();
    let id = key.strip_prefix(PREFIX).unwrap_or_default();
    TenantId::parse(id).map_err(|error| format!("etcd key {key:?}: {error}"))
}

fn read_one(kv: &KeyValue) -> Result<(TenantId, Tenant), String> {
    let id = id_of(kv)?;
    let tenant = document::parse_json(kv.value())
        .map_err(|error| format!("etcd key {PREFIX}{id}: {error}"))?;
    document::check(&id, &tenant).map_err(|error| error.to_string())?;
    Ok((id, tenant))
}
