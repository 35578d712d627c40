//! How names of the front's clients are written on the broker.

use crate::codec::{TopicFilter, is_topic_name};
use crate::hook::{Access, Hook};
use bulkhead_policy::{DenyReason, Scope, TenantId, Verdict};
use std::borrow::Cow;

/// What stands where there is no tenant or no device. Ids begin with a letter or a digit, so it is
/// none.
const NOBODY: &str = "-";

/// Longest topic or filter, in bytes (MQTT 5 §4.7.3).
const MAX_BYTES: usize = 65_535;

/// Under this stand, after the prefix and by tenant, the names that do not say whose they are.
const APART: &str = "_tenant/";

/// How names are written on the broker, for all clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Naming<'a> {
    /// What stands before every name of a tenant; it may hold `{tenant}`.
    pub(super) prefix: &'a str,
    /// First levels of names that are a tenant's own although they do not hold it.
    pub(super) private: &'a [String],
}

/// One client's names.
#[derive(Debug)]
pub(super) struct Names {
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

/// A topic as it comes from the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard<'a> {
    /// As rights are written.
    pub(super) mounted: &'a str,
    /// As the client knows it.
    pub(super) name: &'a str,
}

/// A filter as it goes to the broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// With its shared group.
    pub(super) wire: String,
    /// As rights are written: the last bytes of `wire`, so many.
    len: usize,
}

impl Wanted {
    pub(super) fn mounted(&self) -> &str {
        self.wire.get(self.wire.len() - self.len..).unwrap_or_default()
    }
}

impl Names {
    /// The names of a client.
    pub(super) fn of(hook: &dyn Hook, access: &dyn Access, naming: Naming<'_>) -> Self {
        match access.scope() {
            Scope::Tenant(tenant) => Self::of_tenant(hook, tenant, naming),
            // A service is about all tenants, and says itself which one it means.
            Scope::Service => {
                Self { place: Place::new("", ""), apart: None, group: format!("{NOBODY}.").into() }
            }
        }
    }

    fn of_tenant(hook: &dyn Hook, tenant: &TenantId, naming: Naming<'_>) -> Self {
        let Naming { prefix, private } = naming;
        let (id, mount) = (tenant.as_str(), hook.mount(tenant));
        let before = prefix.replace("{tenant}", id);
        let place = Place::new(&before, &mount);
        // Where every name says whose it is, none needs a place of its own.
        let says_whose = place.whole.split('/').any(|level| level == id);
        let apart = (!says_whose && !private.is_empty()).then(|| Apart {
            place: Place::new(&format!("{before}{APART}{id}/"), &mount),
            area: format!("{before}{APART}").into(),
            private: private.into(),
        });
        Self { place, apart, group: format!("{id}.").into() }
    }

    /// The topic on the broker of what a service says to a tenant.
    ///
    /// # Errors
    /// [`DenyReason::NameInvalid`], as for [`topic`](Self::topic).
    pub(super) fn in_tenant(
        hook: &dyn Hook,
        naming: Naming<'_>,
        tenant: &TenantId,
        name: &str,
    ) -> Verdict<String> {
        Self::of_tenant(hook, tenant, naming).topic(name).map(Cow::into_owned)
    }

    /// Bytes that every name gets on its way.
    pub(super) fn len(&self) -> usize {
        let apart = self.apart.as_ref().map_or(0, |apart| apart.place.whole.len());
        self.place.whole.len().max(apart)
    }

    /// Whether they are a service's.
    pub(super) fn is_service(&self) -> bool {
        self.group.strip_suffix('.') == Some(NOBODY)
    }

    /// The topic on the broker.
    ///
    /// # Errors
    /// [`DenyReason::NameInvalid`] for what a broker could take for something else.
    pub(super) fn topic<'a>(&self, name: &'a str) -> Verdict<Cow<'a, str>> {
        let topic = self.place_of(name)?.with(name);
        if is_topic_name(&topic) && is_plain(&topic) {
            Ok(topic)
        } else {
            Err(DenyReason::NameInvalid)
        }
    }

    /// A topic of [`topic`](Self::topic) as rights are written.
    pub(super) fn mounted<'a>(&self, topic: &'a str) -> &'a str {
        let place = self.apart.as_ref().map(|apart| &apart.place);
        let place = place.filter(|place| topic.starts_with(&*place.whole)).unwrap_or(&self.place);
        topic.get(place.prefix..).unwrap_or_default()
    }

    /// The filter on the broker.
    ///
    /// # Errors
    /// [`DenyReason::NameInvalid`], as for [`topic`](Self::topic).
    pub(super) fn filter(&self, filter: TopicFilter<'_>) -> Verdict<Wanted> {
        let place = self.place_of(filter.filter)?;
        let whole = place.with(filter.filter);
        if !is_plain(&whole) {
            return Err(DenyReason::NameInvalid);
        }
        let len = whole.len() - place.prefix;
        let wire = match filter.share {
            Some(group) => format!("$share/{}{group}/{whole}", self.group),
            None => whole.into_owned(),
        };
        if wire.len() > MAX_BYTES {
            return Err(DenyReason::NameInvalid);
        }
        Ok(Wanted { wire, len })
    }

    /// A topic of the broker. `None` for one that is not among the client's names.
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
        is_plain(topic).then_some(Heard { mounted, name })
    }

    /// Where a name or a filter of the client is.
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
        let first = name.split('/').next().unwrap_or_default();
        self.private.iter().any(|private| private == first)
    }
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

