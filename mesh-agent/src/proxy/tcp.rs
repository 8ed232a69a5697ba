//! Opaque connections: an endpoint is connected at once, and bytes go both ways.

mod record;

use std::borrow::Borrow;
use std::mem;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::budget;
use super::caller::Caller;
use super::connect::{self, Dial};
use super::error::Error;
use super::http::{admit, attempts};
use super::metrics::Shaping;
use super::outliers;
use super::passage::{self, Passage, Visit};
use super::policy::Policy;
use super::policy::breaker::{Guard, Place};
use super::policy::limits::Limit;
use super::pool;
use super::select::Selection;
use super::streams::Routed;
use super::view::{Active, Endpoint, ServicePort};
use super::worker::Worker;
use crate::net::clock;
use crate::net::copy::{self, Counts, End, Watch};
use crate::net::pace::Paced;
use crate::net::peek::Prefixed;
use crate::net::socket;
use crate::net::stream::Stream;
use crate::traffic::breaker::Evidence;
use crate::traffic::retry::Outcome;
use record::Record;

/// A connection to an endpoint.
#[derive(Debug)]
pub(crate) struct Dialled {
    /// The connection.
    pub(crate) stream: Stream,
    /// The service port that it is an endpoint of: the one wanted, or one that took over.
    pub(crate) port: Arc<ServicePort>,
    /// The endpoint, where it counts.
    pub(crate) active: Active,
    /// Endpoints tried.
    pub(crate) attempts: u32,
    /// Its places, where connections are limited.
    pub(crate) places: Vec<Place>,
}

/// Connects to an endpoint of `port` that takes the connection; where one refuses another is tried as `policy` says, that of
/// the service that was dialled. Its guards hold beside those of `port`.
pub(crate) async fn dial(
    worker: &Worker,
    caller: &Caller,
    policy: &Policy,
    port: &Arc<ServicePort>,
) -> Result<Dialled, Error> {
    let mut passed = Passed::enter(worker, passage::guards(policy, port))?;
    let result = dial_some(worker, caller, (policy, port), &mut passed).await;
    let Passed {
        passage,
        places,
        asked,
        ..
    } = passed;
    passage.leave(worker, asked, evidence(&result));
    result.map(|dialled| Dialled { places, ..dialled })
}

/// What a connection has passed.
struct Passed {
    passage: Passage,
    places: Vec<Place>,
    /// How long it is to wait before it goes on.
    wait: Duration,
    /// The number of the port whose endpoint was asked last.
    asked: Option<u32>,
}

impl Passed {
    /// Passes every guard, or is refused by one.
    fn enter(
        worker: &Worker,
        guards: impl Iterator<Item = impl Borrow<Arc<Guard>>> + Clone,
    ) -> Result<Self, Error> {
        let passage = Passage::enter(worker, guards.clone())?;
        let mut places = Vec::new();
        for guard in guards {
            if let Some(room) = guard.borrow().room() {
                places.push(room.take().ok_or_else(|| pool::crowded(worker))?);
            }
        }
        Ok(Self {
            passage,
            places,
            wait: Duration::ZERO,
            asked: None,
        })
    }

    /// Passes what a service has of its own that takes over for the one of `wanted`, or nothing of it.
    fn take_over(
        &mut self,
        (worker, caller): (&Worker, &Caller),
        policy: &Policy,
        (wanted, port): (&ServicePort, &ServicePort),
    ) -> Result<(), Error> {
        let beyond = passage::guards_beyond(policy, wanted, port);
        let Self {
            passage, places, ..
        } = Self::enter(worker, beyond)?;
        let wait = admit::substituted(worker, caller, policy, (wanted, port))?;
        self.passage.join(passage, port);
        self.places.extend(places);
        self.wait = self.wait.max(wait);
        Ok(())
    }
}

async fn dial_some(
    worker: &Worker,
    caller: &Caller,
    (policy, port): (&Policy, &Arc<ServicePort>),
    passed: &mut Passed,
) -> Result<Dialled, Error> {
    let plan = attempts::plan(policy);
    let most = if plan.wants(Outcome::ConnectFailure, false) {
        plan.attempts
    } else {
        0
    };
    let mut selection = Selection::of_connection(Arc::clone(port), caller);
    let mut failed: Option<(Arc<Endpoint>, Error)> = None;
    for attempt in 0..=most {
        let enter =
            |wanted: &_, port: &_| passed.take_over((worker, caller), policy, (wanted, port));
        let mut active = match selection.next_unbroken(worker, caller, policy, enter) {
            Ok(active) => active,
            Err(error) if attempt > 0 && error.is_for_want_of_endpoints() => break,
            Err(error) => return Err(error),
        };
        let endpoint = Arc::clone(active.endpoint());
        let mut wait = mem::take(&mut passed.wait);
        if let Some((before, error)) = &failed {
            if !budget::may_connect(worker, (policy, port), before, &endpoint) {
                break;
            }
            worker.metrics.retried(error.reason());
            wait = wait.max(plan.backoff.wait(attempt - 1, rand::random()));
        } else {
            budget::of(policy, port).request(active.started_ns());
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
            active.restart(clock::monotonic_ns());
        }
        selection.begin(&worker.metrics);
        passed.asked = Some(selection.port().number);
        let route = (policy, &**selection.port());
        match dial_one(worker, caller, route, &endpoint).await {
            Ok(stream) => {
                active.connected(clock::monotonic_ns());
                return Ok(Dialled {
                    stream,
                    port: Arc::clone(selection.port()),
                    active,
                    attempts: attempt + 1,
                    places: Vec::new(),
                });
            }
            Err(error) if error.is_retryable() || matches!(error, Error::BreakerOpen) => {
                selection.avoid(&endpoint);
                failed = Some((endpoint, error));
            }
            Err(error) => return Err(error),
        }
    }
    Err(failed.map_or(Error::NoEndpoint, |(_, error)| error))
}

