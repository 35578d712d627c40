//! The decision on each message of a client, and the way into the router.

use crate::aside::Aside;
use crate::gate::Gate;
use crate::host::Attachment;
use crate::pressure::{Passing, SlowReader};
use crate::rules::{Decision, InboundRules, Operation};
use crate::seat::Seat;
use crate::wire::Violation;
use bulkhead_policy::{DenyReason, KeyExpr};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::task::block_in_place;
use tokio::time::timeout;
use zenoh_protocol::network::interest::{InterestId, InterestMode, InterestOptions};
use zenoh_protocol::network::{
    Declare, DeclareBody, DeclareKeyExpr, Interest, NetworkBody, NetworkMessage, NetworkMessageExt,
    UndeclareKeyExpr, ext,
};

/// How long a session whose tenant is over its rate waits before it asks again: first, and at most. All that
/// wait share what there is, and none waits so long that a burst would be lost.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(320));

/// Messages of one client after which others have their turn: a few milliseconds' worth. One that is compared with
/// what others have declared counts for all of them.
const TURN: usize = 4096;

/// How often a session that waits for another one's client is said not to be silent.
const NOTICE: Duration = Duration::from_millis(100);

/// Where messages are checked, and go through.
pub(crate) struct Door {
    rules: InboundRules,
    attachment: Attachment,
    pub(crate) seat: Arc<Seat>,
    gate: Arc<Gate>,
    /// What went through and is not counted yet.
    messages: u64,
    /// Messages since others had their turn.
    turn: usize,
    /// What is allowed, but not yet.
    early: Option<Box<NetworkMessage>>,
    /// Who has to catch up before more is read.
    waits_for: Option<Arc<SlowReader>>,
    aside: Aside,
}

impl Door {
    /// One for a session that is open.
    pub(crate) fn new(
        rules: InboundRules,
        attachment: Attachment,
        seat: Arc<Seat>,
        gate: Arc<Gate>,
    ) -> Self {
        Self {
            rules,
            attachment,
            seat,
            gate,
            messages: 0,
            turn: 0,
            early: None,
            waits_for: None,
            aside: Aside::default(),
        }
    }

    /// Whether others should have their turn before the next message. Asked once for each turn: a new one begins.
    pub(crate) fn is_others_turn(&mut self) -> bool {
        let is_others = self.turn >= TURN;
        if is_others {
            self.turn = 0;
        }
        is_others
    }

    /// Lets a message through if it is allowed. Says whether it is, but not yet: then
    /// [`keep_to_rate`](Self::keep_to_rate) comes before the next one.
    ///
    /// # Errors
    /// [`Violation`] if the session has to end.
    pub(crate) fn message(&mut self, message: &mut NetworkMessage) -> Result<bool, Violation> {
        if self.seat.kill.is_cancelled() {
            return Ok(false);
        }
        match self.rules.decide(message)? {
            Decision::Pass if self.is_early(message) => {
                self.early = Some(Box::new(message.clone()));
                return Ok(true);
            }
            Decision::Pass => self.pass(message),
            Decision::Deny(reason, operation, answer) => {
                self.denied(operation, reason);
                if let Some(mut answer) = answer {
                    let _ = self.attachment.answer(&mut answer);
                }
            }
            Decision::Ignore => {}
        }
        Ok(false)
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

    /// Lets what is early through when the tenant's rates do. Nothing behind it is read before.
    pub(crate) async fn keep_to_rate(&mut self) {
        let Some(mut message) = self.early.take() else { return };
        self.count();
        let declared = is_declared(&message);
        let operation = if declared { Operation::Declare } else { Operation::Put };
        self.denied(operation, DenyReason::MessageRateExceeded);
        let (began, mut pause) = (Instant::now(), PAUSE.0);
        while self.is_early(&message) {
            self.seat.not_read(began);
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSE.1);
        }
        self.apart(|door| door.pass(&mut message));
    }

    fn pass(&mut self, message: &mut NetworkMessage) {
        self.messages += u64::from(is_published(message));
        self.turn += 1;
        if self.seat.tenant.is_anybody_behind() && !message.is_droppable() {
            self.turn = TURN;
            self.waits_for = self.slow_reader_of(message).or(self.waits_for.take());
        }
        if matches!(message.body, NetworkBody::Declare(_) | NetworkBody::Interest(_)) {
            self.turn = TURN;
            self.declare(message);
        } else {
            self.inject(message);
        }
    }

