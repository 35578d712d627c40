//! The audit log: one JSON line for each decision that matters, in a hash chain.
//!
//! Each line holds the SHA-256 of itself and of the line before, so that an edit, a removal or an
//! insertion anywhere breaks the chain. What a chain alone cannot show is a missing end; the number
//! and hash of the newest line therefore also stand in `<log>.head`.

use crate::files;
use crate::metrics::Metrics;
use aws_lc_rs::digest::{Context, SHA256};
use bulkhead_policy::{DenyReason, DeviceId, Principal, TenantId, TokenId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Records that wait for the disk; beyond it they are lost, counted and said so in the log itself.
const QUEUE: usize = 8_192;

/// Records written between two flushes to disk.
const BATCH: usize = 512;

/// How long a writer that is just ending is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// How often.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Longest line that is read back: no record comes near it.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Where decisions are written down. Cloning shares the log; without a file records go nowhere.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    log: Option<Arc<Log>>,
}

#[derive(Debug)]
struct Log {
    queue: Mutex<Option<SyncSender<Record>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    lost: Arc<AtomicI64>,
}

/// What happened. The set is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A connection was admitted.
    Connect,
    /// A connection, a credential or an operation was refused.
    Deny,
    /// A live connection was cut.
    Terminate,
    /// The directory was changed.
    DirectoryChange,
    /// Credentials were issued.
    CredentialIssued,
    /// Records before this one were lost because the disk was slower than the decisions.
    RecordsLost,
}

/// One decision. Nothing in it is a secret, and nothing in it is text of a client's own choosing but
/// the ids, whose form has been checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// When, to the microsecond.
    pub at: Timestamp,
    /// What.
    pub event: Event,
    /// Where: `nats`, `mqtt`, `zenoh`, `exchange`, `directory`.
    pub backend: String,
    /// Whose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Which device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// Its role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Who vouched for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The token's `jti`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<TokenId>,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What else there is to say, in words of this program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Record {
    /// A record of now.
    pub fn new(event: Event, backend: &str) -> Self {
        Self {
            at: now_in_micros(),
            event,
            backend: backend.to_owned(),
            tenant: None,
            device: None,
            role: None,
            issuer: None,
            token_id: None,
            source: None,
            reason: None,
            detail: None,
        }
    }

    /// Adds whom it is about.
    #[must_use]
    pub fn of(mut self, principal: &Principal) -> Self {
        self.tenant = principal.tenant().cloned();
        self.device.clone_from(&principal.device);
        self.role = Some(principal.role.to_string());
        self.issuer = Some(principal.issuer.to_string());
        self.token_id.clone_from(&principal.token_id);
        self
    }

    /// Adds the tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: &TenantId) -> Self {
        self.tenant = Some(tenant.clone());
        self
    }

    /// Adds where it came from.
    #[must_use]
    pub fn from(mut self, source: Option<IpAddr>) -> Self {
        self.source = source;
        self
    }

    /// Adds why not.
    #[must_use]
    pub fn because(mut self, reason: DenyReason) -> Self {
        self.reason = Some(reason.code().to_owned());
        self
    }

    /// Adds a remark of this program's own.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

fn now_in_micros() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

/// A line of the log.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    seq: u64,
    #[serde(flatten)]
    record: Record,
    prev: String,
    /// SHA-256 of the line's JSON without this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
}

/// The newest line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    seq: u64,
    hash: String,
}

impl Head {
    fn genesis() -> Self {
        Self { seq: 0, hash: "0".repeat(64) }
    }
}

/// What [`verify`] found out about a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Lines in the log.
    pub records: u64,
    /// Hash of the newest.
    pub head: String,
}

/// Why a log is not what was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The log cannot be read or written.
    #[error("audit log {}: {cause}; check the path and its permissions", path.display())]
    Io {
        /// The log.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// A line is no record.
    #[error("{}: line {line} is not an audit record: the log was edited there", path.display())]
    NotARecord {
        /// The log.
        path: PathBuf,
        /// Which, from 1.
        line: u64,
    },
    /// A line does not follow from the one before.
    #[error(
        "{}: the chain breaks at line {line}: it was edited, or lines before it were cut or added",
        path.display()
    )]
    Broken {
        /// The log.
        path: PathBuf,
        /// Which, from 1.
        line: u64,
    },
    /// The newest lines are missing.
    #[error(
        "{}: the log ends at record {found}, but {expected} were written: its end was cut off",
        path.display()
    )]
    Truncated {
        /// The log.
        path: PathBuf,
        /// Records in the log.
        found: u64,
        /// Records that were written.
        expected: u64,
    },
    /// Another process writes the log.
    #[error("audit log {} is in use by another process; give each its own path", .0.display())]
    InUse(PathBuf),
    /// The log has no `.head` beside it although it has records.
    #[error("{} is missing, so a cut at the end of the log cannot be ruled out", path.display())]
    NoHead {
        /// The head's file.
        path: PathBuf,
    },
}

