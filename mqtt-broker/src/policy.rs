//! Bulkhead's own policy as the hook.

use crate::hook::{Access, Answer, Attempt, Hook, Noted, Operation, Renewal};
use bulkhead_control::audit::{Event, Record};
use bulkhead_control::identity::Accepted;
use bulkhead_control::usage::Uncounted;
use bulkhead_control::{Admission, Authenticator, Cut, Identified};
use bulkhead_policy::{
    Broker, DenyReason, DeviceId, Principal, Quotas, Requester, Scope, TenantId, TokenBucket,
    Verdict,
};
use jiff::Timestamp;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The backend's name in metrics and the audit log.
pub(crate) const BACKEND: &str = "mqtt";

/// Refusals of one connection that are written down per minute; more are only counted.
const RECORDS_PER_MINUTE: u64 = 30;

/// Admits who shows a tenant's token, or an identity that the exchange issued, and lets it do what its
/// role grants.
#[derive(Clone, Debug)]
pub struct TenantPolicy {
    auth: Arc<Authenticator>,
    accepted: Arc<Accepted>,
    mount: Option<Arc<str>>,
}

impl TenantPolicy {
    /// With what stands before every name that a client says, such as `device-connect/{tenant}`.
    pub fn new(auth: Arc<Authenticator>, mount: Option<&str>) -> Self {
        Self { auth, accepted: Arc::default(), mount: mount.map(Arc::from) }
    }

    /// Takes identities of the exchange too.
    #[must_use]
    pub fn accepting(self, accepted: Arc<Accepted>) -> Self {
        Self { accepted, ..self }
    }

    async fn identify(&self, attempt: &Attempt<'_>) -> Verdict<Identified> {
        let mut tokens = attempt.tokens.iter().filter(|token| !token.is_empty());
        let token = tokens.next();
        if tokens.any(|other| Some(other) != token) {
            return Err(DenyReason::CarrierConflict);
        }
        let token = token.map(|token| std::str::from_utf8(token)).transpose();
        let token = token.map_err(|_| DenyReason::TokenMalformed)?;
        let source = Some(attempt.source);
        self.auth.identify_client(&self.accepted, token, attempt.certificate, source).await
    }

    /// Both what the client is identified by and what it showed beside have to be welcome.
    fn let_in(&self, identified: &Identified) -> Verdict<Admission> {
        if let Some(beside) = &identified.beside {
            self.auth.welcome(beside)?;
        }
        self.auth.admit(Broker::Mqtt, Arc::clone(&identified.principal))
    }

    async fn admit(&self, attempt: Attempt<'_>) -> Verdict<Arc<dyn Access>> {
        let started = Instant::now();
        let identified = self.identify(&attempt).await;
        let principal = identified.as_ref().ok().map(|known| Arc::clone(&known.principal));
        let admitted = identified.and_then(|known| Ok((self.let_in(&known)?, known.beside)));
        match admitted {
            Ok((admission, beside)) => {
                let access = self.access(admission, beside, attempt.source, started);
                Ok(Arc::new(access))
            }
            Err(reason) => {
                let (source, principal) = (Some(attempt.source), principal.as_deref());
                self.auth.record(BACKEND, source, principal, Some(reason), started);
                Err(reason)
            }
        }
    }

    fn access(
        &self,
        admission: Admission,
        beside: Option<Arc<Principal>>,
        source: IpAddr,
        started: Instant,
    ) -> TenantAccess {
        let records = TokenBucket::new(RECORDS_PER_MINUTE, Duration::from_secs(60), Duration::ZERO);
        TenantAccess {
            auth: Arc::clone(&self.auth),
            policy: self.clone(),
            admission,
            beside,
            source,
            started,
            records: Mutex::new(records),
            cut: OnceLock::new(),
        }
    }
}

impl Hook for TenantPolicy {
    fn connect<'a>(&'a self, attempt: Attempt<'a>) -> Answer<'a> {
        Box::pin(self.admit(attempt))
    }

    fn mount(&self, tenant: &TenantId) -> String {
        let mount = self.mount.as_ref();
        mount.map_or_else(String::new, |m| format!("{}/", m.replace("{tenant}", tenant.as_str())))
    }
}

