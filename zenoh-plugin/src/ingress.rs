//! What a client sends, on its way into the router.

use crate::gate::Gate;
use crate::host::Attachment;
use crate::link::{Batches, Reader, split_batch};
use crate::pressure::SlowReader;
use crate::rules::{Decision, InboundRules, Operation};
use crate::seat::Seat;
use crate::session::End;
use crate::wire::{Flow, Inbound, Sink, Violation};
use bulkhead_policy::DenyReason;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use zenoh_buffers::ZSlice;
use zenoh_protocol::network::{NetworkBody, NetworkMessage, NetworkMessageExt};

/// How long a session that is over its tenant's rate waits before it asks again.
const PAUSE: Duration = Duration::from_millis(10);

/// Reads a client's batches and gives the router what is allowed of them.
pub(crate) struct Ingress {
    batches: Batches<Reader>,
    inbound: Inbound,
    door: Door,
}

/// Where checked messages go through.
struct Door {
    rules: InboundRules,
    attachment: Attachment,
    seat: Arc<Seat>,
    gate: Arc<Gate>,
    /// What came since the rate was last asked for.
    messages: u64,
    bytes: u64,
    /// Who has to catch up before more is read.
    waits_for: Option<Arc<SlowReader>>,
}

impl Ingress {
    /// A way in for one session.
    pub(crate) fn new(
        reader: Reader,
        inbound: Inbound,
        rules: InboundRules,
        attachment: Attachment,
        seat: Arc<Seat>,
        gate: Arc<Gate>,
    ) -> Self {
        let door = Door { rules, attachment, seat, gate, messages: 0, bytes: 0, waits_for: None };
        Self { batches: Batches::new(reader), inbound, door }
    }

    /// Reads until the session ends.
    pub(crate) async fn run(mut self) -> End {
        let seat = Arc::clone(&self.door.seat);
        seat.kill.run_until_cancelled(self.read()).await.unwrap_or(End::Killed)
    }

    async fn read(&mut self) -> End {
        loop {
            let batches = &mut self.batches;
            let read = poll_fn(|cx| batches.poll(cx, |_, whole| whole.to_vec())).await;
            let Ok(whole) = read else { return End::Client };
            self.door.seat.heard();
            let taken = self.take(whole);
            self.door.rules.count();
            match taken {
                Ok(Flow::Open) => {}
                Ok(Flow::Closed) => return End::Client,
                Err(violation) => {
                    let full = [Violation::TooManyDeclarations, Violation::TenantHasTooMany];
                    if full.contains(&violation) {
                        let Door { gate, seat, .. } = &self.door;
                        let reason = DenyReason::SubscriptionQuotaExceeded;
                        gate.denied(seat, Operation::Declare, reason);
                    }
                    return End::Violation(violation);
                }
            }
            if let Some(reader) = self.door.waits_for.take() {
                reader.eased.cancelled().await;
            }
            self.keep_to_rate().await;
        }
    }

    fn take(&mut self, whole: Vec<u8>) -> Result<Flow, Violation> {
        let bytes = Arc::new(whole);
        let mut rest = bytes.as_slice();
        while let Some((batch, after)) = split_batch(rest) {
            let end = bytes.len() - after.len();
            // Both ends are within: they come of the same bytes.
            let Ok(slice) = ZSlice::new(Arc::clone(&bytes) as _, end - batch.len(), end) else {
                return Err(Violation::Malformed);
            };
            if self.inbound.batch(slice, &mut self.door)? == Flow::Closed {
                return Ok(Flow::Closed);
            }
            rest = after;
        }
        Ok(Flow::Open)
    }

    /// Reads no further while the tenant publishes more per second than it may.
    async fn keep_to_rate(&mut self) {
        let door = &mut self.door;
        let (messages, bytes) =
            (std::mem::take(&mut door.messages), std::mem::take(&mut door.bytes));
        door.seat.messages.fetch_add(messages, Ordering::Relaxed);
        if messages == 0 || door.seat.tenant.publish(messages, bytes) {
            return;
        }
        door.gate.denied(&door.seat, Operation::Put, DenyReason::MessageRateExceeded);
        while !door.seat.tenant.publish(messages, bytes) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Sink for Door {
    fn message(&mut self, mut message: NetworkMessage) -> Result<(), Violation> {
        if self.seat.kill.is_cancelled() {
            return Ok(());
        }
        match self.rules.decide(&mut message)? {
            Decision::Pass => {
                if let NetworkBody::Push(_) | NetworkBody::Request(_) | NetworkBody::Response(_) =
                    &message.body
                {
                    self.messages += 1;
                    self.bytes += message.payload_size().unwrap_or_default() as u64;
                }
                if self.seat.tenant.pressure.is_any()
                    && let NetworkBody::Push(push) = &message.body
                    && !message.is_droppable()
                    && let Some(key) = self.rules.key_of(&push.wire_expr)
                    && let Some(reader) = self.seat.tenant.pressure.on(&key)
                {
                    self.waits_for = Some(reader);
                }
                if let Err(error) = self.attachment.inject(&mut message) {
                    tracing::debug!(%error, "the router did not take a message");
                }
            }
            Decision::Deny(reason, operation, answer) => {
                self.gate.denied(&self.seat, operation, reason);
                if let Some(mut answer) = answer {
                    let _ = self.attachment.answer(&mut answer);
                }
            }
            Decision::Ignore => {}
        }
        Ok(())
    }

    fn too_large(&mut self) {
        self.gate.denied(&self.seat, Operation::Put, DenyReason::PayloadQuotaExceeded);
    }
}
