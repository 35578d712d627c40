use crate::config::TlsFiles;
use axum::Router;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::net::SocketAddr;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long open requests may take to finish when the process ends.
const GRACE: Duration = Duration::from_secs(2);

/// How often the certificate is looked at.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(5);

/// Why an HTTP port cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("{setting} {address}: {cause}; choose another port, or stop what uses it")]
    Bind {
        /// The setting that names the address.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The certificate cannot be used.
    #[error("{setting}.tls: {cause}; check cert_file and key_file")]
    Certificate {
        /// The setting that names the files.
        setting: &'static str,
        /// What is wrong.
        cause: std::io::Error,
    },
    /// The token that guards the port cannot be read, or is too short to guard anything.
    #[error("admin.token_file: {0}; write at least 16 random characters into it")]
    Token(std::io::Error),
}

/// Serves a router until it is told to stop. Returns the address, whose port is the real one.
pub(super) async fn serve(
    setting: &'static str,
    address: SocketAddr,
    tls: Option<&TlsFiles>,
    router: Router,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<SocketAddr, ServeError> {
    let bind = |cause| ServeError::Bind { setting, address, cause };
    let listener = std::net::TcpListener::bind(address).map_err(bind)?;
    listener.set_nonblocking(true).map_err(bind)?;
    let bound = listener.local_addr().map_err(bind)?;
    let handle = Handle::new();
    let service: IntoMakeServiceWithConnectInfo<Router, SocketAddr> =
        router.into_make_service_with_connect_info();
    if let Some(files) = tls {
        let certificate = |cause| ServeError::Certificate { setting, cause };
        let config = RustlsConfig::from_pem_file(&files.cert_file, &files.key_file)
            .await
            .map_err(certificate)?;
        tasks.spawn(keep_certificate(config.clone(), files.clone(), stop.clone()));
        let mut server =
            axum_server::from_tcp_rustls(listener, config).map_err(bind)?.handle(handle.clone());
        limit(server.http_builder());
        tasks.spawn(async move {
            if let Err(error) = server.serve(service).await {
                tracing::error!(setting, %error, "the port is no longer served");
            }
        });
    } else {
        let mut server = axum_server::from_tcp(listener).map_err(bind)?.handle(handle.clone());
        limit(server.http_builder());
        tasks.spawn(async move {
            if let Err(error) = server.serve(service).await {
                tracing::error!(setting, %error, "the port is no longer served");
            }
        });
    }
    let stop = stop.clone();
    tasks.spawn(async move {
        stop.cancelled().await;
        handle.graceful_shutdown(Some(GRACE));
    });
    Ok(bound)
}

/// Bounds what a slow client can hold on to. Without a choice of protocols there is no moment before
/// the first byte that no timeout covers.
fn limit(builder: &mut Builder<TokioExecutor>) {
    *builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .max_buf_size(64 * 1024);
}

/// Takes over a renewed certificate without a restart.
async fn keep_certificate(config: RustlsConfig, files: TlsFiles, stop: CancellationToken) {
    let mut watched = crate::files::Watched::new(files.cert_file.clone());
    let _ = watched.changed();
    while stop.run_until_cancelled(tokio::time::sleep(CERTIFICATE_LOOK)).await.is_some() {
        if let Ok(true) = watched.changed()
            && let Err(error) = config.reload_from_pem_file(&files.cert_file, &files.key_file).await
        {
            tracing::warn!(%error, "the last good certificate stays in use");
        }
    }
}
