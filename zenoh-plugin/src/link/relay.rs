use super::batches::Whole;
use super::{Batches, Reader, Writer, split_batch};
use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

/// Bytes that wait for a client before it counts as slow.
const HIGH: usize = 1024 * 1024;

/// Bytes that wait for a client when it has caught up.
const LOW: usize = 256 * 1024;

thread_local! {
    /// Where a relay puts together what passes. None keeps it while it waits.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Debug, Default)]
struct Scratch {
    passed: Vec<u8>,
    /// What the filter writes in the place of one batch, without the prefix.
    instead: Vec<u8>,
}

/// Passes batches on from the router to a client. It reads on while the client does not, up to a bound,
/// so that the router waits for no client.
pub(crate) struct Relay {
    batches: Batches<Reader>,
    out: Out,
}

/// What looks through the batches, and hears how the client keeps up.
pub(crate) trait Filter {
    /// Looks through a batch; what is left of one that does not pass whole is written to `instead`.
    fn batch(&mut self, batch: &[u8], instead: &mut Vec<u8>) -> Filtered;

    /// The client has fallen behind, or has caught up.
    fn is_slow(&mut self, slow: bool);

    /// The client took so many bytes while it was behind.
    fn progress(&mut self, bytes: usize);

    /// Whether so many bytes may wait for the client.
    fn may_wait(&mut self, bytes: usize) -> bool;
}

/// What a filter makes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filtered {
    /// It passes as it is.
    Whole,
    /// It passes as it is: a piece of a message whose next one follows.
    Piece,
    /// What the filter wrote passes instead, or nothing.
    Instead,
    /// Nothing more passes.
    End,
}

/// Why a relay ended.
#[derive(Debug)]
pub(crate) enum RelayEnd {
    /// The filter said so.
    Filter,
    /// The client has more waiting for it than may wait.
    TooSlow,
    /// A connection broke.
    Broken,
}

impl Relay {
    /// A relay between these two.
    pub(crate) fn new(reader: Reader, writer: Writer) -> Self {
        let out = Out { writer, waiting: BytesMut::new(), slow: false, flushed: true };
        Self { batches: Batches::new(reader), out }
    }

    /// Passes on until it ends.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        filter: &mut impl Filter,
    ) -> Poll<RelayEnd> {
        loop {
            if self.out.push_on(cx, filter).is_err() {
                return Poll::Ready(RelayEnd::Broken);
            }
            if !filter.may_wait(self.out.waiting.len()) {
                return Poll::Ready(RelayEnd::TooSlow);
            }
            let out = &mut self.out;
            let read = self.batches.poll(cx, |cx, whole| {
                SCRATCH.with_borrow_mut(|scratch| out.pass_on(cx, whole, scratch, filter))
            });
            match read {
                Poll::Ready(Ok(Ok(false))) => {}
                Poll::Ready(Ok(Ok(true))) => return Poll::Ready(RelayEnd::Filter),
                Poll::Ready(_) => return Poll::Ready(RelayEnd::Broken),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Ends it: what still comes from the router, and what still goes to the client.
    pub(crate) fn end(self) -> (Remains, Rest) {
        (Remains(self.batches), Rest(self.out))
    }
}

/// What the router still sends to a session that has ended.
pub(crate) struct Remains(Batches<Reader>);

impl Remains {
    /// Reads and forgets it, until the router has closed. It may wait for its socket to be read, and everybody
    /// for it.
    pub(crate) async fn forget(&mut self) {
        while poll_fn(|cx| self.0.poll(cx, |_, _| ())).await.is_ok() {}
    }
}

/// What a client has not taken yet of a session that has ended.
pub(crate) struct Rest(Out);

impl Rest {
    /// Waits until the client has taken it, so that it stands between two batches. Returns the way to it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) async fn finish(self) -> io::Result<Writer> {
        let Out { mut writer, mut waiting, .. } = self.0;
        tokio::io::AsyncWriteExt::write_all_buf(&mut writer, &mut waiting).await?;
        tokio::io::AsyncWriteExt::flush(&mut writer).await?;
        Ok(writer)
    }
}

/// The way to a client, and what it has not taken yet.
struct Out {
    writer: Writer,
    waiting: BytesMut,
    slow: bool,
    flushed: bool,
}

impl Out {
    /// Writes what waits as far as the client takes it, and says how it keeps up.
    fn push_on(&mut self, cx: &mut Context<'_>, filter: &mut impl Filter) -> io::Result<()> {
        while !self.waiting.is_empty() {
            match Pin::new(&mut self.writer).poll_write(cx, &self.waiting)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => {
                    self.waiting.advance(written);
                    self.flushed = false;
                    if self.slow {
                        filter.progress(written);
                    }
                }
                Poll::Pending => break,
            }
        }
        if self.waiting.is_empty() && self.waiting.capacity() > 0 {
            // A client that has caught up has no buffer of its own.
            self.waiting = BytesMut::new();
        }
        let slow = self.waiting.len() > if self.slow { LOW } else { HIGH };
        if slow != self.slow {
            self.slow = slow;
            filter.is_slow(slow);
        }
        if !self.flushed {
            self.flushed = Pin::new(&mut self.writer).poll_flush(cx)?.is_ready();
        }
        Ok(())
    }

    /// Passes on what passes of some batches. Returns whether that is all that ever will.
    fn pass_on(
        &mut self,
        cx: &mut Context<'_>,
        mut whole: Whole<'_>,
        scratch: &mut Scratch,
        filter: &mut impl Filter,
    ) -> io::Result<bool> {
        let passing = pass(whole.bytes(), scratch, filter);
        // The end of a message is often a few bytes, which would wake the client once more.
        let may_wait = passing.whole && passing.goes_on && self.waiting.is_empty();
        if may_wait && whole.wait() {
            return Ok(false);
        }
        if passing.whole {
            self.write(cx, whole.all())?;
        } else {
            self.write(cx, whole.waited())?;
            self.write(cx, &scratch.passed)?;
        }
        Ok(passing.ended)
    }

    /// Writes as much as the client takes at once, and keeps the rest.
    fn write(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        while self.waiting.is_empty() && !bytes.is_empty() {
            match Pin::new(&mut self.writer).poll_write(cx, bytes)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Poll::Pending => break,
            }
        }
        self.waiting.extend_from_slice(bytes);
        self.flushed = false;
        Ok(())
    }
}

