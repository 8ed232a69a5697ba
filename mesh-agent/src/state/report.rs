//! What the agent tells about itself: the answers of the API that are not objects. Data only, so that the engines can
//! fill them and the API can show them without knowing each other.

mod sources;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

pub use sources::{RegistryReport, RejectionReport, SourceReport};

use super::Snapshot;
use super::traffic_policy::TrafficPolicy;

/// Coverage of one workload: where its connections went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Coverage {
    /// Namespace of the workload.
    pub namespace: String,
    /// Name of the workload.
    pub name: String,
    /// Connections that went through the proxy.
    pub captured: u64,
    /// Connections balanced in the kernel.
    pub direct: u64,
    /// Connections that went where they were dialled.
    pub passed: u64,
    /// Connections that were refused.
    pub denied: u64,
    /// Connections that left without a verdict.
    pub bypassed: u64,
    /// Connections by reason, over all verdicts.
    pub reasons: BTreeMap<String, u64>,
}

/// `GET /api/v1/coverage`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CoverageList {
    /// One per workload.
    pub items: Vec<Coverage>,
}

/// One circuit breaker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Breaker {
    /// What its policy is for: `Service`, `HTTPRoute`, `GRPCRoute`.
    pub kind: String,
    /// Namespace of that.
    pub namespace: String,
    /// Name of that.
    pub name: String,
    /// The rule of the route, where it is for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// `namespace/name:port` of the endpoint, where each has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// `closed` (traffic flows), `half-open` (few requests try) or `open`.
    pub state: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// How often it has opened since the policy was written or the agent started.
    pub openings: u64,
}

/// `GET /api/v1/breakers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BreakerList {
    /// One per service or route that has one, and one per endpoint that was asked.
    pub items: Vec<Breaker>,
}

/// One live (or just closed) connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// The caller: `namespace/name` of its workload, with its address.
    pub source: Party,
    /// Where the connection went.
    #[schema(value_type = String)]
    pub destination: SocketAddr,
    /// What was dialled.
    #[schema(value_type = String)]
    pub original: SocketAddr,
    /// `namespace/name` of the service, if any.
    pub service: Option<String>,
    /// `pass`, `direct`, `proxy`.
    pub verdict: String,
    /// What the service's port says it speaks, or `unknown`.
    pub protocol: String,
    /// Bytes from the caller that the peer has acknowledged or, accelerated, was handed.
    pub bytes_sent: u64,
    /// Bytes to the caller.
    pub bytes_received: u64,
    /// Smoothed round trip.
    pub rtt_micros: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// Whether bytes move from socket to socket.
    pub accelerated: bool,
    /// Whether it is closed; closed connections are shown for a short while with their final values.
    pub closed: bool,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    /// `namespace/name` of the workload.
    pub workload: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: SocketAddr,
}

/// `GET /api/v1/connections`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConnectionList {
    /// Live connections first.
    pub items: Vec<Connection>,
}

/// How a workload dials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// It opens connections.
    #[default]
    Tcp,
    /// It sends datagrams.
    Udp,
}

/// `GET /api/v1/explain`: what would happen to a connection now, by the same code and maps as in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `pass`, `direct`, `proxy`, `deny`.
    pub verdict: String,
    /// Why, one word.
    pub reason: String,
    /// `namespace/name` of the service, if any.
    pub service: Option<String>,
    /// `direct` or `proxy`, if it is a service.
    pub mode: Option<String>,
    /// `namespace/name` of the policies that speak of the destination.
    pub policy: Vec<String>,
    /// The endpoints that may be picked, `address:port`; none where the proxy carries the connection and routes decide.
    pub endpoints: Vec<String>,
    /// Where a request would go, if one was asked about and the proxy carries the connection. Where TCP or TLS routes
    /// decide, where the connection would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestExplanation>,
}

/// A request that might be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestQuestion {
    /// The method.
    pub method: String,
    /// The path, with the query.
    pub path: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
}

/// Where a request would go now, by the same code as on the way of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestExplanation {
    /// The path in its one spelling, by which routes are chosen.
    pub path: String,
    /// `namespace/route/rule`, if a route matches; the rule by its name or its number.
    pub rule: Option<String>,
    /// The status, if the proxy would answer itself.
    pub status: Option<u16>,
    /// Why, one word: `route`, `no-routes`, `no-route`, `redirect`, `preflight`, `bad-backend`, `bad-filter`,
    /// `bad-request` with more; `opaque` where the proxy does not look for requests.
    pub reason: String,
    /// What is done to the request, by the filters of the rule.
    pub filters: Vec<String>,
    /// Who answers, with shares.
    pub backends: Vec<BackendExplanation>,
    /// How long the request may take.
    pub request_timeout_millis: Option<u64>,
    /// How long one attempt may take.
    pub attempt_timeout_millis: Option<u64>,
    /// The authorization policies that speak of the endpoints below, `namespace/name`.
    #[serde(default)]
    pub authorization: Vec<String>,
    /// The traffic policies that hold, `namespace/name`, the most specific first.
    pub policies: Vec<String>,
    /// What they say that may refuse, delay or repeat it.
    #[serde(default)]
    pub limits: Vec<LimitExplanation>,
}

