//! What a process knows of every tenant's day. There is no I/O here, and the time is told.

use super::Meter;
use super::store::{Heard, Write};
use bulkhead_policy::{Amounts, Day, Mark, Quotas, Resource, Tally, TenantId};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// What a tenant has at the moment, of each resource that is known.
pub type Gauges = BTreeMap<Resource, u64>;

/// Tells the limits that hold for a tenant.
pub(super) type Limits<'a> = dyn Fn(&TenantId) -> Quotas + 'a;

/// What is known of all tenants.
#[derive(Debug)]
pub(super) struct Book {
    day: Day,
    /// The number under which this process writes, once it has one.
    process: Option<u32>,
    tenants: HashMap<TenantId, Entry>,
    exhausted: Arc<BTreeSet<TenantId>>,
}

/// What is known of one tenant.
#[derive(Debug)]
struct Entry {
    meter: Arc<Meter>,
    /// How much of what the meter counted is in the tally.
    seen: Amounts,
    tally: Tally,
    quotas: Quotas,
    marks: BTreeMap<String, Marked>,
    /// What was told of its gauges, and when anything was, since the process began.
    told: Gauges,
    told_at: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Marked {
    mark: Mark,
    is_written: bool,
    /// When it was last heard of.
    day: Day,
}

impl Book {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            day: Day::of(now),
            process: None,
            tenants: HashMap::new(),
            exhausted: Arc::default(),
        }
    }

    pub(super) fn day(&self) -> Day {
        self.day
    }

    /// The tenants that may publish no more today.
    pub(super) fn exhausted(&self) -> &Arc<BTreeSet<TenantId>> {
        &self.exhausted
    }

    /// A tenant's meter.
    pub(super) fn meter(&mut self, id: &TenantId, limits: &Limits<'_>) -> Arc<Meter> {
        Arc::clone(&self.entry(id, limits).meter)
    }

    /// What was used today.
    pub(super) fn today(&mut self) -> impl Iterator<Item = (&TenantId, Amounts, Quotas)> {
        self.drain();
        let day = self.day;
        self.tenants.iter().map(move |(id, entry)| (id, entry.tally.total(day), entry.quotas))
    }

    fn entry(&mut self, id: &TenantId, limits: &Limits<'_>) -> &mut Entry {
        self.tenants.entry(id.clone()).or_insert_with(|| Entry::new(limits(id)))
    }

    /// Brings everything to the present moment, with the limits of now if they may be others.
    pub(super) fn turn(&mut self, now: Timestamp, limits: Option<&Limits<'_>>) {
        // What was counted so far is of the day that was.
        self.drain();
        let day = Day::of(now);
        let is_new_day = day != self.day;
        self.day = day;
        if let Some(limits) = limits {
            for (id, entry) in &mut self.tenants {
                entry.quotas = limits(id);
            }
        }
        if is_new_day {
            // The day before stays, for a clock that is set back a little.
            let oldest = day.before();
            self.tenants.retain(|_, entry| {
                entry.tally.forget_before(oldest);
                entry.marks.retain(|_, marked| marked.day >= oldest);
                entry.is_needed()
            });
        }
        self.settle_all();
    }

    /// Adds what meters have counted. It changes no limit: what is counted more is left less.
    fn drain(&mut self) {
        let day = self.day;
        self.tenants.values_mut().for_each(|entry| entry.drain(day));
    }

    fn settle_all(&mut self) {
        let day = self.day;
        let full = self.tenants.iter().filter(|(_, entry)| entry.settle(day));
        let full: BTreeSet<_> = full.map(|(id, _)| id.clone()).collect();
        if full != *self.exhausted {
            self.exhausted = Arc::new(full);
        }
    }

    fn settle(&mut self, id: &TenantId) {
        let Some(entry) = self.tenants.get_mut(id) else { return };
        entry.drain(self.day);
        let is_full = entry.settle(self.day);
        if is_full != self.exhausted.contains(id) {
            let exhausted = Arc::make_mut(&mut self.exhausted);
            if is_full {
                exhausted.insert(id.clone());
            } else {
                exhausted.remove(id);
            }
        }
    }

    /// Takes over everything that the store has. From now on this process writes under `process`, and goes
    /// on with what another wrote under it before.
    pub(super) fn load(&mut self, process: u32, heard: Vec<Heard>, limits: &Limits<'_>) {
        let is_known = self.process == Some(process);
        if !is_known {
            // A record that is not this process's yet says nothing about what it has counted.
            self.process = None;
            self.tenants.values_mut().for_each(|entry| entry.told = Gauges::new());
        }
        for one in heard {
            self.note(one, limits);
        }
        self.process = Some(process);
        self.tenants.values_mut().for_each(|entry| entry.told_at = None);
        self.drain();
        self.settle_all();
    }

    /// Takes over what was written, by whichever process. `holds` says of which counters this process is
    /// the one that reads them.
    pub(super) fn hear(&mut self, heard: Heard, holds: &HashSet<String>, limits: &Limits<'_>) {
        if let Heard::Mark { counter, .. } = &heard
            && holds.contains(counter)
        {
            return;
        }
        let tenant = heard.tenant().clone();
        self.note(heard, limits);
        self.settle(&tenant);
    }

    fn note(&mut self, heard: Heard, limits: &Limits<'_>) {
        let (process, today) = (self.process, self.day);
        match heard {
            Heard::Count { day, tenant, process: whose, amounts } => {
                let is_own = process == Some(whose);
                self.entry(&tenant, limits).tally.heard(day, whose, amounts, is_own);
            }
            Heard::Mark { counter, tenant, mark } => {
                let marks = &mut self.entry(&tenant, limits).marks;
                // What was read here and not written yet is newer.
                if marks.get(&counter).is_none_or(|known| known.is_written) {
                    marks.insert(counter, Marked { mark, is_written: true, day: today });
                }
            }
        }
    }

    /// Counts what another counter of a tenant's messages has counted since it was last read. Of one that
    /// was never read, everything counts if it has `begun_today`, and nothing otherwise.
    pub(super) fn read(
        &mut self,
        counter: &str,
        id: &TenantId,
        mark: Mark,
        begun_today: bool,
        limits: &Limits<'_>,
    ) {
        let day = self.day;
        let entry = self.entry(id, limits);
        let before = entry.marks.get(counter).map(|known| known.mark);
        let before = before.unwrap_or(if begun_today { Mark::default() } else { mark });
        let more = mark.since(before);
        entry.tally.count(day, more);
        match entry.marks.get_mut(counter) {
            Some(known) if known.mark == mark => known.day = day,
            known => {
                // One that stands at zero needs no note: nothing would be counted twice.
                let is_written = known.is_none() && mark == Mark::default();
                entry.marks.insert(counter.to_owned(), Marked { mark, is_written, day });
            }
        }
        if !more.is_zero() {
            self.settle(id);
        }
    }

    /// What is to be written now: what has changed of tenants with a daily quota, and of the others if
    /// nothing was written for as long as `slowly`. `now` is since the process began.
    pub(super) fn due(
        &mut self,
        live: HashMap<TenantId, Gauges>,
        now: Duration,
        slowly: Duration,
        limits: &Limits<'_>,
    ) -> Vec<Write> {
        let Some(process) = self.process else { return Vec::new() };
        self.drain();
        for id in live.keys() {
            self.entry(id, limits);
        }
        let due = |(id, entry): (&TenantId, &Entry)| {
            let is_time = entry.told_at.is_none_or(|told| now.saturating_sub(told) >= slowly);
            if !is_time && !entry.quotas.has_daily() {
                return None;
            }
            let gauges = live.get(id).cloned().unwrap_or_default();
            let unwritten = entry.marks.iter().filter(|(_, marked)| !marked.is_written);
            let write = Write {
                tenant: id.clone(),
                counts: entry.tally.due(process).collect(),
                marks: unwritten.map(|(counter, m)| (counter.clone(), m.mark)).collect(),
                gauges: (gauges != entry.told).then_some(gauges),
            };
            (!write.is_empty()).then_some(write)
        };
        self.tenants.iter().filter_map(due).collect()
    }

    /// Takes note of what was written.
    pub(super) fn wrote(&mut self, writes: &[Write], now: Duration) {
        let Some(process) = self.process else { return };
        for write in writes {
            let Some(entry) = self.tenants.get_mut(&write.tenant) else { continue };
            for (day, amounts) in &write.counts {
                entry.tally.wrote(*day, process, *amounts);
            }
            for (counter, mark) in &write.marks {
                if let Some(known) =
                    entry.marks.get_mut(counter).filter(|known| known.mark == *mark)
                {
                    known.is_written = true;
                }
            }
            if let Some(gauges) = &write.gauges {
                entry.told.clone_from(gauges);
            }
            entry.told_at = Some(now);
        }
    }
}

