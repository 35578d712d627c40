//! One question of a server, one answer.

use crate::carrier::Carrier;
use crate::jwt::{AuthRequest, AuthResponse, Claims, ClientInfo, Unverified};
use crate::mode::Mode;
use crate::nkey;
use crate::permissions;
use crate::xkey::CurveKey;
use bulkhead_control::Authenticator;
use bulkhead_control::config::{ConnectionType, NatsConfig};
use bulkhead_control::identity::Session;
use bulkhead_policy::{Broker, DenyReason, Principal, Verdict};
use ipnet::IpNet;
use jiff::Timestamp;
use moka::sync::Cache;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What requests are for (ADR-26).
const AUDIENCE: &str = "nats-authorization-request";

/// The label of metrics and audit records.
pub const BACKEND: &str = "nats";

/// Requests that are remembered, so that none is answered twice.
const MAX_SEEN: u64 = 65_536;

/// How long they are: beyond it a request has expired anyway.
const SEEN_FOR: Duration = Duration::from_secs(60);

/// Answers servers.
#[derive(Debug)]
pub struct Callout {
    auth: Arc<Authenticator>,
    mode: Mode,
    connection_types: BTreeSet<ConnectionType>,
    sources: Vec<IpNet>,
    /// Connection keys that were asked about: a server makes one for each connection.
    seen: Cache<String, ()>,
}

/// A request that was opened, and how to close the answer.
struct Asked {
    claims: Claims<AuthRequest>,
    sealed: Option<(Arc<CurveKey>, String)>,
}

impl Callout {
    /// A callout that decides with `auth` and signs with `mode`.
    pub fn new(auth: Arc<Authenticator>, mode: Mode, config: &NatsConfig) -> Self {
        Self {
            auth,
            mode,
            connection_types: config.connection_types.clone(),
            sources: config.sources.clone(),
            seen: Cache::builder().max_capacity(MAX_SEEN).time_to_live(SEEN_FOR).build(),
        }
    }

    /// Answers a request. `server_xkey` is the header that a sealed request comes with.
    ///
    /// # Errors
    /// [`DenyReason::RequestForged`] or [`DenyReason::RequestStale`] for what gets no answer, because
    /// nobody waits for one.
    pub async fn answer(&self, payload: &[u8], server_xkey: Option<&str>) -> Verdict<Vec<u8>> {
        let started = Instant::now();
        let now = Timestamp::now();
        let asked = self.open(payload, server_xkey, now).inspect_err(|reason| {
            self.auth.record(BACKEND, None, None, Some(*reason), started);
        })?;
        let request = &asked.claims.nats;
        let source = source_of(&request.client_info);
        let (principal, decided) = match self.decide(request, source, now).await {
            Ok((principal, user)) => (Some(principal), Ok(user)),
            Err((principal, reason)) => (principal, Err(reason)),
        };
        let denied = decided.as_ref().err().copied();
        self.auth.record(BACKEND, source, principal.as_deref(), denied, started);
        self.close(&asked, decided, now)
    }

    /// Whether a principal may stay connected is decided by the same authenticator.
    pub fn auth(&self) -> &Arc<Authenticator> {
        &self.auth
    }

    /// Opens a request and makes sure that a server has just sent it.
    fn open(&self, payload: &[u8], server_xkey: Option<&str>, now: Timestamp) -> Verdict<Asked> {
        let forged = DenyReason::RequestForged;
        let curves = self.mode.curves();
        let (plain, sealed) = match server_xkey {
            _ if curves.is_empty() => (None, None),
            None => return Err(forged),
            Some(server) => {
                let opened = curves
                    .into_iter()
                    .find_map(|curve| curve.open(payload, server).ok().map(|plain| (curve, plain)));
                let (curve, plain) = opened.ok_or(forged)?;
                (Some(plain), Some((curve, server.to_owned())))
            }
        };
        let token = std::str::from_utf8(plain.as_deref().unwrap_or(payload)).map_err(|_| forged)?;
        let unverified = Unverified::<AuthRequest>::decode(token).map_err(|_| forged)?;
        let claims = unverified.peek();
        let server = &claims.nats.server_id;
        let sealed_by_server = sealed.as_ref().is_none_or(|(_, xkey)| server.xkey == *xkey);
        if claims.aud != AUDIENCE
            || claims.iss != server.id
            || !nkey::is_public(&server.id, 'N')
            || !nkey::is_public(&claims.nats.user_nkey, 'U')
            || !sealed_by_server
        {
            return Err(forged);
        }
        if claims.exp <= now.as_second() {
            return Err(DenyReason::RequestStale);
        }
        let claims = unverified.verify().map_err(|_| forged)?;
        let known = self.seen.entry(claims.nats.user_nkey.clone()).or_insert(());
        if !known.is_fresh() {
            return Err(forged);
        }
        Ok(Asked { claims, sealed })
    }

