//! One client's connection: bytes in, bytes out, and the moments at which it ends.

mod handshake;
mod inbound;
mod stream;

pub(crate) use handshake::{Arrival, check_will, refusing_reason, serve};
pub(crate) use inbound::METHOD;
pub(crate) use stream::Stream;

use crate::broker::Shared;
use crate::codec::{ReasonCode, Version, disconnect};
use crate::hook::{Access, Noted};
use crate::realm::{Realm, Session, closing_reason};
use bulkhead_policy::DenyReason;
use jiff::Timestamp;
use std::cell::RefCell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// Bytes read at a time.
const READ_BYTES: usize = 64 * 1024;

/// Bytes that wait for a client before nothing more is read from it: whoever does not take answers
/// may not ask for more.
const UNTAKEN_BYTES: usize = 4 * 1024 * 1024;

/// Room for packets that a connection keeps while nothing is going on.
const KEPT_BYTES: usize = 1024;

/// How long the last packets may take to leave.
const GOODBYE: Duration = Duration::from_secs(1);

/// Longest time between two looks at the timers.
const LOOK: Duration = Duration::from_secs(3600);

thread_local! {
    /// What is read goes through here, so that an idle connection holds no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// A client that has its session.
struct Connection {
    stream: Box<dyn Stream>,
    shared: Arc<Shared>,
    realm: Arc<Realm>,
    session: Arc<Session>,
    generation: u64,
    access: Arc<dyn Access>,
    /// The session's count of rights that `access` belongs to.
    rights: u64,
    version: Version,
    source: IpAddr,
    /// The verified leaf of the client's certificate, in DER: it counts when the client renews, too.
    certificate: Option<Vec<u8>>,
    /// What the client proved itself with by AUTH at CONNECT; it may do so again.
    method: Option<Box<str>>,
    keep_alive: Option<Duration>,
    last_heard: Instant,
    /// The beginning of a packet whose end has not come.
    partial: Vec<u8>,
    out: Vec<u8>,
    /// Bytes of `out` that are on their way.
    sent: usize,
    /// Bytes that wait behind those of `out`.
    behind: usize,
    unflushed: bool,
    /// Whether CONNACK is among what was taken from the session.
    is_greeted: bool,
    inbound: inbound::Inbound,
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client said DISCONNECT. Its will goes with it, unless it asked for it.
    Goodbye { will: bool },
    /// The network.
    Gone,
    /// The client broke a rule, or may not stay.
    Closed(ReasonCode),
    /// The same, because of a decision.
    Denied(DenyReason),
    /// Another connection has the session.
    TakenOver,
}

/// Waits until more may be taken from the tenant's clients.
async fn room(realm: &Realm, shared: &Shared) {
    if let Some(store) = &shared.store {
        store.caught_up().await;
    }
    realm.lane.room().await;
}

impl Connection {
    /// Serves the client until it ends.
    async fn run(mut self) {
        let end = self.serve().await;
        let reason = match end {
            End::Closed(reason) => Some(reason),
            End::Denied(reason) => {
                self.access.note(Noted::Terminated(reason));
                Some(closing_reason(reason))
            }
            End::TakenOver => Some(ReasonCode::SESSION_TAKEN_OVER),
            End::Goodbye { .. } | End::Gone => None,
        };
        // What others cut off is what the session has, which may be newer than what was last looked at.
        let access = match end {
            End::Denied(_) | End::TakenOver => Arc::clone(&self.access),
            _ => Arc::clone(&self.session.lock().access),
        };
        // The session is free before the last bytes have left.
        let will = end != (End::Goodbye { will: false });
        self.realm.detach(&self.session, self.generation, will);
        if let Some(reason) = reason {
            tracing::debug!(client = %self.session.key.client_id, %reason, "closed");
            // §3.2: nothing comes before CONNACK, which whoever lost its session at once never got.
            if self.version == Version::V5 && self.is_greeted {
                disconnect(&mut self.out, self.version, reason, &[]);
            }
            let last = self.out.get(self.sent..).unwrap_or_default();
            let goodbye = async {
                self.stream.write_all(last).await?;
                self.stream.shutdown().await
            };
            // Whoever does not take it goes without.
            let _ = timeout(GOODBYE, goodbye).await;
        }
        drop(self);
        access.note(Noted::Closed);
    }

    async fn serve(&mut self) -> End {
        let session = Arc::clone(&self.session);
        let realm = Arc::clone(&self.realm);
        let shared = Arc::clone(&self.shared);
        let mut timer = Box::pin(sleep_until(self.next_look()));
        if let Err(end) = self.receive(&[]) {
            return end;
        }
        loop {
            if let Some(token) = self.inbound.reauthentication.take() {
                if let Err(end) = self.reauthenticate(&token).await {
                    return end;
                }
                if let Err(end) = self.receive(&[]) {
                    return end;
                }
                // The newer token may end sooner.
                timer.as_mut().reset(self.next_look());
                continue;
            }
            if let Err(end) = self.collect() {
                return end;
            }
            tokio::select! {
                biased;
                () = &mut timer => {
                    if let Err(end) = self.look(timer.as_mut()) {
                        return end;
                    }
                }
                io = poll_fn(|cx| self.poll_io(cx)) => {
                    if let Err(end) = io {
                        return end;
                    }
                }
                () = session.wake.notified() => {}
                () = room(&realm, &shared), if self.inbound.waits_for_room => {
                    self.inbound.waits_for_room = false;
                }
            }
        }
    }

    /// Takes from the session what there is for the client, once what was taken before has left.
    fn collect(&mut self) -> Result<(), End> {
        if self.sent < self.out.len() {
            // Whoever takes nothing has to go all the same.
            let state = self.session.lock();
            self.behind = state.link.as_ref().map_or(0, |link| link.out.len());
            return match state.closing(self.generation) {
                None => Err(End::TakenOver),
                Some(Some(reason)) => Err(End::Closed(reason)),
                Some(None) => Ok(()),
            };
        }
        self.out.clear();
        (self.sent, self.behind) = (0, 0);
        let mut state = self.session.lock();
        let taken =
            state.take_out(&self.session, self.generation, &mut self.out, self.realm.mount.len());
        if self.out.is_empty() && self.out.capacity() > KEPT_BYTES {
            // Nothing is going on, so nothing is held on to.
            self.out = Vec::new();
        }
        drop(state);
        self.is_greeted |= taken.is_some();
        self.session.drained.notify_waiters();
        match taken {
            None => Err(End::TakenOver),
            Some(Some(reason)) => Err(End::Closed(reason)),
            Some(None) => Ok(()),
        }
    }

    /// Goes on with the rights that the session has now.
    fn look_at_rights(&mut self) {
        let rights = self.session.rights.load(Ordering::Acquire);
        if self.rights != rights {
            self.rights = rights;
            self.access = Arc::clone(&self.session.lock().access);
            self.inbound.forget_decisions();
        }
    }

    /// Writes and reads as far as the socket lets it.
    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut progress = false;
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.sent += n;
                    self.unflushed = true;
                    progress = true;
                }
                Poll::Ready(_) => return Poll::Ready(Err(End::Gone)),
                Poll::Pending => break,
            }
        }
        if self.unflushed && self.sent == self.out.len() {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Gone)),
                Poll::Pending => {}
            }
        }
        let waits = self.inbound.waits_for_room
            || self.inbound.reauthentication.is_some()
            || self.out.len() - self.sent + self.behind > UNTAKEN_BYTES;
        if !waits {
            match self.poll_receive(cx) {
                Poll::Ready(received) => return Poll::Ready(received),
                Poll::Pending => {}
            }
        }
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
            Poll::Ready(match read {
                Ok(()) if !buffer.filled().is_empty() => self.receive(buffer.filled()),
                _ => Err(End::Gone),
            })
        })
    }

    /// Ends the connection if the client was silent for too long or its token has expired.
    fn look(&mut self, timer: Pin<&mut Sleep>) -> Result<(), End> {
        self.look_at_rights();
        let now = Instant::now();
        if self.keep_alive.is_some_and(|longest| now >= self.last_heard + longest) {
            return Err(End::Closed(ReasonCode::KEEP_ALIVE_TIMEOUT));
        }
        if self.access.expires_at().is_some_and(|end| end <= Timestamp::now()) {
            return Err(End::Denied(DenyReason::TokenExpired));
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
        [expiry, silence].into_iter().flatten().min().unwrap_or(now + LOOK).min(now + LOOK)
    }
}
