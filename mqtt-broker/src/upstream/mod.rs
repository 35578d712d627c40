//! Before another broker: it keeps sessions and messages, the front keeps tenants apart.
//!
//! ```text
//!  connection ──▶ hook ──▶ Relay ──▶ mosquitto, EMQX, NATS, …
//!                            │ one connection for each client, under names of its own
//!              Tenancy ◀─────┘
//! ```
//!
//! Every packet of either side is decoded before anything of it goes on; most go on as they are.
//! Sessions, retained messages, wills and shared groups live in the broker, under client ids, topics
//! and groups that two tenants never share. What comes from there is looked at again: a session may
//! be older than its client's rights.

mod dial;
mod down;
mod health;
mod hello;
mod metrics;
mod names;
mod pipe;
mod relay;
mod requests;
mod subscriptions;
mod tenancy;
mod up;
mod wills;

pub use dial::UpstreamError;
pub(crate) use relay::Relay;

use crate::broker::Shared;
use crate::codec::{Connect, ReasonCode};
use crate::connection::{Arrival, Stream, refusing_reason};
use crate::hook::{Access, Noted, Operation};
use crate::realm::SessionKey;
use crate::service::MqttError;
use bulkhead_control::config::UpstreamConfig;
use bulkhead_control::usage::Gauges;
use bulkhead_policy::{DenyReason, Resource, Scope, TenantId};
use dial::Dialer;
use health::Health;
use hello::{Answer, Failure, Request};
use metrics::Metrics;
use names::Names;
use pipe::Pipe;
use prometheus::Registry;
use relay::{Beginning, Limits};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tenancy::Tenancy;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Connections to the broker that are being made at a time: after a restart of it, thousands of
/// clients come at once.
const DIALS: usize = 256;

/// How often gauges are set.
const TICK: Duration = Duration::from_secs(1);

/// The broker behind the front.
pub(crate) struct Upstream {
    dialer: Arc<Dialer>,
    health: Health,
    metrics: Metrics,
    dials: Semaphore,
    /// Client id of the front itself.
    own_id: String,
    tenancies: RwLock<HashMap<Scope, Arc<Tenancy>>>,
}

/// A client that was let in, and wants to be connected.
pub(crate) struct Candidate<'a> {
    pub(crate) connect: &'a Connect<'a>,
    pub(crate) client_id: &'a str,
    pub(crate) method: Option<&'a str>,
    pub(crate) access: Arc<dyn Access>,
    pub(crate) source: IpAddr,
}

/// A client that is connected to the broker.
pub(crate) struct Admitted(Beginning);

impl Admitted {
    /// With the client's own connection, and what came after its CONNECT.
    pub(crate) fn into_relay(self, arrival: Arrival, rest: Vec<u8>) -> Relay {
        Relay::new(self.0, arrival, rest)
    }
}

