//! Where one packet ends and the next begins.

use super::DecodeError;
use super::read::variable;

/// One whole packet within a buffer (§2.1).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The first byte: the packet's kind and its flags.
    pub first: u8,
    /// Everything after the fixed header.
    pub body: &'a [u8],
    /// The whole packet in bytes, its fixed header included.
    pub len: usize,
}

impl<'a> Frame<'a> {
    /// The packet at the beginning of `bytes`, which may hold more. `None`: more bytes are needed.
    ///
    /// `max_packet` is in bytes and counts as a maximum packet size does (§3.1.2.11.4): the fixed
    /// header and all that follows it.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] as soon as the length is known, before the packet is there;
    /// [`DecodeError::Malformed`] for a length of more than four bytes or one that is padded
    /// (§1.5.5), in 3.1.1 as well.
    #[inline]
    pub fn find(bytes: &'a [u8], max_packet: usize) -> Result<Option<Self>, DecodeError> {
        let Some((&first, behind)) = bytes.split_first() else { return Ok(None) };
        let Some((length, rest)) = variable(behind)? else { return Ok(None) };
        let length = length as usize;
        let len = bytes.len() - rest.len() + length;
        if len > max_packet {
            return Err(DecodeError::TooLarge);
        }
        Ok(rest.get(..length).map(|body| Self { first, body, len }))
    }

    /// The packet's kind, 0 to 15 (§2.1.2).
    pub const fn kind(&self) -> u8 {
        self.first >> 4
    }

    pub(super) const fn flags(&self) -> u8 {
        self.first & 0x0F
    }

    /// §2.1.3: whatever is not a PUBLISH has flags of one value only.
    pub(super) fn expect_flags(&self, flags: u8) -> Result<(), DecodeError> {
        if self.flags() == flags {
            Ok(())
        } else {
            Err(DecodeError::Malformed("a reserved flag of the fixed header has a wrong value"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Frame;
    use crate::codec::DecodeError;

    #[test]
    fn a_frame_ends_where_its_length_says() {
        let bytes = [0x30, 2, 7, 8, 0xC0, 0];
        let frame = Frame::find(&bytes, 4).unwrap().unwrap();
        assert_eq!(frame, Frame { first: 0x30, body: &[7, 8], len: 4 });
        assert_eq!(frame.kind(), 3);
        for cut in 0..4 {
            assert_eq!(Frame::find(&bytes[..cut], 4), Ok(None));
        }
        let ping = Frame::find(&bytes[4..], 2).unwrap().unwrap();
        assert_eq!(ping, Frame { first: 0xC0, body: &[], len: 2 });
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_there() {
        assert_eq!(Frame::find(&[0x30, 3], 4), Err(DecodeError::TooLarge));
        assert_eq!(Frame::find(&[0x30, 2], 4), Ok(None));
        assert_eq!(
            Frame::find(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], 1 << 20),
            Err(DecodeError::TooLarge)
        );
        assert_eq!(Frame::find(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], usize::MAX), Ok(None));
    }

    #[test]
    fn a_length_has_four_bytes_at_most_and_no_padding() {
        for bytes in [
            &[0x30, 0x80, 0x80, 0x80, 0x80][..],
            &[0x30, 0x80, 0x80, 0x80, 0x80, 1],
            &[0x30, 0x82, 0],
        ] {
            assert!(matches!(Frame::find(bytes, 1 << 20), Err(DecodeError::Malformed(_))));
        }
    }
}
