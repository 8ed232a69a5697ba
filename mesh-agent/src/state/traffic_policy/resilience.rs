//! What is done about failures: refuse early, try again, ask twice.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::state::duration::Duration;

/// Names of the codes of gRPC, by number (grpc/grpc, `doc/statuscodes.md`).
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The names that stand for a failure: all but `OK`.
pub fn grpc_failures() -> impl Iterator<Item = &'static str> {
    GRPC_CODES.into_iter().skip(1)
}

/// The code that the name of a failure stands for, 1 to 16.
#[must_use]
pub fn grpc_failure(name: &str) -> Option<u8> {
    (1..)
        .zip(grpc_failures())
        .find(|(_, it)| *it == name)
        .map(|(code, _)| code)
}

/// Refuses at once what would only make things worse. Limits hold per service and node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CircuitBreaker {
    /// Connections to all endpoints, 1 or more. Of a Service only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection: for room for one, or for one that others dial. Those that dial one at once do not
    /// wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pending: Option<u32>,
    /// Requests under way, 1 or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// Retries and hedges under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// Opens when answers fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<FailureBreaker>,
}

/// Closed until so many failures in a row; then open, and nothing is sent; then half-open, and few requests try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FailureBreaker {
    /// What has a breaker of its own.
    #[serde(default)]
    pub per: BreakerScope,
    /// Failures in a row (5xx, resets, refused connections, timeouts) that open it, at least 1.
    #[serde(default = "five")]
    pub consecutive: u32,
    /// How long it is open.
    #[serde(default = "ten_seconds")]
    pub open_for: Duration,
    /// Requests that try at a time while it is half-open, and that must all succeed to close it; at least 1.
    #[serde(default = "one")]
    pub half_open_requests: u32,
}

/// What has a breaker of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum BreakerScope {
    /// Each endpoint; requests go to the others.
    #[default]
    Endpoint,
    /// The service; requests are refused. Of a Service only.
    Service,
    /// The route, or the rule of it; requests are refused. Of a route only.
    Route,
}

/// Tries again, on another endpoint where there is one. Only what is safe: idempotent methods, or what no endpoint has
/// seen; and what a gRPC code was named for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retries {
    /// Attempts after the first, 0 to 10.
    #[serde(default = "two")]
    pub attempts: u32,
    /// What is tried again: `5xx`, `gateway-error` (502, 503, 504), `retriable-4xx` (409), a status such as `503`,
    /// `connect-failure`, `reset`, `refused-stream`, `timeout` (of one attempt), `grpc:CODE` such as
    /// `grpc:UNAVAILABLE`.
    #[serde(default = "harmless")]
    pub on: Vec<String>,
    /// Wait between attempts.
    #[serde(default)]
    pub backoff: Backoff,
    /// How long one attempt may take; absent: as the timeouts say. A `backendRequest` of a more specific level goes
    /// before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<Duration>,
    /// Retries and hedges together.
    #[serde(default)]
    pub budget: Budget,
    /// Bodies up to this size, in bytes, are kept to be sent again, as long as the buffers of their workload have room
    /// for them; at most 1 MiB.
    #[serde(default = "sixty_four_kib")]
    pub max_body_bytes: u32,
}

/// Exponential, with full jitter: a random time between zero and `base * 2^n`, at most `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backoff {
    /// Longest wait before the first retry.
    #[serde(default = "twenty_five_millis")]
    pub base: Duration,
    /// Longest wait of all.
    #[serde(default = "quarter_second")]
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: twenty_five_millis(),
            max: quarter_second(),
        }
    }
}

/// As the Gateway API's `XBackendTrafficPolicy` has it: a share of the requests of the last `interval`, and a minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    /// Percent of requests, 0 to 100.
    #[serde(default = "twenty")]
    pub percent: u32,
    /// Retries per second that are always allowed.
    #[serde(default = "ten")]
    pub min_per_second: u32,
    /// How far back requests count, 1s to 60s.
    #[serde(default = "ten_seconds")]
    pub interval: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            percent: twenty(),
            min_per_second: ten(),
            interval: ten_seconds(),
        }
    }
}

/// Asks a second endpoint when the first is slow; the first answer wins, the other is cancelled. Idempotent methods
/// without a body only, under the budget of the retries (the default one, where there are none).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hedging {
    /// When: a duration, or `p50`, `p90`, `p95`, `p99` of what was seen lately.
    pub after: String,
}

fn harmless() -> Vec<String> {
    [
        "connect-failure",
        "refused-stream",
        "reset",
        "gateway-error",
    ]
    .map(str::to_owned)
    .to_vec()
}

const fn sixty_four_kib() -> u32 {
    64 * 1024
}

const fn twenty_five_millis() -> Duration {
    Duration::from_millis(25)
}

const fn quarter_second() -> Duration {
    Duration::from_millis(250)
}

const fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

const fn one() -> u32 {
    1
}

const fn two() -> u32 {
    2
}

const fn five() -> u32 {
    5
}

const fn ten() -> u32 {
    10
}

const fn twenty() -> u32 {
    20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_grpc_has_its_number_and_ok_is_none() {
        let codes = [
            "CANCELLED",
            "UNAVAILABLE",
            "UNAUTHENTICATED",
            "OK",
            "unavailable",
        ];
        let numbers = codes.map(grpc_failure);
        assert_eq!(numbers, [Some(1), Some(14), Some(16), None, None]);
        assert_eq!(grpc_failures().count(), 16);
    }
}
