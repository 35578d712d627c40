//! `POST /v1/credentials`: a tenant token in, a Device Connect credentials file out.

use super::bearer;
use super::serve::{ServeError, serve};
use crate::audit::{Event, Record};
use crate::auth::Authenticator;
use crate::config::ExchangeConfig;
use crate::limits::Buckets;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router, body::Bytes};
use bulkhead_policy::{
    Broker, DenyReason, DeviceId, Principal, RoleName, TenantId, TokenId, Verdict,
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// [`Principal::issuer`] of those with issued credentials. No configured issuer can have this name.
pub const ISSUER: &str = "exchange";

/// Largest request body, in bytes.
const MAX_BODY_BYTES: usize = 4 * 1024;

/// A backend's way of making credentials.
pub trait CredentialIssuer: Send + Sync {
    /// The section of the credentials file that it fills: `nats`, `mqtt` or `zenoh`.
    fn section(&self) -> &'static str;

    /// The broker that the credentials are for.
    fn broker(&self) -> Broker;

    /// How a device proves itself with them: `jwt`, `password` or `mtls`.
    fn auth_type(&self) -> &'static str {
        "jwt"
    }

    /// Makes the section's content for a device.
    ///
    /// # Errors
    /// [`DenyReason`] if the backend cannot serve the tenant now.
    fn issue(&self, subject: &Subject) -> Result<serde_json::Value, DenyReason>;

    /// Makes what stands under `tls` in the section, where a client certificate is asked for beside
    /// it: certificate and private key, in PEM. `None` if the backend takes none.
    fn certify(&self, _subject: &Subject) -> Option<Result<serde_json::Value, DenyReason>> {
        None
    }
}

/// Whom credentials are for.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The tenant.
    pub tenant: TenantId,
    /// The device.
    pub device: DeviceId,
    /// The role it will have.
    pub role: RoleName,
    /// The credentials' own id, by which they can be revoked.
    pub id: TokenId,
    /// The `jti` of the token they were asked for with.
    pub origin: Option<TokenId>,
    /// When they begin.
    pub issued_at: Timestamp,
    /// When they end.
    pub expires_at: Timestamp,
}

impl Subject {
    /// A subject of now, with a random id.
    ///
    /// # Errors
    /// [`DenyReason::Internal`] if the system has no randomness, or no time is so late.
    pub fn new(
        tenant: TenantId,
        device: DeviceId,
        role: RoleName,
        origin: Option<TokenId>,
        ttl: SignedDuration,
    ) -> Verdict<Self> {
        let issued_at = Timestamp::now();
        let expires_at = issued_at.checked_add(ttl).map_err(|_| DenyReason::Internal)?;
        let id = random_id().ok_or(DenyReason::Internal)?;
        Ok(Self { tenant, device, role, id, origin, issued_at, expires_at })
    }
}

/// A credentials file as Device Connect reads it.
#[derive(Clone, Serialize)]
pub struct CredentialsFile {
    /// The device.
    pub device_id: DeviceId,
    /// The tenant.
    pub tenant: TenantId,
    /// How the device proves itself.
    pub auth_type: &'static str,
    /// The backend's section.
    #[serde(flatten)]
    pub sections: serde_json::Map<String, serde_json::Value>,
}

impl CredentialsFile {
    /// A file with one backend's section, and in it a client certificate if one is asked for.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue(
        issuer: &dyn CredentialIssuer,
        subject: &Subject,
        certificate: bool,
    ) -> Result<Self, IssueError> {
        let tls = match certificate.then(|| issuer.certify(subject)) {
            Some(None) => return Err(IssueError::NoCertificates),
            Some(Some(made)) => Some(made.map_err(IssueError::Denied)?),
            None => None,
        };
        let mut section = issuer.issue(subject).map_err(IssueError::Denied)?;
        if let (Some(tls), Some(section)) = (tls, section.as_object_mut()) {
            section.insert("tls".to_owned(), tls);
        }
        Ok(Self {
            device_id: subject.device.clone(),
            tenant: subject.tenant.clone(),
            auth_type: issuer.auth_type(),
            sections: [(issuer.section().to_owned(), section)].into_iter().collect(),
        })
    }
}

impl std::fmt::Debug for CredentialsFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { device_id, tenant, auth_type, sections: _ } = self;
        let fields = (device_id, tenant, auth_type);
        f.debug_tuple("CredentialsFile").field(&fields).finish_non_exhaustive()
    }
}

