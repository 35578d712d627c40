use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes both ways, whatever lies below.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
