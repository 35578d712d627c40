//! The gate's readers beside Zenoh's codec, on what that writes.

use super::agreement::{self, Every};
use super::{Found, Inbound, Negotiated, Outbound, Passage, resources};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::time::Duration;
use zenoh_buffers::writer::HasWriter;
use zenoh_buffers::{ZBuf, ZSlice};
use zenoh_codec::{RCodec, WCodec, Zenoh080, Zenoh080Reliability};
use zenoh_protocol::common::{ZExtBody, ZExtUnknown};
use zenoh_protocol::core::{
    Bits, CongestionControl, Encoding, EntityGlobalIdProto, NTP64, Priority, Reliability,
    Timestamp, TimestampId, WireExpr, ZenohIdProto,
};
use zenoh_protocol::network::timestamp_stack::{Interception, TimestampStack, TsStackType};
use zenoh_protocol::network::{
    Declare, DeclareBody, DeclareKeyExpr, Mapping, NetworkBody, NetworkMessage, Push, Request,
    Response, UndeclareKeyExpr, ext, request,
};
use zenoh_protocol::zenoh::{
    ConsolidationMode, Del, Err as ErrBody, PushBody, Put, Query, Reply, RequestBody, ResponseBody,
};

fn bytes() -> impl Strategy<Value = ZBuf> {
    // Lengths of one byte and of two.
    prop_oneof![4 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 120..200)].prop_map(ZBuf::from)
}

fn wire_expr() -> impl Strategy<Value = WireExpr<'static>> {
    let suffix = prop_oneof![Just(String::new()), "[a-z@*/é-]{1,40}", "x{120,140}"];
    (any::<u16>(), suffix, any::<bool>()).prop_map(|(scope, suffix, sender)| WireExpr {
        scope,
        suffix: suffix.into(),
        mapping: if sender { Mapping::Sender } else { Mapping::Receiver },
    })
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    (any::<u64>(), 1..u128::MAX).prop_map(|(time, id)| {
        let id = TimestampId::try_from(id.to_le_bytes()).unwrap();
        Timestamp::new(NTP64(time), id)
    })
}

fn entity() -> impl Strategy<Value = EntityGlobalIdProto> {
    (1..u128::MAX, any::<u32>()).prop_map(|(zid, eid)| EntityGlobalIdProto {
        zid: ZenohIdProto::try_from(&zid.to_le_bytes()).unwrap(),
        eid,
    })
}

fn encoding() -> impl Strategy<Value = Encoding> {
    (any::<u16>(), option::of(vec(any::<u8>(), 0..20)))
        .prop_map(|(id, schema)| Encoding { id, schema: schema.map(ZSlice::from) })
}

/// Extensions of a later version.
fn unknown() -> impl Strategy<Value = Vec<ZExtUnknown>> {
    let body = prop_oneof![
        Just(ZExtBody::Unit),
        any::<u64>().prop_map(ZExtBody::Z64),
        bytes().prop_map(ZExtBody::ZBuf),
    ];
    let one = (7..=15_u8, body).prop_map(|(id, body)| ZExtUnknown::new(id, false, body));
    vec(one, 0..3)
}

fn qos<const ID: u8>() -> impl Strategy<Value = ext::QoSType<ID>> {
    (0..8_u8, any::<bool>(), any::<bool>()).prop_map(|(priority, block, express)| {
        let control = if block { CongestionControl::Block } else { CongestionControl::Drop };
        ext::QoSType::new(Priority::try_from(priority).unwrap(), control, express)
    })
}

fn stamp<const ID: u8>() -> impl Strategy<Value = Option<ext::TimestampType<ID>>> {
    option::of(timestamp().prop_map(|timestamp| ext::TimestampType { timestamp }))
}

fn node<const ID: u8>() -> impl Strategy<Value = ext::NodeIdType<ID>> {
    any::<u16>().prop_map(|node_id| ext::NodeIdType { node_id })
}

fn stack<const ID: u8>() -> impl Strategy<Value = Option<TsStackType<ID>>> {
    let taken = (any::<u8>(), vec(any::<u8>(), 0..16))
        .prop_map(|(flags, timestamp)| Interception { flags, timestamp });
    let stack = (1..=7_u8, vec(taken, 0..3))
        .prop_map(|(conf_flags, stack)| TimestampStack { conf_flags, stack });
    option::of(stack.prop_map(|ts_stack| TsStackType { ts_stack }))
}

fn put() -> impl Strategy<Value = Put> {
    let source = option::of((entity(), any::<u32>()));
    let parts =
        (option::of(timestamp()), encoding(), source, option::of(bytes()), unknown(), bytes());
    parts.prop_map(|(timestamp, encoding, source, attachment, ext_unknown, payload)| Put {
        timestamp,
        encoding,
        ext_sinfo: source.map(|(id, sn)| zenoh_protocol::zenoh::ext::SourceInfoType { id, sn }),
        ext_attachment: attachment
            .map(|buffer| zenoh_protocol::zenoh::ext::AttachmentType { buffer }),
        ext_unknown,
        payload,
    })
}

