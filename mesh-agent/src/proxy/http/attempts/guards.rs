//! Limits and circuit breakers on the way of a request.

use http::Response;

use super::{Target, answer};
use crate::proxy::error::Error;
use crate::proxy::http::exchange::Exchange;
use crate::proxy::passage::{Passage, guards};
use crate::proxy::policy::Policy;
use crate::proxy::policy::breaker::{Limit, Slot};
use crate::proxy::view::ServicePort;
use crate::proxy::worker::Worker;
use crate::traffic::breaker::Evidence;

/// One of what is limited from each guard, or none of any.
pub(super) fn take(
    worker: &Worker,
    policy: &Policy,
    port: &ServicePort,
    what: Limit,
) -> Result<Vec<Slot>, Error> {
    let slots = guards(policy, port).map(|guard| guard.take(what));
    let slots: Result<Vec<Option<Slot>>, Limit> = slots.collect();
    let slots = slots.map_err(|what| {
        worker.metrics.overflow(what);
        Error::Overflow(what.as_str())
    })?;
    Ok(slots.into_iter().flatten().collect())
}

/// Passes every limit and breaker of the targets, or is refused by one.
pub(super) fn enter(exchange: &mut Exchange, target: &Target) -> Result<Passage, Error> {
    let Target { policy, port } = target;
    if policy.guards.is_empty() && port.policy.guards.is_empty() {
        return Ok(Passage::default());
    }
    let worker = &exchange.connection.worker;
    exchange.slots = take(worker, policy, port, Limit::Requests)?;
    Passage::enter(worker, policy, port)
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
