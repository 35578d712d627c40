use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Pings that are sent at a time, and how often at most: 128 MB in all.
const AT_A_TIME: usize = 500;
const TIMES: usize = 2_000;

/// Opens a WebSocket and sends pings, reading nothing more, until the server takes no more. Returns the connection, which is
/// still open.
pub fn ping_and_read_nothing(address: SocketAddr, subprotocol: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let hello = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    );
    socket.write_all(hello.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        answer.extend(byte);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "it is a WebSocket");
    // 125 bytes each, masked with nothing (RFC 6455 §5.2, §5.5.2).
    let mut ping = vec![0x89, 0x80 | 125, 0, 0, 0, 0];
    ping.extend_from_slice(&[b'x'; 125]);
    let pings = ping.repeat(AT_A_TIME);
    let mut sent = 0;
    while sent < TIMES && socket.write_all(&pings).is_ok() {
        sent += 1;
    }
    assert!(sent > 0, "the server takes pings");
    socket
}
