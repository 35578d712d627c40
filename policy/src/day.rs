//! A day's use, added up over the processes that count it. There is no clock here either.

use crate::{Quotas, Resource};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Seconds of a day.
const SECONDS: i64 = 86_400;

/// A day of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Day(i64);

impl Day {
    /// The day of a moment.
    pub fn of(now: Timestamp) -> Self {
        Self(now.as_second().div_euclid(SECONDS))
    }

    /// The day before.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Its last moment, to the second.
    pub fn ends(self) -> Timestamp {
        let second = self.0.saturating_add(1).saturating_mul(SECONDS);
        Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
    }
}

/// As in `2026-01-31`.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begins =
            Timestamp::from_second(self.0.saturating_mul(SECONDS)).unwrap_or(Timestamp::MIN);
        begins.strftime("%Y-%m-%d").fmt(f)
    }
}

impl FromStr for Day {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::of(format!("{text}T00:00:00Z").parse()?))
    }
}

/// What is counted by the day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Amounts {
    /// Published messages.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Authentications.
    pub authentications: u64,
}

impl Amounts {
    /// Both together, and no more than a `u64` holds.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_add(other.messages),
            bytes: self.bytes.saturating_add(other.bytes),
            authentications: self.authentications.saturating_add(other.authentications),
        }
    }

    /// What is left without the other, and nothing where that is more.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(other.messages),
            bytes: self.bytes.saturating_sub(other.bytes),
            authentications: self.authentications.saturating_sub(other.authentications),
        }
    }

    /// The greater of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        self.plus(other.minus(self))
    }

    /// Whether there is nothing.
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }

    /// The amount of a resource, if it is one that is counted by the day.
    pub fn get(self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::MessagesPerDay => Some(self.messages),
            Resource::BytesPerDay => Some(self.bytes),
            Resource::AuthenticationsPerDay => Some(self.authentications),
            _ => None,
        }
    }

    /// What may still be used today: `u64::MAX` of what has no limit.
    #[must_use]
    pub fn left_of(self, quotas: &Quotas) -> Self {
        let left =
            |limit: Option<u64>, used| limit.map_or(u64::MAX, |limit| limit.saturating_sub(used));
        Self {
            messages: left(quotas.messages_per_day, self.messages),
            bytes: left(quotas.bytes_per_day, self.bytes),
            authentications: left(quotas.authentications_per_day, self.authentications),
        }
    }
}

/// One tenant's use by the day, as one process knows it.
///
/// Each process adds what it counts to a record of its own, which it writes whole: the sum of all records
/// and of what this process has not written yet is what was used.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Records, by day and by the number of the process that writes them.
    written: BTreeMap<(Day, u32), Amounts>,
    /// What was counted here and is in no record.
    unwritten: BTreeMap<Day, Amounts>,
}

impl Tally {
    /// Counts here.
    pub fn count(&mut self, day: Day, amounts: Amounts) {
        if !amounts.is_zero() {
            let sum = self.unwritten.entry(day).or_default();
            *sum = sum.plus(amounts);
        }
    }

    /// What was used on a day.
    pub fn total(&self, day: Day) -> Amounts {
        let records = self.written.range((day, 0)..=(day, u32::MAX)).map(|(_, amounts)| *amounts);
        let own = self.unwritten.get(&day).copied().unwrap_or_default();
        records.fold(own, Amounts::plus)
    }

    /// Takes note of a record. Where it is this process's own, what it holds beyond the last one that this
    /// process knew is what this process had counted: an answer to its writing was lost.
    pub fn heard(&mut self, day: Day, process: u32, amounts: Amounts, is_own: bool) {
        if is_own {
            self.wrote(day, process, amounts);
        } else {
            self.written.insert((day, process), amounts);
        }
    }

    /// What the record of this process has to hold, for each day on which it holds less.
    pub fn due(&self, process: u32) -> impl Iterator<Item = (Day, Amounts)> {
        self.unwritten.iter().map(move |(day, counted)| {
            let before = self.written.get(&(*day, process)).copied().unwrap_or_default();
            (*day, before.plus(*counted))
        })
    }

