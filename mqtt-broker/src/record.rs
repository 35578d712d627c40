//! Messages on their way: validated, in one buffer, one after the other.
//!
//! ```text
//! u32 length of what follows | u8 flags | u16 packet id | u32 deadline | u16 topic length |
//! u32 properties length | topic | properties | payload
//! ```
//!
//! The form is this process's own (and its store's): never a client's bytes as they came.

use crate::clock::Deadline;
use crate::codec::QoS;
use bytes::Bytes;

/// Bytes before topic, properties and payload, the length itself included.
const HEAD: usize = 4 + 1 + 2 + 4 + 2 + 4;

const RETAIN: u8 = 0b100;

/// One message, borrowed from its record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    /// The topic, valid UTF-8.
    pub(crate) topic: &'a str,
    /// Its properties as the publisher sent them, without expiry and topic alias.
    pub(crate) properties: &'a [u8],
    /// The payload.
    pub(crate) payload: &'a [u8],
    /// As published.
    pub(crate) qos: QoS,
    /// Whether it is to be retained.
    pub(crate) retain: bool,
    /// The publisher's packet id; 0 at QoS 0.
    pub(crate) packet_id: u16,
    /// When it stops being worth anything.
    pub(crate) deadline: Option<Deadline>,
}

impl<'a> Message<'a> {
    /// Bytes of the record.
    pub(crate) fn record_len(&self) -> usize {
        HEAD + self.topic.len() + self.properties.len() + self.payload.len()
    }

    /// Writes the record. The caller has made sure that nothing is longer than MQTT allows.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let length = u32::try_from(self.record_len() - 4).unwrap_or(u32::MAX);
        let topic = u16::try_from(self.topic.len()).unwrap_or(u16::MAX);
        let properties = u32::try_from(self.properties.len()).unwrap_or(u32::MAX);
        let retain = if self.retain { RETAIN } else { 0 };
        out.reserve(self.record_len());
        out.extend_from_slice(&length.to_be_bytes());
        out.push(self.qos as u8 | retain);
        out.extend_from_slice(&self.packet_id.to_be_bytes());
        out.extend_from_slice(&self.deadline.map_or(0, Deadline::to_bits).to_be_bytes());
        out.extend_from_slice(&topic.to_be_bytes());
        out.extend_from_slice(&properties.to_be_bytes());
        out.extend_from_slice(self.topic.as_bytes());
        out.extend_from_slice(self.properties);
        out.extend_from_slice(self.payload);
    }

    /// The record by itself.
    pub(crate) fn to_bytes(self) -> Bytes {
        let mut out = Vec::with_capacity(self.record_len());
        self.write(&mut out);
        out.into()
    }

    /// Reads the first record of a buffer, and says how long it is. `None` at the end, and for what is
    /// no record.
    pub(crate) fn read(buffer: &'a [u8]) -> Option<(Self, usize)> {
        let (length, rest) = buffer.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let rest = rest.get(..length)?;
        let (flags, rest) = rest.split_first()?;
        let (packet_id, rest) = rest.split_first_chunk::<2>()?;
        let (deadline, rest) = rest.split_first_chunk::<4>()?;
        let (topic_len, rest) = rest.split_first_chunk::<2>()?;
        let (properties_len, rest) = rest.split_first_chunk::<4>()?;
        let (topic, rest) = rest.split_at_checked(u16::from_be_bytes(*topic_len).into())?;
        let properties_len = usize::try_from(u32::from_be_bytes(*properties_len)).ok()?;
        let (properties, payload) = rest.split_at_checked(properties_len)?;
        let message = Self {
            topic: std::str::from_utf8(topic).ok()?,
            properties,
            payload,
            qos: QoS::from_bits(flags & 0b11)?,
            retain: flags & RETAIN != 0,
            packet_id: u16::from_be_bytes(*packet_id),
            deadline: Deadline::from_bits(u32::from_be_bytes(*deadline)),
        };
        Some((message, length + 4))
    }
}

/// The records of a buffer, one after the other.
pub(crate) fn records(mut buffer: &[u8]) -> impl Iterator<Item = (Message<'_>, &[u8])> {
    std::iter::from_fn(move || {
        let (message, len) = Message::read(buffer)?;
        let (record, rest) = buffer.split_at_checked(len)?;
        buffer = rest;
        Some((message, record))
    })
}

#[cfg(test)]
mod tests {
    use super::{Message, records};
    use crate::clock::Deadline;
    use crate::codec::QoS;

    #[test]
    fn what_is_written_reads_back() {
        let one = Message {
            topic: "a/b",
            properties: &[1, 1],
            payload: b"x",
            qos: QoS::ExactlyOnce,
            retain: true,
            packet_id: 7,
            deadline: Some(Deadline::after(60)),
        };
        let other = Message { payload: b"", retain: false, deadline: None, ..one };
        let mut buffer = Vec::new();
        one.write(&mut buffer);
        other.write(&mut buffer);
        let read: Vec<_> = records(&buffer).map(|(message, _)| format!("{message:?}")).collect();
        assert_eq!(read, [format!("{one:?}"), format!("{other:?}")]);
        assert!((0..buffer.len()).all(|end| records(&buffer[..end]).count() < 2));
    }
}
