//! Which addresses may stand in an object, and whose they are already.

use std::net::IpAddr;

use super::MAX_ADDRESSES;
use crate::state::object::{Kind, ObjectKey};
use crate::state::{Refusal, Snapshot};

/// A list of addresses under `spec.addresses`.
pub(super) fn list(addresses: &[IpAddr]) -> Result<(), Refusal> {
    if addresses.len() > MAX_ADDRESSES {
        return Err(Refusal::invalid(
            "spec.addresses",
            format!("at most {MAX_ADDRESSES} addresses"),
        ));
    }
    for (index, address) in addresses.iter().enumerate() {
        let field = format!("spec.addresses[{index}]");
        usable(&field, *address)?;
        if addresses.iter().take(index).any(|other| other == address) {
            return Err(Refusal::invalid(field, format!("{address} is there twice")));
        }
    }
    Ok(())
}

/// An address that a connection can be opened to from everywhere on the node.
pub(super) fn usable(field: &str, address: IpAddr) -> Result<(), Refusal> {
    let problem = if address.is_unspecified() {
        "the unspecified address names nobody"
    } else if address.is_loopback() {
        "loopback addresses are never steered, and mean another host in each network namespace"
    } else if address.is_multicast() {
        "multicast addresses have no connections"
    } else if matches!(address, IpAddr::V4(v4) if v4.is_broadcast()) {
        "the broadcast address has no connections"
    } else if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        "an IPv4 address is written as one, without ::ffff:"
    } else if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        "a link-local address means nothing without an interface"
    } else {
        return Ok(());
    };
    Err(Refusal::invalid(field, problem))
}

/// Who has `address`, of any kind, apart from who `is_self`.
pub(super) fn owner(
    address: IpAddr,
    snapshot: &Snapshot,
    is_self: impl Fn(Kind, &ObjectKey) -> bool,
) -> Option<String> {
    snapshot
        .holders_of(address)
        .find(|(kind, key)| !is_self(*kind, key))
        .map(|(kind, key)| format!("{kind} {key}"))
}

/// The refusal of an address that `owner` has.
pub(super) fn taken(index: usize, address: IpAddr, owner: &str) -> Refusal {
    Refusal::invalid(
        format!("spec.addresses[{index}]"),
        format!("{address} belongs to {owner}"),
    )
}
