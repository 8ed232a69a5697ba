//! HTTP connections to endpoints, kept by one worker, keyed by endpoint and caller.
//!
//! The lock is never contended (one thread) and never held across an await; it only makes the pool `Sync`.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::Either;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{self, TrySendError};
use mesh_common::workload::Caller as Identity;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::caller::Caller;
use super::http::body::Outgoing;
use super::policy::breaker::Room;
use super::view::{Endpoint, Table, View};
use super::worker::Worker;

mod dial;

pub(crate) use dial::{at_hand, http1, http2};

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
    sender: conn::http1::SendRequest<Outgoing>,
    since: Instant,
    room: Option<Arc<Room>>,
}

#[derive(Clone, Debug)]
struct Shared {
    sender: conn::http2::SendRequest<Outgoing>,
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
        sender: conn::http1::SendRequest<Outgoing>,
        /// Where it belongs.
        key: Key,
        /// What its place is in, where connections are limited.
        room: Option<Arc<Room>>,
    },
    /// A stream of an HTTP/2 connection.
    Http2 {
        /// The connection.
        sender: conn::http2::SendRequest<Outgoing>,
        /// Counts the stream.
        stream: Stream,
    },
}

impl Lease {
    /// Sends a request; gives it back if not a byte of it was sent.
    pub(crate) fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Outgoing>>>> + use<>
    {
        match self {
            Self::Http1 { sender, .. } => Either::Left(sender.try_send_request(request)),
            Self::Http2 { sender, .. } => Either::Right(sender.try_send_request(request)),
        }
    }

    /// There was an answer.
    pub(crate) fn has_answered(&self) {
        if let Self::Http2 { stream, .. } = self {
            stream.0.is_settled.store(true, Ordering::Relaxed);
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

/// Streams that may wait on a fresh connection until the peer has said how many it allows.
const UNSETTLED_STREAMS: usize = 100;
