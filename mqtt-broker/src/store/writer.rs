use super::{
    After, Backlog, Key, QUEUE, RECEIVED, RETAINED, SESSIONS, SUBSCRIPTIONS, Step, TENANTS, Value,
};
use redb::{Database, Table, WriteTransaction};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Steps of one transaction.
const MAX_STEPS: usize = 65_536;

/// Pause before a transaction that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What one transaction changes.
#[derive(Default)]
struct Changes {
    /// The last word on each key; `None` removes it.
    keys: HashMap<Key, Option<Value>>,
    forgotten: Vec<u64>,
}

/// Writes until it is told to end.
pub(super) fn run(database: &Database, steps: &Receiver<Step>, backlog: &Backlog) {
    while let Ok(first) = steps.recv() {
        let mut changes = Changes::default();
        let mut afterwards = Vec::new();
        let mut ends = changes.take(first, &mut afterwards);
        let mut taken = 1;
        for _ in 0..MAX_STEPS {
            match steps.try_recv() {
                Ok(step) if !ends => {
                    ends = changes.take(step, &mut afterwards);
                    taken += 1;
                }
                _ => break,
            }
        }
        // Nothing is acknowledged, and nobody gets more room, until it is written.
        while !changes.is_empty()
            && let Err(error) = changes.write(database)
        {
            tracing::error!(%error, "the store cannot be written; publishers wait");
            std::thread::sleep(RETRY);
        }
        afterwards.into_iter().for_each(After::happen);
        backlog.steps.fetch_sub(taken, Ordering::Relaxed);
        backlog.written.notify_waiters();
        if ends {
            return;
        }
    }
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.forgotten.is_empty()
    }

    /// Takes a step in. Says whether it was the last.
    fn take(&mut self, step: Step, afterwards: &mut Vec<After>) -> bool {
        match step {
            Step::Put(key, value) => {
                self.keys.insert(key, Some(value));
            }
            Step::Remove(key) => {
                self.keys.insert(key, None);
            }
            Step::Forget(session) => {
                self.keys.retain(|key, _| key.session() != Some(session));
                self.forgotten.push(session);
            }
            Step::After(after) => afterwards.push(after),
            Step::All(steps) => {
                let mut ends = false;
                for step in steps {
                    ends |= self.take(step, afterwards);
                }
                return ends;
            }
            Step::End => return true,
        }
        false
    }

    fn write(&self, database: &Database) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        Tables::open(&transaction)?.apply(self)?;
        transaction.commit()?;
        Ok(())
    }
}

struct Tables<'a> {
    sessions: Table<'a, u64, &'static [u8]>,
    subscriptions: Table<'a, (u64, &'static str), (u8, u32)>,
    queue: Table<'a, (u64, u64), &'static [u8]>,
    received: Table<'a, (u64, u16), ()>,
    retained: Table<'a, (&'static str, &'static str), &'static [u8]>,
    tenants: Table<'a, &'static str, &'static str>,
}

impl<'a> Tables<'a> {
    fn open(transaction: &'a WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            sessions: transaction.open_table(SESSIONS)?,
            subscriptions: transaction.open_table(SUBSCRIPTIONS)?,
            queue: transaction.open_table(QUEUE)?,
            received: transaction.open_table(RECEIVED)?,
            retained: transaction.open_table(RETAINED)?,
            tenants: transaction.open_table(TENANTS)?,
        })
    }

    fn apply(mut self, changes: &Changes) -> Result<(), redb::Error> {
        for session in &changes.forgotten {
            self.forget(*session)?;
        }
        for (key, value) in &changes.keys {
            match value {
                Some(value) => self.put(key, value)?,
                None => self.remove(key)?,
            }
        }
        Ok(())
    }

    fn put(&mut self, key: &Key, value: &Value) -> Result<(), redb::Error> {
        match (key, value) {
            (Key::Session(id), Value::Bytes(meta)) => {
                self.sessions.insert(id, meta.as_ref())?;
            }
            (Key::Subscription(id, filter), Value::Subscription(options, identifier)) => {
                self.subscriptions.insert((*id, &**filter), (*options, *identifier))?;
            }
            (Key::Message(id, number), Value::Bytes(message)) => {
                self.queue.insert((*id, *number), message.as_ref())?;
            }
            (Key::Received(id, packet), _) => {
                self.received.insert((*id, *packet), ())?;
            }
            (Key::Retained(tenant, topic), Value::Bytes(record)) => {
                self.retained.insert((&**tenant, &**topic), record.as_ref())?;
            }
            (Key::Tenant(name), Value::Bytes(created)) => {
                let created = std::str::from_utf8(created).unwrap_or_default();
                self.tenants.insert(&**name, created)?;
            }
            // No step is made of these.
            _ => {}
        }
        Ok(())
    }

    fn remove(&mut self, key: &Key) -> Result<(), redb::Error> {
        match key {
            Key::Session(id) => drop(self.sessions.remove(id)?),
            Key::Subscription(id, filter) => drop(self.subscriptions.remove((*id, &**filter))?),
            Key::Message(id, number) => drop(self.queue.remove((*id, *number))?),
            Key::Received(id, packet) => drop(self.received.remove((*id, *packet))?),
            Key::Retained(tenant, topic) => drop(self.retained.remove((&**tenant, &**topic))?),
            Key::Tenant(name) => drop(self.tenants.remove(&**name)?),
        }
        Ok(())
    }

    fn forget(&mut self, id: u64) -> Result<(), redb::Error> {
        self.sessions.remove(id)?;
        self.subscriptions.retain_in((id, "")..(id + 1, ""), |_, _| false)?;
        self.queue.retain_in((id, 0)..=(id, u64::MAX), |_, _| false)?;
        self.received.retain_in((id, 0)..=(id, u16::MAX), |_, ()| false)?;
        Ok(())
    }
}

impl Key {
    fn session(&self) -> Option<u64> {
        match self {
            Self::Session(id)
            | Self::Subscription(id, _)
            | Self::Message(id, _)
            | Self::Received(id, _) => Some(*id),
            Self::Retained(..) | Self::Tenant(_) => None,
        }
    }
}
