//! `ReferenceGrant` of the Gateway API: which objects of other namespaces may send to the services of this one. Data,
//! and the one question that is asked of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::object::{API_VERSION, Condition, Kind, Object};

/// A grant of the registry.
pub type ReferenceGrant = Object<ReferenceGrantSpec, ReferenceGrantStatus>;

/// Who may refer to what in the namespace of the grant. Each of `from` may refer to each of `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceGrantSpec {
    /// Who may refer, 1 to 16.
    #[serde(default)]
    pub from: Vec<ReferenceGrantFrom>,
    /// What may be referred to, 1 to 16.
    #[serde(default)]
    pub to: Vec<ReferenceGrantTo>,
}

/// Objects of one kind in one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceGrantFrom {
    /// API group of the kind: `gateway.networking.k8s.io` for routes, `mesh.dev` for a `TrafficPolicy`.
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// Their namespace.
    pub namespace: String,
}

/// Services of the grant's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceGrantTo {
    /// API group of the kind; empty or `core` for a Service.
    pub group: String,
    /// Kind: `Service`.
    pub kind: String,
    /// The one that is meant; absent: all of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What is so with a grant. Written by the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceGrantStatus {
    /// `Accepted`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

impl ReferenceGrantSpec {
    /// Whether objects of `kind` in `namespace` may refer to the service `service` of the grant's namespace.
    #[must_use]
    pub fn permits(&self, kind: Kind, namespace: &str, service: &str) -> bool {
        let group = group_of(kind);
        let is_from = |from: &ReferenceGrantFrom| {
            from.kind == kind.name() && from.group == group && from.namespace == namespace
        };
        let is_to = |to: &ReferenceGrantTo| {
            to.kind == Kind::Service.name()
                && matches!(to.group.as_str(), "" | "core")
                && to.name.as_ref().is_none_or(|name| name == service)
        };
        self.from.iter().any(is_from) && self.to.iter().any(is_to)
    }
}

/// The API group of a kind: what stands before the version.
fn group_of(kind: Kind) -> &'static str {
    let version = kind.api_versions().first().copied();
    let (group, _) = version
        .unwrap_or(API_VERSION)
        .split_once('/')
        .unwrap_or_default();
    group
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kind_group_namespace_and_name_must_all_fit() {
        let grant: ReferenceGrantSpec = serde_json::from_value(json!({
            "from": [
                {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"},
                {"group": "mesh.dev", "kind": "TrafficPolicy", "namespace": "shop"},
                {"group": "mesh.dev", "kind": "TCPRoute", "namespace": "shop"},
            ],
            "to": [{"group": "", "kind": "Service", "name": "web"}, {"group": "", "kind": "Secret"}],
        }))
        .expect("a grant");
        let permits = |kind, namespace, service| grant.permits(kind, namespace, service);
        assert!(permits(Kind::HttpRoute, "shop", "web"));
        assert!(permits(Kind::TrafficPolicy, "shop", "web"));
        assert!(!permits(Kind::TcpRoute, "shop", "web"), "another group");
        assert!(!permits(Kind::GrpcRoute, "shop", "web"));
        assert!(!permits(Kind::HttpRoute, "far", "web"));
        assert!(!permits(Kind::HttpRoute, "shop", "cache"));
    }
}
