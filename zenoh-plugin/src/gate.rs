//! The gate: its doors, its sessions, and what it knows of its router.

use crate::handshake::{HandshakeError, Offer, probe};
use crate::host::Host;
use crate::link::{Reader, Writer};
use crate::metrics::Metrics;
use crate::rules::Operation;
use crate::seat::{Seat, Seats};
use crate::settings::Settings;
use crate::threads::{Pair, Threads};
use aws_lc_rs::digest::{Context, SHA256};
use bulkhead_control::audit::{Event, Record};
use bulkhead_control::identity::Accepted;
use bulkhead_control::listen::Connections;
use bulkhead_control::{Admission, Authenticator, Change, Changes, Identified};
use bulkhead_policy::{Broker, DenyReason, Principal, TenantId, Verdict};
use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zenoh_protocol::core::ZenohIdProto;

/// The backend's name in metrics and the audit log.
pub(crate) const BACKEND: &str = "zenoh";

/// What a token has to live at least to open a session: a client comes back at once when one ends.
const LEAST_LIFE: SignedDuration = SignedDuration::from_secs(2);

/// How often sessions are looked through for tokens that have ended and clients that went silent.
const LOOK: Duration = Duration::from_millis(250);

/// What all sessions share.
pub(crate) struct Gate {
    pub(crate) auth: Arc<Authenticator>,
    pub(crate) host: Arc<Host>,
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
    pub(crate) seats: Arc<Seats>,
    pub(crate) threads: Threads,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// Sessions or not.
    pub(crate) connections: Arc<Connections>,
    pub(crate) accepted: Arc<Accepted>,
    /// The router's socket.
    pub(crate) router: PathBuf,
    pub(crate) offer: OnceCell<Offer>,
}

/// A connection, through the layers below Zenoh.
pub(crate) struct Arrival {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    pub(crate) source: IpAddr,
    /// The client's own certificate, in DER, once its chain was verified.
    pub(crate) certificate: Option<Vec<u8>>,
    /// When the session has to be open.
    pub(crate) deadline: Instant,
}

impl Gate {
    /// A number for the client's password to be mixed with, and one that it has to repeat.
    pub(crate) fn challenge(&self) -> Option<(u64, [u8; 16])> {
        let (mut nonce, mut cookie) = ([0; 8], [0; 16]);
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        aws_lc_rs::rand::fill(&mut cookie).ok()?;
        Some((u64::from_le_bytes(nonce), cookie))
    }

    /// What the router offers, asked once.
    pub(crate) async fn ask_offer(&self, threads: &Pair) -> Result<Offer, HandshakeError> {
        let ask = || async {
            let (mut reader, mut writer) = self.connect(threads).await?;
            let zid = self.hashed(&[b"probe"]);
            probe(&mut reader, &mut writer, zid).await
        };
        self.offer.get_or_try_init(ask).await.copied()
    }

    /// A connection of its own to the router, for the session of these threads.
    pub(crate) async fn connect(&self, threads: &Pair) -> Result<(Reader, Writer), HandshakeError> {
        // What the router sends is waited for by the thread that reads it.
        let connecting = threads.outward.spawn(UnixStream::connect(self.router.clone()));
        let stream = connecting.await.map_err(std::io::Error::other)??;
        let (reader, writer) = stream.into_split();
        Ok((Box::new(reader), Box::new(writer)))
    }

    /// What a client's place among the sessions goes by. It is made of whose it is and of the id that the client
    /// chose, so nobody can take the place of another tenant's client, whatever it calls itself.
    pub(crate) fn place(&self, principal: &Principal, chosen: &ZenohIdProto) -> ZenohIdProto {
        let tenant = principal.tenant().map_or("", TenantId::as_str);
        let device = principal.device.as_ref().map_or("", |device| device.as_str());
        let role = principal.role.as_str();
        self.hashed(&[tenant.as_bytes(), device.as_bytes(), role.as_bytes(), &chosen.to_le_bytes()])
    }

