use bulkhead_policy::{DenyReason, Quotas, TokenBucket, Verdict};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the rates count per.
const SECOND: Duration = Duration::from_secs(1);

/// What a tenant uses of its quotas.
#[derive(Debug)]
pub(crate) struct Usage {
    pub(crate) connections: Counter,
    pub(crate) subscriptions: Counter,
    rates: Mutex<Rates>,
    started: Instant,
}

/// How many there are, within a limit.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

#[derive(Debug, Default)]
struct Rates {
    messages: Option<(u64, TokenBucket)>,
    bytes: Option<(u64, TokenBucket)>,
}

impl Usage {
    pub(crate) fn new() -> Self {
        Self {
            connections: Counter::default(),
            subscriptions: Counter::default(),
            rates: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// Counts a published message, if the tenant may publish one more of this size now.
    ///
    /// # Errors
    /// [`DenyReason::PayloadQuotaExceeded`], [`DenyReason::MessageRateExceeded`].
    pub(crate) fn publish(&self, quotas: &Quotas, payload: usize) -> Verdict<()> {
        let bytes = u64::try_from(payload).unwrap_or(u64::MAX);
        if quotas.payload_bytes.is_some_and(|limit| bytes > limit) {
            return Err(DenyReason::PayloadQuotaExceeded);
        }
        if quotas.messages_per_second.is_none() && quotas.bytes_per_second.is_none() {
            return Ok(());
        }
        let now = self.started.elapsed();
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let Rates { messages, bytes: byte_rate } = &mut *rates;
        // Bytes are asked about first: what is refused there takes no message's place.
        if take(byte_rate, quotas.bytes_per_second, bytes, now)
            && take(messages, quotas.messages_per_second, 1, now)
        {
            Ok(())
        } else {
            Err(DenyReason::MessageRateExceeded)
        }
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

/// Takes from the bucket of a rate, which is made anew when the rate is another.
fn take(
    bucket: &mut Option<(u64, TokenBucket)>,
    rate: Option<u64>,
    amount: u64,
    now: Duration,
) -> bool {
    let Some(rate) = rate else {
        *bucket = None;
        return true;
    };
    if bucket.as_ref().is_none_or(|(known, _)| *known != rate) {
        *bucket = Some((rate, TokenBucket::new(rate, SECOND, now)));
    }
    bucket.as_mut().is_some_and(|(_, bucket)| bucket.take(amount, now))
}

#[cfg(test)]
mod tests {
    use super::Usage;
    use bulkhead_policy::{DenyReason, Quotas};

    #[test]
    fn rates_and_sizes_are_limited() {
        let usage = Usage::new();
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
        let usage = Usage::new();
        assert!(usage.connections.add(Some(1)) && !usage.connections.add(Some(1)));
        usage.connections.remove(1);
        assert!(usage.connections.add(Some(1)) && usage.connections.add(None));
        assert_eq!(usage.connections.get(), 2);
    }
}