async fn dial_one(
    worker: &Worker,
    caller: &Caller,
    (policy, port): (&Policy, &ServicePort),
    endpoint: &Arc<Endpoint>,
) -> Result<Stream, Error> {
    let mut visit = Visit::enter(worker, policy, port, endpoint)?;
    let result = connect::dial(worker, &Dial::new(caller, port, endpoint)).await;
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

/// An opaque connection that is about to carry bytes.
#[derive(Debug)]
pub(crate) struct Opened {
    dialled: Dialled,
    started: Instant,
}

/// Connects to an endpoint, where detection has not done so already. What fails is counted and logged.
pub(crate) async fn open(
    worker: &Worker,
    caller: &Caller,
    routed: &Routed,
    dialled: Option<Dialled>,
) -> Result<Opened, Error> {
    let started = Instant::now();
    // Each service on the way counts its connections.
    let admitted = admit::routed(worker, caller, routed.asked(), &routed.port).await;
    let dialled = match (admitted, dialled) {
        (Err(error), _) => Err(error),
        (Ok(()), Some(dialled)) => Ok(dialled),
        (Ok(()), None) => dial(worker, caller, &routed.asked().policy, &routed.port).await,
    };
    match dialled {
        Ok(dialled) => Ok(Opened { dialled, started }),
        Err(error) => {
            let counts = Counts::default();
            let mut record = Record::new(worker, caller, &routed.port, &counts);
            record.route = routed.route.as_deref();
            record.started = started;
            record.close(Some(&error));
            Err(error)
        }
    }
}

/// Serves an opaque connection to its end. No async function: that would keep twice what it is given.
pub(crate) fn serve<S>(
    worker: Arc<Worker>,
    caller: Box<Caller>,
    routed: Routed,
    mut stream: Prefixed<S>,
    opened: Opened,
) -> impl Future<Output = Result<(), Error>> + Send
where
    S: AsyncRead + AsyncWrite + AsFd + Unpin + Send,
{
    let Opened { dialled, started } = opened;
    let Dialled {
        stream: mut endpoint,
        port,
        active,
        attempts,
        places,
    } = dialled;
    async move {
        let counts = Counts::default();
        let mut record = Record::new(&worker, &caller, &port, &counts);
        record.route = routed.route.as_deref();
        record.started = started;
        record.endpoint = Some(active.endpoint());
        record.attempts = attempts;
        record.open();
        // In a box as most connections have none.
        let meter = Meter::new(&caller, &routed).map(Box::new);
        let result = match &meter {
            None => copy(&mut record, &mut stream, &mut endpoint).await,
            // Rare and large.
            Some(meter) => Box::pin(paced(&mut record, &mut stream, &mut endpoint, meter)).await,
        };
        if result.is_err() {
            // Both learn that this was no orderly end. They are closing either way.
            drop(socket::reset_on_close(&endpoint));
            drop(socket::reset_on_close(stream.get_ref()));
        }
        record.close(result.as_ref().err());
        // Held until now.
        drop(places);
        result
    }
}

/// Ends a connection that goes nowhere; `port` is what was dialled, if that is there.
pub(crate) fn refuse(
    worker: &Worker,
    caller: &Caller,
    port: Option<&ServicePort>,
    error: Error,
) -> Error {
    match port {
        Some(port) => Record::new(worker, caller, port, &Counts::default()).close(Some(&error)),
        None => record::astray(worker, caller, &error),
    }
    error
}

/// Copies, both ways together no faster than the limits allow.
async fn paced<S>(
    record: &mut Record<'_>,
    stream: &mut S,
    endpoint: &mut Stream,
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
    let Record {
        worker,
        caller,
        counts,
        ..
    } = *record;
    let watch = Watch {
        idle: worker.config.timeouts.idle,
        every: REPORT,
        report: || record.report("-"),
    };
    let copying = copy::both_ways(stream, endpoint, &caller.permit, counts, watch);
    tokio::select! {
        end = copying => match end {
            End::Finished => Ok(()),
            End::Idle => Err(Error::Idle),
            End::Left(error) => Err(Error::Downstream(error)),
            End::Right(error) => Err(Error::UpstreamIo(error)),
        },
        () = worker.closing.cancelled() => Err(Error::Draining),
    }
}

/// How often the bytes of a connection that lives on are counted.
const REPORT: Duration = Duration::from_secs(15);
