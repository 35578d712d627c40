//! How much room an etcd has. One whose quota is used up takes no writes any more, until somebody
//! compacts and defragments it and disarms its alarm.

use super::etcd::EtcdStore;
use crate::store::StoreError;
use etcd_client::{AlarmAction, AlarmType, Error, GetOptions};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(15);

/// How long etcd's page of metrics may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The quota of an etcd that does not say: etcd's own default, in bytes.
const DEFAULT_QUOTA: f64 = 2_147_483_648.0;

/// From which share on room is short.
const SHORT: f64 = 0.85;

/// Revisions from which on somebody is to be told that none was ever compacted.
const MANY_REVISIONS: i64 = 10_000;

/// How often it is looked whether an etcd has been compacted that had not been: beyond the hour that it
/// is advised to keep.
const LOOK_AT_COMPACTION: Duration = Duration::from_secs(2 * 3600);

/// A name that the registry may read.
const OWN: &str = "/device-connect/";

/// Etcd's name of its quota among its metrics.
const QUOTA: &str = "etcd_server_quota_backend_bytes ";

/// What is known about room.
#[derive(Default)]
pub(super) struct Space {
    is_short: AtomicBool,
}

/// What is known of how an etcd was started, and was said of it.
#[derive(Default)]
struct Settings {
    has_judged_quota: bool,
    compaction: Compaction,
}

/// Whether old revisions are ever compacted.
#[derive(Clone, Copy, Default, PartialEq)]
enum Compaction {
    #[default]
    Unknown,
    /// They had not been then.
    NotYet(Instant),
    /// They are not, and that was said.
    Never,
    /// They have been.
    Seen,
}

impl Compaction {
    fn is_due(self, now: Instant) -> bool {
        match self {
            Self::Unknown => true,
            Self::NotYet(at) => now.saturating_duration_since(at) >= LOOK_AT_COMPACTION,
            Self::Never | Self::Seen => false,
        }
    }
}

/// What there is to say of a quota in bytes; nothing, if somebody has chosen it.
fn judged(quota: Option<f64>) -> Option<&'static str> {
    match quota {
        None => Some(
            "etcd does not say what its quota is, and 2 GiB are assumed; let the registry read /metrics of \
             its first endpoint",
        ),
        Some(quota) if quota <= DEFAULT_QUOTA => Some(
            "etcd's quota is no more than its default of 2 GiB; start it with \
             --quota-backend-bytes=8589934592",
        ),
        Some(_) => None,
    }
}

impl Space {
    /// Whether there is little left: what can wait is written more rarely.
    pub(super) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Acquire)
    }
}

impl EtcdStore {
    /// Looks after the room for ever.
    pub(crate) async fn watch_space(&self, stop: CancellationToken) {
        let mut settings = Settings::default();
        loop {
            let looked = self.look_at_space(&mut settings);
            if let Some(Err(error)) = stop.run_until_cancelled(looked).await {
                tracing::debug!(%error, "etcd does not say how much room it has");
            }
            if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                return;
            }
        }
    }

    async fn look_at_space(&self, settings: &mut Settings) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        self.asked("status");
        let status = client.status().await?;
        self.asked("status");
        let alarms = client.alarm(AlarmAction::Get, AlarmType::Nospace, None).await?;
        let is_full = alarms.alarms().iter().any(|alarm| alarm.alarm() == AlarmType::Nospace);
        #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
        let (used, quota) = (status.db_size() as f64, status.db_size_quota() as f64);
        // Before 3.6 it says so on its page of metrics alone.
        let quota = if quota > 0.0 { Some(quota) } else { self.quota().await };
        let share = used / quota.unwrap_or(DEFAULT_QUOTA).max(1.0);
        self.metrics().etcd_space.set(share);
        self.metrics().etcd_full.set(is_full.into());
        let is_short = is_full || share >= SHORT;
        let was_short = self.space().is_short.swap(is_short, Ordering::AcqRel);
        if is_full && !was_short {
            tracing::error!(
                "etcd has used up its quota and takes no writes; compact it, defragment it, then \
                 `etcdctl alarm disarm`"
            );
        } else if is_short && !was_short {
            tracing::warn!(
                share,
                "etcd is near its quota; compact and defragment it, or raise --quota-backend-bytes"
            );
        }
        let revision = status.header().map_or(0, etcd_client::ResponseHeader::revision);
        if settings.compaction.is_due(Instant::now()) {
            settings.compaction = self.look_at_compaction(revision).await?;
        }
        if !std::mem::replace(&mut settings.has_judged_quota, true) {
            if let Some(text) = judged(quota) {
                tracing::warn!("{text}");
            }
            let is_compacted = settings.compaction == Compaction::Seen;
            tracing::info!(used, quota, revision, is_compacted, "etcd's room was looked at");
        }
        Ok(())
    }

    /// Whether old revisions are compacted: one that never was still has its first.
    async fn look_at_compaction(&self, revision: i64) -> Result<Compaction, StoreError> {
        let mut client = self.client().await?;
        let first = GetOptions::new().with_revision(1).with_count_only();
        self.asked("range");
        match client.get(OWN, Some(first)).await {
            Ok(_) if revision >= MANY_REVISIONS => {
                tracing::warn!(
                    revision,
                    "etcd keeps every revision since it was made; unless that was within the hour, start \
                     it with --auto-compaction-mode=periodic --auto-compaction-retention=1h"
                );
                Ok(Compaction::Never)
            }
            Ok(_) => Ok(Compaction::NotYet(Instant::now())),
            Err(Error::GRpcStatus(status)) if status.message().contains("compacted") => {
                Ok(Compaction::Seen)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What etcd tells on its page of metrics; `None` where it may not be read.
    async fn quota(&self) -> Option<f64> {
        let endpoint = self.endpoint()?;
        let client = self.pages().ok()?;
        let answer = client.get(format!("{endpoint}/metrics")).timeout(TIMEOUT).send().await;
        let text = answer.ok()?.text().await.ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(QUOTA))?;
        line.trim().parse().ok().filter(|quota| *quota > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Compaction, DEFAULT_QUOTA, LOOK_AT_COMPACTION, judged};
    use std::time::Instant;

    #[test]
    fn a_quota_that_nobody_chose_is_pointed_out() {
        assert!(judged(None).unwrap().contains("2 GiB are assumed"));
        assert!(judged(Some(DEFAULT_QUOTA)).unwrap().contains("--quota-backend-bytes"));
        assert_eq!(judged(Some(4.0 * DEFAULT_QUOTA)), None);
    }

    #[test]
    fn an_etcd_that_is_young_is_looked_at_again() {
        let now = Instant::now();
        assert!(Compaction::Unknown.is_due(now) && !Compaction::NotYet(now).is_due(now));
        assert!(Compaction::NotYet(now).is_due(now + LOOK_AT_COMPACTION));
        assert!(!Compaction::Seen.is_due(now + LOOK_AT_COMPACTION));
    }
}
