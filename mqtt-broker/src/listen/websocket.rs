use crate::connection::Stream;
use futures::{Sink, Stream as _, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// The subprotocol (MQTT 5 §6).
const PROTOCOL: &str = "mqtt";

/// Bytes of one message to a client.
const WRITE_BYTES: usize = 128 * 1024;

/// Bytes that wait for the socket at most: a message with its frame's head, and what answers pings. A client
/// that pings and does not read would else have its answers kept.
const MAX_WAITING: usize = WRITE_BYTES + 1024;

/// MQTT inside the binary messages of a WebSocket, whose bounds mean nothing (MQTT 5 §6).
pub(super) struct Binary<S> {
    socket: WebSocketStream<S>,
    /// What is left of the last message.
    rest: Bytes,
}

/// Shakes hands, and returns the token in `Authorization: Bearer` too.
pub(super) async fn accept<S: Stream>(
    stream: S,
    max_packet: usize,
) -> Option<(Binary<S>, Option<Vec<u8>>)> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(max_packet.saturating_add(16)))
        .max_frame_size(Some(max_packet.saturating_add(16)))
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_WAITING);
    let mut bearer = None;
    #[expect(clippy::result_large_err, reason = "the library's own type")]
    let check = |request: &Request, response| negotiate(request, response, &mut bearer);
    let socket =
        tokio_tungstenite::accept_hdr_async_with_config(stream, check, Some(config)).await.ok()?;
    Some((Binary { socket, rest: Bytes::new() }, bearer))
}

#[expect(clippy::result_large_err, reason = "the library's own type")]
fn negotiate(
    request: &Request,
    mut response: Response,
    bearer: &mut Option<Vec<u8>>,
) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let mut names = offered.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    if !names.any(|name| name.trim() == PROTOCOL) {
        let mut refusal = ErrorResponse::new(Some("offer the subprotocol mqtt".to_owned()));
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        return Err(refusal);
    }
    let header = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let token = header.and_then(|value| {
        let (scheme, token) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii().to_vec())
    });
    *bearer = token;
    let name = HeaderValue::from_static(PROTOCOL);
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, name);
    Ok(response)
}

fn broken(error: tokio_tungstenite::tungstenite::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: Stream> AsyncRead for Binary<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                // MQTT 5 §6: text ends the connection; so does the other side's goodbye.
                None | Some(Ok(Message::Text(_) | Message::Close(_))) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let n = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for Binary<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // There is room for one message, once all before it is gone.
        ready!(Pin::new(&mut self.socket).poll_flush(cx)).map_err(broken)?;
        let taken = bytes.get(..WRITE_BYTES).unwrap_or(bytes);
        let message = Message::Binary(Bytes::copy_from_slice(taken));
        Pin::new(&mut self.socket).start_send(message).map_err(broken)?;
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(broken)
    }
}
