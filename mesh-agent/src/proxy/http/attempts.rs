//! The attempts of one request: another endpoint where one fails, another connection where one has just closed, a second
//! attempt beside one that is slow, and the deadline of the whole.

mod answer;
mod choice;
mod guards;
mod hedged;
pub(crate) mod replay;
mod trial;

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use tokio::time::Instant;

use self::answer::Answer;
use self::guards::Passed;
use self::hedged::Side;
use self::replay::Original;
use self::trial::{Failure, Question, Trial};
use super::Connection;
use super::body::Outgoing;
use super::exchange::Exchange;
use super::headers::is_idempotent;
use super::received::Received;
use crate::net::clock;
use crate::proxy::budget;
use crate::proxy::error::Error;
use crate::proxy::passage;
use crate::proxy::policy::Policy;
use crate::proxy::policy::breaker::Limit;
use crate::proxy::select::Selection;
use crate::proxy::view::{Active, ServicePort};
use crate::traffic::balance::key::Head;
use crate::traffic::breaker::Evidence;
use crate::traffic::retry::budget::Extra;
use crate::traffic::retry::{Outcome, Plan};

/// Endpoints that are tried for one connection or request that no policy speaks of.
const MAX_ATTEMPTS: u32 = 3;
/// Kept connections that may turn out to be closed before one is dialled afresh; they cost nothing, as nothing was sent.
const MAX_STALE: u32 = 3;
/// How long an attempt may take that has no limit.
const FOREVER: Duration = Duration::from_hours(365 * 24);
/// What is done where no policy speaks of retries.
static NO_POLICY: Plan = Plan::without_policy(MAX_ATTEMPTS - 1);

/// A request on its way through the attempts. It passes through many hands that wait: a pointer, not the whole.
pub(crate) type Asked = Box<Request<Outgoing>>;

/// Where a request goes, and what holds for it on the way.
#[derive(Debug)]
pub(crate) struct Target {
    /// The service port whose endpoints are asked.
    pub(crate) port: Arc<ServicePort>,
    /// What holds: of the rule, the route and the service that was dialled.
    pub(crate) policy: Arc<Policy>,
}

/// Sends a request to an endpoint of `target`, and elsewhere what may be repeated. The response is the first that
/// nothing more is to be done about.
pub(crate) async fn send(
    exchange: &mut Exchange,
    target: Target,
    request: Asked,
    is_http2: bool,
) -> Result<Response<Received>, Error> {
    if exchange.is_overdue_in(Duration::ZERO) {
        // The proxy has made it wait: no endpoint is to blame.
        return Err(Error::Deadline);
    }
    let passed = Passed::enter(exchange, &target)?;
    let mut attempts = Attempts::new(exchange, target, passed, request, is_http2);
    let result = attempts.run().await;
    let evidence = attempts.evidence(&result);
    let (worker, asked) = (&attempts.connection.worker, attempts.exchange.asked());
    attempts.passed.leave(worker, asked, evidence);
    result
}

/// What goes on for one request.
struct Attempts<'a> {
    exchange: &'a mut Exchange,
    connection: Arc<Connection>,
    policy: Arc<Policy>,
    selection: Selection,
    passed: Passed,
    original: Original,
    is_idempotent: bool,
    is_http2: bool,
    /// Attempts after the first that were sent, hedges apart.
    retries: u32,
    stale: u32,
    /// Whether the deadline has passed because the service has failed.
    is_late: bool,
}

/// What is to be done next.
enum Step {
    /// This is the end.
    Done(Result<Response<Received>, Error>),
    /// Another attempt, at this endpoint, after this time.
    Again(Active, Asked, Duration),
}

impl<'a> Attempts<'a> {
    fn new(
        exchange: &'a mut Exchange,
        target: Target,
        passed: Passed,
        request: Asked,
        is_http2: bool,
    ) -> Self {
        let Target { port, policy } = target;
        let connection = Arc::clone(&exchange.connection);
        let head = Head {
            uri: request.uri(),
            headers: request.headers(),
        };
        let caller = &connection.caller;
        let session = exchange
            .rule
            .as_ref()
            .and_then(|rule| rule.session.as_ref());
        let selection = Selection::of_request(port, &policy, session, caller, head);
        let is_idempotent = is_idempotent(request.method());
        let max_body = plan(&policy).max_body_bytes;
        Self {
            original: Original::new(request, max_body, &connection),
            connection,
            selection,
            passed,
            exchange,
            policy,
            is_idempotent,
            is_http2,
            retries: 0,
            stale: 0,
            is_late: false,
        }
    }

