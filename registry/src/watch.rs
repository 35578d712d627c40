//! What changes, for people and programs: a snapshot and a stream of events over HTTP.

use crate::fleet::Fleet;
use crate::ownership::{Elsewhere, partition_of};
use crate::presence::Sight;
use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use bulkhead_control::Authenticator;
use bulkhead_control::http::bearer;
use bulkhead_policy::{Broker, DeviceId, Discover, Requester, TenantId};
use futures::stream;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// Changes that a slow watcher of all tenants may be behind; beyond that it is told to look again.
const BEHIND: usize = 4096;

/// The same for a watcher of one tenant.
const BEHIND_IN_TENANT: usize = 512;

/// Watchers of all tenants at a time.
const MAX_WATCHERS: usize = 64;

/// Watchers of one tenant at a time, so that none takes another's place.
const MAX_WATCHERS_IN_TENANT: usize = 32;

/// How often a watcher's right to watch is looked at again.
const LOOK: Duration = Duration::from_millis(500);

/// For how many seconds already what is answered could not be compared with the store.
const BEHIND_HEADER: &str = "bulkhead-store-behind-seconds";

/// How many tenants of the directory are not served here, and so not in the answer.
const PARTIAL_HEADER: &str = "bulkhead-partial";

/// A change of one device, once it is written.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) tenant: TenantId,
    pub(crate) device: DeviceId,
    pub(crate) device_type: Option<Box<str>>,
    pub(crate) kind: &'static str,
    pub(crate) at: Timestamp,
    /// The document, unless the device is gone.
    pub(crate) document: Option<String>,
}

/// Where changes are told. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Changes {
    of_all: broadcast::Sender<Arc<Change>>,
    /// Of tenants that somebody watches, or did until the next one began to.
    of_tenants: Arc<RwLock<HashMap<TenantId, broadcast::Sender<Arc<Change>>>>>,
    fleets: Arc<RwLock<HashMap<TenantId, Arc<Fleet>>>>,
}

impl Changes {
    pub(crate) fn new() -> Self {
        let of_all = broadcast::Sender::new(BEHIND);
        Self { of_all, of_tenants: Arc::default(), fleets: Arc::default() }
    }

    /// Tells a change, if anybody listens.
    pub(crate) fn send(&self, tenant: &TenantId, change: impl FnOnce() -> Change) {
        let of_tenants = self.of_tenants.read().unwrap_or_else(PoisonError::into_inner);
        let of_tenant = of_tenants.get(tenant);
        let listening = of_tenant
            .into_iter()
            .chain([&self.of_all])
            .filter(|sender| sender.receiver_count() > 0);
        let listening: Vec<_> = listening.collect();
        if listening.is_empty() {
            return;
        }
        let change = Arc::new(change());
        for sender in listening {
            // Nobody listens any more, if it fails.
            let _ = sender.send(Arc::clone(&change));
        }
    }

    /// Changes from now on, of one tenant or of all; `None` if as many listen as may.
    fn listen(&self, tenant: Option<&TenantId>) -> Option<broadcast::Receiver<Arc<Change>>> {
        let mut of_tenants = self.of_tenants.write().unwrap_or_else(PoisonError::into_inner);
        let Some(tenant) = tenant else {
            return (self.of_all.receiver_count() < MAX_WATCHERS).then(|| self.of_all.subscribe());
        };
        // Tenants come and go: what nobody listens to is not kept.
        of_tenants.retain(|_, sender| sender.receiver_count() > 0);
        let sender = of_tenants
            .entry(tenant.clone())
            .or_insert_with(|| broadcast::Sender::new(BEHIND_IN_TENANT));
        (sender.receiver_count() < MAX_WATCHERS_IN_TENANT).then(|| sender.subscribe())
    }

    /// A tenant is served here now, and what the store has of it is known.
    pub(crate) fn served(&self, fleet: &Arc<Fleet>) {
        let mut fleets = self.fleets.write().unwrap_or_else(PoisonError::into_inner);
        fleets.insert(fleet.tenant.clone(), Arc::clone(fleet));
    }

