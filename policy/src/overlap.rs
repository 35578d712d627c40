//! Whether roles keep tenants apart where all tenants share one space of names.
//!
//! That each pattern holds `{tenant}` is not enough: of `plant/{tenant}/**` and `plant/*/{tenant}` both
//! have `plant/acme/globex`, the one for acme and the other for globex.

use crate::pattern::{Segment, Slot};
use crate::{Broker, Role, RoleName, RoleSet, Template, TenantId};

/// Two patterns with a name in common that is one tenant's by the one, and another's by the other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "of '{pattern}' of role '{role}' and '{other_pattern}' of role '{other}' some names are one tenant's by \
     the one and another tenant's by the other"
)]
pub struct Overlap {
    /// Whose the first pattern is.
    pub role: RoleName,
    /// The first pattern.
    pub pattern: Template,
    /// Whose the second pattern is.
    pub other: RoleName,
    /// The second pattern.
    pub other_pattern: Template,
}

/// Checks that what bearers of these roles publish on a broker, or answer, reaches nobody of another tenant,
/// and no service as another tenant's.
///
/// Names that hold no tenant by either pattern are nobody's: [`Role::validate`] has them spelt out.
/// Denied names are not looked at.
///
/// # Errors
/// The first two patterns that do not go together.
pub fn keeps_apart(roles: &RoleSet, broker: Broker) -> Result<(), Overlap> {
    // There a tenant's names are in an account of its own.
    if broker == Broker::Nats {
        return Ok(());
    }
    let listening = || {
        roles.iter().flat_map(|(name, role)| role.subscribe_on(broker).map(move |own| (name, own)))
    };
    let speaking =
        roles.iter().flat_map(|(name, role)| role.publish_on(broker).map(move |own| (name, own)));
    // Whoever may listen to names may ask for them on Zenoh, and answer those who ask.
    let asking = (broker == Broker::Zenoh).then(listening).into_iter().flatten();
    for (role, pattern) in speaking.chain(asking) {
        for (other, other_pattern) in listening() {
            let apart = is_system(pattern, broker) != is_system(other_pattern, broker);
            if !apart && pattern.confuses(other_pattern) {
                return Err(Overlap {
                    role: role.clone(),
                    pattern: pattern.clone(),
                    other: other.clone(),
                    other_pattern: other_pattern.clone(),
                });
            }
        }
    }
    Ok(())
}

/// Whether the names are of a router's own, which Zenoh's wildcards pass by: only a pattern that begins
/// with the same word has them.
fn is_system(template: &Template, broker: Broker) -> bool {
    let first = template.slots().first();
    let first = first.and_then(|slot| match slot {
        Slot::Fixed(Segment::Literal(word)) => Some(word),
        _ => None,
    });
    broker == Broker::Zenoh && first.is_some_and(|word| word.starts_with('@'))
}

/// A pattern that no role has all of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beyond<'a> {
    /// What the pattern allows: `publish` or `subscribe`.
    pub verb: &'static str,
    /// The pattern.
    pub pattern: &'a Template,
}

impl Role {
    /// The first pattern of the role that is no part of one that a role of `roles` has. Roles without
    /// any keep tenants apart wherever those do ([`keeps_apart`]), whoever has which.
    pub fn beyond(&self, roles: &RoleSet, broker: Broker) -> Option<Beyond<'_>> {
        if broker == Broker::Nats {
            return None;
        }
        let publish = self.publish_on(broker).find(|own| {
            let mut known = roles.values().flat_map(|role| role.publish_on(broker));
            !known.any(|known| known.has_all_of(own))
        });
        let subscribe = || {
            self.subscribe_on(broker).find(|own| {
                let mut known = roles.values().flat_map(|role| role.subscribe_on(broker));
                !known.any(|known| known.has_all_of(own))
            })
        };
        publish
            .map(|pattern| Beyond { verb: "publish", pattern })
            .or_else(|| subscribe().map(|pattern| Beyond { verb: "subscribe", pattern }))
    }
}

impl Template {
    /// Whether some name is in both for two different tenants.
    fn confuses(&self, other: &Template) -> bool {
        if !self.names_tenant() && !other.names_tenant() {
            return false;
        }
        let (mut left, mut right) = (self.slots().iter(), other.slots().iter());
        loop {
            match (left.next(), right.next()) {
                // One word cannot be two tenants.
                (Some(Slot::Tenant), Some(Slot::Tenant)) => return false,
                (None, None) | (Some(Slot::Fixed(Segment::Rest)), _) => return true,
                (_, Some(Slot::Fixed(Segment::Rest))) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(a), Some(b)) if !a.may_be(b) => return false,
                _ => {}
            }
        }
    }

    /// Whether every name of the other is one of this for the same principal, of which the tenant, if
    /// any, stands at the same place.
    fn has_all_of(&self, other: &Template) -> bool {
        let mut asked = other.slots().iter();
        for allowed in self.slots() {
            let covered = match (allowed, asked.next()) {
                (Slot::Fixed(Segment::Rest), _) => {
                    return self.names_tenant() || !other.names_tenant();
                }
                (_, None | Some(Slot::Fixed(Segment::Rest))) => false,
                (Slot::Fixed(Segment::Any), Some(_)) => true,
                (Slot::Fixed(Segment::Spelled), Some(slot)) => *slot != Slot::Fixed(Segment::Any),
                (allowed, Some(slot)) => allowed == slot,
            };
            if !covered {
                return false;
            }
        }
        asked.next().is_none() && (self.names_tenant() || !other.names_tenant())
    }
}