    /// Attempt, look at what came of it, attempt again.
    async fn run(&mut self) -> Result<Response<Received>, Error> {
        let mut active = self.pick()?;
        budget::of(&self.policy, &self.selection.wanted).request(active.started_ns());
        let mut request = self.original.take().ok_or(Error::NoEndpoint)?;
        let mut wait = mem::take(&mut self.passed.wait);
        loop {
            if !wait.is_zero() {
                self.exchange.pause(wait).await?;
                active.restart(clock::monotonic_ns());
            }
            self.exchange.attempts += 1;
            let result = self.attempt(active, request).await;
            match self.judge(result) {
                Step::Done(result) => return result,
                Step::Again(next, again, after) => (active, request, wait) = (next, again, after),
            }
        }
    }

    /// One attempt, or two if the first is slow.
    async fn attempt(&mut self, active: Active, request: Asked) -> Result<Answer, Failure> {
        let delay = hedged::delay(self, &request);
        let question = self.question(request);
        let port = self.selection.port();
        let trial = Trial::new(&self.connection, &self.policy, port, active.endpoint());
        self.selection.begin(&self.connection.worker.metrics);
        self.is_asked(active);
        let first = trial.run(question);
        let result = match delay {
            None => first.await,
            Some(delay) => {
                // Rare and large.
                let race = Box::pin(hedged::race(self, Box::pin(first), delay));
                let (result, side) = race.await;
                if let Side::Second(active) = side {
                    self.is_asked(active);
                }
                result
            }
        };
        if result.is_ok() {
            self.has_answered();
        }
        result
    }

    /// This endpoint is the one that the request is at, of the service that was chosen last.
    fn is_asked(&mut self, active: Active) {
        self.exchange.port = Some(Arc::clone(self.selection.port()));
        self.exchange.active = Some(active);
    }

    /// It has begun to answer.
    fn has_answered(&mut self) {
        if let Some(active) = &mut self.exchange.active {
            active.answered(clock::monotonic_ns());
            let path = self.exchange.session_path.as_deref();
            let field = self.selection.session_field(active.endpoint(), path);
            self.exchange.session_field = field;
        }
    }

    /// Whether that was the end.
    fn judge(&mut self, result: Result<Answer, Failure>) -> Step {
        let (outcome, last) = match result {
            Ok(answer) => (answer.outcome, Ok(answer)),
            Err(mut failure) => {
                if let Some(request) = failure.unsent.take() {
                    self.original.give_back(request);
                }
                if failure.is_stale && self.stale < MAX_STALE {
                    return self.stale(failure.error);
                }
                match failure.outcome {
                    Some(outcome) => (outcome, Err(failure.error)),
                    None => return Step::Done(Err(failure.error)),
                }
            }
        };
        if let Err(error) = &last
            && self.exchange.is_overdue_in(Duration::ZERO)
        {
            // A client may set a time in which no service could answer.
            let is_ours = self.exchange.deadline().is_some_and(|it| it.is_ours);
            self.is_late = is_ours && error.is_failure_of_service();
            return Step::Done(Err(Error::Deadline));
        }
        if !plan(&self.policy).wants(outcome, self.is_idempotent) {
            return self.end(last, false);
        }
        if self.retries >= plan(&self.policy).attempts {
            return self.end(last, self.retries > 0);
        }
        if !self.original.is_kept() {
            return self.end(last, false);
        }
        self.again(outcome, last)
    }

    /// Given up in the moment it was taken out of the pool: the endpoint is not to blame, and has not looked at the
    /// request.
    fn stale(&mut self, error: Error) -> Step {
        if !self.original.is_kept() {
            return Step::Done(Err(error));
        }
        self.stale += 1;
        self.exchange.attempts -= 1;
        match self.pick() {
            Ok(active) => {
                let Some(request) = self.original.take() else {
                    return Step::Done(Err(error));
                };
                self.connection.worker.metrics.retried(error.reason());
                Step::Again(active, request, mem::take(&mut self.passed.wait))
            }
            // That nobody is left says less than why the last one failed.
            Err(Error::NoEndpoint) => Step::Done(Err(error)),
            Err(other) => Step::Done(Err(other)),
        }
    }

