//! Zenoh's key expressions, which say more than a [`Pattern`] can: `**` anywhere, and `$*` for a part
//! of a chunk.

use crate::pattern::Segment;
use crate::{Broker, MAX_SEGMENTS, Pattern, SyntaxError};
use std::fmt;

/// Longest key expression, in bytes. Zenoh sets no bound to a key, part of which may be declared before,
/// and gate and router keep each that a client declares.
pub const MAX_KEY_BYTES: usize = 4096;

/// Most `**` of a key expression. A router tries all ways in which they can divide the chunks of another
/// one among them, and whoever waits for its tables waits for that: with fifteen, for hours.
pub const MAX_RESTS: usize = 2;

/// Longest chunk that has `$*` in it, in bytes. There may be one `$*` in each, since a router tries all
/// ways of these, too.
pub const MAX_PARTIAL_BYTES: usize = 128;

/// A canonical key expression: a key, or a set of them that a client asks for.
///
/// Stricter than Zenoh: no chunk is `.` or `..`, which storage backends take for folders, none holds
/// control characters, and there are fewer wildcards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyExpr<'a> {
    // INVARIANT: 1 to MAX_SEGMENTS chunks, each checked, MAX_RESTS of them `**`, of MAX_KEY_BYTES at most.
    text: &'a str,
    wild: bool,
}

#[derive(Clone, Copy)]
enum Chunk<'a> {
    Literal(&'a str),
    /// `*`.
    Any,
    /// Text with `$*` in it.
    Partial(&'a str),
    /// `**`.
    Rest,
}

impl<'a> KeyExpr<'a> {
    /// Checks a key expression.
    ///
    /// # Errors
    /// [`SyntaxError`] if it is none, or not in the canonical form, in which alone a router takes it.
    pub fn parse(text: &'a str) -> Result<Self, SyntaxError> {
        if text.len() > MAX_KEY_BYTES {
            return Err(SyntaxError::TooLong);
        }
        let (mut count, mut rests, mut wild, mut after_rest) = (0, 0, false, false);
        for chunk in text.split('/') {
            count += 1;
            if count > MAX_SEGMENTS {
                return Err(SyntaxError::TooDeep);
            }
            match Chunk::read(chunk)? {
                Chunk::Literal(_) => after_rest = false,
                Chunk::Partial(_) => (wild, after_rest) = (true, false),
                // The canonical form has the `*` first, and one `**` for two.
                Chunk::Any | Chunk::Rest if after_rest => {
                    return Err(SyntaxError::Wildcard(Broker::Zenoh));
                }
                Chunk::Any => wild = true,
                Chunk::Rest if rests == MAX_RESTS => return Err(SyntaxError::TooWild),
                Chunk::Rest => (wild, after_rest, rests) = (true, true, rests + 1),
            }
        }
        Ok(Self { text, wild })
    }

    /// The key expression's text.
    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// Whether it stands for more than one key.
    pub fn is_wild(&self) -> bool {
        self.wild
    }

    /// Whether some key may belong to both. It errs on the side of yes, where both have `$*` in a chunk.
    pub fn meets(&self, other: &KeyExpr<'_>) -> bool {
        let mine: Vec<_> = self.chunks().collect();
        // Bit n is set while the first n chunks can stand for the other's chunks read so far.
        let mut reached = past_rests(&mine, 1);
        for chunk in other.chunks() {
            let mut next = 0;
            if matches!(chunk, Chunk::Rest) {
                next = u64::MAX.checked_shl(reached.trailing_zeros()).unwrap_or(0);
            } else {
                for (position, own) in mine.iter().enumerate() {
                    if reached & 1 << position == 0 {
                        continue;
                    }
                    match own {
                        Chunk::Rest => next |= 1 << position,
                        _ if own.may_be(chunk) => next |= 1 << (position + 1),
                        _ => {}
                    }
                }
            }
            reached = past_rests(&mine, next);
            if reached == 0 {
                return false;
            }
        }
        reached >> mine.len() & 1 == 1
    }

    fn chunks(&self) -> impl Iterator<Item = Chunk<'a>> {
        self.text.split('/').filter_map(|chunk| Chunk::read(chunk).ok())
    }
}

