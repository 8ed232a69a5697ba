//! Serves one HTTP connection of a client: hyper in, hyper out, each request balanced on its own.

pub(crate) mod admit;
pub(crate) mod attempts;
pub(crate) mod body;
pub(crate) mod exchange;
pub(crate) mod faults;
pub(crate) mod filters;
pub(crate) mod forward;
pub(crate) mod guarded;
pub(crate) mod headers;
pub(crate) mod interim;
pub(crate) mod mirror;
pub(crate) mod pulse;
pub(crate) mod reply;
pub(crate) mod routes;
pub(crate) mod silence;
pub(crate) mod upgrade;

use std::error::Error as _;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::caller::Caller;
use super::config::Timeouts;
use super::error::Error;
use super::worker::Worker;
use crate::traffic::admission::Lane;
use pulse::{Beating, Pulse, Verdict};

/// What one stream may hold in flight. Bounds the memory that a slow reader costs.
pub(crate) const STREAM_WINDOW: u32 = 512 * 1024;
/// What all streams of a connection may hold. Larger than one stream's window: else a reader that takes B before A
/// waits for ever. Much larger, because h2 ends a connection whose unread frames of a few bytes, each counted as 256,
/// exceed half of it.
pub(crate) const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Streams that a client may have open.
const MAX_STREAMS: u32 = 250;
/// Buffers set aside for a connection of HTTP/1.1 and its endpoint's.
const RESERVED_HTTP1: usize = 32 * 1024;
/// The same for HTTP/2.
const RESERVED_HTTP2: usize = 1024 * 1024;
/// How often a connection is looked at for time limits.
const LOOK: Duration = Duration::from_secs(2);

/// One HTTP connection of a client.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The worker that serves it.
    pub(crate) worker: Arc<Worker>,
    /// Who opened it.
    pub(crate) caller: Caller,
    /// What moves on it.
    pub(crate) pulse: Arc<Pulse>,
    /// Whether it is HTTP/2.
    pub(crate) is_http2: bool,
    /// Its workload's requests at this worker.
    pub(crate) lane: Arc<Lane>,
}

/// Serves a connection to its end.
pub(crate) async fn serve<S>(
    worker: Arc<Worker>,
    caller: Caller,
    stream: S,
    is_http2: bool,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let reserved = if is_http2 {
        RESERVED_HTTP2
    } else {
        RESERVED_HTTP1
    };
    caller.permit.reserve(reserved)?;
    let pulse = Arc::new(Pulse::new(timeouts(&worker, &caller), is_http2));
    let lane = worker.places.lane(caller.workload.number);
    let connection = Arc::new(Connection {
        lane,
        worker,
        caller,
        pulse: Arc::clone(&pulse),
        is_http2,
    });
    let io = TokioIo::new(Beating::new(stream, pulse));
    if is_http2 {
        serve_http2(connection, io).await;
    } else {
        serve_http1(connection, io).await;
    }
    Ok(())
}

/// A connection that is one too many closes when its client has been told so.
fn timeouts(worker: &Worker, caller: &Caller) -> Timeouts {
    let mut timeouts = worker.config.timeouts;
    if caller.is_turned_away {
        timeouts.keep_alive = Duration::ZERO;
    }
    timeouts
}

/// Drives a connection: to its end, to a time limit, or gracefully to the end of what runs when the proxy drains.
macro_rules! drive {
    ($connection:expr, $serving:expr) => {{
        let connection = $connection;
        let mut serving = pin!($serving);
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_draining = false;
        // Since when it is asked to end.
        let mut ending: Option<Instant> = None;
        loop {
            tokio::select! {
                result = serving.as_mut() => {
                    if let Err(error) = result {
                        ended(&connection.worker, &error);
                    }
                    break;
                }
                () = connection.worker.draining.cancelled(), if !is_draining => {
                    is_draining = true;
                    serving.as_mut().graceful_shutdown();
                }
                () = connection.worker.closing.cancelled() => break,
                _ = looks.tick() => {
                    let pulse = &connection.pulse;
                    let verdict = pulse.look();
                    let is_ending = is_draining || verdict == Verdict::Retire;
                    if verdict == Verdict::Overdue || (is_ending && pulse.is_untouched()) {
                        break;
                    }
                    if is_ending {
                        serving.as_mut().graceful_shutdown();
                        let patience = connection.worker.config.timeouts.header;
                        // A peer that does not answer the PING of a GOAWAY would keep it for ever.
                        if ending.get_or_insert_with(Instant::now).elapsed() > patience
                            && pulse.is_unoccupied()
                        {
                            break;
                        }
                    }
                }
            }
        }
    }};
}

async fn serve_http1<S>(connection: Arc<Connection>, io: TokioIo<Beating<S>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn({
        let connection = Arc::clone(&connection);
        // hyper keeps the place of a request for as long as the connection: a pointer, not the whole.
        move |request| Box::pin(forward::forward(Arc::clone(&connection), request))
    });
    let limits = &connection.worker.config.limits;
    let serving = http1::Builder::new()
        .half_close(true)
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes.max(MIN_BUFFER))
        .max_header_size(limits.header_bytes)
        .serve_connection(io, service)
        .with_upgrades();
    drive!(&connection, serving);
}

async fn serve_http2<S>(connection: Arc<Connection>, io: TokioIo<Beating<S>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn({
        let connection = Arc::clone(&connection);
        // A task is moved several times before it runs.
        move |request| Box::pin(forward::forward(Arc::clone(&connection), request))
    });
    let limits = &connection.worker.config.limits;
    let serving = http2::Builder::new(connection.worker.executor())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(1024)
        .serve_connection(io, service);
    drive!(&connection, serving);
}

/// What hyper and h2 refuse themselves is no request yet, and counted all the same.
fn ended(worker: &Worker, error: &hyper::Error) {
    tracing::debug!(%error, "connection of a client ended");
    let cause = error.source();
    let violation = cause.and_then(|cause| cause.downcast_ref::<h2::Error>());
    if error.is_parse() {
        worker.metrics.failed("bad-request");
    } else if violation.is_some_and(|error| error.is_go_away() && error.is_library()) {
        worker.metrics.failed("protocol-violation");
    }
}

/// hyper refuses smaller buffers.
pub(crate) const MIN_BUFFER: usize = 8192;
