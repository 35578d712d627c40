//! Changing the directory, with or without a running service.

use super::document::{self, Document, DocumentError};
use super::etcd::{self, PREFIX};
use crate::config::{DirectoryConfig, Source};
use crate::files;
use bulkhead_policy::{Tenant, TenantId};
use etcd_client::{Client, Compare, CompareOp, GetOptions, Txn, TxnOp};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, Item, Table, TableLike};

/// The file's one top-level table.
const TENANTS: &str = "tenants";

/// Attempts at a change that others get in the way of.
const ATTEMPTS: usize = 16;

/// Where the directory is kept, for changing it. Each change is one step: concurrent ones follow each
/// other, and a reader sees none of them half done.
#[derive(Clone)]
pub struct Store {
    kept: Kept,
}

#[derive(Clone)]
enum Kept {
    File(PathBuf),
    Etcd(Box<Client>),
}

/// Why the directory cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file.
    #[error("{0}; check the path and its permissions")]
    File(#[from] io::Error),
    /// The file's content.
    #[error("{}: {cause}", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: DocumentError,
    },
    /// etcd.
    #[error("etcd: {0}; check directory.etcd and that it is running")]
    Etcd(#[from] etcd_client::Error),
    /// What etcd holds under a tenant's key.
    #[error("etcd holds something else than a tenant under {key}: {cause}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong.
        cause: String,
    },
    /// No source is configured.
    #[error("no directory is configured; set directory.file or directory.etcd")]
    NotConfigured,
    /// There is none of this id.
    #[error("there is no tenant '{0}'; see `bulkhead tenant list`")]
    Unknown(TenantId),
    /// There is one of this id, perhaps in other case.
    #[error("tenant '{0}' exists already; choose another id, or see `bulkhead tenant show {0}`")]
    Exists(TenantId),
    /// Others changed the same tenant all the time.
    #[error("tenant '{0}' was changed by others {ATTEMPTS} times meanwhile; try again")]
    Contended(TenantId),
}

impl Store {
    /// Opens the configured directory.
    ///
    /// # Errors
    /// [`StoreError`] if etcd cannot be reached.
    pub async fn open(config: &DirectoryConfig) -> Result<Self, StoreError> {
        let kept = match config.source() {
            Some(Source::File(path)) => Kept::File(path.clone()),
            Some(Source::Etcd(config)) => Kept::Etcd(Box::new(crate::etcd::connect(config).await?)),
            None => return Err(StoreError::NotConfigured),
        };
        Ok(Self { kept })
    }

