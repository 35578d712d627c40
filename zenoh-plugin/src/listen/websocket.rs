//! Zenoh over WebSocket: each binary message is one batch, without its length.

use crate::link::PREFIX;
use futures::{Sink, Stream as _};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

/// Largest message: a batch.
const MAX_MESSAGE: usize = u16::MAX as usize;

/// Bytes that wait for the socket at most: a batch with its frame's head, and what answers pings. A client that
/// pings and does not read would else have its answers kept.
const MAX_WAITING: usize = MAX_MESSAGE + 1024;

/// A WebSocket as a stream of batches with their lengths.
pub(super) struct Batched {
    socket: WebSocketStream<TcpStream>,
    /// What is left to read of the last message.
    rest: Bytes,
    prefix: Option<[u8; PREFIX]>,
    /// The batch that is being written.
    batch: Vec<u8>,
}

/// Shakes hands.
pub(super) async fn accept(stream: TcpStream) -> Option<Batched> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_WAITING);
    let socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await.ok()?;
    Some(Batched { socket, rest: Bytes::new(), prefix: None, batch: Vec::new() })
}

fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl AsyncRead for Batched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() && self.prefix.is_none() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(batch))) => {
                    // The largest message was bounded when the socket was opened.
                    let len = u16::try_from(batch.len()).map_err(io::Error::other)?;
                    self.prefix = Some(len.to_le_bytes());
                    self.rest = batch;
                }
                None | Some(Ok(Message::Text(_) | Message::Close(_))) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        if let Some(prefix) = self.prefix {
            if buffer.remaining() < PREFIX {
                return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
            }
            buffer.put_slice(&prefix);
            self.prefix = None;
        }
        let n = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Batched {
    /// Takes no more than the end of the batch that is being written.
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // There is room for one batch, once all before it is gone.
        ready!(Pin::new(&mut self.socket).poll_flush(cx)).map_err(broken)?;
        let missing = match self.batch.first_chunk::<PREFIX>() {
            Some(len) => PREFIX + usize::from(u16::from_le_bytes(*len)) - self.batch.len(),
            None => PREFIX - self.batch.len(),
        };
        let taken = bytes.get(..missing).unwrap_or(bytes);
        self.batch.extend_from_slice(taken);
        let complete = self
            .batch
            .split_first_chunk::<PREFIX>()
            .is_some_and(|(len, batch)| batch.len() == usize::from(u16::from_le_bytes(*len)));
        if complete {
            let message = Bytes::from(std::mem::take(&mut self.batch)).slice(PREFIX..);
            Pin::new(&mut self.socket).start_send(Message::Binary(message)).map_err(broken)?;
        }
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(broken)
    }
}
