//! The one pattern language that every broker's names are described in.

use crate::{DeviceId, TenantId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Most segments that a pattern or a name may have.
pub const MAX_SEGMENTS: usize = 32;

/// Longest pattern, in bytes of its text.
pub const MAX_PATTERN_BYTES: usize = 1024;

/// One step of a [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Segment {
    /// Exactly this text.
    Literal(Arc<str>),
    /// `*`: any one segment.
    Any,
    /// `{literal}`: any one segment, but a request has to spell it out.
    Spelled,
    /// `**`, only at the end: the name so far and everything below it.
    Rest,
}

/// A set of names: literal segments, `*` for exactly one segment, `{literal}` for one segment that a
/// request must spell out, and a final `**` for the name so far and everything below it.
///
/// ```
/// # use bulkhead_policy::Pattern;
/// let events: Pattern = "plant/*/event/**".parse()?;
/// assert!(events.includes(&"plant/cam-1/event/*".parse()?));
/// assert!(!events.includes(&"plant/**".parse()?));
/// # Ok::<(), bulkhead_policy::PatternError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    // INVARIANT: 1 to MAX_SEGMENTS segments; `Rest` is last and has a segment before it.
    segments: Box<[Segment]>,
}

/// A [`Pattern`] in which `{tenant}` and `{device}` are still open. They are filled from a verified
/// principal, never from anything a client says.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Template {
    segments: Box<[Slot]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Slot {
    Fixed(Segment),
    Tenant,
    Device,
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Nothing at all.
    #[error("a pattern needs at least one segment")]
    Empty,
    /// Over [`MAX_PATTERN_BYTES`] or [`MAX_SEGMENTS`].
    #[error("a pattern has at most {MAX_SEGMENTS} segments and {MAX_PATTERN_BYTES} bytes")]
    TooLong,
    /// Two slashes in a row, or one at an end.
    #[error(
        "pattern '{0}' has an empty segment; write it without a leading, trailing or double '/'"
    )]
    EmptySegment(String),
    /// `**` before the end.
    #[error("pattern '{0}' has '**' before its end; '**' is allowed only as the last segment")]
    RestNotLast(String),
    /// A segment mixes text with a wildcard or a placeholder, or has a character no name can have.
    #[error(
        "segment '{0}' is neither a plain word nor exactly one of '*', '**', '{{tenant}}', \
         '{{device}}', '{{literal}}'"
    )]
    Segment(String),
    /// `{tenant}` more than once: for a service, whose tenants are all, they could be two.
    #[error("pattern '{0}' names {{tenant}} twice; put '*' in one of the two places")]
    TenantTwice(String),
    /// `{tenant}` or `{device}` where nothing fills them.
    #[error("pattern '{0}' has a placeholder, which stands only in a role's grants")]
    Placeholder(String),
}

impl Pattern {
    pub(crate) fn from_segments(segments: Vec<Segment>) -> Result<Self, PatternError> {
        if segments.is_empty() {
            return Err(PatternError::Empty);
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(PatternError::TooLong);
        }
        // A name has a first segment, so a bare `**` says the same as `*/**`.
        let segments = if segments.first() == Some(&Segment::Rest) {
            vec![Segment::Any, Segment::Rest]
        } else {
            segments
        };
        Ok(Self { segments: segments.into() })
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether it begins with a chunk that Zenoh's own wildcards pass by.
    pub(crate) fn is_verbatim(&self) -> bool {
        self.literals().first().is_some_and(|first| first.starts_with('@'))
    }

    /// The literal segments that it begins with.
    pub(crate) fn literals(&self) -> Vec<&str> {
        let leading = self.segments.iter().map_while(|segment| match segment {
            Segment::Literal(text) => Some(&**text),
            _ => None,
        });
        leading.collect()
    }
}

impl Template {
    /// Closes the template for one principal.
    ///
    /// Without a tenant, as for a service that works for all of them, `{tenant}` stands for any one
    /// segment. Without a device a template that needs one has no pattern: `None`.
    pub fn fill(&self, tenant: Option<&TenantId>, device: Option<&DeviceId>) -> Option<Pattern> {
        let mut segments = Vec::with_capacity(self.segments.len());
        for slot in &self.segments {
            segments.push(match slot {
                Slot::Fixed(segment) => segment.clone(),
                Slot::Tenant => tenant.map_or(Segment::Any, |t| Segment::Literal(t.into())),
                Slot::Device => match (device, tenant) {
                    (Some(device), _) => Segment::Literal(device.into()),
                    (None, None) => Segment::Any,
                    (None, Some(_)) => return None,
                },
            });
        }
        Some(Pattern { segments: segments.into() })
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.segments
    }

    /// At which segment, from 0, the template first names the tenant.
    pub fn tenant_segment(&self) -> Option<usize> {
        self.segments.iter().position(|slot| *slot == Slot::Tenant)
    }

    /// Whether the template is confined to one tenant by `{tenant}`.
    pub fn names_tenant(&self) -> bool {
        self.segments.contains(&Slot::Tenant)
    }

    /// Whether a segment of the template has to be spelled out by whoever asks for it.
    pub fn names_literal(&self) -> bool {
        self.segments.contains(&Slot::Fixed(Segment::Spelled))
    }

