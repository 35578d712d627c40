//! How names and patterns are written on each broker.

use crate::pattern::Segment;
use crate::{MAX_SEGMENTS, Pattern, PatternError};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A messaging system and its way of writing names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Broker {
    /// Subjects: `.` between tokens, `*` for one, `>` for one or more at the end.
    Nats,
    /// Topics: `/` between levels, `+` for one, `#` at the end for the parent and all below
    /// (MQTT 5 §4.7.1).
    Mqtt,
    /// Key expressions: `/` between chunks, `*` for one, `**` for any number.
    Zenoh,
}

/// A concrete name, split into its segments and checked against a broker's syntax.
#[derive(Clone, Copy)]
pub struct Name<'a> {
    segments: [&'a str; MAX_SEGMENTS],
    len: usize,
}

/// Why a text is not a name or a filter of a broker, or a pattern cannot be written for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SyntaxError {
    /// An empty segment: `a//b`, a leading or a trailing separator.
    #[error("the name has an empty segment")]
    EmptySegment,
    /// More than [`MAX_SEGMENTS`] segments.
    #[error("the name has more than {MAX_SEGMENTS} segments")]
    TooDeep,
    /// A key expression with more wildcards than a router can compare in little time: see
    /// [`MAX_RESTS`](crate::MAX_RESTS) and [`MAX_PARTIAL_BYTES`](crate::MAX_PARTIAL_BYTES).
    #[error(
        "the name has more than {} `**`, or a chunk with more than one `$*` or of more than {} bytes with one",
        crate::MAX_RESTS,
        crate::MAX_PARTIAL_BYTES
    )]
    TooWild,
    /// A key expression of more than [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES) bytes.
    #[error("the name has more than {} bytes", crate::MAX_KEY_BYTES)]
    TooLong,
    /// A wildcard in a name, or one in a place where the broker gives it no meaning.
    #[error("the name has a wildcard or separator where {0} allows none")]
    Wildcard(Broker),
    /// A character that the broker does not carry.
    #[error("the name has a character that {0} does not carry")]
    Character(Broker),
    /// A pattern whose literal the broker would read as something else.
    #[error("segment '{segment}' of the pattern cannot be written on {broker}")]
    Inexpressible {
        /// The segment.
        segment: String,
        /// The broker.
        broker: Broker,
    },
}

impl Broker {
    /// All of them.
    pub const ALL: [Broker; 3] = [Broker::Nats, Broker::Mqtt, Broker::Zenoh];

    const fn separator(self) -> char {
        match self {
            Broker::Nats => '.',
            Broker::Mqtt | Broker::Zenoh => '/',
        }
    }

    const fn any(self) -> &'static str {
        match self {
            Broker::Nats | Broker::Zenoh => "*",
            Broker::Mqtt => "+",
        }
    }

    const fn rest(self) -> &'static str {
        match self {
            Broker::Nats => ">",
            Broker::Mqtt => "#",
            Broker::Zenoh => "**",
        }
    }

    /// Reads a concrete name: a subject, a topic name or a key.
    ///
    /// Stricter than the brokers: empty segments are refused everywhere, so that `a//b` cannot be
    /// one thing to a check and another to a broker.
    ///
    /// # Errors
    /// [`SyntaxError`] if it is none.
    pub fn name(self, text: &str) -> Result<Name<'_>, SyntaxError> {
        let mut segments = [""; MAX_SEGMENTS];
        let mut len = 0;
        for segment in text.split(self.separator()) {
            self.check_literal(segment)?;
            *segments.get_mut(len).ok_or(SyntaxError::TooDeep)? = segment;
            len += 1;
        }
        Ok(Name { segments, len })
    }

    /// Reads what a client asks to receive: a subject with wildcards, a topic filter (without
    /// `$share`) or a key expression whose wildcards are whole chunks with `**` last.
    ///
    /// # Errors
    /// [`SyntaxError`] if it is none.
    pub fn filter(self, text: &str) -> Result<Pattern, SyntaxError> {
        let mut segments = Vec::new();
        for part in text.split(self.separator()) {
            if segments.last() == Some(&Segment::Rest) {
                return Err(SyntaxError::Wildcard(self));
            }
            if part == self.rest() {
                // NATS asks for at least one token more, where the others include the parent.
                if self == Broker::Nats {
                    segments.push(Segment::Any);
                }
                segments.push(Segment::Rest);
            } else if part == self.any() {
                segments.push(Segment::Any);
            } else {
                self.check_literal(part)?;
                segments.push(Segment::Literal(part.into()));
            }
            if segments.len() > MAX_SEGMENTS {
                return Err(SyntaxError::TooDeep);
            }
        }
        Pattern::from_segments(segments).map_err(|error| match error {
            PatternError::TooLong => SyntaxError::TooDeep,
            _ => SyntaxError::EmptySegment,
        })
    }

    /// Writes a pattern as the broker's own filters, which together match exactly its names. It
    /// takes two on NATS where a pattern ends in `**`, because `>` does not match the parent.
    ///
    /// # Errors
    /// [`SyntaxError::Inexpressible`] if a literal has a meaning of its own there: never an
    /// approximation.
    pub fn render(self, pattern: &Pattern) -> Result<Vec<String>, SyntaxError> {
        let mut text = String::with_capacity(64);
        for segment in pattern.segments() {
            let part = match segment {
                Segment::Literal(literal) => {
                    self.check_literal(literal).map_err(|_| SyntaxError::Inexpressible {
                        segment: literal.to_string(),
                        broker: self,
                    })?;
                    literal
                }
                Segment::Any | Segment::Spelled => self.any(),
                Segment::Rest => {
                    let below = format!("{text}{}{}", self.separator(), self.rest());
                    return Ok(match self {
                        // `*.>` already needs two tokens; the parent is the pattern without it.
                        Broker::Nats => vec![text, below],
                        Broker::Mqtt | Broker::Zenoh => vec![below],
                    });
                }
            };
            if !text.is_empty() {
                text.push(self.separator());
            }
            text.push_str(part);
        }
        Ok(vec![text])
    }

    fn check_literal(self, segment: &str) -> Result<(), SyntaxError> {
        if segment.is_empty() {
            return Err(SyntaxError::EmptySegment);
        }
        // Almost every name is plain ASCII: look closer only at what is not.
        if segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
            return Ok(());
        }
        let wildcards: &[char] = match self {
            Broker::Nats => &['*', '>', '.'],
            Broker::Mqtt => &['+', '#', '/'],
            Broker::Zenoh => &['*', '$', '?', '#', '/'],
        };
        if segment.contains(wildcards) {
            return Err(SyntaxError::Wildcard(self));
        }
        let refused = |c: char| c.is_control() || (self == Broker::Nats && c.is_whitespace());
        if segment.contains(refused) {
            return Err(SyntaxError::Character(self));
        }
        Ok(())
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Broker::Nats => "NATS",
            Broker::Mqtt => "MQTT",
            Broker::Zenoh => "Zenoh",
        })
    }
}

