use std::fs::remove_dir_all;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use tempfile::TempDir;

/// How often its removal is tried, and the pause in between.
const TRIES: (usize, Duration) = (50, Duration::from_millis(20));

/// A temporary folder, which is gone with its test also if something of the test still writes to it.
pub(crate) struct Folder(TempDir);

impl Folder {
    /// A new one.
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for _ in 0..TRIES.0 {
            // What it says may be about a file that went away by itself.
            let _ = remove_dir_all(self.path());
            if !self.path().exists() {
                return;
            }
            sleep(TRIES.1);
        }
    }
}
