use bulkhead_policy::{Quotas, TokenBucket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What rates count per.
const SECOND: Duration = Duration::from_secs(1);

/// What one tenant may publish per second at a broker, its clients together, in bursts of a second's worth.
/// A message that is larger than that passes when a second's worth is there, and is paid for in full before
/// the next one.
///
/// It should be kept while it is not full, also when the tenant's last client has left: by coming again
/// nobody should get a second burst.
#[derive(Debug)]
pub struct Rates {
    started: Instant,
    /// Whether there is any. Without, a message costs no lock.
    limited: AtomicBool,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    messages: Option<Rate>,
    bytes: Option<Rate>,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    limit: u64,
    bucket: TokenBucket,
}

impl Default for Rates {
    fn default() -> Self {
        Self { started: Instant::now(), limited: AtomicBool::new(false), buckets: Mutex::default() }
    }
}

impl Rates {
    /// Sets what holds from now on. A rate that was the same before goes on.
    pub fn limit(&self, quotas: &Quotas) {
        let Quotas { messages_per_second, bytes_per_second, .. } = *quotas;
        self.buckets().limit(messages_per_second, bytes_per_second, self.started.elapsed());
        let limited = messages_per_second.is_some() || bytes_per_second.is_some();
        self.limited.store(limited, Ordering::Relaxed);
    }

    /// Takes a message with a payload of so many bytes, if the tenant may publish it now.
    pub fn publish(&self, bytes: usize) -> bool {
        if !self.limited.load(Ordering::Relaxed) {
            return true;
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.buckets().publish(bytes, self.started.elapsed())
    }

    /// Takes so many bytes, whether or not they may be: what comes next waits for them.
    pub fn owe(&self, bytes: u64) {
        let now = self.started.elapsed();
        if let Some(rate) = &mut self.buckets().bytes {
            rate.bucket.owe(bytes, now);
        }
    }

    /// Whether nothing has been published lately, so that a new one would be the same.
    pub fn is_full(&self) -> bool {
        self.buckets().is_full(self.started.elapsed())
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    fn limit(&mut self, messages: Option<u64>, bytes: Option<u64>, now: Duration) {
        self.messages = Rate::changed(self.messages, messages, now);
        self.bytes = Rate::changed(self.bytes, bytes, now);
    }

    fn publish(&mut self, bytes: u64, now: Duration) -> bool {
        let takes = |rate: &mut Option<Rate>, amount| {
            rate.as_mut().is_none_or(|rate| rate.bucket.take_or_owe(amount, now))
        };
        let before = self.messages;
        let both = takes(&mut self.messages, 1) && takes(&mut self.bytes, bytes);
        if !both {
            self.messages = before;
        }
        both
    }

    fn is_full(&mut self, now: Duration) -> bool {
        let mut rates = self.messages.iter_mut().chain(&mut self.bytes);
        rates.all(|rate| rate.bucket.is_full(now))
    }
}

impl Rate {
    fn changed(before: Option<Self>, limit: Option<u64>, now: Duration) -> Option<Self> {
        let limit = limit?;
        let same = before.filter(|before| before.limit == limit);
        Some(same.unwrap_or_else(|| Self { limit, bucket: TokenBucket::new(limit, SECOND, now) }))
    }
}

#[cfg(test)]
mod tests {
    use super::{Buckets, Rates, SECOND};
    use bulkhead_policy::Quotas;
    use std::time::Duration;

    #[test]
    fn what_one_rate_refuses_takes_nothing_of_the_other() {
        let (mut rates, start) = (Buckets::default(), Duration::ZERO);
        rates.limit(Some(2), Some(1000), start);
        assert!(rates.is_full(start) && rates.publish(5000, start));
        assert!(!rates.publish(1, start) && !rates.is_full(start));
        rates.limit(Some(2), None, start);
        assert!(rates.publish(5000, start), "of two messages one is left");
        assert!(!rates.publish(0, start) && rates.publish(0, SECOND / 2));
        assert!(rates.is_full(2 * SECOND));
    }

    #[test]
    fn only_what_is_limited_is_held_back() {
        let rates = Rates::default();
        assert!((0..1000).all(|_| rates.publish(1 << 20)));
        rates.limit(&Quotas { messages_per_second: Some(0), ..Quotas::default() });
        assert!(!rates.publish(0), "a rate of nothing lets nothing through");
        rates.limit(&Quotas::default());
        assert!(rates.publish(1) && rates.is_full());
    }

    #[test]
    fn what_is_owed_is_waited_for() {
        let rates = Rates::default();
        rates.limit(&Quotas { bytes_per_second: Some(100), ..Quotas::default() });
        assert!(rates.publish(0));
        rates.owe(1_000_000);
        assert!(!rates.publish(0) && !rates.is_full());
    }
}
