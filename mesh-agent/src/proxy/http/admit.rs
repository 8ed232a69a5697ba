//! Whether a request may go on: rate limits, a place at the worker, the concurrency of its service. In this order: what
//! is refused holds no place, and who waits for a rate holds none either.

use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::sleep;

use super::Connection;
use super::attempts::replay::Original;
use super::exchange::Exchange;
use crate::net::clock;
use crate::proxy::caller::Caller;
use crate::proxy::error::Error;
use crate::proxy::overload::{Entry, Place};
use crate::proxy::policy::Policy;
use crate::proxy::policy::concurrency::Running;
use crate::proxy::policy::limits::Limit;
use crate::proxy::view::ServicePort;
use crate::proxy::worker::Worker;
use crate::traffic::fields::Fields;

/// What an admitted request holds until its response has ended, and what its client is told of limits.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    place: Option<Place>,
    running: Option<Running>,
    /// The same at the service that was let take over, with the number of its port.
    substitute: Option<(u32, Running)>,
    quota: Option<Box<Quota>>,
    /// What is left of the limit that has refused it, at the service or at one that was to take over.
    refusal: Option<Box<Quota>>,
}

/// What is left of a limit.
#[derive(Clone, Debug)]
pub(crate) struct Quota {
    limit: Arc<Limit>,
    remaining: u64,
    /// Until there is more; for a request that was admitted: until all is there.
    wait_ns: u64,
    is_refused: bool,
}

impl Admitted {
    /// The head of the answer of an endpoint of the port `asked` has come: its client is told what is left.
    pub(crate) fn answered(&mut self, asked: Option<u32>, headers: &mut HeaderMap) {
        let substitute = self.substitute.take();
        let substitute = substitute.filter(|(port, _)| Some(*port) == asked);
        let running = [self.running.take(), substitute.map(|(_, running)| running)];
        running.into_iter().flatten().for_each(Running::answered);
        self.tell(headers, false);
    }

    /// Limits have been asked: of those that let it pass the one that leaves the least counts.
    fn note(&mut self, quota: Option<Box<Quota>>) {
        let Some(new) = quota else { return };
        if new.is_refused {
            self.refusal = Some(new);
        } else if self
            .quota
            .as_ref()
            .is_none_or(|kept| new.remaining < kept.remaining)
        {
            self.quota = Some(new);
        }
    }

    /// What follows is a tunnel: it may live for ever, and costs the worker no more than an opaque connection.
    pub(crate) fn leave(&mut self) {
        self.place = None;
    }

    /// Tells the client what is left, in the fields of draft-ietf-httpapi-ratelimit-headers-11; who is refused also in
    /// those of its drafts up to 06, which most clients know. Where something else came of it (`is_refused` is not set), the
    /// limit of a service that was to take over is none of the client's business.
    pub(crate) fn tell(&self, headers: &mut HeaderMap, is_refused: bool) {
        let refusal = self.refusal.as_ref().filter(|_| is_refused);
        let Some(quota) = refusal.or(self.quota.as_ref()) else {
            return;
        };
        let seconds = quota.wait_ns.div_ceil(1_000_000_000);
        let (mut left, mut time) = (itoa::Buffer::new(), itoa::Buffer::new());
        let (left, time) = (left.format(quota.remaining), time.format(seconds));
        let field = ["\"", &quota.limit.name, "\";r=", left, ";t=", time].concat();
        headers.append(RATE_LIMIT_POLICY, quota.limit.field.clone());
        if let Ok(mut field) = HeaderValue::try_from(field) {
            // Different each time: HTTP/2 is not to keep it in its table of fields.
            field.set_sensitive(true);
            headers.append(RATE_LIMIT, field);
        }
        if quota.is_refused {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
            headers.insert(LIMIT, HeaderValue::from(quota.limit.amount));
            headers.insert(REMAINING, HeaderValue::from(quota.remaining));
            headers.insert(RESET, HeaderValue::from(seconds));
        }
    }
}

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Admits a request that `policy` holds for, the policy of the rule that chose it, and whose endpoints `backend` has.
pub(crate) async fn request(
    exchange: &mut Exchange,
    policy: &Policy,
    backend: &ServicePort,
    fields: Fields<'_>,
) -> Result<(), Error> {
    let connection = Arc::clone(&exchange.connection);
    if let Some(quota) = &connection.caller.turned_away {
        exchange.admitted.refusal = Some(quota.clone());
        return Err(Error::RateLimited);
    }
    let worker = &connection.worker;
    let limits = &policy.limits.requests;
    let others = beyond(&backend.policy.limits.requests, [limits]);
    let limits: Vec<_> = limits.iter().chain(others).collect();
    let mut delay = Duration::ZERO;
    if !limits.is_empty() {
        let (quota, smoothing) = take(
            &limits,
            worker,
            &connection.caller,
            Some(fields),
            "requests",
        );
        let is_refused = quota.as_ref().is_some_and(|quota| quota.is_refused);
        exchange.admitted.note(quota);
        if is_refused {
            return Err(Error::RateLimited);
        }
        delay = smoothing;
    }
    let entered = enter(exchange, policy, backend, delay).await;
    if entered.is_err() {
        // Who is shed has not had what the limits let through.
        for limit in &limits {
            limit.give_back(&connection.caller, Some(fields));
        }
        exchange.admitted.quota = None;
    }
    entered
}

