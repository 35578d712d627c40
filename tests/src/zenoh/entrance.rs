use super::wire::{Failure, Wire};
use super::{Greeting, Link, Raw};
use crate::wait::WITHIN;
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::time::timeout;
use zenoh::{Config, Session};

/// The gate's listeners, in the order of its configuration.
pub const LINKS: [(Link, &str); 4] =
    [(Link::Tcp, "tcp"), (Link::Tls, "tls"), (Link::Ws, "ws"), (Link::Quic, "quic")];

/// One of the gate's listeners, to come in by.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// What carries Zenoh.
    pub link: Link,
    /// Where it is.
    pub address: SocketAddr,
    /// The certificate that is trusted, in PEM.
    pub certificate: PathBuf,
    /// What the client shows of itself: certificate and private key, in PEM.
    pub identity: Option<(String, String)>,
    /// Bytes that a client of QUIC takes before it has read some (RFC 9000 §4.1); `None` for a usual number.
    pub window: Option<u32>,
}

impl Entrance {
    /// The same, for a client that shows a certificate.
    #[must_use]
    pub fn showing(self, cert_pem: &str, key_pem: &str) -> Self {
        Self { identity: Some((cert_pem.to_owned(), key_pem.to_owned())), ..self }
    }

    /// The endpoint as Zenoh writes it: `tcp/127.0.0.1:7447`, and so on.
    pub fn endpoint(&self) -> String {
        let (_, name) = LINKS.iter().find(|(link, _)| *link == self.link).unwrap();
        format!("{name}/{}", self.address)
    }

    /// The configuration of a client of Zenoh's library that comes in here, once.
    pub fn config(&self, token: Option<&str>) -> Config {
        let mut settings = vec![
            ("mode", json!("client")),
            ("connect/endpoints", json!([self.endpoint()])),
            ("scouting/multicast/enabled", json!(false)),
            ("transport/link/tls/root_ca_certificate", json!(self.certificate)),
        ];
        if let Some(token) = token {
            settings.push(("transport/auth/usrpwd/user", json!(token)));
            settings.push(("transport/auth/usrpwd/password", json!("any")));
        }
        if let Some((certificate, key)) = &self.identity {
            let base64 = |pem: &str| json!(data_encoding::BASE64.encode(pem.as_bytes()));
            settings.push(("transport/link/tls/enable_mtls", json!(true)));
            settings.push(("transport/link/tls/connect_certificate_base64", base64(certificate)));
            settings.push(("transport/link/tls/connect_private_key_base64", base64(key)));
        }
        let mut config = Config::default();
        for (setting, value) in settings {
            config.insert_json5(setting, &value.to_string()).unwrap();
        }
        config
    }

    /// Opens a session of Zenoh's library.
    ///
    /// # Errors
    /// What the library says.
    pub async fn try_connect(&self, token: Option<&str>) -> zenoh::Result<Session> {
        super::open(self.config(token)).await
    }

    /// Opens a session of Zenoh's library, and is let in.
    pub async fn connect(&self, token: &str) -> Session {
        self.try_connect(Some(token)).await.unwrap()
    }

    /// Opens a connection on which nothing has been said yet.
    pub async fn knock(&self) -> Raw {
        self.try_knock().await.unwrap()
    }

    /// The same, where there may be none.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn try_knock(&self) -> Result<Raw, Failure> {
        Ok(Raw::new(timeout(WITHIN, Wire::open(self)).await??))
    }

    /// Opens a raw session.
    pub async fn enter(&self, greeting: &Greeting) -> Raw {
        let mut raw = self.knock().await;
        let refusal = raw.greet(greeting).await;
        assert_eq!(refusal, Ok(()), "the client is let in");
        raw
    }

    /// Tries to open a raw session, and is refused. Says for which reason of `Close`, if for one.
    pub async fn refuse(&self, greeting: &Greeting) -> Option<u8> {
        match self.try_knock().await {
            Ok(mut raw) => raw.greet(greeting).await.expect_err("the client is refused"),
            Err(_) => None,
        }
    }
}