    /// Decides, and on success signs the user.
    async fn decide(
        &self,
        request: &AuthRequest,
        source: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<(Arc<Principal>, String), (Option<Arc<Principal>>, DenyReason)> {
        let anonymous = |reason| (None, reason);
        self.check_connection(&request.client_info, source).map_err(anonymous)?;
        let principal = match Carrier::find(&request.connect_opts).map_err(anonymous)? {
            Carrier::Token(token) => self.auth.identify(token, source).await.map_err(anonymous)?,
            Carrier::UserJwt(jwt) => {
                let principal = self.mode.principal(jwt, now).map_err(anonymous)?;
                Arc::new(principal.ok_or(anonymous(DenyReason::TokenMissing))?)
            }
            Carrier::None => return Err(anonymous(DenyReason::TokenMissing)),
        };
        let known = |reason| (Some(Arc::clone(&principal)), reason);
        // The server carries the messages, so who may publish none may not be there. It is asked first, or
        // coming back all the time would use up the day's authentications too.
        if principal.tenant().is_some_and(|tenant| self.auth.usage().is_exhausted(tenant)) {
            return Err(known(DenyReason::DailyQuotaExceeded));
        }
        let admission = self.auth.admit(Broker::Nats, Arc::clone(&principal)).map_err(known)?;
        let user = permissions::user(&admission.grants).map_err(|error| {
            tracing::error!(%error, role = %principal.role, "a role cannot be written for NATS");
            known(DenyReason::Internal)
        })?;
        let mut claims = Claims::about(request.user_nkey.as_str(), user);
        claims.exp = principal.expires_at.as_second();
        let session = Session { principal: Principal::clone(&principal), rights: admission.rights };
        claims.name = session.name();
        let signed = self.mode.sign_user(&principal.scope, claims, now).await.map_err(known)?;
        Ok((principal, signed))
    }

    /// What a server does not check for users of a callout.
    fn check_connection(&self, client: &ClientInfo, source: Option<IpAddr>) -> Verdict<()> {
        let kind = match (client.kind.as_str(), client.protocol.as_str()) {
            ("Client", "nats") => ConnectionType::Standard,
            ("Client", "websocket") => ConnectionType::Websocket,
            ("Client", "mqtt") => ConnectionType::Mqtt,
            ("Leafnode", _) => ConnectionType::Leafnode,
            _ => return Err(DenyReason::ConnectionTypeNotAllowed),
        };
        if !self.connection_types.contains(&kind) {
            return Err(DenyReason::ConnectionTypeNotAllowed);
        }
        let admitted = self.sources.is_empty()
            || source
                .is_some_and(|source| self.sources.iter().any(|network| network.contains(&source)));
        if admitted { Ok(()) } else { Err(DenyReason::SourceNotAllowed) }
    }

    /// Signs and seals an answer.
    fn close(&self, asked: &Asked, decided: Verdict<String>, now: Timestamp) -> Verdict<Vec<u8>> {
        let request = &asked.claims.nats;
        let (jwt, error) = match decided {
            Ok(jwt) => (jwt, String::new()),
            Err(reason) => (String::new(), reason.code().to_owned()),
        };
        let response = AuthResponse {
            jwt,
            error,
            kind: "authorization_response".to_owned(),
            version: 2,
            ..AuthResponse::default()
        };
        let mut claims = Claims::about(request.user_nkey.as_str(), response);
        claims.aud.clone_from(&request.server_id.id);
        let token = self.mode.sign_answer(claims, now)?;
        match &asked.sealed {
            Some((curve, server)) => {
                curve.seal(token.as_bytes(), server).map_err(|_| DenyReason::RequestForged)
            }
            None => Ok(token.into_bytes()),
        }
    }
}

fn source_of(client: &ClientInfo) -> Option<IpAddr> {
    client.host.parse().ok().map(|address: IpAddr| address.to_canonical())
}
