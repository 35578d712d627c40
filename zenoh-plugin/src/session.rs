//! One client's session, from its first byte to its last.

use crate::budget::Share;
use crate::door::Door;
use crate::gate::{Arrival, BACKEND, Gate};
use crate::handshake::{HandshakeError, Hello, Opened, greet};
use crate::host::Attachment;
use crate::ingress::Ingress;
use crate::link::{Filter, Filtered, Reader, Relay, RelayEnd, Writer, send};
use crate::pressure::SlowReader;
use crate::rules::{InboundRules, OutboundRules, Shared};
use crate::seat::{Guest, Seat, Taken};
use crate::threads::Pair;
use crate::wire::{Inbound, Outbound, Passage, Violation};
use bulkhead_control::Entered;
use bulkhead_control::listen::Connected;
use bulkhead_policy::{DenyReason, Requester};
use secrecy::ExposeSecret;
use std::future::{pending, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::time::{timeout, timeout_at};
use zenoh_protocol::transport::{Close, KeepAlive, close};

/// How long a client may take to hear why its session ends.
const FAREWELL: Duration = Duration::from_millis(500);

/// How often the router hears that the gate is there: it closes after [`UPSTREAM_LEASE`].
///
/// [`UPSTREAM_LEASE`]: crate::handshake::UPSTREAM_LEASE
const SIGN_OF_LIFE: Duration = Duration::from_secs(900);

/// Bytes that a client which is behind has to take within [`CATCH_UP`], if it does not catch up.
///
/// [`CATCH_UP`]: crate::seat::CATCH_UP
const ENOUGH: usize = 1024 * 1024;

/// A session that is open.
struct Session {
    gate: Arc<Gate>,
    /// The thread that reads from the client.
    inward: Handle,
    taken: Taken,
    ingress: Ingress,
    relay: Relay,
    keeper: Keeper,
    to_router: Writer,
}

/// Why a session ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// The client closed, or its connection broke.
    Client,
    /// The router closed, or its connection broke.
    Router,
    /// The client broke the protocol.
    Violation(Violation),
    /// More waits for the client than may wait.
    TooSlow,
    /// It was cut off, replaced, or the gate stops.
    Killed,
}

/// Why a session was not opened.
enum Refusal {
    Handshake(HandshakeError),
    Denied(DenyReason),
    Late,
}

/// Serves a connection until it is a session, which then goes on by itself.
pub(crate) async fn serve(
    gate: Arc<Gate>,
    threads: Pair,
    arrival: Arrival,
    counted: (Connected, Entered),
) {
    let Arrival { mut reader, mut writer, source, certificate, deadline } = arrival;
    let ends = (&mut reader, &mut writer);
    let opening = open(&gate, &threads, ends, source, certificate.as_deref());
    let refusal = match timeout_at(deadline, opening).await {
        Ok(Ok(place)) => {
            let (counted, pending) = counted;
            drop(pending);
            return begin(gate, threads, place, (reader, writer), counted);
        }
        Ok(Err(refusal)) => refusal,
        Err(_) => Refusal::Late,
    };
    let reason = match refusal {
        Refusal::Handshake(error) => {
            tracing::debug!(%source, %error, "no session");
            gate.metrics.handshakes_failed.with_label_values(&["protocol"]).inc();
            error.close_reason()
        }
        Refusal::Denied(reason) => close_reason(reason),
        Refusal::Late => {
            gate.metrics.handshakes_failed.with_label_values(&["timeout"]).inc();
            close::reason::UNRESPONSIVE
        }
    };
    let farewell = async {
        send(&mut writer, Close { reason, session: false }).await?;
        tokio::io::AsyncWriteExt::shutdown(&mut writer).await
    };
    let _ = timeout(FAREWELL, farewell).await;
}

/// What stands behind a client that was let in.
struct Place {
    taken: Taken,
    attachment: Attachment,
    from_router: Reader,
    to_router: Writer,
    inbound: Inbound,
}

