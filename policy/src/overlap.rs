//! Whether roles keep tenants apart where all tenants share one space of names.
//!
//! That each pattern holds `{tenant}` is not enough: of `plant/{tenant}/**` and `plant/*/{tenant}` both
//! have `plant/acme/globex`, the one for acme and the other for globex.

use crate::pattern::{Segment, Slot};
use crate::{Broker, Role, RoleName, RoleSet, Template, TenantId};

/// Two patterns with a name in common that is one tenant's by the one, and another's by the other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "of '{publish}', to which role '{publisher}' may publish, and '{subscribe}', to which role \
     '{subscriber}' may subscribe, some names are one tenant's by the one and another tenant's by the other"
)]
pub struct Overlap {
    /// Whose the first pattern is.
    pub publisher: RoleName,
    /// Where one tenant may publish.
    pub publish: Template,
    /// Whose the second pattern is.
    pub subscriber: RoleName,
    /// Where another may listen.
    pub subscribe: Template,
}

/// Checks that what bearers of these roles publish on a broker reaches nobody of another tenant, and no
/// service as another tenant's.
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
    for (publisher, role) in roles {
        for publish in role.publish_on(broker) {
            for (subscriber, other) in roles {
                for subscribe in other.subscribe_on(broker) {
                    if is_system(publish, broker) != is_system(subscribe, broker) {
                        continue;
                    }
                    if publish.confuses(subscribe) {
                        return Err(Overlap {
                            publisher: publisher.clone(),
                            publish: publish.clone(),
                            subscriber: subscriber.clone(),
                            subscribe: subscribe.clone(),
                        });
                    }
                }
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

impl Role {
    /// The first pattern of the role that is no part of one that a role of `roles` has. Roles without
    /// any keep tenants apart wherever those do ([`keeps_apart`]), whoever has which.
    pub fn beyond(&self, roles: &RoleSet, broker: Broker) -> Option<&Template> {
        if broker == Broker::Nats {
            return None;
        }
        let publish = self.publish_on(broker).find(|own| {
            let mut known = roles.values().flat_map(|role| role.publish_on(broker));
            !known.any(|known| known.has_all_of(own))
        });
        publish.or_else(|| {
            self.subscribe_on(broker).find(|own| {
                let mut known = roles.values().flat_map(|role| role.subscribe_on(broker));
                !known.any(|known| known.has_all_of(own))
            })
        })
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
                assert!([error.publisher.as_str(), error.subscriber.as_str()].contains(&"odd"));
            }
        }
        let mut all = Role::built_in().unwrap();
        all.extend(roles(
            r#"
            [plant]
            publish = ["plant/{tenant}/**", "*/{tenant}/{device}/x"]
            subscribe = ["plant/{tenant}/*/{tenant}"]
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
    fn a_role_of_a_tenant_is_a_part_of_what_is_known() {
        let known = Role::built_in().unwrap();
        let beyond = |text: &str, broker| {
            let role: Role = toml::from_str(text).unwrap();
            role.beyond(&known, broker).map(ToString::to_string)
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
        (words, any::<bool>()).prop_map(|(words, rest)| {
            let text = words.join("/") + if rest { "/**" } else { "" };
            text.parse().unwrap()
        })
    }

    /// A template, and one with something else for each of its wildcards.
    fn part() -> impl Strategy<Value = (Template, Template)> {
        let word = || prop::sample::select(vec!["a", "b", "{literal}", "{tenant}", "{device}"]);
        let tail = prop::collection::vec(word(), 0..3);
        (template(), prop::collection::vec(word(), 3), tail).prop_map(|(wide, words, tail)| {
            let text = wide.to_string();
            let narrower = text.split('/').zip(words.into_iter().chain([""])).map(
                |(before, word)| match before {
                    "*" | "{literal}" => word,
                    other => other,
                },
            );
            let tail = if text.ends_with("**") { tail } else { Vec::new() };
            let part: Vec<_> = narrower.filter(|word| *word != "**").chain(tail).collect();
            let part = part.join("/").parse().unwrap();
            (wide, part)
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
