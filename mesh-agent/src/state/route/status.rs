//! What the agent tells about a route.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ParentReference;
use crate::state::object::Condition;

/// What is so with a route. Written by the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteStatus {
    /// `Accepted`: it is attached and in force. `ResolvedRefs`: all its backends exist.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The same for each parent that is a Service, as the Gateway API tells it.
    #[serde(default)]
    pub parents: Vec<RouteParentStatus>,
}

/// What is so with a route at one parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteParentStatus {
    /// The parent, as the route names it.
    pub parent_ref: ParentReference,
    /// Who says so: [`CONTROLLER`].
    pub controller_name: String,
    /// `Accepted` at this parent, and `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}

/// What the agent calls itself in the status of a route.
pub const CONTROLLER: &str = "mesh.dev/agent";
