//! What a raw client can say within a session.

use std::borrow::Cow;
use zenoh_buffers::ZBuf;
use zenoh_protocol::core::{CongestionControl, ExprId, Priority, WireExpr};
use zenoh_protocol::network::declare::common::ext::WireExprType;
use zenoh_protocol::network::interest::{InterestId, InterestMode, InterestOptions};
use zenoh_protocol::network::{
    Declare, DeclareBody, DeclareKeyExpr, DeclareQueryable, DeclareSubscriber, DeclareToken,
    Interest, Mapping, NetworkBody, NetworkMessage, Push, Request, Response, ResponseFinal,
    UndeclareKeyExpr, UndeclareQueryable, UndeclareSubscriber, UndeclareToken, ext, push,
};
use zenoh_protocol::zenoh::query::ConsolidationMode;
use zenoh_protocol::zenoh::{Del, PushBody, Put, Query, Reply, RequestBody, ResponseBody};

/// A key that is written out.
pub fn key(name: &str) -> WireExpr<'static> {
    WireExpr { scope: 0, suffix: Cow::Owned(name.to_owned()), mapping: Mapping::Sender }
}

/// A key by an id that the client has declared, and what comes after.
pub fn id(scope: ExprId, suffix: &str) -> WireExpr<'static> {
    WireExpr { scope, ..key(suffix) }
}

/// A key by an id that the router has declared, and what comes after.
pub fn their_id(scope: ExprId, suffix: &str) -> WireExpr<'static> {
    WireExpr { mapping: Mapping::Receiver, ..id(scope, suffix) }
}

/// A message.
pub fn put(key: WireExpr<'static>, payload: &str) -> NetworkMessage {
    put_bytes(key, payload.as_bytes().to_vec())
}

/// A message of any bytes.
pub fn put_bytes(key: WireExpr<'static>, payload: Vec<u8>) -> NetworkMessage {
    push(key, PushBody::Put(body(payload)), ext::QoSType::DEFAULT)
}

/// A message of any bytes that may not be dropped.
pub fn kept(key: WireExpr<'static>, payload: Vec<u8>) -> NetworkMessage {
    let ext_qos = ext::QoSType::new(Priority::Data, CongestionControl::Block, false);
    push(key, PushBody::Put(body(payload)), ext_qos)
}

/// A deletion.
pub fn delete(key: WireExpr<'static>) -> NetworkMessage {
    let (timestamp, ext_sinfo, ext_attachment) = (None, None, None);
    push(
        key,
        PushBody::Del(Del { timestamp, ext_sinfo, ext_attachment, ext_unknown: Vec::new() }),
        ext::QoSType::DEFAULT,
    )
}

fn push(
    wire_expr: WireExpr<'static>,
    payload: PushBody,
    ext_qos: push::ext::QoSType,
) -> NetworkMessage {
    NetworkBody::Push(Push {
        wire_expr,
        ext_qos,
        ext_tstamp: None,
        ext_nodeid: ext::NodeIdType::DEFAULT,
        ext_ts_stack: None,
        payload,
    })
    .into()
}

fn body(payload: Vec<u8>) -> Put {
    Put { payload: ZBuf::from(payload), ..Put::default() }
}

/// A query, which waits for at most half a minute.
pub fn query(id: u32, wire_expr: WireExpr<'static>) -> NetworkMessage {
    request(id, wire_expr, Query::default())
}

/// A query of any content.
pub fn request(id: u32, wire_expr: WireExpr<'static>, query: Query) -> NetworkMessage {
    NetworkBody::Request(Request {
        id,
        wire_expr,
        ext_qos: ext::QoSType::new(Priority::Data, CongestionControl::Block, false),
        ext_tstamp: None,
        ext_nodeid: ext::NodeIdType::DEFAULT,
        ext_target: Default::default(),
        ext_budget: None,
        ext_timeout: Some(std::time::Duration::from_secs(30)),
        ext_ts_stack: None,
        payload: RequestBody::Query(query),
    })
    .into()
}

