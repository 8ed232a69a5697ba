//! `TrafficPolicy`: how a service or a route is balanced, guarded and shaped. Data only; `traffic` decides by it.
//!
//! A policy on one rule of a route goes before one on the whole route, and that before one on the service, field by
//! field of [`TrafficPolicySpec`]. Only `retries`, `timeouts`, `hedging`, `rateLimits`, `faults`, `priority`,
//! `circuitBreaker` and `loadBalancing.subsets` have a meaning on a route; the rest belongs to a service.

pub mod balancing;
pub mod health;
pub mod resilience;
pub mod scope;
pub mod shaping;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::duration::Duration;
use super::object::{Condition, ConditionStatus, Kind, Object};
use balancing::LoadBalancing;
use health::{HealthCheck, OutlierDetection};
use resilience::{CircuitBreaker, Hedging, Retries};
use shaping::{AdaptiveConcurrency, Fault, Priority, RateLimit};

/// A traffic policy of the registry.
pub type TrafficPolicy = Object<TrafficPolicySpec, TrafficPolicyStatus>;

/// How a target is balanced, guarded and shaped. Absent fields and empty blocks leave things as they are without a
/// policy. What speaks of requests does nothing where nobody sends any, and the conditions say so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicySpec {
    /// What the policy is for, in its namespace.
    pub target: TrafficTarget,
    /// Which endpoint takes a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// Asks endpoints whether they are well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Leaves endpoints alone that answer badly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// Refuses at once what would only make things worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Tries again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// How long a request may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// Asks a second endpoint when the first is slow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedging: Option<Hedging>,
    /// How much is let through; each limit must have room.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rate_limits: Vec<RateLimit>,
    /// Finds the number of requests at which the service works best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive_concurrency: Option<AdaptiveConcurrency>,
    /// Who is shed last when the agent is overloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Injected for tests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

impl TrafficPolicy {
    /// Whether it holds. Of several policies for one target one does.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        let mut conditions = self.status.conditions.iter();
        conditions.all(|it| it.kind != "Accepted" || it.status != ConditionStatus::False)
    }
}

/// What a policy is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficTarget {
    /// `Service`, `HTTPRoute` or `GRPCRoute`.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Name of one rule of the route; absent: all rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// Deadlines. Those of a route's rule go before these. Zero: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// From the request to the end of the response, all attempts together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    /// For one attempt, up to the head of its response; zero: no limit, absent: the 5 minutes of the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Duration>,
}

/// What is so with a policy. Written by the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicyStatus {
    /// `Accepted`: it is in force; the message names the fields that do nothing, and where all do nothing it is false
    /// (`NoEffect`). `ResolvedRefs`: its target, and what it names, exist.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
