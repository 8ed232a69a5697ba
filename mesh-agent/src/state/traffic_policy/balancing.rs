//! Which endpoint takes a request.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::state::duration::Duration;
use crate::state::endpoint::Endpoint;
use crate::state::route::SessionPersistence;
use crate::state::service::Balancing;

/// `panicThreshold` where a policy has none and endpoints are checked or watched, in percent.
pub const DEFAULT_PANIC_THRESHOLD: u32 = 50;

/// Which endpoint takes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancing {
    /// How one is picked; absent: as the service says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// What is hashed; needed for `RingHash` and `Maglev`, refused for all others. A request without it is balanced at
    /// random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_on: Option<HashOn>,
    /// Requests of one client go to one endpoint as long as it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
    /// A new endpoint gets its full share only after a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// Endpoints nearby go first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<LocalityPreference>,
    /// Services that take over, in order, when no endpoint of this one is healthy. What their own policies limit holds;
    /// where one refuses, the next is asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<Failover>,
    /// Only these endpoints; each subset takes its share. The share of one that no endpoint is in goes to the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subsets: Vec<Subset>,
    /// Percent of healthy endpoints below which health is ignored, because the rest would not bear the load; 0: never.
    /// With `locality` that is not so while the healthy ones of all distances, by `minHealthyPercent`, bear the load.
    /// Absent: 50 where endpoints are checked or watched for outliers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panic_threshold: Option<u32>,
}

/// How an endpoint is picked. All go by weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum Algorithm {
    /// Each in turn, weights included.
    RoundRobin,
    /// The same: smooth weighted round robin.
    WeightedRoundRobin,
    /// Any.
    Random,
    /// Of two picked at random the one with fewer requests under way.
    #[default]
    LeastRequest,
    /// Of two picked at random the one with the lower product of recent latency and requests under way.
    PeakEwma,
    /// Consistent hashing on a ring.
    RingHash,
    /// Consistent hashing by Maglev's table.
    Maglev,
}

impl Algorithm {
    /// The same as the kernel does it, where it can.
    #[must_use]
    pub const fn in_kernel(self) -> Option<Balancing> {
        match self {
            Self::RoundRobin | Self::WeightedRoundRobin => Some(Balancing::RoundRobin),
            Self::Random => Some(Balancing::Random),
            Self::LeastRequest => Some(Balancing::LeastRequest),
            Self::PeakEwma | Self::RingHash | Self::Maglev => None,
        }
    }
}

/// What is hashed: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HashOn {
    /// Value of a request header; of `host` the host and port that the endpoint is asked for, by whatever version of HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Value of a cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// Value of a query parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Address of the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<bool>,
    /// Path without query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<bool>,
}

/// The share of an endpoint grows linearly from when connections are offered to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SlowStart {
    /// Time until the full share.
    pub window: Duration,
    /// Percent of the share at the start, 1 to 100.
    #[serde(default = "ten")]
    pub min_weight_percent: u32,
}

const fn ten() -> u32 {
    10
}

/// Endpoints nearby go first, as far as they can bear it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalityPreference {
    /// From near to far; endpoints that share nothing come last.
    #[serde(default = "everywhere")]
    pub prefer: Vec<LocalityLevel>,
    /// A place keeps all traffic as long as this percent of its endpoints is healthy; below, the missing share spills
    /// over to the next place (Envoy's overprovisioning factor of 1.4 is 71 percent). 1 to 100.
    #[serde(default = "seventy_one")]
    pub min_healthy_percent: u32,
}

fn everywhere() -> Vec<LocalityLevel> {
    vec![
        LocalityLevel::Node,
        LocalityLevel::Zone,
        LocalityLevel::Region,
    ]
}

const fn seventy_one() -> u32 {
    71
}

/// How near an endpoint is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
pub enum LocalityLevel {
    /// On the same node.
    Node,
    /// In the same zone (and region).
    Zone,
    /// In the same region.
    Region,
}

/// A service that takes over: for the ports whose number it has (or `port`), where it speaks the same protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failover {
    /// Its name.
    pub service: String,
    /// Its namespace; absent: that of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its port; absent: the number that was dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Endpoints that have a version, labels, or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subset {
    /// Version of the endpoint; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Labels that the endpoint has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Share of the requests, 0 to 1000.
    #[serde(default = "one")]
    pub weight: u32,
}

impl Subset {
    /// Whether an endpoint is one of them.
    #[must_use]
    pub fn has(&self, endpoint: &Endpoint) -> bool {
        let labels = &endpoint.metadata.labels;
        let has_label = |(name, value): (&String, &String)| labels.get(name) == Some(value);
        let is_version = |it: &String| endpoint.spec.version.as_ref() == Some(it);
        self.version.as_ref().is_none_or(is_version) && self.labels.iter().all(has_label)
    }
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.iter().map(|it| format!("version {it}"));
        let labels = self.labels.iter().map(|(name, it)| format!("{name}={it}"));
        let words: Vec<_> = version.chain(labels).collect();
        f.write_str(&words.join(", "))
    }
}

const fn one() -> u32 {
    1
}
