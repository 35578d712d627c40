//! What may pass, in either direction.

mod inbound;
mod outbound;

pub(crate) use inbound::{Decision, InboundRules, Limits, Operation};
pub(crate) use outbound::OutboundRules;

use crate::budget::Share;
use crate::pressure::Passing;
use crate::wire::{Names, Resolved, Side, Violation};
use bulkhead_policy::{Grants, KeyExpr, Requester};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use zenoh_protocol::core::{ExprId, WireExpr};
use zenoh_protocol::network::{Mapping, RequestId};

/// Most queries that a client may leave without an end of its answers. Beyond them the oldest cannot be answered any
/// more.
const MAX_ASKED: usize = 16 * 1024;

/// What both directions of a session share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) grants: Grants,
    /// Who the client is, in the words that the platform's services are told; `None` for one of them.
    requester: Option<Box<str>>,
    names: Mutex<Names>,
    /// How often an id was declared or taken back, by either end. It changes under the lock of `names`.
    changes: AtomicU64,
    /// Queries of the client that were not answered to the end.
    queries: Mutex<Queries>,
    /// Queries that the client was asked, and has not ended its answers to.
    asked: Mutex<BTreeSet<RequestId>>,
    listening: Mutex<Listening>,
}

/// What a client listens to, by the ids of its declarations.
#[derive(Debug, Default)]
struct Listening {
    subscribers: HashMap<u32, Box<str>>,
    queryables: HashMap<u32, Box<str>>,
}

/// The answer to a question about a key, as it was written. It is good as long as no id has changed.
#[derive(Debug)]
struct Answered {
    scope: ExprId,
    mapping: Mapping,
    suffix: Box<str>,
    changes: u64,
    answer: bool,
}

impl Answered {
    fn is_of(&self, expr: &WireExpr<'_>, changes: u64) -> bool {
        // Comparing nothing with nothing is no cheap question: where an empty text points to is not mapped,
        // and processors with masked loads take hundreds of cycles to find that they need not look.
        let both_end_with_the_id = self.suffix.is_empty() && expr.suffix.is_empty();
        self.changes == changes
            && (self.scope, self.mapping) == (expr.scope, expr.mapping)
            && (both_end_with_the_id || *self.suffix == *expr.suffix)
    }
}

/// Queries that wait for answers.
#[derive(Debug)]
struct Queries {
    ids: HashSet<RequestId>,
    share: Share,
}

impl Queries {
    /// One more, if the session may have so many and its tenant has room for it.
    fn enter(&mut self, id: RequestId, most: usize) -> bool {
        let one_more = self.ids.len().saturating_add(1);
        let has_room = one_more <= most && self.share.hold(one_more);
        if has_room {
            self.ids.insert(id);
        }
        has_room
    }

    fn leave(&mut self, id: RequestId) {
        if self.ids.remove(&id) {
            self.share.hold(self.ids.len());
        }
    }
}

