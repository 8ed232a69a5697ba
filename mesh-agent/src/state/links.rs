//! Who refers to whom, and who is where: from a service or route to the objects that name it, from an address or a name
//! outside the mesh to who has it, so that a change or a question reaches them without a look at all others.
//!
//! References to other namespaces are here too, permitted or not: a grant may come and go, and what services need is
//! looked for everywhere.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::slice;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::graph::dependencies;
use super::object::{Kind, ObjectKey};
use super::reference::{Backend, Route};
use super::{Manifest, Snapshot};

/// An object by kind and key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) key: ObjectKey,
}

impl Node {
    pub(super) fn new(kind: Kind, key: &ObjectKey) -> Self {
        let key = key.clone();
        Self { kind, key }
    }

    /// One that comes before every other.
    fn first() -> Arc<Self> {
        let [kind, ..] = Kind::ALL;
        Arc::new(Self::new(kind, &ObjectKey::new("", "")))
    }
}

/// As what one object names another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// A route is attached to the service.
    Parent,
    /// A route sends to the service.
    Backend,
    /// A traffic policy is for the service or route.
    Target,
    /// A traffic policy fails over to the service.
    Failover,
    /// A service needs the service.
    Dependency,
    /// An endpoint serves the service.
    Member,
}

type Referrers = BTreeSet<Arc<Node>>;

/// The referrers of every object that is referred to, whether it exists or not, and the holders of addresses and names.
/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    objects: OrdMap<(Role, Node), Arc<Referrers>>,
    addresses: OrdSet<(IpAddr, Arc<Node>)>,
    hostnames: OrdSet<(String, Arc<Node>)>,
}

impl Links {
    /// The references between all objects of `snapshot`.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut links = Self::default();
        for manifest in snapshot.manifests() {
            links.replace(None, Some(&manifest));
        }
        links
    }

    /// Follows a write: `old` is what was there before, `new` what is there now.
    pub(super) fn replace(&mut self, old: Option<&Manifest>, new: Option<&Manifest>) {
        let before = old.map(Named::of).unwrap_or_default();
        let after = new.map(Named::of).unwrap_or_default();
        let Some(manifest) = new.or(old).filter(|_| before != after) else {
            return;
        };
        let node = Arc::new(Node::new(manifest.kind(), &manifest.key()));
        for gone in before.objects.difference(&after.objects) {
            if let Some(referrers) = self.objects.get_mut(gone) {
                Arc::make_mut(referrers).remove(&node);
                if referrers.is_empty() {
                    self.objects.remove(gone);
                }
            }
        }
        for target in after.objects.difference(&before.objects) {
            let referrers = self.objects.entry(target.clone()).or_default();
            Arc::make_mut(referrers).insert(Arc::clone(&node));
        }
        change(
            &mut self.addresses,
            &before.addresses,
            &after.addresses,
            &node,
        );
        change(
            &mut self.hostnames,
            &before.hostnames,
            &after.hostnames,
            &node,
        );
    }

    /// Who has an address, in the order of kinds and keys.
    pub(super) fn holders(&self, address: IpAddr) -> impl Iterator<Item = &Node> + use<'_> {
        let address = address.to_canonical();
        self.addresses
            .range((address, Node::first())..)
            .take_while(move |(it, _)| *it == address)
            .map(|(_, node)| &**node)
    }

    /// The service that is known by a name outside the mesh.
    pub(super) fn named(&self, hostname: &str) -> Option<&ObjectKey> {
        let first = (hostname.to_owned(), Node::first());
        let (name, node) = self.hostnames.range(first..).next()?;
        (name == hostname).then_some(&node.key)
    }

    /// Who refers to an object in a role, in the order of kinds and keys.
    pub(super) fn referrers(
        &self,
        role: Role,
        kind: Kind,
        key: &ObjectKey,
    ) -> impl Iterator<Item = &Node> + use<'_> {
        let referrers = self.objects.get(&(role, Node::new(kind, key)));
        referrers
            .into_iter()
            .flat_map(|it| it.iter())
            .map(|it| &**it)
    }

    /// Those of them that are of one kind, in the order of their keys.
    pub(super) fn referrers_of(
        &self,
        kind: Kind,
        role: Role,
        target: (Kind, &ObjectKey),
    ) -> impl Iterator<Item = &Node> + use<'_> {
        let referrers = self.objects.get(&(role, Node::new(target.0, target.1)));
        let first = Node::new(kind, &ObjectKey::new("", ""));
        referrers
            .into_iter()
            .flat_map(move |it| it.range::<Node, _>(&first..))
            .map(|it| &**it)
            .take_while(move |it| it.kind == kind)
    }

    /// Who of other namespaces sends to services of `namespace`.
    pub(super) fn foreign_referrers(&self, namespace: &str) -> BTreeSet<&Node> {
        let first = ObjectKey::new(namespace, "");
        let in_role = |role| {
            let first = (role, Node::new(Kind::Service, &first));
            self.objects
                .range(first..)
                .take_while(move |((its, target), _)| {
                    *its == role
                        && target.kind == Kind::Service
                        && target.key.namespace == namespace
                })
                .flat_map(|(_, referrers)| referrers.iter())
        };
        [Role::Backend, Role::Failover]
            .into_iter()
            .flat_map(in_role)
            .map(|it| &**it)
            .filter(|it| it.key.namespace != namespace)
            .collect()
    }
}

