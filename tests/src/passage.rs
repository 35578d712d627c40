use crate::wait::eventually;
use std::net::SocketAddr;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A way to a server over TCP that can be cut and mended, for one who goes this way alone.
pub struct Passage {
    address: SocketAddr,
    is_open: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Passage {
    /// One to this address, open.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (is_open, open) = watch::channel(true);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target, open.clone()));
            }
        });
        Self { address, is_open, accepting }
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection, and each that comes.
    pub async fn cut(&self) {
        self.is_open.send_replace(false);
        // Each connection has a receiver, and the one that accepts.
        eventually("nobody goes through", || self.is_open.receiver_count() == 1).await;
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.is_open.send_replace(true);
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.accepting.abort();
        self.is_open.send_replace(false);
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr, mut open: watch::Receiver<bool>) {
    if !*open.borrow() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = open.wait_for(|is_open| !is_open) => {}
    }
}
