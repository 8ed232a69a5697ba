//! Bodies on their way: counted, never gathered.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::attempts::replay::Reader;
use super::exchange::Exchange;
use super::guarded::{Broken, Guarded};
use super::mirror::Copied;
use crate::proxy::error::Error;

/// Why a body breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// Its sender is to blame.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The request is sent again elsewhere.
    #[error("another attempt has taken over")]
    Superseded,
    /// The request has taken too long.
    #[error("the deadline of the request has passed")]
    Deadline,
}

/// How the body of a request has fared, for whoever must know whose fault a failure is.
#[derive(Debug)]
pub(crate) struct Fate {
    end: AtomicU8,
    begun: Instant,
    /// Milliseconds from the beginning to the last frame that was sent on.
    last_ms: AtomicU64,
    /// Bytes that were sent on.
    bytes: AtomicU64,
}

impl Default for Fate {
    fn default() -> Self {
        Self {
            end: AtomicU8::new(0),
            begun: Instant::now(),
            last_ms: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }
}

impl Fate {
    const BROKEN: u8 = 1;
    const SILENT: u8 = 2;

    fn note(&self, broken: &Broken) {
        let fate = match broken {
            Broken::Off(_) | Broken::Quietly => Self::BROKEN,
            Broken::Silent => Self::SILENT,
        };
        self.end.store(fate, Ordering::Relaxed);
    }

    /// More bytes were sent on.
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that were sent on.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn moved(&self) {
        let taken = u64::try_from(self.begun.elapsed().as_millis());
        self.last_ms
            .store(taken.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When its last frame so far was sent on.
    pub(crate) fn last_moved(&self) -> Instant {
        self.begun + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }

    /// What is to be told instead of the endpoint's failure, if the client's body was the cause.
    pub(crate) fn error(&self) -> Option<Error> {
        match self.end.load(Ordering::Relaxed) {
            Self::BROKEN => Some(Error::BrokenBody),
            Self::SILENT => Some(Error::SilentBody),
            _ => None,
        }
    }
}

/// What a client sends, counted and watched.
#[derive(Debug)]
pub(crate) struct Upload {
    inner: Guarded,
    fate: Arc<Fate>,
}

impl Upload {
    /// Notes in `fate` how `inner` fares.
    pub(crate) const fn new(inner: Guarded, fate: Arc<Fate>) -> Self {
        Self { inner, fate }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                self.fate.add(length(frame));
                self.fate.moved();
            }
            Some(Err(broken)) => self.fate.note(broken),
            None => {}
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of a request, on its way to an endpoint.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// There is none; such a request can be sent again.
    Empty,
    /// A copy of the client's.
    Copied(Copied),
    /// The client's, frame by frame. In a box: most requests have none, and are moved many times.
    Streamed(Box<Upload>),
    /// The client's, kept so that it can be sent again.
    Kept(Reader),
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Copied(copied) => Pin::new(copied).poll_frame(cx).map_err(BodyError::Broken),
            Self::Streamed(upload) => upload.poll_frame(cx),
            Self::Kept(reader) => reader.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Copied(copied) => copied.is_end_stream(),
            Self::Streamed(upload) => upload.is_end_stream(),
            Self::Kept(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Copied(copied) => copied.size_hint(),
            Self::Streamed(upload) => upload.size_hint(),
            Self::Kept(reader) => reader.size_hint(),
        }
    }
}

fn length(frame: &Frame<Bytes>) -> u64 {
    frame
        .data_ref()
        .map_or(0, |data| u64::try_from(data.len()).unwrap_or(0))
}

/// A body that does not wait for ever for a peer that takes nothing.
pub(crate) trait Limited: Body {
    /// It waits for its peer. Ready when that has lasted for too long.
    fn poll_limit(&mut self, _cx: &mut Context<'_>) -> Poll<Self::Error> {
        Poll::Pending
    }

    /// The peer has taken something.
    fn moved(&mut self) {}
}

/// Whoever waits for the answer has limits of its own.
impl Limited for Outgoing {}

/// The body of a response, on its way to the client.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The proxy's own words, or none.
    Text(Option<Bytes>),
    /// The endpoint's, frame by frame.
    Streamed {
        /// Where it comes from.
        inner: Guarded,
        /// What is to be told when it has ended.
        exchange: Box<Exchange>,
    },
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Streamed { inner, exchange } => {
                if exchange.has_expired(cx) {
                    exchange.failed(&Error::Deadline);
                    return Poll::Ready(Some(Err(BodyError::Deadline)));
                }
                let frame = ready!(Pin::new(inner).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) => {
                        exchange.add_response_bytes(length(frame));
                        if let Some(trailers) = frame.trailers_ref() {
                            exchange.read_grpc_status(trailers);
                        }
                    }
                    Some(Err(_)) => exchange.cut_off(),
                    None => exchange.complete(),
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Streamed { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => {
                let length = text.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(0))
            }
            Self::Streamed { inner, .. } => inner.size_hint(),
        }
    }
}

impl Limited for Reply {
    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let Self::Streamed { inner, exchange } = self else {
            return Poll::Pending;
        };
        if exchange.has_expired(cx) {
            exchange.failed(&Error::Deadline);
            return Poll::Ready(BodyError::Deadline);
        }
        ready!(inner.poll_silence(cx));
        exchange.failed(&Error::Idle);
        Poll::Ready(BodyError::Broken(Broken::Silent))
    }

    fn moved(&mut self) {
        if let Self::Streamed { inner, .. } = self {
            inner.moved();
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let Self::Streamed { inner, exchange } = self else {
            return;
        };
        if !inner.is_whole() {
            return;
        }
        // To the endpoint a stream that is dropped before its end was cancelled.
        if let Some(rest) = inner.take_rest()
            && let Some(lease) = exchange.lease.take()
        {
            rest.discard(&exchange.connection.worker, lease);
        }
        exchange.complete();
    }
}
