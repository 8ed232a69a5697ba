//! What a request or connection has passed on its way: the circuit breakers of its targets, and of an endpoint.

use std::borrow::Borrow;
use std::sync::Arc;

use super::error::Error;
use super::policy::Policy;
use super::policy::breaker::{Guard, Limit, Slot};
use super::view::{Endpoint, ServicePort};
use super::worker::Worker;
use crate::net::clock;
use crate::traffic::breaker::{Breaker, Evidence, Pass, State};

/// What guards the way: of the rule, the route and the service that was dialled, and of the service that is asked.
pub(crate) fn guards<'a>(
    policy: &'a Policy,
    port: &'a ServicePort,
) -> impl Iterator<Item = &'a Arc<Guard>> + Clone {
    let of_port = port.policy.guards.iter();
    let of_port =
        of_port.filter(|guard| policy.guards.iter().all(|other| !Arc::ptr_eq(other, guard)));
    policy.guards.iter().chain(of_port)
}

/// What guards a service that takes over for the one of `wanted`, beside what guards the way there.
pub(crate) fn guards_beyond<'a>(
    policy: &'a Policy,
    wanted: &'a ServicePort,
    port: &'a ServicePort,
) -> impl Iterator<Item = &'a Arc<Guard>> + Clone {
    let is_new = move |guard: &&Arc<Guard>| {
        let mut passed = guards(policy, wanted);
        !passed.any(|other| Arc::ptr_eq(other, guard))
    };
    port.policy.guards.iter().filter(is_new)
}

/// One of what is limited from each guard on the way, or none of any.
pub(crate) fn take(
    worker: &Worker,
    policy: &Policy,
    port: &ServicePort,
    what: Limit,
) -> Result<Vec<Slot>, Error> {
    take_of(worker, guards(policy, port), what)
}

/// The same of these guards.
pub(crate) fn take_of(
    worker: &Worker,
    guards: impl Iterator<Item = impl Borrow<Arc<Guard>>>,
    what: Limit,
) -> Result<Vec<Slot>, Error> {
    let slots = guards.map(|guard| guard.borrow().take(what));
    let slots: Result<Vec<Option<Slot>>, Limit> = slots.collect();
    let slots = slots.map_err(|what| {
        worker.metrics.overflow(what);
        Error::Overflow(what.as_str())
    })?;
    Ok(slots.into_iter().flatten().collect())
}

/// The breakers of services and routes that were passed. Dropped without an end, it says nothing about them.
#[derive(Debug, Default)]
pub(crate) struct Passage(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    guard: Arc<Guard>,
    pass: Pass,
    /// The number of the port, where it guards a service that takes over.
    substitute: Option<u32>,
}

impl Passage {
    /// Passes the breaker of every guard, or is refused by one.
    pub(crate) fn enter(
        worker: &Worker,
        guards: impl Iterator<Item = impl Borrow<Arc<Guard>>>,
    ) -> Result<Self, Error> {
        let mut passage = Self::default();
        for guard in guards {
            let guard = guard.borrow();
            let Some(breaker) = guard.breaker() else {
                continue;
            };
            let (pass, change) = breaker.pass(clock::monotonic_ns());
            tell(worker, guard, None, change);
            let pass = pass.ok_or(Error::BreakerOpen)?;
            passage.0.push(Entry {
                guard: Arc::clone(guard),
                pass,
                substitute: None,
            });
        }
        Ok(passage)
    }

    /// It has passed these as well, so that the service of `port` may take over.
    pub(crate) fn join(&mut self, mut other: Self, port: &ServicePort) {
        for passed in &mut other.0 {
            passed.substitute = Some(port.number);
        }
        self.0.append(&mut other.0);
    }

    /// It has come to this at the port `asked`. About who was let take over, and was not asked or not the last, it says
    /// nothing.
    pub(crate) fn leave(mut self, worker: &Worker, asked: Option<u32>, evidence: Evidence) {
        for passed in self.0.drain(..) {
            let Entry {
                guard,
                pass,
                substitute,
            } = passed;
            let evidence = match substitute {
                Some(_) if substitute != asked => Evidence::Nothing,
                _ => evidence,
            };
            let change = guard
                .breaker()
                .and_then(|breaker| breaker.ended(pass, evidence, clock::monotonic_ns()));
            tell(worker, &guard, None, change);
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        for Entry { guard, pass, .. } in self.0.drain(..) {
            if let Some(breaker) = guard.breaker() {
                breaker.ended(pass, Evidence::Nothing, clock::monotonic_ns());
            }
        }
    }
}

/// The breakers of an endpoint that were passed. Dropped without an end, it says nothing about it.
#[derive(Debug, Default)]
pub(crate) struct Visit(Vec<(Arc<Guard>, Arc<Breaker>, Pass)>);

impl Visit {
    /// Passes every breaker of the endpoint, or is refused by one.
    pub(crate) fn enter(
        worker: &Worker,
        policy: &Policy,
        port: &ServicePort,
        endpoint: &Endpoint,
    ) -> Result<Self, Error> {
        let mut visit = Self::default();
        for guard in guards(policy, port) {
            let Some(settings) = guard.endpoints() else {
                continue;
            };
            let breaker = endpoint.live.vitals.breaker(guard, settings);
            let (pass, change) = breaker.pass(clock::monotonic_ns());
            tell(worker, guard, Some(endpoint), change);
            let pass = pass.ok_or(Error::BreakerOpen)?;
            visit.0.push((Arc::clone(guard), breaker, pass));
        }
        Ok(visit)
    }

    /// It has come to this.
    pub(crate) fn leave(&mut self, worker: &Worker, endpoint: &Endpoint, evidence: Evidence) {
        for (guard, breaker, pass) in self.0.drain(..) {
            let change = breaker.ended(pass, evidence, clock::monotonic_ns());
            tell(worker, &guard, Some(endpoint), change);
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        for (_, breaker, pass) in self.0.drain(..) {
            breaker.ended(pass, Evidence::Nothing, clock::monotonic_ns());
        }
    }
}

/// Tells operators of a breaker that has changed.
fn tell(worker: &Worker, guard: &Guard, endpoint: Option<&Endpoint>, change: Option<State>) {
    let Some(state) = change else { return };
    worker.metrics.breaker_changed(state);
    let (kind, target, rule) = (guard.kind(), guard.key(), guard.section().unwrap_or(""));
    let endpoint = endpoint.map(|endpoint| endpoint.key.to_string());
    let endpoint = endpoint.as_deref().unwrap_or("");
    let word = state.as_str();
    if state == State::Open {
        tracing::warn!(%kind, %target, rule, endpoint, state = word, "circuit breaker changed");
    } else {
        tracing::info!(%kind, %target, rule, endpoint, state = word, "circuit breaker changed");
    }
}
