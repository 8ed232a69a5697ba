//! `TCPRoute` and `TLSRoute` of the Gateway API. Data only; `traffic::route` compiles it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::object::Object;
use super::route::{BackendRef, ParentReference, RouteStatus};

/// A TCP route of the registry.
pub type TcpRoute = Object<TcpRouteSpec, RouteStatus>;

/// A TLS route of the registry.
pub type TlsRoute = Object<TlsRouteSpec, RouteStatus>;

/// Where connections go. To a port whose protocol is detected: all of them, whatever they speak.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpRouteSpec {
    /// What it is attached to, 1 to 32.
    #[serde(default)]
    pub parent_refs: Vec<ParentReference>,
    /// Exactly one is in force: nothing tells connections apart.
    pub rules: Vec<StreamRouteRule>,
}

/// Where TLS connections go, by the name that the client asks for. They are not terminated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsRouteSpec {
    /// What it is attached to, 1 to 32.
    #[serde(default)]
    pub parent_refs: Vec<ParentReference>,
    /// Names of the server (SNI), at most 1024; `*` may be the first label. Absent: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Exactly one is in force.
    pub rules: Vec<StreamRouteRule>,
}

/// Who takes the connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamRouteRule {
    /// Name, unique in the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// By weight; a share without a valid backend is reset.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendRef>,
}
