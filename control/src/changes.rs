//! Hearing of what may change somebody's rights.

use crate::Authenticator;
use crate::directory::Snapshot;
use bulkhead_policy::TenantId;
use std::sync::Arc;
use tokio::sync::watch;

/// What has changed in the directory and the rules since it was made, one after the other.
#[derive(Debug)]
pub struct Changes {
    directory: watch::Receiver<Arc<Snapshot>>,
    rules: watch::Receiver<()>,
    before: Arc<Snapshot>,
}

/// Whose rights may be others now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Those of these tenants' clients.
    Tenants(Vec<TenantId>),
    /// Everybody's: issuers, roles or default limits have changed.
    All,
}

impl Changes {
    /// Hears from now on. Whoever lets clients in begins with that.
    pub fn of(auth: &Authenticator) -> Self {
        let mut directory = auth.directory().changes();
        let before = directory.borrow_and_update().clone();
        Self { directory, rules: auth.rules_changes(), before }
    }

    /// Waits for the next one; `None` once there is nobody to hear it from. Nothing is lost if this is
    /// dropped before it is done.
    pub async fn next(&mut self) -> Option<Change> {
        tokio::select! {
            changed = self.directory.changed() => {
                changed.ok()?;
                let after = self.directory.borrow_and_update().clone();
                let tenants = after.changed_since(&self.before).into_iter().collect();
                self.before = after;
                Some(Change::Tenants(tenants))
            }
            changed = self.rules.changed() => {
                changed.ok()?;
                Some(Change::All)
            }
        }
    }
}
