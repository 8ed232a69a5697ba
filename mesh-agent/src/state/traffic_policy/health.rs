//! Whether an endpoint is well: asked for, and seen from its answers.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::state::duration::Duration;

/// `timeout` of a check where none is written.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// `maxEjection` where none is written.
pub const DEFAULT_MAX_EJECTION: Duration = Duration::from_secs(300);

/// Asks endpoints whether they are well. Exactly one of `http`, `grpc` and `tcp`. An endpoint is asked from the network
/// namespace of its workload if that is on this node, else from that of another one here, as callers do. Where one has no
/// route to it, the next is tried (three at most), and the agent's own at last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    /// By a GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// By `grpc.health.v1.Health/Check`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcCheck>,
    /// By a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpCheck>,
    /// Name of the service's port that is asked; absent: the first that is not `udp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Time between two checks, at least 100ms.
    #[serde(default = "five_seconds")]
    pub interval: Duration,
    /// Percent of the interval by which each check is moved at random, 0 to 100.
    #[serde(default = "ten")]
    pub jitter_percent: u32,
    /// How long one check may take; at most the interval.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
    /// Good checks in a row that make an endpoint healthy, at least 1. The first check of all counts at once.
    #[serde(default = "two")]
    pub healthy_threshold: u32,
    /// Bad checks in a row that make it unhealthy, at least 1.
    #[serde(default = "three")]
    pub unhealthy_threshold: u32,
}

/// By a GET.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpCheck {
    /// Path with query.
    #[serde(default = "slash")]
    pub path: String,
    /// Host; absent: the service's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Good statuses: `200`, `200-299`.
    #[serde(default = "success")]
    pub statuses: Vec<String>,
    /// Text that the first 64 KiB of the body must hold; absent: the body is not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// The statuses that a text such as `200` or `200-299` stands for; `None` where it stands for none.
#[must_use]
pub fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| {
        let is_status = text.len() == 3 && text.bytes().all(|it| it.is_ascii_digit());
        let status = text.parse::<u16>().ok().filter(|_| is_status)?;
        (100..=599).contains(&status).then_some(status)
    };
    let (low, high) = (status(low)?, status(high)?);
    (low <= high).then_some(low..=high)
}

/// By `grpc.health.v1.Health/Check`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcCheck {
    /// Service that is asked after; absent: the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// By a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpCheck {}

/// Leaves endpoints alone that answer badly (the semantics of Envoy's outlier detection). Absent thresholds do not
/// count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutlierDetection {
    /// Answers 500 to 599 in a row, and gateway errors and local failures with them.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "consecutive5xx"
    )]
    pub consecutive_5xx: Option<u32>,
    /// Answers 502, 503, 504 in a row, and local failures with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_gateway_errors: Option<u32>,
    /// Refused connections, timeouts and resets in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_local_failures: Option<u32>,
    /// Compares the share of good answers among endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<SuccessRate>,
    /// Looks at the share of bad answers of each endpoint alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_percentage: Option<FailurePercentage>,
    /// Time between two looks at shares.
    #[serde(default = "ten_seconds")]
    pub interval: Duration,
    /// First time out; each further one adds as much.
    #[serde(default = "thirty_seconds")]
    pub base_ejection: Duration,
    /// Longest time out.
    #[serde(default = "default_max_ejection")]
    pub max_ejection: Duration,
    /// Most endpoints that are out at a time, in percent of those that connections are offered to; one may always be, if
    /// there are two.
    #[serde(default = "fifty")]
    pub max_ejected_percent: u32,
}

/// An endpoint whose share of good answers is far below the others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SuccessRate {
    /// Endpoints with enough requests that it takes, at least 2.
    #[serde(default = "five")]
    pub minimum_endpoints: u32,
    /// Requests in an interval that an endpoint needs to be judged.
    #[serde(default = "hundred")]
    pub minimum_requests: u32,
    /// Standard deviations below the mean, in thousandths.
    #[serde(default = "nineteen_hundred")]
    pub deviation_thousandths: u32,
}

/// An endpoint of whose answers too many are bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FailurePercentage {
    /// Percent of bad answers that is too much, 1 to 100.
    #[serde(default = "eighty_five")]
    pub threshold: u32,
    /// Endpoints with enough requests that it takes.
    #[serde(default = "five")]
    pub minimum_endpoints: u32,
    /// Requests in an interval that an endpoint needs to be judged.
    #[serde(default = "fifty")]
    pub minimum_requests: u32,
}

fn slash() -> String {
    "/".to_owned()
}

fn success() -> Vec<String> {
    vec!["200-299".to_owned()]
}

const fn default_timeout() -> Duration {
    DEFAULT_TIMEOUT
}

const fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

const fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

const fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

const fn default_max_ejection() -> Duration {
    DEFAULT_MAX_EJECTION
}

const fn two() -> u32 {
    2
}

const fn three() -> u32 {
    3
}

const fn five() -> u32 {
    5
}

const fn ten() -> u32 {
    10
}

const fn fifty() -> u32 {
    50
}

const fn eighty_five() -> u32 {
    85
}

const fn hundred() -> u32 {
    100
}

const fn nineteen_hundred() -> u32 {
    1900
}
