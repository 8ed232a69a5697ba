//! Signs of life of a client's connection, for its time limits: one look every few seconds, no timer per request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::proxy::config::Timeouts;

/// What has moved since the last look.
#[derive(Debug)]
pub(crate) struct Pulse {
    timeouts: Timeouts,
    is_http2: bool,
    /// Requests under way.
    requests: AtomicU32,
    /// Bytes have come at some time.
    is_touched: AtomicBool,
    /// Bytes have moved.
    has_moved: AtomicBool,
    /// Bytes have come that belong to no request yet.
    has_head: AtomicBool,
    /// A request has come or ended.
    has_served: AtomicBool,
    last: Mutex<Last>,
}

/// When things happened, as precisely as the looks are frequent.
#[derive(Clone, Copy, Debug)]
struct Last {
    moved: Instant,
    served: Instant,
    head: Option<Instant>,
}

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Carry on.
    Alive,
    /// No request for a long time: close in good order.
    Unused,
    /// A limit is exceeded: close.
    Overdue,
}

impl Pulse {
    pub(crate) fn new(timeouts: Timeouts, is_http2: bool) -> Self {
        let now = Instant::now();
        Self {
            timeouts,
            is_http2,
            requests: AtomicU32::new(0),
            is_touched: AtomicBool::new(false),
            has_moved: AtomicBool::new(false),
            has_head: AtomicBool::new(false),
            has_served: AtomicBool::new(false),
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

    /// The head of a request is complete.
    pub(crate) fn request_started(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.has_served.store(true, Ordering::Relaxed);
        self.has_head.store(false, Ordering::Relaxed);
    }

    /// A request and its response have ended.
    pub(crate) fn request_ended(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
        self.has_served.store(true, Ordering::Relaxed);
    }

    fn has_read(&self) {
        self.is_touched.store(true, Ordering::Relaxed);
        self.has_moved.store(true, Ordering::Relaxed);
        if self.requests.load(Ordering::Relaxed) == 0 {
            self.has_head.store(true, Ordering::Relaxed);
        }
    }

    /// Compares with the last look.
    pub(crate) fn look(&self) -> Verdict {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_moved.swap(false, Ordering::Relaxed) {
            last.moved = now;
        }
        let has_served = self.has_served.swap(false, Ordering::Relaxed);
        if has_served {
            last.served = now;
        }
        if self.requests.load(Ordering::Relaxed) > 0 {
            last.served = now;
            last.head = None;
            return if now - last.moved > self.timeouts.idle {
                Verdict::Overdue
            } else {
                Verdict::Alive
            };
        }
        // Bytes of HTTP/2 outside a request may be PINGs: no head need follow.
        let awaits_head = !self.is_http2 && !has_served && self.has_head.load(Ordering::Relaxed);
        if awaits_head {
            let since = *last.head.get_or_insert(now);
            if now - since > self.timeouts.header {
                return Verdict::Overdue;
            }
        } else {
            last.head = None;
        }
        if now - last.served > self.timeouts.keep_alive {
            Verdict::Unused
        } else {
            Verdict::Alive
        }
    }
}

/// A stream whose reads and writes beat a pulse.
#[derive(Debug)]
pub(crate) struct Beating<S> {
    inner: S,
    pulse: Arc<Pulse>,
}

impl<S> Beating<S> {
    pub(crate) const fn new(inner: S, pulse: Arc<Pulse>) -> Self {
        Self { inner, pulse }
    }

    fn wrote(&self, result: &Poll<io::Result<usize>>) {
        if matches!(result, Poll::Ready(Ok(_))) {
            self.pulse.has_moved.store(true, Ordering::Relaxed);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Beating<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.pulse.has_read();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Beating<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.wrote(&result);
        result
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
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::{Pulse, Verdict};
    use crate::proxy::config::Timeouts;

    const TIMEOUTS: Timeouts = Timeouts {
        connect: Duration::from_secs(1),
        header: Duration::from_secs(10),
        response: Duration::from_mins(1),
        keep_alive: Duration::from_secs(100),
        idle: Duration::from_secs(50),
        pool_idle: Duration::from_secs(1),
        detect: Duration::from_secs(1),
        detect_race: Duration::from_secs(1),
        queue: Duration::from_secs(1),
    };

    /// The first verdict that is not `Alive`, and after how many seconds, with a look each second.
    async fn watch(pulse: &Pulse, each_second: impl Fn()) -> (Verdict, u32) {
        for second in 0..300 {
            each_second();
            match pulse.look() {
                Verdict::Alive => advance(Duration::from_secs(1)).await,
                verdict => return (verdict, second),
            }
        }
        (Verdict::Alive, 300)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_is_unused_after_a_while() {
        for is_http2 in [false, true] {
            let pulse = Pulse::new(TIMEOUTS, is_http2);
            assert!(pulse.is_untouched());
            assert_eq!(watch(&pulse, || ()).await, (Verdict::Unused, 101));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_must_end_in_time_however_its_bytes_drip() {
        let pulse = Pulse::new(TIMEOUTS, false);
        pulse.request_started();
        pulse.request_ended();
        assert_eq!(pulse.look(), Verdict::Alive);
        assert_eq!(
            watch(&pulse, || pulse.has_read()).await,
            (Verdict::Overdue, 11)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_may_take_its_time_while_bytes_move() {
        let pulse = Pulse::new(TIMEOUTS, false);
        pulse.request_started();
        assert_eq!(
            watch(&pulse, || pulse.has_read()).await,
            (Verdict::Alive, 300)
        );
        assert_eq!(watch(&pulse, || ()).await, (Verdict::Overdue, 50));
    }

    #[tokio::test(start_paused = true)]
    async fn pings_of_http_2_are_no_heads() {
        let pulse = Pulse::new(TIMEOUTS, true);
        assert_eq!(
            watch(&pulse, || pulse.has_read()).await,
            (Verdict::Unused, 101)
        );
    }
}
