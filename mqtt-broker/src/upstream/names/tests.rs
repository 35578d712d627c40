use super::{Heard, Names, Naming, Placed, client_id};
use crate::codec::TopicFilter;
use crate::hook::{Access, AllowAll, Answer, Attempt, Hook, Renewal};
use bulkhead_policy::service::in_tenant;
use bulkhead_policy::{
    Broker, DenyReason, DeviceId, Grants, Principal, Quotas, Role, RoleName, Scope, TenantId,
    Verdict,
};
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::select;
use std::sync::Arc;

fn everybody(tenant: &str) -> AllowAll {
    AllowAll::of(TenantId::parse(tenant).unwrap())
}

fn own<'a>(names: &Names, access: &AllowAll, name: &'a str) -> Verdict<Placed<'a>> {
    names.topic(access, access, name)
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
        let reply = own(&a, &acme, "_reply/x").unwrap();
        assert_eq!(reply.wire, format!("{prefix}_tenant/acme/_reply/x"));
        assert_eq!(reply.mounted(), "_reply/x");
        let heard = Heard { mounted: "_reply/x", name: "_reply/x", among: None };
        assert_eq!((a.heard(&reply.wire), b.heard(&reply.wire)), (Some(heard), None));
        let filter = TopicFilter::parse("$share/g/_reply/+").unwrap();
        let wanted = a.filter(filter).unwrap();
        assert_eq!(wanted.wire, format!("$share/acme.g/{prefix}_tenant/acme/_reply/+"));
        assert_eq!(wanted.mounted(), "_reply/+");
        // Neither by the name on the broker, nor by what others put where such names would be.
        for name in ["_tenant/globex/_reply/x", "_tenant/acme/_reply/x", "_tenant/+/_reply/x"] {
            let filter = TopicFilter::parse(name).unwrap();
            assert!(own(&a, &acme, name).is_err() && a.filter(filter).is_err(), "{name}");
        }
        assert_eq!(a.heard(&format!("{prefix}_reply/x")), None);
        assert_eq!(a.heard(&format!("{prefix}_tenant/acme/x")), None);
        assert_eq!(a.heard(&format!("{prefix}_tenant/acme-2/_reply/x")), None);
        // All other names stay where they are.
        assert_eq!(own(&a, &acme, "_replies/x").unwrap().wire, format!("{prefix}_replies/x"));
        assert!(a.heard(&format!("{prefix}device-connect/acme/x")).is_some());
    }
    let naming = Naming { prefix: "t/{tenant}/", private: &private };
    let names = Names::of(&acme, &acme, naming);
    assert_eq!(own(&names, &acme, "_reply/x").unwrap().wire, "t/acme/_reply/x");
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
    let topic = own(a, &acme, "x").unwrap();
    assert_eq!((&*topic.wire, topic.mounted()), ("t/acme/x", "x"));
    assert_eq!(a.heard("t/acme/x"), Some(Heard { mounted: "x", name: "x", among: None }));
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
    for name in ["$SYS/x", "$delayed/1/globex/x", "$", "a/*", "a/>/b", "*", "a\r\nb", "a\u{7f}"] {
        assert!(own(&names, &acme, name).is_err(), "{name}");
        assert!(names.filter(TopicFilter::parse(name).unwrap()).is_err(), "{name}");
        assert_eq!(names.heard(name), None);
    }
    for filter in ["$share/g/$SYS/#", "$share/g/$share/h/x", "$queue/x", "$exclusive/x"] {
        assert!(names.filter(TopicFilter::parse(filter).unwrap()).is_err(), "{filter}");
    }
    assert!(own(&names, &acme, "a/b*c/d>").is_ok());
    let mounted = Names::of(&acme, &acme, below("t/"));
    assert!(own(&mounted, &acme, "$SYS/x").is_ok(), "it is not a first level there");
    assert!(own(&mounted, &acme, &"x".repeat(65_534)).is_err(), "it does not fit");
}

