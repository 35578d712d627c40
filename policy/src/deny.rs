use std::fmt;

/// The outcome of a decision: what was allowed, or why it was not.
pub type Verdict<T> = Result<T, DenyReason>;

macro_rules! deny_reasons {
    ($($(#[$doc:meta])* $variant:ident => $code:literal,)+) => {
        /// Why something was refused.
        ///
        /// The set is closed: [`DenyReason::code`] is the metric label, the audit field, the log code
        /// and the only thing about a refusal that ever leaves the process, so a client cannot put
        /// text of its own into any of them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DenyReason {
            $($(#[$doc])* $variant,)+
        }

        impl DenyReason {
            /// Every reason, in the order of their declaration.
            pub const ALL: &'static [DenyReason] = &[$(DenyReason::$variant,)+];

            /// The snake_case name.
            pub const fn code(self) -> &'static str {
                match self {
                    $(DenyReason::$variant => $code,)+
                }
            }
        }
    };
}

deny_reasons! {
    /// The client presented no tenant token where one is accepted.
    TokenMissing => "token_missing",
    /// The token is not a JWT that can be decoded.
    TokenMalformed => "token_malformed",
    /// The token is larger than the verifier reads.
    TokenTooLarge => "token_too_large",
    /// Two carriers of one connection hold different tokens.
    CarrierConflict => "carrier_conflict",
    /// The client's certificate is none that the exchange issues.
    CertificateInvalid => "certificate_invalid",
    /// The token's `alg` is not in its issuer's allow-list.
    AlgorithmNotAllowed => "algorithm_not_allowed",
    /// No key of the issuer has the token's `kid`.
    KeyUnknown => "key_unknown",
    /// The issuer's keys cannot be had, and the last good ones are too old.
    KeysUnavailable => "keys_unavailable",
    /// The signature does not verify.
    SignatureInvalid => "signature_invalid",
    /// `iss` is absent or names no configured issuer.
    IssuerUnknown => "issuer_unknown",
    /// `aud` is absent or holds none of the accepted audiences.
    AudienceMismatch => "audience_mismatch",
    /// A required claim is absent.
    ClaimMissing => "claim_missing",
    /// A claim has the wrong type or an impossible value.
    ClaimInvalid => "claim_invalid",
    /// `exp` has passed.
    TokenExpired => "token_expired",
    /// `nbf` has not come yet.
    TokenNotYetValid => "token_not_yet_valid",
    /// The tenant claim is not a tenant id.
    TenantInvalid => "tenant_invalid",
    /// The issuer may not speak for this tenant.
    TenantNotAllowed => "tenant_not_allowed",
    /// The device claim is not a device id.
    DeviceInvalid => "device_invalid",
    /// The role needs a device and the token names none.
    DeviceRequired => "device_required",
    /// The role does not exist.
    RoleUnknown => "role_unknown",
    /// The issuer may not hand out this role.
    RoleNotAllowed => "role_not_allowed",
    /// The role is the tenant's own, and has names that no configured role has.
    RoleNotConfined => "role_not_confined",
    /// The directory does not know the tenant.
    TenantUnknown => "tenant_unknown",
    /// The tenant is suspended.
    TenantSuspended => "tenant_suspended",
    /// The device is revoked.
    DeviceRevoked => "device_revoked",
    /// The token id is revoked.
    TokenRevoked => "token_revoked",
    /// The token was issued before the tenant's `tokens_valid_from`.
    TokenSuperseded => "token_superseded",
    /// The directory is older than its stale limit.
    DirectoryUnavailable => "directory_unavailable",
    /// The tenant passed its authentications per minute.
    AuthRateExceeded => "auth_rate_exceeded",
    /// The source address failed too often.
    SourceRateExceeded => "source_rate_exceeded",
    /// The tenant has as many connections as it may.
    ConnectionQuotaExceeded => "connection_quota_exceeded",
    /// This kind of connection is not accepted.
    ConnectionTypeNotAllowed => "connection_type_not_allowed",
    /// Connections from this address are not accepted.
    SourceNotAllowed => "source_not_allowed",
    /// The name is not one that the broker's syntax allows.
    NameInvalid => "name_invalid",
    /// No grant covers publishing to this name.
    PublishDenied => "publish_denied",
    /// No grant covers subscribing to all of this.
    SubscribeDenied => "subscribe_denied",
    /// The tenant has as many sessions, connected or not, as it may.
    SessionQuotaExceeded => "session_quota_exceeded",
    /// The tenant has as many subscriptions as it may.
    SubscriptionQuotaExceeded => "subscription_quota_exceeded",
    /// The tenant publishes more messages or bytes per second than it may.
    MessageRateExceeded => "message_rate_exceeded",
    /// The payload is larger than the tenant's may be.
    PayloadQuotaExceeded => "payload_quota_exceeded",
    /// The tenant has as many retained messages, or bytes of them, as it may.
    RetainedQuotaExceeded => "retained_quota_exceeded",
    /// As many bytes as may wait for the tenant's clients.
    QueueQuotaExceeded => "queue_quota_exceeded",
    /// The tenant has used what it may in a day.
    DailyQuotaExceeded => "daily_quota_exceeded",
    /// The tenant has a daily quota, and what it has used today is not known yet.
    UsageUnavailable => "usage_unavailable",
    /// The response topic is none that the client may receive.
    ResponseTopicDenied => "response_topic_denied",
    /// The rights of a live connection were changed.
    RightsChanged => "rights_changed",
    /// A broker's request does not come from that broker.
    RequestForged => "request_forged",
    /// A broker's request is older than its deadline.
    RequestStale => "request_stale",
    /// The service already works on as many requests as it may.
    Overloaded => "overloaded",
    /// The service cannot decide, by a fault of its own.
    Internal => "internal",
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl std::error::Error for DenyReason {}

#[cfg(test)]
mod tests {
    use super::DenyReason;
    use std::collections::HashSet;

    #[test]
    fn codes_are_distinct_metric_labels() {
        let codes: HashSet<_> = DenyReason::ALL.iter().map(|r| r.code()).collect();
        assert_eq!(codes.len(), DenyReason::ALL.len());
        assert!(
            codes.iter().all(|c| c.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')),
            "a code must be snake_case"
        );
    }
}
