//! The gate within a running [`Control`], before a router of this process.

use crate::exposure::{Exposure, is_for_everybody};
use crate::gate::Gate;
use crate::host::Host;
use crate::listen::{ListenError, listen};
use crate::metrics::Metrics;
use crate::seat::Seats;
use crate::settings::Settings;
use crate::status::Status;
use crate::threads::Threads;
use bulkhead_control::Control;
use bulkhead_control::config::Around;
use bulkhead_control::identity::{Accepted, IdentityError, Sources};
use bulkhead_control::listen::Connections;
use bulkhead_policy::{Broker, Resource};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::OnceCell;
use zenoh::internal::runtime::DynamicRuntime;

/// What the gate knows of what tenants have. A router retains nothing, and each session's queue is its own.
const REPORTED: &[Resource] = &[Resource::Connections, Resource::Subscriptions];

/// Why the gate cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZenohError {
    /// No `[zenoh]`.
    #[error("[zenoh] is not configured; set zenoh.listeners")]
    NotConfigured,
    /// No way to the router.
    #[error(
        "the router has no socket for the gate; add \"unixsock-stream/\" and a path in a folder that \
         only the router's user can enter to listen/endpoints of the router's configuration"
    )]
    NoSocket,
    /// A way around the gate.
    #[error(
        "tenants could reach the router around the gate by {0}; take it out of listen/endpoints of \
         the router's configuration, or list it in zenoh.trusted_listeners if none of them can reach \
         it, or set zenoh.around = \"warn\""
    )]
    Exposed(String),
    /// A way around the gate for whoever is on the machine.
    #[error(
        "every user of this machine could reach the router around the gate by {}; start the router with \
         a umask that leaves others no right to write, such as 022, or put the socket into a folder that \
         only the router's user can enter, or set zenoh.around = \"warn\"", .0.display()
    )]
    OpenSocket(PathBuf),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The authority of devices' certificates.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The router of this process.
    #[error("router: {0}")]
    Router(String),
    /// Its folder, or threads.
    #[error(
        "{0}; check that the folder for temporary files can be written, and the limit of threads"
    )]
    System(#[from] std::io::Error),
    /// The metrics.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// A running gate. Cloning shares it.
#[derive(Clone)]
pub struct ZenohGate {
    gate: Arc<Gate>,
    addresses: Arc<[SocketAddr]>,
}

impl ZenohGate {
    /// Where it listens, in the configuration's order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What it is doing.
    pub fn status(&self) -> Status {
        Status::of(&self.gate)
    }
}

impl std::fmt::Debug for ZenohGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZenohGate").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Starts the gate: it listens from now on, and follows the directory.
///
/// # Errors
/// [`ZenohError`].
pub fn start(control: &Control, router: &DynamicRuntime) -> Result<ZenohGate, ZenohError> {
    let config = control.config().zenoh.as_ref().ok_or(ZenohError::NotConfigured)?;
    let endpoints = router.get_config().get("listen/endpoints").unwrap_or_default();
    let exposure = Exposure::of(&endpoints, config);
    let socket = exposure.socket.clone().ok_or(ZenohError::NoSocket)?;
    if !exposure.open.is_empty() {
        let open = exposure.open.join(", ");
        match config.around {
            Around::Refuse => return Err(ZenohError::Exposed(open)),
            Around::Warn => tracing::warn!(
                listeners = open,
                "tenants that can reach these can do without the gate, and see every other tenant"
            ),
        }
    }
    for socket in exposure.sockets.iter().filter(|socket| is_for_everybody(socket)) {
        match config.around {
            Around::Refuse => return Err(ZenohError::OpenSocket(socket.clone())),
            Around::Warn => tracing::warn!(
                socket = %socket.display(),
                "every user of this machine could reach the router around the gate by its socket"
            ),
        }
    }
    let auth = Arc::clone(control.auth());
    let metrics = Metrics::new(auth.metrics().registry())?;
    let client_ca_file = config.tls.as_ref().and_then(|tls| tls.client_ca_file.as_deref());
    let sources = Sources { broker: Broker::Zenoh, jwks_file: None, client_ca_file };
    let accepted = Accepted::open(sources, control)?;
    let strangers = metrics.strangers.clone();
    let host = Arc::new(Host::new(exposure, move |peer, link| {
        strangers.inc();
        let links: Vec<_> = peer.links.iter().chain(link).map(ToString::to_string).collect();
        tracing::warn!(zid = %peer.zid, ?links, "somebody reached the router around the gate");
    }));
    router.new_handler(Arc::clone(&host) as Arc<_>);
    let settings = Settings::of(config);
    let gate = Arc::new(Gate {
        auth,
        accepted,
        host,
        seats: Arc::new(Seats::new(settings.tenant)),
        settings,
        metrics,
        connections: Arc::new(Connections::new(config.max_sessions)),
        router: socket,
        offer: OnceCell::new(),
        threads: Threads::start()?,
        tasks: control.tasks().clone(),
        stop: control.stop().clone(),
    });
    control.count_usage();
    let seats = Arc::downgrade(&gate.seats);
    gate.auth
        .usage()
        .report(REPORTED, move || seats.upgrade().map(|seats| seats.gauges()).unwrap_or_default());
    // Listening for changes begins before anybody is let in.
    let following = Arc::clone(&gate).follow();
    let addresses = listen(config, &gate)?.into();
    control.tasks().spawn(Arc::clone(&gate).look_after());
    control.tasks().spawn(following);
    Ok(ZenohGate { gate, addresses })
}
