//! What a tenant uses, as all processes together have written it: for whoever runs none.

use super::Gauges;
use super::store::{UsageError, Written};
use super::{etcd, files};
use crate::config::{Config, Source};
use bulkhead_policy::{Amounts, Day, Resource, TenantId};
use std::collections::BTreeSet;

/// What a tenant uses.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which day it is.
    pub day: Day,
    /// How many processes count.
    pub processes: usize,
    live: Gauges,
    known: BTreeSet<Resource>,
    today: Option<Amounts>,
}

impl Report {
    /// How much is used of a resource; `None` where nobody says so.
    pub fn used(&self, resource: Resource) -> Option<u64> {
        if Resource::DAILY.contains(&resource) {
            return self.today?.get(resource);
        }
        let is_known = self.known.contains(&resource);
        is_known.then(|| self.live.get(&resource).copied().unwrap_or(0))
    }
}

/// Looks whether what is counted can be kept, and says where. It writes nothing that stays.
///
/// # Errors
/// [`UsageError`].
pub async fn check(config: &Config) -> Result<String, UsageError> {
    match config.directory.source() {
        Some(Source::Etcd(etcd)) => etcd::check(etcd).await,
        _ => {
            let folder = config.usage.folder(&config.directory).unwrap_or_default();
            files::check(&folder)?;
            Ok(folder.display().to_string())
        }
    }
}

/// Reads what a tenant uses. It needs no running service, but what a tenant has at the moment is known
/// only of those that run.
///
/// # Errors
/// [`UsageError`].
pub async fn look(config: &Config, tenant: &TenantId, day: Day) -> Result<Report, UsageError> {
    let Written { counts, gauges, about } = match config.directory.source() {
        Some(Source::Etcd(etcd)) => etcd::look(etcd, tenant, day).await?,
        Some(Source::File(_)) => {
            let folder = config.usage.folder(&config.directory).unwrap_or_default();
            files::look(&folder, tenant, day)?
        }
        None => Written::default(),
    };
    let mut live = Gauges::new();
    for (resource, n) in gauges.into_iter().flatten() {
        let sum: &mut u64 = live.entry(resource).or_default();
        *sum = sum.saturating_add(n);
    }
    let known = about.iter().flat_map(|about| &about.resources);
    let known = known.filter_map(|name| Resource::parse(name)).collect();
    let is_counted = !counts.is_empty() || !about.is_empty();
    let today = is_counted.then(|| counts.into_iter().fold(Amounts::default(), Amounts::plus));
    Ok(Report { day, processes: about.len(), live, known, today })
}
