//! Takes connections out of the pool, or makes them.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use futures_util::future::{Either, select};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Dialling, Key, Lease, Shared};
use crate::net::clock;
use crate::net::gather::Gathering;
use crate::proxy::caller::Caller;
use crate::proxy::connect;
use crate::proxy::error::Error;
use crate::proxy::http::MIN_BUFFER;
use crate::proxy::http2;
use crate::proxy::policy::breaker::{Limit, Place, Room};
use crate::proxy::view::{Endpoint, ServicePort};
use crate::proxy::worker::Worker;

/// Most HTTP/2 connections to one endpoint for one caller.
const MAX_HTTP2: usize = 32;

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

/// Whether a place for a connection is waited for: then the endpoint has not been asked, and is not to blame.
#[derive(Debug, Default)]
pub(crate) struct Queued(AtomicBool);

impl Queued {
    /// Whether it is so now, or was when the waiting was given up.
    pub(crate) fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Waits for a place, or for `other`, until `deadline`. Says so in `queued`.
async fn wait<T>(
    worker: &Worker,
    room: &Arc<Room>,
    other: impl Future<Output = T>,
    deadline: Instant,
    queued: &Queued,
) -> Result<Either<Place, T>, Error> {
    let waiting = async {
        let mut waiting = pin!(room.wait());
        // Counted as waiting from the first poll, so that what is idle goes.
        if let Poll::Ready(place) = poll_once(waiting.as_mut()).await {
            return Either::Left(place);
        }
        worker.pool.make_room(worker);
        match select(waiting, pin!(other)).await {
            Either::Left((place, _)) => Either::Left(place),
            Either::Right((other, _)) => Either::Right(other),
        }
    };
    queued.0.store(true, Ordering::Relaxed);
    let result = timeout_at(deadline, waiting).await.ok();
    queued.0.store(false, Ordering::Relaxed);
    result.ok_or_else(|| crowded(worker))
}

/// There was no place.
pub(crate) fn crowded(worker: &Worker) -> Error {
    let what = Limit::Connections;
    worker.metrics.overflow(what);
    Error::Overflow(what.as_str())
}

/// The place of a connection that is to be made, where connections are limited; waits for one for as long as a
/// connection may take.
async fn place(
    worker: &Worker,
    room: Option<&Arc<Room>>,
    queued: &Queued,
) -> Result<Option<Place>, Error> {
    let Some(room) = room else { return Ok(None) };
    if let Some(place) = room.take() {
        return Ok(Some(place));
    }
    let deadline = Instant::now() + worker.config.timeouts.connect;
    let nothing = pending::<Infallible>();
    let Either::Left(place) = wait(worker, room, nothing, deadline, queued).await?;
    Ok(Some(place))
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
    queued: &Queued,
) -> Result<Lease, Error> {
    let key = Key::new(caller, endpoint);
    if let Some(lease) = worker.pool.take_idle(worker, &key) {
        worker.metrics.pool_reused.inc();
        return Ok(lease);
    }
    let place = place(worker, port.policy.room(), queued).await?;
    let place = place.map(Arc::new);
    let stream = connect::dial(worker, caller, port, endpoint).await?;
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(worker.config.limits.header_bytes.max(MIN_BUFFER))
        .max_header_size(worker.config.limits.header_bytes)
        .handshake(TokioIo::new(Gathering(stream)))
        .await
        .map_err(|source| Error::Handshake {
            endpoint: endpoint.address,
            source: source.into(),
        })?;
    let held = place.clone();
    worker.spawn(async move {
        // How it ended the requests on it have been told.
        drop(connection.with_upgrades().await);
        drop(held);
    });
    let key = Arc::new(key);
    Ok(Lease::Http1 { sender, key, place })
}

/// A stream on an HTTP/2 connection, within what the peer allows. One dials with a place in hand, and the others wait for
/// what comes of it; for a place each waits on its own, until somebody has dialled.
pub(crate) async fn http2(
    worker: &Arc<Worker>,
    caller: &Caller,
    port: &ServicePort,
    endpoint: &Endpoint,
    queued: &Queued,
) -> Result<Lease, Error> {
    let key = Key::new(caller, endpoint);
    if let Some(lease) = at_hand(worker, caller, endpoint, true) {
        return Ok(lease);
    }
    let dialling = Arc::clone(&worker.pool.entries().entry(key).or_default().dialling);
    let room = port.policy.room();
    let asked_ns = clock::monotonic_ns();
    let deadline = Instant::now() + worker.config.timeouts.connect;
    let mut place = None;
    loop {
        // Never closed; whoever waits does so for one connection to be made, which has a deadline.
        let turn = dialling.turn.acquire().await.ok().ok_or(Error::Draining)?;
        if let Some(lease) = at_hand(worker, caller, endpoint, true) {
            return Ok(lease);
        }
        if dialling.timed_out_ns.load(Ordering::Relaxed) >= asked_ns {
            // It has waited as long as the one before it, and would wait as long again.
            return Err(Error::ConnectTimeout(endpoint.address));
        }
        place = place.or_else(|| room?.take());
        let (Some(room), None) = (room, &place) else {
            let result = open(worker, caller, port, endpoint, place).await;
            dialling.ended(&result);
            return result;
        };
        drop(turn);
        let opened = dialling.opened.notified();
        place = match wait(worker, room, opened, deadline, queued).await? {
            Either::Left(place) => Some(place),
            Either::Right(()) => None,
        };
    }
}

impl Dialling {
    /// Tells those who wait what came of it.
    fn ended(&self, result: &Result<Lease, Error>) {
        match result {
            Ok(_) => self.opened.notify_waiters(),
            Err(Error::ConnectTimeout(_)) => {
                let now_ns = clock::monotonic_ns();
                self.timed_out_ns.store(now_ns, Ordering::Relaxed);
            }
            Err(_) => {}
        }
    }
}

/// A stream on a connection that is made, and shared from then on.
async fn open(
    worker: &Arc<Worker>,
    caller: &Caller,
    port: &ServicePort,
    endpoint: &Endpoint,
    place: Option<Place>,
) -> Result<Lease, Error> {
    let key = Key::new(caller, endpoint);
    let is_full = worker.pool.entries().get_mut(&key).is_some_and(|entry| {
        entry.shared.retain(|shared| !shared.link.is_closed());
        entry.shared.len() >= MAX_HTTP2
    });
    if is_full {
        return Err(Error::ConnectionLimit);
    }
    let place = place.map(Arc::new);
    let stream = connect::dial(worker, caller, port, endpoint).await?;
    // An endpoint that is too busy to read at once is not one that is gone.
    let patience = worker.config.timeouts.header;
    let failed = |source: h2::Error| Error::Handshake {
        endpoint: endpoint.address,
        source: source.into(),
    };
    let link = timeout(patience, http2::open(worker, stream, place.clone()))
        .await
        .ok()
        .ok_or(Error::ConnectTimeout(endpoint.address))?
        .map_err(failed)?;
    // Unless it has been retired already, there is one.
    let lease = link.stream().map(Lease::Http2);
    let lease = lease.ok_or_else(|| failed(h2::Reason::REFUSED_STREAM.into()))?;
    worker
        .pool
        .entries()
        .entry(key)
        .or_default()
        .shared
        .push(Shared {
            link,
            since: Instant::now(),
            place,
        });
    Ok(lease)
}