impl Audit {
    /// Opens a log, continuing the chain that is there.
    ///
    /// # Errors
    /// [`AuditError`], also when the existing log's end is not what was last written: a broken log
    /// is not silently continued.
    pub fn open(path: &Path, metrics: &Metrics) -> Result<Self, AuditError> {
        let io = |cause| AuditError::Io { path: path.to_owned(), cause };
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(io)?;
        lock(&file, path)?;
        let head = recover(path)?;
        let (sender, receiver) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicI64::new(0));
        let mut writer = Writer {
            file,
            head_path: head_path(path),
            head,
            lost: Arc::clone(&lost),
            metrics: metrics.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(io)?;
        Ok(Self {
            log: Some(Arc::new(Log {
                queue: Mutex::new(Some(sender)),
                writer: Mutex::new(Some(thread)),
                lost,
            })),
        })
    }

    /// Writes a record down, in the background. It never waits: a full queue loses the record, and
    /// the log says how many were lost.
    pub fn record(&self, record: Record) {
        let Some(log) = &self.log else { return };
        let queue = log.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = &*queue else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(record) {
            log.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes what is queued to disk and ends the log; later records go nowhere.
    pub fn close(&self) {
        let Some(log) = &self.log else { return };
        log.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let writer = log.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A panicked writer has nothing more to write.
            let _ = writer.join();
        }
    }
}

/// Takes the log for this process. Two writers would break each other's chain.
fn lock(file: &File, path: &Path) -> Result<(), AuditError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => return Err(AuditError::InUse(path.to_owned())),
            Err(TryLockError::Error(cause)) => {
                return Err(AuditError::Io { path: path.to_owned(), cause });
            }
        }
    }
}

struct Writer {
    file: File,
    head_path: PathBuf,
    head: Head,
    lost: Arc<AtomicI64>,
    metrics: Metrics,
}

impl Writer {
    fn run(&mut self, queue: &Receiver<Record>) {
        while let Ok(first) = queue.recv() {
            let mut lines = Vec::new();
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                self.metrics.audit_lost.add(lost);
                let record = Record::new(Event::RecordsLost, "audit");
                lines.extend(self.chain(record.detail(format!("{lost} records were lost"))));
            }
            lines.extend(self.chain(first));
            lines.extend(queue.try_iter().take(BATCH).flat_map(|record| self.chain(record)));
            if let Err(error) = self.write(&lines) {
                self.metrics.audit_lost.inc();
                tracing::error!(%error, "the audit log cannot be written; check its disk");
            }
        }
    }

    /// The record's line, with its end of line.
    fn chain(&mut self, record: Record) -> Vec<u8> {
        let mut line =
            Line { seq: self.head.seq + 1, record, prev: self.head.hash.clone(), hash: None };
        let Ok(body) = serde_json::to_vec(&line) else {
            return Vec::new();
        };
        let hash = sha256(&body);
        self.head = Head { seq: line.seq, hash: hash.clone() };
        line.hash = Some(hash);
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// The log goes first: a crash between the two leaves a log that is ahead of its head, which
    /// is the harmless way round.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.file.write_all(lines)?;
        self.file.sync_data()?;
        let head = serde_json::to_vec(&self.head).map_err(io::Error::other)?;
        files::write_secret(&self.head_path, &head)
    }
}

/// Checks a whole log against its chain and its head.
///
/// # Errors
/// [`AuditError`] at the first line that is not what was written.
pub fn verify(path: &Path) -> Result<Verified, AuditError> {
    // The head goes first: a log that is being written only grows beyond it meanwhile.
    let stored = stored_head(path)?;
    let head = walk(path)?;
    let stored = match stored {
        // The first records of all may have been written between the two.
        None if head.seq > 0 => stored_head(path)?,
        stored => stored,
    };
    match stored {
        None if head.seq > 0 => Err(AuditError::NoHead { path: head_path(path) }),
        Some(stored) if stored.seq > head.seq => Err(AuditError::Truncated {
            path: path.to_owned(),
            found: head.seq,
            expected: stored.seq,
        }),
        Some(stored) if stored.seq == head.seq && stored.hash != head.hash => {
            Err(AuditError::Broken { path: path.to_owned(), line: head.seq })
        }
        _ => Ok(Verified { records: head.seq, head: head.hash }),
    }
}