impl Entry {
    fn new(quotas: Quotas) -> Self {
        let entry = Self {
            meter: Arc::new(Meter::new()),
            seen: Amounts::default(),
            tally: Tally::default(),
            quotas,
            marks: BTreeMap::new(),
            told: Gauges::new(),
            told_at: None,
        };
        entry.meter.allow(Amounts::default().left_of(&quotas));
        entry
    }

    fn drain(&mut self, day: Day) {
        let counted = self.meter.counted();
        self.tally.count(day, counted.minus(self.seen));
        self.seen = self.seen.max(counted);
    }

    /// Lets the meter count up to what is left of the day. Says whether nothing may be published any more.
    fn settle(&self, day: Day) -> bool {
        let left = self.tally.total(day).left_of(&self.quotas);
        self.meter.allow(self.seen.plus(left));
        left.messages == 0 || left.bytes == 0
    }

    fn is_needed(&self) -> bool {
        let is_used = Arc::strong_count(&self.meter) > 1;
        is_used || !self.tally.is_empty() || !self.marks.is_empty() || !self.told.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::{Book, Gauges, Heard};
    use crate::usage::Uncounted;
    use crate::usage::store::Write;
    use bulkhead_policy::{Amounts, Day, Mark, Quotas, Resource, TenantId};
    use jiff::Timestamp;
    use std::collections::{HashMap, HashSet};
    use std::time::Duration;

    const SLOWLY: Duration = Duration::from_secs(60);

    fn noon() -> Timestamp {
        "2026-01-01T12:00:00Z".parse().unwrap()
    }

    fn today() -> Day {
        Day::of(noon())
    }

    fn tomorrow() -> Timestamp {
        "2026-01-02T00:00:00Z".parse().unwrap()
    }

    fn acme() -> TenantId {
        TenantId::parse("acme").unwrap()
    }

    /// Ten messages a day for everybody.
    fn ten(_: &TenantId) -> Quotas {
        Quotas { messages_per_day: Some(10), ..Quotas::default() }
    }

    fn unlimited(_: &TenantId) -> Quotas {
        Quotas::default()
    }

    fn count(process: u32, messages: u64) -> Heard {
        let amounts = Amounts { messages, ..Amounts::default() };
        Heard::Count { day: today(), tenant: acme(), process, amounts }
    }

    fn used(book: &mut Book) -> u64 {
        book.today().find(|(id, ..)| **id == acme()).map_or(0, |(_, amounts, _)| amounts.messages)
    }

    fn publish(book: &mut Book, times: u64) -> usize {
        let meter = book.meter(&acme(), &ten);
        let mut uncounted = Uncounted::default();
        let taken = (0..times).filter(|_| meter.publish(1, &mut uncounted).is_ok()).count();
        meter.count(&mut uncounted);
        taken
    }

    fn written(writes: &[Write]) -> Vec<(Day, u64)> {
        writes.iter().flat_map(|w| &w.counts).map(|(day, a)| (*day, a.messages)).collect()
    }

    #[test]
    fn what_others_use_is_not_left() {
        let mut book = Book::new(noon());
        assert_eq!(publish(&mut book, 2), 2);
        book.load(0, vec![count(1, 3), count(2, 1)], &ten);
        assert_eq!(used(&mut book), 6);
        book.hear(count(1, 5), &HashSet::new(), &ten);
        assert_eq!((publish(&mut book, 5), used(&mut book)), (2, 10));
        assert!(!book.exhausted().contains(&acme()), "it was not looked at since");
        book.turn(noon(), None);
        assert!(book.exhausted().contains(&acme()));
        // A quota that is raised, and one that is taken back.
        let twelve = |_: &TenantId| Quotas { messages_per_day: Some(12), ..Quotas::default() };
        book.turn(noon(), Some(&twelve));
        assert!(book.exhausted().is_empty());
        assert_eq!(publish(&mut book, 5), 2);
        book.turn(noon(), Some(&unlimited));
        assert_eq!(publish(&mut book, 5), 5);
        book.turn(noon(), Some(&ten));
        assert_eq!((publish(&mut book, 5), used(&mut book)), (0, 17));
    }

    #[test]
    fn a_number_that_another_process_had_is_gone_on_with() {
        let mut book = Book::new(noon());
        assert_eq!(publish(&mut book, 2), 2);
        // What was counted before the store was read is in no record.
        book.load(0, vec![count(0, 3)], &ten);
        assert_eq!(used(&mut book), 5);
        let writes = book.due(HashMap::new(), Duration::ZERO, SLOWLY, &ten);
        assert_eq!(written(&writes), [(today(), 5)]);
        book.wrote(&writes, Duration::ZERO);
        // The same again, after the number was lost.
        assert_eq!(publish(&mut book, 1), 1);
        book.load(7, vec![count(0, 5), count(7, 2)], &ten);
        assert_eq!(used(&mut book), 8);
        let writes = book.due(HashMap::new(), Duration::ZERO, SLOWLY, &ten);
        assert_eq!(written(&writes), [(today(), 3)]);
    }

    #[test]
    fn an_answer_that_was_lost_counts_nothing_twice() {
        let mut book = Book::new(noon());
        book.load(0, Vec::new(), &ten);
        publish(&mut book, 4);
        let writes = book.due(HashMap::new(), Duration::ZERO, SLOWLY, &ten);
        assert_eq!(written(&writes), [(today(), 4)]);
        publish(&mut book, 1);
        book.load(0, vec![count(0, 4)], &ten);
        assert_eq!(used(&mut book), 5);
    }

    #[test]
    fn a_new_day_begins_at_midnight_and_the_old_one_is_still_written() {
        let mut book = Book::new(noon());
        book.load(0, Vec::new(), &ten);
        assert_eq!(publish(&mut book, 12), 10);
        book.turn(tomorrow() - Duration::from_secs(1), None);
        assert!(book.exhausted().contains(&acme()));
        book.turn(tomorrow(), None);
        assert!(book.exhausted().is_empty());
        assert_eq!((publish(&mut book, 3), used(&mut book)), (3, 3));
        let writes = book.due(HashMap::new(), Duration::ZERO, SLOWLY, &ten);
        assert_eq!(written(&writes), [(today(), 10), (Day::of(tomorrow()), 3)]);
        // Back, and forth again.
        book.turn(noon(), None);
        assert_eq!((used(&mut book), publish(&mut book, 1)), (10, 0));
        book.turn(tomorrow(), None);
        assert_eq!((used(&mut book), publish(&mut book, 1)), (3, 1));
    }

    #[test]
    fn without_a_daily_quota_little_is_written() {
        let mut book = Book::new(noon());
        book.load(0, Vec::new(), &unlimited);
        let meter = book.meter(&acme(), &unlimited);
        let due = |book: &mut Book, seconds| {
            let mut uncounted = Uncounted::default();
            meter.publish(1, &mut uncounted).unwrap();
            meter.count(&mut uncounted);
            let now = Duration::from_secs(seconds);
            let writes = book.due(HashMap::new(), now, SLOWLY, &unlimited);
            book.wrote(&writes, now);
            written(&writes)
        };
        assert_eq!(due(&mut book, 0), [(today(), 1)]);
        assert_eq!(due(&mut book, 59), []);
        assert_eq!(due(&mut book, 60), [(today(), 3)]);
        assert_eq!(due(&mut book, 61), []);
        book.turn(noon(), Some(&ten));
        assert_eq!(due(&mut book, 62), [(today(), 5)]);
    }

    #[test]
    fn gauges_are_written_when_they_change() {
        let mut book = Book::new(noon());
        book.load(0, Vec::new(), &ten);
        let mut due = |n| {
            let gauges = (n > 0).then(|| (acme(), Gauges::from([(Resource::Connections, n)])));
            let writes = book.due(gauges.into_iter().collect(), Duration::ZERO, SLOWLY, &ten);
            book.wrote(&writes, Duration::ZERO);
            writes.into_iter().find_map(|write| write.gauges).map(|g| g.values().sum::<u64>())
        };
        assert_eq!(
            [due(2), due(2), due(3), due(0), due(0)],
            [Some(2), None, Some(3), Some(0), None]
        );
    }

    #[test]
    fn a_servers_counter_is_read_from_where_it_was_left() {
        let mark = |messages| Mark { messages, bytes: 0 };
        let mut book = Book::new(noon());
        book.load(0, Vec::new(), &ten);
        // One that has run for days has counted what is none of today's.
        book.read("old", &acme(), mark(1_000), false, &ten);
        assert_eq!(used(&mut book), 0);
        book.read("old", &acme(), mark(1_002), false, &ten);
        // One that began today has not.
        book.read("new", &acme(), mark(3), true, &ten);
        assert_eq!(used(&mut book), 5);
        // One that begins anew counts from nothing, and never takes anything back.
        book.read("old", &acme(), mark(1), false, &ten);
        assert_eq!(used(&mut book), 6);
        assert!(book.exhausted().is_empty());
        book.read("new", &acme(), mark(7), true, &ten);
        assert!(book.exhausted().contains(&acme()));
        // Whoever reads it next goes on there.
        let writes = book.due(HashMap::new(), Duration::ZERO, SLOWLY, &ten);
        let marks: HashMap<_, _> = writes.iter().flat_map(|w| w.marks.clone()).collect();
        assert_eq!(
            marks,
            HashMap::from([("old".to_owned(), mark(1)), ("new".to_owned(), mark(7))])
        );
        let mut next = Book::new(noon());
        let heard = |(counter, mark)| Heard::Mark { counter, tenant: acme(), mark };
        next.load(1, marks.into_iter().map(heard).chain([count(0, 10)]).collect(), &ten);
        next.read("new", &acme(), mark(8), true, &ten);
        assert_eq!(used(&mut next), 11);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let mut book = Book::new(noon());
        book.load(0, Vec::new(), &ten);
        drop(book.meter(&acme(), &ten));
        let held = book.meter(&TenantId::parse("globex").unwrap(), &ten);
        assert_eq!(book.today().count(), 2);
        book.turn(tomorrow(), None);
        assert_eq!(book.today().count(), 1);
        drop(held);
    }
}
