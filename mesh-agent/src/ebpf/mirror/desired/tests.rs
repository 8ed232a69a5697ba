//! Tests of what the maps should hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_common::balance::Balancing;
use mesh_common::endpoint::State;
use mesh_common::service::{MAX_SLOTS, Mode, TCP, UDP};
use mesh_common::workload::Workload;
use serde_json::json;

use super::{Desired, Enrolled, Place, desired, interleave};
use crate::state::endpoint::{Health, HealthStatus};
use crate::state::object::ObjectKey;
use crate::state::stream_route::TcpRoute;
use crate::state::traffic_policy::TrafficPolicy;
use crate::traffic::fixture::Fixture;

fn web(mode: &str, protocol: &str) -> Fixture {
    Fixture::default().service(
        "web",
        &json!({"addresses": ["240.240.0.1", "fd00:f::1"], "mode": mode, "balancing": "Random",
            "ports": [{"name": "main", "port": 80, "protocol": protocol}]}),
    )
}

fn of(fixture: &Fixture) -> Desired {
    desired(&fixture.snapshot(), &Enrolled::default())
}

#[test]
fn a_port_is_one_service_per_virtual_address() {
    let desired = of(&web("auto", "tcp"));
    assert_eq!(desired.services.len(), 2);
    for service in desired.services.values() {
        assert_eq!(service.mode, Mode::Direct);
        assert_eq!(service.balancing, Balancing::Random);
        assert!(service.id != 0 && service.port_id != 0);
    }
    let modes = |fixture: &Fixture| of(fixture).services.values().next().unwrap().mode;
    assert_eq!(modes(&web("auto", "http")), Mode::Proxy);
    assert_eq!(modes(&web("direct", "http")), Mode::Direct);
    assert_eq!(modes(&web("proxy", "tcp")), Mode::Proxy);
}

#[test]
fn what_is_attached_to_a_service_decides_how_the_kernel_carries_it() {
    let of = |fixture: &Fixture| *of(fixture).services.values().next().unwrap();
    let policy = |spec: serde_json::Value| {
        let mut spec = spec;
        spec["target"] = json!({"kind": "Service", "name": "web"});
        of(&web("auto", "tcp").object::<TrafficPolicy>("p", &spec))
    };
    let simple = policy(json!({"loadBalancing": {"algorithm": "WeightedRoundRobin"}}));
    assert_eq!(
        (simple.mode, simple.balancing),
        (Mode::Direct, Balancing::RoundRobin)
    );
    let needs_more = policy(json!({"loadBalancing": {"algorithm": "PeakEwma"}}));
    assert_eq!(
        (needs_more.mode, needs_more.balancing),
        (Mode::Proxy, Balancing::Random)
    );
    let route = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
        "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]});
    let routed = of(&web("auto", "tcp").object::<TcpRoute>("r", &route));
    assert_eq!(routed.mode, Mode::Proxy);
}

#[test]
fn a_udp_port_is_direct_whatever_the_mode() {
    for mode in ["auto", "direct", "proxy"] {
        let desired = of(&web(mode, "udp"));
        assert_eq!(desired.services.len(), 2);
        assert!(desired.services.keys().all(|key| key.protocol == UDP));
        assert!(desired.services.values().all(|it| it.mode == Mode::Direct));
    }
    let desired = of(&web("auto", "tls"));
    assert!(desired.services.keys().all(|key| key.protocol == TCP));
}

#[test]
fn endpoints_fill_slots_of_their_family_by_weight() {
    let fixture = web("auto", "tcp")
        .endpoint("a", &["main"], &json!({"service": "web", "address": "10.0.0.1", "weight": 30, "ports": {"main": 8080}}))
        .endpoint("b", &["main"], &json!({"service": "web", "address": "10.0.0.2", "weight": 10}))
        .endpoint("c", &["main"], &json!({"service": "web", "address": "fd00::1"}));
    let desired = of(&fixture);
    let slots = desired.slots.values().next().unwrap();
    let ports: Vec<u16> = slots
        .v4
        .iter()
        .map(|id| desired.endpoints[id].port)
        .collect();
    assert_eq!(ports, [8080, 8080, 80, 8080]);
    assert_eq!(slots.v6.len(), 1);
    let port_id = desired.services.values().next().unwrap().port_id;
    assert!(desired.endpoints.values().all(|it| it.port_id == port_id));
}

#[test]
fn draining_and_weightless_endpoints_take_no_slot() {
    let fixture = web("auto", "tcp")
        .endpoint(
            "a",
            &["main"],
            &json!({"service": "web", "address": "10.0.0.1", "draining": true}),
        )
        .endpoint(
            "b",
            &["main"],
            &json!({"service": "web", "address": "10.0.0.2", "weight": 0}),
        );
    let desired = of(&fixture);
    assert!(desired.slots.values().all(|slots| slots.v4.is_empty()));
    let mut states: Vec<u8> = desired
        .endpoints
        .values()
        .map(|value| value.state)
        .collect();
    states.sort_unstable();
    assert_eq!(states, [State::Ready as u8, State::Draining as u8]);
    assert!(desired.endpoints.values().all(|value| value.weight >= 1));
}