    /// Another attempt is wanted: within the deadline, the budget and the limit, at another endpoint, after a while.
    fn again(&mut self, outcome: Outcome, last: Result<Answer, Error>) -> Step {
        let backoff = &plan(&self.policy).backoff;
        let wait = backoff.wait(self.retries, rand::random());
        if self.exchange.is_overdue_in(wait) {
            return self.end(last, false);
        }
        self.avoid_last();
        let active = match self.pick_another() {
            Ok(active) => active,
            Err(Error::NoEndpoint) => return self.end(last, self.retries > 0),
            Err(error) => return Step::Done(Err(error)),
        };
        // Who takes over may have to be waited for.
        let wait = wait.max(mem::take(&mut self.passed.wait));
        if self.exchange.is_overdue_in(wait) {
            return self.end(last, false);
        }
        let is_free = outcome == Outcome::ConnectFailure && self.is_free(&active);
        if !self.may_spend(Extra::Retry, is_free) {
            return self.end(last, true);
        }
        // Not before: this cuts off who still sends the body, whose answer may be the last.
        let Some(request) = self.original.take() else {
            return self.end(last, false);
        };
        let worker = &self.connection.worker;
        match last {
            Ok(answer) => {
                worker.metrics.retried(outcome.reason());
                if !self.exchange.is_last {
                    answer.discard(worker);
                }
            }
            Err(error) => worker.metrics.retried(error.reason()),
        }
        self.retries += 1;
        Step::Again(active, request, wait)
    }

    /// The last answer or failure is what the client gets.
    fn end(&mut self, last: Result<Answer, Error>, is_exceeded: bool) -> Step {
        Step::Done(last.map(|answer| {
            if is_exceeded {
                self.exchange.retries_exceeded();
            }
            answer.take(self.exchange)
        }))
    }

    /// What the end says about the targets.
    fn evidence(&self, result: &Result<Response<Received>, Error>) -> Evidence {
        if self.is_late {
            return Evidence::Failure;
        }
        guards::evidence(result, self.exchange.is_grpc)
    }

    /// Whether there may be one more attempt than there must be. If so it counts until the next one or the answer.
    fn may_spend(&mut self, extra: Extra, is_free: bool) -> bool {
        let worker = &self.connection.worker;
        if extra == Extra::Retry {
            // Those before it have ended.
            self.exchange.retry_slots.clear();
        }
        let slots = passage::take(worker, &self.policy, self.selection.port(), Limit::Retries);
        let Ok(slots) = slots else {
            worker.metrics.retry_refused("limit");
            return false;
        };
        // Last, because it is not given back.
        if !is_free && !budget::take(worker, &self.policy, &self.selection.wanted, extra) {
            return false;
        }
        self.exchange.retry_slots.extend(slots);
        true
    }

    /// What is asked now: the request, and until when there must be an answer.
    fn question(&self, mut request: Asked) -> Question {
        let now = Instant::now();
        self.exchange.shorten(request.headers_mut(), now);
        let patience = self.connection.worker.config.timeouts.response;
        let of_policy = self.policy.attempt_timeout();
        let own = match of_policy {
            Some(Duration::ZERO) => FOREVER,
            of_policy => of_policy.unwrap_or(patience),
        };
        let own = now + own;
        let deadline = self.exchange.deadline();
        Question {
            request,
            is_http2: self.is_http2,
            is_grpc: self.exchange.is_grpc,
            fate: self.exchange.fate.clone(),
            limit: deadline.map_or(own, |deadline| deadline.at.min(own)),
            patience: of_policy.is_none().then_some(patience),
            deadline,
        }
    }

    /// The same once more, for another endpoint.
    fn question_again(&self) -> Option<Question> {
        Some(self.question(self.original.again()?))
    }
}

/// How requests and connections under a policy are tried again.
pub(crate) fn plan(policy: &Policy) -> &Plan {
    policy.extra.plan.as_deref().unwrap_or(&NO_POLICY)
}
