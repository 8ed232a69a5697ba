//! Makes connections to endpoints, though who wants one may not wait until it stands.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

use super::{Dialling, Key, Lease, Shared};
use crate::net::gather::Gathering;
use crate::proxy::connect::{self, Dial};
use crate::proxy::error::Error;
use crate::proxy::http::MIN_BUFFER;
use crate::proxy::http2;
use crate::proxy::policy::breaker::Place;
use crate::proxy::worker::Worker;

/// Most HTTP/2 connections to one endpoint for one caller.
const MAX_HTTP2: usize = 32;

/// Makes a connection, with `tell` for who waits for it. Dialling may take longer than a request has time: then it goes on for
/// the next one, if it may, as long as nobody wants its place. Nothing, where it was given up.
pub(super) async fn see_through<T, G>(
    opening: impl Future<Output = T>,
    tell: &mut oneshot::Sender<T>,
    place: Option<&Place>,
    may_outlive: impl FnOnce() -> Option<G>,
) -> Option<T> {
    let mut opening = pin!(opening);
    tokio::select! {
        biased;
        result = opening.as_mut() => return Some(result),
        () = tell.closed() => {}
    }
    let _outliving = may_outlive()?;
    let wanted = async {
        match place {
            Some(place) => place.wanted().await,
            None => pending().await,
        }
    };
    tokio::select! {
        biased;
        result = opening => Some(result),
        () = wanted => None,
    }
}

impl Dialling {
    /// One more that is dialled on though nobody waits for it, unless there are so many.
    pub(super) fn outlive(&self, most: usize) -> Option<Outliving<'_>> {
        let outliving = Outliving::new(self);
        (self.outlived.load(Ordering::Relaxed) <= most).then_some(outliving)
    }
}

/// Counted while it lives.
pub(super) struct Outliving<'a>(&'a Dialling);

impl<'a> Outliving<'a> {
    fn new(dialling: &'a Dialling) -> Self {
        dialling.outlived.fetch_add(1, Ordering::Relaxed);
        Self(dialling)
    }
}

impl Drop for Outliving<'_> {
    fn drop(&mut self) {
        self.0.outlived.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that is made for one request of HTTP/1.1 at a time.
pub(super) async fn open_http1(
    worker: &Worker,
    key: Key,
    dial: Dial,
    place: Option<Arc<Place>>,
) -> Result<Lease, Error> {
    let stream = connect::dial(worker, &dial).await?;
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(worker.config.limits.header_bytes.max(MIN_BUFFER))
        .max_header_size(worker.config.limits.header_bytes)
        .handshake(TokioIo::new(Gathering(stream)))
        .await
        .map_err(|source| Error::Handshake {
            endpoint: dial.endpoint.address,
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

/// A stream on a connection that is made, and shared from then on.
pub(super) async fn open_http2(
    worker: &Worker,
    key: Key,
    dial: Dial,
    place: Option<Arc<Place>>,
    freed: Option<Arc<Notify>>,
) -> Result<Lease, Error> {
    let is_full = worker.pool.entries().get_mut(&key).is_some_and(|entry| {
        entry.shared.retain(|shared| !shared.link.is_closed());
        entry.shared.len() >= MAX_HTTP2
    });
    if is_full {
        return Err(Error::ConnectionLimit);
    }
    let failed = |source: h2::Error| Error::Handshake {
        endpoint: dial.endpoint.address,
        source: source.into(),
    };
    let opening = async {
        let stream = connect::reach(worker, &dial).await?;
        let patience = worker.config.timeouts.header;
        let opened = timeout(patience, http2::open(worker, stream, place.clone(), freed)).await;
        opened.ok().transpose().map_err(failed)
    };
    let opened = opening.await;
    connect::judge(worker, &dial.endpoint, &opened);
    // An endpoint that is too busy to read at once is not one that is gone.
    let link = opened?.ok_or(Error::ConnectTimeout(dial.endpoint.address))?;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::super::Entry;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_connections_are_dialled_on_that_nobody_waits_for() {
        let Entry { dialling, .. } = Entry::default();
        let make = async |is_awaited: bool, most: usize| {
            let (mut tell, told) = oneshot::channel();
            let _told = is_awaited.then_some(told);
            let opening = sleep(Duration::from_secs(1));
            let made = see_through(opening, &mut tell, None, || dialling.outlive(most)).await;
            made.is_some()
        };
        assert!(make(true, 0).await, "who waits gets it");
        assert!(!make(false, 0).await);
        for _ in 0..2 {
            let made = tokio::join!(make(false, 1), make(false, 1), make(true, 1));
            assert_eq!(made, (true, false, true));
        }
    }
}
