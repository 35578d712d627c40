use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes before each batch that give its length (little-endian).
pub(crate) const PREFIX: usize = 2;

/// Largest batch with its prefix.
pub(crate) const MAX_BATCH: usize = PREFIX + u16::MAX as usize;

/// Size of a buffer: a batch, and another one that waits for it.
const BUFFER: usize = 2 * MAX_BATCH;

/// What is kept of so much stays where it was read to; of less, a copy is kept.
const MUCH: usize = BUFFER / 4;

/// What is read beyond the end of a large batch: small ones behind it, and the beginning of the next.
const LITTLE: usize = 4096;

/// How many buffers a thread has ready for whoever reads next.
const SPARE: usize = 4;

thread_local! {
    /// Where bytes are read to. A connection of which nothing waits has no buffer of its own.
    static BUFFERS: RefCell<Vec<Arc<Vec<u8>>>> = const { RefCell::new(Vec::new()) };
}

/// Reads whole batches.
#[derive(Debug)]
pub(crate) struct Batches<R> {
    reader: R,
    /// How many bytes were read and not taken.
    held: usize,
    /// How many of them are whole batches, which come again.
    waiting: usize,
    /// Those bytes, if they are few and no whole batch is among them.
    little: Vec<u8>,
    /// A buffer that begins with them, else. Nobody shares it.
    much: Option<Arc<Vec<u8>>>,
}

/// Whole batches, each with its prefix.
#[derive(Debug)]
pub(crate) struct Whole<'a> {
    buffer: &'a Arc<Vec<u8>>,
    waited: usize,
    len: usize,
    waits: &'a mut bool,
}

impl Whole<'_> {
    /// Those that come for the first time.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.waited..self.len).unwrap_or_default()
    }

    /// Those before them, which have waited for them.
    pub(crate) fn waited(&self) -> &[u8] {
        self.buffer.get(..self.waited).unwrap_or_default()
    }

    /// All.
    pub(crate) fn all(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    /// All, and what has them at its beginning as long as it is wanted.
    pub(crate) fn keep(&self) -> (Arc<Vec<u8>>, usize) {
        let kept =
            if self.len < MUCH { Arc::new(self.all().to_vec()) } else { Arc::clone(self.buffer) };
        (kept, self.len)
    }

    /// Leaves them to come again before the next ones. Says whether there is room for one; else they have to be
    /// taken.
    #[must_use]
    pub(crate) fn wait(&mut self) -> bool {
        *self.waits = self.len <= BUFFER - MAX_BATCH;
        *self.waits
    }
}

impl<R: AsyncRead + Unpin> Batches<R> {
    /// Nothing read yet.
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, held: 0, waiting: 0, little: Vec::new(), much: None }
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
        let mut buffer = self.much.take().unwrap_or_else(borrow);
        let read = self.poll_fill(cx, &mut buffer);
        if matches!(read, Poll::Ready(Ok(()))) {
            return Poll::Ready(Ok(self.give(cx, buffer, take)));
        }
        if self.held > self.little.len() {
            self.much = Some(buffer);
        } else {
            give_back(buffer);
        }
        match read {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Pending,
        }
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Arc<Vec<u8>>,
    ) -> Poll<io::Result<()>> {
        // Nobody else has it, so nothing is copied.
        let buffer = Arc::make_mut(buffer);
        let (head, room) = buffer.split_at_mut_checked(self.held).unwrap_or_default();
        if head.len() == self.little.len() {
            head.copy_from_slice(&self.little);
        }
        let most = self.most(head.get(self.waiting..).unwrap_or_default()).min(room.len());
        let mut room = ReadBuf::new(room.get_mut(..most).unwrap_or_default());
        ready!(Pin::new(&mut self.reader).poll_read(cx, &mut room))?;
        if room.filled().is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.held += room.filled().len();
        Poll::Ready(Ok(()))
    }

    /// How much to read when this is there of a batch: what is not taken at once has to be moved.
    fn most(&self, partial: &[u8]) -> usize {
        let announced = partial.first_chunk().map_or(0, |len| u16::from_le_bytes(*len).into());
        if announced >= MUCH {
            (PREFIX + announced).saturating_sub(partial.len()) + LITTLE
        } else if self.waiting > 0 {
            LITTLE
        } else {
            BUFFER
        }
    }

    fn give<T>(
        &mut self,
        cx: &mut Context<'_>,
        buffer: Arc<Vec<u8>>,
        take: impl FnOnce(&mut Context<'_>, Whole<'_>) -> T,
    ) -> T {
        let waited = self.waiting;
        let new = buffer.get(waited..self.held).unwrap_or_default();
        let len = waited + end_of_batches(new);
        let mut waits = false;
        let taken = take(cx, Whole { buffer: &buffer, waited, len, waits: &mut waits });
        let (waiting, from) = if waits { (len, 0) } else { (0, len) };
        let rest = from..self.held;
        self.held = rest.len();
        self.waiting = waiting;
        self.little.clear();
        if waiting > 0 || rest.len() >= MUCH {
            self.little = Vec::new();
            self.much = Some(if from > 0 { moved(buffer, rest) } else { buffer });
        } else {
            self.little.shrink_to(rest.len());
            self.little.extend_from_slice(buffer.get(rest).unwrap_or_default());
            give_back(buffer);
        }
        taken
    }
}

