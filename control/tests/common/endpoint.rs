//! An HTTP endpoint that answers as badly as a test wants.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How requests are answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// With a status, a header line or none, and a body, after a while.
    Reply { status: u16, header: String, body: String, delay: Duration },
    /// Not at all, while the connection stays open.
    Silence,
    /// With a good head and a body that never ends.
    Endless,
    /// The connection is closed.
    Close,
}

impl Answer {
    /// 200 with this body.
    pub fn ok(body: impl Into<String>) -> Self {
        Self::status(200, body)
    }

    /// Another status.
    pub fn status(status: u16, body: impl Into<String>) -> Self {
        Self::Reply { status, header: String::new(), body: body.into(), delay: Duration::ZERO }
    }

    /// A redirect.
    pub fn redirect(location: &str) -> Self {
        Self::Reply {
            status: 302,
            header: format!("Location: {location}\r\n"),
            body: String::new(),
            delay: Duration::ZERO,
        }
    }

    /// The same after a while.
    pub fn after(mut self, wait: Duration) -> Self {
        if let Self::Reply { delay, .. } = &mut self {
            *delay = wait;
        }
        self
    }
}

/// An HTTP server on loopback, gone when dropped.
pub struct Endpoint {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

struct Shared {
    answer: Mutex<Answer>,
    hits: Mutex<Vec<Instant>>,
    /// Connections that clients have left while an endless answer was under way.
    abandoned: watch::Sender<u64>,
}

impl Endpoint {
    /// Starts it on a port that no outgoing connection takes, so that it can come back there.
    pub async fn start(answer: Answer) -> Self {
        let shared = Arc::new(Shared {
            answer: Mutex::new(answer),
            hits: Mutex::default(),
            abandoned: watch::Sender::new(0),
        });
        let listener = loop {
            let port = bulkhead_devkit::free_port().unwrap();
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
                break listener;
            }
        };
        let mut endpoint = Self {
            address: listener.local_addr().unwrap(),
            shared,
            stop: CancellationToken::new(),
        };
        endpoint.serve(listener);
        endpoint
    }

    fn serve(&mut self, listener: TcpListener) {
        self.stop = CancellationToken::new();
        let (shared, stop) = (Arc::clone(&self.shared), self.stop.clone());
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            stop.run_until_cancelled(async {
                loop {
                    if let Ok((stream, _)) = listener.accept().await {
                        let shared = Arc::clone(&shared);
                        connections.spawn(async move { shared.answer(stream).await });
                    }
                }
            })
            .await;
        });
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the answer.
    pub fn set(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap() = answer;
    }

    /// How many requests there were.
    pub fn hits(&self) -> usize {
        self.shared.hits.lock().unwrap().len()
    }

    /// When they came.
    pub fn times(&self) -> Vec<Instant> {
        self.shared.hits.lock().unwrap().clone()
    }

    /// Waits until a client has left an endless answer.
    pub async fn abandoned(&self) {
        let mut count = self.shared.abandoned.subscribe();
        count.wait_for(|count| *count > 0).await.unwrap();
    }

    /// Refuses connections from now on, and drops those that there are.
    pub async fn go_down(&self) {
        self.stop.cancel();
        super::until("the port is closed", async || {
            TcpStream::connect(self.address).await.is_err().then_some(())
        })
        .await;
    }

    /// Accepts connections again, on the same port.
    pub async fn come_back(&mut self) {
        let address = self.address;
        let listener =
            super::until("the port is free", async || TcpListener::bind(address).await.ok()).await;
        self.serve(listener);
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    async fn answer(&self, mut stream: TcpStream) {
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut part = [0; 1024];
            match stream.read(&mut part).await {
                Ok(read) if read > 0 => head.extend_from_slice(&part[..read]),
                // A look at whether the port is open is no request.
                _ => return,
            }
        }
        self.hits.lock().unwrap().push(Instant::now());
        let answer = self.answer.lock().unwrap().clone();
        match answer {
            Answer::Close => {}
            Answer::Silence => {
                let _ = stream.read(&mut [0]).await;
            }
            Answer::Endless => {
                let mut piece = b"HTTP/1.1 200 OK\r\n\r\n{\"keys\":[".to_vec();
                while stream.write_all(&piece).await.is_ok() {
                    piece = vec![b' '; 16 * 1024];
                }
                self.abandoned.send_modify(|count| *count += 1);
            }
            Answer::Reply { status, header, body, delay } => {
                tokio::time::sleep(delay).await;
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{header}\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body).as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    }
}
