//! A TCP connection, accelerated or not.
//!
//! Tokio takes a read that does not fill its buffer for one that has left nothing behind, and waits for the next wake-up. Of
//! an accelerated connection that may be wrong: a read returns what was redirected, alone, though bytes that had to go by TCP
//! may have come behind it with the same wake-up; no other comes for them. That happens where a direction goes back to TCP,
//! which the kernel counts before the first byte goes that way: a short read is believed while nothing was counted since a
//! read that found nothing. So it costs no call more, but one where something was counted.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A connection.
#[derive(Debug)]
pub struct Stream {
    tcp: TcpStream,
    /// In a box of its own: most connections have none, and are many.
    doubt: Option<Box<Doubt>>,
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self { tcp, doubt: None }
    }
}

impl Stream {
    /// One that is accelerated; `fallbacks` counts directions that have gone back to TCP, at least its own.
    pub fn accelerated(tcp: TcpStream, fallbacks: &'static AtomicU64) -> Self {
        let doubt = Box::new(Doubt {
            fallbacks,
            seen: None,
        });
        Self {
            tcp,
            doubt: Some(doubt),
        }
    }
}

/// When a short read of an accelerated connection is believed.
#[derive(Debug)]
struct Doubt {
    fallbacks: &'static AtomicU64,
    /// The count before the last read that found nothing, if there was one.
    seen: Option<u64>,
}

impl Doubt {
    fn poll_read(
        &mut self,
        tcp: &TcpStream,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            let before = self.fallbacks.load(Ordering::Acquire);
            let mut read = None;
            let tried = tcp.try_io(Interest::READABLE, || {
                let length = receive(tcp, buffer)?;
                read = Some(length);
                let is_short = length > 0 && buffer.remaining() > 0;
                if is_short && self.seen == Some(self.fallbacks.load(Ordering::Acquire)) {
                    // Makes Tokio wait for the next wake-up. It was awake before the read, so none is lost.
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(())
            });
            match tried {
                _ if read.is_some() => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.seen = Some(before),
                tried => return Poll::Ready(tried),
            }
        }
    }
}

/// Receives without waiting; says how much.
fn receive(tcp: &TcpStream, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    // SAFETY: nothing is taken out that was initialized.
    let room = unsafe { buffer.unfilled_mut() };
    let length = SockRef::from(tcp).recv(room)?;
    // SAFETY: the kernel has written that many bytes.
    unsafe {
        buffer.assume_init(length);
    }
    buffer.advance(length);
    Ok(length)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { tcp, doubt } = self.get_mut();
        match doubt {
            None => Pin::new(tcp).poll_read(cx, buffer),
            Some(doubt) => doubt.poll_read(tcp, cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}

impl Deref for Stream {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.tcp
    }
}

impl AsRef<TcpStream> for Stream {
    fn as_ref(&self) -> &TcpStream {
        &self.tcp
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.tcp.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write as _;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// An accelerated end, the other one, and the count.
    async fn pair() -> (Stream, std::net::TcpStream, &'static AtomicU64) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().await.unwrap();
        let fallbacks: &'static AtomicU64 = Box::leak(Box::default());
        (Stream::accelerated(near, fallbacks), far, fallbacks)
    }

    /// What one read finds.
    async fn read(stream: &mut Stream) -> usize {
        stream.read(&mut [0; 64]).await.unwrap()
    }

    /// Whether the socket is still taken to have something.
    async fn is_awake(stream: &Stream) -> bool {
        poll_fn(|cx| Poll::Ready(stream.poll_read_ready(cx).is_ready())).await
    }

    /// Reads until nothing is there.
    async fn drain(stream: &mut Stream) {
        let nothing = poll_fn(|cx| {
            let mut room = [0; 64];
            let mut buffer = ReadBuf::new(&mut room);
            Poll::Ready(
                Pin::new(&mut *stream)
                    .poll_read(cx, &mut buffer)
                    .is_pending(),
            )
        });
        assert!(nothing.await);
    }

    #[tokio::test]
    async fn short_read_is_believed_while_nothing_went_back_to_tcp() {
        let (mut stream, mut far, fallbacks) = pair().await;
        far.write_all(b"first").unwrap();
        assert_eq!(read(&mut stream).await, 5);
        assert!(is_awake(&stream).await, "nobody knows what came before");
        drain(&mut stream).await;
        far.write_all(b"second").unwrap();
        assert_eq!(read(&mut stream).await, 6);
        assert!(!is_awake(&stream).await);
        far.write_all(b"third").unwrap();
        stream.readable().await.unwrap();
        fallbacks.fetch_add(1, Ordering::Release);
        assert_eq!(read(&mut stream).await, 5);
        assert!(is_awake(&stream).await, "more may have come by TCP");
        drain(&mut stream).await;
        far.write_all(b"fourth").unwrap();
        assert_eq!(read(&mut stream).await, 6);
        assert!(!is_awake(&stream).await);
    }

    #[tokio::test]
    async fn full_buffers_and_the_end_are_read_to_the_last_byte() {
        let (mut stream, mut far, _) = pair().await;
        far.write_all(&[7; 200]).unwrap();
        drop(far);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [7; 200]);
        assert_eq!(read(&mut stream).await, 0);
    }
}