    /// A tenant is no longer served here.
    pub(crate) fn gone(&self, fleet: &Arc<Fleet>) {
        let mut fleets = self.fleets.write().unwrap_or_else(PoisonError::into_inner);
        // It may be served here again by now.
        if fleets.get(&fleet.tenant).is_some_and(|served| Arc::ptr_eq(served, fleet)) {
            fleets.remove(&fleet.tenant);
        }
    }

    fn all(&self) -> RwLockReadGuard<'_, HashMap<TenantId, Arc<Fleet>>> {
        self.fleets.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn fleets(&self) -> Vec<Arc<Fleet>> {
        self.all().values().cloned().collect()
    }

    fn fleet(&self, tenant: &TenantId) -> Option<Arc<Fleet>> {
        self.all().get(tenant).cloned()
    }

    fn has(&self, fleet: &Arc<Fleet>) -> bool {
        self.all().get(&fleet.tenant).is_some_and(|served| Arc::ptr_eq(served, fleet))
    }
}

#[derive(Clone)]
struct Watching {
    changes: Changes,
    auth: Arc<Authenticator>,
    elsewhere: watch::Receiver<Arc<Elsewhere>>,
    stop: CancellationToken,
}

/// Whose devices are asked for.
#[derive(Deserialize)]
struct Asked {
    tenant: Option<TenantId>,
}

/// What a bearer may see.
#[derive(Clone)]
struct View {
    auth: Arc<Authenticator>,
    principal: Arc<bulkhead_policy::Principal>,
    tenant: Option<TenantId>,
}

/// What the registry serves on the admin port: `GET /v1/devices` and `GET /v1/devices/events`.
///
/// Both need the token of somebody of a tenant, who sees that tenant as its role says, or of a platform
/// service, which sees the one it names, or all that are served here.
pub(crate) fn routes(
    changes: Changes,
    auth: Arc<Authenticator>,
    elsewhere: watch::Receiver<Arc<Elsewhere>>,
    stop: CancellationToken,
) -> Router {
    Router::new()
        .route("/v1/devices", get(devices))
        .route("/v1/devices/events", get(events))
        .with_state(Watching { changes, auth, elsewhere, stop })
}