impl Slot {
    /// Whether one word can stand for both.
    fn may_be(&self, other: &Slot) -> bool {
        match (self, other) {
            (Slot::Fixed(Segment::Literal(a)), Slot::Fixed(Segment::Literal(b))) => a == b,
            (Slot::Tenant, Slot::Fixed(Segment::Literal(word)))
            | (Slot::Fixed(Segment::Literal(word)), Slot::Tenant) => TenantId::parse(word).is_ok(),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::keeps_apart;
    use crate::{Broker, DeviceId, Role, RoleName, RoleSet, Template, TenantId};
    use proptest::prelude::*;

    fn roles(text: &str) -> RoleSet {
        let roles: RoleSet = toml::from_str(text).unwrap();
        roles.values().for_each(|role| role.validate(&Broker::ALL).unwrap());
        roles
    }

    #[test]
    fn built_in_roles_go_together() {
        for broker in Broker::ALL {
            assert_eq!(keeps_apart(&Role::built_in().unwrap(), broker), Ok(()));
        }
    }

    #[test]
    fn a_tenant_in_another_place_is_refused_where_names_are_shared() {
        for odd in [
            r#"publish = ["device-connect/*/*/{tenant}"]"#,
            r#"subscribe = ["*/*/{tenant}/**"]"#,
            r#"mqtt.publish = ["{literal}/*/x"]
               zenoh.publish = ["{literal}/*/x"]"#,
            r#"publish = ["device-connect/registry/**", "device-connect/{device}/{tenant}"]"#,
        ] {
            let odd: Role = toml::from_str(odd).unwrap();
            let mut all = Role::built_in().unwrap();
            all.insert(RoleName::parse("odd").unwrap(), odd);
            assert_eq!(keeps_apart(&all, Broker::Nats), Ok(()));
            for broker in [Broker::Mqtt, Broker::Zenoh] {
                let error = keeps_apart(&all, broker).unwrap_err();
                assert!([error.role.as_str(), error.other.as_str()].contains(&"odd"));
            }
        }
        let mut all = Role::built_in().unwrap();
        all.extend(roles(
            r#"
            [plant]
            publish = ["plant/{tenant}/**", "*/{tenant}/{device}/x"]
            subscribe = ["plant/{tenant}/*/x"]
            mqtt.publish = ["ack/{literal}"]
            mqtt.subscribe = ["ack/{literal}"]
            "#,
        ));
        assert_eq!(keeps_apart(&all, Broker::Mqtt), Ok(()));
        let mut wide = Role::built_in().unwrap();
        wide.extend(roles("[wide]\npublish = [\"*/{tenant}/**\"]"));
        assert_eq!(keeps_apart(&wide, Broker::Zenoh), Ok(()), "`*` has no `@`");
        // No tenant is called `device-connect` or `_reply`, but one could be called `plant`.
        let mut first = Role::built_in().unwrap();
        first.extend(roles("[first]\npublish = [\"{tenant}/**\"]"));
        assert_eq!(keeps_apart(&first, Broker::Mqtt), Ok(()));
        first.extend(roles("[plant]\nsubscribe = [\"plant/{tenant}/**\"]"));
        assert!(keeps_apart(&first, Broker::Mqtt).is_err());
    }

    #[test]
    fn who_listens_on_zenoh_also_asks_and_answers() {
        let all = roles(
            r#"
            [device]
            publish = ["plant/{tenant}/{device}/event/**"]
            [viewer]
            subscribe = ["plant/{tenant}/**"]
            [odd]
            subscribe = ["plant/*/{tenant}"]
            "#,
        );
        assert_eq!(keeps_apart(&all, Broker::Mqtt), Ok(()));
        assert!(keeps_apart(&all, Broker::Zenoh).is_err());
    }

    #[test]
    fn a_role_of_a_tenant_is_a_part_of_what_is_known() {
        let known = Role::built_in().unwrap();
        let beyond = |text: &str, broker| {
            let role: Role = toml::from_str(text).unwrap();
            role.beyond(&known, broker).map(|beyond| beyond.pattern.to_string())
        };
        for within in [
            r#"publish = ["device-connect/{tenant}/{device}/event/**", "device-connect/{tenant}"]"#,
            r#"subscribe = ["device-connect/{tenant}/*/*", "device-connect/{tenant}/x/{literal}"]"#,
            r#"mqtt.subscribe = ["_reply/{literal}", "_reply/mine"]"#,
        ] {
            assert_eq!(beyond(within, Broker::Mqtt), None, "{within}");
        }
        for (text, first) in [
            (r#"subscribe = ["plant/{tenant}/**"]"#, "plant/{tenant}/**"),
            (r#"publish = ["device-connect/*/*/{tenant}"]"#, "device-connect/*/*/{tenant}"),
            (r#"mqtt.publish = ["_reply/{tenant}"]"#, "_reply/{tenant}"),
            (r#"mqtt.publish = ["_reply/*"]"#, "_reply/*"),
            (r#"mqtt.publish = ["_reply/{literal}/**"]"#, "_reply/{literal}/**"),
        ] {
            assert_eq!(beyond(text, Broker::Mqtt).as_deref(), Some(first));
            assert_eq!(beyond(text, Broker::Nats), None);
        }
    }

    fn template() -> impl Strategy<Value = Template> {
        let word = prop::sample::select(vec!["a", "b", "*", "{literal}", "{tenant}", "{device}"]);
        let words = prop::collection::vec(word, 1..4);
        (words, any::<bool>()).prop_filter_map("one tenant", |(words, rest)| {
            let text = words.join("/") + if rest { "/**" } else { "" };
            text.parse().ok()
        })
    }

    /// A template, and one with something else for each of its wildcards.
    fn part() -> impl Strategy<Value = (Template, Template)> {
        let word = || prop::sample::select(vec!["a", "b", "{literal}", "{tenant}", "{device}"]);
        let tail = prop::collection::vec(word(), 0..3);
        let wide = (template(), prop::collection::vec(word(), 3), tail);
        wide.prop_filter_map("one tenant", |(wide, words, tail)| {
            let text = wide.to_string();
            let narrower = text.split('/').zip(words.into_iter().chain([""])).map(
                |(before, word)| match before {
                    "*" | "{literal}" => word,
                    other => other,
                },
            );
            let tail = if text.ends_with("**") { tail } else { Vec::new() };
            let part: Vec<_> = narrower.filter(|word| *word != "**").chain(tail).collect();
            let part = part.join("/").parse().ok()?;
            Some((wide, part))
        })
    }

    /// Every name of up to four words out of those that templates and tenants are made of.
    fn names() -> Vec<String> {
        let mut all = vec![String::new()];
        let mut last = all.clone();
        for _ in 0..4 {
            let longer = |name: &String| ["a", "b", "c"].map(|word| format!("{name}/{word}"));
            last = last.iter().flat_map(longer).collect();
            all.extend(last.clone());
        }
        all.iter().filter_map(|name| name.strip_prefix('/')).map(str::to_owned).collect()
    }

    /// The tenant that a service takes a name for by a template.
    fn heard_as<'a>(template: &Template, name: &'a str) -> Option<&'a str> {
        let pattern = template.fill(None, None)?;
        let is_one = pattern.matches(&Broker::Mqtt.name(name).unwrap());
        is_one.then(|| name.split('/').nth(template.tenant_segment()?)).flatten()
    }

    /// The tenants of a name by a template.
    fn tenants_of(template: &Template, name: &str) -> Vec<&'static str> {
        let name = Broker::Mqtt.name(name).unwrap();
        let has = |tenant: &&str| {
            ["a", "b", "c"].iter().any(|device| {
                let (tenant, device) = (TenantId::parse(tenant), DeviceId::parse(device));
                let pattern = template.fill(tenant.as_ref().ok(), device.as_ref().ok());
                pattern.is_some_and(|pattern| pattern.matches(&name))
            })
        };
        ["a", "b", "c"].into_iter().filter(has).collect()
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_there_is(left in template(), right in template()) {
            let names_tenant = left.names_tenant() || right.names_tenant();
            let found = names_tenant && names().iter().any(|name| {
                let right = tenants_of(&right, name);
                tenants_of(&left, name).iter().any(|a| right.iter().any(|b| a != b))
            });
            let misheard = names().iter().any(|name| {
                heard_as(&right, name).is_some_and(|heard| {
                    tenants_of(&left, name).iter().any(|said| *said != heard)
                })
            });
            prop_assert!(left.confuses(&right) || !misheard, "{left} to a service by {right}");
            // What needs one and the same word to be two different tenants at once is found as well.
            prop_assert!(left.confuses(&right) || !found, "{left} {right}");
            prop_assert_eq!(left.confuses(&right), right.confuses(&left));
            if left.has_all_of(&right) {
                for name in names() {
                    let (wide, part) = (tenants_of(&left, &name), tenants_of(&right, &name));
                    prop_assert!(part.iter().all(|a| wide.contains(a)), "{left} {right} {name}");
                }
            }
        }

        #[test]
        fn parts_of_what_goes_together_go_together((left, a) in part(), (right, b) in part()) {
            prop_assert!(left.has_all_of(&a) || a.names_tenant() && !left.names_tenant());
            if !left.confuses(&right) && left.has_all_of(&a) && right.has_all_of(&b) {
                prop_assert!(!a.confuses(&b), "{a} of {left}, {b} of {right}");
            }
        }
    }
}
