use super::entry::{Meta, StoredMessage};
use super::{QUEUE, RECEIVED, RETAINED, SESSIONS, SUBSCRIPTIONS, TENANTS};
use bulkhead_policy::TenantId;
use bytes::Bytes;
use jiff::Timestamp;
use redb::{Database, ReadableDatabase, ReadableTable};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What a store holds.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// Sessions by number.
    pub(crate) sessions: BTreeMap<u64, RestoredSession>,
    /// Whose (nobody's for services), and the record.
    pub(crate) retained: Vec<(Option<TenantId>, Bytes)>,
    /// When tenants were created, where that is known.
    pub(crate) tenants: HashMap<TenantId, Timestamp>,
    /// The first number that no session has had.
    pub(super) next_session: u64,
}

/// A session in it.
#[derive(Debug)]
pub(crate) struct RestoredSession {
    /// Whose; nobody's for services.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) meta: Meta,
    /// Filter, options, identifier.
    pub(crate) subscriptions: Vec<(String, u8, Option<u32>)>,
    /// By number.
    pub(crate) messages: Vec<(u64, StoredMessage)>,
    /// Packet ids.
    pub(crate) received: Vec<u16>,
}

/// Removes what was written for a session after it was forgotten: its number may be given again.
fn remove_orphans(database: &Database) -> Result<(), redb::Error> {
    let writing = database.begin_write()?;
    {
        let sessions = writing.open_table(SESSIONS)?;
        let known: HashSet<u64> = sessions
            .iter()?
            .map(|entry| Ok(entry?.0.value()))
            .collect::<Result<_, redb::Error>>()?;
        writing.open_table(SUBSCRIPTIONS)?.retain(|(id, _), _| known.contains(&id))?;
        writing.open_table(QUEUE)?.retain(|(id, _), _| known.contains(&id))?;
        writing.open_table(RECEIVED)?.retain(|(id, _), ()| known.contains(&id))?;
    }
    writing.commit()?;
    Ok(())
}

pub(super) fn read(database: &Database) -> Result<Restored, redb::Error> {
    // Tables that are not there yet are made, so that reading finds them.
    let writing = database.begin_write()?;
    writing.open_table(SESSIONS)?;
    writing.open_table(SUBSCRIPTIONS)?;
    writing.open_table(QUEUE)?;
    writing.open_table(RECEIVED)?;
    writing.open_table(RETAINED)?;
    writing.open_table(TENANTS)?;
    writing.commit()?;
    remove_orphans(database)?;

    let reading = database.begin_read()?;
    let mut restored = Restored { next_session: 1, ..Restored::default() };
    for entry in reading.open_table(SESSIONS)?.iter()? {
        let (id, meta) = entry?;
        restored.next_session = restored.next_session.max(id.value() + 1);
        let Some(meta) = Meta::read(meta.value()) else {
            return Err(redb::Error::Corrupted("a session cannot be read".to_owned()));
        };
        let session = RestoredSession {
            tenant: tenant(&meta.tenant)?,
            meta,
            subscriptions: Vec::new(),
            messages: Vec::new(),
            received: Vec::new(),
        };
        restored.sessions.insert(id.value(), session);
    }
    for entry in reading.open_table(SUBSCRIPTIONS)?.iter()? {
        let (key, value) = entry?;
        let ((id, filter), (options, identifier)) = (key.value(), value.value());
        if let Some(session) = restored.sessions.get_mut(&id) {
            let identifier = (identifier != 0).then_some(identifier);
            session.subscriptions.push((filter.to_owned(), options, identifier));
        }
    }
    for entry in reading.open_table(QUEUE)?.iter()? {
        let (key, value) = entry?;
        let (id, number) = key.value();
        let Some(message) = StoredMessage::read(value.value()) else {
            return Err(redb::Error::Corrupted("a message cannot be read".to_owned()));
        };
        if let Some(session) = restored.sessions.get_mut(&id) {
            session.messages.push((number, message));
        }
    }
    for entry in reading.open_table(RECEIVED)?.iter()? {
        let (key, _) = entry?;
        let (id, packet_id) = key.value();
        if let Some(session) = restored.sessions.get_mut(&id) {
            session.received.push(packet_id);
        }
    }
    for entry in reading.open_table(RETAINED)?.iter()? {
        let (key, record) = entry?;
        let (name, _) = key.value();
        restored.retained.push((tenant(name)?, Bytes::copy_from_slice(record.value())));
    }
    for entry in reading.open_table(TENANTS)?.iter()? {
        let (name, created) = entry?;
        if let (Some(tenant), Ok(created)) = (tenant(name.value())?, created.value().parse()) {
            restored.tenants.insert(tenant, created);
        }
    }
    Ok(restored)
}

/// The tenant of this name, which is empty for services.
fn tenant(name: &str) -> Result<Option<TenantId>, redb::Error> {
    if name.is_empty() {
        return Ok(None);
    }
    let tenant = TenantId::parse(name);
    let wrong =
        |_| redb::Error::Corrupted(format!("it has data of {name:?}, which names no tenant"));
    tenant.map(Some).map_err(wrong)
}
