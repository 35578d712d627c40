use crate::{DenyReason, DeviceId, Principal, Quotas, Role, RoleName, TokenId, Verdict};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the directory keeps under a tenant's id: what is true now, whatever a token said when it was
/// signed. The default is an active tenant with nothing revoked and no limits of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// When it was created, which tells it from another tenant of the same name before it. Whoever
    /// writes the entry by hand may leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Whether it may connect at all.
    #[serde(default)]
    pub status: Status,
    /// Limits that differ from the configured defaults.
    #[serde(default, skip_serializing_if = "Quotas::is_empty")]
    pub quotas: Quotas,
    /// Roles that mean something else for this tenant.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roles: BTreeMap<RoleName, Role>,
    /// Devices that may not connect, each with the time of its revocation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub revoked_devices: BTreeMap<DeviceId, Timestamp>,
    /// Tokens that may not be used, each with the time after which it has expired anyway.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub revoked_tokens: BTreeMap<TokenId, Timestamp>,
    /// Tokens issued before this are refused, and so are tokens that do not say when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_valid_from: Option<Timestamp>,
}

/// Whether a tenant may connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It may.
    #[default]
    Active,
    /// Nobody of it may, and who is connected is cut off.
    Suspended,
}

impl Tenant {
    /// Whether this principal of the tenant is still welcome.
    ///
    /// # Errors
    /// The first [`DenyReason`] that applies.
    pub fn admit(&self, principal: &Principal) -> Verdict<()> {
        if self.status == Status::Suspended {
            return Err(DenyReason::TenantSuspended);
        }
        if principal.device.as_ref().is_some_and(|d| self.revoked_devices.contains_key(d)) {
            return Err(DenyReason::DeviceRevoked);
        }
        let mut ids = principal.token_id.iter().chain(&principal.origin);
        if ids.any(|id| self.revoked_tokens.contains_key(id)) {
            return Err(DenyReason::TokenRevoked);
        }
        match self.tokens_valid_from {
            Some(from) if principal.issued_at.is_none_or(|at| at < from) => {
                Err(DenyReason::TokenSuperseded)
            }
            _ => Ok(()),
        }
    }
}