/// Opens a session: the client knows that it is when this is done.
async fn open(
    gate: &Arc<Gate>,
    threads: &Pair,
    (reader, writer): (&mut Reader, &mut Writer),
    source: IpAddr,
    certificate: Option<&[u8]>,
) -> Result<Place, Refusal> {
    let (nonce, cookie) = gate.challenge().ok_or(Refusal::Denied(DenyReason::Internal))?;
    let offer = gate.ask_offer(threads).await.map_err(Refusal::Handshake)?;
    let hello = greet(reader, writer, &offer, nonce, cookie).await.map_err(Refusal::Handshake)?;
    let started = Instant::now();
    let token = hello.token.as_ref().map(ExposeSecret::expose_secret);
    let auth = &gate.auth;
    let identified = auth.identify_client(&gate.accepted, token, certificate, Some(source)).await;
    let principal = identified.as_ref().ok().map(|known| Arc::clone(&known.principal));
    let denied = |reason| {
        auth.record(BACKEND, Some(source), principal.as_deref(), Some(reason), started);
        Refusal::Denied(reason)
    };
    let identified = identified.map_err(denied)?;
    let admission = gate.admit(&identified).map_err(denied)?;
    let most = gate.settings.max_lease;
    if hello.lease > most {
        let (principal, asked) = (&admission.principal, hello.lease);
        tracing::info!(%principal, ?asked, ?most, "the lease is longer than zenoh.max_lease");
    }
    let guest = Guest {
        place: gate.place(&admission.principal, &hello.zid),
        admission,
        beside: identified.beside,
        source,
        lease: hello.lease.min(most),
    };
    let taken = gate.seats.take(guest, &gate.metrics.takeovers).await.map_err(denied)?;
    // What changed before it sat among those who hear of changes; it may have waited for a predecessor.
    gate.holds(&taken.seat).map_err(denied)?;
    let (place, opened) = enter(gate, threads, &hello, taken).await.map_err(Refusal::Handshake)?;
    auth.record(BACKEND, Some(source), principal.as_deref(), None, started);
    let welcomed = hello.welcome(writer, opened).await.map_err(HandshakeError::Io);
    welcomed.map_err(Refusal::Handshake)?;
    Ok(place)
}

async fn enter(
    gate: &Arc<Gate>,
    threads: &Pair,
    hello: &Hello,
    taken: Taken,
) -> Result<(Place, Opened), HandshakeError> {
    let inbound = Inbound::new(hello.negotiated(), hello.initial_sn, gate.settings.max_message)
        .map_err(|_| HandshakeError::Unexpected)?;
    let (mut from_router, mut to_router) = gate.connect(threads).await?;
    let (zid, kill) = (taken.seat.zid, taken.seat.kill.token());
    let expectation = gate.host.expect(zid, kill).ok_or(HandshakeError::Changed)?;
    let opened = hello.enter(&mut from_router, &mut to_router, zid).await?;
    let attachment = expectation.arrived().await.ok_or(HandshakeError::Changed)?;
    Ok((Place { taken, attachment, from_router, to_router, inbound }, opened))
}

fn begin(
    gate: Arc<Gate>,
    threads: Pair,
    place: Place,
    (reader, writer): (Reader, Writer),
    counted: Connected,
) {
    let Place { taken, attachment, from_router, to_router, inbound } = place;
    let seat = Arc::clone(&taken.seat);
    let requester = Requester::of(&seat.admission.principal);
    let (grants, queries) = (seat.admission.grants.clone(), seat.tenant.queries());
    let shared = Arc::new(Shared::new(grants, requester.as_ref(), queries));
    seat.heard();
    let limits = gate.settings.limits();
    let rules = InboundRules::new(Arc::clone(&shared), Arc::clone(&seat.tenant), limits);
    let door = Door::new(rules, attachment, Arc::clone(&seat), Arc::clone(&gate));
    let ingress = Ingress::new(reader, inbound, door);
    let relay = Relay::new(from_router, writer);
    let keeper = Keeper {
        outbound: Outbound::default(),
        rules: OutboundRules::new(Arc::clone(&shared)),
        shared,
        waiting: seat.tenant.kept_bytes(),
        taken: 0,
        max_waiting: gate.settings.max_waiting(),
        seat,
        slow: None,
    };
    let inward = threads.inward;
    let session =
        Session { gate: Arc::clone(&gate), inward, taken, ingress, relay, keeper, to_router };
    let running = async move {
        session.run().await;
        drop(counted);
    };
    gate.tasks.spawn_on(running, &threads.outward);
}

