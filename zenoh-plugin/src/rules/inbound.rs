use super::{Answered, Shared};
use crate::declarations::Declaration;
use crate::seat::TenantUse;
use crate::wire::{Side, Violation};
use bulkhead_control::usage::Uncounted;
use bulkhead_policy::DenyReason;
use bulkhead_policy::service::is_told_who_asks;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use zenoh_buffers::ZBuf;
use zenoh_protocol::core::{ExprId, Priority, Reliability, WireExpr};
use zenoh_protocol::network::declare::common::ext::WireExprType;
use zenoh_protocol::network::interest::{InterestId, InterestMode};
use zenoh_protocol::network::{
    Declare, DeclareBody, DeclareFinal, Interest, NetworkBody, NetworkMessage, Push, Request,
    Response, ResponseFinal, ext,
};
use zenoh_protocol::zenoh::RequestBody;
use zenoh_protocol::zenoh::ext::AttachmentType;

/// Longest that a query may wait for its answers.
const MAX_QUERY_TIME: Duration = Duration::from_secs(600);

/// What to do with a message of a client.
#[derive(Debug)]
pub(crate) enum Decision {
    /// The router gets it.
    Pass,
    /// It is not allowed. The sender is told where the protocol has a way to.
    Deny(DenyReason, Operation, Option<Box<NetworkMessage>>),
    /// It is about something that was never there, or was denied before.
    Ignore,
}

/// What a client tried, for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Put,
    Query,
    Reply,
    Subscribe,
    Queryable,
    Token,
    Interest,
    /// Any declaration, where there are too many.
    Declare,
    System,
}

impl Operation {
    /// Its name in logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Put => "put",
            Operation::Query => "query",
            Operation::Reply => "reply",
            Operation::Subscribe => "subscribe",
            Operation::Queryable => "queryable",
            Operation::Token => "token",
            Operation::Interest => "interest",
            Operation::Declare => "declare",
            Operation::System => "system",
        }
    }
}

/// Decides on what one client sends.
#[derive(Debug)]
pub(crate) struct InboundRules {
    shared: Arc<Shared>,
    tenant: Arc<TenantUse>,
    limits: Limits,
    names: HashMap<ExprId, Declaration>,
    subscribers: HashMap<u32, Declaration>,
    queryables: HashMap<u32, Declaration>,
    tokens: HashMap<u32, Declaration>,
    interests: HashMap<InterestId, Asked>,
    /// The interest that ends with the message that was decided on last.
    ending: Option<Asked>,
    /// Whether the last key that was put to is allowed.
    last: Option<Answered>,
    /// What is not counted against the tenant's day yet.
    uncounted: Uncounted,
}

/// An interest, and the key that the router keeps for it, also when it has ended: until it is made to forget it.
#[derive(Debug)]
struct Asked {
    declaration: Declaration,
    key: Box<str>,
}

impl Asked {
    /// The key, if nobody of the tenant has declared anything for it any more.
    fn leave(self) -> Option<Box<str>> {
        self.declaration.leave().then_some(self.key)
    }
}

/// What bounds a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Subscribers, queryables, tokens and interests together.
    pub declarations: usize,
    /// Names that all sessions of the tenant have declared.
    pub names_of_tenant: usize,
    /// Queries without their last answer.
    pub queries: usize,
    /// Bytes of a payload.
    pub payload: usize,
}

impl InboundRules {
    /// Nothing declared yet.
    pub(crate) fn new(shared: Arc<Shared>, tenant: Arc<TenantUse>, limits: Limits) -> Self {
        Self {
            shared,
            tenant,
            limits,
            names: HashMap::new(),
            subscribers: HashMap::new(),
            queryables: HashMap::new(),
            tokens: HashMap::new(),
            interests: HashMap::new(),
            ending: None,
            last: None,
            uncounted: Uncounted::default(),
        }
    }

    /// Counts what was let through and is not counted yet: once for all messages of a read.
    pub(crate) fn count(&mut self) {
        self.tenant.count(&mut self.uncounted);
    }

