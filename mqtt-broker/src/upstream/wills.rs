//! Wills that wait in the broker after their client has gone (MQTT 5 §3.1.3.2.2), and are taken back
//! if its rights go too.

use super::Upstream;
use super::hello::{self, Failure};
use crate::codec::{ReasonCode, Version, client_disconnect};
use crate::hook::{Access, Renewal};
use crate::realm::SessionKey;
use bulkhead_policy::{DenyReason, Verdict};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};

/// Wills of one tenant that may wait. Whoever goes when there are more has none.
const MAX_WAITING: usize = 10_000;

/// Pause after one could not be taken back.
const PAUSE: Duration = Duration::from_secs(1);

/// A client's will.
#[derive(Clone, Debug)]
pub(super) struct Will {
    /// Its topic, as rights are written.
    pub(super) topic: Box<str>,
    /// Bytes of its payload.
    pub(super) bytes: usize,
    /// Seconds that it waits.
    pub(super) delay: u32,
    /// The client id on the broker.
    pub(super) client_id: Box<str>,
}

/// The wills of one tenant that wait.
#[derive(Debug, Default)]
pub(super) struct Wills(Mutex<HashMap<SessionKey, Waiting>>);

/// One of them.
pub(super) struct Waiting {
    will: Will,
    access: Arc<dyn Access>,
    until: Instant,
    /// Seconds that the session outlives its connection.
    expiry: u32,
}

/// Whether a will of this topic may be published now.
///
/// # Errors
/// Why not.
pub(super) fn may_publish(access: &dyn Access, topic: &str) -> Verdict<()> {
    access.renew().and_then(|renewal| match renewal {
        Renewal::Unchanged => access.publish(topic),
        Renewal::Changed(access) => access.publish(topic),
    })
}

impl Wills {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client has gone, and its will waits. `false` if there are too many.
    pub(super) fn wait(
        &self,
        key: SessionKey,
        will: Will,
        access: Arc<dyn Access>,
        expiry: u32,
    ) -> bool {
        let mut all = self.lock();
        if all.len() >= MAX_WAITING && !all.contains_key(&key) {
            return false;
        }
        let until = Instant::now() + Duration::from_secs(will.delay.min(expiry).into());
        all.insert(key, Waiting { will, access, until, expiry });
        true
    }

    /// The client is back: the broker has forgotten the will.
    pub(super) fn forget(&self, key: &SessionKey) {
        self.lock().remove(key);
    }

    pub(super) fn are_none(&self) -> bool {
        self.lock().is_empty()
    }

    /// Forgets those that have been published.
    pub(super) fn expire(&self) {
        let now = Instant::now();
        self.lock().retain(|_, waiting| waiting.until > now);
    }

    /// Takes out those that may not be published any more, and why.
    pub(super) fn denied(&self) -> Vec<(Waiting, DenyReason)> {
        self.expire();
        let mut denied = Vec::new();
        let mut all = self.lock();
        let reasons: Vec<_> = all
            .iter()
            .filter_map(|(key, waiting)| {
                let allowed = may_publish(&*waiting.access, &waiting.will.topic);
                allowed.err().map(|reason| (key.clone(), reason))
            })
            .collect();
        for (key, reason) in reasons {
            denied.extend(all.remove(&key).map(|waiting| (waiting, reason)));
        }
        denied
    }
}

/// Has the broker forget a will: a connection to its session does, before the will is due.
pub(super) async fn take_back(upstream: Arc<Upstream>, waiting: Waiting) {
    while Instant::now() < waiting.until {
        match timeout(super::health::ANSWER, reconnect(&upstream, &waiting)).await {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => {
                tracing::debug!(%failure, "mqtt.upstream: a will was not taken back yet");
            }
            Err(_) => {}
        }
        sleep(PAUSE).await;
    }
}

async fn reconnect(upstream: &Upstream, waiting: &Waiting) -> Result<(), Failure> {
    let mut stream = upstream.dialer.dial().await?;
    let id = &waiting.will.client_id;
    let answer =
        hello::introduce(&mut stream, &hello::resume(upstream, id, waiting.expiry)).await?;
    hello::accepts(&answer, Version::V5)?;
    let mut out = Vec::new();
    client_disconnect(&mut out, Version::V5, ReasonCode::NORMAL_DISCONNECTION, &[]);
    stream.write_all(&out).await?;
    Ok(stream.shutdown().await?)
}

impl Waiting {
    pub(super) fn access(&self) -> &dyn Access {
        &*self.access
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("will", &self.will).finish_non_exhaustive()
    }
}
