//! Who sits where: the sessions of a gate, and what their tenants use.

use crate::budget::{Budget, Share};
use crate::declarations::{Declaration, Declarations};
use crate::kill::Kill;
use crate::pressure::{Passing, Pressure, SlowReader};
use bulkhead_control::usage::{Gauges, Meter, Rates, Uncounted};
use bulkhead_control::{Admission, Cut};
use bulkhead_policy::{DenyReason, Principal, Quotas, Resource, TenantId, TokenBucket, Verdict};
use jiff::Timestamp;
use prometheus::IntCounter;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use zenoh_protocol::core::ZenohIdProto;

/// Denials of one session that are written down per minute; more are only counted.
const RECORDS_PER_MINUTE: u64 = 30;

/// How long a client that is behind may take nothing.
const STALL: Duration = Duration::from_secs(5);

/// For how many leases a client may have to wait for one message of its own.
const UNREAD_LEASES: u32 = 6;

/// How long a client that is behind may take to catch up, or to take enough: others wait for it meanwhile.
pub(crate) const CATCH_UP: Duration = Duration::from_secs(60);

/// Processor time that the router may spend on the declarations of one tenant, in microseconds per second. What one
/// of them costs depends on all that are there.
const DECLARING: u64 = 250_000;

/// Declarations that a tenant may have where the directory sets no `subscriptions`.
const DECLARATIONS: u64 = 100_000;

/// One session's place.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) admission: Admission,
    /// Who the client's certificate is for, where it showed a token too.
    pub(crate) beside: Option<Arc<Principal>>,
    pub(crate) tenant: Arc<TenantUse>,
    pub(crate) source: IpAddr,
    pub(crate) kill: Kill,
    /// Whose it is. The same client's next session takes its place.
    place: ZenohIdProto,
    /// The id that the router knows the session by: one of its own, since the router may still be about
    /// to forget the same client's session before this one.
    pub(crate) zid: ZenohIdProto,
    pub(crate) since: Instant,
    /// How long the client may be silent.
    lease: Duration,
    /// Why, and since when, it may not stay.
    cut: Mutex<Option<(DenyReason, Option<Cut>)>>,
    /// When the client was last heard, in milliseconds after `since`.
    heard: AtomicU64,
    /// When a client that is behind last took something, in milliseconds after `since`; 0 while it is
    /// not behind.
    took: AtomicU64,
    /// When it fell behind, or last had taken enough, likewise.
    behind: AtomicU64,
    pub(crate) messages: AtomicU64,
    pub(crate) denials: AtomicU64,
    records: Mutex<TokenBucket>,
    gone: watch::Sender<bool>,
}

impl Seat {
    /// When the first of what the client showed ends.
    pub(crate) fn expires_at(&self) -> Timestamp {
        let own = self.admission.principal.expires_at;
        self.beside.as_ref().map_or(own, |beside| own.min(beside.expires_at))
    }

    /// Says that the client sent something.
    pub(crate) fn heard(&self) {
        self.heard.store(self.now(), Ordering::Relaxed);
    }

    /// Says that the client has not been read from since then, which is not its silence: for some leases,
    /// after which it could have left unnoticed.
    pub(crate) fn not_read(&self, since: Instant) {
        if since.elapsed() < self.lease.saturating_mul(UNREAD_LEASES) {
            self.heard();
        }
    }

    /// Says that a client that is behind took something.
    pub(crate) fn took(&self) {
        self.took.store(self.now().max(1), Ordering::Relaxed);
    }

    /// Says that the client fell behind, or has taken enough since; or that it caught up.
    pub(crate) fn fell_behind(&self, behind: bool) {
        let now = if behind { self.now().max(1) } else { 0 };
        self.took.store(now, Ordering::Relaxed);
        self.behind.store(now, Ordering::Relaxed);
    }

