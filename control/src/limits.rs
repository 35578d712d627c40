//! Limits on who may ask how often, in tables that clients cannot make grow.

use crate::config::LimitsConfig;
use bulkhead_policy::{TenantId, TokenBucket};
use moka::sync::Cache;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most addresses, or tenants, that are remembered at a time. Whoever is forgotten starts anew.
const MAX_ENTRIES: u64 = 65_536;

/// What the limits count per.
const MINUTE: Duration = Duration::from_secs(60);

/// Token buckets by key, of at most 65,536 keys.
#[derive(Clone, Debug)]
pub struct Buckets<K: Hash + Eq + Send + Sync + 'static> {
    started: Instant,
    buckets: Cache<K, Arc<Mutex<TokenBucket>>>,
}

impl<K: Hash + Eq + Send + Sync + 'static> Buckets<K> {
    /// No buckets yet.
    pub fn new() -> Self {
        // A bucket that nobody touched for a minute is full again.
        let buckets = Cache::builder().max_capacity(MAX_ENTRIES).time_to_idle(MINUTE).build();
        Self { started: Instant::now(), buckets }
    }

    /// Takes `amount` out of the key's bucket of `per_minute`, if it is there. A changed rate holds
    /// for buckets that are made from then on.
    pub fn take(&self, key: K, per_minute: u64, amount: u64) -> bool {
        let now = self.started.elapsed();
        let bucket = self
            .buckets
            .get_with(key, || Arc::new(Mutex::new(TokenBucket::new(per_minute, MINUTE, now))));
        bucket.lock().unwrap_or_else(PoisonError::into_inner).take(amount, now)
    }

    /// Whether the key's bucket has at least one left. It takes nothing and remembers nobody.
    pub fn has_one(&self, key: &K) -> bool {
        let now = self.started.elapsed();
        self.buckets.get(key).is_none_or(|bucket| {
            // A copy: looking must not change what is there.
            let mut copy = *bucket.lock().unwrap_or_else(PoisonError::into_inner);
            copy.take(1, now)
        })
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> Default for Buckets<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// The limits on authentications.
#[derive(Debug)]
pub struct AuthLimits {
    failures: Buckets<IpAddr>,
    failures_per_minute: u64,
    reports: Buckets<IpAddr>,
    tenants: Buckets<TenantId>,
}

impl AuthLimits {
    /// Nothing counted yet.
    pub fn new(config: &LimitsConfig) -> Self {
        Self {
            failures: Buckets::new(),
            failures_per_minute: config.failures_per_minute.into(),
            reports: Buckets::new(),
            tenants: Buckets::new(),
        }
    }

    /// Whether an address has failed too often to be worth a signature check.
    pub fn is_shut_out(&self, source: Option<IpAddr>) -> bool {
        source.is_some_and(|source| !self.failures.has_one(&network(source)))
    }

    /// Counts a failure of an address.
    pub fn failed(&self, source: Option<IpAddr>) {
        if let Some(source) = source {
            self.failures.take(network(source), self.failures_per_minute, 1);
        }
    }

    /// Whether it is worth writing down once more that an address is shut out: once a minute, so that
    /// whoever keeps knocking does not fill the logs.
    pub fn reports(&self, source: Option<IpAddr>) -> bool {
        source.is_none_or(|source| self.reports.take(network(source), 1, 1))
    }

    /// Counts an authentication of a tenant, if it may have one more.
    pub fn admits(&self, tenant: &TenantId, per_minute: Option<u64>) -> bool {
        per_minute.is_none_or(|per_minute| self.tenants.take(tenant.clone(), per_minute, 1))
    }
}

/// What one subscriber of a network has at hand: an IPv4 address, or all of an IPv6 /64.
pub fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::AuthLimits;
    use crate::config::LimitsConfig;
    use bulkhead_policy::TenantId;
    use std::net::IpAddr;

    fn limits() -> AuthLimits {
        AuthLimits::new(&LimitsConfig { failures_per_minute: 3, cached_tokens: 1 })
    }

    #[test]
    fn an_address_is_shut_out_by_its_own_failures_only() {
        let limits = limits();
        let (bad, good): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..3 {
            assert!(!limits.is_shut_out(Some(bad)));
            limits.failed(Some(bad));
        }
        assert!(limits.is_shut_out(Some(bad)));
        assert!(!limits.is_shut_out(Some(good)));
        assert!(!limits.is_shut_out(None));
    }

    #[test]
    fn a_knocking_address_is_reported_once_a_minute() {
        let limits = limits();
        let (one, other) = ("192.0.2.1".parse().ok(), "192.0.2.2".parse().ok());
        assert!(limits.reports(one) && limits.reports(other));
        assert!((0..100).all(|_| !limits.reports(one)));
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_a_mapped_address_is_its_ipv4() {
        let limits = limits();
        for last in 1..=3 {
            limits.failed(Some(format!("2001:db8::{last}").parse().unwrap()));
        }
        assert!(limits.is_shut_out(Some("2001:db8::ffff".parse().unwrap())));
        assert!(!limits.is_shut_out(Some("2001:db8:0:1::1".parse().unwrap())));
        for _ in 0..3 {
            limits.failed(Some("::ffff:192.0.2.1".parse().unwrap()));
        }
        assert!(limits.is_shut_out(Some("192.0.2.1".parse().unwrap())));
    }

    #[test]
    fn tenants_have_a_rate_of_their_own() {
        let limits = limits();
        let (acme, globex) = (TenantId::parse("acme").unwrap(), TenantId::parse("globex").unwrap());
        assert!((0..5).filter(|_| limits.admits(&acme, Some(2))).count() == 2);
        assert!(limits.admits(&globex, Some(2)));
        assert!(limits.admits(&acme, None));
    }
}
