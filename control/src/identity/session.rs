//! The name of a live connection's user, from which the principal can be told again.
//!
//! The server shows it in its connection lists and events. Only the callout names users in tenant
//! accounts, so what stands there is what was verified.

use crate::Rights;
use bulkhead_policy::{DeviceId, Principal, RoleName, Scope, TenantId, TokenId};
use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A principal and the rights it was let in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Who it is.
    pub principal: Principal,
    /// What it was allowed.
    pub rights: Rights,
}

/// What the readable part of the name does not say.
#[derive(Serialize, Deserialize)]
struct Details {
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    tenant: Option<TenantId>,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    device: Option<DeviceId>,
    #[serde(rename = "r")]
    role: RoleName,
    #[serde(rename = "i")]
    issuer: String,
    #[serde(rename = "j", default, skip_serializing_if = "Option::is_none")]
    token_id: Option<TokenId>,
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    origin: Option<TokenId>,
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    issued_at: Option<i64>,
    #[serde(rename = "e")]
    expires_at: i64,
    #[serde(rename = "g")]
    rights: String,
}

impl Session {
    /// The user's name: `tenant/device` for people, and the rest for programs.
    pub fn name(&self) -> String {
        let principal = &self.principal;
        let details = Details {
            tenant: principal.tenant().cloned(),
            device: principal.device.clone(),
            role: principal.role.clone(),
            issuer: principal.issuer.to_string(),
            token_id: principal.token_id.clone(),
            origin: principal.origin.clone(),
            issued_at: principal.issued_at.map(Timestamp::as_second),
            expires_at: principal.expires_at.as_second(),
            rights: self.rights.to_string(),
        };
        // Nothing in it can fail to be written.
        let json = serde_json::to_vec(&details).unwrap_or_default();
        format!("{principal} {}", BASE64URL_NOPAD.encode(&json))
    }

    /// Reads a name; `None` for one that this service did not give.
    pub fn parse(name: &str) -> Option<Self> {
        let (_, details) = name.split_once(' ')?;
        let json = BASE64URL_NOPAD.decode(details.as_bytes()).ok()?;
        let details: Details = serde_json::from_slice(&json).ok()?;
        Some(Self {
            rights: details.rights.parse().ok()?,
            principal: Principal {
                scope: details.tenant.map_or(Scope::Service, Scope::Tenant),
                device: details.device,
                role: details.role,
                issuer: details.issuer.into(),
                token_id: details.token_id,
                origin: details.origin,
                issued_at: details.issued_at.and_then(|s| Timestamp::from_second(s).ok()),
                expires_at: Timestamp::from_second(details.expires_at).ok()?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Session;
    use bulkhead_policy::{Principal, Scope};
    use jiff::Timestamp;

    #[test]
    fn a_name_tells_the_principal_again() {
        let session = Session {
            principal: Principal {
                scope: Scope::Tenant("acme".parse().unwrap()),
                device: Some("cam-1".parse().unwrap()),
                role: "device".parse().unwrap(),
                issuer: "corp".into(),
                token_id: Some("id with \"quotes\" and spaces".parse().unwrap()),
                origin: Some("o".parse().unwrap()),
                issued_at: Some(Timestamp::from_second(5).unwrap()),
                expires_at: Timestamp::from_second(1_800_000_000).unwrap(),
            },
            rights: "00000000000000ff".parse().unwrap(),
        };
        let name = session.name();
        assert!(name.starts_with("acme/cam-1 "), "{name}");
        assert_eq!(Session::parse(&name), Some(session));
        for foreign in ["", "sys", "acme/cam-1", "acme/cam-1 e30", "a b"] {
            assert_eq!(Session::parse(foreign), None);
        }
    }
}
