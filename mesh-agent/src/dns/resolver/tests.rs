//! Who is asked where a resolver is a service of the mesh.

use std::collections::BTreeMap;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::json;

use super::*;
use crate::state::endpoint::{Health, HealthStatus};
use crate::traffic::fixture::Fixture;

/// A service at port 53 with endpoints: the last number of the address, and the weight.
fn snapshot(endpoints: &[(u8, u32)]) -> Snapshot {
    let ports = json!([{"name": "dns", "port": 53, "protocol": "udp"}]);
    let spec = json!({"addresses": ["240.240.0.53", "fd00:240:240::53"], "ports": ports});
    let mut fixture = Fixture::default().service("dns", &spec);
    for (number, weight) in endpoints {
        let spec =
            json!({"service": "dns", "address": address(*number), "weight": weight, "port": 5353});
        fixture = fixture.endpoint(&format!("dns-{number}"), &["dns"], &spec);
    }
    fixture.snapshot()
}

/// Of IPv6 from 100 on.
fn address(number: u8) -> IpAddr {
    if number < 100 {
        IpAddr::from([10, 0, 0, number])
    } else {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)])
    }
}

fn fail(snapshot: &mut Snapshot, number: u8) {
    let key = ObjectKey::new("shop", format!("dns-{number}"));
    let endpoint = snapshot.endpoints.get_mut(&key).unwrap();
    Arc::make_mut(endpoint).status.health = Some(Health {
        status: HealthStatus::Critical,
        since: String::new(),
        output: String::new(),
    });
}

/// The endpoints in the order in which they would be asked.
fn order(snapshot: &Snapshot, dialled: &str, seed: u64) -> Vec<IpAddr> {
    let service = ObjectKey::new("shop", "dns");
    let dialled = SocketAddr::new(dialled.parse().unwrap(), 53);
    let mut rng = StdRng::seed_from_u64(seed);
    let all = endpoints(snapshot, &service, dialled, Transport::Udp, &mut rng);
    assert!(all.iter().all(|it| it.port() == 5353));
    all.into_iter().map(|it| it.ip()).collect()
}

const V4: &str = "240.240.0.53";
const V6: &str = "fd00:240:240::53";

#[test]
fn endpoints_that_failed_are_asked_only_where_all_have() {
    let mut snapshot = snapshot(&[(1, 1), (2, 1)]);
    fail(&mut snapshot, 1);
    for seed in 0..20 {
        assert_eq!(order(&snapshot, V4, seed), [address(2)]);
    }
    fail(&mut snapshot, 2);
    assert_eq!(order(&snapshot, V4, 0).len(), 2);
}

#[test]
fn the_second_one_is_another_and_weights_decide_who_is_first() {
    let snapshot = snapshot(&[(1, 3), (2, 1), (3, 0)]);
    let mut first: BTreeMap<IpAddr, u32> = BTreeMap::new();
    for seed in 0..4000 {
        let order = order(&snapshot, V4, seed);
        assert!(order.len() == 2 && order[0] != order[1], "{order:?}");
        *first.entry(order[0]).or_default() += 1;
    }
    let heavy = first[&address(1)];
    assert!((2800..3200).contains(&heavy), "{heavy} of 4000");
}

#[test]
fn family_of_the_resolver_comes_first() {
    let snapshot = snapshot(&[(1, 1), (101, 1)]);
    for seed in 0..20 {
        assert_eq!(order(&snapshot, V4, seed), [address(1), address(101)]);
        assert_eq!(order(&snapshot, V6, seed), [address(101), address(1)]);
    }
}
