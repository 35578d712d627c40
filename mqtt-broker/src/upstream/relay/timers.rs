//! Who was silent for too long, and whose token has expired.

use super::io::Side;
use super::{End, Relay};
use crate::codec::{ReasonCode, pingreq};
use bulkhead_policy::DenyReason;
use jiff::Timestamp;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// How long the broker may be silent after it was asked whether it is there.
const SILENCE: Duration = Duration::from_secs(10);

/// Longest time between two looks at the timers.
const LOOK: Duration = Duration::from_secs(3600);

/// What keeps the connection to the broker alive, and tells when it is not.
#[derive(Debug)]
pub(super) struct Pulse {
    /// How long nothing may be sent.
    every: Option<Duration>,
    pub(super) last_sent: Instant,
    /// When the broker was asked whether it is there, if it has not done anything since.
    pub(super) asked: Option<Instant>,
}

impl Pulse {
    /// Nothing was sent yet, and something has to be as often as that.
    pub(super) fn new(every: Option<Duration>) -> Self {
        Self { every, last_sent: Instant::now(), asked: None }
    }
}

impl Relay {
    /// Ends the relay if somebody was silent for too long or the token has expired, and lets the
    /// broker hear from the front.
    pub(super) fn look(&mut self, timer: Pin<&mut Sleep>) -> Result<(), End> {
        let now = Instant::now();
        if self.keep_alive.is_some_and(|longest| now >= self.last_heard + longest) {
            if self.takes_from(Side::Client) {
                return Err(End::Closed(ReasonCode::KEEP_ALIVE_TIMEOUT));
            }
            // It may have said much that nobody has read.
            self.last_heard = now;
        }
        if self.access.expires_at().is_some_and(|end| end <= Timestamp::now()) {
            return Err(End::Denied(DenyReason::TokenExpired));
        }
        if self.pulse.asked.is_some_and(|asked| now >= asked + SILENCE) {
            if self.takes_from(Side::Broker) {
                return Err(End::BrokerGone);
            }
            self.pulse.asked = Some(now);
        }
        if self.pulse.every.is_some_and(|every| now >= self.pulse.last_sent + every) {
            self.pulse.last_sent = now;
            self.pulse.asked.get_or_insert(now);
            pingreq(self.broker.out());
        }
        timer.reset(self.next_look());
        Ok(())
    }

    pub(super) fn next_look(&self) -> Instant {
        let now = Instant::now();
        let expiry = self.access.expires_at().map(|end| {
            let left = end.duration_since(Timestamp::now());
            // A moment more, so that it has passed.
            now + Duration::try_from(left).unwrap_or_default().min(LOOK) + Duration::from_millis(5)
        });
        let silence = self.keep_alive.map(|longest| self.last_heard + longest);
        let ask = self.pulse.every.map(|every| self.pulse.last_sent + every);
        let answer = self.pulse.asked.map(|asked| asked + SILENCE);
        let all = [expiry, silence, ask, answer];
        all.into_iter().flatten().min().unwrap_or(now + LOOK).min(now + LOOK)
    }
}
