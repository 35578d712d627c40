use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes before each batch that give its length (little-endian).
pub(crate) const PREFIX: usize = 2;

/// Largest batch with its prefix.
pub(crate) const MAX_BATCH: usize = PREFIX + u16::MAX as usize;

/// What one read may bring: at least one whole batch.
const SCRATCH: usize = 2 * MAX_BATCH;

/// What is kept of a read that brought at least so much is kept where it was read to; of less, a copy is.
const MUCH: usize = SCRATCH / 4;

thread_local! {
    /// Where bytes are read to. A connection that waits has no buffer of its own.
    static READ: RefCell<Arc<Vec<u8>>> = RefCell::new(scratch());
}

/// Reads whole batches.
#[derive(Debug)]
pub(crate) struct Batches<R> {
    reader: R,
    /// The beginning of a batch whose end has not come.
    partial: Vec<u8>,
}

/// Whole batches that one read brought, each with its prefix.
#[derive(Debug)]
pub(crate) struct Whole<'a> {
    buffer: &'a Arc<Vec<u8>>,
    len: usize,
}

impl Whole<'_> {
    /// The batches.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    /// The batches, and what has them at its beginning as long as it is wanted.
    pub(crate) fn keep(&self) -> (Arc<Vec<u8>>, usize) {
        let kept =
            if self.len < MUCH { Arc::new(self.bytes().to_vec()) } else { Arc::clone(self.buffer) };
        (kept, self.len)
    }
}

impl<R: AsyncRead + Unpin> Batches<R> {
    /// Nothing read yet.
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, partial: Vec::new() }
    }

    /// Reads once, and gives all whole batches that are there to `take`. The end of the connection is an
    /// error, too.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut Context<'_>, Whole<'_>) -> T,
    ) -> Poll<io::Result<T>> {
        READ.with_borrow_mut(|shared| {
            if Arc::get_mut(shared).is_none() {
                *shared = scratch();
            }
            // Nobody else has it, so nothing is copied.
            let scratch = Arc::make_mut(shared);
            let held = self.partial.len();
            let (head, tail) = scratch.split_at_mut_checked(held).unwrap_or_default();
            head.copy_from_slice(&self.partial);
            let mut buffer = ReadBuf::new(tail);
            ready!(Pin::new(&mut self.reader).poll_read(cx, &mut buffer))?;
            let read = buffer.filled().len();
            if read == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let bytes = scratch.get(..held + read).unwrap_or_default();
            let len = end_of_batches(bytes);
            let rest = bytes.get(len..).unwrap_or_default();
            self.partial.clear();
            self.partial.shrink_to(rest.len());
            self.partial.extend_from_slice(rest);
            Poll::Ready(Ok(take(cx, Whole { buffer: shared, len })))
        })
    }
}

fn scratch() -> Arc<Vec<u8>> {
    Arc::new(vec![0; SCRATCH])
}

/// Where the last whole batch ends.
fn end_of_batches(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some((_, after)) = split_batch(rest) {
        rest = after;
    }
    bytes.len() - rest.len()
}

/// The first batch, without its prefix, and what follows it.
pub(crate) fn split_batch(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX>()?;
    rest.split_at_checked(u16::from_le_bytes(*prefix).into())
}

#[cfg(test)]
mod tests {
    use super::{Batches, MUCH, split_batch};
    use std::future::poll_fn;

    #[tokio::test]
    async fn batches_come_whole_however_the_bytes_come() {
        let bytes = [3, 0, b'a', b'b', b'c', 0, 0, 2, 0, b'd', b'e'];
        for size in 1..bytes.len() {
            let chunks = bytes.chunks(size).map(|chunk| Ok(chunk.to_vec()));
            let reader = tokio_test_reader(chunks.collect());
            let mut batches = Batches::new(reader);
            let mut seen = Vec::new();
            while let Ok(whole) =
                poll_fn(|cx| batches.poll(cx, |_, whole| whole.bytes().to_vec())).await
            {
                let mut rest = &whole[..];
                while let Some((batch, after)) = split_batch(rest) {
                    seen.push(batch.to_vec());
                    rest = after;
                }
                assert!(rest.is_empty());
            }
            assert_eq!(seen, [b"abc".to_vec(), b"".to_vec(), b"de".to_vec()], "pieces of {size}");
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_what_was_read() {
        for size in [1, MUCH] {
            let chunk = |byte| [&(size as u16).to_le_bytes()[..], &vec![byte; size]].concat();
            let chunks = (1..=3).map(|byte| Ok(chunk(byte)));
            let mut batches = Batches::new(tokio_test_reader(chunks.collect()));
            let mut kept = Vec::new();
            while let Ok(whole) = poll_fn(|cx| batches.poll(cx, |_, whole| whole.keep())).await {
                kept.push(whole);
            }
            for (byte, (buffer, len)) in (1..=3).zip(&kept) {
                assert_eq!(&buffer[..*len], chunk(byte), "{byte}, of {size}");
            }
            assert_eq!(kept.len(), 3);
        }
    }

    /// A reader that gives one chunk at a time.
    fn tokio_test_reader(
        chunks: Vec<std::io::Result<Vec<u8>>>,
    ) -> impl tokio::io::AsyncRead + Unpin {
        tokio_util::io::StreamReader::new(futures::stream::iter(
            chunks.into_iter().map(|chunk| chunk.map(std::io::Cursor::new)),
        ))
    }
}
