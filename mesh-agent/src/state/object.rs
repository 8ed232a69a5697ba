//! What every object of the registry has: kind, name, revision, conditions. The Kubernetes shape.

use std::fmt;

use litemap::LiteMap;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::source::Source;

/// The version that every object of our own kinds carries in `apiVersion`.
pub const API_VERSION: &str = "mesh.dev/v1alpha1";

/// A kind of object.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
pub enum Kind {
    /// A named set of endpoints behind one or more addresses.
    Service,
    /// One address that serves a service.
    Endpoint,
    /// A pod, process or container of this node.
    Workload,
    /// Who may connect to whom.
    AuthorizationPolicy,
    /// Where the HTTP requests for a service go.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// Where the gRPC calls for a service go.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
    /// Where the opaque connections for a service go.
    #[serde(rename = "TCPRoute")]
    TcpRoute,
    /// Where the TLS connections for a service go.
    #[serde(rename = "TLSRoute")]
    TlsRoute,
    /// Which objects of other namespaces may send to services of this one.
    ReferenceGrant,
    /// How a service or a route is balanced, guarded and shaped.
    TrafficPolicy,
}

impl Kind {
    /// Every kind, in the order in which they are loaded.
    pub const ALL: [Self; 10] = [
        Self::Service,
        Self::Endpoint,
        Self::Workload,
        Self::AuthorizationPolicy,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TcpRoute,
        Self::TlsRoute,
        Self::ReferenceGrant,
        Self::TrafficPolicy,
    ];

    /// The word in `kind`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Endpoint => "Endpoint",
            Self::Workload => "Workload",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::TrafficPolicy => "TrafficPolicy",
        }
    }

    /// What may stand in `apiVersion`; the first is what the agent writes. Kinds of the Gateway API have its versions,
    /// as far as they mean the same.
    #[must_use]
    pub const fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::HttpRoute => &[
                "gateway.networking.k8s.io/v1",
                "gateway.networking.k8s.io/v1beta1",
            ],
            Self::GrpcRoute => &["gateway.networking.k8s.io/v1"],
            Self::TcpRoute => &[
                "gateway.networking.k8s.io/v1alpha2",
                "gateway.networking.k8s.io/v1",
            ],
            Self::TlsRoute => &[
                "gateway.networking.k8s.io/v1",
                "gateway.networking.k8s.io/v1alpha3",
                "gateway.networking.k8s.io/v1alpha2",
            ],
            Self::ReferenceGrant => &[
                "gateway.networking.k8s.io/v1beta1",
                "gateway.networking.k8s.io/v1",
            ],
            Self::Service
            | Self::Endpoint
            | Self::Workload
            | Self::AuthorizationPolicy
            | Self::TrafficPolicy => &[API_VERSION],
        }
    }

    /// The word in paths of the API.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::Endpoint => "endpoints",
            Self::Workload => "workloads",
            Self::AuthorizationPolicy => "authorizationpolicies",
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
            Self::TcpRoute => "tcproutes",
            Self::TlsRoute => "tlsroutes",
            Self::ReferenceGrant => "referencegrants",
            Self::TrafficPolicy => "trafficpolicies",
        }
    }

    /// The kind with a word in paths of the API.
    #[must_use]
    pub fn from_plural(plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.plural() == plural)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What names an object among those of its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: String,
    /// The name, unique per kind and namespace.
    pub name: String,
}

impl ObjectKey {
    /// Joins a namespace and a name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An object as the API shows it and the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Object<S, T: Default> {
    /// `mesh.dev/v1alpha1`, or a version of the Gateway API for its kinds.
    pub api_version: String,
    /// What it is.
    pub kind: Kind,
    /// What names it.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: S,
    /// What is. Written by the agent only; ignored in requests.
    #[serde(default)]
    pub status: T,
}

impl<S, T: Default> Object<S, T> {
    /// What names it among those of its kind.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.metadata.namespace, &self.metadata.name)
    }
}

/// Texts by name, mostly few or none: a tree would take half a kilobyte for the first.
pub type Texts = LiteMap<String, String>;

/// In a request: no version is to be replaced, the object must not be there.
pub const ABSENT: &str = "0";

/// What names an object, and which write made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// A DNS label or subdomain (RFC 1123), at most 253 bytes.
    pub name: String,
    /// A DNS label (RFC 1123), at most 63 bytes.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Free labels.
    #[serde(default, skip_serializing_if = "Texts::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub labels: Texts,
    /// Free notes; at most 256 KiB together.
    #[serde(default, skip_serializing_if = "Texts::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub annotations: Texts,
    /// Counts the changes of `spec`. Written by the agent.
    #[serde(default)]
    pub generation: u64,
    /// The write that made this version, as a decimal number. In a request: the version that is to be replaced, or `0`
    /// where there must be none. That of an object of the Gateway API whose `uid` is not ours was given by an API server
    /// of Kubernetes, and is ignored.
    #[serde(default)]
    pub resource_version: String,
    /// Names this object, also against a later one of the same name. Written by the agent.
    #[serde(default)]
    pub uid: String,
    /// When it was made, RFC 3339. Written by the agent.
    #[serde(default)]
    pub creation_timestamp: String,
    /// The same, by the name that goes with `updatedAt`. Written by the agent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_at: String,
    /// When somebody wrote the object last (not its status), RFC 3339. Written by the agent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub updated_at: String,
    /// Whose it is. Written by the agent.
    #[serde(default)]
    pub source: Source,
    /// What holds it there: of `files` the file, as a path in the folder. Written by the agent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// One thing that is so, or not, with an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    /// What is judged, for example `Accepted`, `Programmed`, `Enrolled`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// One word, for machines.
    pub reason: String,
    /// A sentence, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The generation of the object that was judged.
    #[serde(default)]
    pub observed_generation: u64,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Not known yet.
    Unknown,
}
