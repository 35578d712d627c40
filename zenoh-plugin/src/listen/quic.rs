//! Zenoh over QUIC, on the one stream that a client opens.

use super::certificate_of;
use crate::gate::Arrival;
use bulkhead_control::tls::ServerTls;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, Incoming, SendStream, ServerConfig, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

/// The protocol of one stream, and its name up to Zenoh 1.8. Clients that would rather have several
/// streams take these too.
pub(super) const ALPN: &[&[u8]] = &[b"zenoh", b"hq-29"];

/// How long a connection may be silent, which Zenoh's own leases are shorter than.
const IDLE: Duration = Duration::from_secs(600);

/// Bytes that a client may have sent and the gate not read.
const RECEIVE_WINDOW: u32 = 512 * 1024;

/// Bytes that the client has not acknowledged. More waits where it is counted.
const SEND_WINDOW: u64 = 1024 * 1024;

/// Listens, for as long as the certificate is looked after.
pub(super) fn bind(address: SocketAddr, tls: &ServerTls) -> std::io::Result<Endpoint> {
    Endpoint::server(config(tls)?, address)
}

/// What holds for connections that begin now.
pub(super) fn config(tls: &ServerTls) -> std::io::Result<ServerConfig> {
    let crypto = QuicServerConfig::try_from(tls.config()).map_err(std::io::Error::other)?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW)
        .max_idle_timeout(IDLE.try_into().ok());
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Gets through the handshake and to the client's stream.
pub(super) async fn arrive(
    incoming: Incoming,
    config: ServerConfig,
    deadline: Instant,
) -> Option<Arrival> {
    let source = incoming.remote_address().ip();
    let connection = incoming.accept_with(Arc::new(config)).ok()?.await.ok()?;
    let (writer, reader) = connection.accept_bi().await.ok()?;
    let chain = connection.peer_identity();
    let chain = chain.and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    Some(Arrival {
        reader: Box::new(reader),
        writer: Box::new(Finishing { stream: writer, taken: None }),
        source,
        certificate: certificate_of(chain.as_deref().map(Vec::as_slice)),
        deadline,
    })
}

/// A stream that is shut down once the client has all of it: a connection whose last stream is dropped
/// forgets what was not sent yet, such as why it is closed.
struct Finishing {
    stream: SendStream,
    taken: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl AsyncWrite for Finishing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.stream), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.stream), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.taken.is_none() {
            let _ = self.stream.finish();
            let stopped = self.stream.stopped();
            self.taken = Some(Box::pin(async move { drop(stopped.await) }));
        }
        if let Some(taken) = &mut self.taken {
            ready!(taken.as_mut().poll(cx));
        }
        Poll::Ready(Ok(()))
    }
}
