//! A stream whose first bytes have been read already and are put back in front.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Reads `first`, then what `inner` still holds. Writes go to `inner`.
#[derive(Debug)]
pub struct Prefixed<S> {
    first: Bytes,
    inner: S,
}

impl<S> Prefixed<S> {
    /// Puts `first` in front of `inner`.
    pub const fn new(first: Bytes, inner: S) -> Self {
        Self { first, inner }
    }

    /// The stream below.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Puts back what was read and not used.
    pub fn put_back(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.first = [bytes, std::mem::take(&mut self.first)].concat().into();
        }
    }

    /// Waits until there is something to read, or an end.
    pub async fn readable(&self) -> io::Result<()>
    where
        S: AsRef<TcpStream> + Sync,
    {
        if self.first.is_empty() {
            return self.inner.as_ref().readable().await;
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let length = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first.split_to(length));
        if !self.first.has_remaining() {
            // Gives the memory back: the connection may live for days.
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::AsyncReadExt as _;

    use super::Prefixed;

    #[tokio::test]
    async fn the_first_bytes_come_first_whatever_the_buffer() {
        let mut stream = Prefixed::new(Bytes::from_static(b"abc"), &b"def"[..]);
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.expect("reads");
        assert_eq!(&two, b"ab");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("reads");
        assert_eq!(rest, b"cdef");
    }
}
