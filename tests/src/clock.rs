use bulkhead_control::usage::Clock;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// A clock for what is counted by the day, which a test moves on. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct TestClock {
    ahead: Arc<AtomicI64>,
}

impl TestClock {
    /// One that stands at noon of its day, so that no test meets a midnight.
    pub fn noon() -> Self {
        let clock = Self::default();
        let second = Timestamp::now().as_second().rem_euclid(86_400);
        clock.ahead.store(43_200 - second, Ordering::Relaxed);
        clock
    }

    /// Moves on.
    pub fn advance(&self, hours: i64) {
        self.ahead.fetch_add(hours * 3_600, Ordering::Relaxed);
    }

    /// As services take it.
    pub fn clock(&self) -> Clock {
        let ahead = Arc::clone(&self.ahead);
        Arc::new(move || {
            let ahead = SignedDuration::from_secs(ahead.load(Ordering::Relaxed));
            Timestamp::now().saturating_add(ahead).unwrap_or(Timestamp::MAX)
        })
    }
}