#[cfg(test)]
mod tests {
    use super::{Heard, Names, Naming, client_id};
    use crate::codec::TopicFilter;
    use crate::hook::AllowAll;
    use bulkhead_policy::TenantId;

    fn everybody(tenant: &str) -> AllowAll {
        AllowAll::of(TenantId::parse(tenant).unwrap())
    }

    fn below(prefix: &str) -> Naming<'_> {
        Naming { prefix, private: &[] }
    }

    #[test]
    fn names_that_do_not_say_whose_they_are_are_kept_apart() {
        let private = ["_reply".to_owned()];
        let [acme, globex] = ["acme", "globex"].map(everybody);
        for prefix in ["", "sites/"] {
            let naming = Naming { prefix, private: &private };
            let [a, b] = [&acme, &globex].map(|access| Names::of(access, access, naming));
            let own = a.topic("_reply/x").unwrap();
            assert_eq!(own, format!("{prefix}_tenant/acme/_reply/x"));
            assert_eq!(a.mounted(&own), "_reply/x");
            let heard = Heard { mounted: "_reply/x", name: "_reply/x" };
            assert_eq!((a.heard(&own), b.heard(&own)), (Some(heard), None));
            let filter = TopicFilter::parse("$share/g/_reply/+").unwrap();
            let wanted = a.filter(filter).unwrap();
            assert_eq!(wanted.wire, format!("$share/acme.g/{prefix}_tenant/acme/_reply/+"));
            assert_eq!(wanted.mounted(), "_reply/+");
            // Neither by the name on the broker, nor by what others put where such names would be.
            for name in ["_tenant/globex/_reply/x", "_tenant/acme/_reply/x", "_tenant/+/_reply/x"] {
                let filter = TopicFilter::parse(name).unwrap();
                assert!(a.topic(name).is_err() && a.filter(filter).is_err(), "{name}");
            }
            assert_eq!(a.heard(&format!("{prefix}_reply/x")), None);
            assert_eq!(a.heard(&format!("{prefix}_tenant/acme/x")), None);
            assert_eq!(a.heard(&format!("{prefix}_tenant/acme-2/_reply/x")), None);
            // All other names stay where they are.
            assert_eq!(a.topic("_replies/x").unwrap(), format!("{prefix}_replies/x"));
            assert!(a.heard(&format!("{prefix}device-connect/acme/x")).is_some());
            let tenant = TenantId::parse("acme").unwrap();
            let said = Names::in_tenant(&acme, naming, &tenant, "_reply/x").unwrap();
            assert_eq!(said, own, "what a service says to a tenant arrives");
        }
        let naming = Naming { prefix: "t/{tenant}/", private: &private };
        let names = Names::of(&acme, &acme, naming);
        assert_eq!(names.topic("_reply/x").unwrap(), "t/acme/_reply/x");
        assert_eq!(names.heard("t/acme/_reply/x").unwrap().name, "_reply/x");
    }

    #[test]
    fn names_of_two_tenants_never_meet() {
        let [acme, other] = ["acme", "acme-2"].map(everybody);
        let ids = ["x", ":x", "-:x", "2:-:x"];
        for id in ids {
            for another in ids {
                assert_ne!(client_id(&acme, "", id), client_id(&other, "", another));
            }
        }
        let names = [&acme, &other].map(|access| Names::of(access, access, below("t/{tenant}/")));
        let [a, b] = &names;
        assert_eq!(a.topic("x").unwrap(), "t/acme/x");
        assert_eq!(a.mounted("t/acme/x"), "x");
        assert_eq!(a.heard("t/acme/x"), Some(Heard { mounted: "x", name: "x" }));
        assert_eq!(b.heard("t/acme/x"), None);
        assert_eq!(a.heard("t/acme/"), None);
        let shared = TopicFilter::parse("$share/g.h/x/#").unwrap();
        let wanted = a.filter(shared).unwrap();
        assert_eq!((&*wanted.wire, wanted.mounted()), ("$share/acme.g.h/t/acme/x/#", "x/#"));
        assert_ne!(wanted.wire, b.filter(shared).unwrap().wire);
    }

    #[test]
    fn what_brokers_take_for_more_than_a_name_is_refused() {
        let acme = everybody("acme");
        let names = Names::of(&acme, &acme, below(""));
        for name in ["$SYS/x", "$delayed/1/globex/x", "$", "a/*", "a/>/b", "*", "a\r\nb", "a\u{7f}"]
        {
            assert!(names.topic(name).is_err(), "{name}");
            assert!(names.filter(TopicFilter::parse(name).unwrap()).is_err(), "{name}");
            assert_eq!(names.heard(name), None);
        }
        for filter in ["$share/g/$SYS/#", "$share/g/$share/h/x", "$queue/x", "$exclusive/x"] {
            assert!(names.filter(TopicFilter::parse(filter).unwrap()).is_err(), "{filter}");
        }
        assert!(names.topic("a/b*c/d>").is_ok());
        let mounted = Names::of(&acme, &acme, below("t/"));
        assert!(mounted.topic("$SYS/x").is_ok(), "it is not a first level there");
        assert!(mounted.topic(&"x".repeat(65_534)).is_err(), "it does not fit");
    }
}
