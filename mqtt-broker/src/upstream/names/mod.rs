//! How names of the front's clients are written on the broker.

mod service;
mod tenant;
#[cfg(test)]
mod tests;

use crate::codec::TopicFilter;
use crate::hook::{Access, Hook};
use bulkhead_policy::{DenyReason, Scope, TenantId, Verdict};
use service::ServiceNames;
use std::borrow::Cow;
use tenant::TenantNames;

/// What stands where there is no tenant or no device. Ids begin with a letter or a digit, so it is
/// none.
const NOBODY: &str = "-";

/// What stands in a prefix for the tenant: a level of it.
const TENANT: &str = "{tenant}";

/// Longest topic or filter, in bytes (MQTT 5 §4.7.3).
const MAX_BYTES: usize = 65_535;

/// How names are written on the broker, for all clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Naming<'a> {
    /// What stands before every name of a tenant: levels, each with a `/` behind it, of which some may be
    /// `{tenant}`.
    pub(super) prefix: &'a str,
    /// First levels of names that are a tenant's own although they do not hold it.
    pub(super) private: &'a [String],
}

impl Naming<'_> {
    /// Whether every name on the broker says whose it is.
    fn says_whose(&self) -> bool {
        self.prefix.split('/').any(|level| level == TENANT)
    }
}

/// One client's names.
#[derive(Debug)]
pub(super) enum Names {
    /// Of a tenant's client.
    Tenant(TenantNames),
    /// Of a service of the platform.
    Service(ServiceNames),
}

/// A topic as it comes from the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard<'a> {
    /// As rights are written.
    pub(super) mounted: &'a str,
    /// As the client knows it.
    pub(super) name: &'a str,
    /// In whose place it was, for a service, where places have an id.
    among: Option<&'a str>,
}

/// A topic or a filter as it goes to the broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placed<'a> {
    /// With its shared group.
    pub(super) wire: Cow<'a, str>,
    /// As rights are written: the last bytes of `wire`, so many.
    len: usize,
}

impl Placed<'_> {
    pub(super) fn mounted(&self) -> &str {
        self.wire.get(self.wire.len() - self.len..).unwrap_or_default()
    }

    fn into_owned(self) -> Placed<'static> {
        Placed { wire: Cow::Owned(self.wire.into_owned()), len: self.len }
    }
}

impl Heard<'_> {
    /// Whether the place that it was in is that of the tenant whose name it is. No client of a tenant can
    /// say a name of another's to a service, whatever its own rights are.
    pub(super) fn is_of_its_place(&self, access: &dyn Access) -> bool {
        let Some(among) = self.among else { return true };
        let whose = access.tenant_heard(self.mounted);
        if among == NOBODY {
            return whose.is_none();
        }
        TenantId::parse(among).is_ok_and(|among| whose.is_none_or(|whose| whose == among))
    }
}

impl Names {
    /// The names of a client.
    pub(super) fn of(hook: &dyn Hook, access: &dyn Access, naming: Naming<'_>) -> Self {
        match access.scope() {
            Scope::Tenant(tenant) => {
                Self::Tenant(TenantNames::new(tenant.as_str(), &hook.mount(tenant), naming))
            }
            Scope::Service => Self::Service(ServiceNames::new(hook, naming)),
        }
    }

    /// The most bytes that a name gets on its way.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Tenant(names) => names.len(),
            Self::Service(names) => names.len(),
        }
    }

    /// Whether they are a service's.
    pub(super) fn is_service(&self) -> bool {
        matches!(self, Self::Service(_))
    }

    /// The topic on the broker.
    ///
    /// # Errors
    /// [`DenyReason::NameInvalid`] for what a broker could take for something else.
    pub(super) fn topic<'a>(
        &self,
        hook: &dyn Hook,
        access: &dyn Access,
        name: &'a str,
    ) -> Verdict<Placed<'a>> {
        match self {
            Self::Tenant(names) => names.topic(name),
            Self::Service(names) => names.topic(hook, access, name),
        }
    }

    /// The response topic on the broker, of a message with this topic.
    ///
    /// # Errors
    /// [`DenyReason::NameInvalid`], as for [`topic`](Self::topic).
    pub(super) fn response<'a>(
        &self,
        hook: &dyn Hook,
        access: &dyn Access,
        topic: &str,
        response: &'a str,
    ) -> Verdict<Placed<'a>> {
        match self {
            Self::Tenant(names) => names.topic(response),
            Self::Service(names) => names.response(hook, access, topic, response),
        }
    }

    /// The filter on the broker. It is the same whatever the client's rights are.
    ///
    /// # Errors
    /// [`DenyReason::NameInvalid`], as for [`topic`](Self::topic).
    pub(super) fn filter(&self, filter: TopicFilter<'_>) -> Verdict<Placed<'static>> {
        match self {
            Self::Tenant(names) => names.filter(filter),
            Self::Service(names) => names.filter(filter),
        }
    }

    /// A topic of the broker. `None` for one that is not among the client's names.
    pub(super) fn heard<'a>(&self, topic: &'a str) -> Option<Heard<'a>> {
        match self {
            Self::Tenant(names) => names.heard(topic),
            Self::Service(names) => names.heard(topic),
        }
    }
}

/// A filter with its shared group, which belongs to this owner.
///
/// # Errors
/// [`DenyReason::NameInvalid`] for what a broker could take for something else.
fn shared(group: Option<&str>, owner: &str, whole: String) -> Verdict<String> {
    if !is_plain(&whole) {
        return Err(DenyReason::NameInvalid);
    }
    let wire = match group {
        Some(group) => format!("$share/{owner}{group}/{whole}"),
        None => whole,
    };
    if wire.len() > MAX_BYTES { Err(DenyReason::NameInvalid) } else { Ok(wire) }
}

/// The client id on the broker. Ids of tenants and devices have no colon, so that those of two
/// never meet, whatever clients choose.
pub(super) fn client_id(access: &dyn Access, prefix: &str, chosen: &str) -> String {
    let tenant = match access.scope() {
        Scope::Tenant(tenant) => tenant.as_str(),
        Scope::Service => NOBODY,
    };
    let device = access.device().map_or(NOBODY, |device| device.as_str());
    format!("{}{tenant}:{device}:{chosen}", prefix.replace("{tenant}", NOBODY))
}

/// Whether every broker takes a name for nothing but a name. What begins with `$` is a broker's own,
/// and some of it is a command (`$delayed/10/…` of EMQX publishes elsewhere); levels that are `*` or
/// `>` are wildcards to nats-server, which does not escape them; and control characters end lines in
/// its protocol.
fn is_plain(name: &str) -> bool {
    let is_odd = |byte: u8| byte < b' ' || matches!(byte, b'*' | b'>' | 0x7F);
    // Without an early exit the loop runs over many bytes at a time.
    let odd = name.bytes().fold(false, |odd, byte| odd | is_odd(byte));
    !name.starts_with('$') && (!odd || has_plain_levels(name))
}

fn has_plain_levels(name: &str) -> bool {
    !name.contains(char::is_control) && name.split('/').all(|level| !matches!(level, "*" | ">"))
}
