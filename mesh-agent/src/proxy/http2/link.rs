//! HTTP/2 connections to endpoints. Requests are put on streams where they are made, with no task and no queue between.

use std::future::{self, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::TryFutureExt as _;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::{Method, Request, Response};
use http_body::Body as _;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use super::body::Body;
use super::sending::Sending;
use super::tunnel::Tunnel;
use super::{MAX_RESET_STREAMS, SEND_BUFFER};
use crate::net::gather::Gathering;
use crate::net::seldom::{Bell, Either};
use crate::net::stream;
use crate::proxy::http::Connection as Client;
use crate::proxy::http::body::Outgoing;
use crate::proxy::http::received::Received;
use crate::proxy::policy::breaker::Place;
use crate::proxy::worker::Worker;

/// What one stream may hold in flight. Bounds the memory that a slow client costs.
const STREAM_WINDOW: u32 = 512 * 1024;
/// What all streams of a connection may hold. Larger than one stream's window: else a client that takes B before A waits
/// for ever. Much larger, because h2 ends a connection whose unread frames of a few bytes, each counted as 256, exceed
/// half of it.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Streams that were reset for errors of the peer before the connection ends.
const MAX_ERRONEOUS_STREAMS: usize = 1024;
/// How often a busy connection is asked whether its peer is there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long the peer may take to answer.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection, shared by all requests on it. Ends when nobody holds it and its streams have ended.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    sender: SendRequest<Bytes>,
    streams: Arc<Streams>,
}

/// The streams of one connection.
#[derive(Debug)]
struct Streams {
    open: AtomicUsize,
    /// What the peer allows; nothing until it has said so.
    limit: AtomicUsize,
    is_closed: AtomicBool,
    /// Whom to tell when a stream has ended, where no further connection may be made.
    freed: Option<Arc<Notify>>,
}

/// Speaks HTTP/2 on a fresh connection, and waits until the peer does too: a request is lost to nobody who never
/// answered. `place` is held for as long as the connection lives; `freed` tells one of those who wait when a stream ends.
pub(crate) async fn open(
    worker: &Worker,
    stream: stream::Stream,
    place: Option<Arc<Place>>,
    freed: Option<Arc<Notify>>,
) -> Result<Link, h2::Error> {
    let header_bytes = worker.config.limits.header_bytes;
    let (sender, connection) = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(0)
        .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(Some(MAX_ERRONEOUS_STREAMS))
        .handshake(Gathering(stream))
        .await?;
    let streams = Arc::new(Streams {
        open: AtomicUsize::new(0),
        limit: AtomicUsize::new(0),
        is_closed: AtomicBool::new(false),
        freed,
    });
    let (tell, told) = oneshot::channel();
    let driven = Arc::clone(&streams);
    worker.spawn(async move {
        drive(connection, &driven, tell).await;
        driven.is_closed.store(true, Ordering::Relaxed);
        drop(place);
    });
    // Closed without a word.
    let closed = Err(Reason::CONNECT_ERROR.into());
    told.await.unwrap_or(closed)?;
    Ok(Link { sender, streams })
}

/// Moves the frames of a connection to its end. Tells once when the peer has said how many streams it allows.
async fn drive(
    mut connection: Connection<Gathering<stream::Stream>, Bytes>,
    streams: &Streams,
    tell: oneshot::Sender<Result<(), h2::Error>>,
) {
    let pings = connection.ping_pong();
    let mut tell = Some(tell);
    let driving = pin!(poll_fn(|cx| {
        let result = Pin::new(&mut connection).poll(cx);
        let limit = connection.max_concurrent_send_streams();
        streams.limit.store(limit, Ordering::Relaxed);
        if limit > 0
            && let Some(tell) = tell.take()
        {
            // Whoever dialled may have lost patience.
            drop(tell.send(Ok(())));
        }
        result
    }));
    let watching = pin!(keep_alive(pings, streams));
    if let Either::Often(Err(error)) = Bell::default().first(driving, watching).await {
        tracing::debug!(%error, "connection to an endpoint ended");
        if let Some(tell) = tell {
            drop(tell.send(Err(error)));
        }
    }
}

/// Ends when the peer of a busy connection is silent.
async fn keep_alive(pings: Option<PingPong>, streams: &Streams) {
    let Some(mut pings) = pings else {
        return future::pending().await;
    };
    loop {
        sleep(PING_INTERVAL).await;
        let is_idle = streams.open.load(Ordering::Relaxed) == 0;
        if is_idle {
            continue;
        }
        let pong = timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await;
        if !matches!(pong, Ok(Ok(_))) {
            return;
        }
    }
}

impl Link {
    /// Whether it takes no more requests.
    pub(crate) fn is_closed(&self) -> bool {
        self.streams.is_closed.load(Ordering::Relaxed)
    }

