//! The one way in: every backend asks here who a client is and what it may do.

use crate::audit::{Audit, Event, Record};
use crate::config::Config;
use crate::directory::Directory;
use crate::http::exchange;
use crate::identity::Accepted;
use crate::issuer::Verifier;
use crate::limits::AuthLimits;
use crate::metrics::Metrics;
use crate::usage::{Meter, Usage};
use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use bulkhead_policy::{
    Broker, DenyReason, Discover, Grants, Principal, Quotas, Requester, Role, RoleName, RoleSet,
    Scope, Tenant, Verdict,
};
use jiff::Timestamp;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// Authenticates clients: token, then directory, then limits, then role.
#[derive(Debug)]
pub struct Authenticator {
    verifier: Verifier,
    directory: Directory,
    limits: AuthLimits,
    rules: ArcSwap<Rules>,
    rules_changes: watch::Sender<()>,
    usage: Usage,
    audit: Audit,
    metrics: Metrics,
}

/// A client that was let in.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Who it is.
    pub principal: Arc<Principal>,
    /// What it may publish and subscribe.
    pub grants: Grants,
    /// Its tenant's limits.
    pub quotas: Quotas,
    /// Which rights these are, to see later whether they have changed.
    pub rights: Rights,
    /// What counts its tenant's use; `None` for the platform's services, which have no limits.
    pub meter: Option<Arc<Meter>>,
}

/// What somebody may do of whom a broker has told.
#[derive(Clone, Debug)]
pub struct Granted {
    /// What it may publish and subscribe.
    pub grants: Grants,
    /// Which devices it can find.
    pub discover: Discover,
}

/// Who a client has proven to be.
#[derive(Clone, Debug)]
pub struct Identified {
    /// Who it is: by its token, or without one by its certificate.
    pub principal: Arc<Principal>,
    /// What the certificate says that came beside the token: the same tenant and device. It has to
    /// stay welcome too.
    pub beside: Option<Arc<Principal>>,
}

/// A fingerprint of a role's definition: the same on every replica that has the same configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rights(u64);

/// What of the configuration decides about rights.
#[derive(Debug)]
struct Rules {
    roles: RoleSet,
    rights: HashMap<RoleName, Rights>,
    brokers: Vec<Broker>,
    quotas: Quotas,
    /// Since when they hold.
    learned: Instant,
}

impl Authenticator {
    pub(crate) fn new(
        config: &Config,
        verifier: Verifier,
        directory: Directory,
        usage: Usage,
        audit: Audit,
        metrics: Metrics,
    ) -> Self {
        Self {
            verifier,
            directory,
            usage,
            limits: AuthLimits::new(&config.limits),
            rules: ArcSwap::from_pointee(Rules::new(config, config.brokers())),
            rules_changes: watch::Sender::new(()),
            audit,
            metrics,
        }
    }

    /// Verifies a tenant token and says who its bearer is. The directory has not been asked yet.
    ///
    /// An address that failed too often gets no more signature checks; tokens that were verified
    /// lately still pass, so that nobody is shut out by a neighbour behind the same address.
    ///
    /// # Errors
    /// The [`DenyReason`].
    pub async fn identify(&self, token: &str, source: Option<IpAddr>) -> Verdict<Arc<Principal>> {
        self.identify_token(token, None, source).await
    }

    /// The same for a client of a broker, where what the exchange issued is accepted too: a token,
    /// the leaf of a certificate (DER) for whose key the TLS handshake had proof, or both.
    ///
    /// Where both are shown, they have to be of the same tenant and device, and both have to hold. A
    /// certificate never stands in for a token that is refused.
    ///
    /// # Errors
    /// The [`DenyReason`]; [`DenyReason::CarrierConflict`] if the two differ.
    pub async fn identify_client(
        &self,
        accepted: &Accepted,
        token: Option<&str>,
        certificate: Option<&[u8]>,
        source: Option<IpAddr>,
    ) -> Verdict<Identified> {
        // Nobody can guess a certificate's key, so its owner is not shut out with its neighbours.
        let certified = match certificate.map(|leaf| accepted.certificate(leaf)) {
            Some(Ok(principal)) => Some(Arc::new(principal)),
            Some(Err(reason)) => {
                if is_clients_fault(reason) {
                    self.limits.failed(source);
                }
                return Err(reason);
            }
            None => None,
        };
        let (token, beside) = match (token, certified) {
            (Some(token), beside) => (token, beside),
            (None, Some(principal)) => return Ok(Identified { principal, beside: None }),
            (None, None) => return Err(DenyReason::TokenMissing),
        };
        let principal = self.identify_token(token, accepted.tokens(), source).await?;
        let agrees = |other: &Arc<Principal>| {
            other.scope == principal.scope && other.device == principal.device
        };
        if !beside.as_ref().is_none_or(agrees) {
            return Err(DenyReason::CarrierConflict);
        }
        Ok(Identified { principal, beside })
    }

