//! Roles: templates of grants, and the built-in ones for the Device Connect name space.

use crate::{
    Broker, DenyReason, Pattern, PatternError, Principal, RoleName, SyntaxError, Template,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What the bearers of a role may do, with `{tenant}` and `{device}` still open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Names that may be published to, on every broker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Template>,
    /// Names that may be subscribed to, on every broker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscribe: Vec<Template>,
    /// Names that may not be published to although `publish` has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_publish: Vec<Template>,
    /// Names that may not be received although `subscribe` has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_subscribe: Vec<Template>,
    /// Which devices of its tenant the registry tells of.
    #[serde(default, skip_serializing_if = "Discover::is_everything")]
    pub discover: Discover,
    /// What comes on top on NATS.
    #[serde(default, skip_serializing_if = "Rules::is_empty")]
    pub nats: Rules,
    /// What comes on top on MQTT.
    #[serde(default, skip_serializing_if = "Rules::is_empty")]
    pub mqtt: Rules,
    /// What comes on top on Zenoh.
    #[serde(default, skip_serializing_if = "Rules::is_empty")]
    pub zenoh: Rules,
}

/// Which devices of its tenant somebody can find in the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Discover {
    /// All of them.
    #[default]
    Everything,
    /// Those of these types (`identity.device_type`, byte for byte), and itself.
    Types(BTreeSet<String>),
    /// Itself.
    Itself,
    /// None.
    Nothing,
}

impl Discover {
    fn is_everything(&self) -> bool {
        *self == Self::Everything
    }

    /// Whether a device of this type is among them; `is_itself` for the one that asks.
    pub fn admits(&self, device_type: Option<&str>, is_itself: bool) -> bool {
        match self {
            Self::Everything => true,
            Self::Types(types) => is_itself || device_type.is_some_and(|t| types.contains(t)),
            Self::Itself => is_itself,
            Self::Nothing => false,
        }
    }
}

/// What a role adds on one broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Names that may be published to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Template>,
    /// Names that may be subscribed to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscribe: Vec<Template>,
    /// Answers to received requests (NATS only, where the reply name is the requester's choice).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responses: Option<Responses>,
}

/// How a request may be answered on the name that its sender chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Responses {
    /// Messages per request.
    pub max: u32,
    /// How long after the request, in seconds.
    pub seconds: u32,
}

impl Responses {
    /// How long after the request an answer may come.
    pub fn ttl(self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

impl Rules {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The roles by name.
pub type RoleSet = BTreeMap<RoleName, Role>;

/// Why a role cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RoleError {
    /// A grant that all tenants would share.
    #[error(
        "pattern '{0}' does not contain {{tenant}}, so every tenant would share it; put {{tenant}} \
         into it, or for names that only their creator can know {{literal}}, under the broker that \
         it is for"
    )]
    NotConfined(Template),
    /// A router's own names, in a role for tenants.
    #[error(
        "pattern '{0}' has a chunk that begins with '@', by which Zenoh's routers are administered; take \
         it out, what is below a tenant's names is the tenant's without being spelled out"
    )]
    System(Template),
    /// Answers to names that requesters choose, where there are none.
    #[error("`responses` has no effect on {0}, where answers go by their names; take it out")]
    Responses(Broker),
    /// A pattern that one of the brokers in use has no way to write.
    #[error("pattern '{template}': {cause}; put it under the broker that it is for")]
    Inexpressible {
        /// The pattern.
        template: Template,
        /// What the broker has no way to write.
        cause: SyntaxError,
    },
}

impl Role {
    /// The templates that allow publishing on a broker.
    pub fn publish_on(&self, broker: Broker) -> impl Iterator<Item = &Template> {
        self.publish.iter().chain(&self.rules(broker).publish)
    }

    /// The templates that allow subscribing on a broker.
    pub fn subscribe_on(&self, broker: Broker) -> impl Iterator<Item = &Template> {
        self.subscribe.iter().chain(&self.rules(broker).subscribe)
    }

    /// What the role adds on one broker.
    pub fn rules(&self, broker: Broker) -> &Rules {
        match broker {
            Broker::Nats => &self.nats,
            Broker::Mqtt => &self.mqtt,
            Broker::Zenoh => &self.zenoh,
        }
    }

    /// Whether only a principal with a device can have the role.
    pub fn needs_device(&self) -> bool {
        self.templates().any(Template::names_device)
    }

