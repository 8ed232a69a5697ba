//! HTTP connections to endpoints, kept by one worker, keyed by endpoint and caller.
//!
//! The lock is never contended (one thread) and never held across an await; it only makes the pool `Sync`.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_common::workload::Caller as Identity;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::caller::Caller;
use super::connect;
use super::error::Error;
use super::http::body::Outgoing;
use super::http::{CONNECTION_WINDOW, MIN_BUFFER, STREAM_WINDOW};
use super::policy::breaker::{Limit, Place, Room};
use super::view::{Endpoint, ServicePort, Table, View};
use super::worker::Worker;

/// Most HTTP/2 connections to one endpoint for one caller.
const MAX_HTTP2: usize = 32;

/// What a connection belongs to. Two workloads never share one: the endpoint sees the caller's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    endpoint: u32,
    address: SocketAddr,
    netns: u64,
    workload: u32,
    identity: Identity,
    bound: Option<IpAddr>,
}

impl Key {
    pub(crate) fn new(caller: &Caller, endpoint: &Endpoint) -> Self {
        Self {
            endpoint: endpoint.number,
            address: endpoint.address,
            netns: caller.netns.cookie(),
            workload: caller.workload.number,
            identity: caller.conn.caller,
            bound: caller.bound,
        }
    }
}

/// The connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    entries: Mutex<Table<Key, Entry>>,
}

#[derive(Debug)]
struct Entry {
    idle: Vec<Idle>,
    shared: Vec<Shared>,
    /// One dials HTTP/2; the others wait and share.
    dialling: Arc<Semaphore>,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            idle: Vec::new(),
            shared: Vec::new(),
            dialling: Arc::new(Semaphore::new(1)),
        }
    }
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<Outgoing>,
    since: Instant,
    room: Option<Arc<Room>>,
}

#[derive(Clone, Debug)]
struct Shared {
    sender: http2::SendRequest<Outgoing>,
    streams: Arc<Streams>,
    since: Instant,
}

/// Streams of one HTTP/2 connection.
#[derive(Debug)]
struct Streams {
    open: AtomicUsize,
    /// What the peer allows, once it has said so.
    limit: AtomicUsize,
    /// The peer has answered, so it has said so. Until then h2 itself holds back all streams but one.
    is_settled: AtomicBool,
}

impl Streams {
    fn limit(&self) -> usize {
        if self.is_settled.load(Ordering::Relaxed) {
            self.limit.load(Ordering::Relaxed)
        } else {
            UNSETTLED_STREAMS
        }
    }
}

impl Shared {
    /// Takes a stream, if the peer allows one more.
    fn lease(&self) -> Option<Lease> {
        if self.sender.is_closed() {
            return None;
        }
        if self.streams.open.load(Ordering::Relaxed) >= self.streams.limit() {
            return None;
        }
        self.streams.open.fetch_add(1, Ordering::Relaxed);
        Some(Lease::Http2 {
            sender: self.sender.clone(),
            stream: Stream(Arc::clone(&self.streams)),
        })
    }
}

