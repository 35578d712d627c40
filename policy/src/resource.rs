use std::fmt;

/// What a tenant is limited in, besides JetStream. [`Resource::name`] is its key in the directory and
/// in the configuration, the metric label and what is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// Connections at a time.
    Connections,
    /// Subscriptions at a time.
    Subscriptions,
    /// Published messages per second.
    MessagesPerSecond,
    /// Published payload bytes per second.
    BytesPerSecond,
    /// Bytes of one message's payload.
    PayloadBytes,
    /// Retained messages.
    RetainedMessages,
    /// Bytes of all retained messages.
    RetainedBytes,
    /// Bytes that wait for clients.
    QueuedBytes,
    /// Authentications per minute.
    AuthenticationsPerMinute,
    /// Published messages per day.
    MessagesPerDay,
    /// Published payload bytes per day.
    BytesPerDay,
    /// Authentications per day.
    AuthenticationsPerDay,
}

impl Resource {
    /// Every resource.
    pub const ALL: &'static [Self] = &[
        Self::Connections,
        Self::Subscriptions,
        Self::MessagesPerSecond,
        Self::BytesPerSecond,
        Self::PayloadBytes,
        Self::RetainedMessages,
        Self::RetainedBytes,
        Self::QueuedBytes,
        Self::AuthenticationsPerMinute,
        Self::MessagesPerDay,
        Self::BytesPerDay,
        Self::AuthenticationsPerDay,
    ];

    /// Those of which a tenant has some at any time.
    pub const LIVE: &'static [Self] = &[
        Self::Connections,
        Self::Subscriptions,
        Self::RetainedMessages,
        Self::RetainedBytes,
        Self::QueuedBytes,
    ];

    /// Those that are counted from midnight (UTC) to midnight.
    pub const DAILY: &'static [Self] =
        &[Self::MessagesPerDay, Self::BytesPerDay, Self::AuthenticationsPerDay];

    /// The snake_case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Subscriptions => "subscriptions",
            Self::MessagesPerSecond => "messages_per_second",
            Self::BytesPerSecond => "bytes_per_second",
            Self::PayloadBytes => "payload_bytes",
            Self::RetainedMessages => "retained_messages",
            Self::RetainedBytes => "retained_bytes",
            Self::QueuedBytes => "queued_bytes",
            Self::AuthenticationsPerMinute => "authentications_per_minute",
            Self::MessagesPerDay => "messages_per_day",
            Self::BytesPerDay => "bytes_per_day",
            Self::AuthenticationsPerDay => "authentications_per_day",
        }
    }

    /// The resource of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|resource| resource.name() == name)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
