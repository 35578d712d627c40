//! Names of the platform's services, which are about all tenants and say themselves which one they mean.
//!
//! A service says and hears names as rights are written, as it does at Bulkhead's own broker. Where one of
//! them is on the broker depends on its tenant:
//!
//! ```text
//!  says   device-connect/acme/registry    its rights name the tenant        {prefix of acme}device-connect/acme/registry
//!         $tenant/acme/_reply/x           it names the tenant               where acme's clients have _reply/x
//!         platform/x                      nobody does                       {prefix of -}platform/x
//!  wants  device-connect/acme/registry    whoever's it is                   {prefix of +}device-connect/acme/registry
//! ```
//!
//! What a filter stands for does not depend on rights: it has to be found again when those have changed.
//! So it asks for a name in every tenant's place, and what is heard in one that the name is not of, by the
//! rights of whoever hears it, is nobody's.

use super::tenant::{APART, TenantNames, begins_with_one};
use super::{Heard, NOBODY, Naming, Placed, TENANT, is_plain, shared};
use crate::codec::TopicFilter;
use crate::hook::{Access, Hook};
use bulkhead_policy::service::of_tenant;
use bulkhead_policy::{DenyReason, TenantId, Verdict};

/// Bytes of the longest id of a tenant.
const MAX_ID: usize = 63;

/// Stands for any tenant where only the form of its names is asked for.
const ANYBODY: &str = "anybody";

/// How a service has its names on the broker.
#[derive(Debug)]
pub(in crate::upstream) struct ServiceNames {
    prefix: Box<str>,
    private: Box<[String]>,
    /// Whether there are names that have a place of their own because they do not say whose they are.
    keeps_apart: bool,
}

impl ServiceNames {
    pub(super) fn new(hook: &dyn Hook, naming: Naming<'_>) -> Self {
        // A mount is of one form for all tenants.
        let mount = TenantId::parse(ANYBODY).map(|tenant| hook.mount(&tenant));
        let mount_says_whose = mount.is_ok_and(|m| m.split('/').any(|level| level == ANYBODY));
        let says_whose = naming.says_whose() || mount_says_whose;
        Self {
            prefix: naming.prefix.into(),
            private: naming.private.into(),
            keeps_apart: !says_whose && !naming.private.is_empty(),
        }
    }

    fn naming(&self) -> Naming<'_> {
        Naming { prefix: &self.prefix, private: &self.private }
    }

    /// The most bytes that a name gets on its way.
    pub(super) fn len(&self) -> usize {
        let ids = self.prefix.matches(TENANT).count() + 1;
        self.prefix.len() + APART.len() + ids * MAX_ID + 1
    }

    /// The topic on the broker.
    ///
    /// # Errors
    /// [`DenyReason::NameInvalid`], as for [`TenantNames::topic`].
    pub(super) fn topic(
        &self,
        hook: &dyn Hook,
        access: &dyn Access,
        name: &str,
    ) -> Verdict<Placed<'static>> {
        match of_tenant(name) {
            Some((tenant, name)) => {
                self.names_of(hook, &tenant).topic(name).map(Placed::into_owned)
            }
            None => self.mounted_topic(hook, access.tenant_of(name).as_ref(), name),
        }
    }

    /// The response topic of a message with this topic: whoever answers is of the same tenant.
    ///
    /// # Errors
    /// As for [`topic`](Self::topic).
    pub(super) fn response(
        &self,
        hook: &dyn Hook,
        access: &dyn Access,
        topic: &str,
        response: &str,
    ) -> Verdict<Placed<'static>> {
        let tenant = of_tenant(topic).map(|(tenant, _)| tenant);
        let tenant = tenant.or_else(|| access.tenant_of(topic));
        self.mounted_topic(hook, tenant.as_ref(), response)
    }

    fn mounted_topic(
        &self,
        hook: &dyn Hook,
        tenant: Option<&TenantId>,
        name: &str,
    ) -> Verdict<Placed<'static>> {
        match tenant {
            Some(tenant) => self.names_of(hook, tenant).mounted_topic(name),
            None => {
                let private = if self.keeps_apart { &*self.private } else { &[] };
                let naming = Naming { prefix: &self.prefix, private };
                TenantNames::new(NOBODY, "", naming).mounted_topic(name)
            }
        }
    }

    fn names_of(&self, hook: &dyn Hook, tenant: &TenantId) -> TenantNames {
        TenantNames::new(tenant.as_str(), &hook.mount(tenant), self.naming())
    }

    /// The filter on the broker.
    ///
    /// # Errors
    /// [`DenyReason::NameInvalid`], as for [`TenantNames::topic`].
    pub(super) fn filter(&self, filter: TopicFilter<'_>) -> Verdict<Placed<'static>> {
        let name = filter.filter;
        let before = self.prefix.replace(TENANT, "+");
        let whole = if !self.keeps_apart {
            format!("{before}{name}")
        } else if begins_with_one(name, &self.private) {
            format!("{before}{APART}+/{name}")
        } else if name.starts_with(APART) {
            return Err(DenyReason::NameInvalid);
        } else {
            format!("{before}{name}")
        };
        let wire = shared(filter.share, &format!("{NOBODY}."), whole)?.into();
        Ok(Placed { wire, len: name.len() })
    }

    /// A topic of the broker. `None` for one that is nobody's name. Whose it is remains to be
    /// [compared](Heard::is_of_its_place).
    pub(super) fn heard<'a>(&self, topic: &'a str) -> Option<Heard<'a>> {
        let (mut among, mut name) = self.place_of(topic)?;
        if self.keeps_apart {
            if let Some(apart) = name.strip_prefix(APART) {
                let (id, own) = apart.split_once('/')?;
                (among, name) = (Some(id), own);
                if !begins_with_one(name, &self.private) {
                    return None;
                }
            } else if begins_with_one(name, &self.private) {
                return None;
            }
        }
        let is_one = !name.is_empty() && is_plain(topic);
        is_one.then_some(Heard { mounted: name, name, among })
    }

    /// The id in whose place a topic is, if places have ids, and what is behind the prefix.
    fn place_of<'a>(&self, topic: &'a str) -> Option<(Option<&'a str>, &'a str)> {
        let (mut among, mut rest) = (None, topic);
        for level in self.prefix.split_terminator('/') {
            let (own, behind) = rest.split_once('/')?;
            let expected = if level == TENANT { *among.get_or_insert(own) } else { level };
            if own != expected {
                return None;
            }
            rest = behind;
        }
        Some((among, rest))
    }
}