/// Why no credentials were issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The bearer is not who may ask for them.
    #[error("{0}")]
    Denied(DenyReason),
    /// The tenant asked too often.
    #[error("too many credentials were issued to this tenant within the last minute")]
    TooOften,
    /// An operator has to say for which device.
    #[error("name the device in the request: {{\"device\": \"…\"}}")]
    DeviceMissing,
    /// Nothing lives less than a second.
    #[error("ttl is too short; ask for at least \"1s\"")]
    TtlTooShort,
    /// No such backend is configured.
    #[error("no such backend is configured; see `bulkhead check`")]
    UnknownBackend,
    /// Several backends are configured.
    #[error("name the backend in the request: {{\"backend\": \"…\"}}")]
    BackendMissing,
    /// The backend knows no client certificates.
    #[error("this backend takes no client certificate; leave out `certificate`")]
    NoCertificates,
}

/// The request's body; empty means everything by default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// Which device; default the token's own.
    pub device: Option<DeviceId>,
    /// Which backend; default the only one.
    pub backend: Option<String>,
    /// How long the credentials should live; at most, and by default, what is configured.
    pub ttl: Option<SignedDuration>,
    /// Whether they should hold a client certificate besides, for a backend that takes one. Default no.
    pub certificate: bool,
}

impl Request {
    /// Reads a body: nothing, or an object. (An array of values in the order of the fields would be
    /// taken for one.)
    fn parse(body: &[u8]) -> serde_json::Result<Self> {
        match body.trim_ascii_start().first() {
            None => Ok(Self::default()),
            Some(b'{') => serde_json::from_slice(body),
            Some(_) => Err(serde::de::Error::custom("the request is a JSON object, or empty")),
        }
    }
}

/// Issues credentials for verified principals.
pub struct Exchange {
    auth: Arc<Authenticator>,
    issuers: Vec<Arc<dyn CredentialIssuer>>,
    ttl: SignedDuration,
    per_minute: u64,
    issued: Buckets<TenantId>,
}

impl Exchange {
    /// An exchange for these backends.
    pub fn new(
        config: &ExchangeConfig,
        auth: Arc<Authenticator>,
        issuers: Vec<Arc<dyn CredentialIssuer>>,
    ) -> Self {
        Self {
            auth,
            issuers,
            ttl: config.credentials_ttl,
            per_minute: config.per_minute.into(),
            issued: Buckets::new(),
        }
    }

    /// Issues credentials to the bearer of a verified token.
    ///
    /// A device gets its own, with the role it has; an operator gets those of any device of its
    /// tenant, with the role `device`; nobody else gets any.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue(
        &self,
        bearer: Arc<Principal>,
        request: &Request,
    ) -> Result<CredentialsFile, IssueError> {
        let issuer = match (&request.backend, self.issuers.as_slice()) {
            (None, [only]) => only,
            (None, []) => return Err(IssueError::UnknownBackend),
            (None, _) => return Err(IssueError::BackendMissing),
            (Some(name), all) => all
                .iter()
                .find(|issuer| issuer.section() == name)
                .ok_or(IssueError::UnknownBackend)?,
        };
        let denied = IssueError::Denied;
        let tenant = bearer.tenant().cloned().ok_or(denied(DenyReason::RoleNotAllowed))?;
        let (device, role) = match (&bearer.device, &request.device) {
            (Some(own), asked) if asked.as_ref().is_none_or(|asked| asked == own) => {
                (own.clone(), bearer.role.clone())
            }
            (Some(_), _) => return Err(denied(DenyReason::DeviceInvalid)),
            (None, _) if bearer.role != RoleName::operator() => {
                return Err(denied(DenyReason::RoleNotAllowed));
            }
            (None, Some(asked)) => (asked.clone(), RoleName::device()),
            (None, None) => return Err(IssueError::DeviceMissing),
        };
        self.auth.admit(issuer.broker(), Arc::clone(&bearer)).map_err(denied)?;
        let known = self.auth.directory().tenant(&tenant).map_err(denied)?;
        if known.revoked_devices.contains_key(&device) {
            return Err(denied(DenyReason::DeviceRevoked));
        }
        if !self.issued.take(tenant.clone(), self.per_minute, 1) {
            return Err(IssueError::TooOften);
        }
        let ttl = request.ttl.map_or(self.ttl, |asked| asked.min(self.ttl));
        if ttl < SignedDuration::from_secs(1) {
            return Err(IssueError::TtlTooShort);
        }
        let origin = bearer.origin.clone().or_else(|| bearer.token_id.clone());
        let subject = Subject::new(tenant, device, role, origin, ttl).map_err(denied)?;
        let file = CredentialsFile::issue(&**issuer, &subject, request.certificate)?;
        self.auth.metrics().issued(issuer.section());
        let record = Record::new(Event::CredentialIssued, issuer.section()).of(&bearer);
        self.auth.audit().record(record.detail(format!(
            "device {}, id {}, until {}",
            subject.device, subject.id, subject.expires_at
        )));
        Ok(file)
    }
}

