//! Serves one HTTP connection of a client: each request is balanced on its own.

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
pub(crate) mod received;
pub(crate) mod reply;
pub(crate) mod routes;
pub(crate) mod silence;
pub(crate) mod upgrade;

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::caller::Caller;
use super::config::Timeouts;
use super::error::Error;
use super::http2::Serving;
use super::worker::Worker;
use crate::net::gather::Gathering;
use crate::net::peek::Prefixed;
use crate::net::seldom::{Bell, Either};
use crate::net::socket::{self, Watched};
use crate::net::stream;
use crate::traffic::admission::Lane;
use body::Reply;
use headers::LastHost;
use pulse::{Beating, Pulse, Verdict};
use received::Received;

/// Buffers set aside for a connection of HTTP/1.1 and its endpoint's.
const RESERVED_HTTP1: usize = 32 * 1024;
/// How often a connection is looked at for time limits.
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 2_000 });

/// The bytes of a client.
pub(crate) type Stream = Beating<Gathering<Prefixed<stream::Stream>>>;

impl Stream {
    fn socket(&self) -> &stream::Stream {
        self.get_ref().0.get_ref()
    }
}

/// One HTTP connection of a client.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The worker that serves it.
    pub(crate) worker: Arc<Worker>,
    /// Who opened it.
    pub(crate) caller: Box<Caller>,
    /// What moves on it.
    pub(crate) pulse: Arc<Pulse>,
    /// Whether it is HTTP/2.
    pub(crate) is_http2: bool,
    /// Its workload's requests at this worker.
    pub(crate) lane: Arc<Lane>,
    /// Whom its requests name.
    pub(crate) last_host: LastHost,
    /// Its socket, for as long as it is served.
    client: Watched,
    forwarded_for: OnceLock<Option<HeaderValue>>,
}

impl Connection {
    /// The caller's address for `x-forwarded-for`: written once for all requests.
    pub(crate) fn forwarded_for(&self) -> Option<&HeaderValue> {
        let write = || HeaderValue::try_from(self.caller.address()?.to_string()).ok();
        self.forwarded_for.get_or_init(write).as_ref()
    }

    /// An endpoint says this before the answer that the running task awaits.
    pub(crate) fn hear(&self, interim: &Response<()>) {
        if self.is_http2 {
            self.pulse.interim.hear(interim);
        } else {
            self.pulse.interim.add_now(interim);
        }
    }

    /// Looks at it for time limits, while it is served. Of HTTP/1 nothing is read while a request is under way, so that its
    /// client may go unseen; of HTTP/2 everything is.
    fn look(&self) -> Verdict {
        let pulse = &self.pulse;
        let verdict = pulse.look();
        let is_busy = !self.is_http2 && !pulse.is_unoccupied();
        if is_busy && pulse.is_unattended(self.client.has_finished(), LOOK) {
            return Verdict::Overdue;
        }
        verdict
    }
}

/// Buffers to be set aside for a connection before it is served.
pub(crate) const fn reserved(is_http2: bool) -> usize {
    if is_http2 {
        Serving::RESERVED
    } else {
        RESERVED_HTTP1
    }
}

/// Serves a connection to its end. Its buffers are set aside.
pub(crate) fn serve(
    worker: Arc<Worker>,
    caller: Box<Caller>,
    stream: Prefixed<stream::Stream>,
    is_http2: bool,
) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send>> {
    let pulse = Arc::new(Pulse::new(timeouts(&worker, &caller), is_http2));
    let lane = worker.places.lane(caller.workload.number);
    let connection = Arc::new(Connection {
        lane,
        worker,
        caller,
        pulse: Arc::clone(&pulse),
        is_http2,
        last_host: LastHost::default(),
        client: Watched::new(stream.get_ref()),
        forwarded_for: OnceLock::new(),
    });
    let stream = Beating::new(Gathering(stream), pulse);
    if is_http2 {
        Box::pin(serve_http2(connection, stream))
    } else {
        Box::pin(serve_http1(connection, stream))
    }
}

/// A connection that is one too many closes when its client has been told so.
fn timeouts(worker: &Worker, caller: &Caller) -> Timeouts {
    let mut timeouts = worker.config.timeouts;
    if caller.turned_away.is_some() {
        timeouts.keep_alive = Duration::ZERO;
    }
    timeouts
}

/// What concerns a whole connection.
enum Signal {
    /// The proxy drains.
    Drain,
    /// The proxy closes.
    Close,
    /// It is time for a look.
    Look,
}

async fn signal(worker: &Worker, looks: &mut Interval, is_draining: bool) -> Signal {
    tokio::select! {
        () = worker.draining.cancelled(), if !is_draining => Signal::Drain,
        () = worker.closing.cancelled() => Signal::Close,
        _ = looks.tick() => Signal::Look,
    }
}

/// How a connection has gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// It is over.
    Over,
    /// It has nothing to do.
    Resting,
}