/// A buffer that begins with this part of another.
fn moved(mut buffer: Arc<Vec<u8>>, part: Range<usize>) -> Arc<Vec<u8>> {
    if let Some(own) = Arc::get_mut(&mut buffer) {
        own.copy_within(part, 0);
        return buffer;
    }
    let mut other = borrow();
    let bytes = buffer.get(part).unwrap_or_default();
    if let Some(head) = Arc::make_mut(&mut other).get_mut(..bytes.len()) {
        head.copy_from_slice(bytes);
    }
    give_back(buffer);
    other
}

/// A buffer that nobody else has.
fn borrow() -> Arc<Vec<u8>> {
    BUFFERS.with_borrow_mut(|spare| {
        let free = spare.iter_mut().rposition(|buffer| Arc::get_mut(buffer).is_some());
        free.map_or_else(|| Arc::new(vec![0; BUFFER]), |free| spare.swap_remove(free))
    })
}

fn give_back(buffer: Arc<Vec<u8>>) {
    BUFFERS.with_borrow_mut(|spare| {
        if spare.len() < SPARE {
            spare.push(buffer);
        }
    });
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
    use super::{BUFFER, Batches, MUCH, split_batch};
    use futures::executor::block_on;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::future::poll_fn;
    use std::task::Context;

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

    proptest! {
        #[test]
        fn nothing_is_lost_whatever_waits(
            sizes in vec(prop_oneof![0..9usize, 4_000..4_100usize, 32_700..=65_535usize], 1..9),
            cuts in vec(prop_oneof![1..9usize, 1..=BUFFER], 1..9),
            waits in vec(any::<bool>(), 1..9),
            keeps in any::<bool>(),
        ) {
            let batch = |(n, size): (usize, &usize)| {
                [&(*size as u16).to_le_bytes()[..], &vec![n as u8; *size]].concat()
            };
            let all: Vec<u8> = sizes.iter().enumerate().flat_map(batch).collect();
            let mut rest = &all[..];
            let chunks = cuts.iter().cycle().map_while(|cut| {
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                rest = after;
                (!chunk.is_empty()).then(|| Ok(chunk.to_vec()))
            });
            let mut batches = Batches::new(tokio_test_reader(chunks.collect()));
            let (mut taken, mut new, mut kept) = (Vec::new(), Vec::new(), Vec::new());
            let mut waits = waits.iter().cycle();
            let mut poll = |cx: &mut Context<'_>| {
                batches.poll(cx, |_, mut whole| {
                    new.extend_from_slice(whole.bytes());
                    assert_eq!([whole.waited(), whole.bytes()].concat(), whole.all());
                    if *waits.next().unwrap() && new.len() < all.len() && whole.wait() {
                        return;
                    }
                    taken.extend_from_slice(whole.all());
                    if keeps {
                        kept.push((whole.all().to_vec(), whole.keep()));
                    }
                })
            };
            while block_on(poll_fn(&mut poll)).is_ok() {}
            prop_assert_eq!(&new, &all);
            prop_assert_eq!(&taken, &all);
            for (copy, (buffer, len)) in &kept {
                prop_assert_eq!(&buffer[..*len], &copy[..], "it stays what it was");
            }
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
