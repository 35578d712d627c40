//! What is written, in bytes. All numbers are big endian.

use bytes::Bytes;
use std::sync::Arc;

/// Whose session it is, and how long it lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The tenant; empty for services.
    pub(crate) tenant: Box<str>,
    /// The device; empty without one.
    pub(crate) device: Box<str>,
    /// The client id.
    pub(crate) client_id: Box<str>,
    /// Seconds for which it outlives its connection.
    pub(crate) expiry: u32,
    /// When it ends, in seconds since 1970; 0 while it is connected.
    pub(crate) ends: u32,
}

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It waits, or was sent at QoS 1 and is sent again.
    Waiting,
    /// It was sent at QoS 2 under this packet id.
    Published(u16),
    /// It was released, under this packet id.
    Released(u16),
}

/// A message for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredMessage {
    pub(crate) stage: Stage,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) ids: Box<[u32]>,
    pub(crate) group: Option<Arc<str>>,
    /// The message, as a [`record`](crate::record); empty once it is released.
    pub(crate) record: Bytes,
}

impl Meta {
    pub(super) fn to_bytes(&self) -> Bytes {
        let mut out = Vec::new();
        for text in [&self.tenant, &self.device, &self.client_id] {
            put_text(&mut out, text);
        }
        out.extend_from_slice(&self.expiry.to_be_bytes());
        out.extend_from_slice(&self.ends.to_be_bytes());
        out.into()
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (tenant, rest) = text(bytes)?;
        let (device, rest) = text(rest)?;
        let (client_id, rest) = text(rest)?;
        let (expiry, rest) = rest.split_first_chunk()?;
        let (ends, _) = rest.split_first_chunk()?;
        Some(Self {
            tenant: tenant.into(),
            device: device.into(),
            client_id: client_id.into(),
            expiry: u32::from_be_bytes(*expiry),
            ends: u32::from_be_bytes(*ends),
        })
    }
}

impl StoredMessage {
    pub(super) fn to_bytes(&self) -> Bytes {
        let (stage, packet_id) = match self.stage {
            Stage::Waiting => (0, 0),
            Stage::Published(id) => (1, id),
            Stage::Released(id) => (2, id),
        };
        let ids = self.ids.get(..255).unwrap_or(&self.ids);
        let mut out = Vec::with_capacity(self.record.len() + 32);
        out.extend_from_slice(&[stage, self.qos, u8::from(self.retain)]);
        out.extend_from_slice(&packet_id.to_be_bytes());
        out.push(u8::try_from(ids.len()).unwrap_or(u8::MAX));
        ids.iter().for_each(|id| out.extend_from_slice(&id.to_be_bytes()));
        put_text(&mut out, self.group.as_deref().unwrap_or_default());
        out.extend_from_slice(&self.record);
        out.into()
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let ([stage, qos, retain], rest) = bytes.split_first_chunk::<3>()?;
        let (packet_id, rest) = rest.split_first_chunk::<2>()?;
        let packet_id = u16::from_be_bytes(*packet_id);
        let (count, rest) = rest.split_first()?;
        let (ids, rest) = rest.split_at_checked(usize::from(*count) * 4)?;
        let (group, record) = text(rest)?;
        Some(Self {
            stage: match stage {
                0 => Stage::Waiting,
                1 => Stage::Published(packet_id),
                2 => Stage::Released(packet_id),
                _ => return None,
            },
            qos: *qos,
            retain: *retain != 0,
            ids: ids
                .chunks_exact(4)
                .filter_map(|id| Some(u32::from_be_bytes(id.try_into().ok()?)))
                .collect(),
            group: (!group.is_empty()).then(|| group.into()),
            record: Bytes::copy_from_slice(record),
        })
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // No name here is longer than MQTT's 65,535 bytes.
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::{Meta, Stage, StoredMessage};

    #[test]
    fn what_is_written_reads_back() {
        let meta = Meta {
            tenant: "acme".into(),
            client_id: "é".into(),
            expiry: u32::MAX,
            ends: 7,
            ..Meta::default()
        };
        assert_eq!(Meta::read(&meta.to_bytes()), Some(meta));
        for stage in [Stage::Waiting, Stage::Published(7), Stage::Released(u16::MAX)] {
            let message = StoredMessage {
                stage,
                qos: 2,
                retain: true,
                ids: [1, 268_435_455].into(),
                group: Some("g".into()),
                record: vec![1, 2, 3].into(),
            };
            let bytes = message.to_bytes();
            assert_eq!(StoredMessage::read(&bytes), Some(message));
            assert!((0..bytes.len() - 3).all(|end| StoredMessage::read(&bytes[..end]).is_none()));
        }
    }
}