/// When a connection is looked at.
fn looks() -> Interval {
    let mut looks = interval_at(Instant::now() + LOOK, LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// Drives a connection: to its end, to a time limit, gracefully to the end of what runs when the proxy drains, or until it
/// rests.
macro_rules! drive {
    ($connection:expr, $serving:expr, $ended:expr) => {{
        let connection = $connection;
        let mut serving = Pin::new($serving);
        let bell = Bell::default();
        let mut looks = looks();
        let mut is_draining = false;
        // Since when it is asked to end.
        let mut ending: Option<Instant> = None;
        loop {
            let signal = pin!(signal(&connection.worker, &mut looks, is_draining));
            match bell.first(serving.as_mut(), signal).await {
                Either::Often(result) => {
                    if let Err(error) = result {
                        $ended(&connection.worker, &error);
                    }
                    break Course::Over;
                }
                Either::Seldom(Signal::Drain) => {
                    is_draining = true;
                    serving.as_mut().graceful_shutdown();
                }
                Either::Seldom(Signal::Close) => break Course::Over,
                Either::Seldom(Signal::Look) => {
                    let pulse = &connection.pulse;
                    let verdict = connection.look();
                    let is_ending = is_draining || verdict == Verdict::Retire;
                    if verdict == Verdict::Overdue || (is_ending && pulse.is_untouched()) {
                        break Course::Over;
                    }
                    if is_ending {
                        serving.as_mut().graceful_shutdown();
                        let since = *ending.get_or_insert_with(Instant::now);
                        if pulse.is_forsaken(since) {
                            break Course::Over;
                        }
                    } else if verdict == Verdict::Resting {
                        break Course::Resting;
                    }
                }
            }
        }
    }};
}

/// Serves requests, and rests where none come: hyper keeps 16 KiB for a connection that has nothing to say.
async fn serve_http1(connection: Arc<Connection>, mut stream: Stream) -> Result<(), Error> {
    loop {
        let mut serving = Box::new(begin_http1(&connection, stream));
        if Box::pin(async { drive!(&connection, &mut *serving, ended) }).await == Course::Over {
            if connection.pulse.answer.is_cut_short()
                && let Some(parts) = serving.into_parts()
            {
                // An end in good order would make the part look like the whole.
                drop(socket::reset_on_close(parts.io.inner().socket()));
            }
            return Ok(());
        }
        let Some(parts) = serving.into_parts() else {
            return Ok(());
        };
        stream = parts.io.into_inner();
        stream.get_mut().0.put_back(parts.read_buf);
        if rest(&connection, &stream).await == Course::Over {
            return Ok(());
        }
    }
}

/// Waits for more of a connection that rests.
async fn rest(connection: &Connection, stream: &Stream) -> Course {
    let mut looks = looks();
    loop {
        tokio::select! {
            // What is wrong with it is found when it is read.
            _ = stream.get_ref().0.readable() => return Course::Resting,
            signal = signal(&connection.worker, &mut looks, false) => {
                if !matches!(signal, Signal::Look) || connection.pulse.look() != Verdict::Resting {
                    return Course::Over;
                }
            }
        }
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Reply>, Infallible>> + Send>>;

fn begin_http1(
    connection: &Arc<Connection>,
    stream: Stream,
) -> http1::UpgradeableConnection<
    TokioIo<Stream>,
    impl HttpService<Incoming, ResBody = Reply, Error = Infallible, Future = Answering> + Unpin + use<>,
> {
    let service = service_fn({
        let connection = Arc::clone(connection);
        // hyper keeps the place of a request for as long as the connection: a pointer, not the whole.
        move |mut request: Request<Incoming>| -> Answering {
            let client = upgrade::End::Upgrade(hyper::upgrade::on(&mut request));
            let (head, body) = request.into_parts();
            let coming = (head, Received::Hyper(body));
            let answer = forward::forward(Arc::clone(&connection), coming, Some(client));
            Box::pin(answer.map(Ok))
        }
    });
    let limits = &connection.worker.config.limits;
    http1::Builder::new()
        .half_close(true)
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes.max(MIN_BUFFER))
        .max_header_size(limits.header_bytes)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
}

async fn serve_http2(connection: Arc<Connection>, stream: Stream) -> Result<(), Error> {
    let mut serving = Serving::new(Arc::clone(&connection), stream);
    drive!(&connection, &mut serving, ended_http2);
    Ok(())
}

/// What hyper refuses itself is no request yet, and counted all the same.
fn ended(worker: &Worker, error: &hyper::Error) {
    tracing::debug!(%error, "connection of a client ended");
    if error.is_parse() {
        worker.metrics.failed("bad-request");
    }
}

/// What h2 refuses itself, the same.
fn ended_http2(worker: &Worker, error: &h2::Error) {
    tracing::debug!(%error, "connection of a client ended");
    if error.is_go_away() && error.is_library() {
        worker.metrics.failed("protocol-violation");
    }
}

/// hyper refuses smaller buffers.
pub(crate) const MIN_BUFFER: usize = 8192;
