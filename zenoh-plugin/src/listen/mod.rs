//! Where connections come in.

use crate::gate::{Arrival, Gate};
use crate::session::serve;
use bulkhead_control::config::{ZenohConfig, ZenohLink, ZenohListener};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

/// Pause after a connection could not be accepted, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
}

/// Listens everywhere that is configured. Returns the addresses, whose ports are the real ones, in the
/// configuration's order.
pub(crate) async fn listen(
    config: &ZenohConfig,
    gate: &Arc<Gate>,
) -> Result<Vec<SocketAddr>, ListenError> {
    let mut addresses = Vec::new();
    for listener in &config.listeners {
        let bind = |cause| ListenError::Bind { listener: *listener, cause };
        let socket = TcpListener::bind(listener.address).await.map_err(bind)?;
        addresses.push(socket.local_addr().map_err(bind)?);
        let (gate, listener) = (Arc::clone(gate), *listener);
        gate.tasks.clone().spawn(async move {
            gate.stop.clone().run_until_cancelled(accept(gate, listener, socket)).await;
        });
    }
    Ok(addresses)
}

async fn accept(gate: Arc<Gate>, listener: ZenohListener, socket: TcpListener) {
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                let gate = Arc::clone(&gate);
                gate.tasks.clone().spawn(async move {
                    let deadline = Instant::now() + gate.settings.handshake_timeout;
                    if let Some(arrival) = arrive(listener.link, stream, peer.ip(), deadline) {
                        serve(gate, arrival).await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%listener, %error, "a connection was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn arrive(
    _: ZenohLink,
    stream: TcpStream,
    source: IpAddr,
    deadline: Instant,
) -> Option<Arrival> {
    stream.set_nodelay(true).ok()?;
    let (reader, writer) = stream.into_split();
    Some(Arrival { reader: Box::new(reader), writer: Box::new(writer), source, deadline })
}
