//! What changes, for people and programs: a snapshot and a stream of events over HTTP.

use crate::fleet::Fleet;
use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use bulkhead_control::Authenticator;
use bulkhead_control::http::bearer;
use bulkhead_policy::{Broker, DeviceId, Discover, Requester, TenantId};
use futures::stream::{self, Stream};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Changes that a slow watcher may be behind; beyond that it is told to look again.
const BEHIND: usize = 4096;

/// Watchers at a time.
const MAX_WATCHERS: usize = 256;

/// How often a watcher's right to watch is looked at again.
const LOOK: Duration = Duration::from_millis(500);

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
    sender: broadcast::Sender<Arc<Change>>,
    fleets: Arc<RwLock<HashMap<TenantId, Arc<Fleet>>>>,
}

impl Changes {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::Sender::new(BEHIND), fleets: Arc::default() }
    }

    /// Tells a change, if anybody listens.
    pub(crate) fn send(&self, change: impl FnOnce() -> Change) {
        if self.sender.receiver_count() > 0 {
            // Nobody listens any more, if it fails.
            let _ = self.sender.send(Arc::new(change()));
        }
    }

    /// A tenant is served here now.
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

    fn fleets(&self) -> Vec<Arc<Fleet>> {
        let fleets = self.fleets.read().unwrap_or_else(PoisonError::into_inner);
        fleets.values().cloned().collect()
    }
}

#[derive(Clone)]
struct Watching {
    changes: Changes,
    auth: Arc<Authenticator>,
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
/// service, which sees the one it names, or all.
pub(crate) fn routes(
    changes: Changes,
    auth: Arc<Authenticator>,
    stop: CancellationToken,
) -> Router {
    Router::new()
        .route("/v1/devices", get(devices))
        .route("/v1/devices/events", get(events))
        .with_state(Watching { changes, auth, stop })
}

async fn devices(
    State(watching): State<Watching>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    let view = match watching.view(asked, &headers).await {
        Ok(view) => view,
        Err(refused) => return refused,
    };
    let mut all = Vec::new();
    for fleet in watching.changes.fleets() {
        if let Some(discover) = view.discovers(&fleet.tenant) {
            all.extend(fleet.listing(&discover, view.principal.device.as_ref()));
        }
    }
    Json(all).into_response()
}

async fn events(
    State(watching): State<Watching>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    let view = match watching.view(asked, &headers).await {
        Ok(view) => view,
        Err(refused) => return refused,
    };
    if watching.changes.sender.receiver_count() >= MAX_WATCHERS {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many watch already; end another watch\n")
            .into_response();
    }
    let stream = watching.stream(view);
    Sse::new(stream).keep_alive(KeepAlive::default()).into_response()
}

impl Watching {
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

    fn stream(&self, view: View) -> impl Stream<Item = Result<Event, Infallible>> + use<> {
        let receiver = self.changes.sender.subscribe();
        let stop = self.stop.clone();
        stream::unfold((receiver, view, stop), |(mut receiver, view, stop)| async move {
            loop {
                let received = tokio::select! {
                    () = stop.cancelled() => return None,
                    received = tokio::time::timeout(LOOK, receiver.recv()) => received,
                };
                if !view.holds() {
                    return None;
                }
                let event = match received {
                    Err(_quiet) => continue,
                    Ok(Err(broadcast::error::RecvError::Closed)) => return None,
                    // What was missed is found by looking again.
                    Ok(Err(broadcast::error::RecvError::Lagged(missed))) => {
                        Event::default().event("missed").data(missed.to_string())
                    }
                    Ok(Ok(change)) => {
                        let Some(discover) = view.discovers(&change.tenant) else { continue };
                        let is_own = view.principal.device.as_ref() == Some(&change.device);
                        if !discover.admits(change.device_type.as_deref(), is_own) {
                            continue;
                        }
                        Event::default().event(change.kind).data(change.json())
                    }
                };
                return Some((Ok(event), (receiver, view, stop)));
            }
        })
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
