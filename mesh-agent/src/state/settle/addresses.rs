//! The virtual addresses of a service that brings none: allotted here, or for all nodes by a shared registry.

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
    let rival = addresses.iter().find_map(|address| {
        let other = snapshot.services_at(*address).find(|it| **it != key)?;
        Some((other, address))
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
        let free = virtual_address::allot(range, &service.key(), |it| {
            is_used(snapshot, it) || addresses.contains(&it)
        });
        let Some(free) = free else {
            return Err(Refusal::invalid(
                "spec.addresses",
                format!(
                    "the range {range} has no free address; give one, or configure another range"
                ),
            ));
        };
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

/// Whether anybody has an address.
pub(in crate::state) fn is_used(snapshot: &Snapshot, address: IpAddr) -> bool {
    snapshot.holders_of(address).next().is_some()
}
