//! Fields as they go onto the wire, and how long they are there.

use super::read::MAX_VARIABLE;

pub(super) fn variable(out: &mut Vec<u8>, value: u32) {
    let mut rest = value;
    loop {
        let low = (rest & 0x7F) as u8;
        rest >>= 7;
        if rest == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Bytes of a length that [`variable`] writes.
pub(super) const fn variable_len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// `bytes` after their length in two bytes. They fit: see [`fits`].
pub(super) fn data(out: &mut Vec<u8>, bytes: &[u8]) {
    let Ok(len) = u16::try_from(bytes.len()) else { return };
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}

pub(super) const fn data_len(bytes: &[u8]) -> usize {
    2 + bytes.len()
}

pub(super) fn fits(bytes: &[u8]) -> bool {
    u16::try_from(bytes.len()).is_ok()
}

/// The fixed header of a packet whose body has `length` bytes, with room for the body. `false`, and
/// nothing written, if no packet can be that long.
#[inline]
pub(super) fn header(out: &mut Vec<u8>, first: u8, length: usize) -> bool {
    let Some(short) = u32::try_from(length).ok().filter(|l| *l <= MAX_VARIABLE) else {
        return false;
    };
    out.reserve(1 + variable_len(length) + length);
    out.push(first);
    variable(out, short);
    true
}

#[cfg(test)]
mod tests {
    use super::{header, variable, variable_len};
    use crate::codec::read;

    #[test]
    fn variable_byte_integers_read_back() {
        for value in [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, read::MAX_VARIABLE] {
            let mut out = Vec::new();
            variable(&mut out, value);
            assert_eq!(out.len(), variable_len(value as usize));
            assert_eq!(read::variable(&out), Ok(Some((value, &[][..]))));
        }
    }

    #[test]
    fn no_header_is_written_for_what_no_packet_can_hold() {
        let mut out = Vec::new();
        assert!(!header(&mut out, 0x30, 268_435_456));
        assert!(out.is_empty());
    }
}