    fn hashed(&self, parts: &[&[u8]]) -> ZenohIdProto {
        let mut digest = Context::new(&SHA256);
        for part in parts {
            digest.update(&(part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let digest = digest.finish();
        let mut id = [1; ZenohIdProto::MAX_SIZE];
        for (byte, hashed) in id.iter_mut().zip(digest.as_ref()) {
            *byte = *hashed;
        }
        // Only zero is no id, which no hash is known to be.
        ZenohIdProto::try_from(&id).unwrap_or_else(|_| ZenohIdProto::rand())
    }

    /// Lets in who was identified. A client comes back at once when its session ends, so what is about to
    /// end opens none.
    ///
    /// # Errors
    /// The [`DenyReason`].
    pub(crate) fn admit(&self, identified: &Identified) -> Verdict<Admission> {
        let Identified { principal, beside, .. } = identified;
        let now = Timestamp::now();
        let ends_soon = |shown: &Principal| shown.expires_at.duration_since(now) < LEAST_LIFE;
        if ends_soon(principal) || beside.as_deref().is_some_and(ends_soon) {
            return Err(DenyReason::TokenExpired);
        }
        if let Some(beside) = beside {
            self.auth.welcome(beside)?;
        }
        self.auth.admit(Broker::Zenoh, Arc::clone(principal))
    }

    /// Whether what a client was let in by still holds.
    ///
    /// # Errors
    /// The [`DenyReason`] to cut it off with.
    pub(crate) fn holds(&self, seat: &Seat) -> Verdict<()> {
        if let Some(beside) = &seat.beside {
            self.auth.welcome(beside)?;
        }
        self.auth.reassess(&seat.admission.principal, seat.admission.rights)
    }

    /// Asks for every session, or those of one tenant, whether it may stay. Says how many were cut off,
    /// by reason.
    pub(crate) fn reassess(&self, tenant: Option<&TenantId>) -> HashMap<DenyReason, u64> {
        let mut cut = HashMap::new();
        for seat in self.seats.all() {
            let principal = &seat.admission.principal;
            if tenant.is_some() && principal.tenant() != tenant {
                continue;
            }
            match self.holds(&seat) {
                Err(reason) if self.cut(&seat, reason) => *cut.entry(reason).or_default() += 1,
                Err(_) => {}
                Ok(()) => {
                    if let Some(Ok(known)) =
                        principal.tenant().map(|id| self.auth.directory().tenant(id))
                    {
                        seat.tenant.set_quotas(self.auth.quotas(&known));
                    }
                }
            }
        }
        cut
    }

    /// Counts a denial, and writes down the first ones of each minute.
    pub(crate) fn denied(&self, seat: &Seat, operation: Operation, reason: DenyReason) {
        let operation = operation.name();
        self.metrics.denied.with_label_values(&[operation, reason.code()]).inc();
        if seat.denied() {
            let principal = &seat.admission.principal;
            tracing::info!(backend = BACKEND, %reason, %principal, operation, "denied");
            let record = Record::new(Event::Deny, BACKEND).of(principal).because(reason);
            self.auth.audit().record(record.from(Some(seat.source)).detail(operation));
        }
    }

    /// Ends a session for a reason. Says whether it was the first one.
    pub(crate) fn cut(&self, seat: &Seat, reason: DenyReason) -> bool {
        let principal = &seat.admission.principal;
        let first = seat.cut(reason, self.auth.cut(principal, seat.beside.as_deref(), reason));
        if first {
            self.auth.metrics().terminated(BACKEND, reason, 1);
            let record = Record::new(Event::Terminate, BACKEND);
            let record = record.of(principal).because(reason);
            self.auth.audit().record(record.from(Some(seat.source)));
        }
        first
    }

    /// Ends sessions whose token has, and those whose client went silent.
    pub(crate) async fn look_after(self: Arc<Self>) {
        let look = async {
            loop {
                tokio::time::sleep(LOOK).await;
                let now = Timestamp::now();
                let mut behind = 0;
                for seat in self.seats.all() {
                    behind += i64::from(seat.is_behind());
                    if seat.expires_at() <= now {
                        self.cut(&seat, DenyReason::TokenExpired);
                    } else if seat.is_stalled() {
                        self.cut(&seat, DenyReason::QueueQuotaExceeded);
                    } else if seat.is_silent() {
                        seat.kill.cancel();
                    }
                }
                self.seats.forget();
                self.metrics.behind.set(behind);
                self.metrics.sessions.set(self.seats.count() as i64);
            }
        };
        self.stop.run_until_cancelled(look).await;
        for seat in self.seats.all() {
            seat.kill.cancel();
        }
    }

    /// Takes over what changes in the directory and in the rules.
    pub(crate) fn follow(self: Arc<Self>) -> impl Future<Output = ()> {
        let mut changes = Changes::of(&self.auth);
        let stop = self.stop.clone();
        let following = async move {
            while let Some(change) = changes.next().await {
                match change {
                    Change::Tenants(tenants) => {
                        for tenant in &tenants {
                            self.reassess(Some(tenant));
                        }
                    }
                    Change::All => drop(self.reassess(None)),
                }
            }
        };
        async move {
            stop.run_until_cancelled(following).await;
        }
    }
}
