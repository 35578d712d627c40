//! The properties of a packet: checked once, kept as they came (§2.2.2).

mod table;
#[cfg(test)]
mod tests;
mod wire;

pub use table::{Property, PropertyId};

use super::read::Reader;
use super::{DecodeError, write};
use std::fmt;

/// Kinds of packets by the properties they may carry. Where a client and a server may not say the
/// same, there is one for each.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope(u16);

impl Scope {
    pub(super) const CONNECT: Self = Self(1);
    pub(super) const WILL: Self = Self(1 << 1);
    pub(super) const CONNACK: Self = Self(1 << 2);
    pub(super) const CLIENT_PUBLISH: Self = Self(1 << 3);
    pub(super) const SERVER_PUBLISH: Self = Self(1 << 4);
    /// Every acknowledgement of a PUBLISH, SUBSCRIBE or UNSUBSCRIBE.
    pub(super) const ACK: Self = Self(1 << 5);
    pub(super) const SUBSCRIBE: Self = Self(1 << 6);
    pub(super) const UNSUBSCRIBE: Self = Self(1 << 7);
    pub(super) const CLIENT_DISCONNECT: Self = Self(1 << 8);
    pub(super) const SERVER_DISCONNECT: Self = Self(1 << 9);
    pub(super) const AUTH: Self = Self(1 << 10);

    const ALL: Self = Self(u16::MAX);
    const MESSAGE: Self = Self::CLIENT_PUBLISH.or(Self::SERVER_PUBLISH).or(Self::WILL);
    const AUTHENTICATION: Self = Self::CONNECT.or(Self::CONNACK).or(Self::AUTH);
    const ANSWER: Self = Self::CONNACK
        .or(Self::ACK)
        .or(Self::CLIENT_DISCONNECT)
        .or(Self::SERVER_DISCONNECT)
        .or(Self::AUTH);

    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn includes(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// The properties of one packet, checked and in their order. Empty in 3.1.1.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Properties<'a>(
    // INVARIANT: whole properties, each readable; every way in checks or writes them.
    &'a [u8],
);

impl<'a> Properties<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, scope: Scope) -> Result<Self, DecodeError> {
        let len = reader.variable()?;
        let raw = reader.take(len as usize)?;
        if !raw.is_empty() {
            check(raw, scope)?;
        }
        Ok(Self(raw))
    }

    /// Those of a record, which were checked when they came.
    pub(crate) const fn of_record(raw: &'a [u8]) -> Self {
        Self(raw)
    }

    /// The properties as they came, without the length before them.
    pub const fn raw(self) -> &'a [u8] {
        self.0
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in their order.
    pub fn iter(self) -> impl Iterator<Item = Property<'a>> + Clone + use<'a> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || {
            PropertyId::from_byte(reader.byte().ok()?)?.read(&mut reader).ok()
        })
    }

    /// All of them, in their order, as bytes with the identifier first. What is kept of them in this
    /// way and put together again are properties as well.
    pub fn raw_items(self) -> impl Iterator<Item = (PropertyId, &'a [u8])> + Clone + use<'a> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || {
            let from = reader.rest();
            let id = PropertyId::from_byte(reader.byte().ok()?)?;
            id.skip(&mut reader).ok()?;
            Some((id, from.get(..from.len() - reader.rest().len())?))
        })
    }

    /// The names and values of the user properties, in their order (§3.3.2.3.7).
    pub fn user_properties(self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        self.each(PropertyId::UserProperty).filter_map(|property| match property {
            Property::UserProperty(name, value) => Some((name, value)),
            _ => None,
        })
    }

    /// The numbers of the subscriptions that a message comes from (§3.3.2.3.8).
    pub fn subscription_identifiers(self) -> impl Iterator<Item = u32> + Clone + use<'a> {
        self.each(PropertyId::SubscriptionIdentifier).filter_map(|property| match property {
            Property::SubscriptionIdentifier(identifier) => Some(identifier),
            _ => None,
        })
    }

    fn each(self, wanted: PropertyId) -> impl Iterator<Item = Property<'a>> + Clone + use<'a> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || {
            loop {
                let id = PropertyId::from_byte(reader.byte().ok()?)?;
                if id == wanted {
                    return id.read(&mut reader).ok();
                }
                id.skip(&mut reader).ok()?;
            }
        })
    }

    fn first(self, wanted: PropertyId) -> Option<Property<'a>> {
        self.each(wanted).next()
    }
}

