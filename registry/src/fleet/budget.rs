//! How much of the store's writing is one tenant's. The store is everybody's: what one tenant writes without
//! end would fill it for all.

use std::time::{Duration, Instant};

/// So many seconds' worth may be written at once: a fleet that comes back.
const BURST: f64 = 16.0;

/// So many seconds' worth who comes and goes may be written ahead of what has come in. What merely changes
/// waits until that is made up for.
const AHEAD: f64 = 64.0;

/// What a tenant may write: bytes per second.
pub(super) struct Budget {
    per_second: f64,
    /// Less than nothing, if it is behind.
    level: f64,
    updated: Instant,
}

impl Budget {
    pub(super) fn new(bytes_per_second: usize, now: Instant) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let per_second = bytes_per_second.max(1) as f64;
        Self { per_second, level: per_second * BURST, updated: now }
    }

    /// Notes what was written.
    pub(super) fn spend(&mut self, bytes: usize, now: Instant) {
        self.refill(now);
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let bytes = bytes as f64;
        self.level -= bytes;
    }

    /// From when on something may be written: what is urgent, or all there is.
    pub(super) fn from(&mut self, is_urgent: bool, now: Instant) -> Instant {
        self.refill(now);
        let ahead = if is_urgent { self.per_second * AHEAD } else { 0.0 };
        let missing = (-self.level - ahead).max(0.0);
        now + Duration::try_from_secs_f64(missing / self.per_second).unwrap_or_default()
    }

    /// Whether nothing was written lately.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.level >= self.per_second * BURST
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.updated).as_secs_f64();
        self.level = elapsed.mul_add(self.per_second, self.level).min(self.per_second * BURST);
        self.updated = self.updated.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::{AHEAD, BURST, Budget};
    use std::time::{Duration, Instant};

    #[test]
    fn what_merely_changes_waits_and_who_comes_and_goes_does_not_for_long() {
        let now = Instant::now();
        let after = |seconds: f64| now + Duration::from_secs_f64(seconds);
        let mut budget = Budget::new(1_000, now);
        budget.spend(16_000, now);
        assert_eq!(budget.from(false, now), now, "that was the burst");
        budget.spend(2_000, now);
        assert_eq!((budget.from(false, now), budget.from(true, now)), (after(2.0), now));
        assert_eq!(budget.from(false, after(2.0)), after(2.0), "it has come in");
        budget.spend(70_000, after(2.0));
        assert_eq!(budget.from(true, after(2.0)), after(2.0 + 70.0 - AHEAD));
        assert_eq!(budget.from(false, after(2.0)), after(72.0));
        // However long nothing is written, there is no more than a burst.
        let late = after(1_000_000.0);
        assert!(!budget.is_full(after(2.0)) && budget.is_full(late));
        budget.spend(1_000 * 17, late);
        assert_eq!(budget.from(false, late), late + Duration::from_secs_f64(17.0 - BURST));
    }
}
