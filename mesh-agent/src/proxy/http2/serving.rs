//! HTTP/2 connections of clients: each request is answered by a task of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::{Builder, Connection as H2Connection, Handshake, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, DATE, EXPECT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::sync::oneshot;

use super::body::Body;
use super::sending::Sending;
use super::tunnel::Tunnel;
use super::{MAX_RESET_STREAMS, SEND_BUFFER};
use crate::net::clock;
use crate::proxy::http::body::Reply;
use crate::proxy::http::interim::MAX_PENDING;
use crate::proxy::http::received::Received;
use crate::proxy::http::upgrade::End;
use crate::proxy::http::{Connection, Stream, forward};

/// What one stream may hold unread. Bounds the memory that a slow endpoint costs; the client is on the same node, and
/// waits for nothing but the proxy.
const STREAM_WINDOW: u32 = 128 * 1024;
/// What all streams of a connection may hold unread at first, and may in any case.
const LEAST_WINDOW: u32 = 1024 * 1024;
/// What they may hold at most, where there is room for that: else a few bodies whose endpoints are slow hold up all others
/// of their connection.
const MOST_WINDOW: u32 = 8 * LEAST_WINDOW;
/// Streams that a client may have open.
const MAX_STREAMS: u32 = 250;
/// h2 counts an unread frame of a few bytes as 256, which is about what it costs, and ends a connection with more of them
/// than this: a stream's window full of the smallest messages of gRPC, which have 6 bytes. It bounds what a connection may
/// hold beyond its windows.
const SMALL_FRAMES: usize = STREAM_WINDOW as usize / 6 * 256;

/// Serves one connection. Ends when the client or [`Serving::graceful_shutdown`] has ended it.
pub(crate) struct Serving {
    connection: Arc<Connection>,
    stage: Stage,
    is_ending: bool,
    /// What all streams may hold unread, and for which buffers are set aside.
    window: u32,
}

enum Stage {
    Greeting(Handshake<Stream, Bytes>),
    Open(H2Connection<Stream, Bytes>),
}

impl Serving {
    /// Buffers to be set aside for a connection before it is served.
    pub(crate) const RESERVED: usize = LEAST_WINDOW as usize;

    pub(crate) fn new(connection: Arc<Connection>, stream: Stream) -> Self {
        let header_bytes = connection.worker.config.limits.header_bytes;
        let greeting = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(LEAST_WINDOW)
            .data_frame_budget(SMALL_FRAMES)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(MAX_RESET_STREAMS)
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(Some(1024))
            .handshake(stream);
        Self {
            connection,
            stage: Stage::Greeting(greeting),
            is_ending: false,
            window: LEAST_WINDOW,
        }
    }

    /// Takes no more requests and ends when those under way are answered.
    pub(crate) fn graceful_shutdown(self: Pin<&mut Self>) {
        let this = self.get_mut();
        this.is_ending = true;
        if let Stage::Open(open) = &mut this.stage {
            open.graceful_shutdown();
        }
    }

    /// The window that the requests under way would like to have. In steps: each change is a frame.
    fn wanted(&self) -> u32 {
        let streams = self.connection.pulse.requests();
        let wanted = streams.saturating_mul(STREAM_WINDOW);
        let wanted = wanted.next_multiple_of(LEAST_WINDOW);
        wanted.min(MOST_WINDOW)
    }
}

impl Future for Serving {
    type Output = Result<(), h2::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            let accepted = match &mut this.stage {
                Stage::Greeting(greeting) => {
                    let mut open = ready!(Pin::new(greeting).poll(cx))?;
                    if this.is_ending {
                        open.graceful_shutdown();
                    }
                    this.stage = Stage::Open(open);
                    continue;
                }
                Stage::Open(open) => ready!(open.poll_accept(cx)),
            };
            let Some(accepted) = accepted else {
                return Poll::Ready(Ok(()));
            };
            let (request, respond) = accepted?;
            let has_body = !request.body().is_end_stream();
            let answering = Answering::new(&this.connection, request, respond);
            if has_body {
                this.widen();
            }
            this.connection.worker.spawn(answering);
        }
    }
}

impl Serving {
    /// Lets bodies come side by side, as far as there is room to keep them.
    fn widen(&mut self) {
        let wanted = self.wanted();
        if wanted <= self.window {
            return;
        }
        let more = usize::try_from(wanted - self.window).unwrap_or(usize::MAX);
        if let Stage::Open(open) = &mut self.stage
            && self.connection.caller.permit.reserve_spare(more)
        {
            open.set_target_window_size(wanted);
            self.window = wanted;
        }
    }
}

