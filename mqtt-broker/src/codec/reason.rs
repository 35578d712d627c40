//! Reason codes, and which packet may carry which.

use std::fmt;

/// The outcome of an operation (§2.4): below 0x80 it went well. 3.1.1 has no reason codes; what it
/// can say is derived from them when a packet is written.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReasonCode(pub u8);

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        impl ReasonCode {
            $($(#[$doc])* pub const $name: Self = Self($code);)*
        }

        /// The code's name in the table of §2.4, in snake case; `reason_0x..` for a code that is
        /// not in it.
        impl fmt::Display for ReasonCode {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($code => f.pad($text),)*
                    other => write!(f, "reason_{other:#04x}"),
                }
            }
        }
    };
}

reason_codes! {
    /// It went well. In a DISCONNECT the normal end, in a SUBACK QoS 0.
    SUCCESS = 0x00, "success";
    /// SUBACK: the subscription has QoS 1.
    GRANTED_QOS_1 = 0x01, "granted_qos_1";
    /// SUBACK: the subscription has QoS 2.
    GRANTED_QOS_2 = 0x02, "granted_qos_2";
    /// The client leaves and wants its will to be sent.
    DISCONNECT_WITH_WILL = 0x04, "disconnect_with_will";
    /// The message was taken, and nobody subscribes to it.
    NO_MATCHING_SUBSCRIBERS = 0x10, "no_matching_subscribers";
    /// There was nothing to unsubscribe from.
    NO_SUBSCRIPTION_EXISTED = 0x11, "no_subscription_existed";
    /// The authentication goes on with another step.
    CONTINUE_AUTHENTICATION = 0x18, "continue_authentication";
    /// The client starts another authentication.
    REAUTHENTICATE = 0x19, "reauthenticate";
    /// No reason is given, or none of the others applies.
    UNSPECIFIED_ERROR = 0x80, "unspecified_error";
    /// A packet cannot be read.
    MALFORMED_PACKET = 0x81, "malformed_packet";
    /// A packet or a value is not allowed here.
    PROTOCOL_ERROR = 0x82, "protocol_error";
    /// Correct, and refused by this implementation.
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83, "implementation_specific_error";
    /// The server does not speak this version.
    UNSUPPORTED_PROTOCOL_VERSION = 0x84, "unsupported_protocol_version";
    /// The client identifier is not allowed.
    CLIENT_IDENTIFIER_NOT_VALID = 0x85, "client_identifier_not_valid";
    /// The credentials are not accepted.
    BAD_USER_NAME_OR_PASSWORD = 0x86, "bad_user_name_or_password";
    /// The client may not do this.
    NOT_AUTHORIZED = 0x87, "not_authorized";
    /// The server does not serve at the moment.
    SERVER_UNAVAILABLE = 0x88, "server_unavailable";
    /// The server has too much to do; try later.
    SERVER_BUSY = 0x89, "server_busy";
    /// The client is banned.
    BANNED = 0x8A, "banned";
    /// The server shuts down.
    SERVER_SHUTTING_DOWN = 0x8B, "server_shutting_down";
    /// The authentication method is not supported, or is another one than before.
    BAD_AUTHENTICATION_METHOD = 0x8C, "bad_authentication_method";
    /// Nothing came for one and a half keep-alive intervals.
    KEEP_ALIVE_TIMEOUT = 0x8D, "keep_alive_timeout";
    /// Another connection has taken the client identifier.
    SESSION_TAKEN_OVER = 0x8E, "session_taken_over";
    /// The topic filter is well-formed, and not accepted.
    TOPIC_FILTER_INVALID = 0x8F, "topic_filter_invalid";
    /// The topic name is well-formed, and not accepted.
    TOPIC_NAME_INVALID = 0x90, "topic_name_invalid";
    /// The packet identifier is already taken.
    PACKET_IDENTIFIER_IN_USE = 0x91, "packet_identifier_in_use";
    /// The packet identifier is not known.
    PACKET_IDENTIFIER_NOT_FOUND = 0x92, "packet_identifier_not_found";
    /// More messages are unacknowledged than the receive maximum allows.
    RECEIVE_MAXIMUM_EXCEEDED = 0x93, "receive_maximum_exceeded";
    /// The topic alias is 0, over the maximum or unknown.
    TOPIC_ALIAS_INVALID = 0x94, "topic_alias_invalid";
    /// The packet is over the maximum packet size.
    PACKET_TOO_LARGE = 0x95, "packet_too_large";
    /// Data comes too fast.
    MESSAGE_RATE_TOO_HIGH = 0x96, "message_rate_too_high";
    /// A limit of the implementation or of its administrator is reached.
    QUOTA_EXCEEDED = 0x97, "quota_exceeded";
    /// An administrator closed the connection.
    ADMINISTRATIVE_ACTION = 0x98, "administrative_action";
    /// The payload does not have the format that its indicator says.
    PAYLOAD_FORMAT_INVALID = 0x99, "payload_format_invalid";
    /// Retained messages are not supported.
    RETAIN_NOT_SUPPORTED = 0x9A, "retain_not_supported";
    /// The quality of service is over the server's maximum.
    QOS_NOT_SUPPORTED = 0x9B, "qos_not_supported";
    /// Another server is to be used for now.
    USE_ANOTHER_SERVER = 0x9C, "use_another_server";
    /// Another server is to be used from now on.
    SERVER_MOVED = 0x9D, "server_moved";
    /// Shared subscriptions are not supported.
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E, "shared_subscriptions_not_supported";
    /// Too many connections in a short time.
    CONNECTION_RATE_EXCEEDED = 0x9F, "connection_rate_exceeded";
    /// The connection is over the longest time that it is authorized for.
    MAXIMUM_CONNECT_TIME = 0xA0, "maximum_connect_time";
    /// Subscription identifiers are not supported.
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1, "subscription_identifiers_not_supported";
    /// Wildcards in subscriptions are not supported.
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2, "wildcard_subscriptions_not_supported";
}

