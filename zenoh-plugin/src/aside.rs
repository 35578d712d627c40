//! Doing without whoever is held up by the router.

use std::time::{Duration, Instant};

/// What takes so long was held up, by whoever gets it.
const HELD_UP: Duration = Duration::from_millis(50);

/// For how long who was held up is apart from others.
const APART: Duration = Duration::from_secs(10);

/// Whether a session is apart from the others of its thread, which is slower, since the router held it up.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    until: Option<Instant>,
}

impl Aside {
    /// Whether it is now.
    pub(crate) fn is_wanted(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Takes note of how long something took that began then.
    pub(crate) fn took(&mut self, started: Instant) {
        let now = Instant::now();
        if now.duration_since(started) > HELD_UP {
            self.until = Some(now + APART);
        }
    }
}
