use super::{Answered, Shared};
use crate::wire::{Censor, Head, Resolved, Side};
use std::sync::Arc;
use zenoh_protocol::core::WireExpr;
use zenoh_protocol::network::{
    Declare, DeclareBody, NetworkBody, NetworkMessage, RequestId, id as network,
};

/// Decides on what the router sends to one client.
///
/// The router sends only what answers to the client's own declarations, all of which were checked; this
/// is the second line, and what keeps the names of others' declarations from it.
#[derive(Debug)]
pub(crate) struct OutboundRules {
    shared: Arc<Shared>,
    /// What was kept from the client.
    pub(crate) cut: u64,
    /// Whether the client is behind: then it gets only what its senders would wait for.
    pub(crate) behind: bool,
    /// What it did not get because of that.
    pub(crate) dropped: u64,
    last: Option<Answered>,
}

impl OutboundRules {
    /// Rules of one session.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, cut: 0, behind: false, dropped: 0, last: None }
    }

    fn key_passes(&self, id: u8, expr: &WireExpr<'_>) -> bool {
        let names = self.shared.names();
        let key = names.resolve(Side::Router, expr);
        match id {
            network::RESPONSE => self.shared.may_publish(&key) || self.shared.may_receive(&key),
            _ => self.shared.is_for(&key),
        }
    }

    /// Whether the client may be asked this; then it may answer.
    fn query_passes(&self, id: Option<RequestId>, expr: &WireExpr<'_>) -> bool {
        let passes = self.key_passes(network::REQUEST, expr);
        if let (true, Some(id)) = (passes, id) {
            self.shared.ask_client(id);
        }
        passes
    }

    fn declaration_passes(&self, declare: &Declare) -> bool {
        let named = |expr: &WireExpr<'_>, token: bool| {
            let names = self.shared.names();
            let key = names.resolve(Side::Router, expr);
            if token { self.shared.may_receive(&key) } else { self.shared.concerns(&key) }
        };
        // What is taken back under its own name passes as what was declared did.
        let taken_back = |expr: &WireExpr<'_>, token: bool| {
            (expr.scope == 0 && expr.suffix.is_empty()) || named(expr, token)
        };
        match &declare.body {
            DeclareBody::DeclareKeyExpr(name) => {
                self.shared.declare(Side::Router, name.id, &name.wire_expr).unwrap_or(false)
            }
            DeclareBody::UndeclareKeyExpr(name) => self.shared.undeclare(Side::Router, name.id),
            DeclareBody::DeclareSubscriber(new) => named(&new.wire_expr, false),
            DeclareBody::DeclareQueryable(new) => named(&new.wire_expr, false),
            DeclareBody::DeclareToken(new) => named(&new.wire_expr, true),
            DeclareBody::UndeclareSubscriber(old) => {
                taken_back(&old.ext_wire_expr.wire_expr, false)
            }
            DeclareBody::UndeclareQueryable(old) => taken_back(&old.ext_wire_expr.wire_expr, false),
            DeclareBody::UndeclareToken(old) => taken_back(&old.ext_wire_expr.wire_expr, true),
            DeclareBody::DeclareFinal(_) => true,
        }
    }

    fn decide(&self, message: &NetworkMessage) -> bool {
        match &message.body {
            NetworkBody::Push(push) => self.key_passes(network::PUSH, &push.wire_expr),
            NetworkBody::Request(request) => {
                self.query_passes(Some(request.id), &request.wire_expr)
            }
            NetworkBody::Response(reply) => self.key_passes(network::RESPONSE, &reply.wire_expr),
            NetworkBody::ResponseFinal(end) => {
                self.shared.queries().leave(end.rid);
                true
            }
            NetworkBody::Interest(interest) => interest.wire_expr.as_ref().is_none_or(|expr| {
                let names = self.shared.names();
                self.shared.concerns(&names.resolve(Side::Router, expr))
            }),
            NetworkBody::Declare(declare) => self.declaration_passes(declare),
            NetworkBody::OAM(_) => false,
        }
    }
}

impl Censor for OutboundRules {
    fn head(&mut self, head: &Head<'_>) -> bool {
        if self.behind && head.droppable {
            self.dropped += 1;
            return false;
        }
        let passes = match head.id {
            network::PUSH => {
                let Self { shared, last, .. } = self;
                shared.ask(last, Side::Router, &head.expr, |key| shared.is_for(key))
            }
            network::REQUEST => self.query_passes(head.rid, &head.expr),
            id => self.key_passes(id, &head.expr),
        };
        self.cut += u64::from(!passes);
        passes
    }

    fn message(&mut self, message: &NetworkMessage) -> bool {
        let passes = self.decide(message);
        self.cut += u64::from(!passes);
        passes
    }
}

impl Shared {
    /// Whether a message of this key may reach the client: some of it is the client's to receive.
    fn is_for(&self, key: &Resolved<'_>) -> bool {
        match key {
            Resolved::Declared(declared) if declared.subscribe => true,
            _ => {
                key.key().is_some_and(|key| self.asks(key, |keys| self.grants.receives_keys(keys)))
            }
        }
    }
}
