//! One attempt: a connection, the request, the head of the response; and what it says about the endpoint.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::Asked;
use super::answer::Answer;
use crate::net::clock;
use crate::proxy::error::{Cause, Error};
use crate::proxy::http::Connection;
use crate::proxy::http::body::Fate;
use crate::proxy::http::exchange::Deadline;
use crate::proxy::outliers;
use crate::proxy::passage::Visit;
use crate::proxy::policy::Policy;
use crate::proxy::pool::{self, Lease, Queued, Unanswered, Wanted};
use crate::proxy::view::{Endpoint, ServicePort};
use crate::traffic::breaker::Evidence;
use crate::traffic::hedge::After;
use crate::traffic::retry::Outcome;

/// An attempt at one endpoint. Dropped before its end, it says only that the endpoint was at least so slow.
pub(super) struct Trial {
    connection: Arc<Connection>,
    policy: Arc<Policy>,
    port: Arc<ServicePort>,
    endpoint: Arc<Endpoint>,
    visit: Visit,
    /// Whether there is no room for a connection yet.
    queued: Queued,
    /// How the request's body fares.
    fate: Option<Arc<Fate>>,
    started: Instant,
    is_over: bool,
}

/// What is asked of an endpoint, and for how long.
pub(super) struct Question {
    pub(super) request: Asked,
    pub(super) is_http2: bool,
    pub(super) is_grpc: bool,
    /// How the body fares.
    pub(super) fate: Option<Arc<Fate>>,
    /// When there must be an answer.
    pub(super) limit: Instant,
    /// As long as its body moves, there must be an answer so long after the last of it, if that is later.
    pub(super) patience: Option<Duration>,
    /// When there must be one in any case.
    pub(super) deadline: Option<Deadline>,
}

/// How long an answer is waited for.
struct Waiting {
    limit: Instant,
    deadline: Option<Deadline>,
    patience: Option<Duration>,
}

impl Waiting {
    const fn of(question: &Question) -> Self {
        Self {
            limit: question.limit,
            deadline: question.deadline,
            patience: question.patience,
        }
    }

    /// The limit has passed: whether the body has moved so lately that it is too soon to give up.
    fn goes_on(&mut self, fate: Option<&Fate>) -> bool {
        let (Some(patience), Some(fate)) = (self.patience, fate) else {
            return false;
        };
        let later = fate.last_moved() + patience;
        let later = self.deadline.map_or(later, |it| later.min(it.at));
        let is_later = later > self.limit;
        self.limit = later;
        is_later
    }

    /// Whether the endpoint is to blame if there is no answer: not where the client has set the time.
    fn is_ours(&self) -> bool {
        self.deadline
            .is_none_or(|it| it.is_ours || it.at != self.limit)
    }
}

/// Why an attempt has failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// What became of it; absent where no other endpoint could do better.
    pub(super) outcome: Option<Outcome>,
    /// The request, if nothing of it was sent.
    pub(super) unsent: Option<Asked>,
    /// Whether the connection had been given up before the request was looked at.
    pub(super) is_stale: bool,
}

impl Failure {
    fn new(error: Error, unsent: Option<Asked>) -> Self {
        Self {
            outcome: outcome(&error),
            error,
            unsent,
            is_stale: false,
        }
    }
}

impl Trial {
    pub(super) fn new(
        connection: &Arc<Connection>,
        policy: &Arc<Policy>,
        port: &Arc<ServicePort>,
        endpoint: &Arc<Endpoint>,
    ) -> Self {
        Self {
            connection: Arc::clone(connection),
            policy: Arc::clone(policy),
            port: Arc::clone(port),
            endpoint: Arc::clone(endpoint),
            visit: Visit::default(),
            queued: Queued::default(),
            fate: None,
            started: Instant::now(),
            is_over: false,
        }
    }

