//! Both ways at once: half-close, byte counts, an idle limit, buffers that grow only where bytes flow.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Sizes of a buffer: an idle connection costs little, a busy one few system calls.
const SIZES: [usize; 3] = [1024, 16 * 1024, 64 * 1024];

/// How often an idle connection is looked at, in parts of the idle limit.
const LOOKS: u32 = 4;

/// Who decides whether a buffer may grow. The smallest size is always granted.
pub trait Allowance: Sync {
    /// Takes `bytes`, if they are there.
    fn take(&self, bytes: usize) -> bool;
    /// Gives `bytes` back.
    fn give(&self, bytes: usize);
}

/// Bytes moved so far; read while the copy runs.
#[derive(Debug, Default)]
pub struct Counts {
    /// From the left to the right.
    pub rightward: AtomicU64,
    /// From the right to the left.
    pub leftward: AtomicU64,
}

impl Counts {
    /// Bytes to the right, bytes to the left.
    pub fn load(&self) -> (u64, u64) {
        (
            self.rightward.load(Ordering::Relaxed),
            self.leftward.load(Ordering::Relaxed),
        )
    }
}

/// How a copy ended.
#[derive(Debug)]
pub enum End {
    /// Both sides have said all.
    Finished,
    /// No byte moved for the idle limit.
    Idle,
    /// The left side failed.
    Left(io::Error),
    /// The right side failed.
    Right(io::Error),
}

/// Copies in both directions until both sides have closed, one fails, or nothing moves for `idle`.
pub async fn both_ways<L, R>(
    left: &mut L,
    right: &mut R,
    idle: Duration,
    allowance: &dyn Allowance,
    counts: &Counts,
) -> End
where
    L: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    let mut rightward = Direction::new(allowance, &counts.rightward);
    let mut leftward = Direction::new(allowance, &counts.leftward);
    let look = (idle / LOOKS).max(Duration::from_millis(1));
    let mut looks = interval_at(Instant::now() + look, look);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = counts.load();
    let mut quiet = 0;
    poll_fn(|cx| {
        let to_right = rightward.poll(cx, left, right);
        let to_left = leftward.poll(cx, right, left);
        match (to_right, to_left) {
            (Poll::Ready(Err(Failure::Reading(error))), _)
            | (_, Poll::Ready(Err(Failure::Writing(error)))) => {
                return Poll::Ready(End::Left(error));
            }
            (Poll::Ready(Err(Failure::Writing(error))), _)
            | (_, Poll::Ready(Err(Failure::Reading(error)))) => {
                return Poll::Ready(End::Right(error));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Finished),
            _ => {}
        }
        while looks.poll_tick(cx).is_ready() {
            let now = counts.load();
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
            if quiet >= LOOKS {
                return Poll::Ready(End::Idle);
            }
            if quiet > 0 {
                rightward.shrink();
                leftward.shrink();
            }
        }
        Poll::Pending
    })
    .await
}

enum Failure {
    Reading(io::Error),
    Writing(io::Error),
}

/// One way.
struct Direction<'a> {
    buffer: Vec<u8>,
    filled: std::ops::Range<usize>,
    size: usize,
    taken: usize,
    is_flushed: bool,
    has_ended: bool,
    is_done: bool,
    allowance: &'a dyn Allowance,
    count: &'a AtomicU64,
}

impl<'a> Direction<'a> {
    fn new(allowance: &'a dyn Allowance, count: &'a AtomicU64) -> Self {
        Self {
            buffer: Vec::new(),
            filled: 0..0,
            size: 0,
            taken: 0,
            is_flushed: true,
            has_ended: false,
            is_done: false,
            allowance,
            count,
        }
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<(), Failure>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.is_done {
            if self.filled.is_empty() && !self.has_ended {
                match self.poll_fill(cx, reader) {
                    Poll::Ready(result) => result.map_err(Failure::Reading)?,
                    Poll::Pending => {
                        ready!(self.poll_flush(cx, writer)).map_err(Failure::Writing)?;
                        return Poll::Pending;
                    }
                }
            }
            while let Some(bytes) = self
                .buffer
                .get(self.filled.clone())
                .filter(|b| !b.is_empty())
            {
                let written = ready!(Pin::new(&mut *writer).poll_write(cx, bytes))
                    .map_err(Failure::Writing)?;
                if written == 0 {
                    return Poll::Ready(Err(Failure::Writing(io::ErrorKind::WriteZero.into())));
                }
                self.filled.start += written;
                self.is_flushed = false;
                self.count
                    .fetch_add(u64::try_from(written).unwrap_or(0), Ordering::Relaxed);
            }
            if self.has_ended {
                ready!(self.poll_flush(cx, writer)).map_err(Failure::Writing)?;
                ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Failure::Writing)?;
                self.is_done = true;
                self.buffer = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<()>> {
        self.grow_if_full();
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(reader).poll_read(cx, &mut buffer))?;
        self.filled = 0..buffer.filled().len();
        self.has_ended = self.filled.is_empty();
        Poll::Ready(Ok(()))
    }

    fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        if !self.is_flushed {
            ready!(Pin::new(writer).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// The last read filled the buffer: the next size, if it is granted. Nothing is in the buffer.
    fn grow_if_full(&mut self) {
        if self.filled.end < self.buffer.len() || self.size >= SIZES.len() {
            return;
        }
        let Some(wanted) = SIZES.get(self.size).copied() else {
            return;
        };
        let more = if self.size == 0 {
            0
        } else {
            wanted - self.buffer.len()
        };
        if more > 0 && !self.allowance.take(more) {
            return;
        }
        self.taken += more;
        self.size += 1;
        self.buffer = vec![0; wanted];
        self.filled = 0..0;
    }

    /// Back to nothing while nothing flows.
    fn shrink(&mut self) {
        if self.filled.is_empty() && !self.buffer.is_empty() {
            self.buffer = Vec::new();
            self.filled = 0..0;
            self.size = 0;
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if self.taken > 0 {
            self.allowance.give(self.taken);
            self.taken = 0;
        }
    }
}

impl Drop for Direction<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests;
