//! What the parts of a policy act on, so that it can be told where one has nothing to act on.

use std::borrow::Cow;

use super::balancing::LoadBalancing;
use super::resilience::{CircuitBreaker, Retries};
use super::shaping::RateLimit;
use super::{Timeouts, TrafficPolicySpec};

/// What a part of a policy acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Endpoints that take connections, whoever connects.
    Endpoints,
    /// Whatever is balanced, be it in the kernel.
    Balancing,
    /// Connections that pass the proxy, and the requests on them.
    Connections,
    /// Connections whose bytes the proxy does not read.
    Opaque,
    /// Requests.
    Requests,
    /// Connections that pass the proxy because somebody has dialled the service, and the requests on them.
    Dialled,
    /// Requests of those who have dialled the service.
    DialledRequests,
    /// Whatever has dialled the service; it need not pass the proxy for this.
    Dials,
}

impl Scope {
    /// Whether only the proxy can do it.
    #[must_use]
    pub const fn needs_proxy(self) -> bool {
        !matches!(self, Self::Endpoints | Self::Balancing)
    }

    /// Whether it acts on opaque connections, and only the proxy can do it.
    #[must_use]
    pub const fn is_for_opaque(self) -> bool {
        matches!(self, Self::Connections | Self::Opaque | Self::Dialled)
    }
}

/// A field that says something, with what it acts on.
pub type Part = (Cow<'static, str>, Scope);

impl TrafficPolicySpec {
    /// The fields that say something. An empty block says nothing.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        let Self {
            target: _,
            load_balancing,
            health_check,
            outlier_detection,
            circuit_breaker,
            retries,
            timeouts,
            hedging,
            rate_limits,
            adaptive_concurrency,
            priority,
            faults,
        } = self;
        let mut parts = Vec::new();
        parts.extend(load_balancing.iter().flat_map(of_balancing));
        parts.extend(circuit_breaker.iter().flat_map(of_breaker));
        parts.extend(retries.iter().map(of_retries));
        parts.extend(rate_limits.iter().enumerate().map(of_limit));
        let has_deadline = |it: &Timeouts| it.request.or(it.backend_request).is_some();
        let whole = [
            ("healthCheck", health_check.is_some(), Scope::Endpoints),
            (
                "outlierDetection",
                outlier_detection.is_some(),
                Scope::Connections,
            ),
            (
                "timeouts",
                timeouts.as_ref().is_some_and(has_deadline),
                Scope::DialledRequests,
            ),
            ("hedging", hedging.is_some(), Scope::DialledRequests),
            (
                "adaptiveConcurrency",
                adaptive_concurrency.is_some(),
                Scope::Requests,
            ),
            ("priority", priority.is_some(), Scope::DialledRequests),
            ("faults", !faults.is_empty(), Scope::Requests),
        ];
        parts.extend(said(whole));
        parts
    }

    /// Whether it asks for more than the kernel does: anything but a simple algorithm, health checks and the threshold
    /// below which health is ignored.
    #[must_use]
    pub fn needs_proxy(&self) -> bool {
        self.parts().iter().any(|(_, scope)| scope.needs_proxy())
    }

    /// Whether it asks for more than the kernel does for opaque connections.
    #[must_use]
    pub fn takes_opaque_through_proxy(&self) -> bool {
        self.parts().iter().any(|(_, scope)| scope.is_for_opaque())
    }
}

fn said<const N: usize>(fields: [(&'static str, bool, Scope); N]) -> impl Iterator<Item = Part> {
    let fields = fields.into_iter().filter(|(_, is_said, _)| *is_said);
    fields.map(|(name, _, scope)| (Cow::Borrowed(name), scope))
}

fn of_balancing(spec: &LoadBalancing) -> impl Iterator<Item = Part> + use<> {
    let LoadBalancing {
        algorithm,
        hash_on: _,
        session_persistence,
        slow_start,
        locality,
        failover,
        subsets,
        panic_threshold,
    } = spec;
    let in_kernel = algorithm.is_some_and(|it| it.in_kernel().is_some());
    let in_proxy = algorithm.is_some_and(|it| it.in_kernel().is_none());
    said([
        ("loadBalancing.algorithm", in_kernel, Scope::Balancing),
        ("loadBalancing.algorithm", in_proxy, Scope::Connections),
        (
            "loadBalancing.sessionPersistence",
            session_persistence.is_some(),
            Scope::Requests,
        ),
        (
            "loadBalancing.slowStart",
            slow_start.is_some(),
            Scope::Connections,
        ),
        (
            "loadBalancing.locality",
            locality.is_some(),
            Scope::Connections,
        ),
        (
            "loadBalancing.failover",
            !failover.is_empty(),
            Scope::Connections,
        ),
        (
            "loadBalancing.subsets",
            !subsets.is_empty(),
            Scope::Connections,
        ),
        (
            "loadBalancing.panicThreshold",
            panic_threshold.is_some(),
            Scope::Balancing,
        ),
    ])
}

fn of_breaker(spec: &CircuitBreaker) -> impl Iterator<Item = Part> + use<> {
    let CircuitBreaker {
        max_connections,
        max_pending,
        max_requests,
        max_retries,
        failures,
    } = spec;
    said([
        (
            "circuitBreaker.maxConnections",
            max_connections.is_some(),
            Scope::Connections,
        ),
        (
            "circuitBreaker.maxPending",
            max_pending.is_some(),
            Scope::Requests,
        ),
        (
            "circuitBreaker.maxRequests",
            max_requests.is_some(),
            Scope::Requests,
        ),
        (
            "circuitBreaker.maxRetries",
            max_retries.is_some(),
            Scope::Requests,
        ),
        (
            "circuitBreaker.failures",
            failures.is_some(),
            Scope::Connections,
        ),
    ])
}

/// Those of the service that was dialled hold, wherever a route has led. Of opaque connections only that is tried again which
/// no endpoint has taken; that nothing is holds for all.
fn of_retries(spec: &Retries) -> Part {
    let is_for_all = spec.on.iter().any(|it| it == "connect-failure");
    let scope = if spec.attempts == 0 {
        Scope::Dials
    } else if is_for_all {
        Scope::Dialled
    } else {
        Scope::DialledRequests
    };
    (Cow::Borrowed("retries"), scope)
}

fn of_limit((index, spec): (usize, &RateLimit)) -> Part {
    let (name, scope) = if spec.requests.is_some() {
        ("requests", Scope::Requests)
    } else if spec.bytes.is_some() {
        ("bytes", Scope::Opaque)
    } else {
        ("connections", Scope::Connections)
    };
    (Cow::Owned(format!("rateLimits[{index}].{name}")), scope)
}
