use arc_swap::ArcSwap;
use bulkhead_control::config::TlsFiles;
use bulkhead_control::files::{Watched, read_text};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The name of MQTT in ALPN.
const ALPN: &[&[u8]] = &[b"mqtt", b"http/1.1"];

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Why a certificate cannot be used.
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
}

/// The listeners' certificate, kept current.
#[derive(Debug)]
pub(super) struct Certificate {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
}

impl Certificate {
    pub(super) fn open(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self { files: files.clone(), config: ArcSwap::new(read(files)?) })
    }

    /// Takes over a renewed certificate. Its two files may change one after the other.
    pub(super) async fn keep_current(self: Arc<Self>) {
        let files = [&self.files.cert_file, &self.files.key_file];
        let mut watched = files.map(|file| Watched::new(file.clone()));
        loop {
            tokio::time::sleep(LOOK).await;
            let changed = watched.each_mut().map(|file| file.changed().unwrap_or(false));
            if !changed.contains(&true) {
                continue;
            }
            match read(&self.files) {
                Ok(config) => self.config.store(config),
                Err(error) => tracing::warn!(%error, "the last good certificate stays in use"),
            }
        }
    }

    /// Shakes hands. Returns the leaf of the client's certificate too, if it was verified.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> std::io::Result<(TlsStream<TcpStream>, Option<Vec<u8>>)> {
        let stream = TlsAcceptor::from(self.config.load_full()).accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates();
        let leaf = chain.and_then(<[_]>::first).map(|leaf| leaf.to_vec());
        Ok((stream, leaf))
    }
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let pem = |path: &PathBuf, what| TlsError::Pem { path: path.clone(), what };
    let text = read_text(&files.cert_file)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| pem(&files.cert_file, "certificate"))?;
    if chain.is_empty() {
        return Err(pem(&files.cert_file, "certificate"));
    }
    let text = read_text(&files.key_file)?;
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| pem(&files.key_file, "private key"))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|cause| TlsError::Unusable { path: files.cert_file.clone(), cause })?;
    config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}
