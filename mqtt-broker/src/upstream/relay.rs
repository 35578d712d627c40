//! One client's two connections, and the moments at which they end.

use super::Upstream;
use super::hello::Terms;
use super::names::Names;
use super::pipe::{Pipe, poll_read};
use super::requests::Requests;
use super::subscriptions::Open;
use super::tenancy::Seat;
use super::up::Up;
use super::wills::{self, Will};
use crate::broker::Shared;
use crate::codec::{
    DecodeError, Frame, Packet, Property, ReasonCode, ServerPacket, Version, client_disconnect,
    disconnect, pingreq, unsubscribe,
};
use crate::connection::Arrival;
use crate::hook::{Access, Noted, Operation};
use bulkhead_policy::DenyReason;
use jiff::Timestamp;
use std::collections::HashSet;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// Bytes that wait for one side before nothing more is read from the other.
const WAITING_BYTES: usize = 256 * 1024;

/// Bytes that wait for one side before nothing more is read from that side itself: whoever does not
/// take answers may not ask for more. Besides, there is room for one packet of the other side.
const UNTAKEN_BYTES: usize = 4 * 1024 * 1024;

/// How long the last packets may take to get to the client.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long they may take to get to the broker: among them is what keeps it from publishing a will.
const FAREWELL: Duration = Duration::from_secs(8);

/// How long the broker may be silent after it was asked whether it is there.
const SILENCE: Duration = Duration::from_secs(10);

/// Longest time between two looks at the timers.
const LOOK: Duration = Duration::from_secs(3600);

/// Filters in one UNSUBSCRIBE of the front's own.
const FILTERS: usize = 64;

/// Bounds of packets, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The largest that the client takes.
    pub(super) client: usize,
    /// The largest that the broker may send.
    pub(super) from_broker: usize,
    /// The largest that the broker takes.
    pub(super) to_broker: usize,
}

/// A client that has its connection to the broker.
pub(crate) struct Relay {
    pub(super) shared: Arc<Shared>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) seat: Seat,
    pub(super) access: Arc<dyn Access>,
    /// The handle's count of rights that `access` belongs to.
    rights: u64,
    pub(super) names: Names,
    pub(super) version: Version,
    pub(super) source: IpAddr,
    /// The verified leaf of the client's certificate, in DER: it counts when the client renews, too.
    pub(super) certificate: Option<Vec<u8>>,
    pub(super) client_id: Box<str>,
    /// What the client proved itself with by AUTH at CONNECT; it may do so again.
    pub(super) method: Option<Box<str>>,
    pub(super) client: Pipe,
    pub(super) broker: Pipe,
    pub(super) limits: Limits,
    pub(super) up: Up,
    pub(super) requests: Requests,
    /// Subscriptions of the session.
    pub(super) open: Open,
    /// Messages of QoS 2 that the broker sent and the client does not get.
    pub(super) withheld: HashSet<u16>,
    /// The last topic that the client may receive: most hear the same again and again.
    pub(super) heard: String,
    pub(super) will: Option<Will>,
    /// Seconds that the session outlives the connection.
    pub(super) expiry: u32,
    keep_alive: Option<Duration>,
    pub(super) last_heard: Instant,
    pulse: Pulse,
}

/// What keeps the connection to the broker alive, and tells when it is not.
#[derive(Debug)]
struct Pulse {
    /// How long nothing may be sent.
    every: Option<Duration>,
    last_sent: Instant,
    /// When the broker was asked whether it is there, if it has not done anything since.
    asked: Option<Instant>,
}

/// Why a relay ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client said DISCONNECT, and the broker is told.
    Goodbye,
    /// The client's network.
    Gone,
    /// The client broke a rule, or may not stay.
    Closed(ReasonCode),
    /// The same, because of a decision.
    Denied(DenyReason),
    /// Another connection has the session.
    TakenOver,
    /// The broker's network, or its silence.
    BrokerGone,
    /// The broker ended the connection.
    BrokerClosed(ReasonCode),
    /// The broker sent what is no answer.
    BrokerBroken(&'static str),
}

/// Who sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Broker,
}

