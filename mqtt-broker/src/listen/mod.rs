//! Where connections come in.

mod websocket;

use crate::broker::Shared;
use crate::connection::{Arrival, Stream, serve};
use bulkhead_control::Pending;
use bulkhead_control::config::{Listener, MqttConfig};
use bulkhead_control::listen;
use bulkhead_control::tls::{ServerTls, TlsError};
use prometheus::IntGauge;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The names of MQTT, by itself and in a WebSocket, in ALPN.
const ALPN: &[&[u8]] = &[b"mqtt", b"http/1.1"];

/// Why the broker cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address cannot be listened on.
    #[error("mqtt.listeners: {listener}: {cause}; choose another port, or stop what uses it")]
    Bind {
        /// The listener.
        listener: Listener,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The certificate cannot be used.
    #[error("mqtt.tls: {0}")]
    Tls(#[from] TlsError),
}

/// Listens everywhere that is configured. Returns the addresses, whose ports are the real ones, in
/// the configuration's order.
pub(crate) fn listen(
    config: &MqttConfig,
    shared: &Arc<Shared>,
    expires: IntGauge,
) -> Result<Vec<SocketAddr>, ListenError> {
    let tls = match &config.tls {
        Some(own) => {
            let client_ca = own.client_ca_file.as_deref();
            let tls = Arc::new(ServerTls::open(&own.files(), client_ca, ALPN, expires)?);
            let (kept, stop) = (Arc::clone(&tls), shared.stop.clone());
            let renewal = async move { stop.run_until_cancelled(kept.keep_current()).await };
            shared.tasks.spawn(renewal);
            Some(tls)
        }
        None => None,
    };
    let pending = Arc::new(Pending::new(shared.settings.pending_per_source));
    let mut addresses = Vec::new();
    for listener in &config.listeners {
        let bind = |cause| ListenError::Bind { listener: *listener, cause };
        let socket = listen::bind(listener.address).map_err(bind)?;
        addresses.push(socket.local_addr().map_err(bind)?);
        let entrance = Entrance {
            listener: *listener,
            tls: tls.clone(),
            shared: Arc::clone(shared),
            pending: Arc::clone(&pending),
        };
        let stop = shared.stop.clone();
        let entrance = Arc::new(entrance);
        let accepting = listen::accept(socket, *listener, move |stream, source| {
            entrance.admit(stream, source);
        });
        shared.tasks.spawn(async move { stop.run_until_cancelled(accepting).await });
    }
    Ok(addresses)
}

/// One listener.
struct Entrance {
    listener: Listener,
    tls: Option<Arc<ServerTls>>,
    shared: Arc<Shared>,
    pending: Arc<Pending>,
}

impl Entrance {
    /// Goes on with a connection in a task of its own, if there is room for it.
    fn admit(self: &Arc<Self>, stream: TcpStream, source: IpAddr) {
        let refused = |label| {
            self.shared.metrics.handshakes_failed.with_label_values(&[label]).inc();
        };
        let Some(open) = self.shared.connections.enter() else {
            return refused("connections");
        };
        let Some(pending) = self.pending.enter(source) else {
            return refused("source");
        };
        let entrance = Arc::clone(self);
        self.shared.tasks.spawn(async move {
            let deadline = Instant::now() + entrance.shared.settings.handshake_timeout;
            match timeout_at(deadline, entrance.arrive(stream, source)).await {
                Ok(Some(arrival)) => {
                    serve(Arc::clone(&entrance.shared), arrival, deadline, pending).await;
                }
                _ => {
                    let failed = &entrance.shared.metrics.handshakes_failed;
                    failed.with_label_values(&["transport"]).inc();
                }
            }
            drop(open);
        });
    }

    /// Gets through the layers below MQTT.
    async fn arrive(&self, stream: TcpStream, source: IpAddr) -> Option<Arrival> {
        // Small packets should not wait for each other.
        stream.set_nodelay(true).ok()?;
        let (stream, certificate): (Box<dyn Stream>, _) = if self.listener.transport.is_encrypted()
        {
            let acceptor = TlsAcceptor::from(self.tls.as_ref()?.config());
            let stream = acceptor.accept(stream).await.ok()?;
            let certificate = client_certificate(&stream);
            (Box::new(stream), certificate)
        } else {
            (Box::new(stream), None)
        };
        if !self.listener.transport.is_websocket() {
            return Some(Arrival { stream, source, bearer: None, certificate });
        }
        let max_packet = self.shared.settings.max_packet;
        let (stream, bearer) = websocket::accept(stream, max_packet).await?;
        Some(Arrival { stream: Box::new(stream), source, bearer, certificate })
    }
}

/// The leaf of the client's certificate, which the handshake verified, in DER.
fn client_certificate(stream: &TlsStream<TcpStream>) -> Option<Vec<u8>> {
    let (_, session) = stream.get_ref();
    session.peer_certificates()?.first().map(|leaf| leaf.to_vec())
}
