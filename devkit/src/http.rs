use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long each step of a request may take.
const STEP: Duration = Duration::from_secs(1);

/// No answer that is asked for here comes near it.
const MAX_ANSWER: u64 = 64 * 1024;

/// The whole answer, status line included, to a GET from a server on 127.0.0.1.
pub(crate) fn get(port: u16, path: &str) -> io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, STEP)?;
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    // 1.0 makes the server close the connection, so that the answer ends where the stream does.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