#[test]
fn a_critical_endpoint_takes_no_slot_unless_too_few_are_well() {
    let slots = |critical: usize, threshold: u32| {
        let mut fixture = web("auto", "tcp").object::<TrafficPolicy>(
            "p",
            &json!({"target": {"kind": "Service", "name": "web"}, "healthCheck": {"tcp": {}},
                "loadBalancing": {"panicThreshold": threshold}}),
        );
        for index in 0..4 {
            let spec = json!({"service": "web", "address": format!("10.0.0.{}", index + 1)});
            fixture = fixture.endpoint(&format!("e{index}"), &["main"], &spec);
        }
        let mut snapshot = fixture.snapshot();
        for index in 0..critical {
            let key = ObjectKey::new("shop", format!("e{index}"));
            let endpoint = snapshot.endpoints.get_mut(&key).unwrap();
            Arc::make_mut(endpoint).status.health = Some(Health {
                status: HealthStatus::Critical,
                since: String::new(),
                output: String::new(),
            });
        }
        let desired = desired(&snapshot, &Enrolled::default());
        assert_eq!(desired.endpoints.len(), 4);
        desired.slots.values().next().unwrap().v4.len()
    };
    assert_eq!(slots(0, 50), 4);
    assert_eq!(slots(1, 50), 3);
    assert_eq!(slots(2, 50), 2);
    assert_eq!(slots(3, 50), 4);
    assert_eq!(slots(3, 0), 1);
    assert_eq!(slots(4, 0), 4);
}

#[test]
fn what_has_no_number_is_left_out() {
    let fixture =
        web("auto", "tcp").endpoint("a", &[], &json!({"service": "web", "address": "10.0.0.1"}));
    let desired = of(&fixture);
    assert!(desired.endpoints.is_empty());
    assert_eq!(desired.services.len(), 2);
}

#[test]
fn slots_are_interleaved_and_bounded() {
    assert_eq!(interleave(&[(1, 3), (2, 1)]), [1, 1, 2, 1]);
    assert_eq!(interleave(&[(1, 7), (2, 7), (3, 7)]), [1, 2, 3]);
    let many: Vec<_> = (1..=100).map(|id| (id, 500 + id)).collect();
    let slots = interleave(&many);
    let mut counts = BTreeMap::new();
    for id in &slots {
        *counts.entry(*id).or_insert(0_u32) += 1;
    }
    assert!(slots.len() <= MAX_SLOTS as usize && slots.len() > 4_000);
    assert_eq!(counts.len(), 100);
    let too_many: Vec<_> = (1..=5_000).map(|id| (id, 1)).collect();
    assert_eq!(interleave(&too_many).len(), MAX_SLOTS as usize);
}

#[test]
fn every_workload_is_known_by_address_and_enrolled_ones_by_their_place() {
    let fixture = Fixture::default()
        .workload(
            "a",
            &json!({"netns": "/run/netns/a", "addresses": ["fd00::1", "10.0.0.1", "10.0.0.2"],
            "failMode": "closed", "egress": "locked", "acceleration": true}),
        )
        .workload(
            "b",
            &json!({"cgroup": "/b", "addresses": ["10.0.0.3"], "acceleration": true}),
        )
        .workload(
            "c",
            &json!({"netns": "/run/netns/c", "addresses": ["10.0.0.4"], "acceleration": true}),
        );
    let mut enrolled = Enrolled {
        places: BTreeMap::from([
            (ObjectKey::new("shop", "a"), Place::Netns(7)),
            (ObjectKey::new("shop", "b"), Place::Cgroup(8)),
        ]),
        is_accelerated: true,
        answers_names: false,
    };
    let on = desired(&fixture.snapshot(), &enrolled);
    assert_eq!(on.identities.len(), 5);
    let a = on.workloads[&7];
    assert_eq!(
        a.flags,
        Workload::FAIL_CLOSED | Workload::EGRESS_LOCKED | Workload::ACCELERATED
    );
    assert_eq!(
        a.ipv4,
        "10.0.0.1".parse::<std::net::IpAddr>().unwrap().into()
    );
    assert_eq!(
        a.ipv6,
        "fd00::1".parse::<std::net::IpAddr>().unwrap().into()
    );
    assert_eq!(on.identities[&a.ipv4], a);
    assert!(on.cgroups[&8].has(Workload::ACCELERATED));
    let c: std::net::IpAddr = "10.0.0.4".parse().unwrap();
    assert!(!on.identities[&c.into()].has(Workload::ACCELERATED));

    enrolled.is_accelerated = false;
    let off = desired(&fixture.snapshot(), &enrolled);
    assert!(!off.workloads[&7].has(Workload::ACCELERATED));
}
