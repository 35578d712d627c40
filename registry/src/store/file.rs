use super::{Lease, Outlook, Remembered, StoreError, Stored};
use crate::presence::{Document, Write};
use bulkhead_policy::{DeviceId, TenantId};
use jiff::{SignedDuration, Timestamp};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Tenant and device → document of who is present.
const PRESENT: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("present");

/// Tenant and device → what is remembered.
const REMEMBERED: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("remembered");

/// Tenant → when the one was created whose devices these are.
const TENANTS: TableDefinition<'_, &str, &str> = TableDefinition::new("tenants");

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
        write.open_table(TENANTS).map_err(|error| named(&error))?;
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
            for entry in table.range(whole(&tenant)).map_err(failed)? {
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
        let tenant = tenant.clone();
        self.run(move |database| {
            let write = database.begin_write().map_err(failed)?;
            forget(&write, &tenant)?;
            write.commit().map_err(failed)
        })
        .await
    }

    pub(super) async fn enter(
        &self,
        tenant: &TenantId,
        created: Timestamp,
    ) -> Result<(), StoreError> {
        let (tenant, created) = (tenant.clone(), created.to_string());
        self.run(move |database| {
            let write = database.begin_write().map_err(failed)?;
            let known = {
                let tenants = write.open_table(TENANTS).map_err(failed)?;
                let known = tenants.get(tenant.as_str()).map_err(failed)?;
                known.map(|known| known.value().to_owned())
            };
            if known.is_some_and(|known| known != created) {
                forget(&write, &tenant)?;
            }
            let mut tenants = write.open_table(TENANTS).map_err(failed)?;
            tenants.insert(tenant.as_str(), created.as_str()).map_err(failed)?;
            drop(tenants);
            write.commit().map_err(failed)
        })
        .await
    }

    pub(super) async fn tenants(&self) -> Result<Vec<TenantId>, StoreError> {
        self.run(|database| {
            let read = database.begin_read().map_err(failed)?;
            let table = read.open_table(TENANTS).map_err(failed)?;
            let mut all = Vec::new();
            for entry in table.range::<&str>(..).map_err(failed)? {
                all.extend(TenantId::parse(entry.map_err(failed)?.0.value()).ok());
            }
            Ok(all)
        })
        .await
    }

    pub(super) async fn tidy(
        &self,
        tenant: &TenantId,
        present: HashSet<DeviceId>,
    ) -> Result<usize, StoreError> {
        let (tenant, keep) = (tenant.clone(), self.remember);
        self.run(move |database| {
            let write = database.begin_write().map_err(failed)?;
            let mut removed = 0;
            {
                let mut remembered = write.open_table(REMEMBERED).map_err(failed)?;
                let mut renewed = Vec::new();
                remembered
                    .retain_in(whole(&tenant), |key, value| {
                        let name = key.1;
                        match Remembered::outlook(value, keep, present.contains(name)) {
                            Outlook::Stays => true,
                            Outlook::Renewed(text) => {
                                renewed.push((name.to_owned(), text));
                                true
                            }
                            Outlook::Over => {
                                removed += 1;
                                false
                            }
                        }
                    })
                    .map_err(failed)?;
                for (name, text) in renewed {
                    let key = (tenant.as_str(), name.as_str());
                    remembered.insert(key, text.as_bytes()).map_err(failed)?;
                }
            }
            write.commit().map_err(failed)?;
            Ok(removed)
        })
        .await
    }
}

/// Every key of a tenant.
fn whole(tenant: &TenantId) -> std::ops::Range<(&str, &str)> {
    (tenant.as_str(), "")..(tenant.as_str(), END)
}

fn forget(write: &WriteTransaction, tenant: &TenantId) -> Result<(), StoreError> {
    for table in [PRESENT, REMEMBERED] {
        let mut table = write.open_table(table).map_err(failed)?;
        table.retain_in(whole(tenant), |_, _| false).map_err(failed)?;
    }
    let mut tenants = write.open_table(TENANTS).map_err(failed)?;
    tenants.remove(tenant.as_str()).map_err(failed)?;
    Ok(())
}
