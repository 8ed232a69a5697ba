//! `GRPCRoute` of the Gateway API. Data only; `traffic::route` compiles it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::object::Object;
use super::route::{
    HttpBackendRef, HttpFilter, NameMatch, ParentReference, RouteStatus, SessionPersistence,
    StringMatchType,
};

/// A gRPC route of the registry.
pub type GrpcRoute = Object<GrpcRouteSpec, RouteStatus>;

/// Where calls go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteSpec {
    /// What it is attached to, 1 to 32.
    #[serde(default)]
    pub parent_refs: Vec<ParentReference>,
    /// Hosts that it is for, at most 16; `*` may be the first label. Absent: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// What happens to which calls; absent: nothing matches.
    #[serde(default)]
    pub rules: Vec<GrpcRouteRule>,
}

/// What happens to the calls that match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteRule {
    /// Name, unique in the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Any of these; absent: all calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<GrpcRouteMatch>,
    /// What is done to the call and its response: headers and mirrors only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<HttpFilter>,
    /// Who answers; a rule without answers UNAVAILABLE.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<HttpBackendRef>,
    /// GEP-1619.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
}

/// Calls: all fields must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteMatch {
    /// Service and method; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<GrpcMethodMatch>,
    /// All of these headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<NameMatch>,
}

/// A gRPC method; at least one of `service` and `method`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMethodMatch {
    /// How both are compared.
    #[serde(default, rename = "type")]
    pub kind: StringMatchType,
    /// Full name of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Name of the method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}
