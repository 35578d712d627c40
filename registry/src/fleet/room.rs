//! How much of what a tenant asks is taken in, so that what it sends cannot heap up.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for requests of one kind.
pub(super) struct Room {
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

/// Leave to work on a request. What it takes is free again when this is dropped.
pub(crate) struct Permit {
    _request: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
    turns: Arc<Semaphore>,
    turn: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// For so many requests, and bytes of them, at a time. So many may have an answer that is large.
    pub(super) fn new(requests: usize, bytes: usize, turns: usize) -> Self {
        let [requests, bytes, turns] =
            [requests, bytes, turns].map(|most| Arc::new(Semaphore::new(most)));
        Self { requests, bytes, turns }
    }

    /// Takes a request of so many bytes in; `None` if there is no room for it now.
    pub(super) fn take(&self, bytes: usize) -> Option<Permit> {
        let bytes = u32::try_from(bytes).ok()?;
        Some(Permit {
            _request: Arc::clone(&self.requests).try_acquire_owned().ok()?,
            _bytes: Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok()?,
            turns: Arc::clone(&self.turns),
            turn: None,
        })
    }
}

impl Permit {
    /// Waits until the answer may be large. It may be until this is dropped.
    pub(super) async fn turn(&mut self) {
        if self.turn.is_none() {
            // Nobody closes it.
            self.turn = Arc::clone(&self.turns).acquire_owned().await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Room;

    #[test]
    fn what_is_taken_in_is_bounded_in_number_and_bytes() {
        let room = Room::new(3, 100, 1);
        let large = room.take(90).unwrap();
        assert!(room.take(11).is_none(), "too many bytes");
        let small: Vec<_> = (0..2).map(|_| room.take(5).unwrap()).collect();
        assert!(room.take(0).is_none(), "too many requests");
        drop(large);
        assert!(room.take(90).is_some(), "there is room again");
        drop(small);
        assert!(room.take(101).is_none());
    }

    #[tokio::test]
    async fn large_answers_have_their_turn() {
        let room = Room::new(2, 100, 1);
        let (mut first, mut second) = (room.take(1).unwrap(), room.take(1).unwrap());
        first.turn().await;
        let waiting = tokio::spawn(async move { second.turn().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "the first has not been sent");
        drop(first);
        waiting.await.unwrap();
    }
}
