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
    kept: usize,
    max_message: usize,
}

/// Takes what was read.
pub(crate) trait Sink {
    /// A whole message.
    ///
    /// # Errors
    /// [`Violation`] if the session has to end.
    fn message(&mut self, message: NetworkMessage) -> Result<(), Violation>;

    /// A message in pieces that was given up, since it is larger than any may be.
    fn too_large(&mut self);
}

/// Whether the client goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// It does.
    Open,
    /// It said that it closes.
    Closed,
}

impl Inbound {
    /// A reader for a session whose client begins with the sequence number `initial`. Messages in
    /// pieces may take `max_message` bytes, all those of a session together.
    pub(crate) fn new(
        agreed: Negotiated,
        initial: TransportSn,
        max_message: usize,
    ) -> Result<Self, Violation> {
        Ok(Self { lanes: Lanes::new(agreed, initial)?, kept: 0, max_message })
    }

    /// Reads all messages of a batch.
    ///
    /// # Errors
    /// [`Violation`]; what came before it was given to the sink.
    pub(crate) fn batch(
        &mut self,
        mut batch: ZSlice,
        sink: &mut impl Sink,
    ) -> Result<Flow, Violation> {
        let codec = Zenoh080::new();
        let malformed = |_| Violation::Malformed;
        while let Some(header) = batch.as_slice().first() {
            match imsg::mid(*header) {
                transport::FRAME => {
                    let frame: FrameHeader = codec.read(&mut batch).map_err(malformed)?;
                    let priority = frame.ext_qos.priority();
                    self.lanes.advance(priority, frame.reliability, frame.sn)?;
                    while let Some(header) = batch.as_slice().first() {
                        if imsg::mid(*header) <= transport::JOIN {
                            break;
                        }
                        sink.message(read(&mut batch, frame.reliability)?)?;
                    }
                }
                transport::FRAGMENT => {
                    let fragment: Fragment = codec.read(&mut batch).map_err(malformed)?;
                    self.fragment(fragment, sink)?;
                }
                transport::KEEP_ALIVE => {
                    let _: KeepAlive = codec.read(&mut batch).map_err(malformed)?;
                }
                transport::CLOSE => {
                    let _: Close = codec.read(&mut batch).map_err(malformed)?;
                    return Ok(Flow::Closed);
                }
                _ => return Err(Violation::OutOfPlace),
            }
        }
        Ok(Flow::Open)
    }

    /// Bytes of messages in pieces that are held.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn kept(&self) -> usize {
        self.lanes.iter().map(Chain::len).sum::<usize>().max(self.kept)
    }

    fn fragment(&mut self, fragment: Fragment, sink: &mut impl Sink) -> Result<(), Violation> {
        let (priority, reliability) = (fragment.ext_qos.priority(), fragment.reliability);
        let (lane, adjacent) = self.lanes.advance(priority, reliability, fragment.sn)?;
        let marks = Marks {
            first: fragment.ext_first.is_some(),
            dropped: fragment.ext_drop.is_some(),
            more: fragment.more,
            adjacent,
        };
        let piece = fragment.payload.as_slice();
        match lane.chain.push(piece, marks, &mut self.kept, self.max_message) {
            Piece::Taken => Ok(()),
            Piece::TooLarge => {
                sink.too_large();
                Ok(())
            }
            Piece::Whole(mut whole) => {
                let message = read(&mut whole, reliability)?;
                if whole.can_read() { Err(Violation::Malformed) } else { sink.message(message) }
            }
        }
    }
}

fn read(bytes: &mut ZSlice, reliability: Reliability) -> Result<NetworkMessage, Violation> {
    Zenoh080Reliability::new(reliability).read(bytes).map_err(|_| Violation::Malformed)
}
