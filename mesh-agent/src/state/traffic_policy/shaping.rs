//! How much is let through, and what is put in the way for tests.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::state::duration::Duration;
use crate::state::route::NameMatch;

/// A token bucket, exact on the node. Exactly one of `requests`, `connections` and `bytes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// Requests per `per`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// New connections per `per`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Bytes of opaque connections per `per`, both ways together; always smoothed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The time, 1ms to 24h.
    #[serde(default = "one_second")]
    pub per: Duration,
    /// How many may come at once after a pause; absent: `requests`, `connections` or `bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// What has a bucket of its own: `sourceWorkload`, `sourceIdentity`, `header:NAME` (of `host`: the host and port
    /// that a request names, by whatever version of HTTP); absent: one for all. At most 10,000 buckets of a limit are kept;
    /// beyond that those are forgotten that are nearest to full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<String>,
    /// What happens to what is too much.
    #[serde(default)]
    pub mode: RateLimitMode,
    /// Longest delay of `Smooth`, at most 60s.
    #[serde(default = "one_second")]
    pub max_delay: Duration,
}

/// What happens to what is too much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum RateLimitMode {
    /// It is refused: 429, `RESOURCE_EXHAUSTED`, or a reset.
    #[default]
    Refuse,
    /// It waits for its turn, up to `maxDelay`; what would wait longer is refused.
    Smooth,
}

/// `minRequests` where none is written.
pub const DEFAULT_MIN_REQUESTS: u32 = 3;

/// Finds the number of requests at which a service works best, by the gradient of its latency (Envoy's adaptive
/// concurrency, Netflix's concurrency-limits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdaptiveConcurrency {
    /// Never fewer.
    #[serde(default = "default_min_requests")]
    pub min_requests: u32,
    /// Never more.
    #[serde(default = "thousand")]
    pub max_requests: u32,
    /// Time between two changes.
    #[serde(default = "tenth")]
    pub interval: Duration,
    /// Time between two measurements of the latency without load.
    #[serde(default = "minute")]
    pub baseline_interval: Duration,
}

/// Who is shed last.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
pub enum Priority {
    /// Shed first.
    Low,
    /// As everything without a policy.
    #[default]
    Normal,
    /// Shed last.
    High,
}

/// A failure or delay for some requests. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Request headers that must be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<NameMatch>,
    /// Callers, any of them; absent: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<FaultSource>,
    /// Makes them wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Makes them fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
}

/// A caller. All fields must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultSource {
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
}

/// Makes some wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultDelay {
    /// How long, at most 60s.
    pub fixed: Duration,
    /// Percent of the requests, 0 to 100.
    #[serde(default = "hundred")]
    pub percent: u32,
}

/// Makes some fail. Exactly one of `status` and `grpc`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultAbort {
    /// Status, 200 to 599.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Code of gRPC, such as `UNAVAILABLE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// Percent of the requests, 0 to 100.
    #[serde(default = "hundred")]
    pub percent: u32,
}

const fn one_second() -> Duration {
    Duration::from_secs(1)
}

const fn tenth() -> Duration {
    Duration::from_millis(100)
}

const fn minute() -> Duration {
    Duration::from_secs(60)
}

const fn default_min_requests() -> u32 {
    DEFAULT_MIN_REQUESTS
}

const fn hundred() -> u32 {
    100
}

const fn thousand() -> u32 {
    1000
}
