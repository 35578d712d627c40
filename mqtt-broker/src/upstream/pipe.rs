use crate::connection::Stream;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Bytes read at a time.
const READ_BYTES: usize = 64 * 1024;

/// Bytes that have left before their place is used again.
const SENT_BYTES: usize = 256 * 1024;

thread_local! {
    /// What is read goes through here, so that an idle connection holds no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// One of the two connections of a relay.
pub(super) struct Pipe {
    stream: Box<dyn Stream>,
    /// What was read and not taken yet: the beginning of a packet, or packets that have to wait.
    pub(super) rest: Vec<u8>,
    /// Whether whole packets wait in `rest`.
    pub(super) is_held: bool,
    out: Vec<u8>,
    /// Bytes of `out` that are on their way.
    sent: usize,
    unflushed: bool,
}

impl Pipe {
    /// With what was read of it before.
    pub(super) fn new(stream: Box<dyn Stream>, rest: Vec<u8>) -> Self {
        let is_held = !rest.is_empty();
        Self { stream, rest, is_held, out: Vec::new(), sent: 0, unflushed: false }
    }

    /// Bytes that wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Where packets to send are appended.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Sends as far as the socket lets it; ready if anything has left.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut progress = false;
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.sent += n;
                    self.unflushed = true;
                    progress = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        self.reuse();
        if self.unflushed && self.out.is_empty() {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Gives places in the buffer back.
    fn reuse(&mut self) {
        if self.sent == self.out.len() {
            if self.out.capacity() > SENT_BYTES {
                self.out = Vec::new();
            }
            self.out.clear();
            self.sent = 0;
        } else if self.sent >= SENT_BYTES {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Reads once. Its end is an error.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(match buffer.filled().len() {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => Ok(n),
        })
    }

    /// Sends what is left, and ends.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        let last = self.out.get(self.sent..).unwrap_or_default();
        self.stream.write_all(last).await?;
        self.stream.shutdown().await
    }
}

/// Reads once from the pipe that `of` finds, and gives the bytes to `take`.
pub(super) fn poll_read<T, R>(
    owner: &mut T,
    cx: &mut Context<'_>,
    of: impl FnOnce(&mut T) -> &mut Pipe,
    take: impl FnOnce(&mut T, &[u8]) -> R,
) -> Poll<io::Result<R>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let n = ready!(of(owner).poll_receive(cx, scratch))?;
        Poll::Ready(Ok(take(owner, scratch.get(..n).unwrap_or_default())))
    })
}
