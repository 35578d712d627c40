//! Names of a tenant's clients.

use super::{Heard, Naming, Placed, TENANT, is_plain, shared};
use crate::codec::{TopicFilter, is_topic_name};
use bulkhead_policy::{DenyReason, Verdict};
use std::borrow::Cow;

/// Under this stand, after the prefix and by tenant, the names that do not say whose they are.
pub(super) const APART: &str = "_tenant/";

/// How the clients of one tenant have their names on the broker.
#[derive(Debug)]
pub(in crate::upstream) struct TenantNames {
    place: Place,
    /// Where names are that do not say whose they are, if they have a place of their own.
    apart: Option<Apart>,
    /// What stands before every shared group: tenant ids have no dot, so groups of two never meet.
    group: Box<str>,
}

/// A place on the broker.
#[derive(Debug)]
struct Place {
    /// What stands before every name there: the prefix, then the mount.
    whole: Box<str>,
    /// Bytes of the prefix.
    prefix: usize,
}

#[derive(Debug)]
struct Apart {
    place: Place,
    /// What all tenants' such places begin with.
    area: Box<str>,
    /// First levels of such names.
    private: Box<[String]>,
}

impl TenantNames {
    /// Of the tenant with this id, whose clients' names get this mount.
    pub(super) fn new(id: &str, mount: &str, naming: Naming<'_>) -> Self {
        let Naming { prefix, private } = naming;
        let before = prefix.replace(TENANT, id);
        // Where every name says whose it is, none needs a place of its own. A level of the prefix that is
        // the same for all says nothing, even if it is called like one of them.
        let says_whose = naming.says_whose() || mount.split('/').any(|level| level == id);
        let apart = (!says_whose && !private.is_empty()).then(|| Apart {
            place: Place::new(&format!("{before}{APART}{id}/"), mount),
            area: format!("{before}{APART}").into(),
            private: private.into(),
        });
        Self { place: Place::new(&before, mount), apart, group: format!("{id}.").into() }
    }

    /// Bytes that every name gets on its way.
    pub(super) fn len(&self) -> usize {
        let apart = self.apart.as_ref().map_or(0, |apart| apart.place.whole.len());
        self.place.whole.len().max(apart)
    }

    /// The topic on the broker of a name that a client says.
    ///
    /// # Errors
    /// [`DenyReason::NameInvalid`] for what a broker could take for something else.
    pub(super) fn topic<'a>(&self, name: &'a str) -> Verdict<Placed<'a>> {
        let place = self.place_of(name)?;
        let wire = place.with(name);
        if !is_topic_name(&wire) || !is_plain(&wire) {
            return Err(DenyReason::NameInvalid);
        }
        Ok(Placed { len: wire.len() - place.prefix, wire })
    }

    /// The topic on the broker of a name as rights are written.
    ///
    /// # Errors
    /// [`DenyReason::NameInvalid`], as for [`topic`](Self::topic), and for what is not below the mount.
    pub(super) fn mounted_topic(&self, name: &str) -> Verdict<Placed<'static>> {
        let mount = self.place.whole.get(self.place.prefix..).unwrap_or_default();
        let name = name.strip_prefix(mount).ok_or(DenyReason::NameInvalid)?;
        self.topic(name).map(Placed::into_owned)
    }

    /// The filter on the broker.
    ///
    /// # Errors
    /// [`DenyReason::NameInvalid`], as for [`topic`](Self::topic).
    pub(super) fn filter(&self, filter: TopicFilter<'_>) -> Verdict<Placed<'static>> {
        let place = self.place_of(filter.filter)?;
        let whole = place.with(filter.filter).into_owned();
        let len = whole.len() - place.prefix;
        Ok(Placed { wire: shared(filter.share, &self.group, whole)?.into(), len })
    }

    /// A topic of the broker. `None` for one that is not among the clients' names.
    pub(super) fn heard<'a>(&self, topic: &'a str) -> Option<Heard<'a>> {
        let (place, is_private) = match &self.apart {
            Some(apart) if topic.starts_with(&*apart.area) => (&apart.place, true),
            _ => (&self.place, false),
        };
        let name = topic.strip_prefix(&*place.whole).filter(|name| !name.is_empty())?;
        if self.apart.as_ref().is_some_and(|apart| apart.holds(name) != is_private) {
            return None;
        }
        let mounted = topic.get(place.prefix..).unwrap_or_default();
        is_plain(topic).then_some(Heard { mounted, name, among: None })
    }

    /// Where a name or a filter of a client is.
    fn place_of(&self, name: &str) -> Verdict<&Place> {
        match &self.apart {
            Some(apart) if apart.holds(name) => Ok(&apart.place),
            // It would be somebody's, perhaps another's.
            Some(apart) if self.place.with(name).starts_with(&*apart.area) => {
                Err(DenyReason::NameInvalid)
            }
            _ => Ok(&self.place),
        }
    }
}

impl Place {
    fn new(prefix: &str, mount: &str) -> Self {
        Self { whole: format!("{prefix}{mount}").into(), prefix: prefix.len() }
    }

    fn with<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if self.whole.is_empty() {
            Cow::Borrowed(name)
        } else {
            Cow::Owned(format!("{}{name}", self.whole))
        }
    }
}

impl Apart {
    /// Whether a name, or a filter that begins with a level as it is, belongs there.
    fn holds(&self, name: &str) -> bool {
        begins_with_one(name, &self.private)
    }
}

/// Whether the first level of a name is one of these.
pub(super) fn begins_with_one(name: &str, levels: &[String]) -> bool {
    let first = name.split('/').next().unwrap_or_default();
    levels.iter().any(|level| level == first)
}