async fn devices(
    State(watching): State<Watching>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    let (view, fleet) = match watching.asked(asked, &headers).await {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    let fleets = fleet.map_or_else(|| watching.changes.fleets(), |fleet| vec![fleet]);
    let mut all = Vec::new();
    let mut behind = None;
    for fleet in fleets {
        if let Some(discover) = view.discovers(&fleet.tenant) {
            let sight = Sight::new(discover, view.principal.device.clone());
            all.extend(fleet.listing(&sight).await);
            behind = behind.into_iter().chain(fleet.behind_since()).min();
        }
    }
    let mut headers = HeaderMap::new();
    if let Some(behind) = behind {
        headers.insert(BEHIND_HEADER, behind.elapsed().as_secs().into());
    }
    let missing = watching.missing();
    if view.tenant.is_none() && missing > 0 {
        headers.insert(PARTIAL_HEADER, missing.into());
    }
    (headers, Json(all)).into_response()
}

async fn events(
    State(watching): State<Watching>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    let (view, fleet) = match watching.asked(asked, &headers).await {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    let Some(receiver) = watching.changes.listen(view.tenant.as_ref()) else {
        let text = "too many watch this tenant already; end another watch".to_owned();
        return Absent { status: StatusCode::SERVICE_UNAVAILABLE, text }.into_response();
    };
    let watch = Watch { watching, view, receiver, fleet, told_missing: 0, has_ended: false };
    let stream = stream::unfold(watch, |mut watch| async {
        let event = watch.next().await?;
        Some((Ok::<_, Infallible>(event), watch))
    });
    Sse::new(stream).keep_alive(KeepAlive::default()).into_response()
}

impl Watching {
    /// What the bearer may see, and the devices of the tenant if it is one that is asked for.
    async fn asked(
        &self,
        asked: Asked,
        headers: &HeaderMap,
    ) -> Result<(View, Option<Arc<Fleet>>), Response> {
        let view = self.view(asked, headers).await?;
        let fleet = view.tenant.as_ref().map(|tenant| self.fleet(tenant)).transpose();
        Ok((view, fleet.map_err(IntoResponse::into_response)?))
    }

    async fn view(&self, asked: Asked, headers: &HeaderMap) -> Result<View, Response> {
        let refuse = |status: StatusCode, text: &'static str| {
            let ask = [(header::WWW_AUTHENTICATE, "Bearer")];
            (status, ask, Json(json!({"error": text}))).into_response()
        };
        let token = bearer(headers)
            .ok_or_else(|| refuse(StatusCode::UNAUTHORIZED, "a Bearer token is needed"))?;
        // The admin port's clients are not told apart by their addresses.
        let principal = self.auth.identify(token, None).await;
        let principal = principal
            .and_then(|principal| self.auth.welcome(&principal).map(|_| principal))
            .map_err(|_| refuse(StatusCode::UNAUTHORIZED, "the token is not accepted"))?;
        let tenant = match (principal.tenant(), asked.tenant) {
            (Some(own), Some(other)) if *own != other => {
                return Err(refuse(StatusCode::FORBIDDEN, "the token is of another tenant"));
            }
            (Some(own), _) => Some(own.clone()),
            (None, asked) => asked,
        };
        Ok(View { auth: Arc::clone(&self.auth), principal, tenant })
    }

    /// The tenant's devices, if they are served here; else who has them, or what to do.
    fn fleet(&self, tenant: &TenantId) -> Result<Arc<Fleet>, Absent> {
        if let Some(fleet) = self.changes.fleet(tenant) {
            return Ok(fleet);
        }
        if self.auth.directory().snapshot().get(tenant).is_none() {
            let text =
                format!("tenant '{tenant}' is not in the directory; see `bulkhead tenant list`");
            return Err(Absent { status: StatusCode::NOT_FOUND, text });
        }
        let elsewhere = Arc::clone(&self.elsewhere.borrow());
        let text = match elsewhere.get(&partition_of(tenant)) {
            Some(replica) => format!(
                "tenant '{tenant}' is served by another replica, {replica}; ask that one's admin port"
            ),
            None => format!(
                "tenant '{tenant}' is served by no replica yet, or changes over; ask again in a few \
                 seconds"
            ),
        };
        Err(Absent { status: StatusCode::SERVICE_UNAVAILABLE, text })
    }

    /// How many tenants of the directory are not served here.
    fn missing(&self) -> usize {
        self.auth.directory().snapshot().len().saturating_sub(self.changes.all().len())
    }
}

/// Why a tenant's devices cannot be shown.
struct Absent {
    status: StatusCode,
    text: String,
}

impl IntoResponse for Absent {
    fn into_response(self) -> Response {
        (self.status, Json(json!({"error": self.text}))).into_response()
    }
}

/// Somebody who watches.
struct Watch {
    watching: Watching,
    view: View,
    receiver: broadcast::Receiver<Arc<Change>>,
    /// Whose changes these are, if it is one tenant's.
    fleet: Option<Arc<Fleet>>,
    /// How many tenants were last said to be missing.
    told_missing: usize,
    has_ended: bool,
}

impl Watch {
    /// What is told next; `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if self.has_ended {
                return None;
            }
            if let Some(missing) = self.news_of_missing() {
                return Some(Event::default().event("partial").data(missing.to_string()));
            }
            let received = tokio::select! {
                () = self.watching.stop.cancelled() => return None,
                received = tokio::time::timeout(LOOK, self.receiver.recv()) => received,
            };
            if !self.view.holds() {
                return None;
            }
            let has_gone =
                self.fleet.as_ref().is_some_and(|fleet| !self.watching.changes.has(fleet));
            match received {
                // What is behind a change-over is told elsewhere, or is of another tenant of the name.
                _ if has_gone => {
                    self.has_ended = true;
                    let text = "the tenant is no longer served by this replica; watch again";
                    return Some(Event::default().event("ended").data(text));
                }
                Err(_quiet) => {}
                Ok(Err(broadcast::error::RecvError::Closed)) => return None,
                // What was missed is found by looking again.
                Ok(Err(broadcast::error::RecvError::Lagged(missed))) => {
                    return Some(Event::default().event("missed").data(missed.to_string()));
                }
                Ok(Ok(change)) => {
                    if self.sees(&change) {
                        return Some(Event::default().event(change.kind).data(change.json()));
                    }
                }
            }
        }
    }

    fn sees(&self, change: &Change) -> bool {
        let is_own = self.view.principal.device.as_ref() == Some(&change.device);
        let discover = self.view.discovers(&change.tenant);
        discover.is_some_and(|discover| discover.admits(change.device_type.as_deref(), is_own))
    }

    /// How many tenants are missing of all, if that is not what was said last.
    fn news_of_missing(&mut self) -> Option<usize> {
        let missing = if self.fleet.is_none() { self.watching.missing() } else { 0 };
        let before = std::mem::replace(&mut self.told_missing, missing);
        (before != missing).then_some(missing)
    }
}

