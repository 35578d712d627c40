//! Finding the key and the end of a message without building it.
//!
//! Only for what the router wrote, and only for the most frequent message: everything else is read by
//! Zenoh's codec. Tests and a fuzz target compare the two.

use std::borrow::Cow;
use zenoh_protocol::common::imsg;
use zenoh_protocol::core::{ExprId, WireExpr};
use zenoh_protocol::network::{Mapping, RequestId, id as network, push, request};
use zenoh_protocol::zenoh::{del, id as data, put};

/// Header bits that `Push`, `Request` and `Response` share.
const NAMED: u8 = push::flag::N;
const MAPPED: u8 = push::flag::M;
const EXTENDED: u8 = request::flag::Z;

/// Bits of an extension's header.
const MORE: u8 = 1 << 7;
const ENCODING: u8 = 0b11 << 5;
const INTEGER: u8 = 0b01 << 5;
const BYTES: u8 = 0b10 << 5;
const MANDATORY: u8 = 1 << 4;

/// The extension for the quality of service, an integer.
const QOS: u8 = INTEGER | 0x1;

/// Its bits that say that the message, or the first one in a row, shall not be dropped.
const KEPT: u64 = 1 << 3 | 1 << 5;

/// What a message begins with.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    /// Which message.
    pub id: u8,
    /// The query that it is, or that it answers.
    pub rid: Option<RequestId>,
    /// What it is about.
    pub expr: WireExpr<'a>,
    /// Whether its sender would rather have it dropped than wait.
    pub droppable: bool,
}

/// Reads the head of a `Push`, a `Request` or a `Response`, up to what it carries.
pub(super) fn head<'a>(bytes: &mut &'a [u8]) -> Option<Head<'a>> {
    let header = byte(bytes)?;
    let id = imsg::mid(header);
    let rid = match id {
        network::PUSH => None,
        network::REQUEST | network::RESPONSE => Some(RequestId::try_from(integer(bytes)?).ok()?),
        _ => return None,
    };
    let scope = ExprId::try_from(integer(bytes)?).ok()?;
    let suffix =
        if header & NAMED == 0 { "" } else { std::str::from_utf8(counted(bytes)?).ok()? };
    let mapping = if header & MAPPED == 0 { Mapping::Receiver } else { Mapping::Sender };
    let qos = if header & EXTENDED == 0 { None } else { extensions(bytes)? };
    let droppable = id == network::PUSH && qos.unwrap_or_default() & KEPT == 0;
    let expr = WireExpr { scope, suffix: Cow::Borrowed(suffix), mapping };
    Some(Head { id, rid, expr, droppable })
}

/// Reads a whole `Push`; `bytes` then begin with what follows it.
pub(super) fn push<'a>(bytes: &mut &'a [u8]) -> Option<Head<'a>> {
    let found = head(bytes)?;
    if found.id != network::PUSH {
        return None;
    }
    let body = byte(bytes)?;
    let id = imsg::mid(body);
    if id != data::PUT && id != data::DEL {
        return None;
    }
    if body & put::flag::T != 0 {
        integer(bytes)?;
        counted(bytes)?;
    }
    if id == data::PUT && body & put::flag::E != 0 {
        let encoding = integer(bytes)?;
        if encoding & 1 == 1 {
            counted(bytes)?;
        }
    }
    if body & del::flag::Z != 0 {
        extensions(bytes)?;
    }
    if id == data::PUT {
        counted(bytes)?;
    }
    Some(found)
}

/// Skips extensions; the value of the one for the quality of service, if it is there.
fn extensions(bytes: &mut &[u8]) -> Option<Option<u64>> {
    let mut qos = None;
    loop {
        let header = byte(bytes)?;
        match header & ENCODING {
            0 => {}
            INTEGER => {
                let value = integer(bytes)?;
                if header & !(MORE | MANDATORY) == QOS {
                    qos = Some(value);
                }
            }
            BYTES => {
                counted(bytes)?;
            }
            _ => return None,
        }
        if header & MORE == 0 {
            return Some(qos);
        }
    }
}

fn byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

/// An integer of seven bits per byte, at most nine bytes long, the last of which has all eight.
fn integer(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let next = byte(bytes)?;
        if shift == 56 {
            return Some(value | u64::from(next) << shift);
        }
        value |= u64::from(next & 0x7f) << shift;
        if next & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn counted<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(integer(bytes)?).ok()?;
    let (counted, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(counted)
}
