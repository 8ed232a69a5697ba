//! A body as hyper reads it, held to what hyper does not hold it to: it ends as its sender ended it, it is not silent for
//! ever, and its trailers are clean.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};

use super::headers;
use super::mirror::Tee;
use super::received::Received;
use super::silence::Silence;
use crate::proxy::error::Cause;

/// Why a body did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// Its sender broke off.
    #[error("the body broke off")]
    Off(#[source] Cause),
    /// Its sender broke off, and said that this is no error.
    #[error("the body broke off without an error")]
    Quietly,
    /// Its sender sent nothing for too long.
    #[error("the body was silent for too long")]
    Silent,
}

/// A body that was sent by a client or an endpoint.
#[derive(Debug)]
pub(crate) struct Guarded {
    inner: Received,
    is_http2: bool,
    silence: Silence,
    /// Copies under way.
    tees: Vec<Tee>,
}

impl Guarded {
    /// Guards the body of a message of `version`.
    pub(crate) const fn new(inner: Received, version: Version, silence: Silence) -> Self {
        Self {
            inner,
            is_http2: matches!(version, Version::HTTP_2),
            silence,
            tees: Vec::new(),
        }
    }

    /// Passes the body on to copies too.
    pub(crate) fn copied(mut self, tees: Vec<Tee>) -> Self {
        self.tees = tees;
        self
    }
}

impl Guarded {
    /// Nothing moves, also where its reader is to blame. Ready if that has lasted for too long.
    pub(crate) fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.silence.poll(cx)
    }

    /// Its reader has gone on.
    pub(crate) const fn moved(&mut self) {
        self.silence.broken();
    }

    fn end_copies(&mut self) {
        for mut tee in self.tees.drain(..) {
            tee.end();
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // hyper does not poll to the end what it knows has ended.
        if !self.tees.is_empty() && self.inner.is_end_stream() {
            self.end_copies();
        }
    }
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                this.silence.broken();
                if let Some(trailers) = frame.trailers_mut() {
                    headers::clean_trailers(trailers);
                }
                for tee in &mut this.tees {
                    tee.frame(&frame);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Broken::Off(error)))),
            // hyper takes RST_STREAM with NO_ERROR for an end, even if END_STREAM never came.
            Poll::Ready(None) if this.is_http2 && !this.inner.is_end_stream() => {
                Poll::Ready(Some(Err(Broken::Quietly)))
            }
            Poll::Ready(None) => {
                this.end_copies();
                Poll::Ready(None)
            }
            Poll::Pending => this.silence.poll(cx).map(|()| Some(Err(Broken::Silent))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
