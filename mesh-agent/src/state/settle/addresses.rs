//! The virtual addresses of a service that brings none: allotted here, or for all nodes by a shared registry.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::state::service::Service;
use crate::state::store::Config;
use crate::state::{Refusal, Snapshot, virtual_address};

/// The addresses that a shared registry says, unless another service of this node has one.
pub(in crate::state) fn shared(
    service: &Service,
    snapshot: &Snapshot,
) -> Result<Vec<IpAddr>, Refusal> {
    let addresses = &service.status.addresses;
    let key = service.key();
    let mut others = snapshot.services.iter().filter(|(other, _)| **other != key);
    let rival = others.find_map(|(other, it)| {
        let mut theirs = it.status.addresses.iter();
        let both = theirs.find(|address| addresses.contains(address))?;
        Some((other, both))
    });
    match rival {
        Some((other, address)) => Err(Refusal::invalid(
            "status.addresses",
            format!("{address} belongs to Service {other} on this node"),
        )),
        None => Ok(addresses.clone()),
    }
}

/// The addresses that the service has already, where they are allotted ones, and one of every range that gave none.
pub(in crate::state) fn allotted(
    service: &Service,
    snapshot: &Snapshot,
    config: &Config,
) -> Result<Vec<IpAddr>, Refusal> {
    let mut addresses = Vec::new();
    let mut used: Option<BTreeSet<IpAddr>> = None;
    for range in &config.virtual_ranges {
        let kept = service
            .status
            .addresses
            .iter()
            .find(|it| range.contains(*it));
        if let Some(kept) = kept {
            addresses.push(*kept);
            continue;
        }
        let used = used.get_or_insert_with(|| in_use(snapshot));
        let free = virtual_address::allot(range, &service.key(), |it| used.contains(&it));
        let Some(free) = free else {
            return Err(Refusal::invalid(
                "spec.addresses",
                format!(
                    "the range {range} has no free address; give one, or configure another range"
                ),
            ));
        };
        used.insert(free);
        addresses.push(free);
    }
    if addresses.is_empty() {
        return Err(Refusal::invalid(
            "spec.addresses",
            "an address is needed: no range is configured to allot one from",
        ));
    }
    Ok(addresses)
}

pub(in crate::state) fn in_use(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let services = snapshot.services.values();
    let endpoints = snapshot.endpoints.values();
    let workloads = snapshot.workloads.values();
    services
        .flat_map(|it| it.status.addresses.iter().copied())
        .chain(endpoints.map(|it| it.spec.address))
        .chain(workloads.flat_map(|it| it.spec.addresses.iter().copied()))
        .collect()
}