    /// All tenants.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(&self) -> Result<BTreeMap<TenantId, Tenant>, StoreError> {
        match &self.kept {
            Kept::File(path) => Ok(read_document(path)?.1.tenants),
            Kept::Etcd(client) => {
                let options = GetOptions::new().with_prefix();
                let answer = etcd::all(client).get(PREFIX, Some(options)).await?;
                answer.kvs().iter().map(|kv| parse(kv.key(), kv.value())).collect()
            }
        }
    }

    /// One tenant.
    ///
    /// # Errors
    /// [`StoreError`], above all [`StoreError::Unknown`].
    pub async fn get(&self, id: &TenantId) -> Result<Tenant, StoreError> {
        match &self.kept {
            Kept::File(path) => {
                let tenant = read_document(path)?.1.tenants.remove(id);
                tenant.ok_or_else(|| StoreError::Unknown(id.clone()))
            }
            Kept::Etcd(client) => {
                let answer = client.kv_client().get(key(id), None).await?;
                let kv = answer.kvs().first().ok_or_else(|| StoreError::Unknown(id.clone()))?;
                Ok(parse(kv.key(), kv.value())?.1)
            }
        }
    }

    /// Adds a tenant, created now, and returns it.
    ///
    /// # Errors
    /// [`StoreError`], above all [`StoreError::Exists`], also for an id that differs only in case.
    pub async fn create(&self, id: &TenantId, tenant: Tenant) -> Result<Tenant, StoreError> {
        let clash = |known: &TenantId| known.as_str().eq_ignore_ascii_case(id.as_str());
        let tenant = Tenant { created: Some(jiff::Timestamp::now()), ..tenant };
        self.check(id, &tenant)?;
        match &self.kept {
            Kept::File(path) => {
                change_file(path, |tenants| {
                    if let Some(known) = tenants.keys().find(|known| clash(known)) {
                        return Err(StoreError::Exists(known.clone()));
                    }
                    tenants.insert(id.clone(), tenant.clone());
                    Ok(())
                })?;
                Ok(tenant)
            }
            Kept::Etcd(client) => {
                let options = GetOptions::new().with_prefix().with_keys_only();
                let keys = etcd::all(client).get(PREFIX, Some(options)).await?;
                let known = keys.kvs().iter().filter_map(|kv| {
                    TenantId::parse(kv.key_str().ok()?.strip_prefix(PREFIX)?).ok()
                });
                if let Some(known) = known.into_iter().find(clash) {
                    return Err(StoreError::Exists(known));
                }
                let absent =
                    [key(id), name_key(id)].map(|key| Compare::version(key, CompareOp::Equal, 0));
                let put = [
                    TxnOp::put(key(id), to_json(&tenant), None),
                    TxnOp::put(name_key(id), id.as_str(), None),
                ];
                let txn = Txn::new().when(absent).and_then(put);
                let created = client.kv_client().txn(txn).await?.succeeded();
                if created { Ok(tenant) } else { Err(StoreError::Exists(id.clone())) }
            }
        }
    }

    /// Changes a tenant.
    ///
    /// # Errors
    /// [`StoreError`], above all [`StoreError::Unknown`].
    pub async fn update(
        &self,
        id: &TenantId,
        change: impl Fn(&mut Tenant),
    ) -> Result<Tenant, StoreError> {
        match &self.kept {
            Kept::File(path) => {
                let mut changed = Tenant::default();
                change_file(path, |tenants| {
                    let tenant =
                        tenants.get_mut(id).ok_or_else(|| StoreError::Unknown(id.clone()))?;
                    change(tenant);
                    changed = tenant.clone();
                    Ok(())
                })?;
                Ok(changed)
            }
            Kept::Etcd(client) => {
                let mut kv = client.kv_client();
                for _ in 0..ATTEMPTS {
                    let answer = kv.get(key(id), None).await?;
                    let Some(found) = answer.kvs().first() else {
                        return Err(StoreError::Unknown(id.clone()));
                    };
                    let mut tenant = parse(found.key(), found.value())?.1;
                    change(&mut tenant);
                    self.check(id, &tenant)?;
                    let same =
                        Compare::mod_revision(key(id), CompareOp::Equal, found.mod_revision());
                    let put = TxnOp::put(key(id), to_json(&tenant), None);
                    if kv.txn(Txn::new().when([same]).and_then([put])).await?.succeeded() {
                        return Ok(tenant);
                    }
                }
                Err(StoreError::Contended(id.clone()))
            }
        }
    }

    /// Removes a tenant.
    ///
    /// # Errors
    /// [`StoreError`], above all [`StoreError::Unknown`].
    pub async fn delete(&self, id: &TenantId) -> Result<(), StoreError> {
        let unknown = || StoreError::Unknown(id.clone());
        match &self.kept {
            Kept::File(path) => {
                change_file(path, |tenants| tenants.remove(id).map(|_| ()).ok_or_else(unknown))
            }
            Kept::Etcd(client) => {
                let there = Compare::version(key(id), CompareOp::Greater, 0);
                let delete = [TxnOp::delete(key(id), None), TxnOp::delete(name_key(id), None)];
                let txn = Txn::new().when([there]).and_then(delete);
                let deleted = client.kv_client().txn(txn).await?.succeeded();
                if deleted { Ok(()) } else { Err(unknown()) }
            }
        }
    }

    fn check(&self, id: &TenantId, tenant: &Tenant) -> Result<(), StoreError> {
        let path = match &self.kept {
            Kept::File(path) => path.clone(),
            Kept::Etcd(_) => PathBuf::from(key(id)),
        };
        document::check(id, tenant).map_err(|cause| StoreError::Document { path, cause })
    }
}

