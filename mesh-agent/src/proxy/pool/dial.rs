//! Takes connections out of the pool, or makes them.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use super::{Key, Lease, Shared};
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
    let place = place(worker, port.policy.room()).await?.map(Arc::new);
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
    let asked_ns = clock::monotonic_ns();
    // Never closed; whoever waits does so for one connection to be made, which has a deadline.
    let _turn = dialling.turn.acquire().await.ok().ok_or(Error::Draining)?;
    if let Some(lease) = worker.pool.take_shared(&key) {
        worker.metrics.pool_reused.inc();
        return Ok(lease);
    }
    if dialling.timed_out_ns.load(Ordering::Relaxed) >= asked_ns {
        // It has waited as long as the one before it, and would wait as long again.
        return Err(Error::ConnectTimeout(endpoint.address));
    }
    let result = open(worker, caller, port, endpoint, key).await;
    if let Err(Error::ConnectTimeout(_)) = result {
        let now_ns = clock::monotonic_ns();
        dialling.timed_out_ns.store(now_ns, Ordering::Relaxed);
    }
    result
}

/// A stream on a connection that is made, and shared from then on.
async fn open(
    worker: &Arc<Worker>,
    caller: &Caller,
    port: &ServicePort,
    endpoint: &Endpoint,
    key: Key,
) -> Result<Lease, Error> {
    let is_full = worker.pool.entries().get_mut(&key).is_some_and(|entry| {
        entry.shared.retain(|shared| !shared.link.is_closed());
        entry.shared.len() >= MAX_HTTP2
    });
    if is_full {
        return Err(Error::ConnectionLimit);
    }
    let place = place(worker, port.policy.room()).await?;
    let stream = connect::dial(worker, caller, port, endpoint).await?;
    // An endpoint that is too busy to read at once is not one that is gone.
    let patience = worker.config.timeouts.header;
    let failed = |source: h2::Error| Error::Handshake {
        endpoint: endpoint.address,
        source: source.into(),
    };
    let link = timeout(patience, http2::open(worker, stream, place))
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
        });
    Ok(lease)
}
