use super::skip::{self, Head};
use zenoh_codec::{RCodec, Zenoh080, Zenoh080Reliability};
use zenoh_protocol::common::imsg;
use zenoh_protocol::core::{Priority, Reliability};
use zenoh_protocol::network::{NetworkMessage, id as network};
use zenoh_protocol::transport::{Close, FragmentHeader, FrameHeader, KeepAlive, id as transport};

/// Goes through what the router sends to one client, and cuts out what is not for it.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    /// Whether the message under way in pieces passes, by lane.
    passing: [bool; 2 * Priority::NUM],
}

/// Decides on what was found.
pub(crate) trait Censor {
    /// Whether a `Push`, `Request` or `Response` that begins like this passes.
    fn head(&mut self, head: &Head<'_>) -> bool;

    /// Whether any other message passes.
    fn message(&mut self, message: &NetworkMessage) -> bool;
}

/// What of a batch passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    /// All of it, as it is.
    Whole,
    /// All of it, as it is: it ends with a piece of a message, whose next one follows.
    Piece,
    /// What was written instead, if anything was.
    Cut,
    /// Nothing more will come: the router closes.
    Closed,
    /// The router does not keep to the protocol.
    Broken,
}

impl Outbound {
    /// Goes through a batch. What is left of one that has to be cut is written to `out`.
    pub(crate) fn batch(
        &mut self,
        batch: &[u8],
        censor: &mut impl Censor,
        out: &mut Vec<u8>,
    ) -> Passage {
        let mut cutter = Cutter { batch, from: 0, out, cut: false };
        match self.walk(batch, censor, &mut cutter) {
            Some(Passage::Closed) => Passage::Closed,
            Some(passage) => cutter.finish(passage),
            None => Passage::Broken,
        }
    }

    /// What to make of the batch if nothing is cut out of it; `None` after what cannot be read.
    fn walk(
        &mut self,
        batch: &[u8],
        censor: &mut impl Censor,
        cutter: &mut Cutter<'_>,
    ) -> Option<Passage> {
        let codec = Zenoh080::new();
        let mut rest = batch;
        while let Some(header) = rest.first() {
            let at = batch.len() - rest.len();
            match imsg::mid(*header) {
                transport::FRAME => {
                    let frame: FrameHeader = codec.read(&mut rest).ok()?;
                    frames(&mut rest, batch.len(), frame.reliability, censor, cutter)?;
                }
                transport::FRAGMENT => {
                    let fragment: FragmentHeader = codec.read(&mut rest).ok()?;
                    let row = 2 * fragment.ext_qos.priority() as usize;
                    let lane = row + usize::from(fragment.reliability == Reliability::Reliable);
                    let passing = self.passing.get_mut(lane)?;
                    if fragment.ext_first.is_some() {
                        *passing = skip::head(&mut rest).is_some_and(|head| censor.head(&head));
                    }
                    if !*passing {
                        cutter.cut(at, batch.len());
                    }
                    let goes_on = fragment.more && fragment.ext_drop.is_none();
                    *passing &= goes_on;
                    // A piece takes all that is left of its batch.
                    return Some(if goes_on { Passage::Piece } else { Passage::Whole });
                }
                transport::KEEP_ALIVE => {
                    let _: KeepAlive = codec.read(&mut rest).ok()?;
                }
                transport::CLOSE => {
                    let _: Close = codec.read(&mut rest).ok()?;
                    return Some(Passage::Closed);
                }
                _ => return None,
            }
        }
        Some(Passage::Whole)
    }
}

fn frames(
    rest: &mut &[u8],
    total: usize,
    reliability: Reliability,
    censor: &mut impl Censor,
    cutter: &mut Cutter<'_>,
) -> Option<()> {
    while let Some(header) = rest.first() {
        let id = imsg::mid(*header);
        if id <= transport::JOIN {
            break;
        }
        let at = total - rest.len();
        let passes = if id == network::PUSH {
            let mut head = skip::push(rest)?;
            head.droppable |= reliability == Reliability::BestEffort;
            censor.head(&head)
        } else {
            let codec = Zenoh080Reliability::new(reliability);
            let message: NetworkMessage = codec.read(rest).ok()?;
            censor.message(&message)
        };
        if !passes {
            cutter.cut(at, total - rest.len());
        }
    }
    Some(())
}

/// Copies a batch up to what is cut out of it, once something is.
struct Cutter<'a> {
    batch: &'a [u8],
    from: usize,
    out: &'a mut Vec<u8>,
    cut: bool,
}

impl Cutter<'_> {
    fn cut(&mut self, from: usize, to: usize) {
        self.cut = true;
        self.out.extend_from_slice(self.batch.get(self.from..from).unwrap_or_default());
        self.from = to;
    }

    fn finish(self, passage: Passage) -> Passage {
        if !self.cut {
            return passage;
        }
        self.out.extend_from_slice(self.batch.get(self.from..).unwrap_or_default());
        Passage::Cut
    }
}
