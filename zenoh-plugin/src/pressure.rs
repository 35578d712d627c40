//! Slow readers, and those who have to wait for them.

use crate::rules::Shared;
use bulkhead_policy::KeyExpr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// How many declarations of slow readers are compared with one message. With more, it waits for the first that was
/// not: comparing them all would take others' time.
const LOOKS: usize = 512;

/// A message that may not be dropped, by whom it concerns.
#[derive(Clone, Copy)]
pub(crate) enum Passing<'a> {
    /// Whoever subscribes.
    Put(KeyExpr<'a>),
    /// Whoever answers.
    Query(KeyExpr<'a>),
    /// Whoever has asked something.
    Reply,
}

/// The sessions of one tenant that take less than is sent to them. Whoever publishes to one of them
/// what may not be dropped has to wait until it has caught up, or is closed; nobody else does.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    count: AtomicUsize,
    slow: Mutex<Vec<Arc<SlowReader>>>,
}

/// A session that has to catch up.
#[derive(Debug)]
pub(crate) struct SlowReader {
    session: Arc<Shared>,
    /// Cancelled when it has, or is gone.
    pub(crate) eased: CancellationToken,
}

impl Pressure {
    /// Whether anybody may have to wait.
    pub(crate) fn is_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// A session that has to catch up before more like this is let through.
    pub(crate) fn on(&self, passing: Passing<'_>) -> Option<Arc<SlowReader>> {
        let mut looks = LOOKS;
        self.slow().iter().find(|reader| reader.session.gets(passing, &mut looks)).cloned()
    }

    /// A session has to catch up from now on.
    pub(crate) fn enter(&self, session: Arc<Shared>) -> Arc<SlowReader> {
        let reader = Arc::new(SlowReader { session, eased: CancellationToken::new() });
        let mut slow = self.slow();
        slow.push(Arc::clone(&reader));
        self.count.store(slow.len(), Ordering::Relaxed);
        reader
    }

    /// It has caught up, or is gone.
    pub(crate) fn leave(&self, reader: &Arc<SlowReader>) {
        let mut slow = self.slow();
        slow.retain(|other| !Arc::ptr_eq(other, reader));
        self.count.store(slow.len(), Ordering::Relaxed);
        drop(slow);
        reader.eased.cancel();
    }

    fn slow(&self) -> MutexGuard<'_, Vec<Arc<SlowReader>>> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
