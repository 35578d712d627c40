//! The way to the broker.

use super::names::Naming;
use crate::connection::Stream;
use arc_swap::ArcSwap;
use bulkhead_control::config::{UpstreamConfig, UpstreamUrl};
use bulkhead_control::files::{Watched, read_text};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use secrecy::SecretString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Why the broker behind the front cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// A file cannot be read.
    #[error("{0}; check password_file, ca_file, cert_file and key_file")]
    File(#[from] io::Error),
    /// A file holds something else.
    #[error("{} holds no {what} in PEM; check ca_file, cert_file and key_file", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// The host is no name that a certificate can have.
    #[error("url: '{0}' is no host that a certificate can name; write a DNS name or an address")]
    Host(String),
    /// TLS cannot be set up.
    #[error("{0}; check ca_file, cert_file and key_file")]
    Tls(#[from] rustls::Error),
    /// There is no authority to check the broker's certificate with.
    #[error("this system has no certificate authorities; set ca_file")]
    NoAuthority,
    /// The system has no randomness.
    #[error("the system has no randomness")]
    Random,
}

/// Connects to the broker.
#[derive(Debug)]
pub(super) struct Dialer {
    config: UpstreamConfig,
    secrets: ArcSwap<Secrets>,
}

/// What the front shows and asks for, as the files have it now.
#[derive(Debug)]
pub(super) struct Secrets {
    pub(super) password: Option<SecretString>,
    tls: Option<Tls>,
}

struct Tls {
    connector: TlsConnector,
    host: ServerName<'static>,
}

impl Dialer {
    pub(super) fn open(config: &UpstreamConfig) -> Result<Self, UpstreamError> {
        let secrets = ArcSwap::from_pointee(Secrets::read(config)?);
        Ok(Self { config: config.clone(), secrets })
    }

    pub(super) fn url(&self) -> &UpstreamUrl {
        &self.config.url
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.config.user.as_deref()
    }

    pub(super) fn naming(&self) -> Naming<'_> {
        Naming { prefix: &self.config.prefix, private: &self.config.private }
    }

    pub(super) fn secrets(&self) -> Arc<Secrets> {
        self.secrets.load_full()
    }

    /// Connects. The caller limits how long that may take.
    pub(super) async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((&*self.config.url.host, self.config.url.port)).await?;
        // Small packets should not wait for each other.
        stream.set_nodelay(true)?;
        let secrets = self.secrets();
        Ok(match &secrets.tls {
            Some(tls) => Box::new(tls.connector.connect(tls.host.clone(), stream).await?),
            None => Box::new(stream),
        })
    }

    /// Takes over renewed files. Several may change one after the other.
    pub(super) async fn keep_current(self: Arc<Self>) {
        let config = &self.config;
        let files = [&config.password_file, &config.ca_file, &config.cert_file, &config.key_file];
        let mut watched: Vec<_> =
            files.into_iter().flatten().map(|file| Watched::new(file.clone())).collect();
        if watched.is_empty() {
            return;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            let changed = watched.iter_mut().filter_map(|file| file.changed().ok());
            if changed.filter(|changed| *changed).count() == 0 {
                continue;
            }
            match Secrets::read(config) {
                Ok(secrets) => self.secrets.store(Arc::new(secrets)),
                Err(error) => {
                    tracing::warn!(%error, "mqtt.upstream: the last good files stay in use");
                }
            }
        }
    }
}

impl Secrets {
    fn read(config: &UpstreamConfig) -> Result<Self, UpstreamError> {
        let tls = if config.url.tls { Some(Tls::read(config)?) } else { None };
        Ok(Self { password: config.password()?, tls })
    }
}

impl Tls {
    fn read(config: &UpstreamConfig) -> Result<Self, UpstreamError> {
        let mut roots = RootCertStore::empty();
        match &config.ca_file {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate)?;
                }
            }
            None => {
                // One that cannot be read does not spoil the others.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(UpstreamError::NoAuthority);
                }
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let client = match (&config.cert_file, &config.key_file) {
            (Some(chain), Some(key_file)) => {
                let text = read_text(key_file)?;
                let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| {
                    UpstreamError::Pem { path: key_file.clone(), what: "private key" }
                })?;
                builder.with_client_auth_cert(certificates(chain)?, key)?
            }
            _ => builder.with_no_client_auth(),
        };
        let host = config.url.host.clone();
        let host = ServerName::try_from(host.clone()).map_err(|_| UpstreamError::Host(host))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(client)), host })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, UpstreamError> {
    let text = read_text(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    chain.ok_or_else(|| UpstreamError::Pem { path: path.to_owned(), what: "certificate" })
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("host", &self.host).finish_non_exhaustive()
    }
}
