//! Credentials of Zenoh clients.

use super::keys::ExchangeKeys;
use crate::config::ZenohConfig;
use crate::files::read_text;
use crate::http::exchange::{CredentialIssuer, Subject};
use bulkhead_policy::{Broker, DenyReason, Verdict};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// Issues the `zenoh` section of credentials files: a client certificate, which is all that a Device
/// Connect device can show there, with everything inline.
#[derive(Debug)]
pub struct ZenohCredentials {
    keys: Arc<ExchangeKeys>,
    urls: Vec<String>,
    ca_file: Option<PathBuf>,
}

impl ZenohCredentials {
    /// An issuer that sends devices to the configured listeners.
    pub fn new(keys: Arc<ExchangeKeys>, config: &ZenohConfig) -> Self {
        let own = || config.tls.as_ref().map(|tls| tls.cert_file.clone());
        let ca_file = config.device_ca_file.clone().or_else(own);
        Self { keys, urls: config.device_urls(), ca_file }
    }
}

impl CredentialIssuer for ZenohCredentials {
    fn section(&self) -> &'static str {
        "zenoh"
    }

    fn broker(&self) -> Broker {
        Broker::Zenoh
    }

    fn auth_type(&self) -> &'static str {
        "mtls"
    }

    fn issue(&self, subject: &Subject) -> Verdict<Value> {
        let made = self.keys.authority().issue(subject)?;
        // Read anew each time, since it is renewed while this runs.
        let ca = self.ca_file.as_deref().map(read_text).transpose();
        let ca = ca.map_err(|error| {
            tracing::error!(%error, "zenoh.device_ca_file cannot be read");
            DenyReason::Internal
        })?;
        Ok(json!({
            "urls": self.urls,
            "tls": {
                "ca_pem": ca,
                "cert_pem": made.cert_pem,
                "key_pem": made.key_pem.expose_secret(),
            },
        }))
    }
}
