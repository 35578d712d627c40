//! What a server asks and what it is told (ADR-26).

use serde::{Deserialize, Serialize};

/// The `nats` section of a server's request. Servers leave empty fields out.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct AuthRequest {
    /// Who asks.
    pub server_id: ServerId,
    /// The key that the server made for this connection; the user JWT is about it.
    pub user_nkey: String,
    /// What the server sees of the client.
    pub client_info: ClientInfo,
    /// What the client presents.
    pub connect_opts: ConnectOpts,
    /// The client's TLS session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_tls: Option<ClientTls>,
}

/// The server.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct ServerId {
    /// Its name.
    pub name: String,
    /// Its address.
    pub host: String,
    /// Its public key, `N…`.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its cluster.
    pub cluster: String,
    /// Its curve key, where the request is sealed.
    pub xkey: String,
}

/// What the server sees of a client.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct ClientInfo {
    /// The client's address.
    pub host: String,
    /// The connection's number at this server.
    pub id: u64,
    /// The user name it presents.
    pub user: String,
    /// The name it gives itself.
    pub name: String,
    /// `Client`, `Leafnode` …
    pub kind: String,
    /// `nats`, `websocket`, `mqtt`; absent for a leaf node.
    #[serde(rename = "type")]
    pub protocol: String,
    /// The MQTT client id.
    pub mqtt_id: String,
    /// What it was to sign.
    pub nonce: String,
}

/// What a client presents. Each of `jwt`, `auth_token` and `pass` can carry a token.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct ConnectOpts {
    /// A NATS user JWT, or the server's sentinel where the client has none.
    pub jwt: String,
    /// A public key.
    pub nkey: String,
    /// The signature of the nonce.
    pub sig: String,
    /// A token.
    pub auth_token: String,
    /// A user name.
    pub user: String,
    /// A password.
    pub pass: String,
    /// The name it gives itself.
    pub name: String,
    /// Its language.
    pub lang: String,
    /// Its library's version.
    pub version: String,
    /// Its protocol version.
    pub protocol: i64,
}

/// A client's TLS session.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct ClientTls {
    /// TLS version.
    pub version: String,
    /// Cipher suite.
    pub cipher: String,
    /// Certificates that were not verified, in PEM.
    pub certs: Vec<String>,
    /// Chains that were, in PEM.
    pub verified_chains: Vec<Vec<String>>,
}

/// The `nats` section of an answer: a user JWT or an error.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct AuthResponse {
    /// The user JWT.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jwt: String,
    /// Why not. It goes to the server's log, never to the client.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The account, where a signing key signs for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer_account: String,
    /// `authorization_response`.
    #[serde(rename = "type")]
    pub kind: String,
    /// 2.
    pub version: u32,
}

/// Tokens are not for logs.
impl std::fmt::Debug for ConnectOpts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectOpts")
            .field("lang", &self.lang)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