impl<'a> Name<'a> {
    /// The name's segments, in order.
    pub fn segments(&self) -> &[&'a str] {
        self.segments.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.segments()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{Broker, SyntaxError};
    use crate::Pattern;

    fn render(broker: Broker, text: &str) -> Vec<String> {
        broker.render(&text.parse::<Pattern>().unwrap()).unwrap()
    }

    #[test]
    fn renders_to_each_broker() {
        assert_eq!(render(Broker::Nats, "a/*/b/**"), ["a.*.b", "a.*.b.>"]);
        assert_eq!(render(Broker::Mqtt, "a/*/b/**"), ["a/+/b/#"]);
        assert_eq!(render(Broker::Zenoh, "a/*/b/**"), ["a/*/b/**"]);
        assert_eq!(render(Broker::Nats, "_reply/{literal}"), ["_reply.*"]);
        assert_eq!(render(Broker::Nats, "**"), ["*", "*.>"]);
    }

    #[test]
    fn a_literal_with_a_meaning_of_its_own_is_an_error() {
        let cases = [(Broker::Nats, "a.b"), (Broker::Nats, "a>"), (Broker::Mqtt, "a+b")];
        for (broker, text) in cases {
            let pattern: Pattern = text.parse().unwrap();
            assert!(
                matches!(broker.render(&pattern), Err(SyntaxError::Inexpressible { .. })),
                "{text} on {broker}"
            );
        }
        let system: Pattern = "$JS/API/**".parse().unwrap();
        assert!(Broker::Nats.render(&system).is_ok());
        assert!(Broker::Zenoh.render(&system).is_err());
    }

    #[test]
    fn refuses_names_that_two_readers_could_split_differently() {
        for text in ["", "/", "a//b", "/a", "a/", "a/+", "a/#", "a\0", "a/\u{7f}"] {
            assert!(Broker::Mqtt.name(text).is_err(), "{text:?}");
        }
        for text in ["", ".", "a..b", ".a", "a.", "a.*", "a.>", "a b", "a\r\nb"] {
            assert!(Broker::Nats.name(text).is_err(), "{text:?}");
        }
        for text in ["a/**", "a/$*", "a?b", "a#b", "a//b"] {
            assert!(Broker::Zenoh.name(text).is_err(), "{text:?}");
        }
        assert_eq!(
            Broker::Mqtt.name(&"a/".repeat(10_000)).unwrap_err(),
            SyntaxError::TooDeep,
            "ten thousand levels end the search early"
        );
    }

    #[test]
    fn refuses_filters_with_misplaced_wildcards() {
        for text in ["a#", "a/#/b", "a+b", "#/a", "+a"] {
            assert!(Broker::Mqtt.filter(text).is_err(), "{text:?}");
        }
        for text in ["a.>.b", "a*", ">.a", "a.b>"] {
            assert!(Broker::Nats.filter(text).is_err(), "{text:?}");
        }
        assert_eq!(Broker::Nats.filter("a.>").unwrap(), "a/*/**".parse().unwrap());
        assert_eq!(Broker::Mqtt.filter("#").unwrap(), "**".parse().unwrap());
    }
}
