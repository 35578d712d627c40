//! Seconds, for what MQTT counts in them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment in the future, in whole seconds of the wall clock, so that it means the same after a
/// restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(u32);

impl Deadline {
    /// So many seconds from now; far enough away to be never, at most in the year 2106.
    pub(crate) fn after(seconds: u32) -> Self {
        Self(now().saturating_add(seconds).max(1))
    }

    /// Whether it has come.
    pub(crate) fn has_passed(self) -> bool {
        self.remaining() == 0
    }

    /// Seconds until then.
    pub(crate) fn remaining(self) -> u32 {
        self.0.saturating_sub(now())
    }

    /// Not zero.
    pub(crate) fn to_bits(self) -> u32 {
        self.0
    }

    /// `None` for zero.
    pub(crate) fn from_bits(bits: u32) -> Option<Self> {
        (bits != 0).then_some(Self(bits))
    }
}

fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::Deadline;

    #[test]
    fn a_deadline_comes_and_never_overflows() {
        assert!(Deadline::after(0).has_passed());
        let soon = Deadline::after(60);
        assert!(!soon.has_passed() && (59..=60).contains(&soon.remaining()));
        assert!(!Deadline::after(u32::MAX).has_passed());
        assert_eq!(Deadline::from_bits(soon.to_bits()), Some(soon));
    }
}
