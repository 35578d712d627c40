//! What the tests of this crate share.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each test file uses a part of it, and a test stops at a surprise"
)]

pub mod capture;
pub mod endpoint;
pub mod proxy;
pub mod signer;
pub mod site;

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

/// How long anything that has to come about may take, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Looks again and again until there is something to see.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// [`until`] for a condition.
pub async fn until_true(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, async || holds().then_some(())).await;
}

/// What has to end by itself, within a bound.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Several cases side by side, in this one task.
pub async fn all(cases: impl IntoIterator<Item = impl Future<Output = ()>>) {
    let mut running: Vec<_> = cases.into_iter().map(Box::pin).collect();
    poll_fn(|context| {
        running.retain_mut(|case| case.as_mut().poll(context).is_pending());
        if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
