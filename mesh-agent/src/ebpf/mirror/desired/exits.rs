//! What workloads whose egress is locked may dial, though it is no virtual address of a service.

use std::net::IpAddr;
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
        let (network, prefix) = network(&exit.cidr);
        let ports = exit.ports.iter().copied().chain(every);
        ports.map(move |port| EgressKey::network(id, port, network, prefix))
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

/// A network as the kernel compares it.
fn network(cidr: &IpNet) -> (Address, u8) {
    match cidr {
        IpNet::V4(cidr) => (IpAddr::V4(cidr.network()).into(), 96 + cidr.prefix_len()),
        IpNet::V6(cidr) => (IpAddr::V6(cidr.network()).into(), cidr.prefix_len()),
    }
}

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
        let exits = json!([
            {"cidr": "192.0.2.0/24", "ports": [80, 443]},
            {"cidr": "fd00::/8"},
            {"cidr": "::/0", "ports": [53]},
        ]);
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
            EgressKey::network(id, 53, address("::"), 0),
            EgressKey::network(0, 5433, address("10.0.0.1"), 128),
        ];
        assert_eq!(desired(&snapshot, &enrolled).exits, expected.into());
    }
}
