//! The broker within a running [`Control`].

use crate::broker::{Behind, Incarnations, Shared};
use crate::connection::{self, Arrival};
use crate::hook::Hook;
use crate::incarnation::Incarnation;
use crate::listen::{ListenError, listen};
use crate::metrics::Metrics;
use crate::policy::TenantPolicy;
use crate::settings::Settings;
use crate::store::{Store, StoreError};
use crate::upstream::{Upstream, UpstreamError};
use bulkhead_control::config::MqttConfig;
use bulkhead_control::directory::Snapshot;
use bulkhead_control::identity::{Accepted, IdentityError, Sources};
use bulkhead_control::metrics::certificates;
use bulkhead_control::{Change, Changes, Control};
use bulkhead_policy::{DenyReason, Resource, TenantId};
use prometheus::{IntGauge, Registry};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What metrics of listeners call these.
const LISTENER: &str = "mqtt";

/// What a front knows of what tenants have: the rest is kept by the broker behind it.
const IN_FRONT: &[Resource] = &[Resource::Connections, Resource::Subscriptions];

/// Why the broker cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MqttError {
    /// No `[mqtt]`.
    #[error("[mqtt] is not configured; set mqtt.listeners")]
    NotConfigured,
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The data folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What verifies identities of the exchange.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The metrics.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The broker behind this one.
    #[error("mqtt.upstream: {0}")]
    Upstream(#[from] UpstreamError),
    /// The routers.
    #[error("mqtt: the embedded router did not start")]
    Router,
}

/// A running broker. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    addresses: Arc<[SocketAddr]>,
}

