//! Opaque connections: an endpoint is connected at once, and bytes go both ways.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval_at};

use super::access_log;
use super::caller::Caller;
use super::connect;
use super::error::Error;
use super::http::attempts;
use super::metrics::{Shaping, TcpSeries};
use super::outliers;
use super::passage::{Passage, Visit};
use super::policy::breaker::{self, Place};
use super::policy::limits::Limit;
use super::select::{self, Selection};
use super::streams::Routed;
use super::view::{Active, Endpoint, ServicePort};
use super::worker::Worker;
use crate::net::clock;
use crate::net::copy::{self, Counts, End};
use crate::net::pace::Paced;
use crate::net::socket;
use crate::traffic::breaker::Evidence;
use crate::traffic::retry::Outcome;
use crate::traffic::retry::budget::Extra;
use crate::traffic::route::stream::StreamRoute;

/// A connection to an endpoint.
#[derive(Debug)]
pub(crate) struct Dialled {
    /// The connection.
    pub(crate) stream: TcpStream,
    /// The service port that it is an endpoint of: the one wanted, or one that took over.
    pub(crate) port: Arc<ServicePort>,
    /// The endpoint, where it counts.
    pub(crate) active: Active,
    /// Endpoints tried.
    pub(crate) attempts: u32,
    /// Its place, where connections are limited.
    pub(crate) _place: Option<Place>,
}

/// Connects to an endpoint that takes the connection; where one refuses another is tried.
pub(crate) async fn dial(
    worker: &Worker,
    caller: &Caller,
    port: &Arc<ServicePort>,
) -> Result<Dialled, Error> {
    let passage = Passage::enter(worker, &port.policy, port)?;
    let place = match port.policy.room() {
        None => None,
        Some(room) => Some(room.take().ok_or_else(|| {
            let what = breaker::Limit::Connections;
            worker.metrics.overflow(what);
            Error::Overflow(what.as_str())
        })?),
    };
    let result = dial_some(worker, caller, port).await;
    passage.leave(worker, evidence(&result));
    result.map(|dialled| Dialled {
        _place: place,
        ..dialled
    })
}

