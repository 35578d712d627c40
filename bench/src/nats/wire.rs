//! The least that a NATS client has to say, so that what is measured is the server and not a client
//! library: INFO, CONNECT and PING, PONG.

use bulkhead_devkit::NatsServer;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// How long a server may take to say anything: longer than it waits for the callout.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may stay shut out that is to be admitted.
const GIVE_UP: Duration = Duration::from_secs(20);

/// Largest INFO, in bytes.
const MAX_INFO: usize = 16 * 1024;

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The server said no, in these words.
    Refused(String),
    /// The network.
    Io(io::Error),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Where a server listens.
pub fn address(server: &NatsServer) -> SocketAddr {
    server.client_url().trim_start_matches("nats://").parse().unwrap()
}

/// CONNECT as client libraries send it, with this proof of identity (`"name":"value",`), and PING.
pub fn hello(proof: &str) -> Vec<u8> {
    format!(
        "CONNECT {{{proof}\"verbose\":false,\"pedantic\":false,\"tls_required\":false,\
         \"name\":\"bench\",\"lang\":\"rust\",\"version\":\"0.1.0\",\"protocol\":1,\"echo\":true,\
         \"headers\":true,\"no_responders\":true}}\r\nPING\r\n"
    )
    .into_bytes()
}

/// Connects and waits until the server has admitted the client.
///
/// # Errors
/// [`ConnectError`].
pub fn connect(address: SocketAddr, hello: &[u8]) -> Result<TcpStream, ConnectError> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut buffer = [0; MAX_INFO];
    let mut filled = 0;
    while !buffer[..filled].ends_with(b"\r\n") {
        filled += read(&mut stream, &mut buffer[filled..])?;
    }
    stream.write_all(hello)?;
    filled = 0;
    loop {
        filled += read(&mut stream, &mut buffer[filled..])?;
        let lines = String::from_utf8_lossy(&buffer[..filled]);
        for line in lines.lines() {
            match line.split(' ').next() {
                Some("PONG") => return Ok(stream),
                Some("-ERR") => return Err(ConnectError::Refused(line.to_owned())),
                _ => {}
            }
        }
    }
}

/// Connects again and again until it is admitted.
///
/// # Panics
/// If that takes more than twenty seconds.
pub fn until_admitted(address: SocketAddr, hello: &[u8]) {
    let started = std::time::Instant::now();
    while let Err(error) = connect(address, hello) {
        assert!(matches!(error, ConnectError::Refused(_)), "a connection failed: {error:?}");
        assert!(started.elapsed() < GIVE_UP, "nobody is admitted: {error:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Holds a connection until the server ends it, and says when that was.
pub async fn held(stream: TcpStream) -> Instant {
    stream.set_nonblocking(true).unwrap();
    let mut stream = tokio::net::TcpStream::from_std(stream).unwrap();
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return Instant::now(),
            Ok(n) if buffer[..n].starts_with(b"PING") => {
                if stream.write_all(b"PONG\r\n").await.is_err() {
                    return Instant::now();
                }
            }
            Ok(_) => {}
        }
    }
}

fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<usize, ConnectError> {
    match stream.read(buffer)? {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        n => Ok(n),
    }
}
