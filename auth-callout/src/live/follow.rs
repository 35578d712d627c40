//! Following the directory, the configuration and the keyring, and acting on what changes.

use super::provision::Provisioner;
use super::sweep::Sweeper;
use crate::keyring::KeyringFile;
use crate::mode::ConfigMode;
use crate::operator::Operator;
use bulkhead_control::Authenticator;
use bulkhead_control::directory::Snapshot;
use bulkhead_control::files::Watched;
use bulkhead_policy::{Quotas, Scope, Tenant, TenantId};
use futures::StreamExt;
use jiff::Timestamp;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often the servers' accounts are compared with the directory, besides after each reconnect.
const RECONCILE: Duration = Duration::from_secs(30);

/// How often the keyring is looked at.
const KEYRING_LOOK: Duration = Duration::from_millis(500);

/// How long after a change the servers are told again: by then whoever was loading the account has
/// loaded it.
const REPEAT: Duration = Duration::from_millis(500);

/// Tenants that are acted on at a time.
const CONCURRENT: usize = 16;

/// Acts on changes.
#[derive(Debug)]
pub struct Follower {
    /// The way in, which knows the directory.
    pub auth: Arc<Authenticator>,
    /// Who cuts connections.
    pub sweeper: Sweeper,
    /// Operator mode's keys and accounts, or config mode's.
    pub accounts: Accounts,
    /// Is notified when the system client is connected again.
    pub reconnected: Arc<Notify>,
    /// Where sweeps run.
    pub tasks: TaskTracker,
}

/// How accounts are found and changed. Cloning shares them.
#[derive(Clone, Debug)]
pub enum Accounts {
    /// They are made here.
    Operator(Arc<Operator>, Arc<Provisioner>),
    /// They stand in the server's file.
    Config(Arc<ConfigMode>),
}

impl Accounts {
    /// The account of a tenant, as the servers know it.
    pub fn of(&self, tenant: &TenantId) -> Option<String> {
        match self {
            Self::Operator(operator, _) => {
                operator.keys().account_of(tenant).ok().map(|account| account.to_string())
            }
            Self::Config(config) => config.account(&Scope::Tenant(tenant.clone())).cloned(),
        }
    }
}