/// What a token's bearer may do.
struct TenantAccess {
    auth: Arc<Authenticator>,
    policy: TenantPolicy,
    admission: Admission,
    /// Of the certificate that was shown beside the token.
    beside: Option<Arc<Principal>>,
    source: IpAddr,
    started: Instant,
    records: Mutex<TokenBucket>,
    /// Since when it may not stay, once it is cut off.
    cut: OnceLock<Cut>,
}

impl TenantAccess {
    fn denied(&self, operation: Operation, reason: DenyReason) {
        let principal = &self.admission.principal;
        if operation == Operation::Connect {
            let source = Some(self.source);
            return self.auth.record(BACKEND, source, Some(principal), Some(reason), self.started);
        }
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.take(1, self.started.elapsed()) {
            tracing::info!(
                backend = BACKEND,
                %reason,
                %principal,
                operation = operation.name(),
                "denied"
            );
            let record = Record::new(Event::Deny, BACKEND).of(principal).because(reason);
            self.auth.audit().record(record.from(Some(self.source)).detail(operation.name()));
        }
    }
}

impl Access for TenantAccess {
    fn scope(&self) -> &Scope {
        &self.admission.principal.scope
    }

    fn device(&self) -> Option<&DeviceId> {
        self.admission.principal.device.as_ref()
    }

    fn identity(&self) -> Option<String> {
        Requester::of(&self.admission.principal).map(|requester| requester.to_string())
    }

    fn publish(&self, topic: &str) -> Verdict<()> {
        let name = Broker::Mqtt.name(topic).map_err(|_| DenyReason::NameInvalid)?;
        self.admission.grants.publish(&name)
    }

    fn subscribe(&self, filter: &str) -> Verdict<()> {
        let filter = Broker::Mqtt.filter(filter).map_err(|_| DenyReason::NameInvalid)?;
        self.admission.grants.subscribe(&filter)
    }

    fn receives(&self, topic: &str) -> bool {
        Broker::Mqtt.name(topic).is_ok_and(|name| self.admission.grants.receives(&name))
    }

    fn expires_at(&self) -> Option<Timestamp> {
        let own = self.admission.principal.expires_at;
        Some(self.beside.as_ref().map_or(own, |beside| own.min(beside.expires_at)))
    }

    fn quotas(&self) -> Quotas {
        self.admission.quotas
    }

    fn spend(&self, bytes: usize, uncounted: &mut Uncounted) -> Verdict<()> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.admission.meter.as_ref().map_or(Ok(()), |meter| meter.publish(bytes, uncounted))
    }

    fn count(&self, uncounted: &mut Uncounted) {
        if let Some(meter) = &self.admission.meter {
            meter.count(uncounted);
        }
    }

    fn tenant_of(&self, topic: &str) -> Option<TenantId> {
        let name = Broker::Mqtt.name(topic).ok()?;
        TenantId::parse(self.admission.grants.tenant_of(&name)?).ok()
    }

    fn tenant_heard(&self, topic: &str) -> Option<TenantId> {
        let name = Broker::Mqtt.name(topic).ok()?;
        TenantId::parse(self.admission.grants.tenant_heard(&name)?).ok()
    }

    fn note(&self, event: Noted) {
        let principal = &self.admission.principal;
        match event {
            Noted::Connected => {
                self.auth.record(BACKEND, Some(self.source), Some(principal), None, self.started);
            }
            Noted::Denied(operation, reason) => self.denied(operation, reason),
            Noted::Terminated(reason) => {
                if let Some(cut) = self.auth.cut(principal, self.beside.as_deref(), reason) {
                    let _ = self.cut.set(cut);
                }
                self.auth.metrics().terminated(BACKEND, reason, 1);
                let record = Record::new(Event::Terminate, BACKEND).of(principal);
                self.auth.audit().record(record.because(reason).from(Some(self.source)));
            }
            Noted::Closed => {
                if let Some(cut) = self.cut.get() {
                    self.auth.metrics().closed(BACKEND, cut);
                }
            }
        }
    }

    fn renew(&self) -> Verdict<Renewal> {
        if let Some(beside) = &self.beside {
            self.auth.welcome(beside)?;
        }
        let Some(admission) = self.auth.renew(Broker::Mqtt, &self.admission)? else {
            return Ok(Renewal::Unchanged);
        };
        let beside = self.beside.clone();
        let access = self.policy.access(admission, beside, self.source, self.started);
        Ok(Renewal::Changed(Arc::new(access)))
    }
}
