//! A way between a client and its server that can be cut, or fall silent.

use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They arrive.
    Open,
    /// They wait, and connections stay as they are: a network that lost its route.
    Silent,
    /// Connections are closed, also new ones.
    Cut,
}

/// A TCP proxy on loopback, gone when dropped.
pub struct Proxy {
    address: SocketAddr,
    way: Arc<watch::Sender<Way>>,
    _stop: DropGuard,
}

impl Proxy {
    /// Starts one before `server`.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let way = Arc::new(watch::Sender::new(Way::Open));
        let stop = CancellationToken::new();
        let (shared, stopped) = (Arc::clone(&way), stop.clone());
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            stopped
                .run_until_cancelled(async {
                    loop {
                        if let Ok((client, _)) = listener.accept().await {
                            connections.spawn(carry(client, server, shared.subscribe()));
                        }
                    }
                })
                .await;
        });
        Self { address, way, _stop: stop.drop_guard() }
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what becomes of the bytes.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn carry(client: TcpStream, server: SocketAddr, mut way: watch::Receiver<Way>) {
    let passing = way.clone();
    let both = async {
        let Ok(server) = TcpStream::connect(server).await else {
            return;
        };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::join!(
            pump(from_client, to_server, passing.clone()),
            pump(from_server, to_client, passing)
        );
    };
    tokio::select! {
        () = both => {}
        _ = way.wait_for(|way| *way == Way::Cut) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut part = vec![0; 16 * 1024];
    while let Ok(read) = from.read(&mut part).await {
        if read == 0 || way.wait_for(|way| *way == Way::Open).await.is_err() {
            return;
        }
        if to.write_all(&part[..read]).await.is_err() {
            return;
        }
    }
}
