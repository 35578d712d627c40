//! Every property of the specification, with its form and the packets that may carry it (§2.2.2.2).

use super::wire::{Bit, Data, Flag, Four, Quality, Text, Two, Variable, Wire};
use super::{Properties, Scope};
use crate::codec::read::Reader;
use crate::codec::{DecodeError, QoS, topic};
use std::fmt;

/// The rows of the table. A user property, being a pair and repeatable, is spelled out.
macro_rules! properties {
    ($(
        $(#[$doc:meta])*
        $name:ident($value:ty) = $id:literal, $wire:ident, $getter:ident, $scope:expr;
    )*) => {
        /// What a property is about (§2.2.2.2).
        #[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum PropertyId {
            $($(#[$doc])* $name = $id,)*
            /// A name and a value that the users of the protocol give a meaning to.
            UserProperty = 0x26,
        }

        /// A property with its value (§2.2.2).
        #[derive(Copy, Clone, PartialEq, Eq, Hash)]
        pub enum Property<'a> {
            $($(#[$doc])* $name($value),)*
            /// A name and a value that the users of the protocol give a meaning to.
            UserProperty(&'a str, &'a str),
        }

        impl PropertyId {
            /// The property of an identifier's byte. Every identifier has one byte.
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($id => Some(Self::$name),)*
                    0x26 => Some(Self::UserProperty),
                    _ => None,
                }
            }

            pub(super) const fn scope(self) -> Scope {
                match self {
                    $(Self::$name => $scope,)*
                    Self::UserProperty => Scope::ALL,
                }
            }

            pub(super) fn skip(self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
                match self {
                    $(Self::$name => $wire::skip(reader),)*
                    Self::UserProperty => {
                        Text::skip(reader)?;
                        Text::skip(reader)
                    }
                }
            }

            pub(super) fn read<'a>(
                self,
                reader: &mut Reader<'a>,
            ) -> Result<Property<'a>, DecodeError> {
                Ok(match self {
                    $(Self::$name => Property::$name($wire::read(reader)?),)*
                    Self::UserProperty => {
                        Property::UserProperty(Text::read(reader)?, Text::read(reader)?)
                    }
                })
            }
        }

        impl<'a> Property<'a> {
            /// What the property is about.
            pub const fn id(&self) -> PropertyId {
                match self {
                    $(Self::$name(_) => PropertyId::$name,)*
                    Self::UserProperty(..) => PropertyId::UserProperty,
                }
            }

            /// Bytes that the property takes, its identifier included.
            pub(super) fn len(&self) -> usize {
                1 + match *self {
                    $(Self::$name(value) => $wire::len(value),)*
                    Self::UserProperty(name, value) => Text::len(name) + Text::len(value),
                }
            }

            pub(super) fn fits(&self) -> bool {
                match *self {
                    $(Self::$name(value) => $wire::fits(value),)*
                    Self::UserProperty(name, value) => Text::fits(name) && Text::fits(value),
                }
            }

            pub(super) fn write(&self, out: &mut Vec<u8>) {
                out.push(self.id() as u8);
                match *self {
                    $(Self::$name(value) => $wire::write(out, value),)*
                    Self::UserProperty(name, value) => {
                        Text::write(out, name);
                        Text::write(out, value);
                    }
                }
            }
        }

        impl fmt::Debug for Property<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.id() == PropertyId::AuthenticationData {
                    return f.write_str("AuthenticationData(..)");
                }
                match self {
                    $(Self::$name(value) => {
                        f.debug_tuple(stringify!($name)).field(value).finish()
                    })*
                    Self::UserProperty(name, value) => {
                        f.debug_tuple("UserProperty").field(name).field(value).finish()
                    }
                }
            }
        }

        /// The values of properties, the first one where there are several. Each looks through the
        /// properties from their beginning.
        impl<'a> Properties<'a> {
            $($(#[$doc])*
            pub fn $getter(self) -> Option<$value> {
                match self.first(PropertyId::$name)? {
                    Property::$name(value) => Some(value),
                    _ => None,
                }
            })*
        }
    };
}