    /// Lets a declaration, or an interest, through. The time that it takes the router is its tenant's to pay.
    fn declare(&mut self, message: &mut NetworkMessage) {
        let began = processor_time();
        self.inject(message);
        if let Some(key) = self.rules.passed() {
            self.forget(&key);
        }
        self.seat.tenant.declared(processor_time().saturating_sub(began));
    }

    fn inject(&self, message: &mut NetworkMessage) {
        if let Err(error) = self.attachment.inject(message) {
            tracing::debug!(%error, "the router did not take a message");
        }
    }

    /// Who has to catch up before more like this message is read.
    fn slow_reader_of(&self, message: &NetworkMessage) -> Option<Arc<SlowReader>> {
        let tenant = &self.seat.tenant;
        let (expr, is_query) = match &message.body {
            NetworkBody::Push(push) => (&push.wire_expr, false),
            NetworkBody::Request(request) => (&request.wire_expr, true),
            NetworkBody::Response(_) => return tenant.waits_for(Passing::Reply),
            _ => return None,
        };
        let key = self.rules.key_of(expr)?;
        let keys = KeyExpr::parse(&key).ok()?;
        tenant.waits_for(if is_query { Passing::Query(keys) } else { Passing::Put(keys) })
    }

    /// Makes the router forget the key of an interest that has ended. By itself it does so with all other declarations,
    /// but with this only when an id of the key is taken back.
    fn forget(&self, key: &str) {
        let Some(id) = self.rules.unused_id() else { return };
        let name = DeclareKeyExpr { id, wire_expr: key.to_owned().into() };
        for body in [
            DeclareBody::DeclareKeyExpr(name),
            DeclareBody::UndeclareKeyExpr(UndeclareKeyExpr { id }),
        ] {
            self.inject(&mut declaration(body));
        }
    }

    /// Takes back what the router would remember when the session has ended.
    pub(crate) async fn leave(&mut self) {
        while !self.attachment.has_closed()
            && let Some((id, key)) = self.rules.take_back()
        {
            self.apart(|door| {
                door.inject(&mut end_of_interest(id));
                if let Some(key) = key {
                    door.forget(&key);
                }
            });
            tokio::task::yield_now().await;
        }
    }

    /// Hands the router something, apart from the thread's other sessions if it may hold this one up: they
    /// would wait, too.
    pub(crate) fn apart<T>(&mut self, handing: impl FnOnce(&mut Self) -> T) -> T {
        let started = Instant::now();
        let done = if self.aside.is_wanted(started) || self.gate.host.may_wait() {
            block_in_place(|| handing(self))
        } else {
            handing(self)
        };
        self.aside.took(started);
        done
    }

    /// Waits until whoever gets what was sent has caught up, or is closed, within a time of its own.
    pub(crate) async fn wait_for_slow_readers(&mut self) {
        let Some(reader) = self.waits_for.take() else { return };
        while timeout(NOTICE, reader.eased.cancelled()).await.is_err() {
            self.seat.heard();
        }
    }

    /// Counts a denial of what never came to a decision.
    pub(crate) fn denied(&self, operation: Operation, reason: DenyReason) {
        self.gate.denied(&self.seat, operation, reason);
    }

    /// Counts what went through, once for all messages of a read.
    pub(crate) fn count(&mut self) {
        self.rules.count();
        let messages = std::mem::take(&mut self.messages);
        self.seat.messages.fetch_add(messages, Ordering::Relaxed);
    }
}

/// Processor time of this thread: waiting for the router's locks, which others hold, is not the sender's to pay.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

fn declaration(body: DeclareBody) -> NetworkMessage {
    NetworkBody::Declare(Declare {
        interest_id: None,
        ext_qos: ext::QoSType::DECLARE,
        ext_tstamp: None,
        ext_nodeid: ext::NodeIdType::DEFAULT,
        body,
    })
    .into()
}

fn end_of_interest(id: InterestId) -> NetworkMessage {
    NetworkBody::Interest(Interest {
        id,
        mode: InterestMode::Final,
        options: InterestOptions::empty(),
        wire_expr: None,
        ext_qos: ext::QoSType::DECLARE,
        ext_tstamp: None,
        ext_nodeid: ext::NodeIdType::DEFAULT,
    })
    .into()
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
