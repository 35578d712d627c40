use crate::gate::Gate;
use bulkhead_policy::TenantId;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use zenoh::key_expr::KeyExpr;

/// What a gate is doing, for the router's admin space.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Open sessions.
    pub sessions: Vec<SessionStatus>,
    /// The tenants that have any.
    pub tenants: BTreeMap<String, TenantStatus>,
}

/// One session.
#[derive(Clone, Debug, Serialize)]
pub struct SessionStatus {
    /// The id that the router knows it by.
    pub zid: String,
    /// The tenant; `None` for a service.
    pub tenant: Option<TenantId>,
    /// Who it is.
    pub principal: String,
    /// Where it comes from.
    pub source: String,
    /// For how many seconds.
    pub seconds: u64,
    /// Messages of the client that the router got.
    pub messages: u64,
    /// Operations of the client that were denied.
    pub denials: u64,
    /// Whether it takes less than is sent to it: its senders wait, or it loses messages.
    pub behind: bool,
}

/// All sessions of one tenant.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TenantStatus {
    /// How many there are.
    pub sessions: u64,
    /// Messages of their clients that the router got.
    pub messages: u64,
    /// Operations of their clients that were denied.
    pub denials: u64,
}

impl Status {
    /// What an admin space tells, each with its key below `prefix`: those that are asked for.
    pub(crate) fn told(&self, prefix: &str, asked: &KeyExpr<'_>) -> Vec<(String, Value)> {
        let sessions = self.sessions.iter();
        let sessions =
            sessions.map(|session| (format!("{prefix}/sessions/{}", session.zid), json!(session)));
        let tenants = (format!("{prefix}/tenants"), json!(self.tenants));
        let is_asked = |(key, _): &(String, Value)| {
            KeyExpr::try_from(key.as_str()).is_ok_and(|own| asked.intersects(&own))
        };
        std::iter::once(tenants).chain(sessions).filter(is_asked).collect()
    }

    pub(crate) fn of(gate: &Gate) -> Self {
        let mut status = Self { sessions: Vec::new(), tenants: BTreeMap::new() };
        for seat in gate.seats.all() {
            let principal = &seat.admission.principal;
            let session = SessionStatus {
                zid: seat.zid.to_string(),
                tenant: principal.tenant().cloned(),
                principal: principal.to_string(),
                source: seat.source.to_string(),
                seconds: seat.since.elapsed().as_secs(),
                messages: seat.messages.load(Ordering::Relaxed),
                denials: seat.denials.load(Ordering::Relaxed),
                behind: seat.is_behind(),
            };
            if let Some(tenant) = &session.tenant {
                let sum = status.tenants.entry(tenant.to_string()).or_default();
                sum.sessions += 1;
                sum.messages += session.messages;
                sum.denials += session.denials;
            }
            status.sessions.push(session);
        }
        status
    }
}
