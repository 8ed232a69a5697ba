//! What all kinds of object have in common, so that the store is written once.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::endpoint::Endpoint;
use super::grpc_route::GrpcRoute;
use super::http_route::HttpRoute;
use super::object::{Condition, Kind, Metadata};
use super::policy::AuthorizationPolicy;
use super::reference_grant::ReferenceGrant;
use super::service::Service;
use super::stream_route::{TcpRoute, TlsRoute};
use super::traffic_policy::TrafficPolicy;
use super::workload::Workload;
use super::{Manifest, Objects, Snapshot};

/// An object of the registry.
pub trait Resource: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its kind.
    const KIND: Kind;

    /// All of this kind.
    fn all(snapshot: &Snapshot) -> &Objects<Self>;

    /// All of this kind, to be changed.
    fn all_mut(snapshot: &mut Snapshot) -> &mut Objects<Self>;

    /// What names it.
    fn metadata(&self) -> &Metadata;

    /// What names it, to be changed.
    fn metadata_mut(&mut self) -> &mut Metadata;

    /// What is so with it.
    fn conditions(&self) -> &[Condition];

    /// What is so with it, to be changed.
    fn conditions_mut(&mut self) -> &mut Vec<Condition>;

    /// Whether `spec` is the same.
    fn has_same_spec(&self, other: &Self) -> bool;

    /// Takes over what the agent has written into `status`.
    fn keep_status(&mut self, old: &Self);

    /// Drops what somebody else has written into `status`.
    fn reset_status(&mut self);

    /// As an object of any kind.
    fn into_manifest(object: Arc<Self>) -> Manifest;
}

macro_rules! resource {
    ($type:ident, $all:ident) => {
        impl Resource for $type {
            const KIND: Kind = Kind::$type;

            fn all(snapshot: &Snapshot) -> &Objects<Self> {
                &snapshot.$all
            }

            fn all_mut(snapshot: &mut Snapshot) -> &mut Objects<Self> {
                &mut snapshot.$all
            }

            fn metadata(&self) -> &Metadata {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut Metadata {
                &mut self.metadata
            }

            fn conditions(&self) -> &[Condition] {
                &self.status.conditions
            }

            fn conditions_mut(&mut self) -> &mut Vec<Condition> {
                &mut self.status.conditions
            }

            fn has_same_spec(&self, other: &Self) -> bool {
                self.spec == other.spec
            }

            fn keep_status(&mut self, old: &Self) {
                self.status = old.status.clone();
            }

            fn reset_status(&mut self) {
                self.status = Default::default();
            }

            fn into_manifest(object: Arc<Self>) -> Manifest {
                Manifest::$type(object)
            }
        }
    };
}

resource!(Service, services);
resource!(Endpoint, endpoints);
resource!(Workload, workloads);
resource!(AuthorizationPolicy, policies);
resource!(HttpRoute, http_routes);
resource!(GrpcRoute, grpc_routes);
resource!(TcpRoute, tcp_routes);
resource!(TlsRoute, tls_routes);
resource!(ReferenceGrant, reference_grants);
resource!(TrafficPolicy, traffic_policies);

/// Does the same for whatever kind it is: `$resource` names its type in `$body`.
macro_rules! with_kind {
    ($kind:expr, $resource:ident => $body:expr) => {
        with_kind!(@each $kind, $resource, $body,
            Service = crate::state::service::Service,
            Endpoint = crate::state::endpoint::Endpoint,
            Workload = crate::state::workload::Workload,
            AuthorizationPolicy = crate::state::policy::AuthorizationPolicy,
            HttpRoute = crate::state::http_route::HttpRoute,
            GrpcRoute = crate::state::grpc_route::GrpcRoute,
            TcpRoute = crate::state::stream_route::TcpRoute,
            TlsRoute = crate::state::stream_route::TlsRoute,
            ReferenceGrant = crate::state::reference_grant::ReferenceGrant,
            TrafficPolicy = crate::state::traffic_policy::TrafficPolicy,
        )
    };
    (@each $kind:expr, $resource:ident, $body:expr, $($variant:ident = $type:path,)*) => {
        match $kind {
            $(crate::state::object::Kind::$variant => {
                type $resource = $type;
                $body
            })*
        }
    };
}
pub(crate) use with_kind;
