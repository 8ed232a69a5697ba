//! The address by which a workload of this network namespace is known.

use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::Error;

/// The first address that others can reach: IPv4 before IPv6, in the order of the interfaces.
pub(super) fn first() -> Result<IpAddr, Error> {
    let interfaces = getifaddrs().map_err(|errno| Error::Addresses(io::Error::from(errno)))?;
    let addresses = interfaces
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
    pick(addresses).ok_or(Error::NoAddress)
}

fn pick(addresses: impl Iterator<Item = IpAddr>) -> Option<IpAddr> {
    let mut reachable = addresses.filter(is_reachable).peekable();
    let first = reachable.peek().copied();
    reachable.find(IpAddr::is_ipv4).or(first)
}

/// Loopback is everybody's, and a link-local address means nothing without its interface.
const fn is_reachable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_4_comes_before_version_6_and_loopback_never() {
        check(&["127.0.0.1", "::1", "fe80::1"], None);
        check(
            &["127.0.0.1", "::1", "fd00::1", "10.0.0.2", "10.0.0.3"],
            Some("10.0.0.2"),
        );
        check(&["fe80::1", "fd00::1", "fd00::2"], Some("fd00::1"));
        check(&["169.254.1.1"], None);
    }

    fn check(addresses: &[&str], wanted: Option<&str>) {
        let parse = |text: &str| text.parse::<IpAddr>().expect("it is an address");
        let addresses = addresses.iter().map(|text| parse(text));
        assert_eq!(pick(addresses), wanted.map(parse));
    }
}
