//! One run: which cases, how thoroughly, and what came of them.

use crate::args::Args;
use crate::case::Case;
use crate::report::{Measured, Report};
use crate::{mqtt, nats, policy, registry, zenoh};

/// One run of the program.
pub struct Session {
    selection: Vec<String>,
    effort: Effort,
    report: Report,
}

/// How thoroughly to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    quick: bool,
}

impl Effort {
    /// `full`, or `quick` where that was asked for.
    pub fn choose<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

impl Session {
    /// A run as it was asked for.
    ///
    /// # Errors
    /// A text for the user if a prefix fits no case.
    pub fn new(args: &Args) -> Result<Self, String> {
        let groups = [policy::CASES, nats::CASES, mqtt::CASES, zenoh::CASES, registry::CASES];
        let all: Vec<&Case> = groups.into_iter().flatten().collect();
        for prefix in &args.cases {
            if !all.iter().any(|case| selects(prefix, case.name)) {
                let names: Vec<_> = all.iter().map(|case| case.name).collect();
                return Err(format!(
                    "no case begins with {prefix}; there are {}",
                    names.join(", ")
                ));
            }
        }
        warn_if_busy();
        Ok(Self {
            selection: args.cases.clone(),
            effort: Effort { quick: args.quick },
            report: Report::new(args.json),
        })
    }

    /// How thoroughly to measure.
    pub fn effort(&self) -> Effort {
        self.effort
    }

    /// Whether a case is to be measured.
    pub fn wants(&self, case: &str) -> bool {
        self.selection.is_empty() || self.selection.iter().any(|prefix| selects(prefix, case))
    }

    /// Whether any of these is.
    pub fn wants_any<'a>(&self, cases: impl IntoIterator<Item = &'a str>) -> bool {
        cases.into_iter().any(|case| self.wants(case))
    }

    /// Says what is going on, on standard error.
    pub fn note(&self, text: &str) {
        eprintln!("bulkhead-bench: {text}");
    }

    /// Takes down what was measured, unless nobody asked for it.
    pub fn record(&mut self, measured: Measured) {
        if self.wants(measured.case.name) {
            self.report.add(measured);
        }
    }

    /// Prints what is not printed yet.
    pub fn finish(self) {
        self.report.finish();
    }
}

/// Whoever else works on this machine is measured too.
fn warn_if_busy() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = text.split(' ').next().and_then(|first| first.parse::<f64>().ok());
    if let Some(load) = load.filter(|load| *load > 0.5) {
        eprintln!(
            "bulkhead-bench: {cores} cores have a load of {load} before anything is measured"
        );
    }
}

/// A prefix ends where a part of a name does, so `nats.connect.c1` is not `nats.connect.c16`.
fn selects(prefix: &str, case: &str) -> bool {
    case.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::selects;

    #[test]
    fn a_prefix_is_of_whole_parts() {
        assert!(selects("nats", "nats.connect.c1"));
        assert!(selects("nats.connect.c1", "nats.connect.c1"));
        assert!(selects("nats.connect.c1", "nats.connect.c1.noauth"));
        assert!(!selects("nats.connect.c1", "nats.connect.c16"));
        assert!(!selects("connect", "nats.connect.c1"));
    }
}
