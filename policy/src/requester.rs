//! Who asks a platform service for something, as the broker says it.

use crate::{DeviceId, Principal, RoleName, TenantId};
use std::fmt;
use std::str::FromStr;

/// What stands where there is no device. Ids begin with a letter or a digit, so it is none.
const NOBODY: &str = "-";

/// The part of a [`Principal`] that a broker tells the platform's services about
/// whoever sent a message. It is worth what its way is worth: a service takes it from where only the
/// broker can write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requester {
    /// Whom it belongs to.
    pub tenant: TenantId,
    /// Which device it is; `None` for people and programs.
    pub device: Option<DeviceId>,
    /// What it may do.
    pub role: RoleName,
}

impl Requester {
    /// What services are told of a principal; `None` for one of them.
    pub fn of(principal: &Principal) -> Option<Self> {
        let tenant = principal.tenant()?.clone();
        Some(Self { tenant, device: principal.device.clone(), role: principal.role.clone() })
    }
}

/// `tenant/device/role`, with `-` for no device.
impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.device.as_ref().map_or(NOBODY, DeviceId::as_str);
        write!(f, "{}/{device}/{}", self.tenant, self.role)
    }
}

/// What was written is no requester.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a requester is tenant/device/role, with '-' for no device")]
pub struct RequesterError;

impl FromStr for Requester {
    type Err = RequesterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('/');
        let (Some(tenant), Some(device), Some(role), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(RequesterError);
        };
        let device = match device {
            NOBODY => None,
            device => Some(DeviceId::parse(device).map_err(|_| RequesterError)?),
        };
        let tenant = TenantId::parse(tenant).map_err(|_| RequesterError)?;
        let role = RoleName::parse(role).map_err(|_| RequesterError)?;
        Ok(Self { tenant, device, role })
    }
}

#[cfg(test)]
mod tests {
    use super::Requester;

    #[test]
    fn what_is_written_reads_back() {
        for text in ["acme/cam-1/device", "acme/-/member"] {
            assert_eq!(text.parse::<Requester>().unwrap().to_string(), text);
        }
        for hostile in ["", "acme", "acme/cam-1", "acme//device", "a/b/c/d", "*/-/member", "-/-/x"]
        {
            assert!(hostile.parse::<Requester>().is_err(), "{hostile}");
        }
    }
}
