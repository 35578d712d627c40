//! What the sessions of one tenant may have at a time, all of them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much there may be, and how much there is.
#[derive(Debug)]
pub(crate) struct Budget {
    most: usize,
    used: AtomicUsize,
}

/// What one holder has of it; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    held: usize,
}

impl Budget {
    /// One that nobody uses yet.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, used: AtomicUsize::new(0) })
    }

    /// A share of nothing.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), held: 0 }
    }
}

impl Share {
    /// Holds so much from now on, if that leaves the budget kept; less than before always does.
    pub(crate) fn hold(&mut self, amount: usize) -> bool {
        let used = &self.budget.used;
        if let Some(more) = amount.checked_sub(self.held) {
            let added = |used: usize| used.checked_add(more).filter(|sum| *sum <= self.budget.most);
            if more > 0 && used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added).is_err() {
                return false;
            }
        } else {
            used.fetch_sub(self.held.saturating_sub(amount), Ordering::Relaxed);
        }
        self.held = amount;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nobody_gets_more_than_is_left_and_everything_is_given_back(
            most in 0..100_usize,
            asked in prop::collection::vec((0..4_usize, 0..60_usize), 0..40),
        ) {
            let budget = Budget::new(most);
            let mut shares: Vec<_> = (0..4).map(|_| budget.share()).collect();
            let mut held = [0; 4];
            for (who, amount) in asked {
                let others: usize = held.iter().sum::<usize>() - held[who];
                let fits = amount <= held[who] || others + amount <= most;
                prop_assert_eq!(shares[who].hold(amount), fits);
                if fits {
                    held[who] = amount;
                }
            }
            drop(shares);
            prop_assert!(budget.share().hold(most));
        }
    }
}
