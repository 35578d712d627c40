//! What a client sends, on its way into the router.

use crate::budget::Share;
use crate::gate::Gate;
use crate::host::Attachment;
use crate::link::{Batches, Reader, split_batch};
use crate::pressure::SlowReader;
use crate::rules::{Decision, InboundRules, Operation};
use crate::seat::Seat;
use crate::session::End;
use crate::wire::{Found, Inbound, Violation};
use bulkhead_policy::DenyReason;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use zenoh_buffers::ZSlice;
use zenoh_protocol::network::interest::InterestMode;
use zenoh_protocol::network::{DeclareBody, NetworkBody, NetworkMessage, NetworkMessageExt};

/// How long a session whose tenant is over its rate waits before it asks again: first, and at most. All that
/// wait share what there is, and none waits so long that a burst would be lost.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(320));

/// How often a session that waits for another one's client is said not to be silent.
const NOTICE: Duration = Duration::from_millis(100);

/// Reads a client's batches and gives the router what is allowed of them.
pub(crate) struct Ingress {
    batches: Batches<Reader>,
    inbound: Inbound,
    /// What the session keeps of messages in pieces.
    pieces: Share,
    door: Door,
}

/// Where checked messages go through.
struct Door {
    rules: InboundRules,
    attachment: Attachment,
    seat: Arc<Seat>,
    gate: Arc<Gate>,
    /// What went through and is not counted yet.
    messages: u64,
    /// Who has to catch up before more is read.
    waits_for: Option<Arc<SlowReader>>,
}

/// Whether the client goes on.
enum Flow {
    Open,
    Closed,
}

/// How far reading of a batch came.
#[expect(clippy::large_enum_variant, reason = "it is only passed on, and a box costs more")]
enum Progress {
    /// To the end of the batch.
    End,
    /// To a message that is allowed, but not yet: the tenant publishes more per second than it may.
    Early(NetworkMessage),
    /// To where the client closes.
    Closed,
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
        let pieces = seat.tenant.kept_bytes();
        let door = Door { rules, attachment, seat, gate, messages: 0, waits_for: None };
        Self { batches: Batches::new(reader), inbound, pieces, door }
    }

    /// Reads until the session ends.
    pub(crate) async fn run(mut self) -> End {
        let seat = Arc::clone(&self.door.seat);
        let end = seat.kill.run_until_cancelled(self.read()).await.unwrap_or(End::Killed);
        self.door.count();
        end
    }

    async fn read(&mut self) -> End {
        loop {
            let batches = &mut self.batches;
            let read = poll_fn(|cx| batches.poll(cx, |_, whole| whole.keep())).await;
            let Ok((bytes, len)) = read else { return End::Client };
            self.door.seat.heard();
            match self.take(bytes, len).await {
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
            self.door.count();
            if let Some(reader) = self.door.waits_for.take() {
                // It catches up, or is closed, within a time of its own.
                while timeout(NOTICE, reader.eased.cancelled()).await.is_err() {
                    self.door.seat.heard();
                }
            }
        }
    }

    /// Goes through the batches that a buffer has in its first `len` bytes.
    async fn take(&mut self, bytes: Arc<Vec<u8>>, len: usize) -> Result<Flow, Violation> {
        let mut rest = bytes.get(..len).unwrap_or_default();
        while let Some((batch, after)) = split_batch(rest) {
            let end = len - after.len();
            // Both ends are within: they come of the same bytes.
            let Ok(mut slice) = ZSlice::new(Arc::clone(&bytes) as _, end - batch.len(), end) else {
                return Err(Violation::Malformed);
            };
            loop {
                match self.read_on(&mut slice)? {
                    Progress::End => break,
                    Progress::Early(message) => self.door.keep_to_rate(message).await,
                    Progress::Closed => return Ok(Flow::Closed),
                }
            }
            if !self.pieces.hold(self.inbound.kept()) {
                self.inbound.forget_pieces();
                self.pieces.hold(0);
                let Door { gate, seat, .. } = &self.door;
                gate.denied(seat, Operation::Put, DenyReason::QueueQuotaExceeded);
            }
            rest = after;
        }
        Ok(Flow::Open)
    }

    fn read_on(&mut self, batch: &mut ZSlice) -> Result<Progress, Violation> {
        while let Some(found) = self.inbound.next(batch)? {
            match found {
                Found::Message(message) => {
                    if let Some(early) = self.door.message(message)? {
                        return Ok(Progress::Early(early));
                    }
                }
                Found::TooLarge => {
                    let Door { gate, seat, .. } = &self.door;
                    gate.denied(seat, Operation::Put, DenyReason::PayloadQuotaExceeded);
                }
                Found::Close => return Ok(Progress::Closed),
            }
        }
        Ok(Progress::End)
    }
}

impl Door {
    /// Lets a message through if it is allowed; gives it back if it is, but not yet.
    fn message(
        &mut self,
        mut message: NetworkMessage,
    ) -> Result<Option<NetworkMessage>, Violation> {
        if self.seat.kill.is_cancelled() {
            return Ok(None);
        }
        match self.rules.decide(&mut message)? {
            Decision::Pass if self.is_early(&message) => return Ok(Some(message)),
            Decision::Pass => self.pass(message),
            Decision::Deny(reason, operation, answer) => {
                self.gate.denied(&self.seat, operation, reason);
                if let Some(mut answer) = answer {
                    let _ = self.attachment.answer(&mut answer);
                }
            }
            Decision::Ignore => {}
        }
        Ok(None)
    }

    /// Takes what the tenant may publish or declare per second, unless that much has come already.
    fn is_early(&self, message: &NetworkMessage) -> bool {
        let tenant = &self.seat.tenant;
        if is_published(message) {
            !tenant.publish(message.payload_size().unwrap_or_default())
        } else {
            is_declared(message) && !tenant.may_declare()
        }
    }

    /// Lets a message through when the tenant's rates do. Nothing behind it is read before.
    async fn keep_to_rate(&mut self, message: NetworkMessage) {
        self.count();
        let declared = is_declared(&message);
        let operation = if declared { Operation::Declare } else { Operation::Put };
        self.gate.denied(&self.seat, operation, DenyReason::MessageRateExceeded);
        let (began, mut pause) = (Instant::now(), PAUSE.0);
        while self.is_early(&message) {
            self.seat.not_read(began);
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSE.1);
        }
        self.pass(message);
    }

    fn pass(&mut self, mut message: NetworkMessage) {
        self.messages += u64::from(is_published(&message));
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

    /// Counts what went through, once for all messages of a read.
    fn count(&mut self) {
        self.rules.count();
        let messages = std::mem::take(&mut self.messages);
        self.seat.messages.fetch_add(messages, Ordering::Relaxed);
    }
}

/// Whether a message is one that the router compares with all names that it has.
fn is_declared(message: &NetworkMessage) -> bool {
    use DeclareBody::{DeclareKeyExpr, DeclareQueryable, DeclareSubscriber, DeclareToken};
    match &message.body {
        NetworkBody::Interest(interest) => interest.mode != InterestMode::Final,
        NetworkBody::Declare(declare) => matches!(
            declare.body,
            DeclareKeyExpr(_) | DeclareSubscriber(_) | DeclareQueryable(_) | DeclareToken(_)
        ),
        _ => false,
    }
}

/// Whether a message is one that the tenant's quotas limit.
fn is_published(message: &NetworkMessage) -> bool {
    use NetworkBody::{Push, Request, Response};
    matches!(message.body, Push(_) | Request(_) | Response(_))
}
