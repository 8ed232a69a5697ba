//! Signs of life of a client's connection, for its time limits: one look every few seconds, no timer per request.

mod answer;
mod frames;
mod framing;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::interim::Interim;
use crate::proxy::config::Timeouts;
use answer::Answer;
use frames::Frames;
use framing::Framing;

/// What has moved since the last look.
#[derive(Debug)]
pub(crate) struct Pulse {
    timeouts: Timeouts,
    is_http2: bool,
    opened: Instant,
    /// Requests under way.
    requests: AtomicU32,
    /// Requests whose head hyper has read.
    heads: AtomicU64,
    /// The first of them that is framed twice; zero if there is none.
    ambiguous: AtomicU64,
    /// Bytes have come at some time.
    is_touched: AtomicBool,
    /// Bytes have moved.
    has_moved: AtomicBool,
    /// A head has begun, and not ended.
    is_head_open: AtomicBool,
    /// Heads that have come whole, modulo 2^32.
    heads_come: AtomicU32,
    /// A request has come or ended.
    has_served: AtomicBool,
    /// Requests are under way, and no byte has moved for too long.
    is_idle: AtomicBool,
    /// The connection has reached its age.
    is_aged: AtomicBool,
    /// The connection is no longer HTTP.
    is_tunnel: AtomicBool,
    /// Nothing of a message has come that is not whole.
    is_between: AtomicBool,
    /// hyper has handed over every byte that it had.
    is_flushed: AtomicBool,
    /// What is said before answers.
    pub(crate) interim: Interim,
    /// The answer under way (HTTP/1).
    pub(crate) answer: Answer,
    last: Mutex<Last>,
}

/// When things happened, as precisely as the looks are frequent.
#[derive(Clone, Copy, Debug)]
struct Last {
    moved: Instant,
    served: Instant,
    /// Since when the head that is open has been open, and how many had come before.
    head: Option<(Instant, u32)>,
}

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Carry on.
    Alive,
    /// No byte since the last look, none half-way, and no request under way (HTTP/1).
    Resting,
    /// No request for a long time, or old: close in good order.
    Retire,
    /// A limit is exceeded: close.
    Overdue,
}

impl Pulse {
    pub(crate) fn new(timeouts: Timeouts, is_http2: bool) -> Self {
        let now = Instant::now();
        Self {
            timeouts,
            is_http2,
            opened: now,
            requests: AtomicU32::new(0),
            heads: AtomicU64::new(0),
            ambiguous: AtomicU64::new(0),
            is_touched: AtomicBool::new(false),
            has_moved: AtomicBool::new(false),
            is_head_open: AtomicBool::new(false),
            heads_come: AtomicU32::new(0),
            has_served: AtomicBool::new(false),
            is_idle: AtomicBool::new(false),
            is_aged: AtomicBool::new(false),
            is_tunnel: AtomicBool::new(false),
            is_between: AtomicBool::new(true),
            is_flushed: AtomicBool::new(false),
            interim: Interim::default(),
            answer: Answer::default(),
            last: Mutex::new(Last {
                moved: now,
                served: now,
                head: None,
            }),
        }
    }

