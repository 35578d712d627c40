use super::client::{Client, Wire};
use super::{Heard, Hello};
use crate::wait::WITHIN;
use bulkhead_control::config::Transport;
use bulkhead_mqtt_broker::codec::{ReasonCode, Version};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};

/// One of the broker's listeners, to come in by.
#[derive(Clone, Debug)]
pub struct Door {
    /// What is spoken below MQTT.
    pub transport: Transport,
    /// Where it is.
    pub address: SocketAddr,
    /// The certificate that is trusted, in PEM.
    pub certificate: PathBuf,
    /// What the client shows of itself: certificate and private key, in PEM.
    pub identity: Option<(String, String)>,
}

impl Door {
    /// The same, for a client that shows a certificate.
    #[must_use]
    pub fn showing(self, cert_pem: &str, key_pem: &str) -> Self {
        Self { identity: Some((cert_pem.to_owned(), key_pem.to_owned())), ..self }
    }

    /// Opens a connection on which nothing has been said yet.
    pub async fn open(&self, version: Version) -> Client {
        self.open_with(version, None).await.unwrap()
    }

    /// The same, with a token in the header of the WebSocket.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn open_with(
        &self,
        version: Version,
        bearer: Option<&str>,
    ) -> Result<Client, Box<dyn std::error::Error>> {
        let opening = self.wire(bearer);
        let wire = timeout(WITHIN, opening).await.expect("a connection in time")?;
        Ok(Client::new(wire, version))
    }

    async fn wire(&self, bearer: Option<&str>) -> Result<Wire, Box<dyn std::error::Error>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        if !self.transport.is_encrypted() {
            if !self.transport.is_websocket() {
                return Ok(Wire::Stream(Box::new(stream)));
            }
            let request = self.request(bearer)?;
            let (socket, _) =
                tokio_tungstenite::client_async(request, Box::new(stream) as _).await?;
            return Ok(Wire::WebSocket(Box::new(socket)));
        }
        let name = ServerName::try_from("localhost")?;
        let config = Arc::new(self.tls()?);
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        if !self.transport.is_websocket() {
            return Ok(Wire::Stream(Box::new(stream)));
        }
        let request = self.request(bearer)?;
        let (socket, _) = tokio_tungstenite::client_async(request, Box::new(stream) as _).await?;
        Ok(Wire::WebSocket(Box::new(socket)))
    }

    /// A client's side of TLS on this door.
    ///
    /// # Errors
    /// What is wrong with its certificates.
    pub fn tls(&self) -> Result<rustls::ClientConfig, Box<dyn std::error::Error>> {
        let client = crate::tls::client(&self.certificate, self.identity.as_ref());
        client.map_err(|error| error as _)
    }

    fn request(
        &self,
        bearer: Option<&str>,
    ) -> Result<
        tokio_tungstenite::tungstenite::handshake::client::Request,
        Box<dyn std::error::Error>,
    > {
        let mut request = self.url().into_client_request()?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("mqtt"));
        if let Some(token) = bearer {
            let value = HeaderValue::from_str(&format!("Bearer {token}"))?;
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    /// `tcp://127.0.0.1:1883`, and so on.
    pub fn url(&self) -> String {
        format!("{}://localhost:{}/mqtt", self.transport, self.address.port())
    }

    /// Connects, and is let in.
    pub async fn connect(&self, hello: &Hello) -> Client {
        let (client, reason) = self.knock(hello).await;
        assert_eq!(reason, ReasonCode::SUCCESS, "{} is let in", hello.client_id);
        client
    }

    /// Connects, is refused, and learns why.
    pub async fn refuse(&self, hello: &Hello) -> ReasonCode {
        let (mut client, reason) = self.knock(hello).await;
        assert!(reason.is_error(), "{} is refused", hello.client_id);
        client.closed().await;
        reason
    }

    /// Connects, and says what came of it.
    pub async fn knock(&self, hello: &Hello) -> (Client, ReasonCode) {
        self.try_knock(hello).await.expect("an answer")
    }

    /// The same, where the connection may be closed without an answer.
    pub async fn try_knock(&self, hello: &Hello) -> Option<(Client, ReasonCode)> {
        let mut client = self.open_with(hello.version, None).await.ok()?;
        client.send(&hello.packet()).await;
        match client.answer().await? {
            Heard::ConnAck { present, reason, properties } => {
                client.present = present;
                client.terms = properties;
                Some((client, reason))
            }
            other => panic!("something else than CONNACK: {other:?}"),
        }
    }
}