    /// Whether requests are under way on it.
    pub(crate) fn is_busy(&self) -> bool {
        self.streams.open.load(Ordering::Relaxed) > 0
    }

    /// A stream, if the peer takes requests and allows one more.
    pub(crate) fn stream(&self) -> Option<Stream> {
        let Streams { open, limit, .. } = &*self.streams;
        if self.is_closed() || open.load(Ordering::Relaxed) >= limit.load(Ordering::Relaxed) {
            return None;
        }
        let mut link = self.clone();
        // Nothing is waited for: this handle has no stream yet. Fails after a GOAWAY.
        let ready = link
            .sender
            .poll_ready(&mut Context::from_waker(Waker::noop()));
        if !matches!(ready, Poll::Ready(Ok(()))) {
            self.streams.is_closed.store(true, Ordering::Relaxed);
            return None;
        }
        Some(Stream::new(link))
    }
}

/// The right to one stream of a connection. To be used at once: a connection may end while others run.
#[derive(Debug)]
pub(crate) struct Stream(Link);

impl Stream {
    fn new(link: Link) -> Self {
        link.streams.open.fetch_add(1, Ordering::Relaxed);
        Self(link)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Streams { open, freed, .. } = &*self.0.streams;
        open.fetch_sub(1, Ordering::Relaxed);
        if let Some(freed) = freed {
            freed.notify_one();
        }
    }
}

/// What follows the head of a request.
enum Rest {
    Nothing,
    Body(Sending<Outgoing>, Arc<Worker>, Link),
    Tunnel(SendStream<Bytes>),
}

/// Waits for the head of an answer, and passes on to a client what is said before it.
pub(super) struct Head {
    response: ResponseFuture,
    client: Option<Arc<Client>>,
}

impl Future for Head {
    type Output = Result<Response<RecvStream>, h2::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Some(client) = &this.client {
            // Ready without one where the answer is there, or nothing will come.
            while let Some(Ok(interim)) = ready!(this.response.poll_informational(cx)) {
                client.hear(&interim);
            }
        }
        Pin::new(&mut this.response).poll(cx)
    }
}

impl Stream {
    /// Sends a request. Its head is on its way when this returns; its body follows as the answer is awaited, and after it.
    /// `client` hears what the endpoint says before the answer.
    pub(crate) fn send(
        &mut self,
        worker: &Arc<Worker>,
        request: Box<Request<Outgoing>>,
        client: Option<&Arc<Client>>,
    ) -> impl Future<Output = Result<Response<Received>, h2::Error>> + use<> {
        let begun = self.begin(worker, *request);
        let client = client.map(Arc::clone);
        // An async block keeps what it is given beside what it makes of it.
        future::ready(begun).and_then(|(response, rest)| answer(Head { response, client }, rest))
    }

    fn begin(
        &mut self,
        worker: &Arc<Worker>,
        request: Request<Outgoing>,
    ) -> Result<(ResponseFuture, Rest), h2::Error> {
        let is_connect = request.method() == Method::CONNECT;
        let (head, body) = request.into_parts();
        let is_whole = !is_connect && body.is_end_stream();
        let head = Request::from_parts(head, ());
        let (response, stream) = self.0.sender.send_request(head, is_whole)?;
        let rest = if is_connect {
            Rest::Tunnel(stream)
        } else if is_whole {
            Rest::Nothing
        } else {
            let sending = Sending::new(body, stream);
            Rest::Body(sending, Arc::clone(worker), self.0.clone())
        };
        Ok((response, rest))
    }
}

async fn answer(response: Head, rest: Rest) -> Result<Response<Received>, h2::Error> {
    let (response, left) = match rest {
        Rest::Nothing => (response.await?, None),
        // Large beside the others.
        Rest::Body(sending, worker, link) => {
            let (response, left) = Box::pin(sending.beside(response)).await?;
            (response, left.map(|left| (left, worker, link)))
        }
        Rest::Tunnel(mut sender) => {
            let response = response.await?;
            if response.status().is_success() {
                let tunnel = |receiver| Received::Tunnel(Box::new(Tunnel::new(sender, receiver)));
                return Ok(response.map(tunnel));
            }
            // Fails where the endpoint has ended the stream already, after its answer.
            drop(sender.send_data(Bytes::new(), true));
            (response, None)
        }
    };
    let (head, stream) = response.into_parts();
    let mut body = Body::new(stream, &head.headers);
    if let Some((left, worker, link)) = left {
        let fate = body.fate();
        worker.spawn(async move {
            if let Some(left) = left.follow(fate).await {
                // To the endpoint the stream is open for as long as the body goes on, though its answer has ended.
                let _open = Stream::new(link);
                left.finish().await;
            }
        });
    }
    Ok(Response::from_parts(head, Received::Stream(body)))
}
