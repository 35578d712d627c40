use crate::codec::{Property, PublishHeader, QoS, Version, publish};
use crate::record::Message;
use bytes::Bytes;

/// One message on its way to any number of clients: what they get alike is written once.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    message: Message<'a>,
    raw: &'a [u8],
    kept: Option<Bytes>,
    /// The packet, for each version, quality of service and retain flag.
    frames: [Option<Frame>; 12],
}

#[derive(Debug)]
struct Frame {
    bytes: Vec<u8>,
    /// Where the packet id stands; 0 without one.
    id_at: usize,
}

impl<'a> Outgoing<'a> {
    /// A message in a buffer with others. What has to wait gets a copy, so that it does not keep the
    /// others.
    pub(crate) fn new(message: Message<'a>, raw: &'a [u8]) -> Self {
        Self { message, raw, kept: None, frames: [const { None }; 12] }
    }

    /// A message in a buffer of its own.
    pub(crate) fn of_record(message: Message<'a>, record: &'a Bytes) -> Self {
        Self { kept: Some(record.clone()), ..Self::new(message, record) }
    }

    pub(crate) fn message(&self) -> Message<'a> {
        self.message
    }

    pub(crate) fn record_len(&self) -> usize {
        self.raw.len()
    }

    /// The message in a buffer of its own.
    pub(crate) fn record(&mut self) -> Bytes {
        self.kept.get_or_insert_with(|| Bytes::copy_from_slice(self.raw)).clone()
    }

    /// Writes the packet, with a topic that lacks its first `mount` bytes.
    pub(crate) fn append(
        &mut self,
        out: &mut Vec<u8>,
        version: Version,
        qos: u8,
        retain: bool,
        packet_id: u16,
        mount: usize,
    ) {
        let first = if version == Version::V5 { 6 } else { 0 };
        let index = first + usize::from(qos.min(2)) * 2 + usize::from(retain);
        let Some(slot) = self.frames.get_mut(index) else { return };
        let message = self.message;
        let frame =
            slot.get_or_insert_with(|| Frame::new(&message, version, qos.min(2), retain, mount));
        let start = out.len();
        out.extend_from_slice(&frame.bytes);
        if frame.id_at > 0
            && let Some(id) = out.get_mut(start + frame.id_at..start + frame.id_at + 2)
        {
            id.copy_from_slice(&packet_id.to_be_bytes());
        }
    }
}

impl Frame {
    fn new(message: &Message<'_>, version: Version, qos: u8, retain: bool, mount: usize) -> Self {
        let topic = message.topic.get(mount..).unwrap_or_default();
        let expiry = message.deadline.map(|deadline| Property::MessageExpiry(deadline.remaining()));
        let header = PublishHeader {
            dup: false,
            qos: QoS::from_bits(qos).unwrap_or(QoS::AtMostOnce),
            retain,
            topic,
            packet_id: 0,
        };
        let mut bytes = Vec::new();
        publish(
            &mut bytes,
            version,
            header,
            message.properties,
            expiry.as_slice(),
            message.payload,
        );
        // One byte of type, the length, and the topic stand before it (MQTT 5 §3.3.2).
        let length_bytes = bytes.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count() + 1;
        let id_at = if qos > 0 { 1 + length_bytes + 2 + topic.len() } else { 0 };
        Self { bytes, id_at }
    }
}

#[cfg(test)]
mod tests {
    use super::Outgoing;
    use crate::codec::{Frame, QoS, ServerPacket, Version};
    use crate::record::Message;

    #[test]
    fn every_client_gets_its_own_packet_id() {
        let payload = vec![b'x'; 200];
        let message = Message {
            topic: "acme/a/b",
            properties: &[],
            payload: &payload,
            qos: QoS::AtLeastOnce,
            retain: false,
            packet_id: 3,
            deadline: None,
        };
        let record = message.to_bytes();
        let mut outgoing = Outgoing::new(message, &record);
        for (version, id) in [(Version::V311, 7), (Version::V5, 300), (Version::V5, 301)] {
            let mut out = vec![0xff];
            outgoing.append(&mut out, version, 1, true, id, 5);
            let frame = Frame::find(&out[1..], 1024).unwrap().unwrap();
            let ServerPacket::Publish(read) = ServerPacket::decode(&frame, version).unwrap() else {
                panic!("another packet");
            };
            assert_eq!((read.topic, read.packet_id, read.retain), ("a/b", id, true));
            assert_eq!(read.payload, payload);
        }
    }
}
