use bulkhead_control::usage::Rates;
use bulkhead_policy::{DenyReason, Quotas, Verdict};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a tenant uses of its quotas.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) connections: Counter,
    pub(crate) subscriptions: Counter,
    rates: Rates,
}

/// How many there are, within a limit.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Usage {
    /// Counts a published message, if the tenant may publish one more of this size now.
    ///
    /// # Errors
    /// [`DenyReason::PayloadQuotaExceeded`], [`DenyReason::MessageRateExceeded`].
    pub(crate) fn publish(&self, quotas: &Quotas, payload: usize) -> Verdict<()> {
        if quotas.payload_bytes.is_some_and(|limit| payload as u64 > limit) {
            return Err(DenyReason::PayloadQuotaExceeded);
        }
        if quotas.messages_per_second.is_none() && quotas.bytes_per_second.is_none() {
            return Ok(());
        }
        self.rates.limit(quotas);
        if self.rates.publish(payload) { Ok(()) } else { Err(DenyReason::MessageRateExceeded) }
    }

    /// Whether nothing was published lately: who is forgotten before gets a second burst by coming again.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.rates.is_full()
    }
}

impl Counter {
    /// Counts one more, if there are fewer than `limit`.
    pub(crate) fn add(&self, limit: Option<u64>) -> bool {
        let limit = limit.unwrap_or(u64::MAX);
        let more = |n: u64| (n < limit).then_some(n + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Counts some fewer.
    pub(crate) fn remove(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::Usage;
    use bulkhead_policy::{DenyReason, Quotas};

    #[test]
    fn rates_and_sizes_are_limited() {
        let usage = Usage::default();
        let quotas = Quotas {
            messages_per_second: Some(2),
            bytes_per_second: Some(100),
            payload_bytes: Some(60),
            ..Quotas::default()
        };
        assert_eq!(usage.publish(&quotas, 61), Err(DenyReason::PayloadQuotaExceeded));
        assert_eq!(usage.publish(&quotas, 60), Ok(()));
        assert_eq!(usage.publish(&quotas, 60), Err(DenyReason::MessageRateExceeded));
        assert_eq!(usage.publish(&quotas, 1), Ok(()));
        assert_eq!(usage.publish(&quotas, 1), Err(DenyReason::MessageRateExceeded));
        assert_eq!(usage.publish(&Quotas::default(), 1_000_000), Ok(()));
    }

    #[test]
    fn a_counter_stops_at_its_limit() {
        let usage = Usage::default();
        assert!(usage.connections.add(Some(1)) && !usage.connections.add(Some(1)));
        usage.connections.remove(1);
        assert!(usage.connections.add(Some(1)) && usage.connections.add(None));
        assert_eq!(usage.connections.get(), 2);
    }
}