/// Why a client is not connected: what CONNACK says, and the metric label.
pub(crate) type Refused = (ReasonCode, &'static str);

impl Upstream {
    /// Reads the files. Nothing is connected yet.
    ///
    /// # Errors
    /// [`UpstreamError`] for what the files do not hold, or metrics that are there already.
    pub(crate) fn open(
        config: &UpstreamConfig,
        registry: &Registry,
    ) -> Result<Arc<Self>, MqttError> {
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| UpstreamError::Random)?;
        Ok(Arc::new(Self {
            dialer: Arc::new(Dialer::open(config)?),
            health: Health::new(),
            metrics: Metrics::new(registry)?,
            dials: Semaphore::new(DIALS),
            own_id: format!("bulkhead-front-{:032x}", u128::from_be_bytes(random)),
            tenancies: RwLock::default(),
        }))
    }

    /// Follows how the broker is, until it is told to stop.
    pub(crate) fn start(self: &Arc<Self>, shared: &Arc<Shared>) {
        let spawn = |task: Pin<Box<dyn Future<Output = ()> + Send>>| {
            let stop = shared.stop.clone();
            shared.tasks.spawn(async move { stop.run_until_cancelled(task).await });
        };
        spawn(Box::pin(health::watch_over(Arc::clone(self))));
        spawn(Box::pin(Arc::clone(&self.dialer).keep_current()));
        spawn(Box::pin(Arc::clone(self).count(shared.metrics.clone())));
    }

    async fn count(self: Arc<Self>, metrics: crate::metrics::Metrics) {
        loop {
            tokio::time::sleep(TICK).await;
            let tenancies = self.all();
            tenancies.iter().for_each(|tenancy| tenancy.expire());
            let clients: usize = tenancies.iter().map(|tenancy| tenancy.len()).sum();
            drop(tenancies);
            let tenants = self.forget_idle();
            metrics.sessions.set(i64::try_from(clients).unwrap_or(i64::MAX));
            metrics.tenants.set(i64::try_from(tenants).unwrap_or(i64::MAX));
        }
    }

    /// Forgets tenants of which nothing is left. Returns how many there are.
    fn forget_idle(&self) -> usize {
        let mut tenancies = self.tenancies.write().unwrap_or_else(PoisonError::into_inner);
        // Whoever is about to enter one holds it, and got it under this lock.
        tenancies.retain(|_, tenancy| Arc::strong_count(tenancy) > 1 || !tenancy.is_idle());
        tenancies.len()
    }

    /// Whether the broker is there.
    pub(crate) fn is_up(&self) -> bool {
        self.health.is_up()
    }

    fn all(&self) -> Vec<Arc<Tenancy>> {
        let tenancies = self.tenancies.read().unwrap_or_else(PoisonError::into_inner);
        tenancies.values().cloned().collect()
    }

    /// What tenants have here: the rest is the broker's.
    pub(crate) fn gauges(&self) -> HashMap<TenantId, Gauges> {
        let tenancies = self.tenancies.read().unwrap_or_else(PoisonError::into_inner);
        let of_tenants = tenancies.iter().filter_map(|(scope, tenancy)| match scope {
            Scope::Tenant(tenant) => Some((tenant.clone(), &tenancy.usage)),
            Scope::Service => None,
        });
        let gauges = of_tenants.map(|(tenant, usage)| {
            let gauges = Gauges::from([
                (Resource::Connections, usage.connections.get()),
                (Resource::Subscriptions, usage.subscriptions.get()),
            ]);
            (tenant, gauges)
        });
        gauges.collect()
    }

    fn tenancy(&self, scope: &Scope) -> Arc<Tenancy> {
        let known = self.tenancies.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(tenancy) = known.get(scope) {
            return Arc::clone(tenancy);
        }
        drop(known);
        let mut tenancies = self.tenancies.write().unwrap_or_else(PoisonError::into_inner);
        let tenancy = tenancies.entry(scope.clone()).or_insert_with(|| Arc::new(Tenancy::new()));
        Arc::clone(tenancy)
    }

    /// Asks again what clients may do: those of one tenant, or all.
    pub(crate) fn reassess(
        self: &Arc<Self>,
        shared: &Shared,
        tenant: Option<&TenantId>,
    ) -> HashMap<DenyReason, u64> {
        let tenancies = match tenant {
            Some(tenant) => {
                let known = self.tenancies.read().unwrap_or_else(PoisonError::into_inner);
                known.get(&Scope::Tenant(tenant.clone())).cloned().into_iter().collect()
            }
            None => self.all(),
        };
        let mut cut = HashMap::new();
        for tenancy in tenancies {
            for (reason, n) in tenancy.reassess() {
                *cut.entry(reason).or_default() += n;
            }
            for (waiting, reason) in tenancy.wills.denied() {
                shared.metrics.denied(Operation::Will, reason, 1);
                waiting.access().note(Noted::Denied(Operation::Will, reason));
                let (taking_back, stop) = (Arc::clone(self), shared.stop.clone());
                shared.tasks.spawn(async move {
                    stop.run_until_cancelled(wills::take_back(taking_back, waiting)).await
                });
            }
        }
        cut
    }

    /// Connects a client to the broker.
    ///
    /// # Errors
    /// What to tell it.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        candidate: Candidate<'_>,
    ) -> Result<Admitted, Refused> {
        let Candidate { connect, client_id, method, access, source } = candidate;
        let denied = |operation, reason| {
            shared.metrics.denied(operation, reason, 1);
            access.note(Noted::Denied(operation, reason));
        };
        let settings = &shared.settings;
        let names = Names::of(&*shared.hook, &*access, self.dialer.naming());
        let asking = (&*shared.hook, &*access);
        let request = Request::of(self, settings, &names, asking, connect, client_id);
        let request = request.map_err(|reason| {
            denied(Operation::Will, reason);
            (ReasonCode::NOT_AUTHORIZED, reason.code())
        })?;
        if !self.health.permits().await {
            self.metrics.connects.with_label_values(&["away"]).inc();
            return Err((ReasonCode::SERVER_UNAVAILABLE, "upstream"));
        }
        let key = SessionKey { device: access.device().cloned(), client_id: client_id.into() };
        let tenancy = self.tenancy(access.scope());
        let seat = tenancy.enter(key, Arc::clone(&access), settings.max_sessions);
        let seat = seat.map_err(|reason| {
            denied(Operation::Connect, reason);
            (refusing_reason(reason), reason.code())
        })?;
        let packet = &request.packet;
        let introduced = timeout(health::ANSWER, self.introduce(packet)).await;
        let introduced = introduced.unwrap_or(Err(Failure::Timeout));
        let met = introduced.and_then(|(stream, answer)| {
            let terms = request.answered(settings, &names, connect, client_id, method, &answer)?;
            Ok((Pipe::new(stream, answer.into_rest()), terms))
        });
        let (broker, terms) = match met {
            Ok(met) => met,
            Err(failure) => {
                self.metrics.connects.with_label_values(&[failure.label()]).inc();
                if !matches!(failure, Failure::Refused(_)) {
                    self.health.suspect();
                }
                tracing::debug!(client = client_id, %failure, "mqtt.upstream: not connected");
                return Err((failure.reason(), "upstream"));
            }
        };
        self.metrics.connects.with_label_values(&["connected"]).inc();
        access.note(Noted::Connected);
        let counter = &seat.tenancy.usage.subscriptions;
        let open = seat.tenancy.sessions.attach(&seat.handle, terms.goes_on, counter);
        Ok(Admitted(Beginning {
            shared: Arc::clone(shared),
            upstream: Arc::clone(self),
            seat,
            names,
            version: connect.version,
            source,
            client_id: client_id.into(),
            method: method.map(Box::from),
            broker,
            terms,
            open,
        }))
    }

    async fn introduce(&self, packet: &[u8]) -> Result<(Box<dyn Stream>, Answer), Failure> {
        // It is never closed.
        let _place = self.dials.acquire().await;
        let mut stream = self.dialer.dial().await?;
        let answer = hello::introduce(&mut stream, packet).await?;
        Ok((stream, answer))
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("dialer", &self.dialer).finish_non_exhaustive()
    }
}