/// Everything that a relay begins with.
pub(super) struct Beginning {
    pub(super) shared: Arc<Shared>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) seat: Seat,
    pub(super) names: Names,
    pub(super) version: Version,
    pub(super) source: IpAddr,
    pub(super) client_id: Box<str>,
    pub(super) method: Option<Box<str>>,
    pub(super) broker: Pipe,
    pub(super) terms: Terms,
    /// Subscriptions of the session, maybe from before.
    pub(super) open: Open,
}

impl Relay {
    pub(super) fn new(beginning: Beginning, arrival: Arrival, rest: Vec<u8>) -> Self {
        let terms = beginning.terms;
        let mut client = Pipe::new(arrival.stream, rest);
        client.out().extend_from_slice(&terms.connack);
        // MQTT 5 §3.1.2.10: one and a half times the keep alive.
        let silence = Duration::from_millis(u64::from(terms.keep_alive) * 1500);
        let every = Duration::from_millis(u64::from(terms.broker_keep_alive) * 500);
        let now = Instant::now();
        Self {
            shared: beginning.shared,
            upstream: beginning.upstream,
            access: beginning.seat.handle.access(),
            // Subscriptions of before are looked at again.
            rights: u64::MAX,
            seat: beginning.seat,
            names: beginning.names,
            version: beginning.version,
            source: beginning.source,
            certificate: arrival.certificate,
            client_id: beginning.client_id,
            method: beginning.method,
            client,
            broker: beginning.broker,
            limits: terms.limits,
            up: Up::default(),
            requests: Requests::default(),
            open: beginning.open,
            withheld: HashSet::new(),
            heard: String::new(),
            will: terms.will,
            expiry: terms.expiry,
            keep_alive: (terms.keep_alive > 0).then_some(silence),
            last_heard: now,
            pulse: Pulse {
                every: (!every.is_zero()).then_some(every),
                last_sent: now,
                asked: None,
            },
        }
    }

    /// Serves the client until it ends.
    pub(crate) async fn run(mut self) {
        let end = self.serve().await;
        let reason = match end {
            End::Closed(reason) | End::BrokerClosed(reason) => Some(reason),
            End::Denied(reason) => {
                self.access.note(Noted::Terminated(reason));
                Some(crate::realm::closing_reason(reason))
            }
            End::TakenOver => Some(ReasonCode::SESSION_TAKEN_OVER),
            End::BrokerGone => {
                self.upstream.metrics.lost.inc();
                self.upstream.health.suspect();
                Some(ReasonCode::SERVER_SHUTTING_DOWN)
            }
            End::BrokerBroken(what) => {
                self.upstream.metrics.lost.inc();
                tracing::warn!(what, "mqtt.upstream: the broker sent something wrong");
                Some(ReasonCode::UNSPECIFIED_ERROR)
            }
            End::Goodbye | End::Gone => None,
        };
        let broker_is_there =
            !matches!(end, End::BrokerGone | End::BrokerClosed(_) | End::BrokerBroken(_));
        if end != End::Goodbye && !self.leave_will() && broker_is_there {
            // Whose rights are gone has no will either; without this, the broker would publish it.
            let normal = ReasonCode::NORMAL_DISCONNECTION;
            client_disconnect(self.broker.out(), self.version, normal, &[]);
        }
        let Self { seat, mut client, mut broker, version, .. } = self;
        let outlives = Duration::from_secs(self.expiry.into());
        let counter = &seat.tenancy.usage.subscriptions;
        seat.tenancy.sessions.detach(&seat.handle, outlives, counter);
        // The place is free before the last bytes have left.
        drop(seat);
        if let Some(reason) = reason {
            tracing::debug!(client = %self.client_id, %reason, "closed");
            if version == Version::V5 {
                disconnect(client.out(), version, reason, &[]);
            }
        }
        let ends_broker = async {
            if broker_is_there {
                // Whoever does not take it goes without.
                let _ = timeout(FAREWELL, broker.finish()).await;
            }
        };
        let ends_client = async {
            if reason.is_some() {
                let _ = timeout(GOODBYE, client.finish()).await;
            }
        };
        tokio::join!(ends_broker, ends_client);
    }

    /// The client has gone, and has not taken its will with it. Whether the broker may publish that.
    pub(super) fn leave_will(&self) -> bool {
        let Some(will) = &self.will else { return true };
        if let Err(reason) = wills::may_publish(&*self.access, &will.topic) {
            self.denied(Operation::Will, reason);
            return false;
        }
        let handle = &self.seat.handle;
        if will.delay.min(self.expiry) == 0 || handle.ending() == Some(End::TakenOver) {
            return true;
        }
        let access = Arc::clone(&self.access);
        let waits =
            self.seat.tenancy.wills.wait(handle.key.clone(), will.clone(), access, self.expiry);
        if !waits {
            self.denied(Operation::Will, DenyReason::Overloaded);
        }
        waits
    }