    /// Checks that the role keeps its bearers inside their tenant on the brokers in use, and that
    /// each of its patterns can be written there.
    ///
    /// On NATS a tenant has an account of its own, so what stands under `nats` needs no
    /// `{tenant}`; on the other brokers a name without it needs a `{literal}`.
    ///
    /// # Errors
    /// The first pattern that does not hold, with the remedy.
    pub fn validate(&self, brokers: &[Broker]) -> Result<(), RoleError> {
        for template in self.publish.iter().chain(&self.subscribe) {
            if !template.names_tenant() {
                return Err(RoleError::NotConfined(template.clone()));
            }
        }
        for (broker, rules) in [(Broker::Mqtt, &self.mqtt), (Broker::Zenoh, &self.zenoh)] {
            if rules.responses.is_some() {
                return Err(RoleError::Responses(broker));
            }
            for template in rules.publish.iter().chain(&rules.subscribe) {
                if !template.names_tenant() && !template.names_literal() {
                    return Err(RoleError::NotConfined(template.clone()));
                }
            }
        }
        for &broker in brokers {
            let denied = self.deny_publish.iter().chain(&self.deny_subscribe);
            for template in self.publish_on(broker).chain(self.subscribe_on(broker)).chain(denied) {
                // Ids are plain words on every broker, so any one stands for all.
                let Some(pattern) = template.fill(None, None) else {
                    continue;
                };
                if let Err(cause) = broker.render(&pattern) {
                    return Err(RoleError::Inexpressible { template: template.clone(), cause });
                }
            }
        }
        Ok(())
    }

    /// Checks that a tenant can have the role on Zenoh: it names nothing of a router's own.
    ///
    /// # Errors
    /// [`RoleError::System`] for the first pattern that does.
    pub fn validate_for_tenants(&self) -> Result<(), RoleError> {
        let zenoh = Broker::Zenoh;
        let mut granted = self.publish_on(zenoh).chain(self.subscribe_on(zenoh));
        let system = granted.find(|template| template.names_system());
        system.map_or(Ok(()), |template| Err(RoleError::System(template.clone())))
    }

    fn templates(&self) -> impl Iterator<Item = &Template> {
        let common = [&self.publish, &self.subscribe, &self.deny_publish, &self.deny_subscribe];
        let special = [&self.nats, &self.mqtt, &self.zenoh];
        common
            .into_iter()
            .flatten()
            .chain(special.into_iter().flat_map(|r| r.publish.iter().chain(&r.subscribe)))
    }

    /// The built-in roles, for the name space `device-connect/{tenant}/…`.
    ///
    /// | role | may |
    /// |---|---|
    /// | `device` | publish its own subtree, to the registry and discovery, and commands to others; subscribe its own commands, events, lifecycle and broadcasts |
    /// | `member` | everything inside its tenant |
    /// | `viewer` | receive everything inside its tenant |
    /// | `operator` | as a member, and administer the tenant (such as issuing credentials for its devices) |
    /// | `service` | everything inside all tenants, and on Zenoh see what the gate of a router is doing; only for the platform's own programs |
    ///
    /// # Errors
    /// None in practice: the patterns are constants, which the tests of this crate parse.
    pub fn built_in() -> Result<RoleSet, PatternError> {
        let parse = |texts: &[&str]| texts.iter().map(|t| t.parse()).collect::<Result<Vec<_>, _>>();
        let one_answer = Some(Responses { max: 1, seconds: 60 });
        // A server counts a request once for each subscription that it reaches the client through, so
        // whoever subscribes with wildcards besides needs room for the one answer.
        let answers = Some(Responses { max: 10, seconds: 60 });
        let reply_nats = parse(&["_INBOX/**"])?;
        let reply_mqtt = parse(&["_reply/{literal}"])?;
        let jetstream = parse(&["$JS/API/**", "$JS/ACK/**", "$KV/**", "$O/**"])?;
        let whole_tenant = parse(&["device-connect/{tenant}/**"])?;

        let device = Role {
            publish: parse(&[
                "device-connect/{tenant}/{device}/**",
                "device-connect/{tenant}/*/cmd",
                "device-connect/{tenant}/registry",
                "device-connect/{tenant}/discovery",
            ])?,
            subscribe: parse(&[
                "device-connect/{tenant}/{device}/cmd",
                "device-connect/{tenant}/*/event/**",
                "device-connect/{tenant}/device/*",
                "device-connect/{tenant}/broadcast",
            ])?,
            nats: Rules {
                subscribe: reply_nats.clone(),
                responses: one_answer,
                ..Rules::default()
            },
            mqtt: Rules {
                publish: reply_mqtt.clone(),
                subscribe: reply_mqtt.clone(),
                ..Rules::default()
            },
            ..Role::default()
        };
        let member = Role {
            publish: whole_tenant.clone(),
            subscribe: whole_tenant.clone(),
            nats: Rules { publish: jetstream, subscribe: reply_nats.clone(), responses: answers },
            mqtt: device.mqtt.clone(),
            ..Role::default()
        };
        let viewer = Role {
            subscribe: whole_tenant,
            nats: Rules { subscribe: reply_nats.clone(), ..Rules::default() },
            ..Role::default()
        };
        let service = Role {
            nats: Rules {
                subscribe: parse(&["_INBOX/**"])?,
                responses: answers,
                ..Rules::default()
            },
            // What a router tells about the gate that it has loaded, and nothing else about itself.
            zenoh: Rules {
                subscribe: parse(&["@/{literal}/router/status/plugins/bulkhead/**"])?,
                ..Rules::default()
            },
            ..member.clone()
        };
        let named = [
            ("device", device),
            ("operator", member.clone()),
            ("member", member),
            ("viewer", viewer),
            ("service", service),
        ];
        Ok(named
            .into_iter()
            .filter_map(|(name, role)| Some((RoleName::parse(name).ok()?, role)))
            .collect())
    }
}

