//! What is counted, in files of one machine.
//!
//! Each process has a number, by a lock that the system takes back when it ends, and a file of that number,
//! which it replaces whole. It goes on with what the process before counted under the same number.

use super::store::{About, Heard, MAX_PROCESSES, UsageError, Write, Written, named, unnamed};
use crate::files::{Watched, create_private_folder, read_text, write_secret};
use bulkhead_policy::{Amounts, Day, Mark, TenantId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the others' files are looked at.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// The store in files, as one process uses it.
#[derive(Debug)]
pub(super) struct FileStore {
    folder: PathBuf,
    claim: Option<(u32, File)>,
    own: Document,
    watched: HashMap<u32, Watched>,
    reads: HashMap<String, File>,
}

/// One process's file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Document {
    about: About,
    counts: BTreeMap<String, BTreeMap<TenantId, Amounts>>,
    marks: BTreeMap<String, Marks>,
    now: BTreeMap<TenantId, BTreeMap<String, u64>>,
}

/// How far a counter was read, and on which day that was last written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Marks {
    day: String,
    tenants: BTreeMap<TenantId, Mark>,
}

impl FileStore {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            claim: None,
            own: Document::default(),
            watched: HashMap::new(),
            reads: HashMap::new(),
        }
    }

    pub(super) fn open(&mut self) -> Result<(u32, Vec<Heard>), UsageError> {
        create_private_folder(&self.folder)?;
        let process = match &self.claim {
            Some((process, _)) => *process,
            None => self.claim()?,
        };
        self.own = read(&self.path(process))?.unwrap_or_default();
        let mut heard = self.own.heard(process);
        self.own.now.clear();
        self.watched.clear();
        heard.extend(self.others()?);
        Ok((process, heard))
    }

    fn claim(&mut self) -> Result<u32, UsageError> {
        for process in 0..MAX_PROCESSES {
            if let Some(lock) = try_lock(&self.folder.join(format!("{process}.lock")))? {
                self.claim = Some((process, lock));
                return Ok(process);
            }
        }
        Err(UsageError::Full)
    }

    fn path(&self, process: u32) -> PathBuf {
        self.folder.join(format!("{process}.json"))
    }

    /// What others have written since the last look.
    pub(super) fn others(&mut self) -> Result<Vec<Heard>, UsageError> {
        let own = self.claim.as_ref().map(|(process, _)| *process);
        let mut heard = Vec::new();
        for process in processes(&self.folder)?.into_iter().filter(|process| Some(*process) != own)
        {
            let path = self.path(process);
            let watched = self.watched.entry(process).or_insert_with(|| Watched::new(path.clone()));
            if watched.changed()? {
                heard.extend(read(&path)?.unwrap_or_default().heard(process));
            }
        }
        Ok(heard)
    }

    pub(super) fn write(
        &mut self,
        about: About,
        writes: Vec<Write>,
        counters: Vec<String>,
        today: Day,
    ) -> Result<HashSet<String>, UsageError> {
        let Some((process, _)) = &self.claim else { return Err(UsageError::Lost) };
        let path = self.path(*process);
        let reader = |counter: &str| self.folder.join(format!("{counter}.reader"));
        for (counter, lock) in self.reads.extract_if(|counter, _| !counters.contains(counter)) {
            // Nobody needs it any more.
            let _ = std::fs::remove_file(reader(&counter));
            drop(lock);
        }
        for counter in counters {
            if !self.reads.contains_key(&counter)
                && let Some(lock) = try_lock(&reader(&counter))?
            {
                self.reads.insert(counter, lock);
            }
        }
        let mut next = self.own.clone();
        next.about = about;
        for Write { tenant, counts, marks, gauges } in writes {
            for (day, amounts) in counts {
                next.counts.entry(day.to_string()).or_default().insert(tenant.clone(), amounts);
            }
            for (counter, mark) in marks {
                let marks = next.marks.entry(counter).or_default();
                marks.day = today.to_string();
                marks.tenants.insert(tenant.clone(), mark);
            }
            match gauges {
                Some(gauges) if gauges.is_empty() => drop(next.now.remove(&tenant)),
                Some(gauges) => {
                    let named = named(&gauges).into_iter().map(|(name, n)| (name.to_owned(), n));
                    next.now.insert(tenant, named.collect());
                }
                None => {}
            }
        }
        // As they are written, days are in the order of time.
        let oldest = today.before().to_string();
        next.counts = next.counts.split_off(&oldest);
        next.marks.retain(|_, marks| marks.day >= oldest);
        if next != self.own || !path.exists() {
            let text = serde_json::to_string(&next).unwrap_or_default();
            write_secret(&path, text.as_bytes())?;
            self.own = next;
        }
        Ok(self.reads.keys().cloned().collect())
    }
}

impl Document {
    fn heard(&self, process: u32) -> Vec<Heard> {
        let counts =
            self.counts.iter().filter_map(|(day, of)| Some((day.parse::<Day>().ok()?, of)));
        let counts = counts.flat_map(|(day, of)| {
            of.iter().map(move |(tenant, amounts)| Heard::Count {
                day,
                tenant: tenant.clone(),
                process,
                amounts: *amounts,
            })
        });
        let marks = self.marks.iter().flat_map(|(counter, of)| {
            of.tenants.iter().map(|(tenant, mark)| Heard::Mark {
                counter: counter.clone(),
                tenant: tenant.clone(),
                mark: *mark,
            })
        });
        counts.chain(marks).collect()
    }
}

/// A lock that nobody else has, until it is dropped.
fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path).map_err(named)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(named(error)),
    }
}

/// A process's file, if there is one.
fn read(path: &Path) -> Result<Option<Document>, UsageError> {
    let text = match read_text(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let content = |cause| UsageError::Content { file: path.display().to_string(), cause };
    serde_json::from_str(&text).map(Some).map_err(content)
}

/// The numbers of all files.
fn processes(folder: &Path) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        found
            .extend(name.to_str().and_then(|name| name.strip_suffix(".json")?.parse::<u32>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Looks whether files can be made in a folder, or where it will be.
pub(super) fn check(folder: &Path) -> io::Result<()> {
    let mut at = folder;
    while !at.exists() {
        let above = at.parent().filter(|above| !above.as_os_str().is_empty());
        at = above.unwrap_or(Path::new("."));
    }
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", at.display()));
    tempfile::tempfile_in(at).map(drop).map_err(named)
}

/// What everybody has written of one tenant.
pub(super) fn look(folder: &Path, tenant: &TenantId, day: Day) -> Result<Written, UsageError> {
    let mut written = Written::default();
    let found = match processes(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        found => found?,
    };
    for process in found {
        let Some(document) = read(&folder.join(format!("{process}.json")))? else { continue };
        written.counts.extend(document.counts.get(&day.to_string()).and_then(|of| of.get(tenant)));
        // Whoever has its lock is there.
        if try_lock(&folder.join(format!("{process}.lock")))?.is_none() {
            written.gauges.extend(document.now.get(tenant).map(unnamed));
            written.about.push(document.about);
        }
    }
    Ok(written)
}
