//! Connections, whatever carries them: a stream of batches with their lengths before them.

mod batches;
mod relay;

pub(crate) use batches::{Batches, MAX_BATCH, PREFIX, split_batch};
pub(crate) use relay::{Filter, Filtered, Relay, RelayEnd};

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zenoh_buffers::ZSlice;
use zenoh_buffers::writer::HasWriter;
use zenoh_codec::{RCodec, WCodec, Zenoh080};
use zenoh_protocol::transport::TransportMessage;

/// One direction of a connection, to read from.
pub(crate) type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// One direction of a connection, to write to.
pub(crate) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Reads a batch that holds one message of the handshake, of at most `max` bytes.
///
/// # Errors
/// What the system says, and [`io::ErrorKind::InvalidData`] for anything else than one message.
pub(crate) async fn receive(reader: &mut Reader, max: usize) -> io::Result<TransportMessage> {
    let len = usize::from(reader.read_u16_le().await?);
    if len > max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Room is made for what comes, not for what is announced.
    let mut batch = Vec::new();
    if reader.take(len as u64).read_to_end(&mut batch).await? < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut batch = ZSlice::from(batch);
    let message = Zenoh080::new().read(&mut batch);
    match message {
        Ok(message) if batch.is_empty() => Ok(message),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Writes a batch that holds one message.
///
/// # Errors
/// What the system says.
pub(crate) async fn send(
    writer: &mut Writer,
    message: impl Into<TransportMessage>,
) -> io::Result<()> {
    writer.write_all(&encode(&message.into())?).await?;
    writer.flush().await
}

fn encode(message: &TransportMessage) -> io::Result<Vec<u8>> {
    let mut batch = vec![0; PREFIX];
    let too_large = || io::Error::from(io::ErrorKind::InvalidData);
    let mut body = Vec::new();
    Zenoh080::new().write(&mut body.writer(), message).map_err(|_| too_large())?;
    let len = u16::try_from(body.len()).map_err(|_| too_large())?;
    batch.clear();
    batch.extend_from_slice(&len.to_le_bytes());
    batch.append(&mut body);
    Ok(batch)
}
