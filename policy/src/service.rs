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

/// Whether whoever answers under this name (with `/`) is told who asks. On Zenoh the gate writes a
/// [`Requester`](crate::Requester) into the attachment of a query for exactly such a name, over whatever
/// the client had there.
pub fn is_told_who_asks(name: &str) -> bool {
    let mut segments = name.split('/');
    let (root, _, what) = (segments.next(), segments.next(), segments.next());
    root == Some("device-connect")
        && matches!(what, Some("registry" | "discovery"))
        && segments.next().is_none()
}

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
    use super::{in_tenant, is_told_who_asks, of_tenant};

    #[test]
    fn the_registry_is_told_who_asks() {
        for name in ["device-connect/acme/registry", "device-connect/acme/discovery"] {
            assert!(is_told_who_asks(name), "{name}");
        }
        for other in ["device-connect/acme/cam-1/cmd", "device-connect/acme/registry/x", "x", ""] {
            assert!(!is_told_who_asks(other), "{other}");
        }
    }

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
