use jiff::Timestamp;

/// Which tenant has a name: one that is created after another was deleted is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incarnation {
    /// Nobody can say. Whatever there is under the name is its.
    Unknown,
    /// None has it.
    Gone,
    /// The one that was created then.
    Created(Timestamp),
}

impl Incarnation {
    /// When the tenant was created, if that is known.
    pub(crate) fn created(self) -> Option<Timestamp> {
        match self {
            Self::Created(at) => Some(at),
            Self::Unknown | Self::Gone => None,
        }
    }

    /// Whether what was kept for this one belongs to whoever has the name `now`.
    pub(crate) fn is_still(self, now: Self) -> bool {
        match (self, now) {
            (_, Self::Gone) => false,
            (Self::Unknown, _) | (_, Self::Unknown) => true,
            (before, now) => before == now,
        }
    }
}