/// Admits a request to the service of `port` that takes over for the one of `wanted`: by the limits that it has not
/// passed on its way there. Tells how long it is to wait.
pub(crate) fn take_over(
    exchange: &mut Exchange,
    policy: &Policy,
    (wanted, port): (&ServicePort, &ServicePort),
    original: &Original,
) -> Result<Duration, Error> {
    let running = run(exchange, port)?;
    let passed = [policy, &wanted.policy].map(|it| &it.limits.requests);
    let limits: Vec<_> = beyond(&port.policy.limits.requests, passed).collect();
    let (quota, delay) = if limits.is_empty() {
        (None, Duration::ZERO)
    } else {
        let head = original.head();
        let fields = head.as_ref().map(|(headers, authority)| Fields {
            headers,
            authority: authority.as_ref().map(Authority::as_str),
        });
        let Connection { worker, caller, .. } = &*exchange.connection;
        take(&limits, worker, caller, fields, "requests")
    };
    let is_refused = quota.as_ref().is_some_and(|quota| quota.is_refused);
    exchange.admitted.note(quota);
    if is_refused {
        return Err(Error::RateLimited);
    }
    exchange.admitted.substitute = running.map(|running| (port.number, running));
    Ok(delay)
}

/// Those limits that are not among the passed ones.
fn beyond<'a, const N: usize>(
    limits: &'a [Arc<Limit>],
    passed: [&'a Vec<Arc<Limit>>; N],
) -> impl Iterator<Item = &'a Arc<Limit>> {
    let is_new = move |limit: &&Arc<Limit>| {
        let mut passed = passed.iter().copied().flatten();
        !passed.any(|it| Arc::ptr_eq(it, limit))
    };
    limits.iter().filter(is_new)
}

/// One more request at a service, if it limits how many there may be at a time.
fn run(exchange: &Exchange, backend: &ServicePort) -> Result<Option<Running>, Error> {
    let Some(adaptive) = &backend.policy.concurrency else {
        return Ok(None);
    };
    let running = adaptive.enter();
    if running.is_some() {
        return Ok(running);
    }
    let metrics = &exchange.connection.worker.metrics;
    metrics.shaping.saturated(&backend.service);
    Err(Error::Concurrency)
}

/// Waits for its rate and for a place.
async fn enter(
    exchange: &mut Exchange,
    policy: &Policy,
    backend: &ServicePort,
    delay: Duration,
) -> Result<(), Error> {
    exchange.pause(delay).await?;
    take_place(exchange, policy).await?;
    exchange.admitted.running = run(exchange, backend)?;
    Ok(())
}

async fn take_place(exchange: &mut Exchange, policy: &Policy) -> Result<(), Error> {
    let connection = &exchange.connection;
    let worker = &connection.worker;
    let priority = policy.priority.unwrap_or_default();
    let deadline = exchange.deadline().map(|deadline| deadline.at);
    let workload = &connection.caller.workload.key;
    match worker
        .places
        .enter(&connection.lane, priority, deadline)
        .await
    {
        Ok((place, entry)) => {
            if entry == Entry::Queued {
                worker.metrics.shaping.queued(workload);
            }
            exchange.admitted.place = Some(place);
            Ok(())
        }
        Err(error) => {
            if let Error::Overload(reason) = error {
                worker.metrics.shaping.shed(workload, reason);
            }
            Err(error)
        }
    }
}

