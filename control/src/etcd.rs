//! Connections to etcd, as the directory and the registry have them.

use crate::config::EtcdConfig;
use crate::files::read_text;
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use secrecy::ExposeSecret;
use std::time::Duration;

/// How often etcd is asked for a sign of life at the least; often enough for the configured limit. A
/// watch alone does not tell a quiet etcd from one that is gone.
pub const PROGRESS: Duration = Duration::from_secs(2);

/// How long any one answer may take.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// A client of etcd's pages over HTTP, which stand on the same endpoints and ask for the same certificates.
///
/// # Errors
/// Certificates or a key that cannot be read.
pub fn pages(config: &EtcdConfig) -> std::io::Result<reqwest::Client> {
    let mut client = reqwest::Client::builder().timeout(TIMEOUT);
    if let Some(path) = &config.ca_file {
        let pem = read_text(path)?;
        let roots = reqwest::Certificate::from_pem_bundle(pem.as_bytes());
        client = client.tls_certs_only(roots.map_err(std::io::Error::other)?);
    }
    if let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) {
        let pem = format!("{}\n{}", read_text(cert)?, read_text(key)?);
        let identity = reqwest::Identity::from_pem(pem.as_bytes());
        client = client.identity(identity.map_err(std::io::Error::other)?);
    }
    client.build().map_err(std::io::Error::other)
}

/// Keeps a lease alive once. Says whether there still is one.
///
/// # Errors
/// What etcd says, or that it says nothing.
pub async fn keep_alive(client: &mut Client, lease: i64) -> Result<bool, etcd_client::Error> {
    let silent = || etcd_client::Error::LeaseKeepAliveError("no answer".to_owned());
    let asked = tokio::time::timeout(TIMEOUT, client.lease_keep_alive(lease));
    match asked.await.map_err(|_| silent())? {
        Ok(_) => Ok(true),
        Err(etcd_client::Error::LeaseKeepAliveError(text)) if text == "lease not found" => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Connects to etcd.
///
/// # Errors
/// What etcd or the system says.
pub async fn connect(config: &EtcdConfig) -> Result<Client, etcd_client::Error> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(TIMEOUT)
        .with_timeout(TIMEOUT)
        .with_keep_alive(PROGRESS, TIMEOUT)
        .with_keep_alive_while_idle(true);
    let io = |error: std::io::Error| etcd_client::Error::InvalidArgs(error.to_string());
    if let (Some(user), Some(password)) = (&config.user, config.password().map_err(io)?) {
        options = options.with_user(user, password.expose_secret());
    }
    if config.endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
        let mut tls = TlsOptions::new().with_enabled_roots();
        if let Some(path) = &config.ca_file {
            tls = TlsOptions::new()
                .ca_certificate(Certificate::from_pem(read_text(path).map_err(io)?));
        }
        if let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) {
            let (cert, key) = (read_text(cert).map_err(io)?, read_text(key).map_err(io)?);
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        options = options.with_tls(tls);
    }
    Client::connect(&config.endpoints, Some(options)).await
}