    /// Decides on a message, and makes of it what the router may see.
    ///
    /// # Errors
    /// [`Violation`] if the session has to end.
    pub(crate) fn decide(&mut self, message: &mut NetworkMessage) -> Result<Decision, Violation> {
        keep_below_control(&mut message.body);
        match &mut message.body {
            NetworkBody::Push(push) => Ok(self.push(push)),
            NetworkBody::Request(request) => self.request(request),
            NetworkBody::Response(response) => Ok(self.response(response)),
            NetworkBody::ResponseFinal(end) => Ok(known(self.shared.asked().remove(&end.rid))),
            NetworkBody::Interest(interest) => self.interest(interest),
            NetworkBody::Declare(declare) => self.declare(declare),
            // Routers talk about each other in these.
            NetworkBody::OAM(_) => {
                Ok(Decision::Deny(DenyReason::PublishDenied, Operation::System, None))
            }
        }
    }

    fn push(&mut self, push: &mut Push) -> Decision {
        push.ext_nodeid = ext::NodeIdType::DEFAULT;
        let denied = |reason| Decision::Deny(reason, Operation::Put, None);
        let bytes = push.payload_size();
        if bytes > self.max_payload() {
            return denied(DenyReason::PayloadQuotaExceeded);
        }
        let Self { shared, last, .. } = self;
        let allowed =
            shared.ask(last, Side::Client, &push.wire_expr, |key| shared.may_publish(key));
        if !allowed {
            return denied(DenyReason::PublishDenied);
        }
        self.tenant.spend(bytes, &mut self.uncounted).map_or_else(denied, |()| Decision::Pass)
    }

    /// A query that carries something is a message; one that carries nothing only reads.
    fn request(&mut self, request: &mut Request) -> Result<Decision, Violation> {
        request.ext_nodeid = ext::NodeIdType::DEFAULT;
        let longest = request.ext_timeout.map_or(MAX_QUERY_TIME, |asked| asked.min(MAX_QUERY_TIME));
        request.ext_timeout = request.ext_timeout.map(|_| longest);
        let bytes = request.payload_size();
        let is_too_large = bytes > self.max_payload();
        let RequestBody::Query(query) = &mut request.payload;
        let reason = if is_too_large {
            DenyReason::PayloadQuotaExceeded
        } else {
            let names = self.shared.names();
            let key = names.resolve(Side::Client, &request.wire_expr);
            let carries = query.ext_body.is_some() || query.ext_attachment.is_some();
            let allowed =
                self.shared.may_publish(&key) || (!carries && self.shared.may_receive(&key));
            let mut pending = self.shared.queries();
            if pending.ids.contains(&request.id) {
                return Err(Violation::QueryRepeated);
            }
            if !allowed {
                DenyReason::PublishDenied
            } else if !pending.enter(request.id, self.limits.queries) {
                DenyReason::QueueQuotaExceeded
            } else if let Err(reason) = self.tenant.spend(bytes, &mut self.uncounted) {
                pending.leave(request.id);
                reason
            } else {
                if let Some(requester) = &self.shared.requester
                    && key.key().is_some_and(is_told_who_asks)
                {
                    let buffer = ZBuf::from(requester.as_bytes().to_vec());
                    query.ext_attachment = Some(AttachmentType { buffer });
                }
                return Ok(Decision::Pass);
            }
        };
        let end = ResponseFinal { rid: request.id, ext_qos: request.ext_qos, ext_tstamp: None };
        Ok(Decision::Deny(reason, Operation::Query, answer(NetworkBody::ResponseFinal(end))))
    }

    fn response(&mut self, response: &Response) -> Decision {
        let denied = |reason| Decision::Deny(reason, Operation::Reply, None);
        let bytes = response.payload_size();
        if bytes > self.max_payload() {
            return denied(DenyReason::PayloadQuotaExceeded);
        }
        let names = self.shared.names();
        let key = names.resolve(Side::Client, &response.wire_expr);
        let allowed = self.shared.may_publish(&key) || self.shared.may_receive(&key);
        if !allowed || !self.shared.asked().contains(&response.rid) {
            return denied(DenyReason::PublishDenied);
        }
        self.tenant.spend(bytes, &mut self.uncounted).map_or_else(denied, |()| Decision::Pass)
    }