    async fn identify_token(
        &self,
        token: &str,
        issued: Option<&Verifier>,
        source: Option<IpAddr>,
    ) -> Verdict<Arc<Principal>> {
        let now = Timestamp::now();
        if self.limits.is_shut_out(source) {
            let known = self.verifier.cached(token, now);
            let known = known.or_else(|| issued?.cached(token, now));
            return known.ok_or(DenyReason::SourceRateExceeded);
        }
        let mut verdict = self.verifier.verify(token, now).await;
        // No configured issuer can sign as the exchange does.
        if let (Err(DenyReason::IssuerUnknown), Some(issued)) = (&verdict, issued) {
            verdict = issued.verify(token, now).await;
        }
        if verdict.as_ref().err().is_some_and(|reason| is_clients_fault(*reason)) {
            self.limits.failed(source);
        }
        verdict
    }

    /// Lets a principal in whose identity has been proven.
    ///
    /// # Errors
    /// The [`DenyReason`].
    pub fn admit(&self, broker: Broker, principal: Arc<Principal>) -> Verdict<Admission> {
        if principal.expires_at <= Timestamp::now() {
            // Within the leeway of its verification, but no broker could be told an end in the past.
            return Err(DenyReason::TokenExpired);
        }
        let tenant = self.directory.admit(&principal)?;
        let rules = self.rules.load();
        let quotas = quotas_of(&principal, &tenant, &rules);
        if let Some(id) = principal.tenant()
            && !self.limits.admits(id, quotas.authentications_per_minute)
        {
            return Err(DenyReason::AuthRateExceeded);
        }
        let (role, rights) = rules.role(&tenant, &principal.role)?;
        let grants = Grants::compile(role, broker, &principal)?;
        // The last, so that what is refused anyway uses nothing up.
        let meter = principal.tenant().map(|id| self.usage.admit(id, &quotas)).transpose()?;
        Ok(Admission { principal, grants, quotas, rights, meter })
    }

    /// Whether a principal whose identity has been proven would be let in, but for what its tenant has used of its
    /// rates and quotas: nothing of them is used up.
    ///
    /// # Errors
    /// The [`DenyReason`].
    pub fn would_admit(&self, broker: Broker, principal: &Principal) -> Verdict<()> {
        if principal.expires_at <= Timestamp::now() {
            return Err(DenyReason::TokenExpired);
        }
        let tenant = self.directory.admit(principal)?;
        let rules = self.rules.load();
        let (role, _) = rules.role(&tenant, &principal.role)?;
        Grants::compile(role, broker, principal).map(drop)
    }

    /// Whether a principal that was let in with these rights may stay. An outage of the directory
    /// cuts nobody.
    ///
    /// # Errors
    /// The [`DenyReason`] to cut it off with.
    pub fn reassess(&self, principal: &Principal, rights: Rights) -> Verdict<()> {
        let tenant = self.welcome(principal)?;
        let rules = self.rules.load();
        let (_, current) = rules.role(&tenant, &principal.role)?;
        if current == rights { Ok(()) } else { Err(DenyReason::RightsChanged) }
    }

    /// Whether a principal may stay, whatever its rights: its issuer is still configured, and the
    /// directory has nothing against it. Returns its tenant.
    ///
    /// # Errors
    /// The [`DenyReason`] to cut it off with.
    pub fn welcome(&self, principal: &Principal) -> Verdict<Arc<Tenant>> {
        if *principal.issuer != *exchange::ISSUER && !self.verifier.knows(&principal.issuer) {
            return Err(DenyReason::IssuerUnknown);
        }
        let tenant = match principal.tenant() {
            Some(id) => self.directory.tenant(id)?,
            None => Arc::default(),
        };
        tenant.admit(principal)?;
        Ok(tenant)
    }

    /// As [`reassess`](Self::reassess), for a broker that can change the rights of a live connection:
    /// `None` if nothing has changed.
    ///
    /// # Errors
    /// The [`DenyReason`] to cut it off with.
    pub fn renew(&self, broker: Broker, admission: &Admission) -> Verdict<Option<Admission>> {
        let principal = &admission.principal;
        match self.reassess(principal, admission.rights) {
            Ok(()) | Err(DenyReason::RightsChanged) => {}
            Err(reason) => return Err(reason),
        }
        let tenant = match principal.tenant() {
            Some(id) => self.directory.tenant(id)?,
            None => Arc::default(),
        };
        let rules = self.rules.load();
        let (role, rights) = rules.role(&tenant, &principal.role)?;
        let quotas = quotas_of(principal, &tenant, &rules);
        if rights == admission.rights && quotas == admission.quotas {
            return Ok(None);
        }
        let grants = Grants::compile(role, broker, principal)?;
        let (principal, meter) = (Arc::clone(principal), admission.meter.clone());
        Ok(Some(Admission { principal, grants, quotas, rights, meter }))
    }

