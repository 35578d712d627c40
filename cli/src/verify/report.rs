//! What came of it: the isolation matrix.

use serde::Serialize;
use std::fmt;

/// Every row that was tried, and what could not be.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The worst of all rows.
    result: Outcome,
    rows: Vec<Row>,
    not_tried: Vec<NotTried>,
}

/// One action, tried by each of two tenants on the other, and by each within itself.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which broker.
    pub backend: &'static str,
    /// What was tried.
    #[serde(rename = "row")]
    pub action: &'static str,
    /// What that shows.
    pub result: Outcome,
    /// What came of it within the own tenant: it has to work, or the row would show nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<Seen>,
    /// What came of it across tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<Seen>,
    /// The same in words.
    pub reason: String,
}

/// An action that this deployment has nothing for.
#[derive(Clone, Debug, Serialize)]
pub struct NotTried {
    /// Which broker.
    pub backend: &'static str,
    /// What would have been tried.
    #[serde(rename = "row")]
    pub action: &'static str,
    /// Why it was not.
    pub reason: String,
}

/// What a row shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It works within each tenant, and not across.
    Isolated,
    /// It could not be told: it did not work within a tenant either, or could not be tried.
    Unknown,
    /// It works across tenants.
    Leak,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// The broker refused with an error, and nothing arrived.
    Refused,
    /// Nothing arrived, and nobody said why.
    Nothing,
    /// It worked: the message arrived.
    Arrived,
}

/// What came of one tenant's attempt on the other.
#[derive(Debug)]
pub(crate) struct Trial {
    /// The positive control: the same within the tenant that was attacked.
    pub(crate) own: Seen,
    pub(crate) foreign: Seen,
    /// What has happened if the foreign attempt arrived, in a clause with both names.
    pub(crate) leak: String,
    /// What an attempt that did not arrive leaves open.
    pub(crate) note: Option<&'static str>,
}

impl Trial {
    /// The same where something was left behind at the broker, which has to be said: a leak stays one, and
    /// nothing else is a pass.
    pub(crate) fn left_behind(tried: Result<Self, Cannot>, what: String) -> Result<Self, Cannot> {
        match tried {
            Ok(trial) if trial.foreign == Seen::Arrived => {
                Ok(Self { leak: format!("{}; besides, {what}", trial.leak), ..trial })
            }
            Ok(_) => Err(Cannot::Tell(what)),
            Err(Cannot::Tell(why) | Cannot::Apply(why)) => {
                Err(Cannot::Tell(format!("{why}; besides, {what}")))
            }
        }
    }
}

/// Why nothing can be said of an attempt.
#[derive(Debug)]
pub(crate) enum Cannot {
    /// It could not be carried through.
    Tell(String),
    /// There is nothing here that could be tried.
    Apply(String),
}

/// One attempt.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) attacker: &'a str,
    pub(crate) victim: &'a str,
    pub(crate) came_to: Result<Trial, Cannot>,
}

/// A row, or why there is none.
#[derive(Debug)]
pub(crate) enum Judged {
    Row(Row),
    NotTried(NotTried),
}

impl Cannot {
    /// For an error that has to be said as it is.
    pub(crate) fn tell(error: impl fmt::Display) -> Self {
        Self::Tell(error.to_string())
    }
}

impl Seen {
    /// What was seen, given whether the effect was there and whether the broker agreed.
    pub(crate) fn of(arrived: bool, agreed: bool) -> Self {
        match (arrived, agreed) {
            (true, _) => Self::Arrived,
            (false, false) => Self::Refused,
            (false, true) => Self::Nothing,
        }
    }
}

impl Judged {
    /// What the attempts of one action come to. One that got through is a leak, whatever became of
    /// the rest.
    pub(crate) fn of(
        backend: &'static str,
        action: &'static str,
        attempts: Vec<Attempt<'_>>,
    ) -> Self {
        let (mut leaks, mut doubts, mut held, mut absent) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut own, mut foreign) = (None, None);
        for Attempt { attacker, victim, came_to } in attempts {
            match came_to {
                Ok(trial) => {
                    // The worst of both: what did not work within, and what did across.
                    own = Some(own.map_or(trial.own, |seen: Seen| seen.min(trial.own)));
                    foreign = foreign.max(Some(trial.foreign));
                    if trial.foreign == Seen::Arrived {
                        leaks.push(trial.leak);
                    } else if trial.own != Seen::Arrived {
                        doubts.push(format!(
                            "within {victim} it does not work either ({}), so it shows nothing that \
                             {attacker} cannot: see what {victim} may do, and its prefix",
                            trial.own
                        ));
                    } else {
                        let note = trial.note.map(|note| format!("; {note}")).unwrap_or_default();
                        held.push(format!("tried by {attacker}: {}{note}", trial.foreign));
                    }
                }
                Err(Cannot::Tell(why)) => doubts.push(format!("tried by {attacker}: {why}")),
                Err(Cannot::Apply(why)) => absent.push(why),
            }
        }
        let (result, reasons) = if !leaks.is_empty() {
            (Outcome::Leak, leaks)
        } else if !doubts.is_empty() {
            (Outcome::Unknown, doubts)
        } else if !held.is_empty() {
            (Outcome::Isolated, held)
        } else {
            absent.dedup();
            return Self::NotTried(NotTried { backend, action, reason: absent.join("; ") });
        };
        let reason = reasons.join("; ");
        Self::Row(Row { backend, action, result, own, foreign, reason })
    }
}

