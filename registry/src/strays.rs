//! Tenants that were deleted while nobody served them: of those the store has devices that nobody looks
//! after. They are looked for when a partition is taken, and now and then.

use crate::fleet::Common;
use bulkhead_policy::TenantId;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Finds them.
pub(crate) struct Strays {
    is_due: bool,
    /// What was found; `None` if the store could not be read.
    found: mpsc::Sender<Option<Vec<TenantId>>>,
    finding: mpsc::Receiver<Option<Vec<TenantId>>>,
}

impl Strays {
    pub(crate) fn new() -> Self {
        let (found, finding) = mpsc::channel(1);
        Self { is_due: false, found, finding }
    }

    /// Has them looked for as soon as that can be done.
    pub(crate) fn expect(&mut self) {
        self.is_due = true;
    }

    /// Looks for them if that is due, and the directory is known as it is now: who is not in one that is
    /// old, or was not read yet, may well be a tenant.
    pub(crate) fn look(&mut self, common: &Arc<Common>) {
        if !self.is_due || !common.auth.directory().is_fresh() {
            return;
        }
        self.is_due = false;
        let (common, found) = (Arc::clone(common), self.found.clone());
        tokio::spawn(async move {
            let entered = common.store.tenants().await.map_err(|error| {
                tracing::debug!(%error, "tenants of the store cannot be listed yet");
            });
            let _ = found.send(entered.ok()).await;
        });
    }

    /// Those that the directory does not have, as soon as some were looked for.
    pub(crate) async fn next(&mut self, common: &Common) -> Vec<TenantId> {
        loop {
            match self.finding.recv().await {
                Some(Some(mut entered)) => {
                    let snapshot = common.auth.directory().snapshot();
                    entered.retain(|tenant| snapshot.get(tenant).is_none());
                    if entered.is_empty() || common.auth.directory().is_fresh() {
                        return entered;
                    }
                    self.is_due = true;
                }
                Some(None) => self.is_due = true,
                // This side holds a sender, so there is no end.
                None => std::future::pending().await,
            }
        }
    }
}