    fn interest(&mut self, interest: &mut Interest) -> Result<Decision, Violation> {
        interest.ext_nodeid = ext::NodeIdType::DEFAULT;
        if interest.mode == InterestMode::Final {
            self.ending = self.interests.remove(&interest.id);
            return Ok(known(self.ending.is_some()));
        }
        let allowed = match &interest.wire_expr {
            Some(expr) => {
                let names = self.shared.names();
                let key = names.resolve(Side::Client, expr);
                let tokens = interest.options.tokens();
                self.shared.may_receive(&key) || (!tokens && self.shared.may_publish(&key))
            }
            // Everything: everything that concerns the client.
            None => match self.shared.everything() {
                Some(all) => {
                    interest.wire_expr = Some(WireExpr::from(all));
                    true
                }
                None => false,
            },
        };
        if allowed {
            let options = interest.options;
            let is_for_tokens = options.tokens() && !options.subscribers() && !options.queryables();
            if interest.mode == InterestMode::Current && !is_for_tokens {
                // A router does nothing with it, but for a line in its log.
                return Ok(Decision::Ignore);
            }
            let key = interest.wire_expr.as_ref().and_then(|expr| self.key_of(expr));
            let key = key.unwrap_or_default().into_boxed_str();
            match self.interests.get(&interest.id) {
                // A router takes no notice of it, either.
                Some(known) if known.key == key => return Ok(Decision::Ignore),
                Some(_) => return Err(Violation::Redeclared),
                None => {}
            }
            let asked = Asked { declaration: self.declaration(&key)?, key };
            if interest.mode == InterestMode::Current {
                self.ending = Some(asked);
            } else {
                self.interests.insert(interest.id, asked);
            }
            return Ok(Decision::Pass);
        }
        let end = interest.mode.is_current().then(|| {
            NetworkBody::Declare(Declare {
                interest_id: Some(interest.id),
                ext_qos: ext::QoSType::DECLARE,
                ext_tstamp: None,
                ext_nodeid: ext::NodeIdType::DEFAULT,
                body: DeclareBody::DeclareFinal(DeclareFinal),
            })
        });
        let end = end.and_then(answer);
        Ok(Decision::Deny(DenyReason::SubscribeDenied, Operation::Interest, end))
    }

    fn declare(&mut self, declare: &mut Declare) -> Result<Decision, Violation> {
        declare.ext_nodeid = ext::NodeIdType::DEFAULT;
        match &mut declare.body {
            DeclareBody::DeclareKeyExpr(name) => {
                let (id, expr) = (name.id, &name.wire_expr);
                let pass = self.shared.declare(Side::Client, id, expr)?;
                if !pass {
                    // Not a denial: nothing was asked for yet.
                    return Ok(Decision::Ignore);
                }
                if !self.names.contains_key(&id) {
                    let key = self.key_of(expr).unwrap_or_default();
                    let named = self.tenant.name(&key, self.limits.names_of_tenant);
                    self.names.insert(id, named.ok_or(Violation::TenantHasTooMany)?);
                }
                Ok(Decision::Pass)
            }
            DeclareBody::UndeclareKeyExpr(name) => {
                self.names.remove(&name.id);
                let known = self.shared.undeclare(Side::Client, name.id);
                Ok(if known { Decision::Pass } else { Decision::Ignore })
            }
            DeclareBody::DeclareSubscriber(new) => {
                self.enter(Operation::Subscribe, new.id, &new.wire_expr)
            }
            DeclareBody::DeclareQueryable(new) => {
                self.enter(Operation::Queryable, new.id, &new.wire_expr)
            }
            DeclareBody::DeclareToken(new) => self.enter(Operation::Token, new.id, &new.wire_expr),
            DeclareBody::UndeclareSubscriber(old) => {
                old.ext_wire_expr = WireExprType::null();
                self.shared.listening().subscribers.remove(&old.id);
                Ok(known(self.subscribers.remove(&old.id).is_some()))
            }
            DeclareBody::UndeclareQueryable(old) => {
                old.ext_wire_expr = WireExprType::null();
                self.shared.listening().queryables.remove(&old.id);
                Ok(known(self.queryables.remove(&old.id).is_some()))
            }
            DeclareBody::UndeclareToken(old) => {
                old.ext_wire_expr = WireExprType::null();
                Ok(known(self.tokens.remove(&old.id).is_some()))
            }
            // Routers ask no client for what it has declared.
            DeclareBody::DeclareFinal(_) => Ok(Decision::Ignore),
        }
    }

