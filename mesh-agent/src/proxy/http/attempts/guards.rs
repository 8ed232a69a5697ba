//! Limits and circuit breakers on the way of a request.

use http::Response;

use super::{Target, answer};
use crate::proxy::error::Error;
use crate::proxy::http::exchange::Exchange;
use crate::proxy::passage::{Passage, guards};
use crate::proxy::policy::Policy;
use crate::proxy::policy::breaker::Limit;
use crate::proxy::view::ServicePort;
use crate::traffic::breaker::Evidence;

/// Takes one of what is limited from each guard; given back when the exchange has ended.
pub(super) fn take(
    exchange: &mut Exchange,
    policy: &Policy,
    port: &ServicePort,
    what: Limit,
) -> Result<(), Error> {
    for guard in guards(policy, port) {
        match guard.take(what) {
            Ok(slot) => exchange.slots.extend(slot),
            Err(what) => {
                exchange.connection.worker.metrics.overflow(what);
                return Err(Error::Overflow(what.as_str()));
            }
        }
    }
    Ok(())
}

/// Passes every limit and breaker of the targets, or is refused by one.
pub(super) fn enter(exchange: &mut Exchange, target: &Target) -> Result<Passage, Error> {
    let Target { policy, port } = target;
    if policy.guards.is_empty() && port.policy.guards.is_empty() {
        return Ok(Passage::default());
    }
    take(exchange, policy, port, Limit::Requests)?;
    Passage::enter(&exchange.connection.worker, policy, port)
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