impl Session {
    async fn run(self) {
        let Self { gate, inward, taken, ingress, mut relay, mut keeper, mut to_router } = self;
        let seat = &taken.seat;
        let mut reading = gate.tasks.spawn_on(ingress.run(), &inward);
        let mut read_to_the_end = None;
        let end = tokio::select! {
            end = poll_fn(|cx| relay.poll(cx, &mut keeper)) => match end {
                RelayEnd::TooSlow => End::TooSlow,
                RelayEnd::Filter | RelayEnd::Broken => End::Router,
            },
            end = &mut reading => *read_to_the_end.insert(end.unwrap_or(End::Router)),
            () = seat.kill.cancelled() => End::Killed,
            () = show_life(&mut to_router) => End::Router,
        };
        if matches!(end, End::TooSlow) {
            gate.cut(seat, DenyReason::QueueQuotaExceeded);
        }
        seat.kill.cancel();
        let (mut remains, rest) = relay.end();
        // Whatever the router is doing for this session may wait for its socket, and everybody for that.
        let mut forgetting = pin!(async {
            remains.forget().await;
            pending::<()>().await;
        });
        let leaving = async {
            // Nothing may reach the router for a session that it has closed.
            if read_to_the_end.is_none() {
                let _ = reading.await;
            }
            let close = Close { reason: close::reason::GENERIC, session: true };
            let _ = timeout(FAREWELL, send(&mut to_router, close)).await;
        };
        tokio::select! {
            () = leaving => {}
            () = &mut forgetting => {}
        }
        let reason = match (end, seat.cut_for()) {
            (_, Some((reason, _))) => close_reason(reason),
            (End::Violation(violation), _) => {
                let principal = &seat.admission.principal;
                tracing::info!(backend = BACKEND, %principal, %violation, "session closed");
                gate.metrics.violations.inc();
                close::reason::INVALID
            }
            _ => close::reason::GENERIC,
        };
        gate.metrics.withheld.inc_by(keeper.rules.cut);
        gate.metrics.dropped.inc_by(keeper.rules.dropped);
        drop(keeper);
        let farewell = async {
            let mut writer = rest.finish().await?;
            // Of the link, which is the session's only one: a client of the library that is told of the
            // session, and hears at once that the link has ended, notes both, and comes back twice.
            send(&mut writer, Close { reason, session: false }).await?;
            tokio::io::AsyncWriteExt::shutdown(&mut writer).await
        };
        tokio::select! {
            _ = timeout(FAREWELL, farewell) => {}
            () = &mut forgetting => {}
        }
        if let Some((_, Some(since))) = seat.cut_for() {
            gate.auth.metrics().closed(BACKEND, &since);
        }
    }
}

/// Looks through what goes to a client, and has its senders wait while it is behind.
struct Keeper {
    outbound: Outbound,
    rules: OutboundRules,
    shared: Arc<Shared>,
    seat: Arc<Seat>,
    waiting: Share,
    /// What it took since it fell behind, or since it last had taken enough.
    taken: usize,
    /// Bytes that may wait for any client.
    max_waiting: usize,
    slow: Option<Arc<SlowReader>>,
}

impl Filter for Keeper {
    fn batch(&mut self, batch: &[u8], instead: &mut Vec<u8>) -> Filtered {
        match self.outbound.batch(batch, &mut self.rules, instead) {
            Passage::Whole => Filtered::Whole,
            Passage::Piece => Filtered::Piece,
            Passage::Cut => Filtered::Instead,
            Passage::Closed => Filtered::End,
            Passage::Broken => {
                tracing::error!("the router sent what the gate cannot read");
                Filtered::End
            }
        }
    }

    fn is_slow(&mut self, slow: bool) {
        self.rules.behind = slow;
        self.taken = 0;
        self.seat.fell_behind(slow);
        let pressure = &self.seat.tenant.pressure;
        if let Some(before) = self.slow.take() {
            pressure.leave(&before);
        }
        if slow {
            self.slow = Some(pressure.enter(Arc::clone(&self.shared)));
        }
    }

    fn progress(&mut self, bytes: usize) {
        self.taken = self.taken.saturating_add(bytes);
        if self.taken >= ENOUGH {
            self.taken = 0;
            self.seat.fell_behind(true);
        } else {
            self.seat.took();
        }
    }

    fn may_wait(&mut self, bytes: usize) -> bool {
        bytes <= self.max_waiting.min(self.seat.tenant.max_waiting()) && self.waiting.hold(bytes)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(reader) = self.slow.take() {
            self.seat.tenant.pressure.leave(&reader);
        }
    }
}

/// Tells the router now and then that the gate is there.
async fn show_life(to_router: &mut Writer) {
    loop {
        tokio::time::sleep(SIGN_OF_LIFE).await;
        if send(to_router, KeepAlive).await.is_err() {
            return;
        }
    }
}

fn close_reason(reason: DenyReason) -> u8 {
    match reason {
        DenyReason::TokenExpired => close::reason::EXPIRED,
        DenyReason::ConnectionQuotaExceeded => close::reason::MAX_SESSIONS,
        DenyReason::KeysUnavailable
        | DenyReason::DirectoryUnavailable
        | DenyReason::Overloaded
        | DenyReason::Internal => close::reason::GENERIC,
        _ => close::reason::INVALID,
    }
}
