//! Who refers to whom: from a service or route to the objects that name it, so that a change reaches them without a
//! look at all others.
//!
//! References to other namespaces are here too, permitted or not: a grant may come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
}

type Referrers = BTreeSet<Arc<Node>>;

/// The referrers of every object that is referred to, whether it exists or not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    by_target: BTreeMap<(Role, Node), Arc<Referrers>>,
}

impl Links {
    /// The references between all objects of `snapshot`.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut links = Self::default();
        let kinds = Kind::ALL.into_iter().filter(|kind| refers(*kind));
        for manifest in kinds.flat_map(|kind| snapshot.list(kind, None)) {
            links.replace(None, Some(&manifest));
        }
        links
    }

    /// Follows a write: `old` is what was there before, `new` what is there now.
    pub(super) fn replace(&mut self, old: Option<&Manifest>, new: Option<&Manifest>) {
        let before = old.map(references).unwrap_or_default();
        let after = new.map(references).unwrap_or_default();
        let Some(manifest) = new.or(old).filter(|_| before != after) else {
            return;
        };
        let referrer = Arc::new(Node::new(manifest.kind(), &manifest.key()));
        for gone in before.difference(&after) {
            if let Some(referrers) = self.by_target.get_mut(gone) {
                Arc::make_mut(referrers).remove(&referrer);
                if referrers.is_empty() {
                    self.by_target.remove(gone);
                }
            }
        }
        for target in after.difference(&before) {
            let referrers = self.by_target.entry(target.clone()).or_default();
            Arc::make_mut(referrers).insert(Arc::clone(&referrer));
        }
    }

    /// Who refers to an object in a role, in the order of kinds and keys.
    pub(super) fn referrers(
        &self,
        role: Role,
        kind: Kind,
        key: &ObjectKey,
    ) -> impl Iterator<Item = &Node> + use<'_> {
        let referrers = self.by_target.get(&(role, Node::new(kind, key)));
        referrers
            .into_iter()
            .flat_map(|it| it.iter())
            .map(|it| &**it)
    }

    /// Who of other namespaces sends to services of `namespace`.
    pub(super) fn foreign_referrers(&self, namespace: &str) -> BTreeSet<&Node> {
        let first = ObjectKey::new(namespace, "");
        let in_role = |role| {
            let first = (role, Node::new(Kind::Service, &first));
            self.by_target
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

/// Whether objects of a kind refer to others by this index.
const fn refers(kind: Kind) -> bool {
    match kind {
        Kind::HttpRoute
        | Kind::GrpcRoute
        | Kind::TcpRoute
        | Kind::TlsRoute
        | Kind::TrafficPolicy
        | Kind::Service => true,
        Kind::Endpoint | Kind::Workload | Kind::AuthorizationPolicy | Kind::ReferenceGrant => false,
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
        Manifest::Endpoint(_)
        | Manifest::Workload(_)
        | Manifest::AuthorizationPolicy(_)
        | Manifest::ReferenceGrant(_) => BTreeSet::new(),
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
