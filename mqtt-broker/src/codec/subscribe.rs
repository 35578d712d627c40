//! What subscribes and unsubscribes.

use super::property::Scope;
use super::read::Reader;
use super::{DecodeError, Frame, Properties, QoS, Version};

/// A SUBSCRIBE (§3.8), with one filter at least.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Not 0.
    pub packet_id: u16,
    /// Its properties.
    pub properties: Properties<'a>,
    // INVARIANT: whole pairs of a text and options, each readable.
    payload: &'a [u8],
}

/// An UNSUBSCRIBE (§3.10), with one filter at least.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Not 0.
    pub packet_id: u16,
    /// Its properties.
    pub properties: Properties<'a>,
    // INVARIANT: whole texts, each readable.
    payload: &'a [u8],
}

/// How a subscription wants its messages (§3.8.3.1). The default is a byte of 0.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubscriptionOptions {
    /// The most that messages are delivered with.
    pub qos: QoS,
    /// Not the messages of the subscribing client itself. Never in 3.1.1.
    pub no_local: bool,
    /// Forwarded messages keep the retain flag they were published with. Never in 3.1.1.
    pub retain_as_published: bool,
    /// Whether retained messages are sent; always in 3.1.1.
    pub retain_handling: RetainHandling,
}

/// Which subscriptions are answered with the retained messages (§3.8.3.1).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// Every one.
    #[default]
    Send = 0,
    /// One that did not exist before.
    SendIfNew = 1,
    /// None.
    DontSend = 2,
}

impl SubscriptionOptions {
    /// What a 3.1.1 client can ask for.
    pub const fn of_qos(qos: QoS) -> Self {
        Self {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }

    /// The options of a byte of v5; `None` with QoS 3, retain handling 3 or a reserved bit.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        let Some(qos) = QoS::from_bits(bits & 3) else { return None };
        let retain_handling = match bits >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DontSend,
            _ => return None,
        };
        Some(Self {
            qos,
            no_local: bits & 4 != 0,
            retain_as_published: bits & 8 != 0,
            retain_handling,
        })
    }

    /// The options as a byte of v5.
    pub const fn to_bits(self) -> u8 {
        self.qos as u8
            | (self.no_local as u8) << 2
            | (self.retain_as_published as u8) << 3
            | (self.retain_handling as u8) << 4
    }
}

impl<'a> Subscribe<'a> {
    pub(super) fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, DecodeError> {
        let (packet_id, properties, payload) = decode_head(frame, version, Scope::SUBSCRIBE)?;
        let mut reader = Reader::new(payload);
        while !reader.is_empty() {
            let filter = reader.text()?;
            check_options(filter, reader.byte()?, version)?;
        }
        Ok(Self { packet_id, properties, payload })
    }

    /// The filters in their order, as the client wrote them: they are texts, and each is still to be
    /// read by [`TopicFilter::parse`](super::TopicFilter::parse).
    pub fn filters(
        &self,
    ) -> impl Iterator<Item = (&'a str, SubscriptionOptions)> + Clone + use<'a> {
        let mut reader = Reader::new(self.payload);
        std::iter::from_fn(move || {
            let filter = reader.text().ok()?;
            Some((filter, SubscriptionOptions::from_bits(reader.byte().ok()?)?))
        })
    }
}

impl<'a> Unsubscribe<'a> {
    pub(super) fn decode(frame: &Frame<'a>, version: Version) -> Result<Self, DecodeError> {
        let (packet_id, properties, payload) = decode_head(frame, version, Scope::UNSUBSCRIBE)?;
        let mut reader = Reader::new(payload);
        while !reader.is_empty() {
            reader.text()?;
        }
        Ok(Self { packet_id, properties, payload })
    }

    /// The filters in their order, as the client wrote them.
    pub fn filters(&self) -> impl Iterator<Item = &'a str> + Clone + use<'a> {
        let mut reader = Reader::new(self.payload);
        std::iter::from_fn(move || reader.text().ok())
    }
}

fn decode_head<'a>(
    frame: &Frame<'a>,
    version: Version,
    scope: Scope,
) -> Result<(u16, Properties<'a>, &'a [u8]), DecodeError> {
    frame.expect_flags(2)?;
    let mut reader = Reader::new(frame.body);
    let packet_id = reader.packet_id()?;
    let properties = match version {
        Version::V311 => Properties::default(),
        Version::V5 => Properties::read(&mut reader, scope)?,
    };
    if reader.is_empty() {
        return Err(DecodeError::Protocol("a packet that names topic filters has none"));
    }
    Ok((packet_id, properties, reader.rest()))
}

fn check_options(filter: &str, bits: u8, version: Version) -> Result<(), DecodeError> {
    let reserved = match version {
        Version::V311 => !0b11,
        Version::V5 => 0b1100_0000,
    };
    if bits & reserved != 0 {
        return Err(DecodeError::Malformed("a reserved subscription option is set"));
    }
    let options = SubscriptionOptions::from_bits(bits)
        .ok_or(DecodeError::Protocol("a subscription has QoS 3 or retain handling 3"))?;
    if options.no_local && filter.starts_with("$share/") {
        return Err(DecodeError::Protocol("a shared subscription has the option no-local"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{RetainHandling, SubscriptionOptions};
    use crate::codec::QoS;

    #[test]
    fn options_are_one_byte() {
        let options = SubscriptionOptions {
            qos: QoS::ExactlyOnce,
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::DontSend,
        };
        assert_eq!(options.to_bits(), 0b10_1110);
        let known = (0..=u8::MAX)
            .filter_map(|bits| SubscriptionOptions::from_bits(bits).map(|options| (bits, options)));
        assert_eq!(known.clone().count(), 3 * 2 * 2 * 3);
        for (bits, options) in known {
            assert_eq!(options.to_bits(), bits);
        }
    }
}
