use super::Violation;
use zenoh_protocol::core::{Bits, Priority, Reliability};
use zenoh_protocol::transport::TransportSn;

/// What both ends agreed on when the session was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Negotiated {
    /// How large sequence numbers are.
    pub resolution: Bits,
    /// Whether each priority has lanes of its own.
    pub qos: bool,
}

/// The state of every lane of one direction: each priority has a reliable one and a best-effort one.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    mask: TransportSn,
    qos: bool,
    lanes: [Lane<T>; 2 * Priority::NUM],
}

#[derive(Debug)]
pub(super) struct Lane<T> {
    last: TransportSn,
    pub(super) chain: T,
}

impl<T: Default> Lanes<T> {
    /// Lanes whose first sequence number will be `initial`.
    pub(super) fn new(agreed: Negotiated, initial: TransportSn) -> Result<Self, Violation> {
        let mask = mask(agreed.resolution);
        if initial & !mask != 0 {
            return Err(Violation::Sequence);
        }
        let last = initial.wrapping_sub(1) & mask;
        let lanes = std::array::from_fn(|_| Lane { last, chain: T::default() });
        Ok(Self { mask, qos: agreed.qos, lanes })
    }

    /// What each lane holds.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.lanes.iter().map(|lane| &lane.chain)
    }

    /// What each lane holds, to change it.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.lanes.iter_mut().map(|lane| &mut lane.chain)
    }

    /// Takes the next sequence number of a lane. Gaps are as Zenoh allows them, below half of the
    /// range; what a router would silently drop as old is a violation, since one link keeps its order.
    pub(super) fn advance(
        &mut self,
        priority: Priority,
        reliability: Reliability,
        sn: TransportSn,
    ) -> Result<(&mut Lane<T>, bool), Violation> {
        if !self.qos && priority != Priority::DEFAULT {
            return Err(Violation::Sequence);
        }
        let row = if self.qos { priority as usize } else { 0 };
        let lane = 2 * row + usize::from(reliability == Reliability::Reliable);
        let lane = self.lanes.get_mut(lane).ok_or(Violation::Sequence)?;
        let gap = sn.wrapping_sub(lane.last) & self.mask;
        if sn & !self.mask != 0 || gap == 0 || gap > self.mask >> 1 {
            return Err(Violation::Sequence);
        }
        lane.last = sn;
        Ok((lane, gap == 1))
    }
}

/// The bits that a sequence number may have.
fn mask(resolution: Bits) -> TransportSn {
    match resolution {
        Bits::U8 => TransportSn::from(u8::MAX >> 1),
        Bits::U16 => TransportSn::from(u16::MAX >> 2),
        Bits::U32 => TransportSn::MAX >> 4,
        // Sequence numbers are of 32 bits in memory.
        Bits::U64 => TransportSn::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::{Lanes, Negotiated};
    use zenoh_protocol::core::{Bits, Priority, Reliability};

    fn lanes(qos: bool, initial: u32) -> Lanes<()> {
        Lanes::new(Negotiated { resolution: Bits::U8, qos }, initial).unwrap()
    }

    #[test]
    fn numbers_follow_each_other_around_the_end_of_the_range() {
        let mut lanes = lanes(true, 126);
        let mut next = |sn| lanes.advance(Priority::Data, Reliability::Reliable, sn).map(|l| l.1);
        assert_eq!(next(126), Ok(true));
        assert_eq!(next(127), Ok(true));
        assert_eq!(next(0), Ok(true));
        assert_eq!(next(3), Ok(false), "a gap is no violation");
        assert!(next(3).is_err(), "the same again is one");
        assert!(next(2).is_err());
        assert!(next(67).is_err(), "half of the range is no gap any more");
        assert!(next(128).is_err());
    }

    #[test]
    fn lanes_count_apart_and_without_qos_there_is_one_priority() {
        let mut with = lanes(true, 0);
        for priority in [Priority::RealTime, Priority::Data] {
            for reliability in [Reliability::Reliable, Reliability::BestEffort] {
                assert!(with.advance(priority, reliability, 0).is_ok());
            }
        }
        let mut without = lanes(false, 0);
        assert!(without.advance(Priority::RealTime, Reliability::Reliable, 0).is_err());
        assert!(without.advance(Priority::Data, Reliability::Reliable, 0).is_ok());
        assert!(Lanes::<()>::new(Negotiated { resolution: Bits::U8, qos: true }, 200).is_err());
    }
}
