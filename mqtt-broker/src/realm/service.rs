//! What passes between tenants and the platform's services.
//!
//! A service gets a tenant's message with a user property that says who published it; one of that name
//! that the publisher had written is taken out. A service's message for a name that carries no tenant
//! says the tenant before it (`bulkhead_policy::service`).

use super::Realm;
use crate::bus::Batch;
use crate::codec::{Properties, PropertiesBuf, Property};
use crate::record::Message;
use bulkhead_policy::TenantId;
use bulkhead_policy::service::{PUBLISHER, of_tenant};
use bytes::Bytes;

impl Batch {
    /// The tenant that a service speaks to with this topic.
    pub(super) fn tenant_of(&self, topic: &str) -> Option<TenantId> {
        match of_tenant(topic) {
            Some((tenant, _)) => Some(tenant),
            None => self.access.as_ref()?.tenant_of(topic),
        }
    }

    /// A message as services get it.
    pub(super) fn for_services(&self, message: &Message<'_>) -> Bytes {
        let identity = self.access.as_ref().and_then(|access| access.identity());
        published_by(message, identity.as_deref())
    }
}

/// A message as services get it, with who published it as far as that is known.
pub(crate) fn published_by(message: &Message<'_>, identity: Option<&str>) -> Bytes {
    let mut properties = PropertiesBuf::new();
    for property in Properties::of_record(message.properties).iter() {
        if !matches!(property, Property::UserProperty(PUBLISHER, _)) {
            properties.push(property);
        }
    }
    if let Some(identity) = identity {
        properties.push(Property::UserProperty(PUBLISHER, identity));
    }
    Message { properties: properties.as_properties().raw(), ..*message }.to_bytes()
}

impl Realm {
    /// A service's message for a name of this tenant, as the tenant's clients know it. `None` for one that
    /// carries its tenant in its name.
    pub(super) fn named_here(&self, message: &Message<'_>) -> Option<Bytes> {
        let (_, name) = of_tenant(message.topic)?;
        let topic = self.mounted(name);
        Some(Message { topic: &topic, ..*message }.to_bytes())
    }
}