/// An answer to a query.
pub fn reply(rid: u32, wire_expr: WireExpr<'static>, payload: &str) -> NetworkMessage {
    NetworkBody::Response(Response {
        rid,
        wire_expr,
        payload: ResponseBody::Reply(Reply {
            consolidation: ConsolidationMode::DEFAULT,
            ext_unknown: Vec::new(),
            payload: PushBody::Put(body(payload.as_bytes().to_vec())),
        }),
        ext_qos: ext::QoSType::DEFAULT,
        ext_tstamp: None,
        ext_respid: None,
        ext_ts_stack: None,
    })
    .into()
}

/// The end of all answers to a query.
pub fn end_of_replies(rid: u32) -> NetworkMessage {
    let end = ResponseFinal { rid, ext_qos: ext::QoSType::DEFAULT, ext_tstamp: None };
    NetworkBody::ResponseFinal(end).into()
}

/// A question for what others have declared.
pub fn interest(
    id: InterestId,
    mode: InterestMode,
    options: InterestOptions,
    wire_expr: Option<WireExpr<'static>>,
) -> NetworkMessage {
    NetworkBody::Interest(Interest {
        id,
        mode,
        options,
        wire_expr,
        ext_qos: ext::QoSType::DECLARE,
        ext_tstamp: None,
        ext_nodeid: ext::NodeIdType::DEFAULT,
    })
    .into()
}

/// Declares an id for a key.
pub fn declare_key(id: ExprId, wire_expr: WireExpr<'static>) -> NetworkMessage {
    declare(DeclareBody::DeclareKeyExpr(DeclareKeyExpr { id, wire_expr }))
}

/// Takes an id back.
pub fn undeclare_key(id: ExprId) -> NetworkMessage {
    declare(DeclareBody::UndeclareKeyExpr(UndeclareKeyExpr { id }))
}

/// Subscribes.
pub fn subscribe(id: u32, wire_expr: WireExpr<'static>) -> NetworkMessage {
    declare(DeclareBody::DeclareSubscriber(DeclareSubscriber { id, wire_expr }))
}

/// Takes a subscription back.
pub fn unsubscribe(id: u32) -> NetworkMessage {
    let ext_wire_expr = WireExprType::null();
    declare(DeclareBody::UndeclareSubscriber(UndeclareSubscriber { id, ext_wire_expr }))
}

/// Offers answers to queries.
pub fn queryable(id: u32, wire_expr: WireExpr<'static>) -> NetworkMessage {
    let ext_info = Default::default();
    declare(DeclareBody::DeclareQueryable(DeclareQueryable { id, wire_expr, ext_info }))
}

/// Takes an offer back.
pub fn unqueryable(id: u32) -> NetworkMessage {
    let ext_wire_expr = WireExprType::null();
    declare(DeclareBody::UndeclareQueryable(UndeclareQueryable { id, ext_wire_expr }))
}

/// Says that something is alive.
pub fn token(id: u32, wire_expr: WireExpr<'static>) -> NetworkMessage {
    declare(DeclareBody::DeclareToken(DeclareToken { id, wire_expr }))
}

/// Takes that back, under a name where one is given.
pub fn untoken(id: u32, wire_expr: Option<WireExpr<'static>>) -> NetworkMessage {
    let ext_wire_expr =
        wire_expr.map_or_else(WireExprType::null, |wire_expr| WireExprType { wire_expr });
    declare(DeclareBody::UndeclareToken(UndeclareToken { id, ext_wire_expr }))
}

/// Any declaration.
pub fn declare(body: DeclareBody) -> NetworkMessage {
    NetworkBody::Declare(Declare {
        interest_id: None,
        ext_qos: ext::QoSType::DECLARE,
        ext_tstamp: None,
        ext_nodeid: ext::NodeIdType::DEFAULT,
        body,
    })
    .into()
}
