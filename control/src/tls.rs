//! TLS of listeners: their certificate, and where clients may show one, the authorities of those; kept
//! current while the listeners run.

use crate::config::TlsFiles;
use crate::files::{LOOK, Watched, read_text};
use prometheus::IntGauge;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use x509_parser::parse_x509_certificate;

/// Why a certificate, a key or an authority cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{0}; check cert_file and key_file")]
    File(#[from] std::io::Error),
    /// A file holds something else.
    #[error("{} holds no {what} in PEM; check cert_file and key_file", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Certificate and key do not go together, or cannot be used.
    #[error("{}: {cause}; check that key_file is the key of cert_file", path.display())]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        cause: rustls::Error,
    },
    /// What should hold authorities does not.
    #[error("{} {what}; it takes one or more certificates of authorities in PEM", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// A listener's side of TLS. It renews itself: what was read last, and could be used, holds for new
/// connections.
#[derive(Debug)]
pub struct ServerTls {
    files: TlsFiles,
    client_ca_file: Option<PathBuf>,
    alpn: Vec<Vec<u8>>,
    expires: IntGauge,
    config: watch::Sender<Arc<ServerConfig>>,
}

impl ServerTls {
    /// Reads the files. With `client_ca_file`, clients are asked for a certificate: one that its
    /// authorities did not sign, or that is not valid now, ends the handshake; having none does not.
    /// `alpn` are the names of the protocols that are spoken (RFC 7301); `expires` is told when the
    /// certificate in use is no longer valid (RFC 5280 §4.1.2.5), in seconds of Unix time.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn open(
        files: &TlsFiles,
        client_ca_file: Option<&Path>,
        alpn: &[&[u8]],
        expires: IntGauge,
    ) -> Result<Self, TlsError> {
        let alpn: Vec<_> = alpn.iter().map(|name| name.to_vec()).collect();
        let config = read(files, client_ca_file, &alpn, &expires)?;
        Ok(Self {
            files: files.clone(),
            client_ca_file: client_ca_file.map(Path::to_owned),
            alpn,
            expires,
            config: watch::Sender::new(config),
        })
    }

    /// What holds for a connection that begins now.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.borrow().clone()
    }

    /// A receiver that is told when it changes, for listeners that cannot ask for each connection.
    pub fn changes(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.config.subscribe()
    }

    /// Looks at the files for ever. They may change one after the other, so all are read again when
    /// any changes; what cannot be used changes nothing and is said.
    pub async fn keep_current(&self) {
        let files = [&self.files.cert_file, &self.files.key_file].into_iter();
        let mut watched: Vec<_> =
            files.chain(&self.client_ca_file).cloned().map(Watched::new).collect();
        // Between the start and the first look they may have changed; a second reading does no harm.
        loop {
            tokio::time::sleep(LOOK).await;
            let looks = watched.iter_mut().map(|file| file.changed().unwrap_or(false));
            if looks.fold(false, |any, changed| any | changed) {
                let client_ca_file = self.client_ca_file.as_deref();
                match read(&self.files, client_ca_file, &self.alpn, &self.expires) {
                    Ok(config) => drop(self.config.send_replace(config)),
                    Err(error) => tracing::warn!(%error, "the last good certificate stays in use"),
                }
            }
        }
    }
}

fn read(
    files: &TlsFiles,
    client_ca_file: Option<&Path>,
    alpn: &[Vec<u8>],
    expires: &IntGauge,
) -> Result<Arc<ServerConfig>, TlsError> {
    let pem = |path: &PathBuf, what| TlsError::Pem { path: path.clone(), what };
    let chain = certificates(&read_text(&files.cert_file)?)
        .ok_or_else(|| pem(&files.cert_file, "certificate"))?;
    let text = read_text(&files.key_file)?;
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| pem(&files.key_file, "private key"))?;
    let leaf = chain.first().and_then(|leaf| parse_x509_certificate(leaf).ok());
    let end = leaf.map(|(_, parsed)| parsed.validity().not_after.timestamp());
    let clients: Arc<dyn ClientCertVerifier> = match client_ca_file {
        Some(path) => client_verifier(path, true)?,
        None => Arc::new(NoClientAuth),
    };
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|cause| TlsError::Unusable { path: files.cert_file.clone(), cause })?;
    config.alpn_protocols = alpn.to_vec();
    expires.set(end.unwrap_or_default());
    Ok(Arc::new(config))
}

/// A verifier of client certificates that trusts the authorities of this file alone. For the TLS
/// handshake it is `optional` to have one.
pub(crate) fn client_verifier(
    path: &Path,
    optional: bool,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let wrong = |what: String| TlsError::Authorities { path: path.to_owned(), what };
    let mut roots = RootCertStore::empty();
    let text =
        read_text(path).map_err(|error| wrong(format!("cannot be read ({})", error.kind())))?;
    let found = certificates(&text);
    for authority in found.ok_or_else(|| wrong("holds no certificate".to_owned()))? {
        // A trust anchor of rustls may be any certificate: one that may not sign others would do.
        let is_ca = parse_x509_certificate(&authority).is_ok_and(|(_, parsed)| parsed.is_ca());
        if !is_ca {
            return Err(wrong("holds a certificate that is no authority's".to_owned()));
        }
        roots.add(authority).map_err(|cause| wrong(format!("cannot be used: {cause}")))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|cause| wrong(format!("cannot be used: {cause}")))
}

/// The certificates of a PEM text; `None` if there are none, or one cannot be read.
pub(crate) fn certificates(text: &str) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    all.ok().filter(|all| !all.is_empty())
}