    /// Whether the client is behind.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed) > 0
    }

    /// Whether the client is behind, and takes nothing, or too little to ever catch up.
    pub(crate) fn is_stalled(&self) -> bool {
        let longer = |since: &AtomicU64, limit| {
            let since = since.load(Ordering::Relaxed);
            since > 0 && Duration::from_millis(self.now().saturating_sub(since)) > limit
        };
        longer(&self.took, STALL) || longer(&self.behind, CATCH_UP)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the client was silent for longer than its lease.
    pub(crate) fn is_silent(&self) -> bool {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.since.elapsed().saturating_sub(heard) > self.lease
    }

    /// Ends the session for a reason. The first one counts.
    pub(crate) fn cut(&self, reason: DenyReason, since: Option<Cut>) -> bool {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let first = cut.is_none() && !self.kill.is_cancelled();
        if first {
            *cut = Some((reason, since));
            self.kill.cancel();
        }
        first
    }

    /// Why it was cut off, if it was, and since when it had to be.
    pub(crate) fn cut_for(&self) -> Option<(DenyReason, Option<Cut>)> {
        *self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a denial. Says whether it is among the first ones of its minute, worth writing down.
    pub(crate) fn denied(&self) -> bool {
        self.denials.fetch_add(1, Ordering::Relaxed);
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.take(1, self.since.elapsed())
    }

    async fn left(&self) {
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }
}

/// A client that was let in, and wants a seat.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) admission: Admission,
    pub(crate) beside: Option<Arc<Principal>>,
    pub(crate) place: ZenohIdProto,
    pub(crate) source: IpAddr,
    pub(crate) lease: Duration,
}

/// What a tenant uses on this gate, its sessions together.
#[derive(Debug)]
pub(crate) struct TenantUse {
    sessions: AtomicUsize,
    quotas: Mutex<Quotas>,
    /// What counts its day; `None` for the platform's services.
    meter: Option<Arc<Meter>>,
    paces: Paces,
    declarations: Arc<Declarations>,
    /// Bytes of a payload, and bytes that wait for one client, by the quotas; all there are without.
    payload: AtomicUsize,
    waiting: AtomicUsize,
    kept_bytes: Arc<Budget>,
    queries: Arc<Budget>,
    /// Its sessions that have to catch up.
    pub(crate) pressure: Arc<Pressure>,
    /// Those of the platform's services.
    services: Arc<Pressure>,
}

impl TenantUse {
    fn new(
        bounds: TenantBounds,
        quotas: Quotas,
        meter: Option<Arc<Meter>>,
        paces: Paces,
        pressure: Arc<Pressure>,
        services: Arc<Pressure>,
    ) -> Self {
        Self {
            sessions: AtomicUsize::new(0),
            quotas: Mutex::new(quotas),
            meter,
            paces,
            declarations: Arc::default(),
            payload: AtomicUsize::new(usize::MAX),
            waiting: AtomicUsize::new(usize::MAX),
            kept_bytes: Budget::new(bounds.kept_bytes),
            queries: Budget::new(bounds.queries),
            pressure,
            services,
        }
    }

    /// The limits that hold now.
    pub(crate) fn quotas(&self) -> Quotas {
        *self.quotas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over other limits.
    pub(crate) fn set_quotas(&self, quotas: Quotas) {
        *self.quotas.lock().unwrap_or_else(PoisonError::into_inner) = quotas;
        self.paces.messages.limit(&quotas);
        let bytes = |quota: Option<u64>| {
            quota.map_or(usize::MAX, |quota| usize::try_from(quota).unwrap_or(usize::MAX))
        };
        self.payload.store(bytes(quotas.payload_bytes), Ordering::Relaxed);
        self.waiting.store(bytes(quotas.queued_bytes), Ordering::Relaxed);
    }

    /// One more subscriber, queryable, token or interest, if the tenant's quota of subscriptions and its
    /// `most_names` have room for it.
    pub(crate) fn declare(&self, key: &str, most_names: usize) -> Option<Declaration> {
        let most = self.quotas().subscriptions.unwrap_or(DECLARATIONS);
        self.declarations.enter(key, Some(most), most_names, self.kept_bytes())
    }

    /// One more id for a key.
    pub(crate) fn name(&self, key: &str, most_names: usize) -> Option<Declaration> {
        self.declarations.enter(key, None, most_names, self.kept_bytes())
    }

    /// Bytes that a payload may have by the tenant's quota.
    pub(crate) fn max_payload(&self) -> usize {
        self.payload.load(Ordering::Relaxed)
    }

    /// Bytes that may wait for one client by the tenant's quota.
    pub(crate) fn max_waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A session's share of what is kept for the tenant's clients, in bytes.
    pub(crate) fn kept_bytes(&self) -> Share {
        self.kept_bytes.share()
    }

    /// A session's share of the tenant's queries without their last answer.
    pub(crate) fn queries(&self) -> Share {
        self.queries.share()
    }

    /// Counts a message with a payload of so many bytes against what the tenant may publish in a day, or
    /// lets [`TenantUse::count`] do that.
    ///
    /// # Errors
    /// [`DenyReason::DailyQuotaExceeded`].
    pub(crate) fn spend(&self, bytes: usize, uncounted: &mut Uncounted) -> Verdict<()> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.meter.as_ref().map_or(Ok(()), |meter| meter.publish(bytes, uncounted))
    }

