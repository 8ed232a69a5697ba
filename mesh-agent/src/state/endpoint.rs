//! Endpoint: one address that serves a service. Data only.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::object::{Condition, Object};

/// An endpoint of the registry.
pub type Endpoint = Object<EndpointSpec, EndpointStatus>;

/// What is wanted of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSpec {
    /// Name of its service, in the same namespace. The service may come later.
    pub service: String,
    /// Where it listens.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Port of the endpoint per name of the service's port; a port that is not named is the service's own number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// Share of the connections, 0 to 1000; 0 takes none.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Version of what runs there, free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether it is leaving: keeps its connections, takes no new ones.
    #[serde(default)]
    pub draining: bool,
    /// Where it runs, for balancing by nearness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
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

const fn default_weight() -> u32 {
    1
}

/// What is so with an endpoint. Written by the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointStatus {
    /// `Accepted`; `ResolvedRefs`: its service exists.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// How it is, as checks and traffic show it; absent where nobody looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
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

impl EndpointSpec {
    /// The port that serves the service's port `port`.
    #[must_use]
    pub fn port_of(&self, port: &super::service::Port) -> u16 {
        self.ports.get(&port.name).copied().unwrap_or(port.port)
    }
}
