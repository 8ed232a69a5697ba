//! Interim responses (103 Early Hints and the like) on their way from an endpoint to a client, both of HTTP/1.1.
//!
//! hyper's client tells of them, hyper's server cannot send them (1.12: its service gives one response), so they are put into
//! the client's stream between two messages. That is safe only while the client waits for an answer and hyper holds no byte
//! of an earlier one; an interim response that cannot be sent then is dropped, as its receiver may do anyway (RFC 9110, 15.2).
//! Over HTTP/2 none are passed on. 100 is not passed on either: the proxy has taken the
//! expectation upon itself.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, BytesMut};
use futures_util::task::AtomicWaker;
use http::{HeaderMap, Request, StatusCode};
use tokio::io::AsyncWrite;

use super::headers;
use super::pulse::Pulse;

/// Most bytes of interim responses that wait for the client. More are dropped.
const MAX_PENDING: usize = 16 * 1024;

/// What an endpoint has said beforehand, for one client at a time.
#[derive(Debug, Default)]
pub(crate) struct Interim {
    state: Mutex<State>,
    has_pending: AtomicBool,
    /// The task that writes to the client.
    writer: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    /// The request that is under way. An endpoint that was given up may still speak of an earlier one.
    number: u64,
    /// It has no answer yet.
    is_open: bool,
    pending: BytesMut,
    /// A part of it is sent, so the rest must be.
    has_begun: bool,
}

impl Interim {
    /// Passes on what is said before the answer to `request`.
    pub(crate) fn relay<B>(pulse: &Arc<Pulse>, request: &mut Request<B>) {
        let number = {
            let mut state = pulse.interim.state();
            state.number += 1;
            state.is_open = true;
            state.number
        };
        let pulse = Arc::clone(pulse);
        hyper::ext::on_informational(request, move |response| {
            pulse
                .interim
                .add(number, response.status(), response.headers());
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer is known: what comes now comes too late.
    pub(crate) fn close(&self) {
        self.state().is_open = false;
    }

    fn add(&self, number: u64, status: StatusCode, fields: &HeaderMap) {
        let mut state = self.state();
        if !state.is_open || state.number != number || status == StatusCode::CONTINUE {
            return;
        }
        let Some(head) = headers::interim_head(status, fields) else {
            return;
        };
        if state.pending.len() + head.len() <= MAX_PENDING {
            state.pending.extend_from_slice(&head);
            self.has_pending.store(true, Ordering::Relaxed);
            self.writer.wake();
        }
    }

    /// Whose task writes to the client.
    pub(crate) fn register(&self, writer: &Waker) {
        self.writer.register(writer);
    }

    /// Sends what is pending; to be called before any other byte is. `is_between` tells that hyper holds no byte of an
    /// earlier response.
    pub(crate) fn poll_send<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        cx: &mut Context<'_>,
        is_between: bool,
    ) -> Poll<io::Result<()>> {
        if !self.has_pending.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.state();
        if !is_between && !state.has_begun {
            state.pending.clear();
        }
        while !state.pending.is_empty() {
            let count = ready!(Pin::new(&mut *stream).poll_write(cx, &state.pending))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            state.pending.advance(count);
            state.has_begun = true;
        }
        state.has_begun = false;
        self.has_pending.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}