    /// Counts what was allowed and is not counted yet.
    pub(crate) fn count(&self, uncounted: &mut Uncounted) {
        if let Some(meter) = &self.meter {
            meter.count(uncounted);
        }
    }

    /// Takes a message of so many bytes out of what the tenant may publish per second, if it is there.
    pub(crate) fn publish(&self, bytes: usize) -> bool {
        self.paces.messages.publish(bytes)
    }

    /// Takes a declaration out of those that the tenant may make per second, if it is there, and the time that
    /// those before it took the router is over.
    pub(crate) fn may_declare(&self) -> bool {
        self.paces.declaring.publish(0) && self.paces.declarations.publish(0)
    }

    /// A declaration took the router so much processor time.
    pub(crate) fn declared(&self, took: Duration) {
        self.paces.declaring.owe(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Whether anybody may have to wait for a client that is behind.
    pub(crate) fn is_anybody_behind(&self) -> bool {
        self.pressure.is_any() || self.services.is_any()
    }

    /// A session, of the tenant or of the platform, that has to catch up before more like this is let through.
    pub(crate) fn waits_for(&self, passing: Passing<'_>) -> Option<Arc<SlowReader>> {
        self.pressure.on(passing).or_else(|| self.services.on(passing))
    }
}

/// How fast a tenant may be, its sessions together.
#[derive(Clone, Debug, Default)]
struct Paces {
    messages: Arc<Rates>,
    declarations: Arc<Rates>,
    /// Microseconds in the place of bytes.
    declaring: Arc<Rates>,
}

impl Paces {
    fn new(declarations: Option<u64>) -> Self {
        let paces = Self::default();
        let quotas = Quotas { messages_per_second: declarations, ..Quotas::default() };
        paces.declarations.limit(&quotas);
        let time = declarations.map(|_| DECLARING);
        paces.declaring.limit(&Quotas { bytes_per_second: time, ..Quotas::default() });
        paces
    }

    fn is_full(&self) -> bool {
        [&self.messages, &self.declarations, &self.declaring].iter().all(|pace| pace.is_full())
    }
}

/// What bounds the sessions of any tenant together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TenantBounds {
    /// Bytes that are kept for its clients: what waits for them, and what has come of messages in pieces.
    pub kept_bytes: usize,
    /// Queries without their last answer.
    pub queries: usize,
    /// Declarations and interests per second, which bounds no service.
    pub declarations: u64,
}

/// All sessions.
#[derive(Debug)]
pub(crate) struct Seats {
    tables: Mutex<Tables>,
}

#[derive(Debug)]
struct Tables {
    bounds: TenantBounds,
    seats: HashMap<ZenohIdProto, Arc<Seat>>,
    tenants: HashMap<Option<TenantId>, Arc<TenantUse>>,
    /// Kept when a tenant's last session ends until they are as new ones would be: nobody gets a second
    /// burst by coming again.
    paces: HashMap<Option<TenantId>, Paces>,
    /// Sessions of the platform's services that have to catch up.
    services: Arc<Pressure>,
}

/// A seat that is taken until this is dropped.
pub(crate) struct Taken {
    seats: Arc<Seats>,
    pub(crate) seat: Arc<Seat>,
}

impl Seats {
    /// Nobody yet.
    pub(crate) fn new(bounds: TenantBounds) -> Self {
        let (seats, tenants, paces) = (HashMap::new(), HashMap::new(), HashMap::new());
        let services = Arc::default();
        Self { tables: Mutex::new(Tables { bounds, seats, tenants, paces, services }) }
    }

    /// Seats an admitted client. The same client's session before this one has to go first, and is counted
    /// in `takeovers`.
    ///
    /// It goes at once, also if it was heard just now: a client that has lost its connection, and knows,
    /// comes back before anybody else could know. To keep who is there would not help against a stolen
    /// token either: whoever holds it needs no place of the victim's to do what the victim may, and could
    /// then keep the victim out by coming first. Only revocation ends that; the counter shows two who
    /// contend for one place.
    ///
    /// # Errors
    /// [`DenyReason::ConnectionQuotaExceeded`] if its tenant has as many sessions as it may.
    pub(crate) async fn take(
        self: &Arc<Self>,
        guest: Guest,
        takeovers: &IntCounter,
    ) -> Result<Taken, DenyReason> {
        loop {
            let before = {
                let mut tables = self.tables();
                match tables.seats.get(&guest.place) {
                    Some(before) => Arc::clone(before),
                    None => {
                        let seat = tables.seat(guest)?;
                        return Ok(Taken { seats: Arc::clone(self), seat });
                    }
                }
            };
            if !before.kill.is_cancelled() {
                before.kill.cancel();
                takeovers.inc();
            }
            before.left().await;
        }
    }

