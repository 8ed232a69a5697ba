//! HTTP connections to endpoints, kept by one worker, keyed by endpoint and caller.
//!
//! The lock is never contended (one thread) and never held across an await; it only makes the pool `Sync`.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{Either, FutureExt as _, TryFutureExt as _};
use http::{Request, Response};
use hyper::client::conn::http1::SendRequest;
use mesh_common::workload::Caller as Identity;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::caller::Caller;
use super::error::Cause;
use super::http::Connection;
use super::http::body::Outgoing;
use super::http::interim::Said;
use super::http::received::Received;
use super::http2::{Link, Stream};
use super::policy::breaker::Place;
use super::view::{Endpoint, Table, View};
use super::worker::Worker;

mod dial;
mod open;

pub(crate) use dial::{Queued, Wanted, at_hand, crowded, http1, http2};

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
    dialling: Arc<Dialling>,
}

/// One connection of HTTP/2 is dialled at a time; all who want one wait for it and share it.
#[derive(Debug)]
struct Dialling {
    turn: Arc<Semaphore>,
    /// There is a connection, or a stream of one is free where there may be no further connection.
    opened: Arc<Notify>,
    /// When it last took longer than it may; zero: never.
    timed_out_ns: AtomicU64,
    /// Connections of HTTP/1 that are still dialled though who wanted them is gone.
    outlived: AtomicUsize,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            idle: Vec::new(),
            shared: Vec::new(),
            dialling: Arc::new(Dialling {
                turn: Arc::new(Semaphore::new(1)),
                opened: Arc::default(),
                timed_out_ns: AtomicU64::new(0),
                outlived: AtomicUsize::new(0),
            }),
        }
    }
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Outgoing>,
    key: Arc<Key>,
    since: Instant,
    place: Option<Arc<Place>>,
}

#[derive(Debug)]
struct Shared {
    link: Link,
    since: Instant,
    place: Option<Arc<Place>>,
}

/// The right to send one request.
#[derive(Debug)]
pub(crate) enum Lease {
    /// A whole HTTP/1.1 connection.
    Http1 {
        /// Goes back to the pool when the response has ended.
        sender: SendRequest<Outgoing>,
        /// Where it belongs.
        key: Arc<Key>,
        /// Its place, where connections are limited; also of what the connection has become.
        place: Option<Arc<Place>>,
    },
    /// A stream of an HTTP/2 connection.
    Http2(Stream),
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) struct Unanswered {
    /// What went wrong.
    pub(crate) source: Cause,
    /// The request, if not a byte of it was sent.
    pub(crate) unsent: Option<Box<Request<Outgoing>>>,
}

impl Lease {
    /// Sends a request; gives it back if not a byte of it was sent. `client` hears what is said before the answer, except one
    /// of HTTP/1.1 by an endpoint of HTTP/1.1: that is written to its stream at once.
    pub(crate) fn send(
        &mut self,
        worker: &Arc<Worker>,
        mut request: Box<Request<Outgoing>>,
        client: Option<&Arc<Connection>>,
    ) -> impl Future<Output = Result<Response<Received>, Unanswered>> + use<> {
        // An async block keeps what it awaits twice.
        match self {
            Self::Http1 { sender, .. } => {
                let client = client.filter(|client| client.is_http2);
                let listening =
                    client.map(|client| (Said::before(&mut request), Arc::clone(client)));
                let sending = sender.try_send_request(*request);
                let sending = match listening {
                    // Rare and large.
                    Some((said, client)) => {
                        Either::Left(Box::pin(async move { said.until(sending, &client).await }))
                    }
                    None => Either::Right(sending),
                };
                Either::Left(sending.map(|result| match result {
                    Ok(response) => Ok(response.map(Received::Hyper)),
                    Err(mut error) => Err(Unanswered {
                        unsent: error.take_message().map(Box::new),
                        source: error.into_error().into(),
                    }),
                }))
            }
            Self::Http2(stream) => {
                let sending = stream.send(worker, request, client);
                Either::Right(sending.map_err(|error| Unanswered {
                    source: error.into(),
                    unsent: None,
                }))
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
        while let Some(idle) = idle.pop() {
            worker.metrics.pool_idle.dec();
            let Idle {
                sender, key, place, ..
            } = idle;
            if sender.is_ready() {
                return Some(Lease::Http1 { sender, key, place });
            }
        }
        None
    }

    fn take_shared(&self, key: &Key) -> Option<Lease> {
        let entries = self.entries();
        let mut links = entries.get(key)?.shared.iter();
        links
            .find_map(|shared| shared.link.stream())
            .map(Lease::Http2)
    }

    fn dialling(&self, key: Key) -> Arc<Dialling> {
        Arc::clone(&self.entries().entry(key).or_default().dialling)
    }

    /// Takes a connection back when its response has ended.
    pub(crate) fn give_back(&self, worker: &Worker, lease: Lease) {
        let Lease::Http1 { sender, key, place } = lease else {
            return;
        };
        if sender.is_closed() || is_wanted(place.as_ref()) {
            return;
        }
        let mut entries = self.entries();
        let idle = &mut entries.entry(*key).or_default().idle;
        if idle.len() < worker.config.limits.idle_connections {
            worker.metrics.pool_idle.inc();
            idle.push(Idle {
                sender,
                key,
                since: Instant::now(),
                place,
            });
        }
    }

    /// Closes idle connections whose place somebody waits for.
    pub(crate) fn make_room(&self, worker: &Worker) {
        let mut dropped = 0_i64;
        for entry in self.entries().values_mut() {
            entry.idle.retain(|idle| {
                let is_dropped = is_wanted(idle.place.as_ref());
                dropped += i64::from(is_dropped);
                !is_dropped
            });
            entry
                .shared
                .retain(|shared| shared.link.is_busy() || !is_wanted(shared.place.as_ref()));
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
                if shared.link.is_busy() {
                    shared.since = Instant::now();
                }
                is_known && !shared.link.is_closed() && shared.since.elapsed() < patience
            });
            !entry.idle.is_empty()
                || !entry.shared.is_empty()
                || Arc::strong_count(&entry.dialling) > 1
        });
        worker.metrics.pool_idle.dec_by(dropped);
    }
}

fn is_wanted(place: Option<&Arc<Place>>) -> bool {
    place.is_some_and(|place| place.is_wanted())
}
