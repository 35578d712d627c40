//! A directory in a TOML file, looked at a few times a second.

use super::Directory;
use super::document::Document;
use crate::files::{Watched, read_text};
use std::path::PathBuf;
use std::time::Duration;

/// How often the file is looked at: a suspension waits for the next look, and a look costs two
/// microseconds.
const LOOK: Duration = Duration::from_millis(20);

/// Follows the file for ever.
///
/// A file whose content cannot be used keeps the last good state current: its author is told, and
/// mends it. A file that cannot be read lets the state grow old.
pub(super) async fn follow(directory: &Directory, path: PathBuf) {
    let mut watched = Watched::new(path);
    let mut loaded = false;
    let mut unreadable = false;
    loop {
        match watched.changed() {
            Ok(false) if loaded => directory.mark_synced(),
            Ok(_) => match load(directory, &watched) {
                Ok(()) => loaded = true,
                Err(error) => {
                    directory.report("content", &error);
                    if loaded {
                        directory.mark_synced();
                    }
                }
            },
            Err(error) => {
                if !unreadable {
                    directory.report("read", &error);
                }
                unreadable = true;
                tokio::time::sleep(LOOK).await;
                continue;
            }
        }
        unreadable = false;
        tokio::time::sleep(LOOK).await;
    }
}

fn load(directory: &Directory, watched: &Watched) -> Result<(), String> {
    let text = read_text(watched.path()).map_err(|error| error.to_string())?;
    let document =
        Document::parse(&text).map_err(|error| format!("{}: {error}", watched.path().display()))?;
    let next = directory.snapshot().next(document.tenants);
    directory.replace(next);
    Ok(())
}