impl Report {
    pub(crate) fn new(judged: impl IntoIterator<Item = Judged>) -> Self {
        let (mut rows, mut not_tried) = (Vec::new(), Vec::new());
        for one in judged {
            match one {
                Judged::Row(row) => rows.push(row),
                Judged::NotTried(row) => not_tried.push(row),
            }
        }
        // Without a row nothing is known.
        let result = rows.iter().map(|row: &Row| row.result).max().unwrap_or(Outcome::Unknown);
        Self { result, rows, not_tried }
    }

    /// The worst of all rows; [`Outcome::Unknown`] if there are none.
    pub fn result(&self) -> Outcome {
        self.result
    }

    /// The rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// What there was nothing for.
    pub fn not_tried(&self) -> &[NotTried] {
        &self.not_tried
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Arrived => "arrived",
            Self::Refused => "refused",
            Self::Nothing => "nothing arrived",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Attempt, Cannot, Judged, Outcome, Report, Seen, Trial};

    fn attempt(own: Seen, foreign: Seen) -> Attempt<'static> {
        let leak = "a heard b".to_owned();
        Attempt {
            attacker: "a",
            victim: "b",
            came_to: Ok(Trial { own, foreign, leak, note: None }),
        }
    }

    fn cannot(cannot: Cannot) -> Attempt<'static> {
        Attempt { attacker: "a", victim: "b", came_to: Err(cannot) }
    }

    fn report(attempts: Vec<Attempt<'_>>) -> Report {
        Report::new([Judged::of("nats", "publish", attempts)])
    }

    #[test]
    fn a_row_holds_only_if_both_tenants_can_do_it_within_and_neither_across() {
        use Seen::{Arrived, Nothing, Refused};
        for (attempts, result) in [
            (vec![attempt(Arrived, Refused), attempt(Arrived, Nothing)], Outcome::Isolated),
            (vec![attempt(Arrived, Arrived), attempt(Arrived, Nothing)], Outcome::Leak),
            (vec![attempt(Nothing, Arrived), attempt(Refused, Nothing)], Outcome::Leak),
            (vec![attempt(Arrived, Refused), attempt(Nothing, Refused)], Outcome::Unknown),
            (
                vec![attempt(Arrived, Refused), cannot(Cannot::Tell("x".to_owned()))],
                Outcome::Unknown,
            ),
            (vec![attempt(Arrived, Arrived), cannot(Cannot::Tell("x".to_owned()))], Outcome::Leak),
            (
                vec![attempt(Arrived, Refused), cannot(Cannot::Apply("x".to_owned()))],
                Outcome::Isolated,
            ),
        ] {
            let shown = format!("{attempts:?}");
            assert_eq!(report(attempts).result(), result, "{shown}");
        }
    }

    #[test]
    fn what_is_left_behind_is_said_and_hides_no_leak() {
        let left = |came_to| Trial::left_behind(came_to, "x is left".to_owned());
        let of = |foreign| attempt(Seen::Arrived, foreign).came_to;
        let leak = left(of(Seen::Arrived)).unwrap();
        assert_eq!(
            (leak.foreign, leak.leak.as_str()),
            (Seen::Arrived, "a heard b; besides, x is left")
        );
        for came_to in [of(Seen::Refused), Err(Cannot::Apply("off".to_owned()))] {
            assert!(matches!(left(came_to), Err(Cannot::Tell(why)) if why.contains("x is left")));
        }
    }

    #[test]
    fn what_there_is_nothing_for_is_no_row_and_nothing_is_not_isolated() {
        let report = report(vec![cannot(Cannot::Apply("off".to_owned()))]);
        assert_eq!((report.rows().len(), report.not_tried().len()), (0, 1));
        assert_eq!(report.result(), Outcome::Unknown);
    }

    #[test]
    fn the_worst_of_both_directions_is_shown() {
        let attempts =
            vec![attempt(Seen::Arrived, Seen::Nothing), attempt(Seen::Nothing, Seen::Refused)];
        let report = report(attempts);
        let row = &report.rows()[0];
        assert_eq!((row.own, row.foreign), (Some(Seen::Nothing), Some(Seen::Nothing)));
        let value = serde_json::to_value(&report).unwrap();
        assert_eq!(value["rows"][0]["row"], "publish");
        assert_eq!(value["rows"][0]["result"], "unknown");
    }
}
