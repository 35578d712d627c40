//! Inclusion, overlap and membership of [`Pattern`]s.
//!
//! Segments come from an unbounded alphabet, which is what makes comparing patterns segment by
//! segment complete: no finite list of literals can stand in for a `*`.

use crate::pattern::Segment;
use crate::{Name, Pattern};

impl Pattern {
    /// Whether every name of `requested` is a name of this pattern, so that allowing this pattern
    /// allows all of the request.
    ///
    /// `{literal}` on this side takes only a literal: a request with a wildcard there is not
    /// included, although each single name would be.
    pub fn includes(&self, requested: &Pattern) -> bool {
        let mut asked = requested.segments().iter();
        for allowed in self.segments() {
            let covered = match (allowed, asked.next()) {
                (Segment::Rest, _) => return true,
                (Segment::Literal(a), Some(Segment::Literal(b))) => a == b,
                (Segment::Any, Some(Segment::Literal(_) | Segment::Any | Segment::Spelled)) => true,
                (Segment::Spelled, Some(Segment::Literal(_) | Segment::Spelled)) => true,
                _ => false,
            };
            if !covered {
                return false;
            }
        }
        asked.next().is_none()
    }

    /// Whether some name belongs to both patterns.
    pub fn intersects(&self, other: &Pattern) -> bool {
        let (mut left, mut right) = (self.segments().iter(), other.segments().iter());
        loop {
            match (left.next(), right.next()) {
                (None, None) | (Some(Segment::Rest), _) | (_, Some(Segment::Rest)) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(Segment::Literal(a)), Some(Segment::Literal(b))) if a != b => return false,
                _ => {}
            }
        }
    }

    /// Whether the name belongs to this pattern.
    pub fn matches(&self, name: &Name<'_>) -> bool {
        let mut segments = name.segments().iter();
        for step in self.segments() {
            match (step, segments.next()) {
                (Segment::Rest, _) => return true,
                (Segment::Any | Segment::Spelled, Some(_)) => {}
                (Segment::Literal(text), Some(segment)) if **text == **segment => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }
}
