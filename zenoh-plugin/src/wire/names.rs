use super::Violation;
use bulkhead_policy::{Grants, KeyExpr};
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use zenoh_protocol::core::{ExprId, WireExpr};
use zenoh_protocol::network::Mapping;

/// The ids that the two ends of a session have declared for keys.
#[derive(Debug, Default)]
pub(crate) struct Names {
    client: HashMap<ExprId, Declared>,
    router: HashMap<ExprId, Declared>,
    hasher: RandomState,
}

/// Who sends a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The client.
    Client,
    /// The router.
    Router,
}

/// What an id stands for.
#[derive(Debug)]
pub(crate) struct Declared {
    /// Nothing of what is of no use.
    key: Box<str>,
    /// Of the key, whether or not it is kept.
    hash: u64,
    /// Whether the other end was told of it.
    shared: bool,
    /// Whether the key by itself may be published to, and received.
    pub(crate) publish: bool,
    pub(crate) subscribe: bool,
}

/// A key in a message, found out.
#[derive(Debug)]
pub(crate) enum Resolved<'a> {
    /// An id alone, whose rights are known.
    Declared(&'a Declared),
    /// Anything else, in full.
    Key(Cow<'a, str>),
    /// An id that one of the ends does not know.
    Unknown,
}

impl Resolved<'_> {
    /// The key, where there is one.
    pub(crate) fn key(&self) -> Option<&str> {
        match self {
            Resolved::Declared(declared) => Some(&declared.key),
            Resolved::Key(key) => Some(key),
            Resolved::Unknown => None,
        }
    }
}

impl Names {
    /// Most ids that a client may have declared at a time. A router compares each new name with all that
    /// it has, so many of them are paid for by everybody.
    const OF_CLIENT: usize = 1_000;

    /// Most ids that a router may have declared at a time.
    const OF_ROUTER: usize = 100_000;

    /// What a key stands for in a message that `sender` sends.
    pub(crate) fn resolve<'a>(&'a self, sender: Side, expr: &'a WireExpr<'_>) -> Resolved<'a> {
        if expr.scope == 0 {
            return Resolved::Key(Cow::Borrowed(expr.suffix.as_ref()));
        }
        let declared_by = match (sender, expr.mapping) {
            (side, Mapping::Sender) => side,
            (Side::Client, Mapping::Receiver) => Side::Router,
            (Side::Router, Mapping::Receiver) => Side::Client,
        };
        match self.table(declared_by).get(&expr.scope) {
            Some(declared) if !declared.shared => Resolved::Unknown,
            Some(declared) if expr.suffix.is_empty() => Resolved::Declared(declared),
            Some(declared) => Resolved::Key(Cow::Owned(format!("{}{}", declared.key, expr.suffix))),
            None => Resolved::Unknown,
        }
    }

    /// Records a declaration. Says whether the other end may be told of it, which is so if something
    /// that the grants concern can begin with it.
    ///
    /// # Errors
    /// [`Violation::Redeclared`] and [`Violation::TooManyDeclarations`].
    pub(crate) fn declare(
        &mut self,
        sender: Side,
        id: ExprId,
        expr: &WireExpr<'_>,
        grants: &Grants,
    ) -> Result<bool, Violation> {
        // What is of no use is known all the same, so that a second one is noticed.
        let resolved = self.resolve(sender, expr);
        let key = resolved.key().unwrap_or_default();
        let declared = Declared::new(key, self.hasher.hash_one(key), grants);
        let shared = declared.shared;
        let most = match sender {
            Side::Client => Self::OF_CLIENT,
            Side::Router => Self::OF_ROUTER,
        };
        let table = self.table_mut(sender);
        let room = table.len() < most;
        match table.entry(id) {
            Entry::Occupied(known) if known.get().hash != declared.hash => {
                Err(Violation::Redeclared)
            }
            Entry::Occupied(_) => Ok(shared),
            Entry::Vacant(_) if !room => Err(Violation::TooManyDeclarations),
            Entry::Vacant(free) => {
                free.insert(declared);
                Ok(shared)
            }
        }
    }

    /// An id that the client has not declared.
    pub(crate) fn unused(&self) -> Option<ExprId> {
        (1..=ExprId::MAX).rev().find(|id| !self.client.contains_key(id))
    }

    /// Forgets an id. Says whether the other end knows it.
    pub(crate) fn undeclare(&mut self, sender: Side, id: ExprId) -> bool {
        self.table_mut(sender).remove(&id).is_some_and(|declared| declared.shared)
    }

    fn table(&self, side: Side) -> &HashMap<ExprId, Declared> {
        match side {
            Side::Client => &self.client,
            Side::Router => &self.router,
        }
    }

    fn table_mut(&mut self, side: Side) -> &mut HashMap<ExprId, Declared> {
        match side {
            Side::Client => &mut self.client,
            Side::Router => &mut self.router,
        }
    }
}

impl Declared {
    fn new(key: &str, hash: u64, grants: &Grants) -> Self {
        let useless =
            Self { key: "".into(), hash, shared: false, publish: false, subscribe: false };
        let Ok(keys) = KeyExpr::parse(key) else { return useless };
        let publish = grants.publish_keys(&keys).is_ok();
        let subscribe = grants.subscribe_keys(&keys).is_ok();
        let below = |text: &str| KeyExpr::parse(text).is_ok_and(|all| grants.concerns_keys(&all));
        let shared = publish || subscribe || below(&format!("{key}/**")) || below(key);
        if !shared {
            return useless;
        }
        Self { key: key.into(), hash, shared, publish, subscribe }
    }
}