impl<'a> Chunk<'a> {
    fn read(text: &'a str) -> Result<Self, SyntaxError> {
        let bytes = text.as_bytes();
        if bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'@')) {
            let empty = bytes.is_empty();
            return if empty { Err(SyntaxError::EmptySegment) } else { Ok(Chunk::Literal(text)) };
        }
        match text {
            "*" => return Ok(Chunk::Any),
            "**" => return Ok(Chunk::Rest),
            // What `$*` alone means is written `*`.
            "." | ".." | "$*" => return Err(SyntaxError::Character(Broker::Zenoh)),
            _ => {}
        }
        if text.contains(char::is_control) {
            return Err(SyntaxError::Character(Broker::Zenoh));
        }
        let reserved = ['*', '$', '?', '#'];
        if text.split("$*").any(|part| part.contains(reserved)) || text.contains("$*$*") {
            return Err(SyntaxError::Wildcard(Broker::Zenoh));
        }
        match text.matches("$*").count() {
            0 => Ok(Chunk::Literal(text)),
            1 if text.len() <= MAX_PARTIAL_BYTES => Ok(Chunk::Partial(text)),
            _ => Err(SyntaxError::TooWild),
        }
    }

    fn may_be(self, other: Chunk<'_>) -> bool {
        match (self, other) {
            (Chunk::Literal(a), Chunk::Literal(b)) => a == b,
            (Chunk::Literal(literal), Chunk::Partial(partial))
            | (Chunk::Partial(partial), Chunk::Literal(literal)) => covers(partial, literal),
            _ => true,
        }
    }

    /// Whether keys that begin with it are a router's own: about itself, and for whoever administers it.
    fn is_system(self) -> bool {
        matches!(self, Chunk::Literal(text) if text.starts_with('@'))
    }

    /// Whether some chunk belongs to both this and a pattern's segment of one chunk.
    fn meets(self, segment: &Segment) -> bool {
        match (segment, self) {
            (Segment::Literal(literal), Chunk::Literal(text)) => **literal == *text,
            (Segment::Literal(literal), Chunk::Partial(text)) => covers(text, literal),
            _ => true,
        }
    }
}

/// Adds the positions behind each `**` that has been reached, since it may stand for nothing.
fn past_rests(chunks: &[Chunk<'_>], mut reached: u64) -> u64 {
    for (position, chunk) in chunks.iter().enumerate() {
        if matches!(chunk, Chunk::Rest) && reached & 1 << position != 0 {
            reached |= 1 << (position + 1);
        }
    }
    reached
}

/// Whether a chunk with `$*` stands for this literal.
fn covers(partial: &str, literal: &str) -> bool {
    let Some((head, tail)) = partial.split_once("$*") else {
        return partial == literal;
    };
    literal.strip_prefix(head).is_some_and(|left| left.ends_with(tail))
}

impl Pattern {
    /// Whether every key that a key expression stands for is a name of this pattern.
    ///
    /// A chunk that begins with `@` is a literal here like any other, although Zenoh's own wildcards
    /// pass it by: what is below a tenant's names is the tenant's. Only where a key begins with one, in a
    /// router's own names, the pattern has to spell it out as well.
    pub fn includes_keys(&self, requested: &KeyExpr<'_>) -> bool {
        if !self.may_be_system(requested) {
            return false;
        }
        let mut asked = requested.chunks();
        for allowed in self.segments() {
            let covered = match (allowed, asked.next()) {
                (Segment::Rest, _) => return true,
                (Segment::Literal(a), Some(Chunk::Literal(b))) => **a == *b,
                (Segment::Any, Some(chunk)) => !matches!(chunk, Chunk::Rest),
                (Segment::Spelled, Some(Chunk::Literal(_))) => true,
                _ => false,
            };
            if !covered {
                return false;
            }
        }
        asked.next().is_none()
    }

    /// Whether some key that a key expression stands for is a name of this pattern.
    pub fn meets_keys(&self, requested: &KeyExpr<'_>) -> bool {
        if !self.may_be_system(requested) {
            return false;
        }
        let segments = self.segments();
        // Bit n is set while the first n segments can stand for the chunks read so far.
        let mut reached: u64 = 1;
        for chunk in requested.chunks() {
            let mut next = 0;
            if matches!(chunk, Chunk::Rest) {
                // It stands for any number of segments: all positions from the first one on.
                let first = reached.trailing_zeros();
                next = u64::MAX.checked_shl(first).unwrap_or(0);
            } else {
                for (position, segment) in segments.iter().enumerate() {
                    let here = reached & (1 << position) != 0;
                    if here && matches!(segment, Segment::Rest) {
                        next |= 1 << position;
                    } else if here && chunk.meets(segment) {
                        next |= 1 << (position + 1);
                    }
                }
            }
            if next == 0 {
                return false;
            }
            reached = next;
        }
        // A final `**` may stand for nothing.
        let end = segments.iter().take_while(|segment| !matches!(segment, Segment::Rest)).count();
        reached >> end & 1 == 1
    }
}

impl Pattern {
    fn may_be_system(&self, requested: &KeyExpr<'_>) -> bool {
        self.is_verbatim() || !requested.chunks().next().is_some_and(Chunk::is_system)
    }
}

impl fmt::Display for KeyExpr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text)
    }
}