    /// Whether the client has said nothing at all. hyper waits for its first request even when told to end.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.is_touched.load(Ordering::Relaxed)
    }

    /// Whether no request is under way.
    pub(crate) fn is_unoccupied(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    /// Requests under way.
    pub(crate) fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether the connection ends because no byte of its requests has moved for too long.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_idle.load(Ordering::Relaxed)
    }

    /// Whether the connection is old enough to be replaced by another.
    pub(crate) fn is_aged(&self) -> bool {
        self.is_aged.load(Ordering::Relaxed)
    }

    /// The connection is a tunnel from now on: its bytes are no messages.
    pub(crate) fn tunnel(&self) {
        self.is_tunnel.store(true, Ordering::Relaxed);
    }

    /// The head of a request is complete.
    pub(crate) fn request_started(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.has_served.store(true, Ordering::Relaxed);
    }

    /// A request and its response have ended.
    pub(crate) fn request_ended(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
        self.has_served.store(true, Ordering::Relaxed);
    }

    /// Whether the request that has come now says in two ways where its body ends. To be asked once for each request of an
    /// HTTP/1.1 connection, which come one after the other.
    pub(crate) fn is_framed_twice(&self) -> bool {
        let number = self.heads.fetch_add(1, Ordering::Relaxed) + 1;
        let ambiguous = self.ambiguous.load(Ordering::Relaxed);
        ambiguous != 0 && number >= ambiguous
    }

    fn has_read(&self) {
        self.is_touched.store(true, Ordering::Relaxed);
        self.has_moved.store(true, Ordering::Relaxed);
    }

    fn has_head(&self, is_open: bool, come: u32) {
        self.is_head_open.store(is_open, Ordering::Relaxed);
        self.heads_come.store(come, Ordering::Relaxed);
    }

    /// Whether a connection that was asked to end at `since` waits in vain for its client, who may take its answers slowly, but
    /// would keep it for ever if it did not answer the PING of a GOAWAY. To be asked after a look.
    pub(crate) fn is_forsaken(&self, since: Instant) -> bool {
        let Timeouts { header, idle, .. } = self.timeouts;
        // Full buffers of the kernel take nothing until the client has read a good part of them.
        let is_flushed = self.is_flushed.load(Ordering::Relaxed);
        let patience = if is_flushed { header } else { idle };
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_still = last.moved.max(since).elapsed() > patience;
        self.is_unoccupied() && (is_still || since.elapsed() > idle)
    }

    /// Compares with the last look.
    pub(crate) fn look(&self) -> Verdict {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let has_moved = self.has_moved.swap(false, Ordering::Relaxed);
        if has_moved {
            last.moved = now;
        }
        let is_unoccupied = self.is_unoccupied();
        if self.has_served.swap(false, Ordering::Relaxed) || !is_unoccupied {
            last.served = now;
        }
        let age = self.timeouts.max_age;
        let is_aged = !age.is_zero() && now - self.opened > age;
        self.is_aged.store(is_aged, Ordering::Relaxed);
        if self.is_head_overdue(&mut last, now, is_unoccupied) {
            return Verdict::Overdue;
        }
        if !is_unoccupied && now - last.moved > self.timeouts.idle {
            self.is_idle.store(true, Ordering::Relaxed);
            return Verdict::Overdue;
        }
        let is_mute = self.is_untouched() && now - self.opened > self.timeouts.first_byte;
        // Of HTTP/1 the next response tells the client. To close between two would meet a request half-way.
        let is_retired = is_aged && self.is_http2;
        if is_mute || is_retired || now - last.served > self.timeouts.keep_alive {
            Verdict::Retire
        } else if !has_moved && is_unoccupied && self.has_settled() {
            Verdict::Resting
        } else {
            Verdict::Alive
        }
    }

    /// Whether nobody waits for the answer under way (HTTP/1): the client is gone, as its side of the connection tells
    /// (`has_finished`), or does not read, and the time of the request was over so long ago. To be asked after a look.
    pub(crate) fn is_unattended(&self, has_finished: bool, patience: Duration) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.answer.is_abandoned(has_finished, last.moved) || self.answer.is_late_by(patience)
    }

    /// Whether every request that has come was taken, and every byte of its answer was sent.
    fn has_settled(&self) -> bool {
        let heads = self.heads.load(Ordering::Relaxed) & u64::from(u32::MAX);
        !self.is_http2
            && !self.is_tunnel.load(Ordering::Relaxed)
            && self.is_between.load(Ordering::Relaxed)
            && self.is_flushed.load(Ordering::Relaxed)
            && heads == u64::from(self.heads_come.load(Ordering::Relaxed))
    }

    fn is_head_overdue(&self, last: &mut Last, now: Instant, is_unoccupied: bool) -> bool {
        let is_open = self.is_head_open.load(Ordering::Relaxed);
        // Of HTTP/1 nobody reads on while a request is under way.
        if !is_open || !(is_unoccupied || self.is_http2) {
            last.head = None;
            return false;
        }
        let come = self.heads_come.load(Ordering::Relaxed);
        match last.head {
            Some((since, before)) if before == come => now - since > self.timeouts.header,
            _ => {
                last.head = Some((now, come));
                false
            }
        }
    }
}

/// Follows the bytes of a client.
#[derive(Debug)]
enum Observer {
    Http1(Framing),
    Http2(Frames),
}

impl Observer {
    fn follow(&mut self, bytes: &[u8], pulse: &Pulse) {
        match self {
            Self::Http1(framing) => {
                if let Some(ambiguous) = framing.follow(bytes) {
                    pulse.ambiguous.store(ambiguous, Ordering::Relaxed);
                }
                let (is_open, come) = framing.state();
                pulse.has_head(is_open, come);
                pulse
                    .is_between
                    .store(framing.is_between(), Ordering::Relaxed);
            }
            Self::Http2(frames) => {
                frames.follow(bytes);
                let (is_open, come) = frames.state();
                pulse.has_head(is_open, come);
            }
        }
    }
}

/// A stream whose reads and writes beat a pulse.
#[derive(Debug)]
pub(crate) struct Beating<S> {
    inner: S,
    pulse: Arc<Pulse>,
    observer: Observer,
}

impl<S> Beating<S> {
    pub(crate) fn new(inner: S, pulse: Arc<Pulse>) -> Self {
        let observer = if pulse.is_http2 {
            Observer::Http2(Frames::new())
        } else {
            Observer::Http1(Framing::new())
        };
        Self {
            inner,
            pulse,
            observer,
        }
    }

    /// The stream below.
    pub(crate) const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The stream below, for what need not be followed.
    pub(crate) const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    fn wrote(&self, result: &Poll<io::Result<usize>>) {
        self.pulse.is_flushed.store(false, Ordering::Relaxed);
        if matches!(result, Poll::Ready(Ok(_))) {
            self.pulse.has_moved.store(true, Ordering::Relaxed);
        }
    }
}

impl<S: AsyncWrite + Unpin> Beating<S> {
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let interim = &self.pulse.interim;
        let is_flushed = self.pulse.is_flushed.load(Ordering::Relaxed);
        interim.poll_send(&mut self.inner, cx, is_flushed)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Beating<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.inner).poll_read(cx, buffer);
        if result.is_pending() && !this.pulse.is_http2 {
            this.pulse.interim.register(cx.waker());
        }
        let new = buffer.filled().get(before..).unwrap_or_default();
        if !new.is_empty() {
            this.pulse.has_read();
            if !this.pulse.is_tunnel.load(Ordering::Relaxed) {
                this.observer.follow(new, &this.pulse);
            }
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Beating<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        let result = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.wrote(&result);
        result
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.pulse.is_flushed.store(true, Ordering::Relaxed);
        ready!(this.poll_interim(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        let result = Pin::new(&mut this.inner).poll_write_vectored(cx, slices);
        this.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