fn del() -> impl Strategy<Value = Del> {
    let source = option::of((entity(), any::<u32>()));
    let parts = (option::of(timestamp()), source, option::of(bytes()), unknown());
    parts.prop_map(|(timestamp, source, attachment, ext_unknown)| Del {
        timestamp,
        ext_sinfo: source.map(|(id, sn)| zenoh_protocol::zenoh::ext::SourceInfoType { id, sn }),
        ext_attachment: attachment
            .map(|buffer| zenoh_protocol::zenoh::ext::AttachmentType { buffer }),
        ext_unknown,
    })
}

fn push_body() -> impl Strategy<Value = PushBody> {
    prop_oneof![put().prop_map(PushBody::Put), del().prop_map(PushBody::Del)]
}

fn push() -> impl Strategy<Value = Push> {
    (wire_expr(), qos(), stamp(), node(), stack(), push_body()).prop_map(
        |(wire_expr, ext_qos, ext_tstamp, ext_nodeid, ext_ts_stack, payload)| Push {
            wire_expr,
            ext_qos,
            ext_tstamp,
            ext_nodeid,
            ext_ts_stack,
            payload,
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    let query = ("[a-z=;]{0,140}", option::of(bytes()), unknown()).prop_map(
        |(parameters, attachment, ext_unknown)| {
            RequestBody::Query(Query {
                parameters,
                ext_attachment: attachment
                    .map(|buffer| zenoh_protocol::zenoh::ext::AttachmentType { buffer }),
                ext_unknown,
                ..Query::default()
            })
        },
    );
    let target = prop_oneof![
        Just(request::ext::QueryTarget::BestMatching),
        Just(request::ext::QueryTarget::All)
    ];
    let timeout = option::of((0..u64::from(u32::MAX)).prop_map(Duration::from_millis));
    let parts =
        (any::<u32>(), wire_expr(), qos(), stamp(), node(), target, timeout, stack(), query);
    parts.prop_map(|parts| Request {
        id: parts.0,
        wire_expr: parts.1,
        ext_qos: parts.2,
        ext_tstamp: parts.3,
        ext_nodeid: parts.4,
        ext_target: parts.5,
        ext_budget: None,
        ext_timeout: parts.6,
        ext_ts_stack: parts.7,
        payload: parts.8,
    })
}

fn response() -> impl Strategy<Value = Response> {
    let reply = (unknown(), push_body()).prop_map(|(ext_unknown, payload)| {
        ResponseBody::Reply(Reply { consolidation: ConsolidationMode::None, ext_unknown, payload })
    });
    let error = (encoding(), bytes()).prop_map(|(encoding, payload)| {
        ResponseBody::Err(ErrBody { encoding, ext_sinfo: None, ext_unknown: Vec::new(), payload })
    });
    let responder = option::of(entity())
        .prop_map(|id| id.map(|id| ext::EntityGlobalIdType { zid: id.zid, eid: id.eid }));
    let body = prop_oneof![reply, error];
    (any::<u32>(), wire_expr(), qos(), stamp(), responder, stack(), body).prop_map(
        |(rid, wire_expr, ext_qos, ext_tstamp, ext_respid, ext_ts_stack, payload)| Response {
            rid,
            wire_expr,
            ext_qos,
            ext_tstamp,
            ext_respid,
            ext_ts_stack,
            payload,
        },
    )
}

fn encoded() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![
        3 => push().prop_map(NetworkBody::Push),
        1 => request().prop_map(NetworkBody::Request),
        1 => response().prop_map(NetworkBody::Response),
    ];
    body.prop_map(|body| {
        let message = NetworkMessage { body, reliability: Reliability::Reliable };
        let mut bytes = Vec::new();
        Zenoh080::new().write(&mut bytes.writer(), &message).unwrap();
        bytes
    })
}

const AGREED: Negotiated = Negotiated { resolution: Bits::U32, qos: true };

/// Headers of transport messages, reliable and with one byte of a sequence number each.
const FRAME: u8 = 0x25;
const FRAGMENT: u8 = 0x26;
const MORE: u8 = 0x40;
/// That it is the first of its message: an extension without a body.
const FIRST: (u8, u8) = (0x80, 0x02);

fn read(mut bytes: &[u8]) -> NetworkMessage {
    Zenoh080Reliability::new(Reliability::Reliable).read(&mut bytes).unwrap()
}

/// All messages of a batch.
fn messages(inbound: &mut Inbound, batch: Vec<u8>) -> Vec<NetworkMessage> {
    let mut batch = batch.into();
    let next = || inbound.next(&mut batch, |message| message.clone()).unwrap();
    std::iter::from_fn(next)
        .map(|found| match found {
            Found::Message(message) => message,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Parts of keys: of the tenant's own, of others' and of none.
const PIECES: [&str; 9] =
    ["", "device-connect/acme", "device-connect/globex", "/cam-1", "/**", "/*", "/", "$*", "@/x"];

/// Declarations, undeclarations and uses of ids, as one client after the other would write them.
fn encode_session(session: &[(u8, u16, u16, usize)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (action, id, scope, piece) in session {
        let wire_expr = WireExpr {
            scope: *scope,
            suffix: PIECES[*piece].into(),
            mapping: if *action == 7 { Mapping::Receiver } else { Mapping::Sender },
        };
        let declare = |body| {
            NetworkBody::Declare(Declare {
                interest_id: None,
                ext_qos: ext::QoSType::DECLARE,
                ext_tstamp: None,
                ext_nodeid: ext::NodeIdType::DEFAULT,
                body,
            })
        };
        let body = match action {
            0..=2 => declare(DeclareBody::DeclareKeyExpr(DeclareKeyExpr { id: *id, wire_expr })),
            3 => declare(DeclareBody::UndeclareKeyExpr(UndeclareKeyExpr { id: *id })),
            _ => NetworkBody::Push(Push {
                wire_expr,
                ext_qos: ext::QoSType::DEFAULT,
                ext_tstamp: None,
                ext_nodeid: ext::NodeIdType::DEFAULT,
                ext_ts_stack: None,
                payload: PushBody::Del(Del {
                    timestamp: None,
                    ext_sinfo: None,
                    ext_attachment: None,
                    ext_unknown: Vec::new(),
                }),
            }),
        };
        let message = NetworkMessage { body, reliability: Reliability::Reliable };
        Zenoh080::new().write(&mut (&mut bytes).writer(), &message).unwrap();
    }
    bytes
}

proptest! {
    #[test]
    fn what_is_cut_out_leaves_the_others_as_they_are(messages in vec(encoded(), 1..6)) {
        let batch = [&[FRAME, 0][..], &messages.concat()].concat();
        let mut passed = Vec::new();
        let passage = Outbound::default().batch(&batch, &mut Every::default(), &mut passed);
        if messages.len() == 1 {
            prop_assert_eq!(passage, Passage::Whole);
        } else {
            prop_assert_eq!(passage, Passage::Cut);
            let every: Vec<_> = messages.iter().step_by(2).cloned().collect();
            prop_assert_eq!(passed, [&[FRAME, 0][..], &every.concat()].concat());
        }
    }

    #[test]
    fn messages_are_read_from_frames_and_from_pieces(
        sent in vec(encoded(), 1..4),
        piece in 1..60_usize,
    ) {
        let mut inbound = Inbound::new(AGREED, 0, 1 << 20).unwrap();
        let framed = [&[FRAME, 0][..], &sent.concat()].concat();
        let mut heard = messages(&mut inbound, framed);
        let mut sn = 0;
        for message in &sent {
            let mut pieces = message.chunks(piece).peekable();
            let mut first = true;
            while let Some(piece) = pieces.next() {
                sn += 1;
                let more = if pieces.peek().is_some() { MORE } else { 0 };
                let mut batch = vec![FRAGMENT | more | if first { FIRST.0 } else { 0 }];
                Zenoh080::new().write(&mut batch.writer(), sn as u32).unwrap();
                batch.extend(first.then_some(FIRST.1));
                batch.extend(piece);
                first = false;
                heard.extend(messages(&mut inbound, batch));
            }
        }
        let read: Vec<_> = sent.iter().map(|message| read(message)).collect();
        prop_assert_eq!(heard, [&read[..], &read].concat());
        prop_assert_eq!(inbound.kept(), 0);
    }

    #[test]
    fn what_zenoh_writes_is_found_as_zenoh_reads_it(messages in vec(encoded(), 1..5)) {
        prop_assert_eq!(agreement::messages(&messages.concat()), messages.len());
    }

    #[test]
    fn what_is_cut_off_is_found_nowhere_else(message in encoded(), at in any::<prop::sample::Index>()) {
        let rest = message.get(..at.index(message.len())).unwrap_or_default();
        agreement::messages(rest);
    }

    #[test]
    fn ids_are_taken_for_the_keys_that_a_router_takes_them_for(
        session in vec((0..8_u8, 0..5_u16, 0..5_u16, 0..PIECES.len()), 1..60),
    ) {
        resources::names(&encode_session(&session));
    }

    #[test]
    fn any_batches_keep_to_the_bounds(bytes in vec(any::<u8>(), 0..400)) {
        agreement::batches(&bytes);
    }
}

/// What the fuzzer begins with, and what it has found.
#[test]
fn what_fuzzers_begin_with_holds() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/zenoh_wire");
    let (mut messages, mut batches, mut names) = (0, 0, 0);
    for entry in std::fs::read_dir(corpus).unwrap() {
        let input = std::fs::read(entry.unwrap().path()).unwrap();
        match input.split_first().map(|(kind, bytes)| (kind % 3, bytes)) {
            Some((0, bytes)) => messages += agreement::messages(bytes),
            Some((1, bytes)) => {
                agreement::batches(bytes);
                batches += 1;
            }
            Some((_, bytes)) => names += resources::names(bytes),
            None => {}
        }
    }
    let found = [messages, batches, names];
    assert!(found.iter().all(|count| *count > 0), "messages, batches and keys: {found:?}");
}
