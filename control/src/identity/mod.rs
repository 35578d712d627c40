//! Identities that the exchange issues, and their verification.
//!
//! ```text
//!  exchange.keys ──▶ ExchangeKeys ──┬─ CertificateAuthority   client certificates of devices
//!  (private)                        └─ Signer                 tokens for MQTT's password
//!
//!  tokens.jwks.json, ca.pem ──▶ Accepted ──▶ Authenticator::identify_client ──▶ Principal
//!  (public)
//! ```
//!
//! Whoever verifies has public keys only, so the exchange may be another process on another machine.
//! What comes out is a [`Principal`](bulkhead_policy::Principal) of the issuer
//! [`ISSUER`](crate::http::exchange::ISSUER) with an id, and the id of the token that it was asked for
//! with: the directory refuses and cuts it like every other.

mod accepted;
mod authority;
mod certificate;
mod keys;
mod merge;
mod mqtt;
mod session;
mod trust;
mod zenoh;

pub use accepted::{Accepted, Sources};
pub use authority::{CertificateAuthority, ClientCertificate};
pub use keys::{ExchangeKeys, IdentityError, TOKEN_KEYS, Trusting, check_token_keys};
pub use mqtt::MqttCredentials;
pub use session::Session;
pub use trust::DeviceTrust;
pub use zenoh::ZenohCredentials;
