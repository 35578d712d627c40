//! The one way in: every backend asks here who a client is and what it may do.

use crate::audit::{Audit, Event, Record};
use crate::config::Config;
use crate::directory::Directory;
use crate::http::exchange;
use crate::issuer::Verifier;
use crate::limits::AuthLimits;
use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use bulkhead_policy::{
    Broker, DenyReason, Grants, Principal, Quotas, Role, RoleName, RoleSet, Tenant, Verdict,
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
}

/// A fingerprint of a role's definition: the same on every replica that has the same configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rights(u64);

/// What of the configuration decides about rights.
#[derive(Debug)]
struct Rules {
    roles: HashMap<RoleName, (Role, Rights)>,
    quotas: Quotas,
}

impl Authenticator {
    pub(crate) fn new(
        config: &Config,
        verifier: Verifier,
        directory: Directory,
        audit: Audit,
        metrics: Metrics,
    ) -> Self {
        Self {
            verifier,
            directory,
            limits: AuthLimits::new(&config.limits),
            rules: ArcSwap::from_pointee(Rules::new(config.role_set(), config.quotas)),
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
        let now = Timestamp::now();
        if self.limits.is_shut_out(source) {
            let known = self.verifier.cached(token, now);
            return known.ok_or(DenyReason::SourceRateExceeded);
        }
        let verdict = self.verifier.verify(token, now).await;
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
        let quotas = tenant.quotas.or(rules.quotas);
        if let Some(id) = principal.tenant()
            && !self.limits.admits(id, quotas.authentications_per_minute)
        {
            return Err(DenyReason::AuthRateExceeded);
        }
        let (role, rights) = rules.role(&tenant, &principal.role)?;
        let grants = Grants::compile(role, broker, &principal)?;
        Ok(Admission { principal, grants, quotas, rights })
    }

    /// Whether a principal that was let in with these rights may stay. An outage of the directory
    /// cuts nobody.
    ///
    /// # Errors
    /// The [`DenyReason`] to cut it off with.
    pub fn reassess(&self, principal: &Principal, rights: Rights) -> Verdict<()> {
        if *principal.issuer != *exchange::ISSUER && !self.verifier.knows(&principal.issuer) {
            return Err(DenyReason::IssuerUnknown);
        }
        let tenant = match principal.tenant() {
            Some(id) => self.directory.tenant(id)?,
            None => Arc::default(),
        };
        tenant.admit(principal)?;
        let rules = self.rules.load();
        let (_, current) = rules.role(&tenant, &principal.role)?;
        if current == rights { Ok(()) } else { Err(DenyReason::RightsChanged) }
    }

    /// The same for a broker that can change the rights of a live connection: `None` if nothing has
    /// changed.
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
        let quotas = tenant.quotas.or(rules.quotas);
        if rights == admission.rights && quotas == admission.quotas {
            return Ok(None);
        }
        let grants = Grants::compile(role, broker, principal)?;
        let principal = Arc::clone(principal);
        Ok(Some(Admission { principal, grants, quotas, rights }))
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

    /// The verifier of tokens.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Takes over roles and limits of another configuration.
    pub(crate) fn replace_rules(&self, config: &Config) {
        self.rules.store(Arc::new(Rules::new(config.role_set(), config.quotas)));
        self.rules_changes.send_replace(());
    }
}

/// Faults of this system are not held against the address that met them.
fn is_clients_fault(reason: DenyReason) -> bool {
    !matches!(
        reason,
        DenyReason::KeysUnavailable
            | DenyReason::DirectoryUnavailable
            | DenyReason::Overloaded
            | DenyReason::Internal
    )
}

impl Rules {
    fn new(roles: RoleSet, quotas: Quotas) -> Self {
        let with_rights = |(name, role): (RoleName, Role)| {
            let rights = Rights::of(&role);
            (name, (role, rights))
        };
        Self { roles: roles.into_iter().map(with_rights).collect(), quotas }
    }

    fn role<'a>(&'a self, tenant: &'a Tenant, name: &RoleName) -> Verdict<(&'a Role, Rights)> {
        if let Some(role) = tenant.roles.get(name) {
            return Ok((role, Rights::of(role)));
        }
        let (role, rights) = self.roles.get(name).ok_or(DenyReason::RoleUnknown)?;
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
