//! A cursor that cannot run over the end of its bytes.

use super::DecodeError;
use super::DecodeError::Malformed;

/// Largest number that a variable byte integer can hold (§1.5.5).
pub(super) const MAX_VARIABLE: u32 = 268_435_455;

#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

const ENDS_EARLY: DecodeError = Malformed("the packet ends within a field");

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self.rest.split_first().ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(*first)
    }

    /// §1.5.2
    pub(super) fn two(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// §1.5.3
    pub(super) fn four(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// §1.5.5
    pub(super) fn variable(&mut self) -> Result<u32, DecodeError> {
        let (value, rest) = variable(self.rest)?.ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(value)
    }

    /// §1.5.6
    pub(super) fn data(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.two()?;
        self.take(usize::from(len))
    }

    /// §1.5.4
    pub(super) fn text(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.data()?;
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed("a text is not UTF-8"))?;
        if bytes.contains(&0) {
            return Err(Malformed("a text holds U+0000"));
        }
        Ok(text)
    }

    pub(super) fn packet_id(&mut self) -> Result<u16, DecodeError> {
        match self.two()? {
            0 => Err(DecodeError::Protocol("a packet identifier is not 0")),
            id => Ok(id),
        }
    }

    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed("the packet has bytes after its last field"))
        }
    }
}

/// A variable byte integer at the beginning of `bytes`, and what follows it; `None` if it is not
/// all there. Padding is malformed: §1.5.5 wants the shortest form.
#[inline]
pub(super) fn variable(bytes: &[u8]) -> Result<Option<(u32, &[u8])>, DecodeError> {
    if let Some((&first @ 0..=0x7F, rest)) = bytes.split_first() {
        return Ok(Some((u32::from(first), rest)));
    }
    let mut value = 0;
    let mut rest = bytes;
    for shift in [0, 7, 14, 21] {
        let Some((&byte, behind)) = rest.split_first() else { return Ok(None) };
        rest = behind;
        value |= u32::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            if byte == 0 && shift > 0 {
                return Err(Malformed("a variable byte integer is longer than it needs to be"));
            }
            return Ok(Some((value, rest)));
        }
    }
    Err(Malformed("a variable byte integer has more than four bytes"))
}

#[cfg(test)]
mod tests {
    use super::{MAX_VARIABLE, Reader, variable};
    use crate::codec::DecodeError;

    #[test]
    fn variable_byte_integers_have_one_to_four_bytes() {
        for (bytes, value) in [
            (&[0_u8][..], 0),
            (&[0x7F], 127),
            (&[0x80, 1], 128),
            (&[0xFF, 0x7F], 16_383),
            (&[0x80, 0x80, 1], 16_384),
            (&[0xFF, 0xFF, 0x7F], 2_097_151),
            (&[0x80, 0x80, 0x80, 1], 2_097_152),
            (&[0xFF, 0xFF, 0xFF, 0x7F], MAX_VARIABLE),
        ] {
            assert_eq!(variable(bytes), Ok(Some((value, &[][..]))), "{bytes:x?}");
            for cut in 0..bytes.len() {
                assert_eq!(variable(&bytes[..cut]), Ok(None), "{bytes:x?}");
            }
        }
    }

    #[test]
    fn variable_byte_integers_are_neither_padded_nor_longer() {
        for bytes in [
            &[0x80_u8, 0][..],
            &[0xFF, 0],
            &[0x80, 0x80, 0],
            &[0x80, 0x80, 0x80, 0],
            &[0x80, 0x80, 0x80, 0x80],
            &[0xFF, 0xFF, 0xFF, 0xFF, 1],
        ] {
            assert!(matches!(variable(bytes), Err(DecodeError::Malformed(_))), "{bytes:x?}");
        }
    }

    #[test]
    fn text_is_utf8_without_nul() {
        let read = |bytes: &[u8]| {
            let mut all = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
            all.extend_from_slice(bytes);
            Reader::new(&all).text().map(str::to_owned)
        };
        // A surrogate, an overlong slash, a lone continuation, a cut sequence, beyond U+10FFFF.
        for bytes in
            [&b"\xED\xA0\x80"[..], b"\xC0\xAF", b"\x80", b"a\xE2\x82", b"\xF4\x90\x80\x80", b"a\0b"]
        {
            assert!(matches!(read(bytes), Err(DecodeError::Malformed(_))), "{bytes:x?}");
        }
        for text in ["", "a", "\u{FEFF}a", "\u{FFFF}", "\u{1}\u{7F}\u{9F}", "\u{10FFFF}", "ü/€"]
        {
            assert_eq!(read(text.as_bytes()).as_deref(), Ok(text));
        }
    }
}
