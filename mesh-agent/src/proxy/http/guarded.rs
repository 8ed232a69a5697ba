//! A body as it is received, held to what neither hyper nor h2 holds it to: it is not silent for ever, and its trailers are
//! clean.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
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
    silence: Silence,
    /// Copies under way.
    tees: Vec<Tee>,
    /// Its reader has got its end: the trailers, or that there are none.
    has_ended: bool,
}

impl Guarded {
    /// Guards a body.
    pub(crate) const fn new(inner: Received, silence: Silence) -> Self {
        Self {
            inner,
            silence,
            tees: Vec::new(),
            has_ended: false,
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

    /// Whether all of it has come. Nobody polls to the end what is known to have ended: behind the trailers, or where all the
    /// bytes that were announced have come.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_end_stream() || self.inner.size_hint().exact() == Some(0)
    }

    /// What lacks nothing but its end, if it does.
    pub(crate) fn take_rest(&mut self) -> Option<Received> {
        let is_left = self.is_whole() && !self.is_end_stream();
        is_left.then(|| mem::replace(&mut self.inner, Received::Nothing))
    }

    fn end(&mut self) {
        self.has_ended = true;
        for mut tee in self.tees.drain(..) {
            tee.end();
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if !self.tees.is_empty() && self.is_whole() {
            self.end();
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
                if frame.is_trailers() {
                    this.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Broken::Off(error)))),
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Pending => this.silence.poll(cx).map(|()| Some(Err(Broken::Silent))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