/// The task of one request.
struct Answering {
    step: Step,
    respond: SendResponse<Bytes>,
    /// What a CONNECT becomes once it is granted.
    tunnel: Option<Box<(RecvStream, oneshot::Sender<Tunnel>)>>,
    connection: Arc<Connection>,
    /// Hears when the body is waited for that the client sends only then.
    invitation: Option<oneshot::Receiver<()>>,
    /// Bytes of interim responses.
    interim_bytes: usize,
}

enum Step {
    /// The answer is awaited. In a box: the place is free for as long as the body takes.
    Asking(Pin<Box<dyn Future<Output = Response<Reply>> + Send>>),
    Sending(Sending<Reply>),
}

impl Answering {
    fn new(
        connection: &Arc<Connection>,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Self {
        let (head, stream) = request.into_parts();
        let mut invitation = None;
        let (body, client, tunnel) = if head.method == Method::CONNECT {
            let (promise, promised) = oneshot::channel();
            let tunnel = Some(Box::new((stream, promise)));
            (Received::Nothing, Some(End::Promised(promised)), tunnel)
        } else {
            let mut body = Body::new(stream, &head.headers);
            if awaits_invitation(&head.headers) {
                invitation = Some(body.invitation());
            }
            (Received::Stream(body), None, None)
        };
        let answer = forward::forward(Arc::clone(connection), (head, body), client);
        Self {
            step: Step::Asking(Box::pin(answer)),
            respond,
            tunnel,
            connection: Arc::clone(connection),
            invitation,
            interim_bytes: 0,
        }
    }

    /// Says that the body is waited for.
    fn invite(&mut self, cx: &mut Context<'_>) {
        if let Some(invitation) = &mut self.invitation
            && let Poll::Ready(result) = Pin::new(invitation).poll(cx)
        {
            self.invitation = None;
            if result.is_ok() {
                let mut response = Response::new(());
                *response.status_mut() = StatusCode::CONTINUE;
                self.say(response);
            }
        }
    }

    /// Says what the endpoint has said before its answer, and how many bytes that is.
    fn pass_on(&mut self, (heard, bytes): (Vec<Response<()>>, usize)) {
        self.interim_bytes += bytes;
        if self.interim_bytes <= MAX_PENDING {
            for response in heard {
                self.say(response);
            }
        }
    }

    fn say(&mut self, response: Response<()>) {
        if let Err(error) = self.respond.send_informational(response) {
            tracing::debug!(%error, "cannot send an interim response");
        }
    }

    /// Sends the head of the answer. Gives back the body, if there is one.
    fn begin(&mut self, response: Response<Reply>) -> Option<Sending<Reply>> {
        let (mut head, body) = response.into_parts();
        let tunnel = self.tunnel.take().filter(|_| head.status.is_success());
        if let Reply::Text(Some(text)) = &body {
            head.headers
                .entry(CONTENT_LENGTH)
                .or_insert_with(|| HeaderValue::from(text.len()));
        }
        if !head.headers.contains_key(DATE) {
            // RFC 9110, 6.6.1: who has a clock says when it was.
            let now = HeaderValue::try_from(clock::http_date());
            head.headers.extend(now.map(|now| (DATE, now)));
        }
        let is_whole = tunnel.is_none() && body.is_end_stream();
        let sent = self
            .respond
            .send_response(Response::from_parts(head, ()), is_whole);
        match (sent, tunnel) {
            (Ok(_), None) if is_whole => None,
            (Ok(stream), None) => Some(Sending::new(body, stream)),
            (Ok(sender), Some(tunnel)) => {
                let (receiver, promise) = *tunnel;
                // Nobody waits where the proxy is closing.
                drop(promise.send(Tunnel::new(sender, receiver)));
                None
            }
            (Err(error), _) => {
                tracing::debug!(%error, "cannot answer");
                self.respond.send_reset(Reason::INTERNAL_ERROR);
                None
            }
        }
    }
}

/// Whether a client sends the body only when it is told to, or after a while: RFC 9110, 10.1.1.
fn awaits_invitation(headers: &HeaderMap) -> bool {
    headers
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl Future for Answering {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            let response = match &mut this.step {
                Step::Sending(sending) => return sending.poll(cx),
                Step::Asking(answer) => {
                    let answer = answer.as_mut().poll(cx);
                    let heard = this.connection.pulse.interim.take_heard();
                    let is_first = answer.is_pending() || heard.is_some();
                    if is_first && this.respond.poll_reset(cx).is_ready() {
                        // The client does not want it any more.
                        return Poll::Ready(());
                    }
                    if let Some(heard) = heard {
                        this.pass_on(heard);
                    }
                    match answer {
                        Poll::Ready(response) => response,
                        Poll::Pending => {
                            this.invite(cx);
                            return Poll::Pending;
                        }
                    }
                }
            };
            match this.begin(response) {
                Some(sending) => this.step = Step::Sending(sending),
                None => return Poll::Ready(()),
            }
        }
    }
}
