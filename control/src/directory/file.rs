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
    let mut state = State::Unread;
    loop {
        state = look(directory, &mut watched, state);
        match state {
            State::Good => directory.mark_synced(),
            State::Unread | State::Unreadable | State::Unusable => directory.show_age(),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What became of the file so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has looked yet.
    Unread,
    /// A state was taken over, and nothing since makes it old. Content that cannot be used keeps it.
    Good,
    /// It cannot be read.
    Unreadable,
    /// It never held anything that could be used.
    Unusable,
}

/// Looks once, and says what is new once.
fn look(directory: &Directory, watched: &mut Watched, before: State) -> State {
    match watched.changed() {
        Ok(false) if before != State::Unreadable => return before,
        Ok(_) => {}
        Err(error) => return unreadable(directory, &error, before),
    }
    let text = match read_text(watched.path()) {
        Ok(text) => text,
        Err(error) => return unreadable(directory, &error, before),
    };
    match Document::parse(&text) {
        Ok(document) => {
            directory.replace(directory.snapshot().next(document.tenants));
            State::Good
        }
        Err(error) => {
            directory.report("content", &format!("{}: {error}", watched.path().display()));
            if directory.age().is_some() { State::Good } else { State::Unusable }
        }
    }
}

fn unreadable(directory: &Directory, error: &std::io::Error, before: State) -> State {
    if before != State::Unreadable {
        directory.report("read", error);
    }
    State::Unreadable
}