/// The patterns that a principal's templates become; `None` where one needs a device it has not.
pub(crate) fn fill<'a>(
    templates: impl Iterator<Item = &'a Template>,
    principal: &Principal,
) -> Result<Box<[Pattern]>, DenyReason> {
    let (tenant, device) = (principal.tenant(), principal.device.as_ref());
    templates
        .map(|template| template.fill(tenant, device).ok_or(DenyReason::DeviceRequired))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Discover, Role, RoleError};
    use crate::Broker;

    #[test]
    fn built_in_roles_keep_to_their_tenant_and_render_everywhere() {
        let roles = Role::built_in().unwrap();
        assert_eq!(roles.len(), 5);
        for (name, role) in &roles {
            assert_eq!(role.validate(&Broker::ALL), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_grant_that_tenants_would_share_is_refused() {
        let shared: Role = toml::from_str(r#"publish = ["device-connect/**"]"#).unwrap();
        assert!(matches!(shared.validate(&[]), Err(RoleError::NotConfined(_))));
        let inbox: Role = toml::from_str(r#"mqtt.subscribe = ["_reply/*"]"#).unwrap();
        assert!(matches!(inbox.validate(&[]), Err(RoleError::NotConfined(_))));
    }

    #[test]
    fn what_would_have_no_effect_is_refused() {
        let with = |broker| {
            let text = format!("{broker}.responses = {{ max = 1, seconds = 5 }}");
            toml::from_str::<Role>(&text).unwrap().validate(&Broker::ALL)
        };
        assert_eq!(with("nats"), Ok(()));
        assert_eq!(with("mqtt"), Err(RoleError::Responses(Broker::Mqtt)));
        assert_eq!(with("zenoh"), Err(RoleError::Responses(Broker::Zenoh)));
    }

    #[test]
    fn a_tenants_role_names_nothing_of_a_routers_own() {
        for (name, role) in Role::built_in().unwrap() {
            assert_eq!(role.validate_for_tenants().is_ok(), name.as_str() != "service", "{name}");
        }
        for text in [
            r#"zenoh.subscribe = ["@/{literal}/router/**"]"#,
            r#"zenoh.publish = ["@/{literal}/{tenant}/**"]"#,
            r#"subscribe = ["x/{tenant}/@adv/**"]"#,
        ] {
            let role: Role = toml::from_str(text).unwrap();
            assert_eq!(role.validate(&[Broker::Zenoh]), Ok(()));
            assert!(matches!(role.validate_for_tenants(), Err(RoleError::System(_))), "{text}");
        }
        let mqtt: Role = toml::from_str(r#"mqtt.subscribe = ["@x/{tenant}/**"]"#).unwrap();
        assert_eq!(mqtt.validate_for_tenants(), Ok(()));
    }

    #[test]
    fn a_grant_that_a_broker_cannot_write_is_refused_only_where_it_is_used() {
        let role: Role = toml::from_str(r#"publish = ["v1.0/{tenant}/x"]"#).unwrap();
        assert_eq!(role.validate(&[Broker::Mqtt, Broker::Zenoh]), Ok(()));
        assert!(matches!(role.validate(&Broker::ALL), Err(RoleError::Inexpressible { .. })));
    }

    #[test]
    fn what_a_role_discovers_is_written_plainly() {
        let role = |text: &str| toml::from_str::<Role>(text).unwrap().discover;
        assert_eq!(role(""), Discover::Everything);
        assert!(role("").admits(None, false));
        assert!(!role("discover = \"nothing\"").admits(Some("camera"), true));
        assert!(role("discover = \"itself\"").admits(None, true));
        assert!(!role("discover = \"itself\"").admits(Some("camera"), false));
        let cameras = role("discover = { types = [\"camera\"] }");
        assert!(cameras.admits(Some("camera"), false) && cameras.admits(Some("lock"), true));
        assert!(!cameras.admits(Some("lock"), false) && !cameras.admits(None, false));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(toml::from_str::<Role>("publsh = []").is_err());
    }
}
