use crate::{DeviceId, RoleName, TenantId, TokenId};
use jiff::Timestamp;
use std::fmt;
use std::sync::Arc;

/// Who a client is, after its token was verified. Nothing in it comes from anywhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Whom it belongs to.
    pub scope: Scope,
    /// Which device it is; `None` for people and programs.
    pub device: Option<DeviceId>,
    /// What it may do.
    pub role: RoleName,
    /// The configured name of the issuer that signed the token.
    pub issuer: Arc<str>,
    /// The token's `jti`, where it has one.
    pub token_id: Option<TokenId>,
    /// The `jti` of the token that a credential was issued for, so that revoking it reaches what was
    /// made of it.
    pub origin: Option<TokenId>,
    /// The token's `iat`, where it has one.
    pub issued_at: Option<Timestamp>,
    /// The token's `exp`: the principal ends here.
    pub expires_at: Timestamp,
}

/// How far a principal reaches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Exactly one tenant.
    Tenant(TenantId),
    /// All tenants: a privileged service of the platform itself. No issuer that speaks for tenants
    /// can produce it.
    Service,
}

impl Principal {
    /// The tenant, or `None` for a service.
    pub fn tenant(&self) -> Option<&TenantId> {
        match &self.scope {
            Scope::Tenant(tenant) => Some(tenant),
            Scope::Service => None,
        }
    }
}

/// `tenant/device`, `tenant/-` for a principal without a device, `-/-` for a service.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenant = self.tenant().map_or("-", TenantId::as_str);
        let device = self.device.as_ref().map_or("-", DeviceId::as_str);
        write!(f, "{tenant}/{device}")
    }
}
