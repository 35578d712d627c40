use crate::config::TlsFiles;
use crate::tls::{ServerTls, TlsError};
use axum::Router;
use axum::extract::Request;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use hyper_util::rt::TokioTimer;
use prometheus::IntGauge;
use std::net::SocketAddr;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long open requests may take to finish when the process ends.
const GRACE: Duration = Duration::from_secs(2);

/// How long a client may take to send a request's head, the first byte included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request may take from its head to the head of the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What is spoken, by its name in ALPN.
const ALPN: &[&[u8]] = &[b"http/1.1"];

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
    #[error("{setting}.tls: {cause}")]
    Certificate {
        /// The setting that names the files.
        setting: &'static str,
        /// What is wrong.
        cause: TlsError,
    },
    /// The token that guards the port cannot be read, or is too short to guard anything.
    #[error("admin.token_file: {0}; write at least 16 random characters into it")]
    Token(std::io::Error),
}

/// Serves a router until it is told to stop. Returns the address, whose port is the real one.
pub(super) async fn serve(
    setting: &'static str,
    address: SocketAddr,
    tls: Option<(&TlsFiles, IntGauge)>,
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
        router.layer(middleware::from_fn(timely)).into_make_service_with_connect_info();
    if let Some((files, expires)) = tls {
        let certificate = |cause| ServeError::Certificate { setting, cause };
        let tls = ServerTls::open(files, None, ALPN, expires).map_err(certificate)?;
        let config = RustlsConfig::from_config(tls.config());
        tasks.spawn(keep_certificate(config.clone(), tls, stop.clone()));
        let server = limit(axum_server::from_tcp_rustls(listener, config).map_err(bind)?)
            .handle(handle.clone());
        tasks.spawn(async move {
            if let Err(error) = server.serve(service).await {
                tracing::error!(setting, %error, "the port is no longer served");
            }
        });
    } else {
        let server = limit(axum_server::from_tcp(listener).map_err(bind)?).handle(handle.clone());
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

/// Bounds how long a client may take to send a request's head; a body's time is bounded by [`timely`].
fn limit<Accept>(
    server: axum_server::Server<SocketAddr, Accept>,
) -> axum_server::Server<SocketAddr, Accept> {
    // Where the protocol is still to be found out, no timeout covers the time before the first byte.
    let mut server = server.http1_only();
    server
        .http_builder()
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(64 * 1024);
    server
}

/// Gives up a request whose body does not come, or whose answer takes longer than anyone waits.
async fn timely(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

/// Takes over a renewed certificate without a restart.
async fn keep_certificate(config: RustlsConfig, tls: ServerTls, stop: CancellationToken) {
    let mut changes = tls.changes();
    let following = async {
        while changes.changed().await.is_ok() {
            config.reload_from_config(changes.borrow_and_update().clone());
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = tls.keep_current() => {}
        () = following => {}
    }
}
