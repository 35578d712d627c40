use bulkhead_policy::{Tenant, TenantId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// All tenants at one moment. Unchanged tenants are shared with the snapshot before.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    tenants: BTreeMap<TenantId, Known>,
    /// When it was made; `None` for the one before the first.
    made: Option<Instant>,
}

/// A tenant, and since when it is known to be so.
#[derive(Clone, Debug)]
struct Known {
    tenant: Arc<Tenant>,
    learned: Instant,
}

impl Snapshot {
    /// The next state, sharing with this one what did not change.
    pub(super) fn next(&self, tenants: impl IntoIterator<Item = (TenantId, Tenant)>) -> Self {
        let now = Instant::now();
        let share = |(id, tenant): (TenantId, Tenant)| {
            let shared = match self.tenants.get(&id) {
                Some(known) if *known.tenant == tenant => known.clone(),
                _ => Known { tenant: Arc::new(tenant), learned: now },
            };
            (id, shared)
        };
        Self { tenants: tenants.into_iter().map(share).collect(), made: Some(now) }
    }

    /// The state after one tenant was put (`Some`) or deleted.
    pub(super) fn with(&self, id: TenantId, tenant: Option<Tenant>) -> Self {
        let now = Instant::now();
        let mut tenants = self.tenants.clone();
        match tenant {
            Some(tenant) => {
                tenants.insert(id, Known { tenant: Arc::new(tenant), learned: now });
            }
            None => {
                tenants.remove(&id);
            }
        }
        Self { tenants, made: Some(now) }
    }

    /// What is known of a tenant.
    pub fn get(&self, id: &TenantId) -> Option<&Arc<Tenant>> {
        self.tenants.get(id).map(|known| &known.tenant)
    }

    /// Since when what is known of a tenant is so; of one that is not there, when this state was made.
    pub(super) fn learned(&self, id: &TenantId) -> Option<Instant> {
        self.tenants.get(id).map(|known| known.learned).or(self.made)
    }

    /// All tenants, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&TenantId, &Arc<Tenant>)> {
        self.tenants.iter().map(|(id, known)| (id, &known.tenant))
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
        let changed = self.iter().filter(|(id, tenant)| {
            !earlier.get(id).is_some_and(|before| Arc::ptr_eq(before, tenant))
        });
        let removed = earlier.iter().filter(|(id, _)| self.get(id).is_none());
        changed.chain(removed).map(|(id, _)| id.clone()).collect()
    }
}
