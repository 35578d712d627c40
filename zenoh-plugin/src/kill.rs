//! The end of a session, from outside.

use std::sync::atomic::{AtomicBool, Ordering};
use tokio_util::sync::CancellationToken;

/// Ends a session. Whether it did is asked for every message, and the token would take a lock to say.
#[derive(Debug, Default)]
pub(crate) struct Kill {
    token: CancellationToken,
    has_ended: AtomicBool,
}

impl Kill {
    /// Ends the session, whose messages do not pass any more.
    pub(crate) fn cancel(&self) {
        self.has_ended.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Whether the session was ended.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Resolves when the session is ended, by the router too.
    pub(crate) async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Drops what is being done when the session is ended.
    pub(crate) async fn run_until_cancelled<F: Future>(&self, doing: F) -> Option<F::Output> {
        self.token.run_until_cancelled(doing).await
    }

    /// For the router, which ends sessions of its own accord.
    pub(crate) fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}
