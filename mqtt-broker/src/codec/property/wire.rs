//! The forms that a property's value has on the wire (§2.2.2.2).

use crate::codec::read::Reader;
use crate::codec::{DecodeError, QoS, write};

/// One form of a value. Reading checks what every value of the form must fulfil.
pub(super) trait Wire<'a> {
    type Value: Copy;

    fn read(reader: &mut Reader<'a>) -> Result<Self::Value, DecodeError>;

    /// Goes past a value that has been read before.
    fn skip(reader: &mut Reader<'a>) -> Result<(), DecodeError>;

    fn write(out: &mut Vec<u8>, value: Self::Value);

    fn len(value: Self::Value) -> usize;

    /// Whether the value can be written at all.
    fn fits(_: Self::Value) -> bool {
        true
    }
}

/// A byte of 0 or 1 that is a number.
pub(super) struct Bit;
/// A byte of 0 or 1 that is an answer.
pub(super) struct Flag;
/// A byte of 0 or 1 that is a quality of service.
pub(super) struct Quality;
pub(super) struct Two;
pub(super) struct Four;
pub(super) struct Variable;
pub(super) struct Text;
pub(super) struct Data;

impl<'a> Wire<'a> for Bit {
    type Value = u8;

    fn read(reader: &mut Reader<'a>) -> Result<u8, DecodeError> {
        match reader.byte()? {
            value @ (0 | 1) => Ok(value),
            _ => Err(DecodeError::Protocol("a property of 0 or 1 has another value")),
        }
    }

    fn skip(reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        reader.take(1).map(drop)
    }

    fn write(out: &mut Vec<u8>, value: u8) {
        out.push(value);
    }

    fn len(_: u8) -> usize {
        1
    }
}

impl<'a> Wire<'a> for Flag {
    type Value = bool;

    fn read(reader: &mut Reader<'a>) -> Result<bool, DecodeError> {
        Bit::read(reader).map(|bit| bit == 1)
    }

    fn skip(reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        Bit::skip(reader)
    }

    fn write(out: &mut Vec<u8>, value: bool) {
        out.push(u8::from(value));
    }

    fn len(_: bool) -> usize {
        1
    }
}

impl<'a> Wire<'a> for Quality {
    type Value = QoS;

    fn read(reader: &mut Reader<'a>) -> Result<QoS, DecodeError> {
        Bit::read(reader).map(|bit| if bit == 1 { QoS::AtLeastOnce } else { QoS::AtMostOnce })
    }

    fn skip(reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        Bit::skip(reader)
    }

    fn write(out: &mut Vec<u8>, value: QoS) {
        out.push(value as u8);
    }

    fn len(_: QoS) -> usize {
        1
    }

    /// QoS 2 is said by leaving the property out (§3.2.2.3.4).
    fn fits(value: QoS) -> bool {
        value != QoS::ExactlyOnce
    }
}

impl<'a> Wire<'a> for Two {
    type Value = u16;

    fn read(reader: &mut Reader<'a>) -> Result<u16, DecodeError> {
        reader.two()
    }

    fn skip(reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        reader.take(2).map(drop)
    }

    fn write(out: &mut Vec<u8>, value: u16) {
        out.extend_from_slice(&value.to_be_bytes());
    }

    fn len(_: u16) -> usize {
        2
    }
}

impl<'a> Wire<'a> for Four {
    type Value = u32;

    fn read(reader: &mut Reader<'a>) -> Result<u32, DecodeError> {
        reader.four()
    }

    fn skip(reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        reader.take(4).map(drop)
    }

    fn write(out: &mut Vec<u8>, value: u32) {
        out.extend_from_slice(&value.to_be_bytes());
    }

    fn len(_: u32) -> usize {
        4
    }
}

impl<'a> Wire<'a> for Variable {
    type Value = u32;

    fn read(reader: &mut Reader<'a>) -> Result<u32, DecodeError> {
        reader.variable()
    }

    fn skip(reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        reader.variable().map(drop)
    }

    fn write(out: &mut Vec<u8>, value: u32) {
        write::variable(out, value);
    }

    fn len(value: u32) -> usize {
        write::variable_len(value as usize)
    }

    fn fits(value: u32) -> bool {
        value <= crate::codec::read::MAX_VARIABLE
    }
}

impl<'a> Wire<'a> for Data {
    type Value = &'a [u8];

    fn read(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
        reader.data()
    }

    fn skip(reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        reader.data().map(drop)
    }

    fn write(out: &mut Vec<u8>, value: &'a [u8]) {
        write::data(out, value);
    }

    fn len(value: &'a [u8]) -> usize {
        write::data_len(value)
    }

    fn fits(value: &'a [u8]) -> bool {
        write::fits(value)
    }
}

impl<'a> Wire<'a> for Text {
    type Value = &'a str;

    fn read(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
        reader.text()
    }

    fn skip(reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        Data::skip(reader)
    }

    fn write(out: &mut Vec<u8>, value: &'a str) {
        write::data(out, value.as_bytes());
    }

    fn len(value: &'a str) -> usize {
        write::data_len(value.as_bytes())
    }

    fn fits(value: &'a str) -> bool {
        write::fits(value.as_bytes()) && !value.contains('\0')
    }
}