/// One stream under way.
#[derive(Debug)]
pub(crate) struct Stream(Arc<Streams>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right to send one request.
#[derive(Debug)]
pub(crate) enum Lease {
    /// A whole HTTP/1.1 connection.
    Http1 {
        /// Goes back to the pool when the response has ended.
        sender: http1::SendRequest<Outgoing>,
        /// Where it belongs.
        key: Key,
        /// What its place is in, where connections are limited.
        room: Option<Arc<Room>>,
    },
    /// A stream of an HTTP/2 connection.
    Http2 {
        /// The connection.
        sender: http2::SendRequest<Outgoing>,
        /// Counts the stream.
        stream: Stream,
    },
}

impl Lease {
    /// Sends a request; gives it back if not a byte of it was sent.
    pub(crate) async fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Outgoing>>> {
        match self {
            Self::Http1 { sender, .. } => sender.try_send_request(request).await,
            Self::Http2 { sender, stream } => {
                let response = sender.try_send_request(request).await;
                if response.is_ok() {
                    stream.0.is_settled.store(true, Ordering::Relaxed);
                }
                response
            }
        }
    }
}

impl Pool {
    fn entries(&self) -> MutexGuard<'_, Table<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that is ready for an HTTP/1.1 request, if there is one: the one that was used last.
    fn take_idle(&self, worker: &Worker, key: &Key) -> Option<Lease> {
        let mut entries = self.entries();
        let idle = &mut entries.get_mut(key)?.idle;
        while let Some(Idle { sender, room, .. }) = idle.pop() {
            worker.metrics.pool_idle.dec();
            if sender.is_ready() {
                return Some(Lease::Http1 {
                    sender,
                    key: *key,
                    room,
                });
            }
        }
        None
    }

    fn take_shared(&self, key: &Key) -> Option<Lease> {
        let entries = self.entries();
        entries.get(key)?.shared.iter().find_map(Shared::lease)
    }

    /// Takes a connection back when its response has ended.
    pub(crate) fn give_back(&self, worker: &Worker, lease: Lease) {
        let Lease::Http1 { sender, key, room } = lease else {
            return;
        };
        if sender.is_closed() || is_wanted(room.as_ref()) {
            return;
        }
        let mut entries = self.entries();
        let idle = &mut entries.entry(key).or_default().idle;
        if idle.len() < worker.config.limits.idle_connections {
            worker.metrics.pool_idle.inc();
            idle.push(Idle {
                sender,
                since: Instant::now(),
                room,
            });
        }
    }

    /// Closes idle connections whose place somebody waits for.
    pub(crate) fn make_room(&self, worker: &Worker) {
        let mut dropped = 0_i64;
        for entry in self.entries().values_mut() {
            entry.idle.retain(|idle| {
                let is_dropped = is_wanted(idle.room.as_ref());
                dropped += i64::from(is_dropped);
                !is_dropped
            });
        }
        if dropped > 0 {
            worker.metrics.pool_idle.dec_by(dropped);
        }
    }

    /// Drops what was unused for too long, what is closed, and what leads to endpoints that are gone.
    pub(crate) fn sweep(&self, worker: &Worker, view: &View) {
        let patience = worker.config.timeouts.pool_idle;
        let mut dropped = 0_i64;
        self.entries().retain(|key, entry| {
            let is_known = view.has_endpoint(key.endpoint);
            entry.idle.retain(|idle| {
                let is_kept =
                    is_known && !idle.sender.is_closed() && idle.since.elapsed() < patience;
                dropped += i64::from(!is_kept);
                is_kept
            });
            entry.shared.retain_mut(|shared| {
                if shared.streams.open.load(Ordering::Relaxed) > 0 {
                    shared.since = Instant::now();
                }
                is_known && !shared.sender.is_closed() && shared.since.elapsed() < patience
            });
            !entry.idle.is_empty()
                || !entry.shared.is_empty()
                || Arc::strong_count(&entry.dialling) > 1
        });
        worker.metrics.pool_idle.dec_by(dropped);
    }
}

fn is_wanted(room: Option<&Arc<Room>>) -> bool {
    room.is_some_and(|room| room.is_wanted())
}

/// A connection that needs not be made.
pub(crate) fn at_hand(
    worker: &Worker,
    caller: &Caller,
    endpoint: &Endpoint,
    is_http2: bool,
) -> Option<Lease> {
    let key = Key::new(caller, endpoint);
    let lease = if is_http2 {
        worker.pool.take_shared(&key)
    } else {
        worker.pool.take_idle(worker, &key)
    };
    if lease.is_some() {
        worker.metrics.pool_reused.inc();
    }
    lease
}

/// The place of a connection that is to be made, where connections are limited; waits for one for as long as a
/// connection may take.
async fn place(worker: &Worker, room: Option<&Arc<Room>>) -> Result<Option<Place>, Error> {
    let Some(room) = room else { return Ok(None) };
    if let Some(place) = room.take() {
        return Ok(Some(place));
    }
    let waiting = async {
        let mut waiting = pin!(room.wait());
        // Counted as waiting from the first poll, so that what is idle goes.
        if let Poll::Ready(place) = poll_once(waiting.as_mut()).await {
            return place;
        }
        worker.pool.make_room(worker);
        waiting.await
    };
    let place = timeout(worker.config.timeouts.connect, waiting).await.ok();
    if place.is_none() {
        worker.metrics.overflow(Limit::Connections);
    }
    let refused = || Error::Overflow(Limit::Connections.as_str());
    place.map(Some).ok_or_else(refused)
}

/// Polls a future once, whatever comes of it.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// A connection on which one HTTP/1.1 request can be sent.
pub(crate) async fn http1(
    worker: &Arc<Worker>,
    caller: &Caller,
    port: &ServicePort,
    endpoint: &Endpoint,
) -> Result<Lease, Error> {
    let key = Key::new(caller, endpoint);
    if let Some(lease) = worker.pool.take_idle(worker, &key) {
        worker.metrics.pool_reused.inc();
        return Ok(lease);
    }
    let room = port.policy.room();
    let place = place(worker, room).await?;
    let stream = connect::dial(worker, caller, port, endpoint).await?;
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(worker.config.limits.header_bytes.max(MIN_BUFFER))
        .max_header_size(worker.config.limits.header_bytes)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|source| Error::Handshake {
            endpoint: endpoint.address,
            source,
        })?;
    worker.spawn(async move {
        // How it ended the requests on it have been told.
        drop(connection.with_upgrades().await);
        drop(place);
    });
    Ok(Lease::Http1 {
        sender,
        key,
        room: room.map(Arc::clone),
    })
}

