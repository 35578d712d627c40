//! Making accounts known to the servers.

use super::system::{SystemClient, SystemError};
use crate::accounts;
use crate::jwt::{Account, Unverified};
use crate::keyring::Keyring;
use crate::operator::Operator;
use bulkhead_control::Authenticator;
use bulkhead_policy::{DenyReason, Quotas, Tenant, TenantId, Verdict};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::Mutex as AsyncMutex;

/// Accounts that are pushed at a time.
const CONCURRENT: usize = 16;

/// Tells the servers of tenants' accounts, each time one changes and again when a server has lost
/// them.
#[derive(Debug)]
pub struct Provisioner {
    system: SystemClient,
    operator: Arc<Operator>,
    auth: Arc<Authenticator>,
    /// What the servers were last told, by account. Its entries are those of the directory's tenants.
    told: Mutex<HashMap<String, Arc<AsyncMutex<Told>>>>,
    /// What the tenants' accounts that the servers know were made from, to see quickly that nothing has
    /// changed since.
    settled: RwLock<HashMap<TenantId, Basis>>,
}

/// Everything that a tenant's account depends on.
#[derive(Clone, Debug)]
struct Basis {
    keys: Arc<Keyring>,
    tenant: Option<Arc<Tenant>>,
    quotas: Quotas,
    exhausted: bool,
}

impl Basis {
    fn is(&self, other: &Self) -> bool {
        let same_tenant = match (&self.tenant, &other.tenant) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            (None, None) => true,
            _ => false,
        };
        let same_limits = (self.quotas, self.exhausted) == (other.quotas, other.exhausted);
        same_tenant && same_limits && Arc::ptr_eq(&self.keys, &other.keys)
    }
}

/// What the servers were told of one account.
#[derive(Debug, Default)]
struct Told {
    content: Option<Account>,
    /// The time of issue of the last JWT. Each next one is later, so that servers that compare two
    /// keep the newer.
    iat: i64,
}

impl Provisioner {
    /// Nothing has been told yet.
    pub fn new(system: SystemClient, operator: Arc<Operator>, auth: Arc<Authenticator>) -> Self {
        Self { system, operator, auth, told: Mutex::default(), settled: RwLock::default() }
    }

    /// Makes sure that the servers know the tenant's account as it is now.
    ///
    /// # Errors
    /// [`DenyReason::Internal`] if they cannot be told.
    pub async fn ensure(&self, tenant: &TenantId) -> Verdict<()> {
        if self.is_settled(tenant) {
            return Ok(());
        }
        self.push_tenant(tenant).await.map_err(|error| {
            tracing::error!(%tenant, %error, "the account cannot be made known");
            DenyReason::Internal
        })
    }

    /// Tells the servers of a tenant's account, unless they know it as it is.
    ///
    /// # Errors
    /// [`SystemError`].
    pub async fn push_tenant(&self, id: &TenantId) -> Result<(), SystemError> {
        let keys = self.operator.keys();
        let account = keys.account_of(id).map_err(internal)?;
        let mut used = None;
        // The directory is asked while the account is held: a later state cannot be overtaken by an
        // earlier one.
        self.push(&keys, &account, id.as_str(), || {
            let basis = self.basis(id);
            let Basis { keys, tenant, quotas, exhausted } = &basis;
            let content = accounts::tenant(keys, id, tenant.as_deref(), *quotas, *exhausted);
            used = Some(basis);
            content.map_err(internal)
        })
        .await?;
        if let Some(basis) = used {
            let mut settled = self.settled.write().unwrap_or_else(PoisonError::into_inner);
            settled.insert(id.clone(), basis);
        }
        Ok(())
    }

    fn is_settled(&self, tenant: &TenantId) -> bool {
        let settled = self.settled.read().unwrap_or_else(PoisonError::into_inner);
        settled.get(tenant).is_some_and(|known| known.is(&self.basis(tenant)))
    }

    fn basis(&self, id: &TenantId) -> Basis {
        let tenant = self.auth.directory().tenant(id).ok();
        let quotas = self.auth.quotas(tenant.as_deref().unwrap_or(&Tenant::default()));
        let exhausted = self.auth.usage().is_exhausted(id);
        Basis { keys: self.operator.keys(), tenant, quotas, exhausted }
    }