fn key(id: &TenantId) -> String {
    format!("{PREFIX}{id}")
}

/// Claims the id in every case, so that two who create it at once cannot both succeed.
fn name_key(id: &TenantId) -> String {
    format!("/bulkhead/tenant-names/{}", id.as_str().to_ascii_lowercase())
}

fn to_json(tenant: &Tenant) -> Vec<u8> {
    // Nothing in a tenant can fail to be written: string keys, finite numbers.
    serde_json::to_vec(tenant).unwrap_or_default()
}

fn parse(key: &[u8], value: &[u8]) -> Result<(TenantId, Tenant), StoreError> {
    let key = String::from_utf8_lossy(key).into_owned();
    let error = |cause: String| StoreError::Value { key: key.clone(), cause };
    let id = TenantId::parse(key.strip_prefix(PREFIX).unwrap_or_default())
        .map_err(|e| error(e.to_string()))?;
    let tenant = document::parse_json(value).map_err(|e| error(e.to_string()))?;
    Ok((id, tenant))
}

/// The file's text and what it says; an absent file says nothing.
fn read_document(path: &Path) -> Result<(String, Document), StoreError> {
    let text = match files::read_text(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    let document = Document::parse(&text)
        .map_err(|cause| StoreError::Document { path: path.to_owned(), cause })?;
    Ok((text, document))
}

/// Changes the file in one step, under a lock, and keeps comments and order of what stays.
fn change_file(
    path: &Path,
    change: impl FnOnce(&mut BTreeMap<TenantId, Tenant>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let _lock = files::lock(path)?;
    let (text, mut document) = read_document(path)?;
    change(&mut document.tenants)?;
    let broken = |cause: String| StoreError::Document {
        path: path.to_owned(),
        cause: DocumentError::Syntax(cause),
    };
    let mut edited: DocumentMut =
        text.parse().map_err(|e: toml_edit::TomlError| broken(e.to_string()))?;
    let wanted = toml_edit::ser::to_document(&document).map_err(|e| broken(e.to_string()))?;
    merge(edited.as_table_mut(), wanted.as_table());
    let text = edited.to_string();
    // What is about to be written has to read as what was meant.
    Document::parse(&text)
        .map_err(|cause| StoreError::Document { path: path.to_owned(), cause })?;
    files::write_secret(path, text.as_bytes())?;
    Ok(())
}

/// Makes `target` say what `wanted` says, touching only what differs.
fn merge(target: &mut dyn TableLike, wanted: &Table) {
    let gone: Vec<String> = target
        .iter()
        .filter(|(name, _)| !wanted.contains_key(name))
        .map(|(name, _)| name.to_owned())
        .collect();
    for name in gone {
        target.remove(&name);
    }
    for (name, item) in wanted {
        match (target.get_mut(name), as_table(item, name)) {
            (Some(have), Some(want)) if have.is_table_like() => {
                if let Some(have) = have.as_table_like_mut() {
                    merge(have, &want);
                }
            }
            (Some(have), _) if same(have, item) => {}
            (_, Some(want)) => {
                target.insert(name, Item::Table(want));
            }
            (Some(Item::Value(have)), None) => {
                if let Item::Value(want) = item {
                    let decor = have.decor().clone();
                    *have = want.clone();
                    *have.decor_mut() = decor;
                }
            }
            (_, None) => {
                target.insert(name, item.clone());
            }
        }
    }
}

/// The item as a table with a header of its own, if it is a table of either kind. A tenant has one
/// too; what is inside a tenant stays on its line.
fn as_table(item: &Item, name: &str) -> Option<Table> {
    let mut table = match item {
        Item::Table(table) => table.clone(),
        Item::Value(toml_edit::Value::InlineTable(table)) => table.clone().into_table(),
        _ => return None,
    };
    if name == TENANTS {
        for (_, tenant) in table.iter_mut() {
            if let Some(own) = as_table(tenant, "") {
                *tenant = Item::Table(own);
            }
        }
        table.set_implicit(true);
    }
    Some(table)
}

/// Whether two items say the same, however they are written.
fn same(a: &Item, b: &Item) -> bool {
    let plain = |item: &Item| -> Option<toml::Value> {
        let mut document = DocumentMut::new();
        document.insert("v", item.clone());
        toml::from_str::<toml::Table>(&document.to_string()).ok()?.remove("v")
    };
    plain(a).is_some_and(|a| Some(a) == plain(b))
}

#[cfg(test)]
mod tests {
    use super::{Store, StoreError};
    use crate::config::DirectoryConfig;
    use bulkhead_policy::{Quotas, Status, Tenant, TenantId};

    fn id(text: &str) -> TenantId {
        TenantId::parse(text).unwrap()
    }

    async fn store(folder: &tempfile::TempDir, text: &str) -> (Store, std::path::PathBuf) {
        let path = folder.path().join("tenants.toml");
        std::fs::write(&path, text).unwrap();
        (Store::open(&DirectoryConfig::in_file(path.clone())).await.unwrap(), path)
    }

    #[tokio::test]
    async fn a_change_keeps_what_people_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let text = "# our tenants\n[tenants.acme] # first\nstatus = \"active\" # paying\n\n\
                    # the other one\n[tenants.globex]\nquotas = { connections = 5 } # small\n";
        let (store, path) = store(&folder, text).await;
        store.update(&id("acme"), |t| t.status = Status::Suspended).await.unwrap();
        store.create(&id("initech"), Tenant::default()).await.unwrap();
        let written = std::fs::read_to_string(&path).unwrap();
        for kept in ["# our tenants", "# first", "# paying", "# the other one", "# small"] {
            assert!(written.contains(kept), "{kept} is gone from:\n{written}");
        }
        assert!(written.contains("status = \"suspended\" # paying"), "{written}");
        let tenants = store.list().await.unwrap();
        assert_eq!(tenants.len(), 3);
        assert_eq!(tenants[&id("globex")].quotas.connections, Some(5));
    }

    #[tokio::test]
    async fn what_is_taken_back_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = store(&folder, "").await;
        store.create(&id("acme"), Tenant::default()).await.unwrap();
        let limited = |t: &mut Tenant| {
            t.quotas.connections = Some(3);
            t.revoked_devices.insert("cam-1".parse().unwrap(), jiff::Timestamp::UNIX_EPOCH);
        };
        assert!(store.update(&id("acme"), limited).await.unwrap().quotas.connections.is_some());
        let cleared = |t: &mut Tenant| {
            t.quotas = Quotas::default();
            t.revoked_devices.clear();
        };
        store.update(&id("acme"), cleared).await.unwrap();
        let left = store.get(&id("acme")).await.unwrap();
        assert!(left.created.is_some());
        assert_eq!(left, Tenant { created: left.created, ..Tenant::default() });
        store.delete(&id("acme")).await.unwrap();
        assert!(matches!(store.delete(&id("acme")).await, Err(StoreError::Unknown(_))));
    }

    #[tokio::test]
    async fn ids_that_differ_only_in_case_are_one() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = store(&folder, "[tenants.acme]\n").await;
        let clash = store.create(&id("ACME"), Tenant::default()).await;
        assert!(matches!(clash, Err(StoreError::Exists(known)) if known == id("acme")));
    }

    #[tokio::test]
    async fn concurrent_changes_all_arrive() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = store(&folder, "").await;
        let tasks: Vec<_> = (0..8)
            .map(|i| {
                let store = store.clone();
                tokio::task::spawn_blocking(move || {
                    let tenant = id(&format!("t{i}"));
                    tokio::runtime::Handle::current()
                        .block_on(store.create(&tenant, Tenant::default()))
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(store.list().await.unwrap().len(), 8);
    }
}
