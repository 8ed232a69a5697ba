//! What workloads whose egress is locked may dial, though it is no virtual address of a service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use mesh_common::address::Address;
use mesh_common::egress::EgressKey;

use crate::state::endpoint::Endpoint;
use crate::state::service::Service;
use crate::state::workload::{Egress, Workload};

/// What the workload with a number is let out to.
pub(super) fn of_workload(id: u32, workload: &Workload) -> impl Iterator<Item = EgressKey> + '_ {
    let exits = workload.spec.egress_allow.iter();
    let exits = exits.filter(|_| workload.spec.egress == Egress::Locked);
    exits.flat_map(move |exit| {
        let every = exit.ports.is_empty().then_some(0);
        let ports = exit.ports.iter().copied().chain(every);
        ports.flat_map(move |port| {
            let networks = networks(&exit.cidr).into_iter();
            networks.map(move |(network, prefix)| EgressKey::network(id, port, network, prefix))
        })
    })
}

/// The endpoints of a service that is dialled by their addresses: everybody may.
pub(super) fn of_service<'a>(
    service: &'a Service,
    endpoints: &'a [&Arc<Endpoint>],
) -> impl Iterator<Item = EgressKey> + 'a {
    let endpoints = endpoints.iter().map(|endpoint| &endpoint.spec);
    let endpoints = endpoints.filter(|spec| spec.hostname.is_none());
    endpoints.flat_map(|spec| {
        let ports = service.spec.ports.iter().map(|port| spec.port_of(port));
        ports.map(|port| EgressKey::network(0, port, spec.address.into(), 128))
    })
}

/// A network as the kernel compares it, with its prefix.
///
/// The kernel looks for IPv4 addresses as v4-mapped ones. An IPv6 network that has all of these among others, as `::/0` has,
/// lets out to IPv6 only: it becomes its parts without them, as many as prefixes are between its own and theirs.
fn networks(cidr: &IpNet) -> Vec<(Address, u8)> {
    match cidr {
        IpNet::V4(cidr) => {
            let prefix = MAPPED_PREFIX + cidr.prefix_len();
            vec![(IpAddr::V4(cidr.network()).into(), prefix)]
        }
        IpNet::V6(cidr) if cidr.prefix_len() < MAPPED_PREFIX && cidr.contains(&MAPPED) => {
            (cidr.prefix_len()..MAPPED_PREFIX).map(sibling).collect()
        }
        IpNet::V6(cidr) => vec![(IpAddr::V6(cidr.network()).into(), cidr.prefix_len())],
    }
}

/// The network that has the first `same` bits of v4-mapped addresses and the other next one, with its prefix.
fn sibling(same: u8) -> (Address, u8) {
    let (prefix, rest) = (same + 1, 127 - u32::from(same));
    let bits = ((MAPPED.to_bits() >> rest) ^ 1) << rest;
    (IpAddr::V6(Ipv6Addr::from_bits(bits)).into(), prefix)
}

/// The first v4-mapped address.
const MAPPED: Ipv6Addr = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
/// Bits before the IPv4 address in a v4-mapped one.
const MAPPED_PREFIX: u8 = 96;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::ebpf::mirror::desired::desired;
    use crate::ebpf::mirror::{Enrolled, Place};
    use crate::state::id::Subject;
    use crate::state::object::ObjectKey;
    use crate::traffic::fixture::Fixture;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn ways_out_are_of_enrolled_workloads_and_headless_services() {
        let exits = json!([{"cidr": "192.0.2.0/24", "ports": [80, 443]}, {"cidr": "fd00::/8"}]);
        let locked =
            |netns: &str| json!({"netns": netns, "egress": "locked", "egressAllow": exits});
        let headless = json!({"headless": true, "ports": [{"name": "sql", "port": 5432}]});
        let plain = json!({"addresses": ["240.240.0.1"], "ports": [{"name": "sql", "port": 5432}]});
        let fixture = Fixture::default()
            .workload("here", &locked("/a"))
            .workload("elsewhere", &locked("/b"))
            .service("db", &headless)
            .endpoint(
                "db-1",
                &["sql"],
                &json!({"service": "db", "address": "10.0.0.1", "ports": {"sql": 5433}}),
            )
            .endpoint(
                "db-2",
                &[],
                &json!({"service": "db", "hostname": "db.example.com"}),
            )
            .service("web", &plain)
            .endpoint(
                "web-1",
                &["sql"],
                &json!({"service": "web", "address": "10.0.0.2"}),
            );
        let snapshot = fixture.snapshot();
        let key = ObjectKey::new("shop", "here");
        let id = snapshot.ids.number(&Subject::Workload(key.clone()));
        assert_ne!(id, 0);
        let enrolled = Enrolled {
            places: BTreeMap::from([(key, Place::Netns(7))]),
            ..Enrolled::default()
        };
        let expected = [
            EgressKey::network(id, 80, address("192.0.2.0"), 96 + 24),
            EgressKey::network(id, 443, address("192.0.2.0"), 96 + 24),
            EgressKey::network(id, 0, address("fd00::"), 8),
            EgressKey::network(0, 5433, address("10.0.0.1"), 128),
        ];
        assert_eq!(desired(&snapshot, &enrolled).exits, expected.into());
    }

    /// Whether one of the networks that become of `cidr` has `ip`.
    fn covers(cidr: &str, ip: &str) -> bool {
        let bits = |address: Address| match IpAddr::from(address) {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        let asked = bits(address(ip));
        networks(&cidr.parse().unwrap())
            .into_iter()
            .any(|(network, prefix)| {
                let rest = 128 - u32::from(prefix);
                asked.checked_shr(rest).unwrap_or(0) == bits(network).checked_shr(rest).unwrap_or(0)
            })
    }

    #[test]
    fn a_wide_network_of_one_family_lets_out_to_that_family_only() {
        let others = [
            "::1",
            "::fffe:c000:201",
            "2001:db8::1",
            "ffff::",
            "::1:0:0:0",
        ];
        for ip in others {
            assert!(covers("::/0", ip), "{ip}");
            assert!(!covers("0.0.0.0/0", ip), "{ip}");
        }
        for cidr in ["::/0", "::/1", "::/8", "::/64", "::/80"] {
            for ip in ["192.0.2.1", "0.0.0.0", "255.255.255.255"] {
                assert!(!covers(cidr, ip), "{cidr} {ip}");
            }
            assert!(covers(cidr, "::1"), "{cidr}");
        }
        assert!(!covers("::/64", "2001:db8::1"));
        assert!(covers("0.0.0.0/0", "192.0.2.1"));
        // Who writes it out means it.
        assert!(covers("::ffff:192.0.2.0/120", "192.0.2.1"));
        assert_eq!(networks(&"::/0".parse().unwrap()).len(), 96);
        assert_eq!(networks(&"2001:db8::/32".parse().unwrap()).len(), 1);
    }
}
