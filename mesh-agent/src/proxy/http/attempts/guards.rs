//! Circuit breakers of services and routes on the way of a request.

use std::sync::Arc;

use http::Response;

use super::{Target, answer};
use crate::net::clock;
use crate::proxy::error::Error;
use crate::proxy::http::exchange::Exchange;
use crate::proxy::policy::Policy;
use crate::proxy::policy::breaker::{Guard, Limit};
use crate::proxy::view::{Endpoint, ServicePort};
use crate::proxy::worker::Worker;
use crate::traffic::breaker::{Evidence, Pass, State};

/// What a request has passed. Dropped without an end, it says nothing about the service.
#[derive(Debug, Default)]
pub(super) struct Guarded(Vec<(Arc<Guard>, Pass)>);

/// What guards a request: of the rule, the route and the service that was dialled, and of the service that is asked.
pub(super) fn guards<'a>(
    policy: &'a Policy,
    port: &'a ServicePort,
) -> impl Iterator<Item = &'a Arc<Guard>> {
    let of_port = port.policy.guards.iter();
    let of_port =
        of_port.filter(|guard| policy.guards.iter().all(|other| !Arc::ptr_eq(other, guard)));
    policy.guards.iter().chain(of_port)
}

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

impl Guarded {
    /// Passes every guard, or is refused by one.
    pub(super) fn enter(exchange: &mut Exchange, target: &Target) -> Result<Self, Error> {
        let mut guarded = Self::default();
        if target.policy.guards.is_empty() && target.port.policy.guards.is_empty() {
            return Ok(guarded);
        }
        take(exchange, &target.policy, &target.port, Limit::Requests)?;
        let worker = &exchange.connection.worker;
        for guard in guards(&target.policy, &target.port) {
            let Some(breaker) = guard.breaker() else {
                continue;
            };
            let (pass, change) = breaker.pass(clock::monotonic_ns());
            tell(worker, guard, None, change);
            let pass = pass.ok_or(Error::BreakerOpen)?;
            guarded.0.push((Arc::clone(guard), pass));
        }
        Ok(guarded)
    }

    /// The request has come to this.
    pub(super) fn ended<B>(
        mut self,
        worker: &Worker,
        is_grpc: bool,
        result: &Result<Response<B>, Error>,
    ) {
        let evidence = match result {
            Ok(response) if answer::outcome(response, is_grpc).is_failure() => Evidence::Failure,
            Ok(_) => Evidence::Success,
            Err(error) if error.is_failure_of_service() => Evidence::Failure,
            Err(_) => Evidence::Nothing,
        };
        for (guard, pass) in self.0.drain(..) {
            let change = guard
                .breaker()
                .and_then(|breaker| breaker.ended(pass, evidence, clock::monotonic_ns()));
            tell(worker, &guard, None, change);
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        for (guard, pass) in self.0.drain(..) {
            if let Some(breaker) = guard.breaker() {
                breaker.ended(pass, Evidence::Nothing, clock::monotonic_ns());
            }
        }
    }
}

/// Tells operators of a breaker that has changed.
pub(super) fn tell(
    worker: &Worker,
    guard: &Guard,
    endpoint: Option<&Endpoint>,
    change: Option<State>,
) {
    let Some(state) = change else { return };
    worker.metrics.breaker_changed(state);
    let (kind, target, rule) = (guard.kind(), guard.key(), guard.section().unwrap_or(""));
    let endpoint = endpoint.map(|endpoint| endpoint.key.to_string());
    let endpoint = endpoint.as_deref().unwrap_or("");
    let state_word = state.as_str();
    if state == State::Open {
        tracing::warn!(?kind, %target, rule, endpoint, state = state_word, "circuit breaker opened");
    } else {
        tracing::info!(?kind, %target, rule, endpoint, state = state_word, "circuit breaker changed");
    }
}