    /// What somebody may do of whom a broker has told: as its role stands now.
    ///
    /// # Errors
    /// [`DenyReason`] if the tenant, the device or the role is none (any more).
    pub fn granted(&self, broker: Broker, requester: &Requester) -> Verdict<Granted> {
        let tenant = self.directory.tenant(&requester.tenant)?;
        let principal = Principal {
            scope: Scope::Tenant(requester.tenant.clone()),
            device: requester.device.clone(),
            role: requester.role.clone(),
            issuer: Arc::default(),
            token_id: None,
            origin: None,
            issued_at: Some(Timestamp::MAX),
            expires_at: Timestamp::MAX,
        };
        tenant.admit(&principal)?;
        let rules = self.rules.load();
        let (role, _) = rules.role(&tenant, &requester.role)?;
        let grants = Grants::compile(role, broker, &principal)?;
        Ok(Granted { grants, discover: role.discover.clone() })
    }

    /// The limits that hold for a tenant.
    pub fn quotas(&self, tenant: &Tenant) -> Quotas {
        tenant.quotas.or(self.rules.load().quotas)
    }

    /// Counts and writes down the outcome of an authentication.
    pub fn record(
        &self,
        backend: &str,
        source: Option<IpAddr>,
        principal: Option<&Principal>,
        denied: Option<DenyReason>,
        started: Instant,
    ) {
        let tenant = principal.and_then(Principal::tenant);
        self.metrics.authenticated(backend, tenant, denied, started.elapsed());
        if denied == Some(DenyReason::SourceRateExceeded) && !self.limits.reports(source) {
            return;
        }
        let event = if denied.is_some() { Event::Deny } else { Event::Connect };
        let mut record = Record::new(event, backend).from(source);
        if let Some(principal) = principal {
            record = record.of(principal);
        }
        if let Some(reason) = denied {
            record = record.because(reason);
            tracing::info!(backend, %reason, principal = %Shown(principal), "denied");
        }
        self.audit.record(record);
    }

    /// A receiver that is told when issuers, roles or default limits change.
    pub fn rules_changes(&self) -> watch::Receiver<()> {
        self.rules_changes.subscribe()
    }

    /// Since when the present issuers, roles and default limits hold.
    pub(crate) fn rules_learned(&self) -> Instant {
        self.rules.load().learned
    }

    /// Where decisions are written down.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What tenants use.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// The verifier of tokens.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Takes over roles and limits of another configuration.
    pub(crate) fn replace_rules(&self, config: &Config) {
        // Which brokers there are was decided at the start.
        let brokers = self.rules.load().brokers.clone();
        self.rules.store(Arc::new(Rules::new(config, brokers)));
        self.usage.replace_defaults(config.quotas);
        self.rules_changes.send_replace(());
    }
}

/// What bounds a tenant does not bound the platform's own services, which work for all of them.
fn quotas_of(principal: &Principal, tenant: &Tenant, rules: &Rules) -> Quotas {
    match principal.tenant() {
        Some(_) => tenant.quotas.or(rules.quotas),
        None => Quotas::default(),
    }
}

/// Faults of this system are not held against the address that met them.
fn is_clients_fault(reason: DenyReason) -> bool {
    !matches!(
        reason,
        DenyReason::KeysUnavailable
            | DenyReason::DirectoryUnavailable
            | DenyReason::UsageUnavailable
            | DenyReason::Overloaded
            | DenyReason::Internal
    )
}

impl Rules {
    fn new(config: &Config, brokers: Vec<Broker>) -> Self {
        let roles = config.role_set();
        let rights = roles.iter().map(|(name, role)| (name.clone(), Rights::of(role))).collect();
        let quotas = config.quotas;
        Self { roles, rights, brokers, quotas, learned: Instant::now() }
    }

    fn role<'a>(&'a self, tenant: &'a Tenant, name: &RoleName) -> Verdict<(&'a Role, Rights)> {
        if let Some(role) = tenant.roles.get(name) {
            let is_within = |broker: &Broker| role.beyond(&self.roles, *broker).is_none();
            return match self.brokers.iter().all(is_within) {
                true => Ok((role, Rights::of(role))),
                false => Err(DenyReason::RoleNotConfined),
            };
        }
        let (role, rights) =
            self.roles.get(name).zip(self.rights.get(name)).ok_or(DenyReason::RoleUnknown)?;
        Ok((role, *rights))
    }
}

impl Rights {
    fn of(role: &Role) -> Self {
        // Nothing in a role can fail to be written.
        let text = serde_json::to_vec(role).unwrap_or_default();
        let digest = digest(&SHA256, &text);
        Self(digest.as_ref().iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }
}

/// Sixteen hexadecimal digits.
impl std::fmt::Display for Rights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for Rights {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

struct Shown<'a>(Option<&'a Principal>);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(principal) => principal.fmt(f),
            None => f.write_str("unknown"),
        }
    }
}
