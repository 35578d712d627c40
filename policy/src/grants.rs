use crate::role::fill;
use crate::{
    Broker, DenyReason, KeyExpr, Name, Pattern, Principal, Responses, Role, Template, Verdict,
};

/// What one principal may publish and subscribe on one broker: compiled once, never changed. Whoever
/// wants other rights compiles other grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    publish: Side,
    subscribe: Side,
    responses: Option<Responses>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Side {
    allow: Box<[Pattern]>,
    /// Where each of those names the tenant.
    tenant_segments: Box<[Option<usize>]>,
    deny: Box<[Pattern]>,
}

impl Grants {
    /// Closes a role for a principal.
    ///
    /// # Errors
    /// [`DenyReason::DeviceRequired`] if the role needs a device and the principal has none.
    pub fn compile(role: &Role, broker: Broker, principal: &Principal) -> Verdict<Self> {
        Ok(Self {
            publish: Side {
                allow: fill(role.publish_on(broker), principal)?,
                tenant_segments: role.publish_on(broker).map(Template::tenant_segment).collect(),
                deny: fill(role.deny_publish.iter(), principal)?,
            },
            subscribe: Side {
                allow: fill(role.subscribe_on(broker), principal)?,
                tenant_segments: role.subscribe_on(broker).map(Template::tenant_segment).collect(),
                deny: fill(role.deny_subscribe.iter(), principal)?,
            },
            responses: role.rules(broker).responses,
        })
    }

    /// Whether a message may be published to this name.
    ///
    /// # Errors
    /// [`DenyReason::PublishDenied`] unless a grant covers it and none denies it.
    pub fn publish(&self, name: &Name<'_>) -> Verdict<()> {
        if self.publish.admits(name) { Ok(()) } else { Err(DenyReason::PublishDenied) }
    }

    /// Whether everything that the filter matches may be received.
    ///
    /// # Errors
    /// [`DenyReason::SubscribeDenied`] unless one grant includes all of it and no denial overlaps it.
    pub fn subscribe(&self, filter: &Pattern) -> Verdict<()> {
        let allowed = self.subscribe.allow.iter().any(|pattern| pattern.includes(filter));
        if allowed && !self.subscribe.deny.iter().any(|pattern| pattern.intersects(filter)) {
            Ok(())
        } else {
            Err(DenyReason::SubscribeDenied)
        }
    }

    /// Whether a message of this name may be delivered: asked again for what was queued or retained
    /// before the grants were compiled.
    pub fn receives(&self, name: &Name<'_>) -> bool {
        self.subscribe.admits(name)
    }

    /// Whether messages may be published to everything that a key expression stands for.
    ///
    /// # Errors
    /// [`DenyReason::PublishDenied`] unless one grant includes all of it and no denial meets it.
    pub fn publish_keys(&self, keys: &KeyExpr<'_>) -> Verdict<()> {
        if self.publish.includes(keys) { Ok(()) } else { Err(DenyReason::PublishDenied) }
    }

    /// Whether everything that a key expression stands for may be received.
    ///
    /// # Errors
    /// [`DenyReason::SubscribeDenied`] unless one grant includes all of it and no denial meets it.
    pub fn subscribe_keys(&self, keys: &KeyExpr<'_>) -> Verdict<()> {
        if self.subscribe.includes(keys) { Ok(()) } else { Err(DenyReason::SubscribeDenied) }
    }

    /// Whether a key expression stands for something that may be published to or received.
    pub fn concerns_keys(&self, keys: &KeyExpr<'_>) -> bool {
        let mut allowed = self.publish.allow.iter().chain(&self.subscribe.allow);
        allowed.any(|pattern| pattern.meets_keys(keys))
    }

    /// Whether some message of a key expression may be delivered: some of what it stands for is granted,
    /// and none of it denied.
    pub fn receives_keys(&self, keys: &KeyExpr<'_>) -> bool {
        self.subscribe.allow.iter().any(|pattern| pattern.meets_keys(keys))
            && !self.subscribe.deny.iter().any(|pattern| pattern.meets_keys(keys))
    }

    /// A key expression that holds all that is granted, where all of it begins with the same literal
    /// segments. What begins with `@` is left out, as Zenoh's own wildcards leave it out.
    pub fn common_keys(&self) -> Option<String> {
        let all = self.publish.allow.iter().chain(&self.subscribe.allow);
        let mut allowed = all.filter(|pattern| !pattern.is_verbatim());
        let mut common = allowed.next()?.literals();
        for pattern in allowed {
            let shared = common.iter().zip(pattern.literals()).take_while(|(a, b)| **a == *b);
            let count = shared.count();
            common.truncate(count);
        }
        (!common.is_empty()).then(|| format!("{}/**", common.join("/")))
    }

    /// Which tenant a service speaks to that publishes to this name: the one that stands where the
    /// grant that allows it has `{tenant}`.
    pub fn tenant_of<'a>(&self, name: &Name<'a>) -> Option<&'a str> {
        let mut granted = self.publish.matching(name);
        name.segments().get(granted.next()??).copied()
    }

    /// Whose a name is that a service may receive: the tenant that stands where a grant that allows it
    /// has `{tenant}`.
    pub fn tenant_heard<'a>(&self, name: &Name<'a>) -> Option<&'a str> {
        let segment = self.subscribe.matching(name).flatten().next()?;
        name.segments().get(segment).copied()
    }

    /// What may be published to.
    pub fn publish_allowed(&self) -> &[Pattern] {
        &self.publish.allow
    }

    /// What may not be published to although it is allowed.
    pub fn publish_denied(&self) -> &[Pattern] {
        &self.publish.deny
    }

    /// What may be subscribed to.
    pub fn subscribe_allowed(&self) -> &[Pattern] {
        &self.subscribe.allow
    }

    /// What may not be received although it is allowed.
    pub fn subscribe_denied(&self) -> &[Pattern] {
        &self.subscribe.deny
    }

    /// How requests may be answered.
    pub fn responses(&self) -> Option<Responses> {
        self.responses
    }
}

impl Side {
    fn includes(&self, keys: &KeyExpr<'_>) -> bool {
        self.allow.iter().any(|pattern| pattern.includes_keys(keys))
            && !self.deny.iter().any(|pattern| pattern.meets_keys(keys))
    }

    /// Where each pattern that allows a name has the tenant, if it has.
    fn matching(&self, name: &Name<'_>) -> impl Iterator<Item = Option<usize>> {
        let allowed = self.allow.iter().zip(&self.tenant_segments);
        allowed.filter(|(pattern, _)| pattern.matches(name)).map(|(_, segment)| *segment)
    }

    fn admits(&self, name: &Name<'_>) -> bool {
        self.allow.iter().any(|pattern| pattern.matches(name))
            && !self.deny.iter().any(|pattern| pattern.matches(name))
    }
}
