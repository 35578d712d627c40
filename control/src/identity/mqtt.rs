//! Credentials of MQTT clients.

use super::keys::ExchangeKeys;
use crate::http::exchange::{CredentialIssuer, ISSUER, Subject};
use bulkhead_policy::{Broker, DenyReason, DeviceId, RoleName, TenantId, TokenId, Verdict};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// `aud` of the tokens: no other broker takes them, nor does the exchange itself.
pub(super) const AUDIENCE: &str = "bulkhead-mqtt";

/// Issues the `mqtt` section of credentials files: a token as the password, and where it is asked for
/// a client certificate.
#[derive(Debug)]
pub struct MqttCredentials {
    keys: Arc<ExchangeKeys>,
    urls: Vec<String>,
}

/// What the password says (RFC 7519 §4).
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'static str,
    aud: &'static str,
    tenant: &'a TenantId,
    device: &'a DeviceId,
    role: &'a RoleName,
    jti: &'a TokenId,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a TokenId>,
    iat: i64,
    exp: i64,
}

impl MqttCredentials {
    /// An issuer that sends devices to these URLs.
    pub fn new(keys: Arc<ExchangeKeys>, urls: Vec<String>) -> Self {
        Self { keys, urls }
    }
}

impl CredentialIssuer for MqttCredentials {
    fn section(&self) -> &'static str {
        "mqtt"
    }

    fn broker(&self) -> Broker {
        Broker::Mqtt
    }

    fn auth_type(&self) -> &'static str {
        "password"
    }

    fn issue(&self, subject: &Subject) -> Verdict<Value> {
        let claims = Claims {
            iss: ISSUER,
            aud: AUDIENCE,
            tenant: &subject.tenant,
            device: &subject.device,
            role: &subject.role,
            jti: &subject.id,
            origin: subject.origin.as_ref(),
            iat: subject.issued_at.as_second(),
            exp: subject.expires_at.as_second(),
        };
        let password = self.keys.tokens().sign(&claims).map_err(|_| DenyReason::Internal)?;
        Ok(json!({
            "urls": self.urls,
            "credentials": {"username": subject.device, "password": password},
        }))
    }

    fn certify(&self, subject: &Subject) -> Option<Verdict<Value>> {
        let made = self.keys.authority().issue(subject);
        Some(made.map(
            |made| json!({"cert_pem": made.cert_pem, "key_pem": made.key_pem.expose_secret()}),
        ))
    }
}