    /// Tells the servers of a tenant's account even if they know it.
    ///
    /// A server that loads an account for a client while the account is being replaced keeps the old
    /// one in memory, although its store has the new one.
    ///
    /// # Errors
    /// [`SystemError`].
    pub async fn repeat_tenant(&self, id: &TenantId) -> Result<(), SystemError> {
        let account = self.operator.keys().account_of(id).map_err(internal)?;
        let entry = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(told.entry(account.to_string()).or_default())
        };
        entry.lock().await.content = None;
        self.push_tenant(id).await
    }

    /// Tells the servers of the platform's own accounts.
    ///
    /// # Errors
    /// [`SystemError`].
    pub async fn push_own(&self) -> Result<(), SystemError> {
        let keys = self.operator.keys();
        let callout_user = keys.callout_user.public();
        let auth = accounts::auth(&keys, callout_user, Timestamp::now());
        self.push(&keys, &keys.auth.account, accounts::AUTH, || Ok(auth)).await?;
        self.push(&keys, &keys.registry.account, accounts::REGISTRY, || {
            Ok(accounts::registry(&keys))
        })
        .await
    }

    /// Compares what a server has with what it should have, and tells it what differs.
    ///
    /// # Errors
    /// [`SystemError`].
    pub async fn reconcile(&self) -> Result<(), SystemError> {
        let known = self.system.accounts().await?;
        let keys = self.operator.keys();
        let snapshot = self.auth.directory().snapshot();
        self.forget_unlike(&known).await;
        let mut wanted: Vec<TenantId> = snapshot.iter().map(|(id, _)| id.clone()).collect();
        // Accounts of tenants that are gone: theirs are closed.
        wanted.extend(known.values().filter_map(|jwt| {
            let claims = Unverified::<Account>::decode(jwt).ok()?;
            let id = TenantId::parse(&claims.peek().name).ok()?;
            let ours = *keys.account_of(&id).ok()? == *claims.peek().sub;
            (ours && snapshot.get(&id).is_none()).then_some(id)
        }));
        self.push_own().await?;
        futures::stream::iter(wanted)
            .map(|id| async move { self.push_tenant(&id).await })
            .buffer_unordered(CONCURRENT)
            .try_collect()
            .await
    }

    /// Forgets what the servers were told of accounts that they have otherwise, or not at all.
    async fn forget_unlike(&self, known: &HashMap<String, String>) {
        self.settled.write().unwrap_or_else(PoisonError::into_inner).clear();
        let mut fresh = HashMap::with_capacity(known.len());
        for (account, jwt) in known {
            let Ok(claims) = Unverified::<Account>::decode(jwt) else {
                continue;
            };
            let claims = claims.peek();
            let told = Told { content: Some(claims.nats.clone()), iat: claims.iat };
            fresh.insert(account.clone(), told);
        }
        let entries: Vec<_> = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            for account in fresh.keys() {
                told.entry(account.clone()).or_default();
            }
            told.iter().map(|(account, told)| (account.clone(), Arc::clone(told))).collect()
        };
        for (account, entry) in entries {
            let mut entry = entry.lock().await;
            match fresh.remove(&account) {
                // An answer from before the last push says nothing about it.
                Some(has) if has.iat < entry.iat && entry.content.is_some() => {
                    entry.content = has.content.filter(|has| entry.content.as_ref() == Some(has));
                }
                Some(has) => *entry = has,
                None => entry.content = None,
            }
        }
    }

    async fn push(
        &self,
        keys: &Keyring,
        account: &str,
        name: &str,
        content: impl FnOnce() -> Result<Account, SystemError>,
    ) -> Result<(), SystemError> {
        let entry = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(told.entry(account.to_owned()).or_default())
        };
        let mut entry = entry.lock().await;
        let content = content()?;
        if entry.content.as_ref() == Some(&content) {
            return Ok(());
        }
        let iat = Timestamp::now().as_second().max(entry.iat + 1);
        let jwt = accounts::sign(keys, account, name, content.clone(), iat).map_err(internal)?;
        entry.content = None;
        entry.iat = iat;
        self.system.update_account(jwt).await?;
        entry.content = Some(content);
        Ok(())
    }
}

fn internal(error: impl std::fmt::Display) -> SystemError {
    SystemError::Client(error.to_string())
}