async fn dial_some(
    worker: &Worker,
    caller: &Caller,
    port: &Arc<ServicePort>,
) -> Result<Dialled, Error> {
    let plan = attempts::plan(&port.policy);
    if let Some(spending) = &port.policy.extra.budget {
        spending.budget.request(clock::monotonic_ns());
    }
    let most = if plan.wants(Outcome::ConnectFailure, false) {
        plan.attempts
    } else {
        0
    };
    let mut selection = Selection::of_connection(Arc::clone(port), caller);
    let mut last = Error::NoEndpoint;
    for attempt in 0..=most {
        let active = match selection.next(worker, caller) {
            Ok(active) => active,
            Err(Error::NoEndpoint) => break,
            Err(error) => return Err(error),
        };
        if attempt > 0 {
            if !may_spend(worker, port) {
                break;
            }
            worker.metrics.retried(last.reason());
            let wait = plan.backoff.wait(attempt - 1, rand::random());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
        }
        match dial_one(worker, caller, selection.port(), active.endpoint()).await {
            Ok(stream) => {
                active.connected(clock::monotonic_ns());
                return Ok(Dialled {
                    stream,
                    port: Arc::clone(selection.port()),
                    active,
                    attempts: attempt + 1,
                    _place: None,
                });
            }
            Err(error) if error.is_retryable() || matches!(error, Error::BreakerOpen) => {
                selection.avoid(active.endpoint());
                last = error;
            }
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

async fn dial_one(
    worker: &Worker,
    caller: &Caller,
    port: &ServicePort,
    endpoint: &Endpoint,
) -> Result<TcpStream, Error> {
    let mut visit = Visit::enter(worker, &port.policy, port, endpoint)?;
    let result = connect::dial(worker, caller, port, endpoint).await;
    let evidence = evidence(&result);
    visit.leave(worker, endpoint, evidence);
    let outcome = match evidence {
        Evidence::Success => Outcome::CONNECTED,
        Evidence::Failure => Outcome::ConnectFailure,
        Evidence::Nothing => return result,
    };
    outliers::observe(worker, port, endpoint, outcome);
    result
}

fn evidence<T>(result: &Result<T, Error>) -> Evidence {
    match result {
        Ok(_) => Evidence::Success,
        Err(error) if error.blames_endpoint() => Evidence::Failure,
        Err(_) => Evidence::Nothing,
    }
}

/// Whether the budget, if there is one, has room for another attempt.
fn may_spend(worker: &Worker, port: &ServicePort) -> bool {
    let Some(spending) = &port.policy.extra.budget else {
        return true;
    };
    let is_within = spending.budget.take(Extra::Retry, clock::monotonic_ns());
    if !is_within {
        worker.metrics.retry_refused("budget");
    }
    is_within
}

/// Serves an opaque connection to its end. `dialled` is the endpoint's side, where detection has made it already.
pub(crate) async fn serve<S>(
    worker: &Worker,
    caller: &Caller,
    routed: &Routed,
    mut stream: S,
    dialled: Option<Dialled>,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let port = &routed.port;
    let counts = Counts::default();
    let mut record = Record::new(worker, caller, port, &counts);
    record.route = routed.route.as_deref();
    let dialled = match dialled {
        Some(dialled) => Ok(dialled),
        // Over before the first byte: the connection shall not carry its size along.
        None => Box::pin(dial(worker, caller, port)).await,
    };
    let mut dialled = match dialled {
        Ok(dialled) => dialled,
        Err(error) => {
            record.close(Some(&error));
            return Err(error);
        }
    };
    record.port = &dialled.port;
    record.endpoint = Some(dialled.active.endpoint());
    record.attempts = dialled.attempts;
    record.open();
    let result = match Meter::new(caller, routed) {
        None => copy(&mut record, &mut stream, &mut dialled.stream).await,
        Some(meter) => {
            let endpoint = &mut dialled.stream;
            // Rare and large.
            Box::pin(paced(&mut record, &mut stream, endpoint, &meter)).await
        }
    };
    if result.is_err() {
        // The endpoint learns that this was no orderly end. It is closing either way.
        drop(socket::reset_on_close(&dialled.stream));
    }
    record.close(result.as_ref().err());
    result
}

/// Ends a connection to `port` that goes nowhere.
pub(crate) fn refuse(
    worker: &Worker,
    caller: &Caller,
    port: &ServicePort,
    error: Error,
) -> Result<(), Error> {
    Record::new(worker, caller, port, &Counts::default()).close(Some(&error));
    Err(error)
}

/// Copies, both ways together no faster than the limits allow.
async fn paced<S>(
    record: &mut Record<'_>,
    stream: &mut S,
    endpoint: &mut TcpStream,
    meter: &Meter,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let metrics = &record.worker.metrics.shaping;
    let pace = |bytes: usize| meter.pace(metrics, bytes);
    let mut stream = Paced::new(stream, meter.piece, pace);
    let mut endpoint = Paced::new(endpoint, meter.piece, pace);
    copy(record, &mut stream, &mut endpoint).await
}

/// The limits of bytes of one connection. They are those that held when it began.
struct Meter {
    /// With the key of the connection.
    limits: Vec<(Arc<Limit>, u64)>,
    /// Bytes that are paced as one.
    piece: usize,
}

impl Meter {
    fn new(caller: &Caller, routed: &Routed) -> Option<Self> {
        let limits = || {
            let ports = routed.ports();
            ports.flat_map(|port| &port.policy.limits.bytes)
        };
        let piece = limits().map(|limit| limit.piece()).min()?;
        let limits = limits().map(|limit| (Arc::clone(limit), limit.key(caller, None)));
        Some(Self {
            limits: limits.collect(),
            piece,
        })
    }

    fn pace(&self, metrics: &Shaping, bytes: usize) -> Duration {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let mut longest = Duration::ZERO;
        for (limit, key) in &self.limits {
            let delay = limit.pace(*key, bytes);
            if !delay.is_zero() {
                metrics.limited(&limit.policy, "bytes", "delayed");
            }
            longest = longest.max(delay);
        }
        longest
    }
}

/// Copies until the end, and reports on the way what long connections have moved.
async fn copy<S, E>(record: &mut Record<'_>, stream: &mut S, endpoint: &mut E) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: AsyncRead + AsyncWrite + Unpin,
{
    let worker = record.worker;
    let idle = worker.config.timeouts.idle;
    let copying = copy::both_ways(stream, endpoint, idle, &record.caller.permit, record.counts);
    let mut copying = pin!(copying);
    let mut reports = interval_at(Instant::now() + REPORT, REPORT);
    loop {
        tokio::select! {
            end = copying.as_mut() => return match end {
                End::Finished => Ok(()),
                End::Idle => Err(Error::Idle),
                End::Left(error) => Err(Error::Downstream(error)),
                End::Right(error) => Err(Error::UpstreamIo(error)),
            },
            () = worker.closing.cancelled() => return Err(Error::Draining),
            _ = reports.tick() => record.report("-"),
        }
    }
}

/// How often the bytes of a connection that lives on are counted.
const REPORT: Duration = Duration::from_secs(15);

/// What is counted and logged of one connection.
struct Record<'a> {
    worker: &'a Worker,
    caller: &'a Caller,
    port: &'a ServicePort,
    route: Option<&'a StreamRoute>,
    endpoint: Option<&'a Arc<Endpoint>>,
    started: Instant,
    counts: &'a Counts,
    attempts: u32,
    is_open: bool,
    reported: (u64, u64),
}

impl<'a> Record<'a> {
    fn new(
        worker: &'a Worker,
        caller: &'a Caller,
        port: &'a ServicePort,
        counts: &'a Counts,
    ) -> Self {
        Self {
            worker,
            caller,
            port,
            route: None,
            endpoint: None,
            started: Instant::now(),
            counts,
            attempts: 0,
            is_open: false,
            reported: (0, 0),
        }
    }

    fn series(&self, flags: &'static str) -> Arc<TcpSeries> {
        let endpoint = self.endpoint.map(|endpoint| &**endpoint);
        let metrics = &self.worker.metrics;
        select::series(metrics, &self.caller.workload, self.port, endpoint).tcp(flags)
    }

    fn open(&mut self) {
        self.is_open = true;
        self.series("-").opened.inc();
    }

    /// Counts what has moved since the last report.
    fn report(&mut self, flags: &'static str) {
        let (received, sent) = self.counts.load();
        let series = self.series(flags);
        series.received.inc_by(received - self.reported.0);
        series.sent.inc_by(sent - self.reported.1);
        self.reported = (received, sent);
    }

    fn close(&mut self, error: Option<&Error>) {
        let flags = error.map_or("-", Error::flags);
        self.report(flags);
        let series = self.series(flags);
        if !self.is_open {
            series.opened.inc();
        }
        series.closed.inc();
        let endpoint = self.endpoint.map(|endpoint| &**endpoint);
        let (received, sent) = self.counts.load();
        if let Some(error) = error {
            self.worker.metrics.failed(error.reason());
        }
        if self.worker.config.access_log.is_enabled() {
            let line = access_log::Line {
                caller: self.caller,
                port: Some(self.port),
                endpoint,
                protocol: "tcp",
                head: None,
                route: self.route.map(|route| &*route.label),
                status: None,
                grpc_status: None,
                bytes_sent: received,
                bytes_received: sent,
                duration: self.started.elapsed(),
                attempts: self.attempts,
                flags,
                reason: error.map(Error::reason),
            };
            self.worker.config.access_log.write(line.to_json());
        }
    }
}
