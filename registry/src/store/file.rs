use super::{Lease, Remembered, Store, StoreError, Stored};
use crate::presence::{Document, Write};
use bulkhead_policy::{DeviceId, TenantId};
use jiff::{SignedDuration, Timestamp};
use redb::{Database, ReadableDatabase, TableDefinition};
use std::path::Path;
use std::sync::Arc;

/// Tenant and device → document of who is present.
const PRESENT: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("present");

/// Tenant and device → what is remembered.
const REMEMBERED: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("remembered");

/// After every id: they are ASCII.
const END: &str = "\u{7f}";

/// A store in a file of this process alone. Who was present is so after a restart, and has its time to
/// live from then on.
pub(crate) struct FileStore {
    database: Arc<Database>,
    remember: SignedDuration,
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::File(format!("registry.store.file: {error}"))
}

impl FileStore {
    pub(super) fn open(path: &Path, remember: SignedDuration) -> Result<Self, StoreError> {
        let named = |error: &dyn std::fmt::Display| {
            failed(format!(
                "{}: {error}; check the path, and that no other process has it open",
                path.display()
            ))
        };
        let database = Database::create(path).map_err(|error| named(&error))?;
        let write = database.begin_write().map_err(|error| named(&error))?;
        write.open_table(PRESENT).map_err(|error| named(&error))?;
        write.open_table(REMEMBERED).map_err(|error| named(&error))?;
        write.commit().map_err(|error| named(&error))?;
        Ok(Self { database: Arc::new(database), remember })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.database);
        tokio::task::spawn_blocking(move || work(&database)).await.map_err(failed)?
    }

    pub(super) async fn load(&self, tenant: &TenantId) -> Result<Vec<Stored>, StoreError> {
        let tenant = tenant.clone();
        self.run(move |database| {
            let read = database.begin_read().map_err(failed)?;
            let table = read.open_table(PRESENT).map_err(failed)?;
            let mut found = Vec::new();
            for entry in
                table.range((tenant.as_str(), "")..(tenant.as_str(), END)).map_err(failed)?
            {
                let (key, value) = entry.map_err(failed)?;
                let device = DeviceId::parse(key.value().1);
                if let (Ok(device), Some(document)) = (device, Document::parse(value.value())) {
                    found.push(Stored { device, document, lease: None });
                }
            }
            Ok(found)
        })
        .await
    }

    pub(super) async fn commit(
        &self,
        tenant: &TenantId,
        writes: &[Write],
    ) -> Result<Vec<Option<Arc<Lease>>>, StoreError> {
        let (tenant, writes) = (tenant.clone(), writes.to_vec());
        let leases = vec![None; writes.len()];
        self.run(move |database| {
            let write = database.begin_write().map_err(failed)?;
            {
                let mut present = write.open_table(PRESENT).map_err(failed)?;
                let mut remembered = write.open_table(REMEMBERED).map_err(failed)?;
                for one in &writes {
                    let key = (tenant.as_str(), one.device.as_str());
                    match &one.document {
                        Some(document) => {
                            present.insert(key, document.as_bytes()).map_err(failed)?;
                        }
                        None => {
                            present.remove(key).map_err(failed)?;
                        }
                    }
                    let text = one.remember.as_deref();
                    if let Some(text) = text.and_then(|t| Remembered::write(t, Timestamp::now())) {
                        remembered.insert(key, text.as_bytes()).map_err(failed)?;
                    }
                }
            }
            write.commit().map_err(failed)
        })
        .await?;
        Ok(leases)
    }

    pub(super) async fn remembered(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
    ) -> Result<Option<Document>, StoreError> {
        let (tenant, device, keep) = (tenant.clone(), device.clone(), self.remember);
        self.run(move |database| {
            let read = database.begin_read().map_err(failed)?;
            let table = read.open_table(REMEMBERED).map_err(failed)?;
            let found = table.get((tenant.as_str(), device.as_str())).map_err(failed)?;
            Ok(found.and_then(|text| Remembered::read(text.value(), keep)))
        })
        .await
    }

    pub(super) async fn forget(&self, tenant: &TenantId) -> Result<(), StoreError> {
        self.remove_where(tenant, true, |_| true).await.map(drop)
    }

    pub(super) async fn tidy(&self, tenant: &TenantId) -> Result<usize, StoreError> {
        let keep = self.remember;
        self.remove_where(tenant, false, move |text| Remembered::read(text, keep).is_none()).await
    }

    async fn remove_where(
        &self,
        tenant: &TenantId,
        present_too: bool,
        is_over: impl Fn(&[u8]) -> bool + Send + 'static,
    ) -> Result<usize, StoreError> {
        let tenant = tenant.clone();
        self.run(move |database| {
            let write = database.begin_write().map_err(failed)?;
            let mut removed = 0;
            {
                let whole = (tenant.as_str(), "")..(tenant.as_str(), END);
                let mut remembered = write.open_table(REMEMBERED).map_err(failed)?;
                remembered
                    .retain_in(whole.clone(), |_, value| {
                        let over = is_over(value);
                        removed += usize::from(over);
                        !over
                    })
                    .map_err(failed)?;
                if present_too {
                    let mut present = write.open_table(PRESENT).map_err(failed)?;
                    present.retain_in(whole, |_, _| false).map_err(failed)?;
                }
            }
            write.commit().map_err(failed)?;
            Ok(removed)
        })
        .await
    }
}

impl From<FileStore> for Store {
    fn from(file: FileStore) -> Self {
        Self::File(file)
    }
}
