//! Finding the key and the end of a message without building it.
//!
//! Only for what the router wrote, and only for the most frequent message: everything else is read by
//! Zenoh's codec. Tests and a fuzz target compare the two.

use std::borrow::Cow;
use zenoh_protocol::common::imsg;
use zenoh_protocol::core::{ExprId, WireExpr};
use zenoh_protocol::network::{Mapping, id as network, push, request};
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

/// What a message begins with.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    /// Which message.
    pub id: u8,
    /// What it is about.
    pub expr: WireExpr<'a>,
}

/// Reads the head of a `Push`, a `Request` or a `Response`.
pub(super) fn head<'a>(bytes: &mut &'a [u8]) -> Option<Head<'a>> {
    let header = byte(bytes)?;
    let id = imsg::mid(header);
    match id {
        network::PUSH => {}
        network::REQUEST | network::RESPONSE => {
            u32::try_from(integer(bytes)?).ok()?;
        }
        _ => return None,
    }
    let scope = ExprId::try_from(integer(bytes)?).ok()?;
    let suffix =
        if header & NAMED == 0 { "" } else { std::str::from_utf8(counted(bytes)?).ok()? };
    let mapping = if header & MAPPED == 0 { Mapping::Receiver } else { Mapping::Sender };
    Some(Head { id, expr: WireExpr { scope, suffix: Cow::Borrowed(suffix), mapping } })
}

/// Reads a whole `Push`; `bytes` then begin with what follows it.
pub(super) fn push<'a>(bytes: &mut &'a [u8]) -> Option<Head<'a>> {
    let header = *bytes.first()?;
    let found = head(bytes)?;
    if found.id != network::PUSH {
        return None;
    }
    if header & EXTENDED != 0 {
        extensions(bytes)?;
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

fn extensions(bytes: &mut &[u8]) -> Option<()> {
    loop {
        let header = byte(bytes)?;
        match header & ENCODING {
            0 => {}
            INTEGER => {
                integer(bytes)?;
            }
            BYTES => {
                counted(bytes)?;
            }
            _ => return None,
        }
        if header & MORE == 0 {
            return Some(());
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

#[cfg(test)]
mod tests;
