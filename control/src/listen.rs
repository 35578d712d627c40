//! Accepting connections: what the listeners of all backends have in common.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Pause after a connection could not be accepted, mostly for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// A listening socket. One of all IPv6 addresses, `[::]`, takes IPv4 too, whatever the system's default is
/// (RFC 3493 §5.3).
///
/// # Errors
/// What the system says. It needs a tokio runtime.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Gives each connection to `admit`, for ever. `listener` is what a log calls it.
pub async fn accept(
    socket: TcpListener,
    listener: impl Display,
    mut admit: impl FnMut(TcpStream, IpAddr),
) {
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => admit(stream, peer.ip()),
            Err(error) => {
                tracing::warn!(%listener, %error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Connections of all listeners of a backend, whoever they are of.
#[derive(Debug)]
pub struct Connections {
    max: usize,
    open: AtomicUsize,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Connected(Arc<Connections>);

impl Connections {
    /// At most so many at a time.
    pub fn new(max: usize) -> Self {
        Self { max, open: AtomicUsize::new(0) }
    }

    /// One more, if there are not too many.
    pub fn enter(self: &Arc<Self>) -> Option<Connected> {
        let more = |n: usize| (n < self.max).then_some(n + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Connected(Arc::clone(self)))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Connections, bind};
    use std::sync::Arc;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn all_of_ipv6_is_all_of_ipv4_too() {
        let socket = bind("[::]:0".parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (_, peer) = socket.accept().await.unwrap();
        assert!(peer.ip().to_canonical().is_ipv4());
    }

    #[test]
    fn connections_are_counted_until_they_are_dropped() {
        let all = Arc::new(Connections::new(2));
        let (one, other) = (all.enter().unwrap(), all.enter().unwrap());
        assert!(all.enter().is_none());
        drop(one);
        assert_eq!(all.count(), 1);
        assert!(all.enter().is_some());
        drop(other);
        assert_eq!(all.count(), 0);
    }
}
