//! A stream that is written no faster than it is told.
//!
//! Bytes wait before they are written, not after they were read: what has passed never exceeds the limit, and who sends
//! too much is slowed down by back-pressure alone.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A stream, and who says when bytes may be written to it.
#[derive(Debug)]
pub struct Paced<S, M> {
    inner: S,
    meter: M,
    /// Bytes that are asked for at once.
    piece: usize,
    /// Bytes that may be written after the wait.
    granted: usize,
    /// Kept, because a timer that is set anew costs less than a new one.
    wait: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

impl<S, M> Paced<S, M>
where
    M: FnMut(usize) -> Duration,
{
    /// A stream that asks `meter` for at most `piece` bytes at once, at least one. The meter tells how long they must
    /// wait; they count as written.
    pub fn new(inner: S, piece: usize, meter: M) -> Self {
        Self {
            inner,
            meter,
            piece: piece.max(1),
            granted: 0,
            wait: None,
            is_waiting: false,
        }
    }

    fn poll_grant(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        if self.granted == 0 {
            self.granted = wanted.min(self.piece);
            let delay = (self.meter)(self.granted);
            if !delay.is_zero() {
                match &mut self.wait {
                    Some(wait) => wait.as_mut().reset(Instant::now() + delay),
                    None => self.wait = Some(Box::pin(sleep(delay))),
                }
                self.is_waiting = true;
            }
        }
        if self.is_waiting
            && let Some(wait) = &mut self.wait
        {
            ready!(wait.as_mut().poll(cx));
            self.is_waiting = false;
        }
        Poll::Ready(self.granted.min(wanted))
    }
}

impl<S: AsyncRead + Unpin, M: Unpin> AsyncRead for Paced<S, M> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S, M> AsyncWrite for Paced<S, M>
where
    S: AsyncWrite + Unpin,
    M: FnMut(usize) -> Duration + Unpin,
{
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Pin::new(&mut this.inner).poll_write(cx, bytes);
        }
        let granted = ready!(this.poll_grant(cx, bytes.len()));
        let bytes = bytes.get(..granted).unwrap_or(bytes);
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, bytes))?;
        this.granted = this.granted.saturating_sub(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// A meter of so many bytes per second.
    fn meter(per_second: usize) -> impl FnMut(usize) -> Duration {
        let mut free = Instant::now();
        move |bytes| {
            let begin = free.max(Instant::now());
            let wait = begin - Instant::now();
            free = begin
                + Duration::from_secs(1) * u32::try_from(bytes).unwrap()
                    / u32::try_from(per_second).unwrap();
            wait
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time_and_arrive_whole() {
        let (mut near, far) = duplex(100_000);
        let mut far = Paced::new(far, 1_000, meter(10_000));
        let sent: Vec<u8> = (0..50_000_u32).map(|index| (index % 251) as u8).collect();
        let begin = Instant::now();
        far.write_all(&sent).await.unwrap();
        let took = begin.elapsed();
        assert!((4_900..5_100).contains(&took.as_millis()), "{took:?}");
        far.shutdown().await.unwrap();
        let mut received = Vec::new();
        near.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, sent);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_granted_and_not_taken_is_used_next_time() {
        let (mut near, far) = duplex(10);
        let mut asked = Vec::new();
        let mut far = Paced::new(far, 100, |bytes| {
            asked.push(bytes);
            Duration::ZERO
        });
        let read = async {
            let mut buffer = [0; 60];
            near.read_exact(&mut buffer).await.map(|_| ())
        };
        let (_, written) = tokio::join!(read, far.write_all(&[1; 60]));
        written.unwrap();
        drop(far);
        assert_eq!(asked, [60]);
    }

    #[tokio::test(start_paused = true)]
    async fn reading_does_not_wait_for_writing() {
        let (mut near, far) = duplex(100);
        let mut far = Paced::new(far, 1, |_| Duration::from_hours(1));
        near.write_all(b"hello").await.unwrap();
        let mut buffer = [0; 5];
        far.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"hello");
    }
}
