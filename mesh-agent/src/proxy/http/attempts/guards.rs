//! Limits and circuit breakers on the way of a request.

use std::time::Duration;

use http::Response;

use super::replay::Original;
use super::{Target, answer};
use crate::proxy::error::Error;
use crate::proxy::http::admit;
use crate::proxy::http::exchange::Exchange;
use crate::proxy::passage::{Passage, guards, guards_beyond, take, take_of};
use crate::proxy::policy::Policy;
use crate::proxy::policy::breaker::Limit;
use crate::proxy::view::ServicePort;
use crate::proxy::worker::Worker;
use crate::traffic::breaker::Evidence;

/// What a request has passed.
#[derive(Debug, Default)]
pub(super) struct Passed {
    passage: Passage,
    /// How long it is to wait before it goes on.
    pub(super) wait: Duration,
}

impl Passed {
    /// Passes every limit and breaker of the targets, or is refused by one.
    pub(super) fn enter(exchange: &mut Exchange, target: &Target) -> Result<Self, Error> {
        let Target { policy, port } = target;
        if policy.guards.is_empty() && port.policy.guards.is_empty() {
            return Ok(Self::default());
        }
        let worker = &exchange.connection.worker;
        exchange.slots = take(worker, policy, port, Limit::Requests)?;
        Ok(Self {
            passage: Passage::enter(worker, guards(policy, port))?,
            wait: Duration::ZERO,
        })
    }

    /// Passes what a service has of its own that takes over for the one of `wanted`, or nothing of it.
    pub(super) fn take_over(
        &mut self,
        exchange: &mut Exchange,
        policy: &Policy,
        (wanted, port): (&ServicePort, &ServicePort),
        original: &Original,
    ) -> Result<(), Error> {
        let worker = &exchange.connection.worker;
        let beyond = || guards_beyond(policy, wanted, port);
        let slots = take_of(worker, beyond(), Limit::Requests)?;
        let passage = Passage::enter(worker, beyond())?;
        let wait = admit::take_over(exchange, policy, (wanted, port), original)?;
        exchange.slots.extend(slots);
        self.passage.join(passage, port);
        self.wait = self.wait.max(wait);
        Ok(())
    }

    /// It has come to this at the port `asked`.
    pub(super) fn leave(self, worker: &Worker, asked: Option<u32>, evidence: Evidence) {
        self.passage.leave(worker, asked, evidence);
    }
}

/// What the end of a request says about its targets.
pub(super) fn evidence<B>(result: &Result<Response<B>, Error>, is_grpc: bool) -> Evidence {
    match result {
        Ok(response) if answer::outcome(response, is_grpc).is_failure() => Evidence::Failure,
        Ok(_) => Evidence::Success,
        Err(error) if error.is_failure_of_service() => Evidence::Failure,
        Err(_) => Evidence::Nothing,
    }
}
