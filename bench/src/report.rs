//! Results for people and for programs.

use crate::case::{Case, Goal};
use crate::stats::{median, rounded, spread};
use comfy_table::Table;
use serde::Serialize;
use std::collections::BTreeMap;

/// What was measured of a case.
#[derive(Debug)]
pub struct Measured {
    /// The case.
    pub case: Case,
    /// Ours, one value per repetition, in the case's unit.
    pub ours: Vec<f64>,
    /// What it is compared with, measured in turn with ours.
    pub peer: Option<(&'static str, Vec<f64>)>,
    /// CPU time of one operation in microseconds, over all processes of ours that take part.
    pub cpu_us_per_op: Option<f64>,
    /// What explains the value, by name with the unit at its end.
    pub detail: BTreeMap<&'static str, f64>,
}

impl Measured {
    /// A case without a peer.
    pub fn new(case: Case, ours: Vec<f64>) -> Self {
        Self { case, ours, peer: None, cpu_us_per_op: None, detail: BTreeMap::new() }
    }

    /// Adds what it is compared with.
    pub fn against(self, name: &'static str, peer: Vec<f64>) -> Self {
        Self { peer: Some((name, peer)), ..self }
    }

    /// Adds the CPU time of one operation, in microseconds.
    pub fn cpu_us_per_op(self, microseconds: f64) -> Self {
        Self { cpu_us_per_op: Some(microseconds), ..self }
    }

    /// Adds a number that explains the value.
    pub fn detail(mut self, name: &'static str, value: f64) -> Self {
        self.detail.insert(name, rounded(value));
        self
    }
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Line {
    case: &'static str,
    unit: &'static str,
    ours: f64,
    peer: Option<f64>,
    peer_name: Option<&'static str>,
    ratio: Option<f64>,
    spread: f64,
    peer_spread: Option<f64>,
    runs: usize,
    cpu_us_per_op: Option<f64>,
    goal: Option<String>,
    met: Option<bool>,
    detail: BTreeMap<&'static str, f64>,
}

impl Line {
    fn new(measured: Measured) -> Self {
        let ours = median(&measured.ours);
        let peer = measured.peer.as_ref().map(|(_, values)| median(values));
        let ratio = peer.map(|peer| ours / peer);
        let goal: Option<Goal> = measured.case.goal;
        Self {
            case: measured.case.name,
            unit: measured.case.unit,
            ours: rounded(ours),
            peer: peer.map(rounded),
            peer_name: measured.peer.as_ref().map(|(name, _)| *name),
            ratio: ratio.map(rounded),
            spread: rounded(spread(&measured.ours)),
            peer_spread: measured.peer.as_ref().map(|(_, values)| rounded(spread(values))),
            runs: measured.ours.len(),
            cpu_us_per_op: measured.cpu_us_per_op.map(rounded),
            goal: goal.map(|goal| goal.to_string()),
            met: goal.map(|goal| goal.is_met(ours, ratio)),
            detail: measured.detail,
        }
    }

    fn cells(&self) -> Vec<String> {
        let number = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();
        let percent = |value: Option<f64>| value.map(|v| format!("{:.0} %", v * 100.0));
        let met = match self.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        vec![
            self.case.to_owned(),
            format!("{} {}", self.ours, self.unit),
            percent(Some(self.spread)).unwrap_or_default(),
            number(self.peer),
            self.peer_name.unwrap_or_default().to_owned(),
            percent(self.peer_spread).unwrap_or_default(),
            number(self.ratio),
            self.runs.to_string(),
            number(self.cpu_us_per_op),
            self.goal.clone().unwrap_or_default(),
            met.to_owned(),
        ]
    }

    /// The case and what explains it, if anything does.
    fn details(&self) -> Option<String> {
        let detail: Vec<_> = self.detail.iter().map(|(name, v)| format!("{name} {v}")).collect();
        (!detail.is_empty()).then(|| format!("{}: {}", self.case, detail.join(", ")))
    }
}

/// Prints results: JSON at once, a table at the end.
pub struct Report {
    json: bool,
    lines: Vec<Line>,
}

impl Report {
    /// Nothing yet.
    pub fn new(json: bool) -> Self {
        Self { json, lines: Vec::new() }
    }

    /// Adds a case.
    pub fn add(&mut self, measured: Measured) {
        let line = Line::new(measured);
        if self.json {
            println!("{}", serde_json::to_string(&line).unwrap());
        } else {
            self.lines.push(line);
        }
    }

    /// Prints the table, and below it what explains its values.
    pub fn finish(self) {
        if self.json {
            return;
        }
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header([
            "CASE",
            "OURS",
            "SPREAD",
            "PEER",
            "PEER IS",
            "SPREAD",
            "RATIO",
            "RUNS",
            "CPU µs/OP",
            "GOAL",
            "",
        ]);
        table.add_rows(self.lines.iter().map(Line::cells));
        for line in table.to_string().lines() {
            println!("{}", line.trim());
        }
        println!();
        for details in self.lines.iter().filter_map(Line::details) {
            println!("{details}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, Measured};
    use crate::case::{Case, Goal};

    const CASE: Case = Case { name: "a.b", unit: "1/s", goal: Some(Goal::RatioAtLeast(0.5)) };

    #[test]
    fn a_ratio_is_of_medians() {
        let measured =
            Measured::new(CASE, vec![5.0, 6.0, 7.0]).against("x", vec![10.0, 12.0, 90.0]);
        let line = Line::new(measured);
        assert_eq!((line.ours, line.peer, line.ratio), (6.0, Some(12.0), Some(0.5)));
        assert_eq!((line.runs, line.met), (3, Some(true)));
    }

    #[test]
    fn what_is_missing_is_null() {
        let line = Line::new(Measured::new(Case { goal: None, ..CASE }, vec![1.0]));
        let json = serde_json::to_value(&line).unwrap();
        for name in ["peer", "peer_name", "ratio", "cpu_us_per_op", "goal", "met"] {
            assert!(json[name].is_null(), "{name}");
        }
    }
}
