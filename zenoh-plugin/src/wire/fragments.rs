use zenoh_buffers::ZSlice;

/// A message that comes in pieces, on one lane.
#[derive(Debug, Default)]
pub(super) enum Chain {
    /// None is under way. Pieces without a first one are passed over, as a router does.
    #[default]
    Idle,
    /// Its pieces so far, copied, so that a small piece does not keep a large buffer alive.
    Open(Vec<u8>),
}

/// What became of a piece.
#[derive(Debug)]
pub(super) enum Piece {
    /// It was kept, or was no piece of anything.
    Taken,
    /// It was the last: the whole message.
    Whole(ZSlice),
    /// With it the message would be larger than may be kept. All of it is forgotten.
    TooLarge,
}

/// How a piece is marked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    pub first: bool,
    pub dropped: bool,
    pub more: bool,
    /// Whether it follows the one before without a gap.
    pub adjacent: bool,
}

impl Chain {
    /// Takes a piece. `kept` counts the bytes of all chains of a session, `max` bounds it.
    pub(super) fn push(
        &mut self,
        piece: &[u8],
        marks: Marks,
        kept: &mut usize,
        max: usize,
    ) -> Piece {
        if marks.first || marks.dropped || !marks.adjacent {
            self.forget(kept);
        }
        if marks.first && !marks.dropped {
            // Most messages in pieces are a little larger than one.
            *self = Chain::Open(Vec::with_capacity(piece.len() + piece.len() / 4));
        }
        let Chain::Open(bytes) = self else {
            return Piece::Taken;
        };
        if kept.saturating_add(piece.len()) > max {
            self.forget(kept);
            return Piece::TooLarge;
        }
        *kept += piece.len();
        bytes.extend_from_slice(piece);
        if marks.more {
            return Piece::Taken;
        }
        let whole = std::mem::take(bytes);
        *kept = kept.saturating_sub(whole.len());
        *self = Chain::Idle;
        Piece::Whole(whole.into())
    }

    /// How many bytes it holds.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn len(&self) -> usize {
        match self {
            Chain::Idle => 0,
            Chain::Open(bytes) => bytes.len(),
        }
    }

    fn forget(&mut self, kept: &mut usize) {
        if let Chain::Open(bytes) = std::mem::take(self) {
            *kept = kept.saturating_sub(bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Chain, Marks, Piece};

    const FIRST: Marks = Marks { first: true, dropped: false, more: true, adjacent: true };
    const NEXT: Marks = Marks { first: false, ..FIRST };
    const LAST: Marks = Marks { more: false, ..NEXT };

    #[test]
    fn pieces_become_one_message() {
        let (mut chain, mut kept) = (Chain::default(), 0);
        assert!(matches!(chain.push(b"ab", FIRST, &mut kept, 8), Piece::Taken));
        assert!(matches!(chain.push(b"cd", NEXT, &mut kept, 8), Piece::Taken));
        assert_eq!(kept, 4);
        match chain.push(b"e", LAST, &mut kept, 8) {
            Piece::Whole(whole) => assert_eq!(whole.as_slice(), b"abcde"),
            other => panic!("{other:?}"),
        }
        assert_eq!(kept, 0);
    }

    #[test]
    fn only_a_first_piece_begins_and_only_adjacent_ones_go_on() {
        let (mut chain, mut kept) = (Chain::default(), 0);
        assert!(matches!(chain.push(b"x", LAST, &mut kept, 8), Piece::Taken));
        chain.push(b"ab", FIRST, &mut kept, 8);
        let gap = Marks { adjacent: false, ..LAST };
        assert!(matches!(chain.push(b"x", gap, &mut kept, 8), Piece::Taken), "no message of a gap");
        assert_eq!(kept, 0);
        chain.push(b"ab", FIRST, &mut kept, 8);
        let dropped = Marks { dropped: true, ..NEXT };
        chain.push(b"", dropped, &mut kept, 8);
        assert!(matches!(chain.push(b"x", LAST, &mut kept, 8), Piece::Taken));
        assert_eq!(kept, 0);
    }

    #[test]
    fn all_chains_together_stay_below_the_bound() {
        let (mut one, mut other, mut kept) = (Chain::default(), Chain::default(), 0);
        one.push(b"abcd", FIRST, &mut kept, 8);
        other.push(b"abc", FIRST, &mut kept, 8);
        assert!(matches!(other.push(b"de", NEXT, &mut kept, 8), Piece::TooLarge));
        assert_eq!(kept, 4, "the other's pieces are given up");
        assert!(matches!(other.push(b"f", LAST, &mut kept, 8), Piece::Taken));
        assert!(matches!(one.push(b"e", LAST, &mut kept, 8), Piece::Whole(_)));
    }
}
