//! What survives a restart: sessions that outlive their connection, with their subscriptions, what
//! waits for them and how far messages of QoS 2 are; and retained messages. Wills do not survive.
//!
//! ```text
//!  realm, session ──Step──▶ writer thread ──one transaction for all that came meanwhile──▶ redb
//!                                └──After──▶ acknowledgements, once they are true
//! ```
//!
//! Steps are taken in the order in which they were given, and what is to happen *after* is done when
//! everything given before is on disk. So an acknowledgement is only ever sent for what is.

mod entry;
mod load;
mod writer;

pub(crate) use entry::{Meta, Stage, StoredMessage};
pub(crate) use load::{Restored, RestoredSession};

use crate::bus::Lane;
use crate::realm::Session;
use bytes::Bytes;
use jiff::Timestamp;
use redb::{Database, TableDefinition};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::Notify;

/// The database's file in the data folder.
const FILE: &str = "mqtt.redb";

/// Session number → [`Meta`].
const SESSIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("sessions");

/// Session number, filter → options and identifier.
const SUBSCRIPTIONS: TableDefinition<'_, (u64, &str), (u8, u32)> =
    TableDefinition::new("subscriptions");

/// Session number, number in its queue → [`StoredMessage`].
const QUEUE: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("queue");

/// Session number, packet id: messages of QoS 2 that a client has not released.
const RECEIVED: TableDefinition<'_, (u64, u16), ()> = TableDefinition::new("received");

/// Tenant (empty for services), topic → record.
const RETAINED: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("retained");

/// Tenant → when it was created, as text, where that is known.
const TENANTS: TableDefinition<'_, &str, &str> = TableDefinition::new("tenants");

/// Steps that may wait for the disk before clients have to.
const MAX_BACKLOG: usize = 65_536;

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The folder or the file.
    #[error("mqtt.data: {}: {cause}; check the path, its permissions, and that no other broker uses it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// What is in it.
    #[error("mqtt.data: {}: {cause}; restore it from a copy, or move it away to begin anew", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
}

/// The way to the disk. Cloning shares it.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    steps: Sender<Step>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
    next_session: Arc<AtomicU64>,
    backlog: Arc<Backlog>,
}

/// What was given and is not on disk.
#[derive(Debug, Default)]
struct Backlog {
    steps: AtomicUsize,
    written: Notify,
}

/// A session's part of the store.
#[derive(Clone, Debug)]
pub(crate) struct SessionStore {
    store: Store,
    /// Its number, never used again.
    pub(crate) id: u64,
}

/// Things to write in one transaction.
#[derive(Debug, Default)]
pub(crate) struct Steps(Vec<Step>);

/// One thing to write, or to do when everything before is written.
#[derive(Debug)]
enum Step {
    Put(Key, Value),
    Remove(Key),
    /// A session and all that belongs to it.
    Forget(u64),
    After(After),
    /// These, in one transaction.
    All(Vec<Step>),
    /// Everything is written; the thread ends.
    End,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Session(u64),
    Subscription(u64, Box<str>),
    Message(u64, u64),
    Received(u64, u16),
    Retained(Box<str>, Box<str>),
    Tenant(Box<str>),
}

#[derive(Debug)]
enum Value {
    Bytes(Bytes),
    Subscription(u8, u32),
    Nothing,
}

/// What happens when everything before is on disk.
pub(crate) enum After {
    /// A connection hears something, if it still has the session.
    Say {
        /// The session.
        session: Arc<Session>,
        /// Its connection.
        generation: u64,
        /// Whole packets.
        packets: Vec<u8>,
        /// How many of its QoS 1 publishes that acknowledges.
        acknowledged: u16,
    },
    /// A tenant may publish more.
    Room {
        /// Its lane.
        lane: Arc<Lane>,
        /// The bytes that were routed.
        bytes: usize,
    },
}

impl Store {
    /// Opens the store in a folder, which is made if it is missing, and reads what is in it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn open(folder: &Path) -> Result<(Self, Restored), StoreError> {
        let path = folder.join(FILE);
        let failed = |cause: String| StoreError::Open { path: path.clone(), cause };
        bulkhead_control::files::create_private_folder(folder)
            .map_err(|cause| failed(cause.to_string()))?;
        let database = Database::create(&path).map_err(|cause| failed(cause.to_string()))?;
        let restored = load::read(&database).map_err(|cause| StoreError::Content {
            path: path.clone(),
            cause: cause.to_string(),
        })?;
        let (steps, received) = channel();
        let backlog = Arc::new(Backlog::default());
        let thread = std::thread::Builder::new()
            .name("mqtt-store".to_owned())
            .spawn({
                let backlog = Arc::clone(&backlog);
                move || writer::run(&database, &received, &backlog)
            })
            .map_err(|cause| failed(cause.to_string()))?;
        let store = Self {
            steps,
            writer: Arc::new(Mutex::new(Some(thread))),
            next_session: Arc::new(AtomicU64::new(restored.next_session)),
            backlog,
        };
        Ok((store, restored))
    }

    /// Begins to keep a session.
    pub(crate) fn session(&self) -> SessionStore {
        self.known_session(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    /// A session that is kept already.
    pub(crate) fn known_session(&self, id: u64) -> SessionStore {
        SessionStore { store: self.clone(), id }
    }

    /// Takes steps, to be written in one transaction.
    pub(crate) fn take(&self, steps: Steps) {
        if !steps.0.is_empty() {
            self.give(Step::All(steps.0));
        }
    }

    /// Writes what was given, and ends.
    pub(crate) fn close(&self) {
        self.give(Step::End);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A panicked writer has nothing more to write.
            let _ = writer.join();
        }
    }

    /// A writer that has ended takes nothing: the process ends too.
    fn give(&self, step: Step) {
        self.backlog.steps.fetch_add(1, Ordering::Relaxed);
        let _ = self.steps.send(step);
    }

    /// Whether so much waits for the disk that clients should wait too.
    pub(crate) fn is_behind(&self) -> bool {
        self.backlog.steps.load(Ordering::Relaxed) > MAX_BACKLOG
    }

    /// Waits until it is not.
    pub(crate) async fn caught_up(&self) {
        loop {
            let written = self.backlog.written.notified();
            if !self.is_behind() {
                return;
            }
            written.await;
        }
    }
}

