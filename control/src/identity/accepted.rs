//! What a broker's listeners accept besides tokens of configured issuers.

use super::keys::IdentityError;
use super::mqtt::AUDIENCE;
use super::trust::DeviceTrust;
use crate::Control;
use crate::issuer::Verifier;
use bulkhead_policy::{Broker, DenyReason, Principal, Verdict};
use jiff::Timestamp;
use std::path::Path;
use std::sync::Arc;

/// Verifies what the exchange issued for one broker. The default accepts nothing.
#[derive(Debug, Default)]
pub struct Accepted {
    tokens: Option<Verifier>,
    certificates: Option<DeviceTrust>,
}

/// Where the public keys are.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The broker.
    pub broker: Broker,
    /// The exchange's JWKS. Only MQTT has passwords that are tokens.
    pub jwks_file: Option<&'a Path>,
    /// The authorities of devices' certificates.
    pub client_ca_file: Option<&'a Path>,
}

impl Accepted {
    /// Reads the keys, and keeps them current as long as the process runs.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn open(sources: Sources<'_>, control: &Control) -> Result<Arc<Self>, IdentityError> {
        let (tasks, stop) = (control.tasks(), control.stop());
        let tokens = match (sources.broker, sources.jwks_file) {
            (Broker::Mqtt, Some(file)) => {
                let limits = &control.config().limits;
                let metrics = control.auth().metrics();
                Some(Verifier::of_exchange(file, AUDIENCE, limits, metrics, tasks, stop)?)
            }
            _ => None,
        };
        let certificates = sources.client_ca_file.map(DeviceTrust::open).transpose()?;
        let accepted = Arc::new(Self { tokens, certificates });
        if accepted.certificates.is_some() {
            let (watching, stop) = (Arc::clone(&accepted), stop.clone());
            tasks.spawn(async move {
                if let Some(trust) = &watching.certificates {
                    stop.run_until_cancelled(trust.keep_current()).await;
                }
            });
        }
        Ok(accepted)
    }

    /// The verifier of the exchange's tokens.
    pub(crate) fn tokens(&self) -> Option<&Verifier> {
        self.tokens.as_ref()
    }

    /// Whose certificate this is.
    pub(crate) fn certificate(&self, leaf: &[u8]) -> Verdict<Principal> {
        let trust = self.certificates.as_ref().ok_or(DenyReason::CertificateInvalid)?;
        trust.identify(leaf, Timestamp::now())
    }
}