/// Whose clients' names get a mount.
#[derive(Debug)]
struct Site(Option<&'static str>);

impl Hook for Site {
    fn connect<'a>(&'a self, _: Attempt<'a>) -> Answer<'a> {
        Box::pin(std::future::ready(Err(DenyReason::Internal)))
    }

    fn mount(&self, tenant: &TenantId) -> String {
        self.0.map_or_else(String::new, |m| format!("{}/", m.replace("{tenant}", tenant.as_str())))
    }
}

/// What a role grants to somebody.
struct Bearer {
    scope: Scope,
    grants: Grants,
}

impl Bearer {
    fn of(scope: Scope) -> Self {
        let all = ["device-connect/{tenant}/**", "_reply/{literal}", "platform/**"];
        let role = serde_json::json!({"publish": all, "subscribe": all});
        let role: Role = serde_json::from_value(role).unwrap();
        let principal = Principal {
            scope: scope.clone(),
            device: None,
            role: RoleName::parse("own").unwrap(),
            issuer: "corp".into(),
            token_id: None,
            origin: None,
            issued_at: None,
            expires_at: Timestamp::MAX,
        };
        let grants = Grants::compile(&role, Broker::Mqtt, &principal).unwrap();
        Self { scope, grants }
    }

    fn tenant(id: &str) -> Self {
        Self::of(Scope::Tenant(TenantId::parse(id).unwrap()))
    }

    fn names(&self, site: &Site, naming: Naming<'_>) -> Names {
        Names::of(site, self, naming)
    }
}

impl Access for Bearer {
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn device(&self) -> Option<&DeviceId> {
        None
    }

    fn publish(&self, topic: &str) -> Verdict<()> {
        self.grants.publish(&Broker::Mqtt.name(topic).map_err(|_| DenyReason::NameInvalid)?)
    }

    fn subscribe(&self, filter: &str) -> Verdict<()> {
        self.grants.subscribe(&Broker::Mqtt.filter(filter).map_err(|_| DenyReason::NameInvalid)?)
    }

    fn receives(&self, topic: &str) -> bool {
        Broker::Mqtt.name(topic).is_ok_and(|name| self.grants.receives(&name))
    }

    fn expires_at(&self) -> Option<Timestamp> {
        None
    }

    fn quotas(&self) -> Quotas {
        Quotas::default()
    }

    fn tenant_of(&self, topic: &str) -> Option<TenantId> {
        let name = Broker::Mqtt.name(topic).ok()?;
        TenantId::parse(self.grants.tenant_of(&name)?).ok()
    }

    fn tenant_heard(&self, topic: &str) -> Option<TenantId> {
        let name = Broker::Mqtt.name(topic).ok()?;
        TenantId::parse(self.grants.tenant_heard(&name)?).ok()
    }

    fn renew(&self) -> Verdict<Renewal> {
        Ok(Renewal::Changed(Arc::new(Self::of(self.scope.clone()))))
    }
}

#[test]
fn a_service_says_and_hears_the_names_of_every_tenant() {
    let (site, service) = (Site(None), Bearer::of(Scope::Service));
    let private = ["_reply".to_owned()];
    let registry = "device-connect/acme/registry";
    for (prefix, wire, filter, reply) in [
        ("", "", "", "_tenant/acme/"),
        ("sites/", "sites/", "sites/", "sites/_tenant/acme/"),
        ("{tenant}/", "acme/", "+/", "acme/"),
        ("{tenant}/x/{tenant}/", "acme/x/acme/", "+/x/+/", "acme/x/acme/"),
    ] {
        let names = service.names(&site, Naming { prefix, private: &private });
        let topic = |name: &'static str| names.topic(&site, &service, name).unwrap();
        let said = topic(registry);
        assert_eq!((&*said.wire, said.mounted()), (&*format!("{wire}{registry}"), registry));
        assert_eq!(names.heard(&said.wire).unwrap().name, registry);
        assert_eq!(topic("$tenant/acme/_reply/x").wire, format!("{reply}_reply/x"));
        assert_eq!(names.heard(&format!("{reply}_reply/x")).unwrap().name, "_reply/x");
        let response = names.response(&site, &service, registry, "_reply/x").unwrap();
        assert_eq!(response.wire, format!("{reply}_reply/x"), "a tenant's answer comes from there");
        let wanted = |text: &str| names.filter(TopicFilter::parse(text).unwrap()).unwrap();
        let all = wanted("$share/g/device-connect/+/registry");
        assert_eq!(all.wire, format!("$share/-.g/{filter}device-connect/+/registry"));
        assert_eq!(all.mounted(), "device-connect/+/registry");
        assert_eq!(wanted(registry).wire, format!("{filter}{registry}"));
        let replies =
            if prefix.contains("{tenant}") { filter } else { &format!("{prefix}_tenant/+/") };
        assert_eq!(wanted("_reply/x").wire, format!("{replies}_reply/x"));
        assert_eq!(names.heard(&format!("{wire}{registry}\n")), None);
        if !prefix.contains("{tenant}") {
            // What is kept apart has one name for it, and that is not its place.
            let place = "_tenant/acme/_reply/x";
            assert!(names.topic(&site, &service, place).is_err());
            assert!(names.filter(TopicFilter::parse(place).unwrap()).is_err());
        }
    }
}

#[test]
fn a_service_hears_no_name_of_a_tenant_in_anothers_place() {
    let (site, service) = (Site(None), Bearer::of(Scope::Service));
    let is_heard = |prefix: &str, topic: &str| {
        let private = ["_reply".to_owned(), "device-connect".to_owned()];
        let private = if prefix.is_empty() { &private[..] } else { &private[..1] };
        let names = service.names(&site, Naming { prefix, private });
        let heard = names.heard(topic);
        heard.is_some_and(|h| h.is_of_its_place(&service) && service.receives(h.mounted))
    };
    for (prefix, place) in [("{tenant}/", ""), ("", "_tenant/")] {
        assert!(is_heard(prefix, &format!("{place}acme/device-connect/acme/registry")));
        for among in ["globex", "-", "+", "registry", ""] {
            let topic = format!("{place}{among}/device-connect/acme/registry");
            assert!(!is_heard(prefix, &topic), "{topic}");
        }
    }
    assert!(is_heard("{tenant}/", "-/platform/x"));
    assert!(!is_heard("{tenant}/", "device-connect/acme/registry"), "it is before the prefix");
    assert!(!is_heard("{tenant}/{tenant}/", "acme/globex/device-connect/acme/registry"));
    assert!(!is_heard("", "_reply/x"), "a tenant's is elsewhere");
}

const PREFIXES: [&str; 8] =
    ["", "sites/", "{tenant}/", "t/{tenant}/", "{tenant}/x/{tenant}/", "acme/", "_tenant/", "-/"];
const TENANTS: [&str; 5] = ["acme", "acme-2", "globex", "sites", "t"];

/// Names that hold what places are made of.
fn names() -> impl Strategy<Value = String> {
    let levels = ["device-connect", "_reply", "_tenant", "platform", "x", "-", "device"];
    let level = select([&levels[..], &TENANTS].concat());
    prop_oneof![
        proptest::collection::vec(level.clone(), 1..6).prop_map(|levels| levels.join("/")),
        (select(&TENANTS[..]), level.clone())
            .prop_map(|(tenant, last)| format!("device-connect/{tenant}/{last}")),
        level.prop_map(|last| format!("_reply/{last}")),
    ]
}

/// A prefix, what is private, and a mount.
fn places() -> impl Strategy<Value = (&'static str, Vec<String>, Site)> {
    let private = select(vec![vec![], vec!["_reply"], vec!["_reply", "device-connect", "x"]]);
    let private = private.prop_map(|levels| levels.into_iter().map(str::to_owned).collect());
    let mounts = vec![None, Some("device-connect/{tenant}"), Some("{tenant}")];
    (select(&PREFIXES[..]), private, select(mounts).prop_map(Site))
}

/// Whether names that do not say whose they are and are not kept apart are one and the same for all.
fn is_everybodys(naming: Naming<'_>, site: &Site, name: &str) -> bool {
    let first = name.split('/').next().unwrap();
    !naming.says_whose() && site.0.is_none() && naming.private.iter().all(|own| own != first)
}

fn includes(filter: &str, topic: &str) -> bool {
    Broker::Mqtt.filter(filter).unwrap().matches(&Broker::Mqtt.name(topic).unwrap())
}

proptest! {
    #[test]
    fn a_tenants_names_come_back_and_are_no_others(
        (prefix, private, site) in places(),
        (one, other) in (select(&TENANTS[..]), select(&TENANTS[..])),
        (name, another) in (names(), names()),
    ) {
        let naming = Naming { prefix, private: &private };
        let (a, b) = (Bearer::tenant(one), Bearer::tenant(other));
        let [theirs, others] = [&a, &b].map(|bearer| bearer.names(&site, naming));
        let Ok(said) = theirs.topic(&site, &a, &name) else { return Ok(()) };
        let heard = theirs.heard(&said.wire);
        let expected = Heard { mounted: said.mounted(), name: &name, among: None };
        prop_assert_eq!(heard, Some(expected));
        if one == other || is_everybodys(naming, &site, &name) {
            return Ok(());
        }
        prop_assert_eq!(others.heard(&said.wire), None, "{} hears it", other);
        if let Ok(collides) = others.topic(&site, &b, &another) {
            prop_assert_ne!(said.wire, collides.wire);
        }
    }

    #[test]
    fn what_a_service_says_is_heard_by_the_tenant_that_it_names_alone(
        (prefix, private, site) in places(),
        one in select(&TENANTS[..]),
        name in names(),
        names_tenant in any::<bool>(),
    ) {
        let naming = Naming { prefix, private: &private };
        let service = Bearer::of(Scope::Service);
        let own = service.names(&site, naming);
        let tenant = TenantId::parse(one).unwrap();
        let (text, whose) = if names_tenant {
            (in_tenant(&tenant, &name), Some(tenant.clone()))
        } else {
            (name.clone(), service.tenant_of(&name))
        };
        // What it may not say does not get anywhere.
        let Ok(said) = own.topic(&site, &service, &text) else { return Ok(()) };
        if !names_tenant && service.publish(&name).is_err() {
            return Ok(());
        }
        // It hears itself by the same name, as rights are written.
        let heard = own.heard(&said.wire);
        prop_assert_eq!(heard.map(|heard| heard.name), Some(said.mounted()), "{}", said.wire);
        for id in TENANTS {
            let bearer = Bearer::tenant(id);
            let names = bearer.names(&site, naming);
            let heard = names.heard(&said.wire).map(|heard| heard.mounted);
            if whose.as_ref().is_some_and(|whose| whose.as_str() == id) {
                prop_assert_eq!(heard, Some(said.mounted()));
            } else if !is_everybodys(naming, &site, &name) {
                prop_assert_eq!(heard, None, "{} hears {}", id, said.wire);
            }
        }
    }

    #[test]
    fn what_a_tenant_says_is_heard_by_a_service_under_no_other_tenants_name(
        (prefix, private, site) in places(),
        id in select(&TENANTS[..]),
        name in names(),
    ) {
        let naming = Naming { prefix, private: &private };
        let (service, bearer) = (Bearer::of(Scope::Service), Bearer::tenant(id));
        let own = service.names(&site, naming);
        let Ok(said) = bearer.names(&site, naming).topic(&site, &bearer, &name) else {
            return Ok(());
        };
        let heard = own.heard(&said.wire).unwrap();
        prop_assert_eq!(heard.mounted, said.mounted());
        let whose = service.tenant_heard(heard.mounted);
        // With a mount the name itself says whose it is, and nothing else has to.
        let is_own = site.0.is_some() || whose.is_none_or(|whose| whose.as_str() == id);
        if naming.says_whose() || !is_everybodys(naming, &site, &name) {
            prop_assert_eq!(heard.is_of_its_place(&service), is_own, "{}", said.wire);
        }
    }

    #[test]
    fn a_services_filter_finds_where_names_are(
        (prefix, private, site) in places(),
        name in names(),
        wild in proptest::collection::vec(any::<bool>(), 5),
        rest in any::<bool>(),
    ) {
        let naming = Naming { prefix, private: &private };
        let service = Bearer::of(Scope::Service);
        let own = service.names(&site, naming);
        let Ok(said) = own.topic(&site, &service, &name) else { return Ok(()) };
        // Of the first level, it depends whether there is a place of its own for it.
        let levels = name.split('/').zip(&wild).enumerate();
        let levels = levels.map(|(at, (level, wild))| if at > 0 && *wild { "+" } else { level });
        let mut filter = levels.collect::<Vec<_>>().join("/");
        if rest {
            filter.push_str("/#");
        }
        prop_assert!(includes(&filter, &name));
        let wanted = own.filter(TopicFilter::parse(&filter).unwrap());
        if filter.starts_with("_tenant/") && wanted.is_err() {
            return Ok(());
        }
        let wanted = wanted.unwrap();
        prop_assert_eq!(wanted.mounted(), &*filter);
        prop_assert!(includes(&wanted.wire, &said.wire), "{} of {}", wanted.wire, said.wire);
    }
}
