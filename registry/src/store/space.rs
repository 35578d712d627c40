//! How much room an etcd has. One whose quota is used up takes no writes any more, until somebody
//! compacts and defragments it and disarms its alarm.

use super::etcd::EtcdStore;
use crate::store::StoreError;
use etcd_client::{AlarmAction, AlarmType};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(15);

/// How long etcd's page of metrics may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The quota of an etcd that does not say: etcd's own default, in bytes.
const DEFAULT_QUOTA: f64 = 2_147_483_648.0;

/// From which share on room is short.
const SHORT: f64 = 0.85;

/// Revisions that are a sign that nothing is ever compacted.
const MANY_REVISIONS: i64 = 1_000_000;

/// Etcd's name of its quota among its metrics.
const QUOTA: &str = "etcd_server_quota_backend_bytes ";

/// What is known about room.
#[derive(Default)]
pub(super) struct Space {
    is_short: AtomicBool,
    has_warned: AtomicBool,
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
        loop {
            if let Some(Err(error)) = stop.run_until_cancelled(self.look_at_space()).await {
                tracing::debug!(%error, "etcd does not say how much room it has");
            }
            if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                return;
            }
        }
    }

    async fn look_at_space(&self) -> Result<(), StoreError> {
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
        if revision > MANY_REVISIONS
            && share > SHORT / 2.0
            && !self.space().has_warned.swap(true, Ordering::AcqRel)
        {
            tracing::warn!(
                revision,
                "etcd keeps many revisions; start it with --auto-compaction-retention=1h"
            );
        }
        Ok(())
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
