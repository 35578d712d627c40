use bulkhead_policy::{Tenant, TenantId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// All tenants at one moment. Unchanged tenants are shared with the snapshot before.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    tenants: BTreeMap<TenantId, Arc<Tenant>>,
}

impl Snapshot {
    /// The next state, sharing with this one what did not change.
    pub(super) fn next(&self, tenants: impl IntoIterator<Item = (TenantId, Tenant)>) -> Self {
        let share = |(id, tenant): (TenantId, Tenant)| {
            let shared = match self.tenants.get(&id) {
                Some(known) if **known == tenant => Arc::clone(known),
                _ => Arc::new(tenant),
            };
            (id, shared)
        };
        Self { tenants: tenants.into_iter().map(share).collect() }
    }

    /// The state after one tenant was put (`Some`) or deleted.
    pub(super) fn with(&self, id: TenantId, tenant: Option<Tenant>) -> Self {
        let mut tenants = self.tenants.clone();
        match tenant {
            Some(tenant) => tenants.insert(id, Arc::new(tenant)),
            None => tenants.remove(&id),
        };
        Self { tenants }
    }

    /// What is known of a tenant.
    pub fn get(&self, id: &TenantId) -> Option<&Arc<Tenant>> {
        self.tenants.get(id)
    }

    /// All tenants, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&TenantId, &Arc<Tenant>)> {
        self.tenants.iter()
    }

    /// How many tenants there are.
    pub fn len(&self) -> usize {
        self.tenants.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// The tenants that were added, changed or removed since an earlier snapshot.
    pub fn changed_since(&self, earlier: &Self) -> BTreeSet<TenantId> {
        let changed = self.tenants.iter().filter(|(id, tenant)| {
            !earlier.tenants.get(*id).is_some_and(|before| Arc::ptr_eq(before, tenant))
        });
        let removed = earlier.tenants.iter().filter(|(id, _)| !self.tenants.contains_key(*id));
        changed.chain(removed).map(|(id, _)| id.clone()).collect()
    }
}
