//! The model: objects, their rules, and the one store that holds the current view.
//!
//! Every source of change (API, files) ends in [`Store::apply`]; everybody else reads a [`Snapshot`], which is
//! immutable, and is held for one decision, never for the life of a connection.

pub mod affected;
pub mod attach;
pub mod change;
pub mod check;
pub mod decode;
pub mod document;
mod draft;
pub mod duration;
pub mod endpoint;
pub mod expression;
pub mod graph;
pub mod grpc_route;
pub mod http_route;
pub mod id;
pub mod life;
mod links;
pub mod object;
pub mod persist;
pub mod policy;
pub mod reference;
pub mod reference_grant;
pub mod registration;
pub mod report;
pub mod resource;
pub mod route;
pub mod service;
mod settle;
pub mod source;
pub mod store;
pub mod stream_route;
pub mod traffic_policy;
pub mod validate;
pub mod virtual_address;
pub mod workload;
pub mod writer;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use imbl::OrdMap;

pub use change::{Applied, Change, Manifest, Notice, Refusal};
pub use id::Ids;
pub use source::{Origin, Source};
pub use store::Store;
pub use writer::Writer;

use endpoint::Endpoint;
use grpc_route::GrpcRoute;
use http_route::HttpRoute;
use id::Subject;
use links::{Links, Role};
use object::{Kind, ObjectKey};
use policy::AuthorizationPolicy;
use reference_grant::ReferenceGrant;
use resource::{Resource, with_kind};
use service::Service;
use stream_route::{TcpRoute, TlsRoute};
use traffic_policy::TrafficPolicy;
use workload::Workload;

/// Objects of one kind, by key. Cheap to clone: what did not change is shared between snapshots, and
/// [`OrdMap::diff`] finds what did without a look at the rest.
pub type Objects<T> = OrdMap<ObjectKey, Arc<T>>;

/// One immutable view of everything.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The write that made this view.
    pub revision: u64,
    /// All services.
    pub services: Objects<Service>,
    /// All endpoints.
    pub endpoints: Objects<Endpoint>,
    /// All workloads.
    pub workloads: Objects<Workload>,
    /// All authorization policies.
    pub policies: Objects<AuthorizationPolicy>,
    /// All HTTP routes.
    pub http_routes: Objects<HttpRoute>,
    /// All gRPC routes.
    pub grpc_routes: Objects<GrpcRoute>,
    /// All TCP routes.
    pub tcp_routes: Objects<TcpRoute>,
    /// All TLS routes.
    pub tls_routes: Objects<TlsRoute>,
    /// All grants.
    pub reference_grants: Objects<ReferenceGrant>,
    /// All traffic policies.
    pub traffic_policies: Objects<TrafficPolicy>,
    /// The numbers by which the kernel knows them.
    pub ids: Ids,
    /// Who refers to whom, and who is where: made of the objects above when it is first asked for, and kept true by the store.
    pub(crate) links: OnceLock<Arc<Links>>,
}

impl Snapshot {
    /// Every object, kind after kind.
    pub fn manifests(&self) -> impl Iterator<Item = Manifest> {
        Kind::ALL.into_iter().flat_map(|kind| self.list(kind, None))
    }

    /// The objects of a kind, in the order of their keys; with `namespace`, only those in it.
    #[must_use]
    pub fn list(&self, kind: Kind, namespace: Option<&str>) -> Vec<Manifest> {
        with_kind!(kind, R => collect::<R>(self, namespace))
    }

    /// How many objects of a kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        with_kind!(kind, R => R::all(self).len())
    }

    /// One object.
    #[must_use]
    pub fn object(&self, kind: Kind, key: &ObjectKey) -> Option<Manifest> {
        with_kind!(kind, R => R::all(self).get(key).cloned().map(R::into_manifest))
    }

    /// The same objects, with nothing remembered of who refers to whom: for tests that put objects in past the store.
    #[cfg(test)]
    pub(crate) fn without_links(self) -> Self {
        Self {
            links: OnceLock::new(),
            ..self
        }
    }

    /// Who refers to whom, and who is where.
    fn links(&self) -> &Links {
        self.links.get_or_init(|| Arc::new(Links::of(self)))
    }

    /// The endpoints of a service, in the order of their names.
    pub fn endpoints_of<'a>(
        &'a self,
        service: &ObjectKey,
    ) -> impl Iterator<Item = &'a Arc<Endpoint>> + use<'a> {
        self.links()
            .referrers(Role::Member, Kind::Service, service)
            .filter_map(|it| self.endpoints.get(&it.key))
    }

    /// The number of a workload; zero, if it has none.
    #[must_use]
    pub fn number_of_workload(&self, key: &ObjectKey) -> u32 {
        self.ids.number(&Subject::Workload(key.clone()))
    }

    /// Who has an address: services that are dialled by it, endpoints and workloads, in the order of kinds and keys.
    pub fn holders_of(&self, address: IpAddr) -> impl Iterator<Item = (Kind, &ObjectKey)> {
        let holders = self.links().holders(address);
        holders.map(|it| (it.kind, &it.key))
    }

    /// The services that have a virtual address: one, if all is well.
    pub fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &ObjectKey> {
        let holders = self.holders_of(address);
        holders.filter_map(|(kind, key)| (kind == Kind::Service).then_some(key))
    }

    /// The service that has a virtual address.
    #[must_use]
    pub fn service_at(&self, address: IpAddr) -> Option<&ObjectKey> {
        self.services_at(address).next()
    }

    /// The service that is known by a name outside the mesh.
    #[must_use]
    pub fn service_named(&self, hostname: &str) -> Option<&ObjectKey> {
        self.links().named(hostname)
    }
}

fn collect<R: Resource>(snapshot: &Snapshot, namespace: Option<&str>) -> Vec<Manifest> {
    let first = ObjectKey::new(namespace.unwrap_or_default(), "");
    R::all(snapshot)
        .range(first..)
        .take_while(|(key, _)| namespace.is_none_or(|namespace| key.namespace == namespace))
        .map(|(_, object)| R::into_manifest(Arc::clone(object)))
        .collect()
}