/// Something that a policy says about a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitExplanation {
    /// The field of the policy, for example `rateLimits`; `retry` for that of the rule itself.
    pub field: String,
    /// `namespace/name` of the policy; absent: the rule of the route.
    pub policy: Option<String>,
    /// What stands there.
    #[schema(value_type = Object)]
    pub says: Value,
    /// How it stands now: `closed`, `open` or `half-open` for a circuit breaker, the limit for adaptive concurrency.
    pub state: Option<String>,
}

/// A share of the requests of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendExplanation {
    /// `namespace/name:port`.
    pub service: String,
    /// The names that TLS clients ask for whose connections it gets; none: those of all.
    #[serde(default)]
    pub names: Vec<String>,
    /// The status, if the proxy would answer this share itself.
    #[serde(default)]
    pub status: Option<u16>,
    /// Its share ..
    pub weight: u64,
    /// .. of so much.
    pub of: u64,
    /// Whether there is no such service: the share is answered with 500.
    pub is_missing: bool,
    /// What is done to this share only.
    pub filters: Vec<String>,
    /// Who may be asked: of the subsets, where the policies name some.
    pub endpoints: Vec<EndpointExplanation>,
    /// Who takes over, in order, when none of them is well.
    #[serde(default)]
    pub failover: Vec<FailoverExplanation>,
    /// The traffic policies of the service.
    pub policies: Vec<String>,
    /// What they say of its endpoints and, where another service was asked, of all that is sent there.
    #[serde(default)]
    pub limits: Vec<LimitExplanation>,
}

/// A service that takes over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverExplanation {
    /// `namespace/name:port`.
    pub service: String,
    /// Whether it cannot: it has no such port that speaks the same, or may not be sent to.
    pub is_missing: bool,
    /// Who may be asked then.
    pub endpoints: Vec<EndpointExplanation>,
}

/// An endpoint that may be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointExplanation {
    /// `namespace/name`.
    pub name: String,
    /// `address:port`.
    pub address: String,
    /// Whether it takes requests, in one word: `ready`, or why not, for example `ejected`, `breaker-open`, or `denied`
    /// where authorization does not admit the caller.
    pub state: String,
}

/// `GET /api/v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Whether it is ready; if not, `pending` says what is missing.
    pub ready: bool,
    /// What readiness waits for.
    pub pending: Vec<String>,
    /// Whether it is draining.
    pub draining: bool,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Revision of the registry.
    pub revision: u64,
    /// The last revision that is wholly in the kernel, and that the proxy follows.
    pub programmed_revision: u64,
    /// The hooked cgroup.
    pub cgroup: String,
    /// The directory of pinned maps and links.
    pub pin_dir: String,
    /// Inode of the agent's network namespace, in which cgroups tell workloads apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_namespace: Option<u64>,
    /// Kernel release.
    pub kernel: String,
    /// Acceleration: `on`, or `off` with why.
    pub acceleration: Acceleration,
    /// Number of objects by kind.
    pub objects: BTreeMap<String, u64>,
    /// Threads of the data plane.
    pub workers: u64,
    /// Connections that the proxy carries now.
    pub proxied_connections: u64,
    /// Policies that inject faults at the moment.
    #[serde(default)]
    pub faults: Vec<FaultReport>,
    /// The registry that several nodes share, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<RegistryReport>,
    /// Where objects come from beside the API, and how that is.
    #[serde(default)]
    pub sources: Vec<SourceReport>,
}

/// A policy that injects faults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultReport {
    /// `namespace/name` of the policy.
    pub policy: String,
    /// Kind and name of what it is for.
    pub target: String,
    /// How many faults.
    pub count: u64,
}

impl FaultReport {
    /// Those of all policies that are in force, where somebody sends requests.
    #[must_use]
    pub fn all(snapshot: &Snapshot) -> Vec<Self> {
        let policies = snapshot.traffic_policies.values();
        let injects = |policy: &TrafficPolicy| {
            let idle = snapshot.idle(policy);
            idle.is_none_or(|it| !it.fields.iter().any(|field| field == "faults"))
        };
        policies
            .filter(|it| !it.spec.faults.is_empty() && it.is_in_force() && injects(it))
            .map(|it| Self {
                policy: it.key().to_string(),
                target: format!("{} {}", it.spec.target.kind, it.spec.target.name),
                count: it.spec.faults.len() as u64,
            })
            .collect()
    }
}

/// Whether acceleration is on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Acceleration {
    /// Whether sockets of workloads that ask for it are paired.
    pub enabled: bool,
    /// Why not.
    pub reason: String,
}

/// One kernel map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MapReport {
    /// Its name.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Most entries it can have.
    pub capacity: u64,
}

/// One kernel program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProgramReport {
    /// Its name.
    pub name: String,
    /// Its number in the kernel.
    pub id: u32,
    /// Where it is attached.
    pub attached: String,
}

/// `GET /api/v1/bpf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BpfReport {
    /// The maps.
    pub maps: Vec<MapReport>,
    /// The programs.
    pub programs: Vec<ProgramReport>,
}