/// Where a new record goes on: after the log's last whole line, which has to be the one that its
/// head names or a later one. A line that a crash cut short is removed, because nobody was told
/// that it had been written.
///
/// It reads the end of the log only; [`verify`] reads all of it.
fn recover(path: &Path) -> Result<Head, AuditError> {
    let io = |cause| AuditError::Io { path: path.to_owned(), cause };
    let stored = stored_head(path)?.unwrap_or_else(Head::genesis);
    let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let from = length.saturating_sub(2 * MAX_LINE_BYTES as u64);
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(from)).and_then(|_| file.read_to_end(&mut end)).map_err(io)?;
    let whole = end.iter().rposition(|b| *b == b'\n').map_or(0, |last| last + 1);
    if whole < end.len() {
        file.set_len(from + whole as u64).and_then(|()| file.sync_all()).map_err(io)?;
    }
    let Some(last) =
        end.get(..whole).unwrap_or_default().split_inclusive(|b| *b == b'\n').next_back()
    else {
        return match stored.seq {
            0 => Ok(stored),
            expected => Err(AuditError::Truncated { path: path.to_owned(), found: 0, expected }),
        };
    };
    let (seq, hash, _) = check_line(last)
        .ok_or(AuditError::NotARecord { path: path.to_owned(), line: stored.seq })?;
    if seq < stored.seq {
        return Err(AuditError::Truncated {
            path: path.to_owned(),
            found: seq,
            expected: stored.seq,
        });
    }
    if seq == stored.seq && hash != stored.hash {
        return Err(AuditError::Broken { path: path.to_owned(), line: seq });
    }
    Ok(Head { seq, hash })
}

/// A line's number, its hash and the hash before it, if the line is what its hash says.
fn check_line(text: &[u8]) -> Option<(u64, String, String)> {
    let mut line: Line = serde_json::from_slice(text).ok()?;
    let claimed = line.hash.take()?;
    let computed = sha256(&serde_json::to_vec(&line).ok()?);
    (claimed == computed).then_some((line.seq, computed, line.prev))
}

fn walk(path: &Path) -> Result<Head, AuditError> {
    let io = |cause| AuditError::Io { path: path.to_owned(), cause };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let mut head = Head::genesis();
    let mut text = Vec::new();
    loop {
        text.clear();
        let mut limited = io::Read::take(&mut reader, MAX_LINE_BYTES as u64);
        if limited.read_until(b'\n', &mut text).map_err(io)? == 0 {
            return Ok(head);
        }
        let number = head.seq + 1;
        if serde_json::from_slice::<Line>(&text).is_err() {
            return Err(AuditError::NotARecord { path: path.to_owned(), line: number });
        }
        let computed = match check_line(&text) {
            Some((seq, hash, prev)) if seq == number && prev == head.hash => hash,
            _ => return Err(AuditError::Broken { path: path.to_owned(), line: number }),
        };
        head = Head { seq: number, hash: computed };
    }
}

fn stored_head(path: &Path) -> Result<Option<Head>, AuditError> {
    let path = head_path(path);
    match files::read_text(&path) {
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|cause| AuditError::Io { path, cause: cause.into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(AuditError::Io { path, cause }),
    }
}

fn head_path(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".head");
    name.into()
}

fn sha256(body: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(body);
    context.finish().as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        use std::fmt::Write as _;
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::{Audit, AuditError, Event, Record, head_path, verify};
    use crate::config::MetricsConfig;
    use crate::metrics::Metrics;
    use bulkhead_policy::DenyReason;
    use std::path::Path;

    fn write(path: &Path, records: usize) {
        let metrics = Metrics::new(&MetricsConfig::default()).unwrap();
        let audit = Audit::open(path, &metrics).unwrap();
        for _ in 0..records {
            audit.record(Record::new(Event::Deny, "nats").because(DenyReason::TokenExpired));
        }
        audit.close();
    }

    fn edit(path: &Path, change: impl FnOnce(Vec<String>) -> Vec<String>) {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = change(text.lines().map(str::to_owned).collect());
        std::fs::write(path, lines.iter().map(|l| format!("{l}\n")).collect::<String>()).unwrap();
    }

    #[test]
    fn a_log_goes_on_where_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        write(&path, 3);
        write(&path, 2);
        assert_eq!(verify(&path).unwrap().records, 5);
    }

    #[test]
    fn every_kind_of_tampering_is_found() {
        type Change = fn(Vec<String>) -> Vec<String>;
        let changes: [(&str, Change); 5] = [
            ("an edit", |mut l| {
                l[1] = l[1].replace("token_expired", "token_missing");
                l
            }),
            ("a removal", |mut l| {
                l.remove(2);
                l
            }),
            ("an insertion", |mut l| {
                let copy = l[2].clone();
                l.insert(2, copy);
                l
            }),
            ("a swap", |mut l| {
                l.swap(1, 2);
                l
            }),
            ("a cut at the end", |mut l| {
                l.pop();
                l
            }),
        ];
        for (what, change) in changes {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("audit.jsonl");
            write(&path, 4);
            assert!(verify(&path).is_ok());
            edit(&path, change);
            assert!(verify(&path).is_err(), "{what}");
        }
    }

    #[test]
    fn a_missing_head_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        write(&path, 2);
        std::fs::remove_file(head_path(&path)).unwrap();
        assert!(matches!(verify(&path), Err(AuditError::NoHead { .. })));
    }

    #[test]
    fn a_line_that_a_crash_cut_short_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        write(&path, 2);
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"seq\":3,\"at\"");
        std::fs::write(&path, text).unwrap();
        write(&path, 1);
        assert_eq!(verify(&path).unwrap().records, 3);
    }
}
