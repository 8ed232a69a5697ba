//! Interim responses (103 Early Hints and the like) on their way from an endpoint to a client.
//!
//! To a client of HTTP/1.1: hyper's server cannot send them (1.12: its service gives one response), so they are put into
//! the client's stream between two messages. That is safe only while the client waits for an answer and hyper holds no byte
//! of an earlier one; an interim response that cannot be sent then is dropped, as its receiver may do anyway (RFC 9110, 15.2).
//! To a client of HTTP/2: the task of the request sends them on its stream. It hears those of an endpoint of HTTP/2, whose
//! answer it awaits itself; of those of HTTP/1.1 it is told by the task of that connection. 100 is never passed on: the proxy
//! has taken the expectation upon itself. Nor is 101, which is an answer.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, BytesMut};
use futures_util::task::AtomicWaker;
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::io::AsyncWrite;

use super::Connection;
use super::headers;
use super::pulse::Pulse;

/// Most bytes of interim responses that wait for a client of HTTP/1.1, and that one of HTTP/2 gets before an answer. More are
/// dropped.
pub(crate) const MAX_PENDING: usize = 16 * 1024;

/// What an endpoint has said beforehand, for one client at a time.
#[derive(Debug, Default)]
pub(crate) struct Interim {
    state: Mutex<State>,
    has_pending: AtomicBool,
    has_heard: AtomicBool,
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
    /// What a client of HTTP/2 is to be told, and how many bytes that is.
    heard: Vec<Response<()>>,
    heard_bytes: usize,
}

impl Interim {
    /// A client of HTTP/1.1 asks: from now on it is told what is said before the answer. Gives back the number of the request.
    pub(crate) fn open(&self) -> u64 {
        let mut state = self.state();
        state.number += 1;
        state.is_open = true;
        state.number
    }

    /// Passes on what an endpoint of HTTP/1.1 says before the answer to `request`.
    pub(crate) fn relay<B>(pulse: &Arc<Pulse>, number: u64, request: &mut Request<B>) {
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
        if !state.is_open || state.number != number || !is_passed_on(status) {
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

    /// An endpoint of HTTP/2 says it before the answer that is under way, to a client of HTTP/1.1.
    pub(crate) fn add_now(&self, response: &Response<()>) {
        let number = self.state().number;
        self.add(number, response.status(), response.headers());
    }

    /// The same to a client of HTTP/2. To be taken by the task that has heard it, at once: others of the connection run on the
    /// same thread.
    pub(crate) fn hear(&self, response: &Response<()>) {
        let status = response.status();
        if !is_passed_on(status) {
            return;
        }
        let Some(fields) = headers::interim_fields(response.headers()) else {
            return;
        };
        let mut state = self.state();
        let bytes = state.heard_bytes + size(&fields);
        if bytes > MAX_PENDING {
            return;
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = fields;
        state.heard.push(response);
        state.heard_bytes = bytes;
        self.has_heard.store(true, Ordering::Relaxed);
    }

    /// What a client of HTTP/2 is to be told, and how many bytes that is.
    pub(crate) fn take_heard(&self) -> Option<(Vec<Response<()>>, usize)> {
        if !self.has_heard.load(Ordering::Relaxed) {
            return None;
        }
        self.has_heard.store(false, Ordering::Relaxed);
        let mut state = self.state();
        let bytes = mem::take(&mut state.heard_bytes);
        Some((mem::take(&mut state.heard), bytes))
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

/// What an endpoint of HTTP/1.1 says before its answer to one request of a client of HTTP/2: said by the task of its
/// connection, heard by that of the request.
#[derive(Debug, Default)]
pub(crate) struct Said {
    unheard: Mutex<Unheard>,
    listener: AtomicWaker,
}

#[derive(Debug, Default)]
struct Unheard {
    responses: Vec<Response<()>>,
    /// Of all that was said, as the client gets no more than that either.
    bytes: usize,
}

impl Said {
    /// What will be said before the answer to `request`, which is to be sent.
    pub(crate) fn before<B>(request: &mut Request<B>) -> Arc<Self> {
        let said = Arc::new(Self::default());
        let speaker = Arc::clone(&said);
        hyper::ext::on_informational(request, move |response| {
            speaker.add(response.status(), response.headers());
        });
        said
    }

    fn unheard(&self) -> MutexGuard<'_, Unheard> {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, status: StatusCode, fields: &HeaderMap) {
        let mut unheard = self.unheard();
        let bytes = unheard.bytes + size(fields);
        if bytes > MAX_PENDING {
            return;
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = fields.clone();
        unheard.responses.push(response);
        unheard.bytes = bytes;
        drop(unheard);
        self.listener.wake();
    }

    /// Waits for the answer; `client` hears what is said before it.
    pub(crate) async fn until<F: Future>(&self, answer: F, client: &Connection) -> F::Output {
        let mut answer = pin!(answer);
        poll_fn(|cx| {
            self.listener.register(cx.waker());
            let answer = answer.as_mut().poll(cx);
            let said = mem::take(&mut self.unheard().responses);
            for response in said {
                client.hear(&response);
            }
            answer
        })
        .await
    }
}

/// How large an interim response is, as RFC 9113, 6.5.2 counts fields.
fn size(fields: &HeaderMap) -> usize {
    let fields = fields.iter();
    let sizes = fields.map(|(name, value)| name.as_str().len() + value.len() + 32);
    sizes.sum::<usize>() + 32
}

const fn is_passed_on(status: StatusCode) -> bool {
    !matches!(
        status,
        StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS
    )
}