    async fn serve(&mut self) -> End {
        match self.work().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn work(&mut self) -> Result<std::convert::Infallible, End> {
        let handle = Arc::clone(&self.seat.handle);
        let stop = self.shared.stop.clone();
        let mut timer = Box::pin(sleep_until(self.next_look()));
        loop {
            if let Some(token) = self.up.reauthentication.take() {
                self.reauthenticate(&token).await?;
            }
            if self.look_at_rights()? {
                timer.as_mut().reset(self.next_look());
            }
            for side in [Side::Client, Side::Broker] {
                if self.pipe(side).is_held && self.takes_from(side) {
                    self.receive(side, &[])?;
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    return Err(End::Closed(ReasonCode::SERVER_SHUTTING_DOWN));
                }
                () = &mut timer => self.look(timer.as_mut())?,
                () = handle.wake.notified() => {}
                io = poll_fn(|cx| self.poll_io(cx)) => io?,
            }
        }
    }

    fn pipe(&mut self, side: Side) -> &mut Pipe {
        match side {
            Side::Client => &mut self.client,
            Side::Broker => &mut self.broker,
        }
    }

    /// Whether there is room for what a side sends.
    fn takes_from(&self, side: Side) -> bool {
        let (own, other) = match side {
            Side::Client => (&self.client, &self.broker),
            Side::Broker => (&self.broker, &self.client),
        };
        let untaken = UNTAKEN_BYTES.saturating_add(self.shared.settings.max_packet);
        other.waiting() < WAITING_BYTES
            && own.waiting() < untaken
            && (side == Side::Broker
                || (!self.requests.are_many() && self.up.reauthentication.is_none()))
    }

    /// Sends and reads as far as the sockets let it.
    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut progress = false;
        match self.client.poll_send(cx) {
            Poll::Ready(Ok(())) => progress = true,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Gone)),
            Poll::Pending => {}
        }
        match self.broker.poll_send(cx) {
            Poll::Ready(Ok(())) => {
                progress = true;
                self.pulse.last_sent = Instant::now();
                if self.pulse.asked.is_some() {
                    // It takes what it is sent, so it gets time to answer.
                    self.pulse.asked = Some(self.pulse.last_sent);
                }
            }
            Poll::Ready(Err(_)) => return Poll::Ready(Err(self.broker_ends())),
            Poll::Pending => {}
        }
        // What is held comes first, or the end would overtake it.
        if !self.client.is_held && self.takes_from(Side::Client) {
            let read = poll_read(
                self,
                cx,
                |relay| &mut relay.client,
                |relay, bytes| {
                    relay.last_heard = Instant::now();
                    relay.receive(Side::Client, bytes)
                },
            );
            match read {
                Poll::Ready(Ok(received)) => {
                    progress = true;
                    if let Err(end) = received {
                        return Poll::Ready(Err(end));
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Gone)),
                Poll::Pending => {}
            }
        }
        if !self.broker.is_held && self.takes_from(Side::Broker) {
            let read = poll_read(
                self,
                cx,
                |relay| &mut relay.broker,
                |relay, bytes| {
                    relay.pulse.asked = None;
                    relay.receive(Side::Broker, bytes)
                },
            );
            match read {
                Poll::Ready(Ok(received)) => {
                    progress = true;
                    if let Err(end) = received {
                        return Poll::Ready(Err(end));
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(self.broker_ends())),
                Poll::Pending => {}
            }
        }
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// The broker has closed its end. If a newer connection of the client has made it do so, that is
    /// the reason.
    fn broker_ends(&self) -> End {
        self.seat.handle.ending().unwrap_or(End::BrokerGone)
    }

    /// Takes bytes of a side, and does what its packets ask for.
    fn receive(&mut self, side: Side, bytes: &[u8]) -> Result<(), End> {
        // They may have changed while there was nothing to do.
        self.look_at_rights()?;
        let mut joined = std::mem::take(&mut self.pipe(side).rest);
        let outcome;
        if joined.is_empty() {
            let (used, result) = self.packets(side, bytes);
            joined = bytes.get(used..).unwrap_or_default().to_vec();
            outcome = result;
        } else {
            joined.extend_from_slice(bytes);
            let (used, result) = self.packets(side, &joined);
            joined.drain(..used);
            outcome = result;
        }
        self.pipe(side).rest = if joined.is_empty() { Vec::new() } else { joined };
        outcome
    }

    fn packets(&mut self, side: Side, bytes: &[u8]) -> (usize, Result<(), End>) {
        let mut used = 0;
        self.pipe(side).is_held = false;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            if !self.takes_from(side) {
                self.pipe(side).is_held = true;
                break;
            }
            let limit = match side {
                Side::Client => self.shared.settings.max_packet,
                Side::Broker => self.limits.from_broker,
            };
            let frame = match Frame::find(rest, limit) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return (used, Err(wrong(side, error))),
            };
            used += frame.len;
            let whole = rest.get(..frame.len).unwrap_or_default();
            let outcome = match side {
                Side::Client => match Packet::decode(&frame, self.version) {
                    Ok(packet) => self.take_from_client(packet, whole),
                    Err(error) => Err(wrong(side, error)),
                },
                Side::Broker => match ServerPacket::decode(&frame, self.version) {
                    Ok(packet) => self.take_from_broker(packet, whole),
                    Err(error) => Err(wrong(side, error)),
                },
            };
            if outcome.is_err() {
                return (used, outcome);
            }
        }
        (used, Ok(()))
    }

    /// Ends, or goes on with other rights, if it was told so. Says whether there are others.
    fn look_at_rights(&mut self) -> Result<bool, End> {
        let rights = self.seat.handle.rights();
        if self.rights == rights {
            return Ok(false);
        }
        if let Some(end) = self.seat.handle.ending() {
            return Err(end);
        }
        self.rights = rights;
        self.take_over_rights();
        Ok(true)
    }

    /// Goes on with other rights: open subscriptions beyond them end at the broker, and whatever
    /// still comes from there is looked at anew.
    fn take_over_rights(&mut self) {
        self.access = self.seat.handle.access();
        self.heard.clear();
        self.up.forget_decisions();
        let (access, names) = (&*self.access, &self.names);
        let is_allowed = |filter: &str| {
            let wanted = super::up::wanted(names, filter);
            wanted.is_ok_and(|wanted| access.subscribe(wanted.mounted()).is_ok())
        };
        let ended = self.open.retain(is_allowed, &self.seat.tenancy.usage.subscriptions);
        self.shared.metrics.denied(Operation::Subscribe, DenyReason::RightsChanged, ended.len());
        let wire: Vec<_> = ended
            .iter()
            .filter_map(|filter| super::up::wanted(&self.names, filter).ok())
            .map(|wanted| wanted.wire)
            .collect();
        for filters in wire.chunks(FILTERS) {
            let filters: Vec<_> = filters.iter().map(String::as_str).collect();
            let id = self.requests.own_unsubscribe();
            unsubscribe(self.broker.out(), self.version, id, &[], &filters);
        }
    }

    /// Counts what was refused, and tells whoever decided.
    pub(super) fn denied(&self, operation: Operation, reason: DenyReason) {
        self.shared.metrics.denied(operation, reason, 1);
        self.access.note(Noted::Denied(operation, reason));
    }

    /// Ends the relay if somebody was silent for too long or the token has expired, and lets the
    /// broker hear from the front.
    fn look(&mut self, timer: Pin<&mut Sleep>) -> Result<(), End> {
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

    fn next_look(&self) -> Instant {
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

    /// Answers an AUTH.
    pub(super) fn say_authenticated(&mut self) {
        let method = self.method.as_deref().unwrap_or_default();
        let properties = [Property::AuthenticationMethod(method)];
        crate::codec::auth(self.client.out(), ReasonCode::SUCCESS, &properties);
    }
}

fn wrong(side: Side, error: DecodeError) -> End {
    match side {
        Side::Client => End::Closed(error.reason()),
        Side::Broker => End::BrokerBroken(match error {
            DecodeError::Malformed(what) | DecodeError::Protocol(what) => what,
            DecodeError::TooLarge => "a packet is larger than what is accepted",
            _ => "a packet cannot be read",
        }),
    }
}
