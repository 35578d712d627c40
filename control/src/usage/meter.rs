use bulkhead_policy::{Amounts, DenyReason, Verdict};
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what one tenant uses in this process, up to what it may still use today.
///
/// It is kept with whatever the broker has of the tenant, so that a message costs no look-up. Counters only
/// grow; who adds up the day moves the limits instead.
#[derive(Debug)]
pub struct Meter {
    messages: AtomicU64,
    bytes: AtomicU64,
    authentications: AtomicU64,
    most_messages: AtomicU64,
    most_bytes: AtomicU64,
    most_authentications: AtomicU64,
}

/// Messages that were allowed where nothing limits them, and wait to be counted together: an addition
/// that other processors see costs as much as reading a small message.
#[derive(Debug, Default)]
pub struct Uncounted {
    messages: u64,
    bytes: u64,
}

impl Meter {
    /// One that has counted nothing and knows no limit.
    pub(super) fn new() -> Self {
        let (zero, most) = (|| AtomicU64::new(0), || AtomicU64::new(u64::MAX));
        Self {
            messages: zero(),
            bytes: zero(),
            authentications: zero(),
            most_messages: most(),
            most_bytes: most(),
            most_authentications: most(),
        }
    }

    /// Counts a published message with a payload of so many bytes, if the tenant may publish it today.
    /// Those that are refused at the limit take nothing. Where there is no limit, it is counted by
    /// [`Meter::count`].
    ///
    /// # Errors
    /// [`DenyReason::DailyQuotaExceeded`].
    pub fn publish(&self, bytes: u64, uncounted: &mut Uncounted) -> Verdict<()> {
        let is_limited = |most: &AtomicU64| most.load(Ordering::Relaxed) < u64::MAX;
        if !is_limited(&self.most_messages) && !is_limited(&self.most_bytes) {
            uncounted.messages += 1;
            uncounted.bytes = uncounted.bytes.saturating_add(bytes);
            return Ok(());
        }
        let messages = (&self.messages, &self.most_messages, 1);
        take(messages)?;
        take((&self.bytes, &self.most_bytes, bytes)).inspect_err(|_| {
            self.messages.fetch_sub(1, Ordering::Relaxed);
        })
    }

    /// Counts what was allowed and is not counted yet.
    pub fn count(&self, uncounted: &mut Uncounted) {
        let Uncounted { messages, bytes } = std::mem::take(uncounted);
        if messages > 0 {
            self.messages.fetch_add(messages, Ordering::Relaxed);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Counts an authentication, if the tenant may have one more today.
    ///
    /// # Errors
    /// [`DenyReason::DailyQuotaExceeded`].
    pub fn authenticate(&self) -> Verdict<()> {
        take((&self.authentications, &self.most_authentications, 1))
    }

    /// What was counted since the process began.
    pub(super) fn counted(&self) -> Amounts {
        Amounts {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            authentications: self.authentications.load(Ordering::Relaxed),
        }
    }

    /// Lets it count up to here, from the beginning of the process.
    pub(super) fn allow(&self, most: Amounts) {
        self.most_messages.store(most.messages, Ordering::Relaxed);
        self.most_bytes.store(most.bytes, Ordering::Relaxed);
        self.most_authentications.store(most.authentications, Ordering::Relaxed);
    }
}

/// Adds `amount` to a counter, if it stays within its limit.
fn take((counter, most, amount): (&AtomicU64, &AtomicU64, u64)) -> Verdict<()> {
    let most = most.load(Ordering::Relaxed);
    // Whoever is at the limit is told without a write, however often it asks.
    if counter.load(Ordering::Relaxed).saturating_add(amount) > most {
        return Err(DenyReason::DailyQuotaExceeded);
    }
    if counter.fetch_add(amount, Ordering::Relaxed).saturating_add(amount) > most {
        counter.fetch_sub(amount, Ordering::Relaxed);
        return Err(DenyReason::DailyQuotaExceeded);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Meter, Uncounted};
    use bulkhead_policy::{Amounts, DenyReason};
    use std::sync::Arc;

    #[test]
    fn what_does_not_fit_takes_nothing() {
        let meter = Meter::new();
        meter.allow(Amounts { messages: 3, bytes: 10, authentications: 1 });
        let publish = |bytes| meter.publish(bytes, &mut Uncounted::default());
        assert_eq!(publish(8), Ok(()));
        assert_eq!(publish(3), Err(DenyReason::DailyQuotaExceeded));
        assert_eq!(publish(2), Ok(()));
        assert_eq!(publish(0), Ok(()));
        assert_eq!(publish(0), Err(DenyReason::DailyQuotaExceeded));
        assert_eq!((meter.authenticate(), meter.authenticate().is_err()), (Ok(()), true));
        assert_eq!(meter.counted(), Amounts { messages: 3, bytes: 10, authentications: 1 });
        meter.allow(Amounts { messages: 4, bytes: 11, authentications: 2 });
        assert_eq!((publish(1), meter.authenticate()), (Ok(()), Ok(())));
        assert_eq!(publish(u64::MAX), Err(DenyReason::DailyQuotaExceeded));
    }

    #[test]
    fn what_nothing_limits_is_counted_together() {
        let (meter, mut uncounted) = (Meter::new(), Uncounted::default());
        for _ in 0..3 {
            meter.publish(5, &mut uncounted).unwrap();
        }
        assert_eq!(meter.counted(), Amounts::default());
        meter.count(&mut uncounted);
        meter.count(&mut uncounted);
        assert_eq!(meter.counted(), Amounts { messages: 3, bytes: 15, authentications: 0 });
        // From the moment of a limit on each counts by itself, and so does what came before.
        meter.publish(5, &mut uncounted).unwrap();
        meter.allow(Amounts { messages: 4, bytes: u64::MAX, authentications: u64::MAX });
        meter.publish(5, &mut uncounted).unwrap();
        assert_eq!(meter.counted().messages, 4);
        meter.count(&mut uncounted);
        assert_eq!(meter.counted().messages, 5);
        assert_eq!(meter.publish(5, &mut uncounted), Err(DenyReason::DailyQuotaExceeded));
    }

    #[test]
    fn threads_together_get_exactly_what_is_allowed() {
        let meter = Arc::new(Meter::new());
        meter.allow(Amounts { messages: 10_000, bytes: u64::MAX, authentications: 0 });
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let meter = Arc::clone(&meter);
                std::thread::spawn(move || {
                    let mut uncounted = Uncounted::default();
                    (0..9_000).filter(|_| meter.publish(1, &mut uncounted).is_ok()).count()
                })
            })
            .collect();
        let taken: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!((taken, meter.counted().messages), (10_000, 10_000));
    }
}