impl Steps {
    /// Keeps a retained message.
    pub(crate) fn retain(&mut self, tenant: &str, topic: &str, record: Bytes) {
        self.0.push(Step::Put(Key::Retained(tenant.into(), topic.into()), Value::Bytes(record)));
    }

    /// Forgets one.
    pub(crate) fn release(&mut self, tenant: &str, topic: &str) {
        self.0.push(Step::Remove(Key::Retained(tenant.into(), topic.into())));
    }

    /// Keeps when the tenant was created that everything else under this name belongs to; or that
    /// nobody knows.
    pub(crate) fn tenant(&mut self, name: &str, created: Option<Timestamp>) {
        let key = Key::Tenant(name.into());
        self.0.push(match created {
            Some(created) => Step::Put(key, Value::Bytes(created.to_string().into())),
            None => Step::Remove(key),
        });
    }

    /// Does something when everything before is on disk.
    pub(crate) fn after(&mut self, after: After) {
        self.0.push(Step::After(after));
    }

    fn put(&mut self, key: Key, value: Value) {
        self.0.push(Step::Put(key, value));
    }

    fn remove(&mut self, key: Key) {
        self.0.push(Step::Remove(key));
    }
}

impl SessionStore {
    /// Writes whose session it is and how long it lives.
    pub(crate) fn put_meta(&self, steps: &mut Steps, meta: &Meta) {
        steps.put(Key::Session(self.id), Value::Bytes(meta.to_bytes()));
    }

    /// Keeps a subscription.
    pub(crate) fn subscribe(
        &self,
        steps: &mut Steps,
        filter: &str,
        options: u8,
        identifier: Option<u32>,
    ) {
        let value = Value::Subscription(options, identifier.unwrap_or(0));
        steps.put(Key::Subscription(self.id, filter.into()), value);
    }

    /// Forgets one.
    pub(crate) fn unsubscribe(&self, steps: &mut Steps, filter: &str) {
        steps.remove(Key::Subscription(self.id, filter.into()));
    }

    /// Keeps a message, in the place of what is kept under its number.
    pub(crate) fn put(&self, steps: &mut Steps, number: u64, message: &StoredMessage) {
        steps.put(Key::Message(self.id, number), Value::Bytes(message.to_bytes()));
    }

    /// Forgets a message.
    pub(crate) fn remove(&self, steps: &mut Steps, number: u64) {
        steps.remove(Key::Message(self.id, number));
    }

    /// Keeps the packet id of a message of QoS 2 that the client has not released.
    pub(crate) fn received(&self, steps: &mut Steps, packet_id: u16) {
        steps.put(Key::Received(self.id, packet_id), Value::Nothing);
    }

    /// Forgets it.
    pub(crate) fn released(&self, steps: &mut Steps, packet_id: u16) {
        steps.remove(Key::Received(self.id, packet_id));
    }

    /// Forgets the session and all that belongs to it.
    pub(crate) fn forget(&self, steps: &mut Steps) {
        steps.0.push(Step::Forget(self.id));
    }

    /// Takes steps, to be written in one transaction.
    pub(crate) fn take(&self, steps: Steps) {
        self.store.take(steps);
    }
}

impl After {
    fn happen(self) {
        match self {
            Self::Say { session, generation, packets, acknowledged } => {
                let mut state = session.lock();
                if state.generation != generation {
                    // Whoever has the session now is told anew.
                    return;
                }
                let Some(link) = &mut state.link else { return };
                link.out.extend_from_slice(&packets);
                link.unacknowledged = link.unacknowledged.saturating_sub(acknowledged);
                drop(state);
                session.wake.notify_one();
            }
            Self::Room { lane, bytes } => lane.routed(bytes),
        }
    }
}

impl std::fmt::Debug for After {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Say { .. } => "Say",
            Self::Room { .. } => "Room",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{RETAINED, Store};
    use redb::Database;

    #[test]
    fn data_of_what_is_no_tenant_is_an_error_that_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mqtt.redb");
        let database = Database::create(&file).unwrap();
        let writing = database.begin_write().unwrap();
        let record: &[u8] = b"x";
        writing.open_table(RETAINED).unwrap().insert(("../globex", "topic"), record).unwrap();
        writing.commit().unwrap();
        drop(database);
        let told = Store::open(folder.path()).unwrap_err().to_string();
        for part in ["mqtt.data", &file.display().to_string(), "../globex", "move it away"] {
            assert!(told.contains(part), "{part} is in {told}");
        }
    }
}
