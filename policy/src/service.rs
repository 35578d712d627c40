//! What a broker of ours and the platform's services say to each other, beside what everybody does.
//!
//! A name such as `_reply/{literal}` carries no tenant: within a tenant it needs none. A service, which
//! speaks to all of them, says the tenant before it.

use crate::TenantId;

/// What stands before the tenant in a service's name. Nobody else may publish to what begins with `$`.
const TENANT: &str = "$tenant/";

/// The property of MQTT's CONNACK (a user property) that says what the broker does for a service.
pub const OFFERS: &str = "bulkhead";

/// Its value for a broker that takes [names of a tenant](in_tenant).
pub const TENANT_NAMES: &str = "tenant-names";

/// Its value for a broker that says who publishes; and the user property with which it says that, in the
/// form of a [`Requester`](crate::Requester).
pub const PUBLISHER: &str = "bulkhead-publisher";

/// A name in a tenant, as a service says it.
pub fn in_tenant(tenant: &TenantId, name: &str) -> String {
    format!("{TENANT}{tenant}/{name}")
}

/// The tenant and the name in it, of what a service said. `None` for any other name.
pub fn of_tenant(name: &str) -> Option<(TenantId, &str)> {
    let (tenant, name) = name.strip_prefix(TENANT)?.split_once('/')?;
    let tenant = TenantId::parse(tenant).ok()?;
    (!name.is_empty()).then_some((tenant, name))
}

#[cfg(test)]
mod tests {
    use super::{in_tenant, of_tenant};

    #[test]
    fn a_service_names_the_tenant_first() {
        let acme = "acme".parse().unwrap();
        let name = in_tenant(&acme, "_reply/a");
        assert_eq!(name, "$tenant/acme/_reply/a");
        assert_eq!(of_tenant(&name), Some((acme, "_reply/a")));
        for other in ["_reply/a", "$tenant/acme", "$tenant/acme/", "$tenant/+/x", "$tenants/acme/x"]
        {
            assert_eq!(of_tenant(other), None, "{other}");
        }
    }
}
