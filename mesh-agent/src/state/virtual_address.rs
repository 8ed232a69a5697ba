//! Picks virtual addresses for services that name none.
//!
//! Pure and stable: the search starts at a place that follows from the service's name, so that a service which is
//! deleted and made again, or a registry that is filled again, gets the same address as long as it is free; and an
//! address that was just given back is not handed to the next comer while callers may still remember it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::object::ObjectKey;

/// Ranges that are used when none are configured: reserved IPv4 space that no network routes, and a ULA prefix.
pub const DEFAULT_RANGES: [IpNet; 2] = [
    IpNet::V4(ipnet::Ipv4Net::new_assert(
        Ipv4Addr::new(240, 240, 0, 0),
        16,
    )),
    IpNet::V6(ipnet::Ipv6Net::new_assert(
        Ipv6Addr::new(0xfd00, 0x240, 0x240, 0, 0, 0, 0, 0),
        64,
    )),
];

/// Addresses of a wide range that are tried at most: as many as a /16 has.
const MAX_TRIES: u128 = 1 << 16;

/// A free address of `range`, or `None` where all are used.
#[must_use]
pub fn allot(range: &IpNet, key: &ObjectKey, is_used: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let width = range.max_prefix_len() - range.prefix_len();
    // Networks of one or two addresses have no address for the network itself or for broadcast.
    let reserved = u128::from(width > 1);
    let size = 1_u128.checked_shl(u32::from(width)).unwrap_or(u128::MAX);
    let hosts = size - 2 * reserved;
    let start = hash(key) % hosts;
    (0..hosts.min(MAX_TRIES))
        .map(|step| nth(range, reserved + start.wrapping_add(step) % hosts))
        .find(|address| !is_used(*address))
}

fn nth(range: &IpNet, offset: u128) -> IpAddr {
    match range {
        IpNet::V4(net) => {
            let low = u32::try_from(offset).unwrap_or(u32::MAX);
            Ipv4Addr::from_bits(net.network().to_bits().wrapping_add(low)).into()
        }
        IpNet::V6(net) => Ipv6Addr::from_bits(net.network().to_bits().wrapping_add(offset)).into(),
    }
}

/// FNV-1a: the same on every machine and in every version.
fn hash(key: &ObjectKey) -> u128 {
    let bytes = key.namespace.bytes().chain([b'/']).chain(key.name.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    u128::from(hash)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("shop", name)
    }

    #[test]
    fn address_is_in_the_range_and_always_the_same() {
        for range in DEFAULT_RANGES {
            let first = allot(&range, &key("web"), |_| false).unwrap();

            assert!(range.contains(&first), "{first} is not in {range}");
            assert_eq!(Some(first), allot(&range, &key("web"), |_| false));
            assert_ne!(Some(first), allot(&range, &key("db"), |_| false));
        }
    }

    #[test]
    fn every_host_of_a_small_range_is_given_once() {
        let check = |range: &str, expected: usize| {
            let range: IpNet = range.parse().unwrap();
            let mut used = BTreeSet::new();
            while let Some(address) = allot(&range, &key("web"), |it| used.contains(&it)) {
                assert!(range.contains(&address));
                assert!(used.insert(address));
            }
            assert_eq!(used.len(), expected, "{range}");
        };
        check("10.9.0.0/29", 6);
        check("10.9.0.0/31", 2);
        check("10.9.0.0/32", 1);
        check("fd00::/126", 2);
        check("fd00::1/128", 1);
    }

    #[test]
    fn whole_address_space_is_a_range_too() {
        let range: IpNet = "::/0".parse().unwrap();

        assert!(allot(&range, &key("web"), |_| false).is_some());
    }
}
