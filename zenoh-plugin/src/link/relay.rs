use super::{Batches, Reader, Writer, split_batch};
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

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

/// Passes batches on from the router to a client.
pub(crate) struct Relay {
    batches: Batches<Reader>,
    out: Out,
}

/// What a filter makes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filtered {
    /// It passes as it is.
    Whole,
    /// What the filter wrote passes instead, or nothing.
    Instead,
    /// Nothing more passes.
    End,
}

impl Relay {
    /// A relay between these two.
    pub(crate) fn new(reader: Reader, writer: Writer) -> Self {
        let out = Out { writer, waiting: Vec::new(), sent: 0, flushed: true };
        Self { batches: Batches::new(reader), out }
    }

    /// Passes on until one of the two ends, or the filter says so. `waits` hears whenever the client
    /// begins, or ceases, to keep the router waiting.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        filter: &mut impl FnMut(&[u8], &mut Vec<u8>) -> Filtered,
        waits: &mut impl FnMut(bool),
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.out.is_empty() {
                ready!(self.out.poll(cx))?;
                waits(false);
            }
            self.out.flush(cx)?;
            let out = &mut self.out;
            let ended = ready!(self.batches.poll(cx, |cx, bytes| {
                SCRATCH.with_borrow_mut(|scratch| {
                    let (passed, ended) = pass(bytes, scratch, filter);
                    out.write(cx, passed).map(|()| ended)
                })
            }))??;
            if !self.out.is_empty() {
                waits(true);
            }
            if ended {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Waits until the client has taken everything, so that it stands between two batches. Returns the
    /// way to it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) async fn finish(mut self) -> io::Result<Writer> {
        std::future::poll_fn(|cx| self.out.poll(cx)).await?;
        Ok(self.out.writer)
    }
}

/// The way to a client, and what it has not taken yet.
struct Out {
    writer: Writer,
    waiting: Vec<u8>,
    sent: usize,
    flushed: bool,
}

impl Out {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Writes as much as the client takes at once, and keeps the rest.
    fn write(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match Pin::new(&mut self.writer).poll_write(cx, bytes)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Poll::Pending => {
                    self.waiting.extend_from_slice(bytes);
                    return Ok(());
                }
            }
        }
        self.flushed = false;
        self.flush(cx)
    }

    /// Flushes as far as that goes at once.
    fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.flushed {
            self.flushed = Pin::new(&mut self.writer).poll_flush(cx)?.is_ready();
        }
        Ok(())
    }

    /// Waits until all is written.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.waiting.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.writer).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        (self.waiting, self.sent, self.flushed) = (Vec::new(), 0, false);
        ready!(Pin::new(&mut self.writer).poll_flush(cx))?;
        self.flushed = true;
        Poll::Ready(Ok(()))
    }
}

/// What of some whole batches passes, and whether the last of them was read.
fn pass<'a>(
    bytes: &'a [u8],
    scratch: &'a mut Scratch,
    filter: &mut impl FnMut(&[u8], &mut Vec<u8>) -> Filtered,
) -> (&'a [u8], bool) {
    let Scratch { passed, instead } = scratch;
    passed.clear();
    let (mut rest, mut copying, mut ended) = (bytes, false, false);
    while let Some((batch, after)) = split_batch(rest) {
        let (at, end) = (bytes.len() - rest.len(), bytes.len() - after.len());
        instead.clear();
        let filtered = filter(batch, instead);
        if filtered != Filtered::Whole && !copying {
            copying = true;
            passed.extend_from_slice(bytes.get(..at).unwrap_or_default());
        }
        match filtered {
            Filtered::Whole if copying => {
                passed.extend_from_slice(bytes.get(at..end).unwrap_or_default());
            }
            Filtered::Whole => {}
            Filtered::Instead => {
                // What passes is never longer than what it stands for.
                if let Ok(len @ 1..) = u16::try_from(instead.len()) {
                    passed.extend_from_slice(&len.to_le_bytes());
                    passed.extend_from_slice(instead);
                }
            }
            Filtered::End => {
                ended = true;
                break;
            }
        }
        rest = after;
    }
    (if copying { passed } else { bytes }, ended)
}

#[cfg(test)]
mod tests {
    use super::{Filtered, Scratch, pass};

    fn filtered(bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut scratch = Scratch::default();
        let filter = &mut |batch: &[u8], out: &mut Vec<u8>| match batch {
            b"drop" => Filtered::Instead,
            b"short" => {
                out.extend_from_slice(b"s");
                Filtered::Instead
            }
            b"end" => Filtered::End,
            _ => Filtered::Whole,
        };
        let (passed, ended) = pass(bytes, &mut scratch, filter);
        (passed.to_vec(), ended)
    }

    fn batches(all: &[&str]) -> Vec<u8> {
        let prefixed = |batch: &&str| [&[batch.len() as u8, 0], batch.as_bytes()].concat();
        all.iter().flat_map(prefixed).collect()
    }

    #[test]
    fn what_passes_keeps_its_order() {
        let cases: [(&[&str], &[&str], bool); 6] = [
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
