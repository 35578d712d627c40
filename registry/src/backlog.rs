//! What waits to be heard, bounded in number and in bytes.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Where it is put.
pub(crate) struct Backlog<T> {
    sender: mpsc::Sender<Waiting<T>>,
    bytes: Arc<Semaphore>,
}

/// Where it comes out again.
pub(crate) struct Unheard<T>(mpsc::Receiver<Waiting<T>>);

struct Waiting<T> {
    item: T,
    _bytes: OwnedSemaphorePermit,
}

/// A backlog of at most so many, and so many bytes of them.
pub(crate) fn backlog<T>(most: usize, bytes: usize) -> (Backlog<T>, Unheard<T>) {
    let (sender, receiver) = mpsc::channel(most);
    (Backlog { sender, bytes: Arc::new(Semaphore::new(bytes)) }, Unheard(receiver))
}

impl<T> Backlog<T> {
    /// Puts something of so many bytes there. Returns whether there was room.
    pub(crate) fn push(&self, item: T, bytes: usize) -> bool {
        let permit = u32::try_from(bytes).ok().and_then(|bytes| {
            // Each takes some, were it only for itself.
            Arc::clone(&self.bytes).try_acquire_many_owned(bytes.max(1)).ok()
        });
        permit.is_some_and(|permit| self.sender.try_send(Waiting { item, _bytes: permit }).is_ok())
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.sender.max_capacity().saturating_sub(self.sender.capacity())
    }
}

impl<T> Unheard<T> {
    /// The next; `None` when nobody can put anything there any more.
    pub(crate) async fn next(&mut self) -> Option<T> {
        Some(self.0.recv().await?.item)
    }
}

#[cfg(test)]
mod tests {
    use super::backlog;

    #[tokio::test]
    async fn what_waits_is_bounded_in_number_and_bytes() {
        let (backlog, mut heard) = backlog(3, 100);
        assert!(backlog.push("large", 90) && !backlog.push("too much", 11));
        assert!(backlog.push("a", 5) && backlog.push("b", 0) && !backlog.push("too many", 0));
        assert_eq!(backlog.len(), 3);
        assert_eq!(heard.next().await, Some("large"));
        assert!(backlog.push("large again", 90));
        drop(backlog);
        let mut rest = Vec::new();
        while let Some(next) = heard.next().await {
            rest.push(next);
        }
        assert_eq!(rest, ["a", "b", "large again"]);
    }
}
