use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long anything may take that has to happen. Far beyond what it takes: tests do not measure.
pub const WITHIN: Duration = Duration::from_secs(20);

/// Waits until a condition holds.
///
/// # Panics
/// If it does not in time.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    eventually_async(what, async || holds()).await;
}

/// Waits until an asynchronous condition holds.
///
/// # Panics
/// If it does not in time.
pub async fn eventually_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !holds().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
