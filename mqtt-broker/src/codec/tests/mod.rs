//! Whole packets: written and read back, refused, cut, damaged, and compared with another codec.

mod differential;
mod hostile;
mod refused;
mod round_trip;
mod samples;

use super::{DecodeError, Frame, Packet, ServerPacket, Version};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

/// The one frame that `bytes` are.
fn frame(bytes: &[u8]) -> Frame<'_> {
    let frame = Frame::find(bytes, usize::MAX).unwrap().expect("a whole frame");
    assert_eq!(frame.len, bytes.len(), "{bytes:x?}");
    frame
}

fn decode(bytes: &[u8], version: Version) -> Result<Packet<'_>, DecodeError> {
    Packet::decode(&frame(bytes), version)
}

fn decode_server(bytes: &[u8], version: Version) -> Result<ServerPacket<'_>, DecodeError> {
    ServerPacket::decode(&frame(bytes), version)
}

/// `body` behind a fixed header.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(super::write::header(&mut bytes, first, body.len()));
    bytes.extend_from_slice(body);
    bytes
}
