//! MQTT 3.1.1 and 5.0 on the wire.
//!
//! Packets are decoded in place: everything borrows from the read buffer, and properties stay raw,
//! so that a PUBLISH goes from one connection to another without being taken apart. Every byte is
//! checked once, at decode; what is read from a decoded packet later cannot fail.
//!
//! Section numbers are those of MQTT 5.0 unless they say otherwise.

mod client;
mod connect;
mod encode;
mod error;
mod frame;
mod packet;
mod property;
mod read;
mod reason;
mod subscribe;
#[cfg(test)]
mod tests;
mod topic;
mod write;

pub use client::{ServerPacket, client_disconnect, connect, pingreq, subscribe, unsubscribe};
pub use connect::{Connect, Will};
pub use encode::{
    AckKind, MAX_FRAME, PublishHeader, ack, auth, connack, disconnect, pingresp, publish,
    publish_len, suback, unsuback, v311_return_code,
};
pub use error::DecodeError;
pub use frame::Frame;
pub use packet::{Ack, Auth, Disconnect, Packet, Publish};
pub use property::{Properties, PropertiesBuf, Property, PropertyId};
pub use reason::ReasonCode;
pub use subscribe::{RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe};
pub use topic::{TopicFilter, is_topic_name, matches};

/// The protocol that a connection speaks (§3.1.2.2).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

/// How often a message may arrive (§4.3).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// Once or never.
    #[default]
    AtMostOnce = 0,
    /// Once or more often.
    AtLeastOnce = 1,
    /// Once.
    ExactlyOnce = 2,
}

impl QoS {
    /// The quality of service of a two-bit field; `None` for 3 and everything above it.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}
