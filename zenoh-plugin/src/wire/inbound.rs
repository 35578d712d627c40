use super::Violation;
use super::fragments::{Chain, Marks, Piece};
use super::sequence::{Lanes, Negotiated};
use zenoh_buffers::ZSlice;
use zenoh_buffers::reader::Reader;
use zenoh_codec::{RCodec, Zenoh080, Zenoh080Reliability};
use zenoh_protocol::common::imsg;
use zenoh_protocol::core::Reliability;
use zenoh_protocol::network::NetworkMessage;
use zenoh_protocol::transport::{
    Close, Fragment, FrameHeader, KeepAlive, TransportSn, id as transport,
};

/// Reads what a client sends.
#[derive(Debug)]
pub(crate) struct Inbound {
    lanes: Lanes<Chain>,
    /// The reliability of the frame that the rest of the batch begins in.
    frame: Option<Reliability>,
    kept: usize,
    max_message: usize,
}

/// What was found in a batch.
#[derive(Debug)]
pub(crate) enum Found<T> {
    /// A whole message, and what became of it.
    Message(T),
    /// A message in pieces that was given up, since it is larger than any may be.
    TooLarge,
    /// The client says that it closes. Nothing that comes after it counts.
    Close,
}

impl Inbound {
    /// A reader for a session whose client begins with the sequence number `initial`. Messages in
    /// pieces may take `max_message` bytes, all those of a session together.
    pub(crate) fn new(
        agreed: Negotiated,
        initial: TransportSn,
        max_message: usize,
    ) -> Result<Self, Violation> {
        Ok(Self { lanes: Lanes::new(agreed, initial)?, frame: None, kept: 0, max_message })
    }

    /// Reads on in a batch, whose rest has to be read to its end before another one. A whole message is given to
    /// `take` where it is, since moving it costs more than it seems.
    ///
    /// # Errors
    /// [`Violation`]; what was found before it was whole.
    pub(crate) fn next<T>(
        &mut self,
        batch: &mut ZSlice,
        take: impl FnOnce(&mut NetworkMessage) -> T,
    ) -> Result<Option<Found<T>>, Violation> {
        let codec = Zenoh080::new();
        let malformed = |_| Violation::Malformed;
        while let Some(header) = batch.as_slice().first() {
            let id = imsg::mid(*header);
            match (id, self.frame) {
                (id, Some(reliability)) if id > transport::JOIN => {
                    return read(batch, reliability, false, take);
                }
                (transport::FRAME, _) => {
                    let frame: FrameHeader = codec.read(&mut *batch).map_err(malformed)?;
                    let priority = frame.ext_qos.priority();
                    self.lanes.advance(priority, frame.reliability, frame.sn)?;
                    self.frame = Some(frame.reliability);
                }
                (transport::FRAGMENT, _) => {
                    let fragment: Fragment = codec.read(&mut *batch).map_err(malformed)?;
                    // A piece takes all that is left of its batch.
                    self.frame = None;
                    match self.fragment(&fragment)? {
                        Piece::Taken => {}
                        Piece::TooLarge => return Ok(Some(Found::TooLarge)),
                        Piece::Whole(mut whole) => {
                            return read(&mut whole, fragment.reliability, true, take);
                        }
                    }
                }
                (transport::KEEP_ALIVE, _) => {
                    let _: KeepAlive = codec.read(&mut *batch).map_err(malformed)?;
                    self.frame = None;
                }
                (transport::CLOSE, _) => {
                    let _: Close = codec.read(&mut *batch).map_err(malformed)?;
                    return Ok(Some(Found::Close));
                }
                _ => return Err(Violation::OutOfPlace),
            }
        }
        self.frame = None;
        Ok(None)
    }

    /// Bytes of messages in pieces that are kept.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// Forgets messages in pieces; what comes of them yet is passed over.
    pub(crate) fn forget_pieces(&mut self) {
        for chain in self.lanes.iter_mut() {
            *chain = Chain::Idle;
        }
        self.kept = 0;
    }

    /// Bytes of all chains.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn in_chains(&self) -> usize {
        self.lanes.iter().map(Chain::len).sum()
    }

    fn fragment(&mut self, fragment: &Fragment) -> Result<Piece, Violation> {
        let (priority, reliability) = (fragment.ext_qos.priority(), fragment.reliability);
        let (lane, adjacent) = self.lanes.advance(priority, reliability, fragment.sn)?;
        let marks = Marks {
            first: fragment.ext_first.is_some(),
            dropped: fragment.ext_drop.is_some(),
            more: fragment.more,
            adjacent,
        };
        Ok(lane.chain.push(fragment.payload.as_slice(), marks, &mut self.kept, self.max_message))
    }
}

/// Reads a message, behind which there may be nothing if `is_all`.
fn read<T>(
    bytes: &mut ZSlice,
    reliability: Reliability,
    is_all: bool,
    take: impl FnOnce(&mut NetworkMessage) -> T,
) -> Result<Option<Found<T>>, Violation> {
    match Zenoh080Reliability::new(reliability).read(&mut *bytes) {
        Ok(ref mut message) if !is_all || !bytes.can_read() => {
            Ok(Some(Found::Message(take(message))))
        }
        _ => Err(Violation::Malformed),
    }
}
