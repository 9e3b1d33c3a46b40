//! A socket that a data core passed on, with the bytes it had read.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that first gives what was read before.
pub(super) struct Prebuffered<S> {
    stream: S,
    bytes: Vec<u8>,
    given: usize,
}

impl<S> Prebuffered<S> {
    pub(super) fn new(stream: S, bytes: Vec<u8>) -> Self {
        Self {
            stream,
            bytes,
            given: 0,
        }
    }
}

impl Prebuffered<tokio::net::TcpStream> {
    /// The address that was connected to.
    pub(super) fn local_ip(&self) -> Option<IpAddr> {
        self.stream.local_addr().ok().map(|address| address.ip())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prebuffered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &self.bytes[self.given..];
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, out);
        }
        let n = left.len().min(out.remaining());
        out.put_slice(&left[..n]);
        self.given += n;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prebuffered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