impl ReasonCode {
    /// The other name of 0x00 in a SUBACK (§3.9.3).
    pub const GRANTED_QOS_0: Self = Self(0x00);
    /// The other name of 0x00 in a DISCONNECT (§3.14.2.1).
    pub const NORMAL_DISCONNECTION: Self = Self(0x00);

    /// Whether the operation failed (§2.4).
    pub const fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// §3.2.2.2.
    pub(super) const fn is_of_connack(self) -> bool {
        matches!(
            self.0,
            0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
        )
    }

    /// §3.4.2.1 and §3.5.2.1.
    pub(super) const fn is_of_puback(self) -> bool {
        matches!(self.0, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
    }

    /// §3.6.2.1 and §3.7.2.1.
    pub(super) const fn is_of_pubrel(self) -> bool {
        matches!(self.0, 0x00 | 0x92)
    }

    /// §3.9.3.
    pub(super) const fn is_of_suback(self) -> bool {
        matches!(self.0, 0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
    }

    /// §3.11.3.
    pub(super) const fn is_of_unsuback(self) -> bool {
        matches!(self.0, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91)
    }

    /// §3.14.2.1, those that a client may send.
    pub(super) const fn is_of_client_disconnect(self) -> bool {
        matches!(self.0, 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99)
    }

    /// §3.14.2.1, those that a server may send; 0x8C is there by §2.4 and §4.12 alone.
    pub(super) const fn is_of_server_disconnect(self) -> bool {
        matches!(
            self.0,
            0x00 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B..=0x90 | 0x93..=0xA2
        )
    }
}

#[cfg(test)]
mod tests {
    use super::ReasonCode;

    #[test]
    fn a_code_prints_its_name_and_an_unknown_one_its_number() {
        assert_eq!(ReasonCode::NOT_AUTHORIZED.to_string(), "not_authorized");
        assert_eq!(ReasonCode::GRANTED_QOS_0.to_string(), "success");
        assert_eq!(ReasonCode(0x7F).to_string(), "reason_0x7f");
    }

    #[test]
    fn errors_begin_at_0x80() {
        assert!(!ReasonCode(0x7F).is_error());
        assert!(ReasonCode::UNSPECIFIED_ERROR.is_error());
    }
}
