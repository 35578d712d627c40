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

    /// Takes over everything that the store has, in the place of what was known of it. From now on this
    /// process writes under `process`.
    pub(super) fn load(&mut self, process: u32, heard: Vec<Heard>, limits: &Limits<'_>) {
        if self.process != Some(process) {
            self.process = Some(process);
            self.tenants.values_mut().for_each(|entry| entry.told = Gauges::new());
        }
        self.tenants.values_mut().for_each(|entry| entry.told_at = None);
        for one in heard {
            self.note(one, limits);
        }
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
