//! `/healthz`, `/readyz`, `/metrics` and `/v1/usage`.

use super::bearer;
use super::serve::{ServeError, serve};
use crate::config::AdminConfig;
use crate::files::read_text;
use crate::metrics::Metrics;
use crate::usage::{TenantUsage, Usage};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bulkhead_policy::Resource;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

/// Shortest token that guards the port, in bytes.
const MIN_TOKEN_BYTES: usize = 16;

/// What has to be so for this process to be sent work. Cloning shares the list.
#[derive(Clone, Default)]
pub struct Readiness {
    checks: Arc<Mutex<Vec<(&'static str, Check)>>>,
}

type Check = Arc<dyn Fn() -> bool + Send + Sync>;

impl Readiness {
    /// Adds a condition.
    pub fn require(&self, name: &'static str, check: impl Fn() -> bool + Send + Sync + 'static) {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).push((name, Arc::new(check)));
    }

    /// The conditions that do not hold.
    pub fn missing(&self) -> Vec<&'static str> {
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        checks.into_iter().filter(|(_, check)| !check()).map(|(name, _)| name).collect()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("missing", &self.missing()).finish()
    }
}

/// What the port shows.
#[derive(Clone, Debug)]
pub struct Shown {
    /// At `/metrics`.
    pub metrics: Metrics,
    /// At `/v1/usage`.
    pub usage: Usage,
    /// At `/readyz`.
    pub readiness: Readiness,
}

#[derive(Clone)]
struct Admin {
    shown: Shown,
    token: Option<Arc<SecretString>>,
}

/// What services add to the admin port once they run. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Extension(Arc<OnceLock<Router>>);

impl Extension {
    /// Serves these paths too. What guards them is theirs.
    pub fn serve(&self, router: Router) {
        // A process has each service once.
        let _ = self.0.set(router);
    }

    async fn call(self, request: Request) -> Response {
        match self.0.get() {
            Some(router) => match router.clone().call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            None => StatusCode::NOT_FOUND.into_response(),
        }
    }
}

/// Serves the admin port. Returns its address.
///
/// # Errors
/// [`ServeError`].
pub async fn start(
    config: &AdminConfig,
    shown: Shown,
    extension: Extension,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<SocketAddr, ServeError> {
    let token = config.token_file.as_ref().map(|path| {
        let token = read_text(path)?.trim().to_owned();
        if token.len() < MIN_TOKEN_BYTES {
            return Err(io::Error::other(format!("{} is too short", path.display())));
        }
        Ok(Arc::new(SecretString::from(token)))
    });
    let admin = Admin { shown, token: token.transpose().map_err(ServeError::Token)? };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .route("/v1/usage", get(usage))
        .fallback(move |request| extension.clone().call(request))
        .with_state(admin);
    serve("admin.listen", config.listen, None, router, tasks, stop).await
}

async fn ready(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    let missing = admin.shown.readiness.missing();
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    // What exactly is missing is for those who may see the metrics.
    let text = if admin.admits(&headers) { missing.join("\n") } else { "not ready".to_owned() };
    (StatusCode::SERVICE_UNAVAILABLE, text + "\n").into_response()
}

async fn metrics_text(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    if !admin.admits(&headers) {
        return unauthorized();
    }
    match admin.shown.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// What every tenant uses and may use, as this process knows it.
async fn usage(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    if !admin.admits(&headers) {
        return unauthorized();
    }
    let (day, all) = admin.shown.usage.all();
    let tenants: BTreeMap<_, _> =
        all.into_iter().map(|(id, usage)| (id, by_resource(&usage))).collect();
    Json(json!({"day": day.to_string(), "tenants": tenants})).into_response()
}

fn by_resource(usage: &TenantUsage) -> BTreeMap<&'static str, Value> {
    let shown = |resource: &Resource| {
        let used = usage.today.get(*resource).or_else(|| usage.live.get(resource).copied());
        let quota = usage.quotas.get(*resource);
        let is_any = used.is_some() || quota.is_some();
        is_any.then(|| (resource.name(), json!({"used": used, "quota": quota})))
    };
    Resource::ALL.iter().filter_map(shown).collect()
}

fn unauthorized() -> Response {
    let ask = [(header::WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, ask, "a Bearer token is needed\n").into_response()
}

impl Admin {
    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else {
            return true;
        };
        let given = bearer(headers).unwrap_or_default();
        token.expose_secret().as_bytes().ct_eq(given.as_bytes()).into()
    }
}