    /// Takes note that this process's record holds so much now.
    pub fn wrote(&mut self, day: Day, process: u32, amounts: Amounts) {
        let before = self.written.entry((day, process)).or_default();
        let more = amounts.minus(*before);
        *before = before.max(amounts);
        if let Some(counted) = self.unwritten.get_mut(&day) {
            *counted = counted.minus(more);
            if counted.is_zero() {
                self.unwritten.remove(&day);
            }
        }
    }

    /// Forgets the days before one.
    pub fn forget_before(&mut self, day: Day) {
        self.written = self.written.split_off(&(day, 0));
        self.unwritten = self.unwritten.split_off(&day);
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty() && self.unwritten.is_empty()
    }
}

/// A counter that somebody else keeps, and that begins at zero again when that one does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mark {
    /// Published messages.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}

impl Mark {
    /// What was counted since `before`: everything if it has begun anew meanwhile.
    pub fn since(self, before: Self) -> Amounts {
        let has_begun_anew = self.messages < before.messages || self.bytes < before.bytes;
        let before = if has_begun_anew { Self::default() } else { before };
        Amounts {
            messages: self.messages.saturating_sub(before.messages),
            bytes: self.bytes.saturating_sub(before.bytes),
            authentications: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Amounts, Day, Mark, Tally};
    use crate::Quotas;
    use jiff::Timestamp;
    use proptest::prelude::*;

    fn at(text: &str) -> Day {
        Day::of(text.parse().unwrap())
    }

    fn messages(messages: u64) -> Amounts {
        Amounts { messages, bytes: messages * 10, authentications: 0 }
    }

    #[test]
    fn a_day_is_one_of_utc() {
        let day = at("2026-02-28T23:59:59.999Z");
        assert_eq!(day, at("2026-02-28T00:00:00Z"));
        assert_eq!(day.to_string(), "2026-02-28");
        assert_eq!("2026-02-28".parse::<Day>().unwrap(), day);
        assert_eq!(day.ends(), "2026-03-01T00:00:00Z".parse::<Timestamp>().unwrap());
        assert_eq!(Day::of(day.ends()).before(), day);
        assert_eq!(at("1969-12-31T23:00:00Z").to_string(), "1969-12-31");
        for wrong in ["", "2026-13-01", "2026-02-28T00:00:00Z", "../x"] {
            assert!(wrong.parse::<Day>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_new_day_begins_with_nothing_and_the_old_one_stays_what_it_was() {
        let (old, new) = (at("2026-01-01T12:00:00Z"), at("2026-01-02T12:00:00Z"));
        let mut tally = Tally::default();
        tally.count(old, messages(3));
        tally.heard(old, 7, messages(4), false);
        assert_eq!(tally.total(new), Amounts::default());
        tally.count(new, messages(1));
        assert_eq!((tally.total(old), tally.total(new)), (messages(7), messages(1)));
        // What was not written before midnight is still due.
        assert_eq!(tally.due(0).collect::<Vec<_>>(), [(old, messages(3)), (new, messages(1))]);
        tally.forget_before(new);
        assert_eq!((tally.total(old), tally.total(new)), (Amounts::default(), messages(1)));
    }

    #[test]
    fn a_record_goes_on_where_the_process_before_left_it() {
        let day = at("2026-01-01T12:00:00Z");
        let mut tally = Tally::default();
        tally.heard(day, 0, messages(100), false);
        tally.count(day, messages(5));
        assert_eq!(tally.due(0).collect::<Vec<_>>(), [(day, messages(105))]);
        tally.wrote(day, 0, messages(105));
        assert_eq!((tally.total(day), tally.due(0).count()), (messages(105), 0));
    }

    #[test]
    fn a_lost_answer_counts_nothing_twice() {
        let day = at("2026-01-01T12:00:00Z");
        let mut tally = Tally::default();
        tally.count(day, messages(5));
        let sent: Vec<_> = tally.due(0).collect();
        tally.count(day, messages(2));
        // Nobody said so, but it was written.
        for (day, amounts) in sent {
            tally.heard(day, 0, amounts, true);
        }
        assert_eq!(tally.total(day), messages(7));
        assert_eq!(tally.due(0).collect::<Vec<_>>(), [(day, messages(7))]);
    }

    #[test]
    fn what_is_left_ends_at_nothing() {
        let quotas = Quotas { messages_per_day: Some(10), ..Quotas::default() };
        assert_eq!(messages(4).left_of(&quotas).messages, 6);
        assert_eq!(messages(40).left_of(&quotas).messages, 0);
        assert_eq!(messages(40).left_of(&quotas).bytes, u64::MAX);
    }

    #[test]
    fn a_counter_that_begins_anew_is_counted_from_there() {
        let mark = |messages, bytes| Mark { messages, bytes };
        let since = |now: Mark, before| {
            let amounts = now.since(before);
            (amounts.messages, amounts.bytes)
        };
        assert_eq!(since(mark(10, 100), mark(4, 40)), (6, 60));
        assert_eq!(since(mark(3, 30), mark(4, 40)), (3, 30));
        // More messages than before, but smaller ones: bytes tell.
        assert_eq!(since(mark(5, 5), mark(4, 40)), (5, 5));
        assert_eq!(since(mark(4, 40), mark(4, 40)), (0, 0));
    }

    /// What processes do that share one cap.
    #[derive(Clone, Debug)]
    enum Step {
        Count(usize, u64),
        Write(usize),
        /// It is written, but the process does not hear of it.
        WriteUnheard(usize),
        /// It dies, and another begins with its number.
        Kill(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let process = 0..3_usize;
        prop_oneof![
            (process.clone(), 0..1000_u64).prop_map(|(p, n)| Step::Count(p, n)),
            process.clone().prop_map(Step::Write),
            process.clone().prop_map(Step::WriteUnheard),
            process.prop_map(Step::Kill),
        ]
    }

    proptest! {
        #[test]
        fn the_sum_over_processes_is_what_was_counted(steps in prop::collection::vec(step(), 0..60)) {
            let day = at("2026-01-01T12:00:00Z");
            let mut store = std::collections::BTreeMap::new();
            let mut tallies = vec![Tally::default(); 3];
            let (mut counted, mut lost) = (0, 0);
            for step in steps {
                match step {
                    Step::Count(p, n) => {
                        tallies[p].count(day, messages(n));
                        counted += n;
                    }
                    Step::Write(p) | Step::WriteUnheard(p) => {
                        let due: Vec<_> = tallies[p].due(p as u32).collect();
                        for (day, amounts) in due {
                            store.insert((day, p as u32), amounts);
                            if matches!(step, Step::Write(_)) {
                                tallies[p].wrote(day, p as u32, amounts);
                            }
                        }
                    }
                    Step::Kill(p) => {
                        let due: Vec<_> = tallies[p].due(p as u32).collect();
                        let known = store.get(&(day, p as u32)).copied().unwrap_or_default();
                        lost += due.iter().map(|(_, a)| a.minus(known).messages).sum::<u64>();
                        tallies[p] = Tally::default();
                    }
                }
                for (p, tally) in tallies.iter_mut().enumerate() {
                    // A record never shrinks, and each hears of all.
                    for ((day, process), amounts) in &store {
                        tally.heard(*day, *process, *amounts, *process == p as u32);
                    }
                }
            }
            for (p, tally) in tallies.iter_mut().enumerate() {
                let due: Vec<_> = tally.due(p as u32).collect();
                for (day, amounts) in due {
                    store.insert((day, p as u32), amounts);
                }
            }
            let sum: u64 = store.values().map(|amounts: &Amounts| amounts.messages).sum();
            prop_assert_eq!(sum + lost, counted);
        }

        #[test]
        fn nothing_is_ever_below_zero_or_beyond_a_number(a in any::<[u64; 3]>(), b in any::<[u64; 3]>()) {
            let amounts = |[messages, bytes, authentications]: [u64; 3]| Amounts { messages, bytes, authentications };
            let (a, b) = (amounts(a), amounts(b));
            prop_assert_eq!(a.minus(b).plus(b), a.max(b));
            prop_assert!(a.plus(b).messages >= a.messages.max(b.messages));
        }
    }
}
