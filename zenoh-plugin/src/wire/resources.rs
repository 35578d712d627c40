//! What a router makes of the ids that a client declares, told another way: a tree of prefixes, as routers
//! keep their resources, which is read when a message comes. For tests and fuzzers.

use super::agreement::read;
use super::{Names, Resolved, Side};
use bulkhead_policy::{Broker, Grants, KeyExpr, Principal, Role, RoleName, Scope, TenantId};
use std::collections::HashMap;
use std::rc::Rc;
use zenoh_protocol::core::{ExprId, WireExpr};
use zenoh_protocol::network::{DeclareBody, Mapping, NetworkBody};

/// A router's resources, by the ids of one client. The router itself declares none.
#[derive(Debug, Default)]
struct Resources {
    ids: HashMap<ExprId, Rc<Resource>>,
}

#[derive(Debug)]
struct Resource {
    parent: Option<Rc<Resource>>,
    suffix: String,
}

impl Resources {
    fn find(&self, expr: &WireExpr<'_>) -> Option<Resource> {
        let parent = match (expr.scope, expr.mapping) {
            (0, _) => None,
            (id, Mapping::Sender) => Some(Rc::clone(self.ids.get(&id)?)),
            (_, Mapping::Receiver) => return None,
        };
        Some(Resource { parent, suffix: expr.suffix.to_string() })
    }
}

impl Resource {
    fn key(&self) -> String {
        let before = self.parent.as_ref().map(|parent| parent.key()).unwrap_or_default();
        before + &self.suffix
    }
}

/// Reads messages of a client as Zenoh's codec does. Whatever the gate takes a key for is what a router
/// makes of it that was told of the same declarations; and what is known of an id's rights is what
/// the grants say of its key. Returns how many keys were compared.
///
/// # Panics
/// If the two do not agree.
pub fn names(bytes: &[u8]) -> usize {
    let Some(grants) = grants() else { return 0 };
    let (mut gate, mut router) = (Names::default(), Resources::default());
    let (mut rest, mut compared) = (bytes, 0);
    while let Some(message) = read(&mut rest) {
        let used = match &message.body {
            NetworkBody::Push(push) => &push.wire_expr,
            NetworkBody::Request(request) => &request.wire_expr,
            NetworkBody::Response(response) => &response.wire_expr,
            NetworkBody::Declare(declare) => match &declare.body {
                DeclareBody::DeclareKeyExpr(new) => {
                    let (id, expr) = (new.id, &new.wire_expr);
                    match gate.declare(Side::Client, id, expr, &grants) {
                        Ok(true) => {
                            let told = router.find(expr);
                            assert!(told.is_some(), "told of a name below one that it never was");
                            router.ids.extend(told.map(|told| (id, Rc::new(told))));
                        }
                        Ok(false) => {}
                        // The session ends.
                        Err(_) => return compared,
                    }
                    continue;
                }
                DeclareBody::UndeclareKeyExpr(old) => {
                    if gate.undeclare(Side::Client, old.id) {
                        let known = router.ids.remove(&old.id);
                        assert!(known.is_some(), "told to forget what it never knew");
                    }
                    continue;
                }
                DeclareBody::DeclareSubscriber(new) => &new.wire_expr,
                DeclareBody::DeclareQueryable(new) => &new.wire_expr,
                DeclareBody::DeclareToken(new) => &new.wire_expr,
                _ => continue,
            },
            _ => continue,
        };
        let resolved = gate.resolve(Side::Client, used);
        if let Some(key) = resolved.key() {
            compared += 1;
            let found = router.find(used).map(|found| found.key());
            assert_eq!(found.as_deref(), Some(key), "another key for {used:?}");
            if let Resolved::Declared(declared) = &resolved {
                let keys = KeyExpr::parse(key).ok();
                let may = |ask: fn(&Grants, &KeyExpr<'_>) -> bool| {
                    keys.as_ref().is_some_and(|keys| ask(&grants, keys))
                };
                let publish = may(|grants, keys| grants.publish_keys(keys).is_ok());
                let subscribe = may(|grants, keys| grants.subscribe_keys(keys).is_ok());
                assert_eq!((declared.publish, declared.subscribe), (publish, subscribe), "{key}");
            }
        }
    }
    compared
}

/// What a member of a tenant may.
pub(crate) fn grants() -> Option<Grants> {
    let role = RoleName::parse("member").ok()?;
    let principal = Principal {
        scope: Scope::Tenant(TenantId::parse("acme").ok()?),
        device: None,
        role: role.clone(),
        issuer: "corp".into(),
        token_id: None,
        origin: None,
        issued_at: None,
        expires_at: jiff::Timestamp::MAX,
    };
    Grants::compile(Role::built_in().ok()?.get(&role)?, Broker::Zenoh, &principal).ok()
}