properties! {
    /// Whether the payload is UTF-8 text: 0 or 1 (§3.3.2.3.2).
    PayloadFormat(u8) = 0x01, Bit, payload_format, Scope::MESSAGE;
    /// Seconds until the message is of no use any more (§3.3.2.3.3).
    MessageExpiry(u32) = 0x02, Four, message_expiry, Scope::MESSAGE;
    /// What the payload is (§3.3.2.3.9).
    ContentType(&'a str) = 0x03, Text, content_type, Scope::MESSAGE;
    /// Where a response goes: a topic name (§3.3.2.3.5).
    ResponseTopic(&'a str) = 0x08, Text, response_topic, Scope::MESSAGE;
    /// What tells the requester which request a response is for (§3.3.2.3.6).
    CorrelationData(&'a [u8]) = 0x09, Data, correlation_data, Scope::MESSAGE;
    /// The number of a subscription, 1 to 268,435,455 (§3.3.2.3.8, §3.8.2.1.2).
    SubscriptionIdentifier(u32) = 0x0B, Variable, subscription_identifier,
        Scope::SERVER_PUBLISH.or(Scope::SUBSCRIBE);
    /// Seconds that the session outlives the connection; `u32::MAX`: it does not end (§3.1.2.11.2).
    SessionExpiry(u32) = 0x11, Four, session_expiry,
        Scope::CONNECT.or(Scope::CONNACK).or(Scope::CLIENT_DISCONNECT);
    /// The client identifier that the server has chosen (§3.2.2.3.7).
    AssignedClientId(&'a str) = 0x12, Text, assigned_client_id, Scope::CONNACK;
    /// Seconds of keep-alive that the server wants instead of the client's (§3.2.2.3.14).
    ServerKeepAlive(u16) = 0x13, Two, server_keep_alive, Scope::CONNACK;
    /// The name of an authentication method (§3.1.2.11.9).
    AuthenticationMethod(&'a str) = 0x15, Text, authentication_method, Scope::AUTHENTICATION;
    /// What the authentication method exchanges (§3.1.2.11.10).
    AuthenticationData(&'a [u8]) = 0x16, Data, authentication_data, Scope::AUTHENTICATION;
    /// Whether reason strings and user properties are wanted with failures (§3.1.2.11.7).
    RequestProblemInformation(bool) = 0x17, Flag, request_problem_information, Scope::CONNECT;
    /// Seconds from the end of the connection to the will (§3.1.3.2.2).
    WillDelay(u32) = 0x18, Four, will_delay, Scope::WILL;
    /// Whether response information is wanted in the CONNACK (§3.1.2.11.6).
    RequestResponseInformation(bool) = 0x19, Flag, request_response_information, Scope::CONNECT;
    /// What the client can make response topics from (§3.2.2.3.15).
    ResponseInformation(&'a str) = 0x1A, Text, response_information, Scope::CONNACK;
    /// Another server to use (§3.2.2.3.16, §3.14.2.2.5).
    ServerReference(&'a str) = 0x1C, Text, server_reference,
        Scope::CONNACK.or(Scope::SERVER_DISCONNECT);
    /// What went wrong, for people (§3.2.2.3.9).
    ReasonString(&'a str) = 0x1F, Text, reason_string, Scope::ANSWER;
    /// QoS 1 and 2 messages that may be unacknowledged at a time, not 0 (§3.1.2.11.3).
    ReceiveMaximum(u16) = 0x21, Two, receive_maximum, Scope::CONNECT.or(Scope::CONNACK);
    /// The highest topic alias that is accepted; 0: none (§3.1.2.11.5).
    TopicAliasMaximum(u16) = 0x22, Two, topic_alias_maximum, Scope::CONNECT.or(Scope::CONNACK);
    /// A number that stands for the topic, not 0 (§3.3.2.3.4).
    TopicAlias(u16) = 0x23, Two, topic_alias, Scope::CLIENT_PUBLISH.or(Scope::SERVER_PUBLISH);
    /// The highest quality of service that the server takes, 0 or 1 (§3.2.2.3.4).
    MaximumQos(QoS) = 0x24, Quality, maximum_qos, Scope::CONNACK;
    /// Whether the server keeps retained messages (§3.2.2.3.5).
    RetainAvailable(bool) = 0x25, Flag, retain_available, Scope::CONNACK;
    /// The largest packet in bytes that is accepted, not 0 (§3.1.2.11.4).
    MaximumPacketSize(u32) = 0x27, Four, maximum_packet_size, Scope::CONNECT.or(Scope::CONNACK);
    /// Whether subscriptions may have wildcards (§3.2.2.3.11).
    WildcardSubscriptionAvailable(bool) = 0x28, Flag, wildcard_subscription_available,
        Scope::CONNACK;
    /// Whether subscriptions may have identifiers (§3.2.2.3.12).
    SubscriptionIdentifiersAvailable(bool) = 0x29, Flag, subscription_identifiers_available,
        Scope::CONNACK;
    /// Whether subscriptions may be shared (§3.2.2.3.13).
    SharedSubscriptionAvailable(bool) = 0x2A, Flag, shared_subscription_available,
        Scope::CONNACK;
}

impl Property<'_> {
    /// What the form of the value does not say.
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::TopicAlias(0) => Err(DecodeError::TopicAlias),
            Self::ReceiveMaximum(0) => Err(DecodeError::Protocol("a receive maximum is not 0")),
            Self::MaximumPacketSize(0) => {
                Err(DecodeError::Protocol("a maximum packet size is not 0"))
            }
            Self::SubscriptionIdentifier(0) => {
                Err(DecodeError::Protocol("a subscription identifier is not 0"))
            }
            Self::ResponseTopic(text) if !topic::is_topic_name(text) => {
                Err(DecodeError::Protocol("a response topic is a topic name"))
            }
            _ => Ok(()),
        }
    }
}
