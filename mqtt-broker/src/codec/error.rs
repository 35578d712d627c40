//! Why bytes are no packet.

use super::ReasonCode;

/// Why bytes are no packet. Each is answered with the reason code of the same meaning, and ends the
/// connection (§4.13).
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes cannot be read as the packet they begin (§1.2, 0x81).
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// A packet or a value that is not allowed here (§1.2, 0x82).
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// More bytes than are taken at once (§3.1.2.11.4, 0x95).
    #[error("the packet is larger than what is accepted")]
    TooLarge,
    /// A protocol name other than `MQTT`, or a level other than 4 and 5 (§3.1.2.2, 0x84). Holds the
    /// level.
    #[error("protocol level {0} is not supported; connect with MQTT 3.1.1 or 5.0")]
    UnsupportedVersion(u8),
    /// A topic to publish to that is empty or holds a wildcard (§3.3.2.1, 0x90).
    #[error("a topic name is not empty and has neither '+' nor '#'")]
    TopicName,
    /// A topic alias of 0 (§3.3.2.3.4, 0x94).
    #[error("a topic alias is not 0")]
    TopicAlias,
}

impl DecodeError {
    /// The reason code to close the connection with (§3.14.2.1).
    pub const fn reason(self) -> ReasonCode {
        match self {
            Self::Malformed(_) => ReasonCode::MALFORMED_PACKET,
            Self::Protocol(_) => ReasonCode::PROTOCOL_ERROR,
            Self::TooLarge => ReasonCode::PACKET_TOO_LARGE,
            Self::UnsupportedVersion(_) => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
            Self::TopicName => ReasonCode::TOPIC_NAME_INVALID,
            Self::TopicAlias => ReasonCode::TOPIC_ALIAS_INVALID,
        }
    }
}
