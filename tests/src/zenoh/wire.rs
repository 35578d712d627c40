use super::{Entrance, Link};
use futures::{SinkExt, StreamExt};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::ServerName;
use std::any::Any;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Why there is no connection.
pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A connection's bytes.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

/// A connection that carries batches.
pub(super) enum Wire {
    /// Batches with their lengths, and what keeps the connection.
    Stream { bytes: Box<dyn Bytes>, _kept: Box<dyn Any + Send> },
    /// Each in a message.
    WebSocket(Box<WebSocketStream<TcpStream>>),
}

impl Wire {
    /// Connects.
    pub(super) async fn open(entrance: &Entrance) -> Result<Self, Failure> {
        let tls = || crate::tls::client(&entrance.certificate, entrance.identity.as_ref());
        if entrance.link == Link::Quic {
            let mut tls = tls()?;
            tls.alpn_protocols = vec![b"zenoh".to_vec()];
            let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
            if let Some(window) = entrance.window {
                let mut transport = quinn::TransportConfig::default();
                transport.stream_receive_window(window.into());
                config.transport_config(Arc::new(transport));
            }
            let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into())?;
            let connecting = endpoint.connect_with(config, entrance.address, "localhost")?;
            let connection = connecting.await?;
            let (send, receive) = connection.open_bi().await?;
            let both = tokio::io::join(receive, send);
            let kept = Box::new((endpoint, connection));
            return Ok(Self::Stream { bytes: Box::new(both), _kept: kept });
        }
        let stream = TcpStream::connect(entrance.address).await?;
        stream.set_nodelay(true)?;
        Ok(match entrance.link {
            Link::Ws => {
                let url = format!("ws://{}", entrance.address);
                let (socket, _) = tokio_tungstenite::client_async(url, stream).await?;
                Self::WebSocket(Box::new(socket))
            }
            Link::Tls => {
                let name = ServerName::try_from("localhost")?;
                let stream = TlsConnector::from(Arc::new(tls()?)).connect(name, stream).await?;
                Self::Stream { bytes: Box::new(stream), _kept: Box::new(()) }
            }
            _ => Self::Stream { bytes: Box::new(stream), _kept: Box::new(()) },
        })
    }

    /// Sends one batch. A connection that is closed takes it too.
    pub(super) async fn send(&mut self, batch: &[u8]) {
        let _ = match self {
            Self::Stream { bytes: stream, .. } => {
                let mut bytes = u16::try_from(batch.len()).unwrap().to_le_bytes().to_vec();
                bytes.extend_from_slice(batch);
                match stream.write_all(&bytes).await {
                    Ok(()) => stream.flush().await.is_ok(),
                    Err(_) => false,
                }
            }
            Self::WebSocket(socket) => {
                socket.send(Message::Binary(batch.to_vec().into())).await.is_ok()
            }
        };
    }

    /// Sends bytes that are no whole batch.
    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) {
        match self {
            Self::Stream { bytes: stream, .. } => {
                let _ = stream.write_all(bytes).await;
                let _ = stream.flush().await;
            }
            Self::WebSocket(socket) => {
                let _ = socket.get_mut().write_all(bytes).await;
            }
        }
    }

    /// The next batch; `None` once the connection is closed.
    pub(super) async fn receive(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Stream { bytes: stream, .. } => {
                let len = stream.read_u16_le().await.ok()?;
                let mut batch = vec![0; len.into()];
                stream.read_exact(&mut batch).await.ok()?;
                Some(batch)
            }
            Self::WebSocket(socket) => loop {
                match socket.next().await? {
                    Ok(Message::Binary(batch)) => return Some(batch.to_vec()),
                    Ok(Message::Close(_)) | Err(_) => return None,
                    Ok(_) => {}
                }
            },
        }
    }
}
