//! Rules of traffic policies.

mod balancing;
mod health;
mod resilience;
mod shaping;

use super::{bound, http_route, name};
use crate::state::Refusal;
use crate::state::duration::Duration;
use crate::state::object::Kind;
use crate::state::traffic_policy::resilience::{BreakerScope, FailureBreaker};
use crate::state::traffic_policy::{TrafficPolicy, TrafficPolicySpec, TrafficTarget};

/// Longest of all lengths of time where nothing shorter makes sense.
const DAY: Duration = Duration::from_secs(86_400);
/// Shortest length of time that is one.
const MILLISECOND: Duration = Duration::from_millis(1);

/// Checks a policy by itself: its target may come later.
pub(super) fn check(policy: &TrafficPolicy) -> Result<(), Refusal> {
    let spec = &policy.spec;
    target(&spec.target)?;
    if spec.target.kind != Kind::Service {
        only_for_a_route(spec)?;
    }
    if let Some(it) = &spec.load_balancing {
        balancing::check(it, policy)?;
    }
    if let Some(it) = &spec.health_check {
        health::check(it)?;
    }
    if let Some(it) = &spec.outlier_detection {
        health::outliers(it)?;
    }
    if let Some(it) = &spec.circuit_breaker {
        resilience::breaker(it, spec.target.kind)?;
    }
    if let Some(it) = &spec.retries {
        resilience::retries(it)?;
    }
    if let Some(it) = &spec.timeouts {
        http_route::attempt_within_request("spec.timeouts", it.request, it.backend_request)?;
    }
    if let Some(it) = &spec.hedging {
        resilience::hedging(it)?;
    }
    shaping::limits(&spec.rate_limits, &spec.target)?;
    if let Some(it) = &spec.adaptive_concurrency {
        shaping::concurrency(it)?;
    }
    shaping::faults(&spec.faults)
}

fn target(target: &TrafficTarget) -> Result<(), Refusal> {
    if !matches!(
        target.kind,
        Kind::Service | Kind::HttpRoute | Kind::GrpcRoute
    ) {
        return Err(Refusal::invalid(
            "spec.target.kind",
            "a target is a Service, an HTTPRoute or a GRPCRoute",
        ));
    }
    name::subdomain("spec.target.name", &target.name)?;
    let Some(section) = &target.section_name else {
        return Ok(());
    };
    let field = "spec.target.sectionName";
    if target.kind == Kind::Service {
        return Err(Refusal::invalid(
            field,
            "names one rule of a route; a Service has none",
        ));
    }
    name::subdomain(field, section)
}

/// What belongs to a service has no meaning on a route.
fn only_for_a_route(spec: &TrafficPolicySpec) -> Result<(), Refusal> {
    let mut given = vec![
        ("spec.healthCheck", spec.health_check.is_some()),
        ("spec.outlierDetection", spec.outlier_detection.is_some()),
        (
            "spec.adaptiveConcurrency",
            spec.adaptive_concurrency.is_some(),
        ),
    ];
    if let Some(it) = &spec.circuit_breaker {
        let is_of_service = |it: &FailureBreaker| it.per == BreakerScope::Service;
        given.extend([
            (
                "spec.circuitBreaker.maxConnections",
                it.max_connections.is_some(),
            ),
            (
                "spec.circuitBreaker.failures.per",
                it.failures.as_ref().is_some_and(is_of_service),
            ),
        ]);
    }
    if let Some(it) = &spec.load_balancing {
        given.extend([
            ("spec.loadBalancing.algorithm", it.algorithm.is_some()),
            ("spec.loadBalancing.hashOn", it.hash_on.is_some()),
            (
                "spec.loadBalancing.sessionPersistence",
                it.session_persistence.is_some(),
            ),
            ("spec.loadBalancing.slowStart", it.slow_start.is_some()),
            ("spec.loadBalancing.locality", it.locality.is_some()),
            ("spec.loadBalancing.failover", !it.failover.is_empty()),
            (
                "spec.loadBalancing.panicThreshold",
                it.panic_threshold.is_some(),
            ),
        ]);
    }
    match given.iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((field, _)) => Err(Refusal::invalid(
            *field,
            "belongs to a Service: a route has no endpoints of its own",
        )),
    }
}

/// A length of time between a millisecond and a day.
fn some_time(field: &str, value: Duration) -> Result<(), Refusal> {
    bound::time(field, value, MILLISECOND..=DAY)
}
