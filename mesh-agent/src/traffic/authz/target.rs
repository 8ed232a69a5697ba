//! What policies protect, and where it is found.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_common::address::{Address, SocketAddress};
use mesh_common::policy::PolicyKey;

use crate::state::Snapshot;
use crate::state::endpoint::Endpoint;
use crate::state::object::{Kind, ObjectKey};
use crate::state::service::Service;

/// What policies are for: a service or a workload.
pub(super) type Target = (Kind, ObjectKey);

/// Every target of a policy.
pub(super) fn targets(snapshot: &Snapshot) -> BTreeSet<Target> {
    let policies = snapshot.policies.values();
    policies
        .map(|policy| {
            let target = &policy.spec.target;
            let key = ObjectKey::new(&policy.metadata.namespace, &target.name);
            (target.kind, key)
        })
        .collect()
}

/// The targets that are found at an address, with policies or without.
pub(super) fn targets_at(snapshot: &Snapshot, address: Address) -> impl Iterator<Item = Target> {
    let holders = snapshot.holders_of(address.into());
    holders.filter_map(|(kind, key)| match kind {
        Kind::Endpoint => Some((Kind::Service, snapshot.endpoints.get(key)?.service_key())),
        _ => Some((kind, key.clone())),
    })
}

/// The keys under which a target is protected, with the service's port where there is one.
pub(super) fn protected(
    snapshot: &Snapshot,
    (kind, key): &Target,
) -> Vec<(PolicyKey, Option<u16>)> {
    match kind {
        Kind::Service => snapshot
            .services
            .get(key)
            .map(|service| {
                let endpoints: Vec<_> = snapshot.endpoints_of(key).collect();
                protected_service(service, &endpoints)
            })
            .unwrap_or_default(),
        Kind::Workload => snapshot
            .workloads
            .get(key)
            .map(|workload| {
                let addresses = workload.spec.addresses.iter();
                addresses
                    .map(|address| (PolicyKey::workload(Address::from(*address)), None))
                    .collect()
            })
            .unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn protected_service(
    service: &Service,
    endpoints: &[&Arc<Endpoint>],
) -> Vec<(PolicyKey, Option<u16>)> {
    let mut keys = Vec::new();
    for port in &service.spec.ports {
        let protocol = port.protocol.transport();
        let virtual_keys = service
            .virtual_addresses()
            .iter()
            .map(|address| SocketAddress::new(Address::from(*address), port.port));
        let endpoints = endpoints.iter().filter(|it| it.spec.hostname.is_none());
        let endpoint_keys = endpoints.map(|endpoint| {
            SocketAddress::new(endpoint.spec.address.into(), endpoint.spec.port_of(port))
        });
        keys.extend(
            virtual_keys
                .chain(endpoint_keys)
                .map(|key| (PolicyKey::port(&key, protocol), Some(port.port))),
        );
    }
    keys
}