/// A stream on an HTTP/2 connection, within what the peer allows.
pub(crate) async fn http2(
    worker: &Arc<Worker>,
    caller: &Caller,
    port: &ServicePort,
    endpoint: &Endpoint,
) -> Result<Lease, Error> {
    let key = Key::new(caller, endpoint);
    if let Some(lease) = worker.pool.take_shared(&key) {
        worker.metrics.pool_reused.inc();
        return Ok(lease);
    }
    let dialling = Arc::clone(&worker.pool.entries().entry(key).or_default().dialling);
    // Never closed; whoever waits does so for one connect, which has a deadline.
    let _turn = dialling.acquire().await.ok().ok_or(Error::Draining)?;
    if let Some(lease) = worker.pool.take_shared(&key) {
        worker.metrics.pool_reused.inc();
        return Ok(lease);
    }
    let is_full = worker
        .pool
        .entries()
        .get(&key)
        .is_some_and(|entry| entry.shared.len() >= MAX_HTTP2);
    if is_full {
        return Err(Error::ConnectionLimit);
    }
    let place = place(worker, port.policy.room()).await?;
    let stream = connect::dial(worker, caller, port, endpoint).await?;
    let shared = handshake2(worker, endpoint, stream, place).await?;
    let lease = shared.lease().ok_or(Error::NoEndpoint)?;
    worker
        .pool
        .entries()
        .entry(key)
        .or_default()
        .shared
        .push(shared);
    Ok(lease)
}

async fn handshake2(
    worker: &Arc<Worker>,
    endpoint: &Endpoint,
    stream: TcpStream,
    place: Option<Place>,
) -> Result<Shared, Error> {
    let (sender, connection) = http2::Builder::new(worker.executor())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(1)
        .max_header_list_size(u32::try_from(worker.config.limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_local_error_reset_streams(1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|source| Error::Handshake {
            endpoint: endpoint.address,
            source,
        })?;
    let streams = Arc::new(Streams {
        open: AtomicUsize::new(0),
        limit: AtomicUsize::new(1),
        is_settled: AtomicBool::new(false),
    });
    let published = Arc::clone(&streams);
    worker.spawn(async move {
        let mut connection = pin!(connection);
        // The limit of the peer is known to the driver only, and changes with its SETTINGS.
        drop(
            poll_fn(|cx| {
                let result = Future::poll(Pin::as_mut(&mut connection), cx);
                let limit = connection.current_max_send_streams();
                published.limit.store(limit, Ordering::Relaxed);
                result
            })
            .await,
        );
        drop(place);
    });
    Ok(Shared {
        sender,
        streams,
        since: Instant::now(),
    })
}

/// Streams that may wait on a fresh connection until the peer has said how many it allows.
const UNSETTLED_STREAMS: usize = 100;
/// How often a busy HTTP/2 connection is asked whether its peer is there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long the peer may take to answer.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
