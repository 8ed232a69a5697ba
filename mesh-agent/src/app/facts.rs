//! What this node is called and where others reach it.

use std::fs;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::api::ConsulConfig;
use crate::state::endpoint::Locality;

/// The node by its settings; its name is that of the host where none is set.
pub(super) fn of(locality: &Locality) -> ConsulConfig {
    let named = locality.node.clone();
    let is_somewhere = *locality != Locality::default();
    ConsulConfig {
        node: named.unwrap_or_else(host_name),
        address,
        locality: is_somewhere.then(|| locality.clone()),
    }
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// The first address of an interface that is up and that others can reach: IPv4 before IPv6.
fn address() -> Option<IpAddr> {
    let interfaces = getifaddrs().ok()?;
    let addresses: Vec<IpAddr> = interfaces
        .filter(|it| it.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|it| {
            let address = it.address?;
            let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
        })
        .filter(is_reachable)
        .collect();
    let v4 = addresses.iter().find(|it| it.is_ipv4());
    v4.or_else(|| addresses.first()).copied()
}

/// Loopback is everybody's, and a link-local address means nothing without its interface.
const fn is_reachable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}
