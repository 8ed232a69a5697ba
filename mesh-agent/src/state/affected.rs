//! Whom the step from one snapshot to the next concerns, so that what is derived from snapshots is made anew for those
//! alone. What the steps share is not looked at.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::ordmap::DiffItem;

use super::grpc_route::GrpcRoute;
use super::http_route::HttpRoute;
use super::object::{Kind, ObjectKey};
use super::reference::Route;
use super::stream_route::{TcpRoute, TlsRoute};
use super::{Objects, Snapshot};

/// The objects for which something may have changed; some are there only before or only after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    /// Services: themselves, their endpoints, the workloads there, and the routes and traffic policies attached to them.
    pub services: BTreeSet<ObjectKey>,
    /// Workloads themselves.
    pub workloads: BTreeSet<ObjectKey>,
    /// What changed authorization policies are for, by kind.
    pub protected: BTreeSet<(Kind, ObjectKey)>,
}

impl Affected {
    /// Whom the step from `old` to `new` concerns.
    #[must_use]
    pub fn between(old: &Snapshot, new: &Snapshot) -> Self {
        let mut affected = Self::default();
        affected
            .services
            .extend(versions(&old.services, &new.services).map(|it| it.key()));
        for endpoint in versions(&old.endpoints, &new.endpoints) {
            affected.services.insert(endpoint.service_key());
        }
        for workload in versions(&old.workloads, &new.workloads) {
            affected.workloads.insert(workload.key());
            for address in &workload.spec.addresses {
                affected.services.extend(serving(old, *address));
                affected.services.extend(serving(new, *address));
            }
        }
        affected.add_routes::<HttpRoute>(old, new);
        affected.add_routes::<GrpcRoute>(old, new);
        affected.add_routes::<TcpRoute>(old, new);
        affected.add_routes::<TlsRoute>(old, new);
        for policy in versions(&old.traffic_policies, &new.traffic_policies) {
            let target = &policy.spec.target;
            let key = ObjectKey::new(&policy.metadata.namespace, &target.name);
            match target.kind {
                Kind::HttpRoute => affected.add_parents_of::<HttpRoute>([old, new], &key),
                Kind::GrpcRoute => affected.add_parents_of::<GrpcRoute>([old, new], &key),
                _ => drop(affected.services.insert(key)),
            }
        }
        let policies = versions(&old.policies, &new.policies);
        affected.protected.extend(policies.map(|policy| {
            let target = &policy.spec.target;
            let key = ObjectKey::new(&policy.metadata.namespace, &target.name);
            (target.kind, key)
        }));
        affected
    }

    fn add_routes<R: Route + PartialEq>(&mut self, old: &Snapshot, new: &Snapshot) {
        for route in versions(R::all(old), R::all(new)) {
            self.add_parents(&**route);
        }
    }

    fn add_parents_of<R: Route>(&mut self, snapshots: [&Snapshot; 2], key: &ObjectKey) {
        let routes = snapshots.into_iter().filter_map(|it| R::all(it).get(key));
        routes.for_each(|route| self.add_parents(&**route));
    }

    fn add_parents<R: Route>(&mut self, route: &R) {
        let namespace = &route.metadata().namespace;
        let parents = route.parent_refs().iter();
        self.services
            .extend(parents.filter_map(|it| it.service(namespace)));
    }
}

/// The services that have an endpoint at an address.
fn serving(snapshot: &Snapshot, address: IpAddr) -> impl Iterator<Item = ObjectKey> {
    let holders = snapshot.holders_of(address);
    let endpoints = holders.filter(|(kind, _)| *kind == Kind::Endpoint);
    endpoints.filter_map(|(_, key)| Some(snapshot.endpoints.get(key)?.service_key()))
}

/// What changed, came or went: as it was and as it is.
fn versions<'a, T: PartialEq>(
    old: &'a Objects<T>,
    new: &'a Objects<T>,
) -> impl Iterator<Item = &'a Arc<T>> {
    let changes = old.diff(new).map(|change| match change {
        DiffItem::Add(_, new) => [None, Some(new)],
        DiffItem::Update {
            old: (_, old),
            new: (_, new),
        } => [Some(old), Some(new)],
        DiffItem::Remove(_, old) => [Some(old), None],
    });
    changes.flatten().flatten()
}