    /// Whether a segment begins with `@`, which a router of Zenoh has names of its own by.
    pub fn names_system(&self) -> bool {
        let system = |slot: &Slot| matches!(slot, Slot::Fixed(Segment::Literal(text)) if text.starts_with('@'));
        self.segments.iter().any(system)
    }

    /// Whether the template needs a device.
    pub fn names_device(&self) -> bool {
        self.segments.contains(&Slot::Device)
    }
}

fn parse_slots(text: &str) -> Result<Vec<Slot>, PatternError> {
    if text.is_empty() {
        return Err(PatternError::Empty);
    }
    if text.len() > MAX_PATTERN_BYTES {
        return Err(PatternError::TooLong);
    }
    let mut slots = Vec::new();
    for part in text.split('/') {
        if slots.last() == Some(&Slot::Fixed(Segment::Rest)) {
            return Err(PatternError::RestNotLast(text.to_owned()));
        }
        slots.push(match part {
            "" => return Err(PatternError::EmptySegment(text.to_owned())),
            "*" => Slot::Fixed(Segment::Any),
            "**" => Slot::Fixed(Segment::Rest),
            "{literal}" => Slot::Fixed(Segment::Spelled),
            "{tenant}" => Slot::Tenant,
            "{device}" => Slot::Device,
            word if is_word(word) => Slot::Fixed(Segment::Literal(word.into())),
            other => return Err(PatternError::Segment(other.to_owned())),
        });
        if slots.len() > MAX_SEGMENTS {
            return Err(PatternError::TooLong);
        }
    }
    Ok(slots)
}

fn is_word(text: &str) -> bool {
    !text.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '*' | '{' | '}' | '/'))
}

impl FromStr for Template {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let mut slots = parse_slots(text)?;
        if slots.first() == Some(&Slot::Fixed(Segment::Rest)) {
            slots.insert(0, Slot::Fixed(Segment::Any));
        }
        if slots.iter().filter(|slot| **slot == Slot::Tenant).count() > 1 {
            return Err(PatternError::TenantTwice(text.to_owned()));
        }
        Ok(Self { segments: slots.into() })
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let segments = parse_slots(text)?
            .into_iter()
            .map(|slot| match slot {
                Slot::Fixed(segment) => Ok(segment),
                Slot::Tenant | Slot::Device => Err(PatternError::Placeholder(text.to_owned())),
            })
            .collect::<Result<_, _>>()?;
        Self::from_segments(segments)
    }
}

fn write_joined<'a>(
    f: &mut fmt::Formatter<'_>,
    parts: impl Iterator<Item = &'a str>,
) -> fmt::Result {
    for (i, part) in parts.enumerate() {
        if i > 0 {
            f.write_str("/")?;
        }
        f.write_str(part)?;
    }
    Ok(())
}

impl Segment {
    fn text(&self) -> &str {
        match self {
            Segment::Literal(text) => text,
            Segment::Any => "*",
            Segment::Spelled => "{literal}",
            Segment::Rest => "**",
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_joined(f, self.segments.iter().map(Segment::text))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_joined(
            f,
            self.segments.iter().map(|slot| match slot {
                Slot::Fixed(segment) => segment.text(),
                Slot::Tenant => "{tenant}",
                Slot::Device => "{device}",
            }),
        )
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({self})")
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({self})")
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_SEGMENTS, Pattern, PatternError, Template};
    use crate::{DeviceId, TenantId};

    #[test]
    fn text_survives_a_round_trip() {
        for text in ["a", "a/*/b", "a/**", "$JS/API/**", "_reply/{literal}", "*/**"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        assert_eq!("**".parse::<Pattern>().unwrap().to_string(), "*/**");
        assert_eq!("{tenant}/x".parse::<Template>().unwrap().to_string(), "{tenant}/x");
    }

    #[test]
    fn refuses_what_is_not_a_pattern() {
        let bad =
            ["", "/", "/a", "a/", "a//b", "**/a", "a*", "{tenant}x", "{other}", "a b", "a\0b"];
        for text in bad {
            assert!(text.parse::<Template>().is_err(), "{text:?}");
        }
        let deep = vec!["a"; MAX_SEGMENTS + 1].join("/");
        assert_eq!(deep.parse::<Template>(), Err(PatternError::TooLong));
        assert!("x/{tenant}".parse::<Pattern>().is_err());
        let twice = "{tenant}/x/{tenant}".to_owned();
        assert_eq!(twice.parse::<Template>(), Err(PatternError::TenantTwice(twice)));
    }

    #[test]
    fn placeholders_come_from_the_principal_only() {
        let tenant = TenantId::parse("acme").unwrap();
        let device = DeviceId::parse("cam-1").unwrap();
        let template: Template = "dc/{tenant}/{device}/**".parse().unwrap();
        let filled = template.fill(Some(&tenant), Some(&device)).unwrap();
        assert_eq!(filled.to_string(), "dc/acme/cam-1/**");
        assert_eq!(template.fill(Some(&tenant), None), None);
        assert_eq!(template.fill(None, None).unwrap().to_string(), "dc/*/*/**");
    }
}
