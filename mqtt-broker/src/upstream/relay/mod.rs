//! One client's two connections, and the moments at which they end.

mod io;
mod rights;
mod timers;

use super::Upstream;
use super::hello::Terms;
use super::names::Names;
use super::pipe::Pipe;
use super::requests::Requests;
use super::subscriptions::Open;
use super::tenancy::Seat;
use super::up::Up;
use super::wills::Will;
use crate::broker::Shared;
use crate::codec::{Property, ReasonCode, Version, client_disconnect, disconnect};
use crate::connection::Arrival;
use crate::hook::{Access, Noted};
use bulkhead_policy::DenyReason;
use io::Side;
use std::collections::HashSet;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use timers::Pulse;
use tokio::time::{Instant, sleep_until, timeout};

/// How long the last packets may take to get to the client.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long they may take to get to the broker: among them is what keeps it from publishing a will.
const FAREWELL: Duration = Duration::from_secs(8);

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
            pulse: Pulse::new((!every.is_zero()).then_some(every)),
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
        let access = match end {
            End::Denied(_) => Arc::clone(&self.access),
            _ => self.seat.handle.access(),
        };
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
        let ends_client = async move {
            if reason.is_some() {
                let _ = timeout(GOODBYE, client.finish()).await;
            }
            drop(client);
            access.note(Noted::Closed);
        };
        tokio::join!(ends_broker, ends_client);
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

    /// Answers an AUTH.
    pub(super) fn say_authenticated(&mut self) {
        let method = self.method.as_deref().unwrap_or_default();
        let properties = [Property::AuthenticationMethod(method)];
        crate::codec::auth(self.client.out(), ReasonCode::SUCCESS, &properties);
    }
}
