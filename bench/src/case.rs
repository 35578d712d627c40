//! What is measured, by name, and what it should come to. A case keeps its name for ever.

use std::fmt;

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// Unit of its value.
    pub unit: &'static str,
    /// What is to be reached; `None` for a case that explains another.
    pub goal: Option<Goal>,
}

/// What a case should come to.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Ours, at most.
    ValueAtMost(f64),
    /// Ours, at least.
    ValueAtLeast(f64),
    /// Ours ÷ the peer's, at least.
    RatioAtLeast(f64),
    /// Ours ÷ the peer's, at most.
    RatioAtMost(f64),
}

impl Goal {
    /// Whether it is met. Without a peer no ratio is.
    pub fn is_met(self, ours: f64, ratio: Option<f64>) -> bool {
        match self {
            Self::ValueAtMost(limit) => ours <= limit,
            Self::ValueAtLeast(limit) => ours >= limit,
            Self::RatioAtLeast(limit) => ratio.is_some_and(|ratio| ratio >= limit),
            Self::RatioAtMost(limit) => ratio.is_some_and(|ratio| ratio <= limit),
        }
    }
}

/// As in the list of goals: `ratio >= 0.6`.
impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ValueAtMost(limit) => write!(f, "value <= {limit}"),
            Self::ValueAtLeast(limit) => write!(f, "value >= {limit}"),
            Self::RatioAtLeast(limit) => write!(f, "ratio >= {limit}"),
            Self::RatioAtMost(limit) => write!(f, "ratio <= {limit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Goal;

    #[test]
    fn a_goal_is_met_at_its_limit() {
        assert!(Goal::ValueAtMost(1.0).is_met(1.0, None));
        assert!(!Goal::ValueAtMost(1.0).is_met(1.1, None));
        assert!(Goal::ValueAtLeast(1.0).is_met(1.0, None));
        assert!(Goal::RatioAtLeast(0.6).is_met(0.0, Some(0.6)));
        assert!(!Goal::RatioAtLeast(0.6).is_met(9.0, None));
        assert!(Goal::RatioAtMost(1.0).is_met(9.0, Some(1.0)));
        assert!(!Goal::RatioAtMost(1.0).is_met(0.0, None));
        assert_eq!(Goal::RatioAtLeast(0.6).to_string(), "ratio >= 0.6");
    }
}