/// Follows what a node has: `before` is what it had.
fn change<K: Clone + Ord>(
    index: &mut OrdSet<(K, Arc<Node>)>,
    before: &BTreeSet<K>,
    after: &BTreeSet<K>,
    node: &Arc<Node>,
) {
    for gone in before.difference(after) {
        index.remove(&(gone.clone(), Arc::clone(node)));
    }
    for new in after.difference(before) {
        index.insert((new.clone(), Arc::clone(node)));
    }
}

/// What an object names.
#[derive(Default, PartialEq, Eq)]
struct Named {
    objects: BTreeSet<(Role, Node)>,
    addresses: BTreeSet<IpAddr>,
    hostnames: BTreeSet<String>,
}

impl Named {
    fn of(manifest: &Manifest) -> Self {
        Self {
            objects: references(manifest),
            addresses: addresses(manifest)
                .iter()
                .filter(|it| !it.is_unspecified())
                .map(IpAddr::to_canonical)
                .collect(),
            hostnames: match manifest {
                Manifest::Service(service) => service.spec.hostnames.iter().cloned().collect(),
                _ => BTreeSet::new(),
            },
        }
    }
}

/// Where an object is found.
fn addresses(manifest: &Manifest) -> &[IpAddr] {
    match manifest {
        Manifest::Service(service) => service.virtual_addresses(),
        Manifest::Endpoint(endpoint) => slice::from_ref(&endpoint.spec.address),
        Manifest::Workload(workload) => &workload.spec.addresses,
        _ => &[],
    }
}

fn references(manifest: &Manifest) -> BTreeSet<(Role, Node)> {
    match manifest {
        Manifest::HttpRoute(route) => of_route(&**route),
        Manifest::GrpcRoute(route) => of_route(&**route),
        Manifest::TcpRoute(route) => of_route(&**route),
        Manifest::TlsRoute(route) => of_route(&**route),
        Manifest::TrafficPolicy(policy) => {
            let namespace = &policy.metadata.namespace;
            let target = &policy.spec.target;
            let key = ObjectKey::new(namespace, &target.name);
            let failover = policy.spec.load_balancing.iter();
            failover
                .flat_map(|it| &it.failover)
                .filter_map(|it| service(Role::Failover, namespace, &Backend::from(it)))
                .chain([(Role::Target, Node::new(target.kind, &key))])
                .collect()
        }
        Manifest::Service(service) => dependencies(service)
            .map(|key| (Role::Dependency, Node::new(Kind::Service, &key)))
            .collect(),
        Manifest::Endpoint(endpoint) => {
            let service = Node::new(Kind::Service, &endpoint.service_key());
            BTreeSet::from([(Role::Member, service)])
        }
        Manifest::AuthorizationPolicy(policy) => {
            let target = &policy.spec.target;
            let key = ObjectKey::new(&policy.metadata.namespace, &target.name);
            BTreeSet::from([(Role::Target, Node::new(target.kind, &key))])
        }
        Manifest::Workload(_) | Manifest::ReferenceGrant(_) => BTreeSet::new(),
    }
}

fn of_route<R: Route>(route: &R) -> BTreeSet<(Role, Node)> {
    let namespace = &route.metadata().namespace;
    let parents = route
        .parent_refs()
        .iter()
        .filter_map(|parent| parent.service(namespace))
        .map(|key| (Role::Parent, Node::new(Kind::Service, &key)));
    let backends = route.backends();
    let backends = backends
        .iter()
        .filter_map(|(_, backend)| service(Role::Backend, namespace, backend));
    parents.chain(backends).collect()
}

fn service(role: Role, namespace: &str, backend: &Backend<'_>) -> Option<(Role, Node)> {
    let key = backend.service(namespace)?;
    Some((role, Node::new(Kind::Service, &key)))
}
