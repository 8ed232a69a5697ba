//! Virtual addresses for services that bring none.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::state::service::Service;
use crate::state::store::Config;
use crate::state::{Refusal, Snapshot, virtual_address};

/// The addresses that the service has already, where they are allotted ones, and one of every range that gave none.
pub(super) fn allotted(
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
        let used = used.get_or_insert_with(|| addresses_in_use(snapshot));
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

fn addresses_in_use(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let services = snapshot.services.values();
    let endpoints = snapshot.endpoints.values();
    let workloads = snapshot.workloads.values();
    services
        .flat_map(|it| it.status.addresses.iter().copied())
        .chain(endpoints.map(|it| it.spec.address))
        .chain(workloads.flat_map(|it| it.spec.addresses.iter().copied()))
        .collect()
}