/// 128 random bits in hexadecimal.
fn random_id() -> Option<TokenId> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    TokenId::parse(&format!("{:032x}", u128::from_be_bytes(bytes))).ok()
}

/// Serves the exchange. Returns its address.
///
/// # Errors
/// [`ServeError`].
pub async fn start(
    config: &ExchangeConfig,
    exchange: Exchange,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<SocketAddr, ServeError> {
    let expires = exchange.auth.metrics().certificate("exchange");
    let tls = config.tls.as_ref().map(|files| (files, expires));
    let router = Router::new()
        .route("/v1/credentials", post(handle))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Arc::new(exchange));
    serve("exchange.listen", config.listen, tls, router, tasks, stop).await
}

async fn handle(
    State(exchange): State<Arc<Exchange>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let source = Some(peer.ip());
    let token = bearer(&headers).unwrap_or_default();
    let principal = match exchange.auth.identify(token, source).await {
        Ok(principal) => principal,
        Err(reason) => {
            let started = std::time::Instant::now();
            exchange.auth.record("exchange", source, None, Some(reason), started);
            return refuse(IssueError::Denied(reason));
        }
    };
    let request: Request = match Request::parse(&body) {
        Ok(request) => request,
        Err(error) => {
            // What the parser says can hold what the client sent.
            let message = format!(
                "line {}, column {}: the body is empty, or an object with any of device, backend, \
                 ttl and certificate",
                error.line(),
                error.column()
            );
            return answer(StatusCode::BAD_REQUEST, "request_invalid", &message);
        }
    };
    match exchange.issue(Arc::clone(&principal), &request) {
        Ok(file) => ([(header::CACHE_CONTROL, "no-store")], Json(file)).into_response(),
        Err(error) => {
            if let IssueError::Denied(reason) = error {
                let started = std::time::Instant::now();
                exchange.auth.record("exchange", source, Some(&principal), Some(reason), started);
            }
            refuse(error)
        }
    }
}

fn refuse(error: IssueError) -> Response {
    let (status, code) = match error {
        IssueError::Denied(reason) => (status_of(reason), reason.code()),
        IssueError::TooOften => (StatusCode::TOO_MANY_REQUESTS, "issue_rate_exceeded"),
        IssueError::DeviceMissing => (StatusCode::BAD_REQUEST, "device_missing"),
        IssueError::TtlTooShort => (StatusCode::BAD_REQUEST, "request_invalid"),
        IssueError::UnknownBackend => (StatusCode::BAD_REQUEST, "backend_unknown"),
        IssueError::BackendMissing => (StatusCode::BAD_REQUEST, "backend_missing"),
        IssueError::NoCertificates => (StatusCode::BAD_REQUEST, "certificate_unavailable"),
    };
    let mut response = answer(status, code, &error.to_string());
    let extra = match status {
        StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
        StatusCode::TOO_MANY_REQUESTS => Some((header::RETRY_AFTER, "60")),
        _ => None,
    };
    if let Some((name, value)) = extra {
        response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    response
}

fn status_of(reason: DenyReason) -> StatusCode {
    match reason {
        DenyReason::AuthRateExceeded
        | DenyReason::SourceRateExceeded
        | DenyReason::DailyQuotaExceeded => StatusCode::TOO_MANY_REQUESTS,
        DenyReason::KeysUnavailable
        | DenyReason::DirectoryUnavailable
        | DenyReason::UsageUnavailable
        | DenyReason::Overloaded
        | DenyReason::Internal => StatusCode::SERVICE_UNAVAILABLE,
        DenyReason::TenantUnknown
        | DenyReason::TenantSuspended
        | DenyReason::TenantNotAllowed
        | DenyReason::DeviceRevoked
        | DenyReason::DeviceInvalid
        | DenyReason::DeviceRequired
        | DenyReason::RoleNotAllowed
        | DenyReason::RoleNotConfined
        | DenyReason::RoleUnknown => StatusCode::FORBIDDEN,
        _ => StatusCode::UNAUTHORIZED,
    }
}

fn answer(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(serde_json::json!({"error": code, "message": message}))).into_response()
}