    /// Asks the endpoint. No async function: that would keep twice what it is given.
    pub(super) fn run(
        self,
        question: Question,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send + use<> {
        let mut trial = self;
        let mut waiting = Waiting::of(&question);
        let Question {
            request,
            is_http2,
            is_grpc,
            fate,
            ..
        } = question;
        trial.fate = fate;
        async move {
            if let Err(error) = trial.enter() {
                return Err(Failure {
                    outcome: Some(Outcome::ConnectFailure),
                    ..Failure::new(error, Some(request))
                });
            }
            let result = {
                let asking = pin!(trial.ask(request, is_http2, is_grpc));
                trial.answer_within(&mut waiting, asking).await
            };
            trial.end(&result, waiting.is_ours());
            result
        }
    }

    /// Passes the endpoint's breakers. Others may have come first since it was picked.
    fn enter(&mut self) -> Result<(), Error> {
        let worker = &self.connection.worker;
        let entered = Visit::enter(worker, &self.policy, &self.port, &self.endpoint);
        self.is_over = entered.is_err();
        self.visit = entered?;
        Ok(())
    }

    /// Waits for an answer for as long as may be.
    async fn answer_within(
        &self,
        waiting: &mut Waiting,
        mut asking: Pin<&mut impl Future<Output = Result<Answer, Failure>>>,
    ) -> Result<Answer, Failure> {
        let mut timer = self.connection.worker.timers.at(waiting.limit);
        poll_fn(|cx| {
            if let Poll::Ready(result) = asking.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            loop {
                ready!(timer.poll(cx));
                if !waiting.goes_on(self.fate.as_deref()) {
                    return Poll::Ready(Err(Failure::new(self.late(), None)));
                }
                timer.set(waiting.limit);
            }
        })
        .await
    }

    /// Why there is no answer in time.
    fn late(&self) -> Error {
        if self.queued.is_so() {
            return pool::crowded(&self.connection.worker);
        }
        Error::ResponseTimeout(self.endpoint.address)
    }

    async fn ask(&self, request: Asked, is_http2: bool, is_grpc: bool) -> Result<Answer, Failure> {
        let Connection { worker, caller, .. } = &*self.connection;
        let mut lease = match pool::at_hand(worker, caller, &self.endpoint, is_http2) {
            Some(lease) => lease,
            // Rare and large.
            None => match Box::pin(self.lease(is_http2)).await {
                Ok(lease) => lease,
                Err(error) => return Err(Failure::new(error, Some(request))),
            },
        };
        let client = Some(&self.connection);
        match lease.send(worker, request, client).await {
            Ok(response) => Ok(Answer::new(response, lease, is_grpc)),
            Err(Unanswered { source, unsent }) => {
                let is_stale = unsent.is_some() || is_left_behind(&source);
                // A body that breaks off is no fault of the endpoint.
                let blamed = self.fate.as_ref().and_then(|fate| fate.error());
                let error = blamed.unwrap_or_else(|| Error::Upstream {
                    endpoint: self.endpoint.address,
                    source,
                });
                Err(Failure {
                    is_stale,
                    ..Failure::new(error, unsent)
                })
            }
        }
    }

    /// A connection that is made.
    async fn lease(&self, is_http2: bool) -> Result<Lease, Error> {
        let wanted = Wanted {
            worker: &self.connection.worker,
            caller: &self.connection.caller,
            policy: Some(&self.policy),
            port: &self.port,
            endpoint: &self.endpoint,
            queued: &self.queued,
        };
        if is_http2 {
            pool::http2(wanted).await
        } else {
            pool::http1(wanted).await
        }
    }

    fn end(&mut self, result: &Result<Answer, Failure>, is_limit_ours: bool) {
        self.is_over = true;
        let outcome = match result {
            Ok(answer) => Some(answer.outcome),
            Err(failure) if failure.is_stale => None,
            Err(failure) => match failure.outcome {
                Some(Outcome::Timeout) if !is_limit_ours => None,
                // The caller's namespace may lack the route: that says nothing about the endpoint.
                Some(Outcome::ConnectFailure) if !failure.error.is_failure_of_service() => None,
                outcome => outcome,
            },
        };
        let evidence = match outcome {
            Some(Outcome::RefusedStream) | None => Evidence::Nothing,
            Some(outcome) if outcome.is_failure() => Evidence::Failure,
            Some(_) => Evidence::Success,
        };
        self.visit
            .leave(&self.connection.worker, &self.endpoint, evidence);
        if result
            .as_ref()
            .is_err_and(|failure| failure.outcome.is_some())
        {
            self.has_not_answered();
        }
        let Some(outcome) = outcome else { return };
        if evidence == Evidence::Success {
            self.observe_latency();
        }
        outliers::observe(&self.connection.worker, &self.port, &self.endpoint, outcome);
    }

    /// The endpoint is at least so slow.
    fn has_not_answered(&self) {
        let taken = u64::try_from(self.started.elapsed().as_nanos());
        let latency = &self.endpoint.live.latency;
        latency.observe_least(taken.unwrap_or(u64::MAX), clock::monotonic_ns());
    }

    fn observe_latency(&self) {
        if matches!(self.policy.extra.hedging, Some(After::Quantile(_))) {
            self.endpoint.live.vitals.observe(self.started.elapsed());
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if !self.is_over && !self.queued.is_so() {
            self.observe_latency();
            self.has_not_answered();
        }
    }
}

/// What an error says became of an attempt.
fn outcome(error: &Error) -> Option<Outcome> {
    match error {
        Error::Connect { .. } | Error::ConnectTimeout(_) | Error::Handshake { .. } => {
            Some(Outcome::ConnectFailure)
        }
        Error::Upstream { source, .. } if is_refused(source) => Some(Outcome::RefusedStream),
        Error::Upstream { .. } => Some(Outcome::Reset),
        Error::ResponseTimeout(_) => Some(Outcome::Timeout),
        _ => None,
    }
}

/// Whether the endpoint says that it has not looked at the request: RFC 9113, 8.7.
fn is_refused(cause: &Cause) -> bool {
    let Cause::H2(error) = cause else {
        return false;
    };
    error.reason() == Some(h2::Reason::REFUSED_STREAM) || is_left_behind(cause)
}

/// Whether the endpoint has given up the connection before it looked at the request: RFC 9113, 6.8. Its GOAWAY is what h2
/// fails such streams with, and no others.
fn is_left_behind(cause: &Cause) -> bool {
    matches!(cause, Cause::H2(error) if error.is_go_away() && error.is_remote())
}