/// Admits a new connection to a service; waits where it is smoothed. What refuses it is told.
pub(crate) async fn connection(
    worker: &Worker,
    caller: &Caller,
    port: &ServicePort,
) -> Result<(), Box<Quota>> {
    let limits: Vec<_> = port.policy.limits.connections.iter().collect();
    connect(worker, caller, &limits).await
}

/// The same where a route has sent it to another service, `port`, for which those who dial it are limited too.
pub(crate) async fn routed(
    worker: &Worker,
    caller: &Caller,
    asked: &ServicePort,
    port: &ServicePort,
) -> Result<(), Error> {
    let passed = &asked.policy.limits.connections;
    let limits: Vec<_> = beyond(&port.policy.limits.connections, [passed]).collect();
    let admitted = connect(worker, caller, &limits).await;
    admitted.map_err(|_quota| Error::RateLimited)
}

/// The same where the service of `port` takes over for the one of `wanted`; tells how long the connection is to wait.
pub(crate) fn substituted(
    worker: &Worker,
    caller: &Caller,
    policy: &Policy,
    (wanted, port): (&ServicePort, &ServicePort),
) -> Result<Duration, Error> {
    let passed = [policy, &wanted.policy].map(|it| &it.limits.connections);
    let limits: Vec<_> = beyond(&port.policy.limits.connections, passed).collect();
    take_connection(worker, caller, &limits).map_err(|_quota| Error::RateLimited)
}

async fn connect(
    worker: &Worker,
    caller: &Caller,
    limits: &[&Arc<Limit>],
) -> Result<(), Box<Quota>> {
    let delay = take_connection(worker, caller, limits)?;
    if !delay.is_zero() {
        sleep(delay).await;
    }
    Ok(())
}

fn take_connection(
    worker: &Worker,
    caller: &Caller,
    limits: &[&Arc<Limit>],
) -> Result<Duration, Box<Quota>> {
    if limits.is_empty() {
        return Ok(Duration::ZERO);
    }
    let (quota, delay) = take(limits, worker, caller, None, "connections");
    if let Some(quota) = quota.filter(|quota| quota.is_refused) {
        return Err(quota);
    }
    Ok(delay)
}

/// Takes a token of each limit, or of none. Tells of the limit that leaves the least, and how long to wait.
fn take(
    limits: &[&Arc<Limit>],
    worker: &Worker,
    caller: &Caller,
    fields: Option<Fields<'_>>,
    what: &'static str,
) -> (Option<Box<Quota>>, Duration) {
    let now_ns = clock::monotonic_ns();
    let mut quota: Option<Quota> = None;
    let mut longest = (0, None);
    for (index, limit) in limits.iter().enumerate() {
        match limit.take(now_ns, caller, fields) {
            Ok(granted) => {
                if granted.delay_ns > longest.0 {
                    longest = (granted.delay_ns, Some(*limit));
                }
                if quota
                    .as_ref()
                    .is_none_or(|it| granted.remaining < it.remaining)
                {
                    quota = Some(Quota {
                        limit: Arc::clone(limit),
                        remaining: granted.remaining,
                        wait_ns: granted.reset_ns,
                        is_refused: false,
                    });
                }
            }
            Err(refused) => {
                for taken in limits.iter().take(index) {
                    taken.give_back(caller, fields);
                }
                worker
                    .metrics
                    .shaping
                    .limited(&limit.policy, what, "refused");
                let quota = Quota {
                    limit: Arc::clone(limit),
                    remaining: 0,
                    wait_ns: refused.retry_ns,
                    is_refused: true,
                };
                return (Some(Box::new(quota)), Duration::ZERO);
            }
        }
    }
    if let Some(limit) = longest.1 {
        worker
            .metrics
            .shaping
            .limited(&limit.policy, what, "delayed");
    }
    (quota.map(Box::new), Duration::from_nanos(longest.0))
}