impl fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

fn check(raw: &[u8], scope: Scope) -> Result<(), DecodeError> {
    let mut reader = Reader::new(raw);
    let mut seen = 0_u64;
    while !reader.is_empty() {
        let id = PropertyId::from_byte(reader.byte()?)
            .ok_or(DecodeError::Malformed("a property has an unknown identifier"))?;
        if !id.scope().includes(scope) {
            return Err(misplaced(id, scope));
        }
        let bit = 1 << id as u8;
        if seen & bit != 0 && !repeats(id, scope) {
            return Err(DecodeError::Protocol("a property is there twice"));
        }
        seen |= bit;
        id.read(&mut reader)?.check()?;
    }
    let has = |id: PropertyId| seen & (1 << id as u8) != 0;
    if has(PropertyId::AuthenticationData) && !has(PropertyId::AuthenticationMethod) {
        return Err(DecodeError::Protocol("authentication data comes without its method"));
    }
    Ok(())
}

fn repeats(id: PropertyId, scope: Scope) -> bool {
    id == PropertyId::UserProperty
        || (id == PropertyId::SubscriptionIdentifier && scope == Scope::SERVER_PUBLISH)
}

/// A property that the packet never carries is malformed (§2.2.2.2); one that only the other side
/// may set is a protocol error (§3.3.4, §3.14.2.2.2).
fn misplaced(id: PropertyId, scope: Scope) -> DecodeError {
    let other_side = match scope {
        Scope::CLIENT_PUBLISH => Scope::SERVER_PUBLISH,
        Scope::CLIENT_DISCONNECT => Scope::SERVER_DISCONNECT,
        Scope::SERVER_DISCONNECT => Scope::CLIENT_DISCONNECT,
        other => other,
    };
    if id.scope().includes(other_side) {
        DecodeError::Protocol("a property is sent by the wrong side")
    } else {
        DecodeError::Malformed("a property does not belong into this packet")
    }
}

/// Properties of one's own, for a packet that takes them raw.
///
/// Nothing is checked against a packet's kind. A property that no packet can hold is left out: a
/// text or data over 65,535 bytes, a text with U+0000, a number over 268,435,455 as a subscription
/// identifier, QoS 2 as the maximum.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PropertiesBuf(Vec<u8>);

impl PropertiesBuf {
    /// None yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one at the end.
    pub fn push(&mut self, property: Property<'_>) {
        if property.fits() {
            property.write(&mut self.0);
        }
    }

    /// All of them.
    pub fn as_properties(&self) -> Properties<'_> {
        Properties(&self.0)
    }
}

impl<'a> FromIterator<Property<'a>> for PropertiesBuf {
    fn from_iter<T: IntoIterator<Item = Property<'a>>>(properties: T) -> Self {
        let mut all = Self::new();
        for property in properties {
            all.push(property);
        }
        all
    }
}

impl fmt::Debug for PropertiesBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_properties().fmt(f)
    }
}

/// Bytes that `properties` take, without a length before them.
pub(super) fn items_len(properties: &[Property<'_>]) -> usize {
    properties.iter().filter(|p| p.fits()).map(Property::len).sum()
}

/// Writes what [`items_len`] counts.
pub(super) fn write_items(out: &mut Vec<u8>, properties: &[Property<'_>]) {
    for property in properties.iter().filter(|p| p.fits()) {
        property.write(out);
    }
}

/// Bytes that a list of properties of `items` bytes takes with the length before it.
pub(super) fn block_len(items: usize) -> usize {
    write::variable_len(items) + items
}
