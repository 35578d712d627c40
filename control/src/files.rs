//! Small files: read within bounds, written whole or not at all, watched for changes.

use std::fs::{Metadata, Permissions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Largest file that is read as configuration, keys or directory: 16 MiB.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// How often a watched file is looked at.
///
/// Looking at it beats asking the kernel to tell: network file systems and the symbolic links that
/// orchestrators swap under a mounted secret tell nobody, and a look costs two microseconds.
pub(crate) const LOOK: Duration = Duration::from_millis(200);

/// Reads a text file of at most 16 MiB.
///
/// # Errors
/// What the system says, with the file's name, or that the file is too large.
pub fn read_text(path: &Path) -> io::Result<String> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
        .map_err(named)?;
    if read as u64 > MAX_BYTES {
        return Err(named(io::Error::new(io::ErrorKind::FileTooLarge, "is larger than 16 MiB")));
    }
    Ok(text)
}

/// Makes a folder, and those above it, that its owner alone can enter. One that exists stays as it is.
///
/// # Errors
/// What the system says, with the folder's name.
pub fn create_private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(folder)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", folder.display())))
}

/// Replaces a file in one step, readable by its owner alone.
///
/// Whoever reads it meanwhile sees the old content or the new, and a crash leaves one of them.
///
/// # Errors
/// What the system says, with the file's name.
pub fn write_secret(path: &Path, content: &[u8]) -> io::Result<()> {
    persist(path, content, true, None)
}

/// Replaces a file in one step, and leaves it to those who may read it as before.
///
/// # Errors
/// What the system says, with the file's name; also if there is no such file.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    persist(path, content, true, Some(metadata.permissions()))
}

/// Makes a new file, readable by its owner alone, and never replaces one.
///
/// # Errors
/// What the system says, with the file's name; [`io::ErrorKind::AlreadyExists`] if there is one.
pub fn create_secret(path: &Path, content: &[u8]) -> io::Result<()> {
    persist(path, content, false, None)
}

fn persist(
    path: &Path,
    content: &[u8],
    replace: bool,
    permissions: Option<Permissions>,
) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    // Temporary files are made with mode 0600, so there is no moment at which others can read it.
    let mut file = tempfile::NamedTempFile::new_in(folder)
        // What it says names the temporary file, which tells nobody anything.
        .map_err(|error| named(error.kind().into()))?;
    file.write_all(content).map_err(named)?;
    if let Some(permissions) = permissions {
        file.as_file().set_permissions(permissions).map_err(named)?;
    }
    file.as_file().sync_all().map_err(named)?;
    let persisted = if replace { file.persist(path) } else { file.persist_noclobber(path) };
    persisted.map_err(|error| named(error.error))?;
    // The rename itself is on disk only when its folder is.
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(named)
}

/// Waits until no other process changes this file, until the result is dropped. The lock lies beside
/// the file, because the file itself is replaced.
///
/// # Errors
/// What the system says, with the lock's name.
pub fn lock(path: &Path) -> io::Result<std::fs::File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let path = PathBuf::from(name);
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = options.open(&path).map_err(named)?;
    file.lock().map_err(named)?;
    Ok(file)
}

/// What tells one state of a file from the next without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Self { modified: metadata.modified().ok(), len: metadata.len(), inode }
    }
}

/// A file that is looked at now and then.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    seen: Option<Stamp>,
}

impl Watched {
    /// Starts to watch; the first [`Watched::changed`] is true for a file that exists.
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: None }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file differs from the last look.
    ///
    /// # Errors
    /// What the system says when it cannot be looked at.
    pub fn changed(&mut self) -> io::Result<bool> {
        let stamp = std::fs::metadata(&self.path).map(|metadata| Stamp::of(&metadata));
        match stamp {
            Ok(stamp) => {
                let changed = self.seen.as_ref() != Some(&stamp);
                self.seen = Some(stamp);
                Ok(changed)
            }
            Err(error) => {
                self.seen = None;
                Err(io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Watched, create_secret, read_text, replace, write_secret};

    #[test]
    fn secrets_are_private_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed");
        create_secret(&path, b"one").unwrap();
        assert!(create_secret(&path, b"two").is_err(), "a secret is never overwritten by accident");
        write_secret(&path, b"three").unwrap();
        assert_eq!(read_text(&path).unwrap(), "three");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            replace(&path, b"four").unwrap();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!((read_text(&path).unwrap().as_str(), mode & 0o777), ("four", 0o644));
        }
        assert!(replace(&folder.path().join("none"), b"five").is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_change_is_seen_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tenants.toml");
        let mut watched = Watched::new(path.clone());
        assert!(watched.changed().is_err());
        write_secret(&path, b"a").unwrap();
        assert!(watched.changed().unwrap());
        assert!(!watched.changed().unwrap());
        write_secret(&path, b"b").unwrap();
        assert!(watched.changed().unwrap(), "same length, perhaps same second, another file");
    }
}
