/// The last `limit` bytes as text; a character cut in half is shown as the replacement character.
pub(crate) fn tail(bytes: &[u8], limit: usize) -> String {
    let from = bytes.len().saturating_sub(limit);
    String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::tail;

    #[test]
    fn keeps_the_end() {
        assert_eq!(tail(b"abcdef", 3), "def");
        assert_eq!(tail(b"abc", 3), "abc");
        assert_eq!(tail(b"", 3), "");
    }

    #[test]
    fn survives_a_cut_character() {
        assert_eq!(tail("é!".as_bytes(), 2), "\u{fffd}!");
    }
}
