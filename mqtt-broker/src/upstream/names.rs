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

/// One client's names.
#[derive(Debug)]
pub(super) struct Names {
    /// What stands before every name on the broker: the prefix, then the mount.
    whole: Box<str>,
    /// Bytes of the prefix.
    prefix: usize,
    /// What stands before every shared group: tenant ids have no dot, so groups of two never meet.
    group: Box<str>,
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
    /// `prefix` may hold `{tenant}`.
    pub(super) fn of(hook: &dyn Hook, access: &dyn Access, prefix: &str) -> Self {
        let (tenant, prefix, mount) = match access.scope() {
            Scope::Tenant(tenant) => {
                let prefix = prefix.replace("{tenant}", tenant.as_str());
                (tenant.as_str(), prefix, hook.mount(tenant))
            }
            // A service is about all tenants, and says itself which one it means.
            Scope::Service => (NOBODY, String::new(), String::new()),
        };
        Self {
            whole: format!("{prefix}{mount}").into(),
            prefix: prefix.len(),
            group: format!("{tenant}.").into(),
        }
    }

    /// The topic on the broker of what a service says to a tenant.
    ///
    /// # Errors
    /// [`DenyReason::NameInvalid`], as for [`topic`](Self::topic).
    pub(super) fn in_tenant(
        hook: &dyn Hook,
        prefix: &str,
        tenant: &TenantId,
        name: &str,
    ) -> Verdict<String> {
        let prefix = prefix.replace("{tenant}", tenant.as_str());
        let topic = format!("{prefix}{}{name}", hook.mount(tenant));
        if is_topic_name(&topic) && is_plain(&topic) {
            Ok(topic)
        } else {
            Err(DenyReason::NameInvalid)
        }
    }

    /// Bytes that every name gets on its way.
    pub(super) fn len(&self) -> usize {
        self.whole.len()
    }

    /// Whether they are a service's.
    pub(super) fn is_service(&self) -> bool {
        self.group.strip_suffix('.') == Some(NOBODY)
    }

    /// Whether names stay as they are.
    pub(super) fn are_unchanged(&self) -> bool {
        self.whole.is_empty()
    }

    /// The topic on the broker.
    ///
    /// # Errors
    /// [`DenyReason::NameInvalid`] for what a broker could take for something else.
    pub(super) fn topic<'a>(&self, name: &'a str) -> Verdict<Cow<'a, str>> {
        let topic = self.with_whole(name);
        if is_topic_name(&topic) && is_plain(&topic) {
            Ok(topic)
        } else {
            Err(DenyReason::NameInvalid)
        }
    }

    /// A topic of [`topic`](Self::topic) as rights are written.
    pub(super) fn mounted<'a>(&self, topic: &'a str) -> &'a str {
        topic.get(self.prefix..).unwrap_or_default()
    }

    /// The filter on the broker.
    ///
    /// # Errors
    /// [`DenyReason::NameInvalid`], as for [`topic`](Self::topic).
    pub(super) fn filter(&self, filter: TopicFilter<'_>) -> Verdict<Wanted> {
        let whole = self.with_whole(filter.filter);
        if !is_plain(&whole) {
            return Err(DenyReason::NameInvalid);
        }
        let len = whole.len() - self.prefix;
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
        let name = topic.strip_prefix(&*self.whole).filter(|name| !name.is_empty())?;
        is_plain(topic).then(|| Heard { mounted: self.mounted(topic), name })
    }

    fn with_whole<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if self.whole.is_empty() {
            Cow::Borrowed(name)
        } else {
            Cow::Owned(format!("{}{name}", self.whole))
        }
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
    use super::{Heard, Names, client_id};
    use crate::codec::TopicFilter;
    use crate::hook::AllowAll;
    use bulkhead_policy::TenantId;

    fn everybody(tenant: &str) -> AllowAll {
        AllowAll::of(TenantId::parse(tenant).unwrap())
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
        let names = [&acme, &other].map(|access| Names::of(access, access, "t/{tenant}/"));
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
        let names = Names::of(&acme, &acme, "");
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
        let mounted = Names::of(&acme, &acme, "t/");
        assert!(mounted.topic("$SYS/x").is_ok(), "it is not a first level there");
        assert!(mounted.topic(&"x".repeat(65_534)).is_err(), "it does not fit");
    }
}
