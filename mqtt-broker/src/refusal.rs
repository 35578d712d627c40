use crate::codec::{AckKind, QoS, ReasonCode, Version};
use bulkhead_control::config::DeniedPublish;
use bulkhead_policy::DenyReason;

/// How a client learns that its PUBLISH was refused, before anything is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its connection ends: MQTT 3.1.1 has no other way to tell.
    Close,
    /// It does not.
    Silence,
    /// By this acknowledgement (MQTT 5 §3.4.2.1, §3.5.2.1).
    Answer(AckKind, ReasonCode),
}

impl Refusal {
    /// For a PUBLISH of this kind; `denied` is what happens where the client cannot be told.
    pub(crate) fn of(
        version: Version,
        qos: QoS,
        denied: DeniedPublish,
        reason: DenyReason,
    ) -> Self {
        let kind = match (version, qos) {
            (Version::V311, _) => {
                return match denied {
                    DeniedPublish::Close => Self::Close,
                    DeniedPublish::Drop => Self::Silence,
                };
            }
            (Version::V5, QoS::AtMostOnce) => return Self::Silence,
            (Version::V5, QoS::AtLeastOnce) => AckKind::PubAck,
            (Version::V5, QoS::ExactlyOnce) => AckKind::PubRec,
        };
        let code = match reason {
            DenyReason::PayloadQuotaExceeded
            | DenyReason::MessageRateExceeded
            | DenyReason::DailyQuotaExceeded => ReasonCode::QUOTA_EXCEEDED,
            DenyReason::NameInvalid => ReasonCode::TOPIC_NAME_INVALID,
            _ => ReasonCode::NOT_AUTHORIZED,
        };
        Self::Answer(kind, code)
    }
}
