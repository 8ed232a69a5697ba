//! Both ways at once: half-close, byte counts, an idle limit, and buffers only while there are bytes.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Most bytes of a read, growing where reads are full: what the other side does not take at once must be kept.
const SIZES: [usize; 3] = [1024, 16 * 1024, MOST];

/// The largest of them.
const MOST: usize = 64 * 1024;

thread_local! {
    /// What all copies of a thread read into. Empty while one of them has it, or has kept it.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The thread's buffer of [`MOST`] bytes.
fn take_scratch() -> Vec<u8> {
    let scratch = SCRATCH.take();
    if scratch.len() == MOST {
        scratch
    } else {
        vec![0; MOST]
    }
}

/// Gives a buffer to the thread, if it is one that reads can be made into.
fn give_scratch(buffer: Vec<u8>) {
    if buffer.len() == MOST {
        SCRATCH.set(buffer);
    }
}

/// How often an idle connection is looked at, in parts of the idle limit.
const LOOKS: u32 = 4;

/// Who decides whether reads may be larger than the smallest size, and so what is kept of them. The smallest size is always granted.
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

/// How a copy is looked after.
#[derive(Debug)]
pub struct Watch<F> {
    /// How long nothing may move.
    pub idle: Duration,
    /// How often it is reported, at least.
    pub every: Duration,
    /// Reports.
    pub report: F,
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

/// Copies in both directions until both sides have closed, one fails, or nothing moves for too long.
pub fn both_ways<'a, L, R, F>(
    left: &'a mut L,
    right: &'a mut R,
    allowance: &'a dyn Allowance,
    counts: &'a Counts,
    mut watch: Watch<F>,
) -> impl Future<Output = End> + use<'a, L, R, F>
where
    L: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(),
{
    let mut rightward = Direction::new(allowance, &counts.rightward);
    let mut leftward = Direction::new(allowance, &counts.leftward);
    let look = (watch.idle / LOOKS).min(watch.every);
    let look = look.max(Duration::from_millis(1));
    let mut looks = interval_at(Instant::now() + look, look);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = counts.load();
    let mut moved = Instant::now();
    poll_fn(move |cx| {
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
            (watch.report)();
            let now = counts.load();
            if now != seen {
                seen = now;
                moved = Instant::now();
            } else if moved.elapsed() >= watch.idle {
                return Poll::Ready(End::Idle);
            } else {
                rightward.shrink();
                leftward.shrink();
            }
        }
        Poll::Pending
    })
}

enum Failure {
    Reading(io::Error),
    Writing(io::Error),
}

/// One way. It has a buffer only while the writer has not taken what was read.
struct Direction<'a> {
    kept: Vec<u8>,
    left: std::ops::Range<usize>,
    /// Which of the sizes has been granted.
    step: usize,
    is_flushed: bool,
    has_ended: bool,
    is_done: bool,
    allowance: &'a dyn Allowance,
    count: &'a AtomicU64,
}

impl<'a> Direction<'a> {
    fn new(allowance: &'a dyn Allowance, count: &'a AtomicU64) -> Self {
        Self {
            kept: Vec::new(),
            left: 0..0,
            step: 0,
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
            ready!(self.poll_kept(cx, writer)).map_err(Failure::Writing)?;
            if self.has_ended {
                ready!(self.poll_flush(cx, writer)).map_err(Failure::Writing)?;
                ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Failure::Writing)?;
                self.is_done = true;
                break;
            }
            let mut scratch = take_scratch();
            let read = self.poll_read(cx, reader, &mut scratch);
            let Poll::Ready(read) = read else {
                give_scratch(scratch);
                ready!(self.poll_flush(cx, writer)).map_err(Failure::Writing)?;
                return Poll::Pending;
            };
            let length = read.map_err(Failure::Reading)?;
            let written = self.poll_write(cx, writer, &scratch, 0..length);
            self.keep(scratch);
            ready!(written).map_err(Failure::Writing)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads as much as one read may; the next may be larger if this one is full.
    fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        scratch: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let size = self.size();
        let room = scratch.get_mut(..size).unwrap_or_default();
        let mut buffer = ReadBuf::new(room);
        ready!(Pin::new(reader).poll_read(cx, &mut buffer))?;
        let length = buffer.filled().len();
        self.has_ended = length == 0;
        if length == size {
            self.grow();
        }
        Poll::Ready(Ok(length))
    }

    /// Writes a part of `buffer`; `left` is what of it is not taken yet.
    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        buffer: &[u8],
        part: std::ops::Range<usize>,
    ) -> Poll<io::Result<()>> {
        self.left = part;
        while let Some(bytes) = buffer.get(self.left.clone()).filter(|b| !b.is_empty()) {
            let written = ready!(Pin::new(&mut *writer).poll_write(cx, bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.left.start += written;
            self.is_flushed = false;
            self.count
                .fetch_add(u64::try_from(written).unwrap_or(0), Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is left of an earlier read, and lets go of its buffer.
    fn poll_kept<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        if self.kept.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let kept = std::mem::take(&mut self.kept);
        let result = self.poll_write(cx, writer, &kept, self.left.clone());
        if self.left.is_empty() {
            give_scratch(kept);
        } else {
            self.kept = kept;
        }
        result
    }

    /// Keeps what is left of a read: the buffer itself where that much has been granted, else a copy of the rest.
    fn keep(&mut self, scratch: Vec<u8>) {
        if self.left.is_empty() {
            give_scratch(scratch);
        } else if self.step + 1 == SIZES.len() {
            self.kept = scratch;
        } else {
            let rest = scratch.get(self.left.clone()).unwrap_or_default();
            self.kept = rest.to_vec();
            self.left = 0..self.kept.len();
            give_scratch(scratch);
        }
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

    fn size(&self) -> usize {
        SIZES.get(self.step).copied().unwrap_or(MOST)
    }

    /// The next size, if it is granted.
    fn grow(&mut self) {
        if let Some(next) = SIZES.get(self.step + 1)
            && self.allowance.take(next - self.size())
        {
            self.step += 1;
        }
    }

    /// Back to the smallest size while nothing flows.
    fn shrink(&mut self) {
        if self.kept.is_empty() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        let [smallest, ..] = SIZES;
        let granted = self.size() - smallest;
        if granted > 0 {
            self.allowance.give(granted);
            self.step = 0;
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
