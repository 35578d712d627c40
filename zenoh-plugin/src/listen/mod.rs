//! Where connections come in.

mod quic;
mod websocket;

use crate::gate::{Arrival, Gate};
use crate::session::serve;
use bulkhead_control::Pending;
use bulkhead_control::config::{ZenohConfig, ZenohLink, ZenohListener};
use bulkhead_control::listen::{self, accept};
use bulkhead_control::tls::{ServerTls, TlsError};
use quinn::Endpoint;
use rustls::pki_types::CertificateDer;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;

/// Why the gate cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address cannot be listened on.
    #[error("zenoh.listeners: {listener}: {cause}; choose another port, or stop what uses it")]
    Bind {
        /// The listener.
        listener: ZenohListener,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The certificate cannot be used.
    #[error("zenoh.tls: {0}")]
    Tls(#[from] TlsError),
}

/// Listens everywhere that is configured. Returns the addresses, whose ports are the real ones, in the
/// configuration's order.
pub(crate) fn listen(
    config: &ZenohConfig,
    gate: &Arc<Gate>,
) -> Result<Vec<SocketAddr>, ListenError> {
    let pending = Arc::new(Pending::new(gate.settings.pending_per_source));
    let mut addresses = Vec::new();
    for listener in &config.listeners {
        let bind = |cause| ListenError::Bind { listener: *listener, cause };
        let alpn = if listener.link == ZenohLink::Quic { quic::ALPN } else { &[] };
        let tls = match &config.tls {
            Some(own) if listener.link.is_encrypted() => {
                let client_ca = own.client_ca_file.as_deref();
                let expires = gate.auth.metrics().certificate("zenoh");
                let tls = Arc::new(ServerTls::open(&own.files(), client_ca, alpn, expires)?);
                let (kept, stop) = (Arc::clone(&tls), gate.stop.clone());
                gate.tasks
                    .spawn(async move { stop.run_until_cancelled(kept.keep_current()).await });
                Some(tls)
            }
            _ => None,
        };
        let doorway = Doorway {
            listener: *listener,
            tls,
            gate: Arc::clone(gate),
            pending: Arc::clone(&pending),
        };
        let (doorway, stop) = (Arc::new(doorway), gate.stop.clone());
        match (&doorway.tls, listener.link) {
            (Some(tls), ZenohLink::Quic) => {
                let endpoint = quic::bind(listener.address, tls).map_err(bind)?;
                addresses.push(endpoint.local_addr().map_err(bind)?);
                let accepting = doorway.accept_quic(endpoint);
                let accepting = async move { stop.run_until_cancelled(accepting).await };
                gate.tasks.spawn(accepting);
            }
            _ => {
                let socket = listen::bind(listener.address).map_err(bind)?;
                addresses.push(socket.local_addr().map_err(bind)?);
                let accepting = doorway.accept(socket);
                let accepting = async move { stop.run_until_cancelled(accepting).await };
                gate.tasks.spawn(accepting);
            }
        }
    }
    Ok(addresses)
}

/// One listener.
struct Doorway {
    listener: ZenohListener,
    tls: Option<Arc<ServerTls>>,
    gate: Arc<Gate>,
    pending: Arc<Pending>,
}

impl Doorway {
    async fn accept(self: Arc<Self>, socket: TcpListener) {
        let arriving = |stream, source| {
            let (doorway, deadline) = (Arc::clone(&self), self.deadline());
            let arrival = async move { doorway.arrive(stream, source, deadline).await };
            self.admit(source, deadline, arrival);
        };
        accept(socket, self.listener, arriving).await;
    }

    async fn accept_quic(self: Arc<Self>, endpoint: Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            // Whoever says it is somewhere has to prove that packets reach it there.
            if !incoming.remote_address_validated() {
                let _ = incoming.retry();
                continue;
            }
            let (deadline, source) = (self.deadline(), incoming.remote_address().ip());
            let config = self.tls.as_deref().and_then(|tls| quic::config(tls).ok());
            self.admit(
                source,
                deadline,
                async move { quic::arrive(incoming, config?, deadline).await },
            );
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.gate.settings.handshake_timeout
    }

    /// Goes on with a connection in a task of its own, if there is room for it.
    fn admit(
        &self,
        source: IpAddr,
        deadline: Instant,
        arriving: impl Future<Output = Option<Arrival>> + Send + 'static,
    ) {
        let gate = Arc::clone(&self.gate);
        let failed = gate.metrics.handshakes_failed.clone();
        let refused = |label| failed.with_label_values(&[label]).inc();
        let Some(open) = gate.connections.enter() else {
            return refused("sessions");
        };
        let Some(pending) = self.pending.enter(source) else {
            return refused("source");
        };
        let threads = self.gate.threads.next().clone();
        let inward = threads.inward.clone();
        let serving = async move {
            match timeout_at(deadline, arriving).await {
                Ok(Some(arrival)) => serve(gate, threads, arrival, (open, pending)).await,
                _ => failed.with_label_values(&["transport"]).inc(),
            }
        };
        self.gate.tasks.spawn_on(serving, &inward);
    }

    /// Gets through the layers below Zenoh.
    async fn arrive(
        &self,
        stream: TcpStream,
        source: IpAddr,
        deadline: Instant,
    ) -> Option<Arrival> {
        // It is waited for by the thread that reads it from now on.
        let stream = TcpStream::from_std(stream.into_std().ok()?).ok()?;
        // A small message should not wait for the next.
        stream.set_nodelay(true).ok()?;
        let arrival =
            |reader, writer, certificate| Arrival { reader, writer, source, certificate, deadline };
        match (self.listener.link, &self.tls) {
            (ZenohLink::Tcp, _) => {
                let (reader, writer) = stream.into_split();
                Some(arrival(Box::new(reader), Box::new(writer), None))
            }
            (ZenohLink::Ws, _) => {
                let (reader, writer) = tokio::io::split(websocket::accept(stream).await?);
                Some(arrival(Box::new(reader), Box::new(writer), None))
            }
            (ZenohLink::Tls, Some(tls)) => {
                let stream = TlsAcceptor::from(tls.config()).accept(stream).await.ok()?;
                let certificate = certificate_of(stream.get_ref().1.peer_certificates());
                let (reader, writer) = tokio::io::split(stream);
                Some(arrival(Box::new(reader), Box::new(writer), certificate))
            }
            _ => None,
        }
    }
}

/// The certificate of a verified chain that is the client's own.
fn certificate_of(chain: Option<&[CertificateDer<'_>]>) -> Option<Vec<u8>> {
    chain.and_then(<[_]>::first).map(|leaf| leaf.to_vec())
}
