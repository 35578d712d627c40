//! The authorities whose certificates say who a device is.

use super::certificate;
use crate::files::{LOOK, Watched};
use crate::tls::{TlsError, client_verifier};
use arc_swap::ArcSwap;
use bulkhead_policy::{DenyReason, Principal, Verdict};
use jiff::Timestamp;
use rustls::CertificateError::{
    BadSignature, Expired, ExpiredContext, NotValidYet, NotValidYetContext, UnknownIssuer,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Identifies devices by certificates of the authorities in a file, and of no others, whatever the
/// listener's TLS trusts.
#[derive(Debug)]
pub struct DeviceTrust {
    path: PathBuf,
    verifier: ArcSwap<Verifier>,
}

/// An `ArcSwap` holds what has a size.
#[derive(Debug)]
struct Verifier(Arc<dyn ClientCertVerifier>);

impl DeviceTrust {
    /// Reads the authorities.
    ///
    /// # Errors
    /// [`TlsError`] if the file holds none, or something else.
    pub fn open(path: &Path) -> Result<Self, TlsError> {
        let verifier = ArcSwap::from_pointee(Verifier(client_verifier(path, false)?));
        Ok(Self { path: path.to_owned(), verifier })
    }

    /// Looks at the file for ever, and takes over what can be used.
    pub async fn keep_current(&self) {
        let mut watched = Watched::new(self.path.clone());
        loop {
            tokio::time::sleep(LOOK).await;
            if !watched.changed().unwrap_or(false) {
                continue;
            }
            match client_verifier(&self.path, false) {
                Ok(verifier) => self.verifier.store(Arc::new(Verifier(verifier))),
                Err(error) => tracing::warn!(%error, "the last good authorities stay in use"),
            }
        }
    }

    /// Says whose certificate this is, in DER. The directory has not been asked yet.
    ///
    /// Signature, time and purpose are verified here once more: TLS resumes a session without looking
    /// at the certificate again, and an intermediate authority, which none of ours has, would do there.
    ///
    /// # Errors
    /// The [`DenyReason`]; [`DenyReason::CertificateInvalid`] for one that our exchange does not issue.
    pub fn identify(&self, leaf: &[u8], now: Timestamp) -> Verdict<Principal> {
        let certificate = CertificateDer::from(leaf);
        let seconds = u64::try_from(now.as_second()).map_err(|_| DenyReason::Internal)?;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        match self.verifier.load().0.verify_client_cert(&certificate, &[], time) {
            // A certificate is good for all of its last second, a principal ends with its beginning.
            Ok(_) => match certificate::principal(leaf)? {
                principal if principal.expires_at <= now => Err(DenyReason::TokenExpired),
                principal => Ok(principal),
            },
            Err(rustls::Error::InvalidCertificate(cause)) => Err(match cause {
                Expired | ExpiredContext { .. } => DenyReason::TokenExpired,
                NotValidYet | NotValidYetContext { .. } => DenyReason::TokenNotYetValid,
                BadSignature | UnknownIssuer => DenyReason::SignatureInvalid,
                _ => DenyReason::CertificateInvalid,
            }),
            Err(_) => Err(DenyReason::CertificateInvalid),
        }
    }
}