impl View {
    /// Whether the bearer is still welcome.
    fn holds(&self) -> bool {
        self.principal.expires_at > Timestamp::now() && self.auth.welcome(&self.principal).is_ok()
    }

    /// What the bearer sees of a tenant; `None` for one that is not the bearer's.
    fn discovers(&self, tenant: &TenantId) -> Option<Discover> {
        if self.tenant.as_ref().is_some_and(|own| own != tenant) {
            return None;
        }
        let Some(requester) = Requester::of(&self.principal) else {
            return Some(Discover::Everything);
        };
        Some(self.auth.granted(Broker::Nats, &requester).ok()?.discover)
    }
}

impl Change {
    fn json(&self) -> String {
        let head = json!({"tenant": self.tenant, "device": self.device, "at": self.at}).to_string();
        let document = self.document.as_deref().unwrap_or("null");
        format!("{},\"document\":{document}}}", head.trim_end_matches('}'))
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Changes, MAX_WATCHERS, MAX_WATCHERS_IN_TENANT};
    use bulkhead_policy::{DeviceId, TenantId};
    use jiff::Timestamp;

    fn change(tenant: &TenantId) -> Change {
        let device = DeviceId::parse("cam-1").unwrap();
        let (device_type, document) = (None, None);
        let at = Timestamp::UNIX_EPOCH;
        Change { tenant: tenant.clone(), device, device_type, kind: "online", at, document }
    }

    #[test]
    fn no_tenant_takes_anothers_place_or_pushes_its_changes_out() {
        let changes = Changes::new();
        let [acme, globex] = ["acme", "globex"].map(|id| TenantId::parse(id).unwrap());
        let mut all = changes.listen(None).unwrap();
        let of_acme: Vec<_> = (0..MAX_WATCHERS_IN_TENANT)
            .map(|_| changes.listen(Some(&acme)).expect("there is a place"))
            .collect();
        assert!(changes.listen(Some(&acme)).is_none());
        let mut quiet = changes.listen(Some(&globex)).unwrap();
        changes.send(&globex, || change(&globex));
        for _ in 0..100_000 {
            changes.send(&acme, || change(&acme));
        }
        assert_eq!(quiet.try_recv().unwrap().tenant, globex);
        assert!(quiet.try_recv().is_err(), "another tenant's changes are not among its own");
        assert!(all.try_recv().is_err(), "who watches all was left behind");
        drop(of_acme);
        assert!(changes.listen(Some(&acme)).is_some(), "places come free");
        let platform: Vec<_> = (1..MAX_WATCHERS).filter_map(|_| changes.listen(None)).collect();
        assert_eq!((platform.len(), changes.listen(None).is_some()), (MAX_WATCHERS - 1, false));
        assert!(changes.listen(Some(&globex)).is_some());
    }

    #[test]
    fn tenants_that_nobody_watches_are_not_kept() {
        let changes = Changes::new();
        for n in 0..1_000 {
            drop(changes.listen(Some(&TenantId::parse(&format!("t{n}")).unwrap())));
        }
        assert_eq!(changes.of_tenants.read().unwrap().len(), 1);
    }
}
