//! What of the configuration the broker looks at while it runs.

use bulkhead_control::config::{DeniedPublish, MqttConfig};
use bulkhead_policy::Quotas;
use jiff::SignedDuration;
use std::time::Duration;

/// Topic aliases that a client may set up (MQTT 5 §3.2.2.3.8).
pub(crate) const TOPIC_ALIASES: u16 = 32;

/// Topic aliases that the broker sets up with a client that takes them.
pub(crate) const OWN_TOPIC_ALIASES: u16 = 32;

/// Longest client id, in bytes.
pub(crate) const MAX_CLIENT_ID_BYTES: usize = 1024;

/// What holds for a tenant where neither it nor the configuration has a quota: nobody may fill the
/// memory.
pub(crate) const FALLBACK: Quotas = Quotas {
    messages_per_day: None,
    bytes_per_day: None,
    authentications_per_day: None,
    connections: None,
    subscriptions: Some(100_000),
    messages_per_second: None,
    bytes_per_second: None,
    payload_bytes: None,
    retained_messages: Some(100_000),
    retained_bytes: Some(256 * 1024 * 1024),
    queued_bytes: Some(512 * 1024 * 1024),
    authentications_per_minute: None,
    jetstream: None,
};

/// Bounds and choices.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) denied_publish: DeniedPublish,
    pub(crate) max_packet: usize,
    pub(crate) max_in_flight: u16,
    pub(crate) session_queue_bytes: usize,
    pub(crate) max_session_expiry: u32,
    pub(crate) max_keep_alive: u16,
    pub(crate) handshake_timeout: Duration,
    pub(crate) pending_per_source: usize,
    pub(crate) max_connections: usize,
    pub(crate) max_sessions: usize,
    pub(crate) max_subscriptions: usize,
}

impl Settings {
    pub(crate) fn of(config: &MqttConfig) -> Self {
        let seconds =
            |duration: SignedDuration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        Self {
            denied_publish: config.denied_publish,
            max_packet: config.max_packet_bytes,
            max_in_flight: config.max_in_flight,
            session_queue_bytes: config.session_queue_bytes,
            max_session_expiry: seconds(config.max_session_expiry),
            max_keep_alive: u16::try_from(seconds(config.max_keep_alive)).unwrap_or(u16::MAX),
            handshake_timeout: config.handshake_timeout.unsigned_abs(),
            pending_per_source: config.pending_per_source,
            max_connections: config.max_connections,
            max_sessions: config.max_sessions_per_tenant,
            max_subscriptions: config.max_subscriptions_per_session,
        }
    }
}