/// What of some whole batches passes.
struct Passing {
    /// All of it, as it is; else what was written to [`Scratch::passed`].
    whole: bool,
    /// The last of it is of no use to the client before more has come.
    goes_on: bool,
    /// Nothing passes after it.
    ended: bool,
}

fn pass(bytes: &[u8], scratch: &mut Scratch, filter: &mut impl Filter) -> Passing {
    let Scratch { passed, instead } = scratch;
    passed.clear();
    let mut passing = Passing { whole: true, goes_on: true, ended: false };
    let mut rest = bytes;
    while let Some((batch, after)) = split_batch(rest) {
        let (at, end) = (bytes.len() - rest.len(), bytes.len() - after.len());
        instead.clear();
        let filtered = filter.batch(batch, instead);
        let as_it_is = matches!(filtered, Filtered::Whole | Filtered::Piece);
        if passing.whole && !as_it_is {
            passing.whole = false;
            passed.extend_from_slice(bytes.get(..at).unwrap_or_default());
        }
        passing.goes_on = filtered == Filtered::Piece;
        match filtered {
            Filtered::Whole | Filtered::Piece if passing.whole => {}
            Filtered::Whole | Filtered::Piece => {
                passed.extend_from_slice(bytes.get(at..end).unwrap_or_default());
            }
            Filtered::Instead => {
                // What passes is never longer than what it stands for.
                if let Ok(len @ 1..) = u16::try_from(instead.len()) {
                    passed.extend_from_slice(&len.to_le_bytes());
                    passed.extend_from_slice(instead);
                }
            }
            Filtered::End => {
                passing.ended = true;
                break;
            }
        }
        rest = after;
    }
    passing
}

#[cfg(test)]
mod tests {
    use super::{Filter, Filtered, Scratch, pass};

    struct ByName;

    impl Filter for ByName {
        fn batch(&mut self, batch: &[u8], instead: &mut Vec<u8>) -> Filtered {
            match batch {
                b"drop" => Filtered::Instead,
                b"short" => {
                    instead.extend_from_slice(b"s");
                    Filtered::Instead
                }
                b"end" => Filtered::End,
                b"piece" => Filtered::Piece,
                _ => Filtered::Whole,
            }
        }

        fn is_slow(&mut self, _: bool) {}

        fn progress(&mut self, _: usize) {}

        fn may_wait(&mut self, _: usize) -> bool {
            true
        }
    }

    fn filtered(bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut scratch = Scratch::default();
        let passing = pass(bytes, &mut scratch, &mut ByName);
        (if passing.whole { bytes.to_vec() } else { scratch.passed }, passing.ended)
    }

    fn batches(all: &[&str]) -> Vec<u8> {
        let prefixed = |batch: &&str| [&[batch.len() as u8, 0], batch.as_bytes()].concat();
        all.iter().flat_map(prefixed).collect()
    }

    #[test]
    fn only_a_piece_whose_next_one_is_to_come_waits_for_more() {
        let cases: [(&[&str], bool); 5] = [
            (&[], true),
            (&["a", "piece"], true),
            (&["piece", "a"], false),
            (&["piece", "drop"], false),
            (&["piece", "end"], false),
        ];
        for (given, goes_on) in cases {
            let passing = pass(&batches(given), &mut Scratch::default(), &mut ByName);
            assert_eq!(passing.goes_on, goes_on, "{given:?}");
        }
    }

    #[test]
    fn what_passes_keeps_its_order() {
        let cases: [(&[&str], &[&str], bool); 7] = [
            (&["piece", "drop", "piece"], &["piece", "piece"], false),
            (&["a", "b"], &["a", "b"], false),
            (&["drop"], &[], false),
            (&["a", "drop", "b", "short", "c"], &["a", "b", "s", "c"], false),
            (&["short", "drop"], &["s"], false),
            (&["a", "end", "b"], &["a"], true),
            (&["drop", "a", "end"], &["a"], true),
        ];
        for (given, expected, ended) in cases {
            assert_eq!(filtered(&batches(given)), (batches(expected), ended), "{given:?}");
        }
    }
}