    fn enter(
        &mut self,
        operation: Operation,
        id: u32,
        expr: &WireExpr<'_>,
    ) -> Result<Decision, Violation> {
        let (allowed, key) = {
            let names = self.shared.names();
            let key = names.resolve(Side::Client, expr);
            let allowed = match operation {
                Operation::Token => self.shared.may_publish(&key),
                _ => self.shared.may_receive(&key),
            };
            (allowed, Box::<str>::from(key.key().unwrap_or_default()))
        };
        if !allowed {
            let reason = match operation {
                Operation::Token => DenyReason::PublishDenied,
                _ => DenyReason::SubscribeDenied,
            };
            return Ok(Decision::Deny(reason, operation, None));
        }
        let known = match operation {
            Operation::Token => self.tokens.get(&id),
            Operation::Queryable => self.queryables.get(&id),
            _ => self.subscribers.get(&id),
        };
        match known {
            Some(known) if known.is_of(&key) => return Ok(Decision::Pass),
            Some(_) => return Err(Violation::Redeclared),
            None => {}
        }
        let declaration = self.declaration(&key)?;
        match operation {
            Operation::Token => drop(self.tokens.insert(id, declaration)),
            Operation::Queryable => {
                self.queryables.insert(id, declaration);
                self.shared.listening().queryables.insert(id, key);
            }
            _ => {
                self.subscribers.insert(id, declaration);
                self.shared.listening().subscribers.insert(id, key);
            }
        }
        Ok(Decision::Pass)
    }

    /// The message that was decided on last has passed. Returns a key that the router has to be made to forget.
    pub(crate) fn passed(&mut self) -> Option<Box<str>> {
        self.ending.take()?.leave()
    }

    /// Takes an interest back that is still there: its id, and a key that the router has to be made to forget.
    pub(crate) fn take_back(&mut self) -> Option<(InterestId, Option<Box<str>>)> {
        let id = *self.interests.keys().next()?;
        Some((id, self.interests.remove(&id)?.leave()))
    }

    /// An id that the client has not declared.
    pub(crate) fn unused_id(&self) -> Option<ExprId> {
        self.shared.names().unused()
    }

    /// Bytes that a payload may have now.
    fn max_payload(&self) -> usize {
        self.limits.payload.min(self.tenant.max_payload())
    }

    /// The key of a message that was let through, in full.
    pub(crate) fn key_of(&self, expr: &WireExpr<'_>) -> Option<String> {
        let names = self.shared.names();
        names.resolve(Side::Client, expr).key().map(str::to_owned)
    }

    /// One more, if the session and its tenant have room for it.
    fn declaration(&self, key: &str) -> Result<Declaration, Violation> {
        let others = self.queryables.len() + self.tokens.len() + self.interests.len();
        if self.subscribers.len() + others >= self.limits.declarations {
            return Err(Violation::TooManyDeclarations);
        }
        let declared = self.tenant.declare(key, self.limits.names_of_tenant);
        declared.ok_or(Violation::TenantHasTooMany)
    }
}

/// Takes from data the priority that is for what routers and clients say about themselves: before it
/// everything else would wait, other tenants' messages too.
fn keep_below_control(body: &mut NetworkBody) {
    fn lower<const ID: u8>(qos: &mut ext::QoSType<ID>) {
        if qos.get_priority() == Priority::Control {
            qos.set_priority(Priority::RealTime);
        }
    }
    match body {
        NetworkBody::Push(push) => lower(&mut push.ext_qos),
        NetworkBody::Request(request) => lower(&mut request.ext_qos),
        NetworkBody::Response(response) => lower(&mut response.ext_qos),
        NetworkBody::ResponseFinal(end) => lower(&mut end.ext_qos),
        NetworkBody::Declare(_) | NetworkBody::Interest(_) | NetworkBody::OAM(_) => {}
    }
}

fn known(is_known: bool) -> Decision {
    if is_known { Decision::Pass } else { Decision::Ignore }
}

fn answer(body: NetworkBody) -> Option<Box<NetworkMessage>> {
    Some(Box::new(NetworkMessage { body, reliability: Reliability::Reliable }))
}