impl Broker {
    /// Starts a broker with a hook of your own.
    ///
    /// ```no_run
    /// use bulkhead_control::config::MqttConfig;
    /// use bulkhead_mqtt_broker::{Broker, hook::AllowAll};
    /// use bulkhead_policy::TenantId;
    /// use tokio_util::{sync::CancellationToken, task::TaskTracker};
    ///
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = MqttConfig::new(vec!["tcp://127.0.0.1:1883".parse()?]);
    /// let everybody = AllowAll::of(TenantId::parse("home")?);
    /// let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    /// let registry = prometheus::Registry::new();
    /// let broker = Broker::start(&config, everybody, &registry, &tasks, &stop)?;
    /// println!("listening on {:?}", broker.addresses());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`MqttError`]. It needs a tokio runtime of several threads.
    pub fn start(
        config: &MqttConfig,
        hook: impl Hook,
        registry: &Registry,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, MqttError> {
        let incarnations = Box::new(|_: &TenantId| Incarnation::Unknown);
        let expires = certificates(registry)?.with_label_values(&[LISTENER]);
        Self::start_for(config, hook, incarnations, (registry, expires), tasks, stop)
    }

    fn start_for(
        config: &MqttConfig,
        hook: impl Hook,
        incarnations: Box<Incarnations>,
        (registry, expires): (&Registry, IntGauge),
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, MqttError> {
        let metrics = Metrics::new(registry)?;
        let settings = Settings::of(config);
        let behind = match &config.upstream {
            Some(upstream) => Behind::Upstream(Upstream::open(upstream, registry)?),
            None => {
                let store = config.data.as_deref().map(Store::open).transpose()?;
                Behind::Routers(config.routers, store)
            }
        };
        let hook = Box::new(hook);
        let shared = Shared::start(hook, incarnations, settings, behind, metrics, tasks, stop)
            .ok_or(MqttError::Router)?;
        let addresses = listen(config, &shared, expires)?.into();
        Ok(Self { shared, addresses })
    }

    /// Where it listens, in the configuration's order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether clients can be served: with a broker behind this one, whether that is there.
    pub fn is_ready(&self) -> bool {
        self.shared.upstream.as_ref().is_none_or(|upstream| upstream.is_up())
    }

    /// Serves a client whose bytes come some other way than through a listener, until it ends.
    pub async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        source: IpAddr,
    ) {
        let arrival = Arrival { stream: Box::new(stream), source, bearer: None, certificate: None };
        let deadline = Instant::now() + self.shared.settings.handshake_timeout;
        connection::serve(Arc::clone(&self.shared), arrival, deadline, ()).await;
    }

    /// Asks every [`Access`](crate::hook::Access) again whether it still holds: those of one tenant,
    /// or all. Says how many connections were cut off, by reason.
    pub fn reassess(&self, tenant: Option<&TenantId>) -> HashMap<DenyReason, u64> {
        self.shared.reassess(tenant)
    }
}

/// Starts the backend within a running [`Control`]: it listens from now on, and follows the
/// directory.
///
/// # Errors
/// [`MqttError`].
pub fn start(control: &Control) -> Result<Broker, MqttError> {
    let config = control.config().mqtt.as_ref().ok_or(MqttError::NotConfigured)?;
    let auth = control.auth();
    let exchange_jwks = control.config().mqtt_exchange_jwks();
    let sources = Sources {
        broker: bulkhead_policy::Broker::Mqtt,
        jwks_file: exchange_jwks.as_deref(),
        client_ca_file: config.tls.as_ref().and_then(|tls| tls.client_ca_file.as_deref()),
    };
    let accepted = Accepted::open(sources, control)?;
    let policy = TenantPolicy::new(Arc::clone(auth), config.mount.as_deref()).accepting(accepted);
    control.count_usage();
    // Listening begins before there is anything to hear.
    let mut changes = Changes::of(auth);
    let seen = (auth.metrics().registry(), auth.metrics().certificate(LISTENER));
    let incarnations = incarnations(auth.directory().changes(), control.config().directory.open);
    let (tasks, stop) = (control.tasks(), control.stop());
    let broker = Broker::start_for(config, policy, incarnations, seen, tasks, stop)?;
    let resources = if config.upstream.is_some() { IN_FRONT } else { Resource::LIVE };
    let shared = Arc::downgrade(&broker.shared);
    auth.usage().report(resources, move || {
        shared.upgrade().map(|shared| shared.gauges()).unwrap_or_default()
    });
    if let Some(upstream) = &config.upstream {
        let names = [Some(&*upstream.prefix), config.mount.as_deref()];
        if !names.into_iter().flatten().any(|text| text.contains("{tenant}")) {
            tracing::warn!(
                private = ?upstream.private,
                "mqtt.upstream: neither its prefix nor mqtt.mount holds {{tenant}}: names that roles \
                 allow without it, but for those that begin with one of these levels, are the same \
                 for all tenants on the broker"
            );
        }
        if control.config().loses_registry_answers() {
            tracing::warn!(
                "registry.mqtt.url is mqtt.upstream.url, the broker behind the front: the front's devices \
                 do not hear what the registry answers there, because mqtt.upstream.private or mqtt.mount \
                 puts their replies elsewhere; name a listener of the front, and a token_file"
            );
        }
        let broker = broker.clone();
        control.readiness().require("mqtt upstream", move || broker.is_ready());
    }
    let (follower, stop) = (broker.clone(), control.stop().clone());
    control.tasks().spawn(async move {
        follower.shared.forget_gone();
        let following = async {
            while let Some(change) = changes.next().await {
                match change {
                    Change::Tenants(tenants) => {
                        for tenant in &tenants {
                            follower.reassess(Some(tenant));
                        }
                        follower.shared.forget_gone();
                    }
                    Change::All => drop(follower.reassess(None)),
                }
            }
        };
        stop.run_until_cancelled(following).await;
    });
    Ok(broker)
}

/// Which tenants there are, by the directory. With an open one nobody is ever gone.
fn incarnations(directory: watch::Receiver<Arc<Snapshot>>, open: bool) -> Box<Incarnations> {
    let was_read = AtomicBool::new(false);
    Box::new(move |tenant| {
        let snapshot = directory.borrow();
        // One that was not read yet is empty, and says nothing about who is gone.
        if !was_read.fetch_or(!snapshot.is_empty(), Ordering::Relaxed) && snapshot.is_empty() {
            return Incarnation::Unknown;
        }
        match snapshot.get(tenant) {
            Some(tenant) => tenant.created.map_or(Incarnation::Unknown, Incarnation::Created),
            None if open => Incarnation::Unknown,
            None => Incarnation::Gone,
        }
    })
}