impl Shared {
    /// A session begins with nothing declared.
    pub(crate) fn new(grants: Grants, requester: Option<&Requester>, queries: Share) -> Self {
        Self {
            grants,
            requester: requester.map(|requester| requester.to_string().into()),
            names: Mutex::default(),
            changes: AtomicU64::new(0),
            queries: Mutex::new(Queries { ids: HashSet::new(), share: queries }),
            asked: Mutex::default(),
            listening: Mutex::default(),
        }
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a declaration of an id.
    ///
    /// # Errors
    /// Those of [`Names::declare`].
    fn declare(&self, sender: Side, id: ExprId, expr: &WireExpr<'_>) -> Result<bool, Violation> {
        let mut names = self.names();
        self.changes.fetch_add(1, Ordering::Release);
        names.declare(sender, id, expr, &self.grants)
    }

    /// Forgets an id.
    fn undeclare(&self, sender: Side, id: ExprId) -> bool {
        let mut names = self.names();
        self.changes.fetch_add(1, Ordering::Release);
        names.undeclare(sender, id)
    }

    /// What a question about a key is answered with. The answer is kept in `last`, for the messages that
    /// follow: most are about the same key.
    fn ask(
        &self,
        last: &mut Option<Answered>,
        sender: Side,
        expr: &WireExpr<'_>,
        question: impl FnOnce(&Resolved<'_>) -> bool,
    ) -> bool {
        let changes = self.changes.load(Ordering::Acquire);
        if let Some(last) = last.as_ref().filter(|last| last.is_of(expr, changes)) {
            return last.answer;
        }
        let names = self.names();
        let changes = self.changes.load(Ordering::Acquire);
        let answer = question(&names.resolve(sender, expr));
        let (scope, mapping, suffix) = (expr.scope, expr.mapping, expr.suffix.as_ref().into());
        *last = Some(Answered { scope, mapping, suffix, changes, answer });
        answer
    }

    fn queries(&self) -> MutexGuard<'_, Queries> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, BTreeSet<RequestId>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client is asked a query.
    fn ask_client(&self, query: RequestId) {
        let mut asked = self.asked();
        asked.insert(query);
        if asked.len() > MAX_ASKED {
            asked.pop_first();
        }
    }

    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the client gets this. After so many looks at what it has declared, it is taken to.
    pub(crate) fn gets(&self, passing: Passing<'_>, looks: &mut usize) -> bool {
        let any = |declared: &HashMap<u32, Box<str>>, keys: &KeyExpr<'_>, looks: &mut usize| {
            declared.values().any(|own| {
                let Some(left) = looks.checked_sub(1) else { return true };
                *looks = left;
                KeyExpr::parse(own).is_ok_and(|own| own.meets(keys))
            })
        };
        match passing {
            Passing::Put(keys) => any(&self.listening().subscribers, &keys, looks),
            Passing::Query(keys) => any(&self.listening().queryables, &keys, looks),
            Passing::Reply => !self.queries().ids.is_empty(),
        }
    }

    fn may_publish(&self, key: &Resolved<'_>) -> bool {
        match key {
            Resolved::Declared(declared) => declared.publish,
            Resolved::Key(key) => self.asks(key, |keys| self.grants.publish_keys(keys).is_ok()),
            Resolved::Unknown => false,
        }
    }

    fn may_receive(&self, key: &Resolved<'_>) -> bool {
        match key {
            Resolved::Declared(declared) => declared.subscribe,
            Resolved::Key(key) => self.asks(key, |keys| self.grants.subscribe_keys(keys).is_ok()),
            Resolved::Unknown => false,
        }
    }

    /// Whether some of the key is the client's to publish or to receive.
    fn concerns(&self, key: &Resolved<'_>) -> bool {
        match key {
            Resolved::Declared(declared) if declared.publish || declared.subscribe => true,
            _ => {
                key.key().is_some_and(|key| self.asks(key, |keys| self.grants.concerns_keys(keys)))
            }
        }
    }

    /// One key expression for everything that the client has to do with, if there is one below the
    /// names that all tenants share.
    fn everything(&self) -> Option<String> {
        self.grants.common_keys()
    }

    fn asks(&self, key: &str, question: impl FnOnce(&KeyExpr<'_>) -> bool) -> bool {
        KeyExpr::parse(key).is_ok_and(|keys| question(&keys))
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_ASKED, Shared};
    use crate::budget::Budget;
    use crate::pressure::Passing;
    use crate::wire::resources::grants;
    use bulkhead_policy::KeyExpr;

    fn shared() -> Shared {
        Shared::new(grants().unwrap(), None, Budget::new(10).share())
    }

    #[test]
    fn only_so_many_declarations_are_looked_at() {
        let shared = shared();
        for n in 0..100 {
            let key = format!("device-connect/acme/{n}").into();
            shared.listening().subscribers.insert(n, key);
        }
        let gets =
            |key, mut looks| shared.gets(Passing::Put(KeyExpr::parse(key).unwrap()), &mut looks);
        assert!(gets("device-connect/acme/7", 100) && !gets("device-connect/acme/x", 100));
        assert!(gets("device-connect/acme/x", 99), "what was not looked at may be meant");
        let query = Passing::Query(KeyExpr::parse("device-connect/acme/7").unwrap());
        assert!(!shared.gets(query, &mut 100) && !shared.gets(Passing::Reply, &mut 100));
    }

    #[test]
    fn only_so_many_queries_wait_for_an_answer() {
        let shared = shared();
        for query in 0..=u32::try_from(MAX_ASKED).unwrap() {
            shared.ask_client(query);
        }
        assert_eq!(shared.asked().len(), MAX_ASKED);
        assert!(!shared.asked().contains(&0) && shared.asked().contains(&1), "the oldest goes");
    }
}