    /// Everybody.
    pub(crate) fn all(&self) -> Vec<Arc<Seat>> {
        self.tables().seats.values().cloned().collect()
    }

    /// What tenants have here.
    pub(crate) fn gauges(&self) -> HashMap<TenantId, Gauges> {
        let tables = self.tables();
        let gauges = tables.tenants.iter().filter_map(|(tenant, used)| {
            let sessions = used.sessions.load(Ordering::Relaxed) as u64;
            let gauges = Gauges::from([
                (Resource::Connections, sessions),
                (Resource::Subscriptions, used.declarations.counted()),
            ]);
            Some((tenant.clone()?, gauges))
        });
        gauges.collect()
    }

    /// Forgets tenants that have no session, and their paces if they owe nothing.
    pub(crate) fn forget(&self) {
        let mut tables = self.tables();
        let Tables { tenants, paces, .. } = &mut *tables;
        tenants.retain(|_, tenant| tenant.sessions.load(Ordering::Relaxed) > 0);
        paces.retain(|tenant, paces| tenants.contains_key(tenant) || !paces.is_full());
    }

    /// How many sessions there are.
    pub(crate) fn count(&self) -> usize {
        self.tables().seats.len()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn seat(&mut self, guest: Guest) -> Result<Arc<Seat>, DenyReason> {
        let Guest { admission, beside, place, source, lease } = guest;
        let key = admission.principal.tenant().cloned();
        let (quotas, meter) = (admission.quotas, admission.meter.clone());
        let bounds = self.bounds;
        let paces = self.paces.entry(key.clone());
        let paces = paces
            .or_insert_with_key(|tenant| Paces::new(tenant.as_ref().map(|_| bounds.declarations)));
        let paces = paces.clone();
        let services = Arc::clone(&self.services);
        let pressure = if key.is_some() { Arc::default() } else { Arc::clone(&services) };
        let tenant = self.tenants.entry(key).or_insert_with(|| {
            Arc::new(TenantUse::new(bounds, quotas, meter, paces, pressure, services))
        });
        tenant.set_quotas(quotas);
        let sessions = tenant.sessions.load(Ordering::Relaxed) as u64;
        if quotas.connections.is_some_and(|most| sessions >= most) {
            return Err(DenyReason::ConnectionQuotaExceeded);
        }
        tenant.sessions.fetch_add(1, Ordering::Relaxed);
        let seat = Arc::new(Seat {
            admission,
            beside,
            tenant: Arc::clone(tenant),
            source,
            kill: Kill::default(),
            place,
            zid: ZenohIdProto::rand(),
            since: Instant::now(),
            lease,
            cut: Mutex::default(),
            heard: AtomicU64::new(0),
            took: AtomicU64::new(0),
            behind: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            denials: AtomicU64::new(0),
            records: Mutex::new(TokenBucket::new(
                RECORDS_PER_MINUTE,
                Duration::from_secs(60),
                Duration::ZERO,
            )),
            gone: watch::Sender::new(false),
        });
        self.seats.insert(place, Arc::clone(&seat));
        Ok(seat)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.seat.kill.cancel();
        let mut tables = self.seats.tables();
        tables.seats.remove(&self.seat.place);
        if self.seat.tenant.sessions.fetch_sub(1, Ordering::Relaxed) == 1 {
            tables.tenants.remove(&self.seat.admission.principal.tenant().cloned());
        }
        drop(tables);
        self.seat.gone.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::{DECLARING, Paces};

    #[test]
    fn the_time_that_declarations_took_is_waited_for() {
        let paces = Paces::new(Some(1_000));
        assert!(paces.declaring.publish(0) && paces.is_full());
        paces.declaring.owe(100 * DECLARING);
        assert!(!paces.declaring.publish(0) && !paces.is_full());
        // Services are not bounded.
        let paces = Paces::new(None);
        paces.declaring.owe(100 * DECLARING);
        assert!(paces.declaring.publish(0) && paces.declarations.publish(0));
    }
}