impl Follower {
    /// Follows until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut changes = self.auth.directory().changes();
        let mut rules = self.auth.rules_changes();
        let mut before = changes.borrow_and_update().clone();
        let mut exhaustion = self.auth.usage().exhausted();
        let mut exhausted = exhaustion.borrow_and_update().clone();
        rules.mark_unchanged();
        let mut sweeps = HashMap::new();
        let mut keyring = match &self.accounts {
            Accounts::Operator(operator, _) => {
                let mut watched = Watched::new(KeyringFile::path(operator.folder()));
                let _ = watched.changed();
                Some(watched)
            }
            Accounts::Config(_) => None,
        };
        let mut reconcile = tokio::time::interval(RECONCILE);
        let mut keyring_look = tokio::time::interval(KEYRING_LOOK);
        reconcile.reset();
        self.reconcile().await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let after = changes.borrow_and_update().clone();
                    self.apply(&before, &after, &mut sweeps).await;
                    before = after;
                }
                changed = exhaustion.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = exhaustion.borrow_and_update().clone();
                    self.follow_exhaustion(&exhausted, &now, &mut sweeps).await;
                    exhausted = now;
                }
                changed = rules.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let sweeper = self.sweeper.clone();
                    let closings = sweeper.listen(None).await;
                    let sweep = self.tasks.spawn(async move { sweeper.run(None, closings).await });
                    replace(&mut sweeps, None, sweep.abort_handle());
                    // The defaults of quotas may be others now.
                    self.reconcile().await;
                }
                () = self.reconnected.notified() => self.reconcile().await,
                () = self.next_key() => self.reconcile().await,
                _ = reconcile.tick() => self.reconcile().await,
                _ = keyring_look.tick() => {
                    if let Some(watched) = &mut keyring && let Ok(true) = watched.changed() {
                        self.reload_keyring().await;
                    }
                }
            }
        }
    }

    /// Acts on a change of the directory: first no new connection gets in, which is so already, then
    /// the servers are told, then those who are there are cut.
    async fn apply(
        &self,
        before: &Snapshot,
        after: &Snapshot,
        sweeps: &mut HashMap<Option<TenantId>, AbortHandle>,
    ) {
        let changed = after.changed_since(before);
        let affected = |id: &&TenantId| affects_sessions(before.get(id), after.get(id));
        self.sweep(changed.iter().filter(affected).collect(), sweeps).await;
        self.push(changed).await;
    }

    /// The same for those who have used up their day, or may go on.
    async fn follow_exhaustion(
        &self,
        before: &BTreeSet<TenantId>,
        now: &BTreeSet<TenantId>,
        sweeps: &mut HashMap<Option<TenantId>, AbortHandle>,
    ) {
        for tenant in now.difference(before) {
            tracing::info!(%tenant, "has used what it may publish in a day, and is cut off until it may again");
        }
        for tenant in before.difference(now) {
            tracing::info!(%tenant, "may publish again");
        }
        self.sweep(now.difference(before).collect(), sweeps).await;
        self.push(now.symmetric_difference(before).cloned().collect()).await;
    }

    /// Cuts who may not stay of these tenants.
    async fn sweep(
        &self,
        tenants: Vec<&TenantId>,
        sweeps: &mut HashMap<Option<TenantId>, AbortHandle>,
    ) {
        for id in tenants {
            let Some(account) = self.account_of(id) else {
                continue;
            };
            let sweeper = self.sweeper.clone();
            // Asked by the same connection as the change below, and so before it.
            let closings = sweeper.listen(Some(&account)).await;
            let sweep =
                self.tasks.spawn(async move { sweeper.run(Some(&account), closings).await });
            replace(sweeps, Some(id.clone()), sweep.abort_handle());
        }
        sweeps.retain(|_, sweep| !sweep.is_finished());
    }

    /// Tells the servers of these tenants' accounts, now and once more.
    async fn push(&self, changed: BTreeSet<TenantId>) {
        let Accounts::Operator(_, provisioner) = &self.accounts else {
            return;
        };
        futures::stream::iter(&changed)
            .for_each_concurrent(CONCURRENT, |id| async move {
                // The servers are told again at the next comparison.
                if let Err(error) = provisioner.push_tenant(id).await {
                    tracing::error!(tenant = %id, %error, "the account could not be changed");
                }
            })
            .await;
        let provisioner = Arc::clone(provisioner);
        self.tasks.spawn(async move {
            tokio::time::sleep(REPEAT).await;
            let provisioner = &provisioner;
            futures::stream::iter(changed)
                .for_each_concurrent(CONCURRENT, |id| async move {
                    if let Err(error) = provisioner.repeat_tenant(&id).await {
                        tracing::error!(tenant = %id, %error, "the account could not be changed");
                    }
                })
                .await;
        });
    }

    fn account_of(&self, tenant: &TenantId) -> Option<String> {
        self.accounts.of(tenant)
    }

    async fn reconcile(&self) {
        let Accounts::Operator(_, provisioner) = &self.accounts else {
            return;
        };
        // Before the first state of the directory every account would look like one of a tenant that
        // is gone.
        if self.auth.directory().age().is_none() {
            return;
        }
        if let Err(error) = provisioner.reconcile().await {
            tracing::warn!(%error, "the servers' accounts could not be compared; trying again");
        }
    }

    /// Resolves when a key of the keyring comes into use.
    async fn next_key(&self) {
        let Accounts::Operator(operator, _) = &self.accounts else {
            return std::future::pending().await;
        };
        let now = Timestamp::now();
        match operator.keys().next_change(now) {
            Some(from) => tokio::time::sleep(from.duration_since(now).unsigned_abs()).await,
            None => std::future::pending().await,
        }
    }

    async fn reload_keyring(&self) {
        let Accounts::Operator(operator, _) = &self.accounts else {
            return;
        };
        match operator.reload() {
            Ok(()) => {
                tracing::info!("the keyring was taken over");
                self.reconcile().await;
            }
            Err(error) => tracing::error!(%error, "the last good keyring stays in use"),
        }
    }
}

/// Whether a change can concern who is connected already.
fn affects_sessions(before: Option<&Arc<Tenant>>, after: Option<&Arc<Tenant>>) -> bool {
    let Some(before) = before else { return false };
    let without_quotas =
        |tenant: &Arc<Tenant>| Tenant { quotas: Quotas::default(), ..Tenant::clone(tenant) };
    after.is_none_or(|after| without_quotas(before) != without_quotas(after))
}

/// Lets the newest sweep of a tenant take the place of the one before.
fn replace(
    sweeps: &mut HashMap<Option<TenantId>, AbortHandle>,
    tenant: Option<TenantId>,
    sweep: AbortHandle,
) {
    if let Some(old) = sweeps.insert(tenant, sweep) {
        old.abort();
    }
}
