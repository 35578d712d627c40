use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes before each batch that give its length (little-endian).
pub(crate) const PREFIX: usize = 2;

/// Largest batch with its prefix.
pub(crate) const MAX_BATCH: usize = PREFIX + u16::MAX as usize;

/// What one read may bring: at least one whole batch.
const SCRATCH: usize = 2 * MAX_BATCH;

thread_local! {
    /// Where bytes are read to. A connection that waits has no buffer of its own.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// Reads whole batches.
#[derive(Debug)]
pub(crate) struct Batches<R> {
    reader: R,
    /// The beginning of a batch whose end has not come.
    partial: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Batches<R> {
    /// Nothing read yet.
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, partial: Vec::new() }
    }

    /// Reads once, and gives all whole batches that are there, each with its prefix, to `take`. The
    /// end of the connection is an error, too.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut Context<'_>, &[u8]) -> T,
    ) -> Poll<io::Result<T>> {
        READ.with_borrow_mut(|scratch| {
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
            let (whole, rest) = bytes.split_at_checked(end_of_batches(bytes)).unwrap_or_default();
            self.partial.clear();
            self.partial.shrink_to(rest.len());
            self.partial.extend_from_slice(rest);
            Poll::Ready(Ok(take(cx, whole)))
        })
    }
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
    use super::{Batches, split_batch};
    use std::future::poll_fn;

    #[tokio::test]
    async fn batches_come_whole_however_the_bytes_come() {
        let bytes = [3, 0, b'a', b'b', b'c', 0, 0, 2, 0, b'd', b'e'];
        for size in 1..bytes.len() {
            let chunks = bytes.chunks(size).map(|chunk| Ok(chunk.to_vec()));
            let reader = tokio_test_reader(chunks.collect());
            let mut batches = Batches::new(reader);
            let mut seen = Vec::new();
            while let Ok(whole) = poll_fn(|cx| batches.poll(cx, |_, whole| whole.to_vec())).await {
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

    /// A reader that gives one chunk at a time.
    fn tokio_test_reader(
        chunks: Vec<std::io::Result<Vec<u8>>>,
    ) -> impl tokio::io::AsyncRead + Unpin {
        tokio_util::io::StreamReader::new(futures::stream::iter(
            chunks.into_iter().map(|chunk| chunk.map(std::io::Cursor::new)),
        ))
    }
}
