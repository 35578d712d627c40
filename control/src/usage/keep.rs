//! Adding up, and telling other processes.

use super::Usage;
use super::store::{About, Heard, Store, UsageError};
use crate::config::Config;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often is added up at the least, which is how late a new day begins.
const TICK: Duration = Duration::from_secs(1);

/// How many intervals what has no daily quota waits to be told.
const SLOWLY: u32 = 12;

/// First and longest pause between attempts to reach the store.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// How often everything is read again, whatever was told: a watch that has gone silent tells nobody.
const REREAD: Duration = Duration::from_secs(300);

/// How long the last telling may take.
const FAREWELL: Duration = Duration::from_secs(2);

impl Usage {
    /// Adds up from now on. Says whether nobody did before.
    pub(crate) fn keep(
        &self,
        config: &Config,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> bool {
        if self.shared.is_kept.swap(true, Ordering::AcqRel) {
            return false;
        }
        let interval = self.shared.interval;
        let (usage, until) = (self.clone(), stop.clone());
        tasks.spawn(async move { until.run_until_cancelled(usage.add_up(interval)).await });
        if let Some(store) = Store::of(&config.directory, &config.usage) {
            tasks.spawn(self.clone().tell_others(store, interval, stop.clone()));
        }
        true
    }

    /// Waits for nothing but time and the directory, so that quotas act whatever the store does.
    async fn add_up(self, interval: Duration) {
        let mut directory = self.shared.directory.changes();
        let mut defaults = self.shared.defaults_changes.subscribe();
        loop {
            self.book().turn(self.now(), Some(&|id| self.limits(id)));
            self.tell();
            loop {
                tokio::select! {
                    changed = directory.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        directory.mark_unchanged();
                        break;
                    }
                    changed = defaults.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        break;
                    }
                    () = tokio::time::sleep(TICK.min(interval)) => {
                        self.book().turn(self.now(), None);
                        self.tell();
                    }
                }
            }
        }
    }

    async fn tell_others(self, mut store: Store, interval: Duration, stop: CancellationToken) {
        let mut pause = BACKOFF.0;
        loop {
            let began = Instant::now();
            let session = self.session(&mut store, interval);
            let Some(outcome) = stop.run_until_cancelled(session).await else { break };
            let Err(error) = outcome else { continue };
            tracing::warn!(%error, "what tenants use is counted here alone for now");
            self.shared.metrics.usage_errors.inc();
            if began.elapsed() > BACKOFF.1 {
                pause = BACKOFF.0;
            }
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
        // What is left is told, so that whoever goes on knows.
        let _ = tokio::time::timeout(FAREWELL, self.flush(&mut store, Duration::ZERO)).await;
        store.close().await;
    }

    /// Exchanges with others until it is time to read everything again.
    async fn session(&self, store: &mut Store, interval: Duration) -> Result<(), UsageError> {
        let today = self.book().day();
        let (process, heard) = store.open(today).await?;
        self.book().load(process, heard, &|id| self.limits(id));
        self.tell();
        if !self.shared.is_known.swap(true, Ordering::AcqRel) {
            tracing::info!(process, "what tenants have used today is known");
        }
        let mut flush = tokio::time::interval(interval);
        flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let reread = tokio::time::Instant::now() + REREAD;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(reread) => return Ok(()),
                next = store.next() => {
                    let heard = match next? {
                        Some(heard) => heard,
                        None => store.others().await?,
                    };
                    self.take(heard);
                }
                _ = flush.tick() => {
                    self.flush(store, interval * SLOWLY).await?;
                    self.shared.metrics.usage_told.set(jiff::Timestamp::now().as_second());
                }
            }
        }
    }

    fn take(&self, heard: Vec<Heard>) {
        let reads = self.counters().1.clone();
        let mut book = self.book();
        for one in heard {
            book.hear(one, &reads, &|id| self.limits(id));
        }
        drop(book);
        self.tell();
    }

    async fn flush(&self, store: &mut Store, slowly: Duration) -> Result<(), UsageError> {
        let (live, resources) = self.live();
        let now = self.shared.started.elapsed();
        let (today, mut writes) = {
            let mut book = self.book();
            (book.day(), book.due(live, now, slowly, &|id| self.limits(id)))
        };
        // Of a tenant that the directory does not know nothing is kept but that it has nothing here.
        let directory = self.shared.directory.snapshot();
        writes.retain_mut(|write| {
            if directory.get(&write.tenant).is_none() {
                write.counts.clear();
                write.marks.clear();
                write.gauges = write.gauges.take().filter(BTreeMap::is_empty);
            }
            !write.is_empty()
        });
        let counters = self.counters().0.iter().cloned().collect();
        let reads = store.write(About::of(resources), &writes, counters, today).await?;
        self.counters().1 = reads;
        self.book().wrote(&writes, now);
        Ok(())
    }
}
