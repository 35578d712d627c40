//! The least of an MQTT 3.1.1 client, so that what is measured is the broker and not a client library.

use bulkhead_mqtt_broker::codec::{
    self, Connect, Frame, Properties, PublishHeader, QoS, SubscriptionOptions, Version,
};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Largest packet that anybody sends here.
pub const MAX_PACKET: usize = 64 * 1024;

/// How long a broker may take to say or to take anything.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Seconds, longer than any case takes, so that nobody has to say that it is there.
const KEEP_ALIVE: u16 = 3_600;

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The broker said no, with this return code.
    Refused(u8),
    /// The network.
    Io(io::Error),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// CONNECT, with a user and a password if there are any.
pub fn hello(client: &str, proof: Option<(&str, &str)>) -> Vec<u8> {
    let mut out = Vec::new();
    let connect = Connect {
        version: Version::V311,
        clean_start: true,
        keep_alive: KEEP_ALIVE,
        client_id: client,
        properties: Properties::default(),
        will: None,
        user_name: proof.map(|(user, _)| user),
        password: proof.map(|(_, password)| password.as_bytes()),
    };
    codec::connect(&mut out, &connect);
    out
}

/// PUBLISH.
pub fn publish(topic: &str, qos: QoS, packet_id: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let header = PublishHeader { dup: false, qos, retain: false, topic, packet_id };
    codec::publish(&mut out, Version::V311, header, &[], &[], payload);
    out
}

/// Connects and waits until the broker has admitted the client.
///
/// # Errors
/// [`ConnectError`].
pub fn connect(address: SocketAddr, hello: &[u8]) -> Result<TcpStream, ConnectError> {
    connect_from(Ipv4Addr::LOCALHOST, address, hello)
}

/// The same from an address of the loopback network: each has ports of its own.
///
/// # Errors
/// [`ConnectError`].
pub fn connect_from(
    source: Ipv4Addr,
    address: SocketAddr,
    hello: &[u8],
) -> Result<TcpStream, ConnectError> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((IpAddr::V4(source), 0)).into())?;
    socket.connect(&address.into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(hello)?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    match connack {
        [0x20, 2, _, 0] => Ok(stream),
        [0x20, 2, _, code] => Err(ConnectError::Refused(code)),
        _ => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
    }
}

/// A connection that has to be admitted.
pub fn admitted(address: SocketAddr, hello: &[u8]) -> TcpStream {
    match connect(address, hello) {
        Ok(stream) => stream,
        Err(ConnectError::Refused(code)) => panic!("a connection was refused: {code}"),
        Err(ConnectError::Io(error)) => panic!("a connection failed: {error}"),
    }
}

/// Subscribes, which has to be granted as it is asked for.
pub fn subscribe(stream: &mut TcpStream, filter: &str, qos: QoS) {
    let mut out = Vec::new();
    codec::subscribe(
        &mut out,
        Version::V311,
        1,
        &[],
        &[(filter, SubscriptionOptions::of_qos(qos))],
    );
    stream.write_all(&out).unwrap();
    let mut suback = [0; 5];
    stream.read_exact(&mut suback).unwrap();
    assert_eq!(suback, [0x90, 3, 0, 1, qos as u8], "a subscription was refused: {filter}");
}

/// The first packet of a buffer, if all of it is there.
pub fn packet(bytes: &[u8]) -> Option<Frame<'_>> {
    Frame::find(bytes, MAX_PACKET).expect("a broker sends packets")
}