impl fmt::Debug for KeyExpr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::{KeyExpr, MAX_PARTIAL_BYTES};
    use crate::{Pattern, SyntaxError};

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    fn includes(allowed: &str, asked: &str) -> bool {
        pattern(allowed).includes_keys(&KeyExpr::parse(asked).unwrap())
    }

    fn meets(one: &str, other: &str) -> bool {
        pattern(one).meets_keys(&KeyExpr::parse(other).unwrap())
    }

    #[test]
    fn refuses_what_is_no_canonical_key_expression() {
        for text in [
            "", "/", "a//b", "/a", "a/", "a*", "**a", "a/***", "$*", "a$", "a$*$*b", "a?b", "a#",
            "**/**", "**/*", "a/./b", "a/../b", "a\nb", "a/$b",
        ] {
            assert!(KeyExpr::parse(text).is_err(), "{text:?}");
        }
        for text in ["a", "a/*/**", "**/a/**", "a$*/b$*c", "a/@adv/pub/*", "é/x", "a.b"] {
            assert!(KeyExpr::parse(text).is_ok(), "{text:?}");
        }
        for text in ["**/a/**/b/**", "a$*b$*", "$*a$*b"] {
            assert_eq!(KeyExpr::parse(text), Err(SyntaxError::TooWild), "{text:?}");
        }
        let partial = |len: usize| format!("a/$*{}", "x".repeat(len - 2));
        assert!(KeyExpr::parse(&partial(MAX_PARTIAL_BYTES)).is_ok());
        assert_eq!(KeyExpr::parse(&partial(MAX_PARTIAL_BYTES + 1)), Err(SyntaxError::TooWild));
    }

    #[test]
    fn only_all_of_a_request_is_included() {
        assert!(includes("dc/acme/**", "dc/acme/**/x/**"));
        assert!(includes("dc/acme/**", "dc/acme"));
        assert!(includes("dc/acme/**", "dc/acme/@adv/pub"));
        assert!(includes("dc/acme/*/cmd", "dc/acme/cam$*/cmd"));
        assert!(!includes("dc/acme/*/cmd", "dc/acme/**"));
        assert!(!includes("dc/acme/**", "dc/acm$*/x"));
        assert!(!includes("dc/acme/**", "dc/*/x"));
        assert!(!includes("dc/acme/**", "**"));
        assert!(!includes("r/{literal}", "r/*"));
        assert!(!includes("r/{literal}", "r/a$*"));
        assert!(includes("r/{literal}", "r/a"));
    }

    #[test]
    fn a_routers_own_names_have_to_be_spelled_out() {
        for pattern in ["*/**", "*/{literal}/router/**", "{literal}/*/router/**", "**"] {
            for asked in ["@/1f/router/x", "@/*/router/**", "@/**", "@x/1f/router/a"] {
                assert!(!includes(pattern, asked), "{pattern} {asked}");
                assert!(!meets(pattern, asked), "{pattern} {asked}");
            }
        }
        assert!(includes("@/{literal}/router/**", "@/1f/router/x"));
        assert!(meets("@/{literal}/router/**", "@/*/router/**"));
        assert!(includes("*/{literal}/router/**", "a/@/router/x"));
    }

    #[test]
    fn what_can_meet_is_found() {
        assert!(meets("dc/acme/**", "**"));
        assert!(meets("dc/acme/**", "dc/acm$*/x"));
        assert!(meets("dc/acme/**", "dc/**/x"));
        assert!(meets("dc/acme/**", "dc/**"));
        assert!(meets("dc/acme/**", "dc/acme"));
        assert!(!meets("dc/acme/**", "dc/glo$*/x"));
        assert!(!meets("dc/acme/**", "dc/globex/**"));
        assert!(!meets("dc/acme/**", "dc"));
        assert!(meets("a/*/c", "**/c"));
        assert!(!meets("a/*/c", "**/d"));
        assert!(!meets("a/b", "a/b/*"));
        assert!(meets("a/b", "a/b/**"));
    }
}
