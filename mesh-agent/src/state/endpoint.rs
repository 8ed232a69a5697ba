//! Endpoint: one address that serves a service. Data only.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::check::{Check, CheckStatus};
use super::duration::Duration;
use super::life::{Availability, Event};
use super::object::{Condition, Object, ObjectKey};

/// An endpoint of the registry.
pub type Endpoint = Object<EndpointSpec, EndpointStatus>;

/// What is wanted of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSpec {
    /// Name of its service, in the same namespace. The service may come later.
    pub service: String,
    /// Where it listens; absent where `hostname` is given.
    #[serde(default = "nowhere", skip_serializing_if = "IpAddr::is_unspecified")]
    #[schema(value_type = Option<String>)]
    pub address: IpAddr,
    /// A name outside the mesh instead of an address: for each of its addresses the agent keeps an endpoint like this one.
    /// One whose address is not in the answer any more takes no new connections, and goes when its last one has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Port of the endpoint per name of the service's port.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// Port of the endpoint for every port of the service that `ports` does not name; absent: the service's own number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Share of the connections, 0 to 1000; 0 takes none. The short form of `weights.passing`.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Shares by status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    /// Version of what runs there, free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether it is leaving: keeps its connections, takes no new ones. The short form of `lifecycle: draining`.
    #[serde(default)]
    pub draining: bool,
    /// Whether it has come, and whether it is leaving.
    #[serde(default, skip_serializing_if = "Lifecycle::is_ready")]
    pub lifecycle: Lifecycle,
    /// While it is draining: it is deleted when its last connection of this node has ended, or after so long, 1s to 24h;
    /// absent: it stays until somebody deletes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_for: Option<Duration>,
    /// Takes it out for a while: it gets no new connections, and its health is critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    /// How it is found out whether it is well; at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// Free words; at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Free names and values; at most 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// Where it runs, for balancing by nearness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
}

/// Shares of the connections by status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Weights {
    /// While it passes, 0 to 1000.
    #[serde(default = "default_weight")]
    pub passing: u32,
    /// While there is a warning, 0 to 1000; absent: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<u32>,
}

/// Where an endpoint is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Lifecycle {
    /// It is not ready yet, and gets nothing.
    Starting,
    /// It takes its share.
    #[default]
    Ready,
    /// It is leaving: keeps its connections, takes no new ones.
    Draining,
}

impl Lifecycle {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature is serde's"
    )]
    fn is_ready(&self) -> bool {
        *self == Self::Ready
    }
}

/// Why an endpoint is taken out for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Maintenance {
    /// For people, at most 1024 bytes.
    #[serde(default)]
    pub reason: String,
}

/// Where something runs. Free text, compared byte for byte; a zone is one of its region, a node one of its zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Locality {
    /// Region, as `topology.kubernetes.io/region`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Zone, as `topology.kubernetes.io/zone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Name of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

const fn nowhere() -> IpAddr {
    IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

const fn default_weight() -> u32 {
    1
}

/// What is so with an endpoint. Written by the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointStatus {
    /// `Accepted`; `ResolvedRefs`: its service exists. With a `hostname` also `Resolved`: it has addresses.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// How it is, as checks and traffic show it: the worst of all; absent where nobody looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What each check has shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckStatus>,
    /// Whether it serves, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability: Option<Availability>,
    /// How it stood of late: the last 10 changes, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Event>,
}

/// How an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Health {
    /// In one word.
    pub status: HealthStatus,
    /// Since when, RFC 3339.
    pub since: String,
    /// What was seen last, in a sentence.
    pub output: String,
}

/// How an endpoint is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// It takes its share.
    Passing,
    /// It takes its share, and something is wrong: put aside for a while because of its answers.
    Warning,
    /// It takes nothing, unless all others are worse.
    Critical,
}

impl Endpoint {
    /// The service that it serves.
    #[must_use]
    pub fn service_key(&self) -> ObjectKey {
        ObjectKey::new(&self.metadata.namespace, &self.spec.service)
    }
}

impl EndpointSpec {
    /// An endpoint of a service, with nothing said that need not be.
    #[must_use]
    pub fn new(service: &str, address: IpAddr) -> Self {
        Self {
            service: service.to_owned(),
            address,
            hostname: None,
            ports: BTreeMap::new(),
            port: None,
            weight: default_weight(),
            weights: None,
            version: None,
            draining: false,
            lifecycle: Lifecycle::default(),
            drain_for: None,
            maintenance: None,
            checks: Vec::new(),
            tags: Vec::new(),
            meta: BTreeMap::new(),
            locality: None,
        }
    }

    /// The port that serves the service's port `port`.
    #[must_use]
    pub fn port_of(&self, port: &super::service::Port) -> u16 {
        let named = self.ports.get(&port.name).copied();
        named.or(self.port).unwrap_or(port.port)
    }
}

impl Endpoint {
    /// The name of the endpoint with a `hostname` that this one is an address of. It is what this node has found, and
    /// may be another elsewhere: it is neither shared with other nodes nor exported.
    #[must_use]
    pub fn resolved_for(&self) -> Option<&str> {
        let name = self.metadata.annotations.get(RESOLVED_FOR)?;
        Some(name)
    }

    /// Whether its name does not answer with its address any more. Nobody is sent there; when its last connection of this
    /// node has ended, it is deleted.
    #[must_use]
    pub fn has_left_name(&self) -> bool {
        self.resolved_for().is_some() && self.metadata.annotations.contains_key(LEFT_NAME)
    }

    /// Says that a workload has a hand in it: one that may register itself from its own network namespace.
    pub fn mark_as_of_workload(&mut self) {
        let annotations = &mut self.metadata.annotations;
        annotations.insert(OF_WORKLOAD.to_owned(), "true".to_owned());
    }

    /// Whether a workload has a hand in it: its checks are the words of that workload, and are made from there only.
    #[must_use]
    pub fn is_of_workload(&self) -> bool {
        self.metadata.annotations.contains_key(OF_WORKLOAD)
    }
}

/// The annotation of an endpoint that a workload has registered or changed itself.
const OF_WORKLOAD: &str = "mesh.dev/of-workload";

/// The annotation that tells of which endpoint with a `hostname` this one is an address.
pub const RESOLVED_FOR: &str = "mesh.dev/resolved-for";

/// The annotation of an endpoint whose address is in no answer to its name any more, while it has connections.
pub const LEFT_NAME: &str = "mesh.dev/left-name";
