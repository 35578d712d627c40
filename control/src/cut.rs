//! Since when it is known that a connection may not stay: what the time to its end is measured from.

use crate::auth::Authenticator;
use crate::metrics::Metrics;
use bulkhead_policy::{DenyReason, Principal};
use jiff::Timestamp;
use std::time::{Duration, Instant};

/// Since when a connection has had to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// When this process learnt of the reason; for a token's end, that end.
    learned: Instant,
    /// When somebody wrote the reason into the directory, where that says so: of revoked devices it does.
    revoked: Option<Timestamp>,
}

impl Authenticator {
    /// Since when there is this reason to cut a principal off, and `beside` it the one of a certificate
    /// that was shown too. `None` for reasons that the directory, the rules and tokens do not give, such
    /// as quotas.
    pub fn cut(
        &self,
        principal: &Principal,
        beside: Option<&Principal>,
        reason: DenyReason,
    ) -> Option<Cut> {
        let directory = principal.tenant().and_then(|id| self.directory().learned(id));
        let learned = match reason {
            DenyReason::TokenExpired => {
                let own = principal.expires_at;
                let end = beside.map_or(own, |beside| own.min(beside.expires_at));
                return Some(Cut { learned: ago(end), revoked: None });
            }
            DenyReason::TenantSuspended
            | DenyReason::TenantUnknown
            | DenyReason::DeviceRevoked
            | DenyReason::TokenRevoked
            | DenyReason::TokenSuperseded => directory,
            // Roles and issuers are in the configuration, and roles in the directory too: until the later
            // change there was nothing against it.
            DenyReason::RightsChanged
            | DenyReason::RoleUnknown
            | DenyReason::RoleNotConfined
            | DenyReason::IssuerUnknown => directory.max(Some(self.rules_learned())),
            _ => None,
        };
        let revoked = (reason == DenyReason::DeviceRevoked)
            .then(|| self.directory().tenant(principal.tenant()?).ok())
            .flatten()
            .and_then(|known| known.revoked_devices.get(principal.device.as_ref()?).copied());
        Some(Cut { learned: learned?, revoked })
    }
}

impl Metrics {
    /// Counts how long it took from the reason to the end of a connection, which is now.
    pub fn closed(&self, backend: &str, cut: &Cut) {
        self.time_to_cut(backend, "learned", cut.learned.elapsed());
        if let Some(revoked) = cut.revoked {
            self.time_to_cut(backend, "revoked", ago(revoked).elapsed());
        }
    }
}

/// The moment of a time; now for one that is still to come, by a clock that is ahead.
fn ago(time: Timestamp) -> Instant {
    let now = Instant::now();
    let passed = Duration::try_from(Timestamp::now().duration_since(time)).unwrap_or_default();
    now.checked_sub(passed).unwrap_or(now)
}
