/// The last `limit` bytes as text; a character cut in half is shown as the replacement character.
pub(crate) fn tail(bytes: &[u8], limit: usize) -> String {
    let from = bytes.len().saturating_sub(limit);
    String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
}

/// Bytes of a line of a build's output that are shown. Commands that it repeats are as long as they like.
const LINE: usize = 400;

/// The last `limit` bytes of what a build printed, without the rest of very long lines, so that what went wrong
/// is not pushed out by the command that did.
pub(crate) fn last_lines(bytes: &[u8], limit: usize) -> String {
    let mut short = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match line.split_at_checked(LINE) {
            Some((begin, rest)) if !rest.is_empty() => {
                short.extend_from_slice(begin);
                short.extend_from_slice("…\n".as_bytes());
            }
            _ => short.extend_from_slice(line),
        }
    }
    tail(&short, limit)
}

#[cfg(test)]
mod tests {
    use super::{LINE, last_lines, tail};

    #[test]
    fn a_long_line_leaves_room_for_what_was_said_before_it() {
        let command = "x".repeat(5000);
        let printed = format!("error: no space left\ncaused by: {command}\nreuse it\n");
        let shown = last_lines(printed.as_bytes(), 1024);
        assert!(shown.starts_with("error: no space left\ncaused by: xx"), "{shown}");
        assert!(shown.ends_with("x…\nreuse it\n"), "{shown}");
        assert_eq!(shown.len(), printed.len() - 5000 - "caused by: ".len() + LINE + "…".len());
        assert_eq!(last_lines(b"short", 1024), "short");
    }

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
