//! Tests of the order of the writes: random changes, with what a hook could read checked after every write.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_common::endpoint::State;
use mesh_common::service::SlotKey;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use super::diff;
use crate::ebpf::mirror::desired::{Desired, Enrolled, Place, Slots, desired};
use crate::ebpf::mirror::{Held, Write};
use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::state::{Objects, Snapshot};
use crate::traffic::fixture::Fixture;

/// What must hold whenever a hook looks.
pub(crate) fn check_readable(held: &Held) {
    for service in held.services.values() {
        for (family, slots) in [(4, service.slots_v4), (6, service.slots_v6)] {
            for slot in 0..slots {
                let key = SlotKey {
                    port_id: service.port_id,
                    generation: service.generation,
                    family,
                    slot,
                };
                let id = held.slots.get(&key).expect("a slot that is read");
                let endpoint = held.endpoints.get(id).expect("an endpoint that is named");
                assert!(held.open.contains(id) && held.cursors.contains(&service.port_id));
                assert!(
                    endpoint.address.is_v4() == (family == 4)
                        || endpoint.state == State::Failed as u8,
                    "an endpoint of the other family"
                );
            }
        }
    }
}

/// The maps hold what they should, generations aside.
pub(crate) fn check_equal(held: &Held, desired: &Desired) {
    assert_eq!(held.policies, desired.policies);
    assert_eq!(held.endpoints, desired.endpoints);
    assert!(held.open.iter().eq(desired.endpoints.keys()));
    assert!(held.cursors.iter().eq(desired.slots.keys()));
    assert_eq!(held.identities, desired.identities);
    assert_eq!(held.workloads, desired.workloads);
    assert_eq!(held.cgroups, desired.cgroups);
    assert!(held.services.keys().eq(desired.services.keys()));
    let mut slots: BTreeMap<u32, Slots> = BTreeMap::new();
    for (key, id) in &held.slots {
        let slots = slots.entry(key.port_id).or_default();
        let family = if key.family == 4 {
            &mut slots.v4
        } else {
            &mut slots.v6
        };
        family.push(*id);
    }
    for (key, service) in &held.services {
        let port = &desired.services[key];
        assert_eq!((service.id, service.port_id), (port.id, port.port_id));
        assert_eq!(
            (service.mode, service.balancing),
            (port.mode as u8, port.balancing as u8)
        );
        let found = slots.get(&service.port_id).cloned().unwrap_or_default();
        assert_eq!(found, desired.slots[&service.port_id]);
    }
}

/// A random registry of up to four services, twelve endpoints, four workloads and three policies.
pub(crate) fn random_node(rng: &mut StdRng) -> (Arc<Snapshot>, Enrolled) {
    let mut enrolled = Enrolled::default();
    for n in 0..4 {
        let place = if n % 2 == 0 {
            Place::Netns(n)
        } else {
            Place::Cgroup(n)
        };
        if rng.random_bool(0.5) {
            let key = ObjectKey::new("shop", format!("w{n}"));
            enrolled.places.insert(key, place);
        }
    }
    let mut snapshot = random_fixture(rng).snapshot();
    thin(&mut snapshot.services, rng, 0.8);
    thin(&mut snapshot.endpoints, rng, 0.8);
    thin(&mut snapshot.policies, rng, 0.5);
    (Arc::new(snapshot), enrolled)
}

fn random_desired(rng: &mut StdRng) -> Desired {
    let (snapshot, enrolled) = random_node(rng);
    desired(&snapshot, &enrolled)
}

/// Keeps each object with a probability.
fn thin<T>(objects: &mut Objects<T>, rng: &mut StdRng, probability: f64) {
    let all = std::mem::take(objects).into_iter();
    *objects = all.filter(|_| rng.random_bool(probability)).collect();
}

fn random_fixture(rng: &mut StdRng) -> Fixture {
    let mut fixture = Fixture::default();
    // A number belongs to one object for ever, whatever else is there.
    for name in ["a", "b", "c", "d"] {
        let service = ObjectKey::new("shop", name);
        for port in ["p0", "p1"] {
            fixture = fixture.name(Subject::Port(service.clone(), port.to_owned()));
        }
        fixture = fixture.name(Subject::Service(service));
    }
    for name in ["a", "b", "c", "d"] {
        let ports: Vec<_> = (0..rng.random_range(1..3))
            .map(|n| json!({"name": format!("p{n}"), "port": 80 + n, "protocol": "tcp"}))
            .collect();
        let addresses: Vec<_> = ["240.240.0", "240.241.0"]
            .iter()
            .take(rng.random_range(1..3))
            .map(|net| format!("{net}.{}", name.as_bytes()[0]))
            .collect();
        fixture = fixture.service(name, &json!({"addresses": addresses, "ports": ports}));
    }
    for n in 0..12 {
        let address = if rng.random_bool(0.8) {
            format!("10.0.{}.{n}", rng.random_range(0..2))
        } else {
            format!("fd00::{n}")
        };
        let service = ["a", "b", "c", "d"][rng.random_range(0..4)];
        fixture = fixture.endpoint(
            &format!("e{n}"),
            &["p0", "p1"],
            &json!({"service": service, "address": address,
                "weight": rng.random_range(0..4), "draining": rng.random_bool(0.1)}),
        );
    }
    for n in 0..4 {
        fixture = fixture.workload(
            &format!("w{n}"),
            &json!({"netns": "/n", "addresses": [format!("10.0.0.{n}")], "acceleration": rng.random_bool(0.5)}),
        );
    }
    for name in ["a", "b", "c"] {
        fixture = fixture.policy(
            name,
            &json!({"target": {"kind": "Service", "name": name}, "action": "Deny",
                "rules": [{"from": [{"cidrs": [format!("10.{}.0.0/16", rng.random_range(0..3))]}]}]}),
        );
    }
    fixture
}

#[test]
fn every_step_can_be_read_and_the_end_is_what_is_desired() {
    let mut rng = StdRng::seed_from_u64(11);
    let mut held = Held::default();
    for _ in 0..400 {
        let desired = random_desired(&mut rng);
        for write in diff(&held, &desired) {
            held.follow(&write);
            check_readable(&held);
        }
        check_equal(&held, &desired);
        assert_eq!(diff(&held, &desired), [], "nothing is left to write");
    }
}

#[test]
fn an_agent_killed_at_any_write_leaves_maps_that_the_next_one_repairs() {
    let mut rng = StdRng::seed_from_u64(12);
    let mut held = Held::default();
    for _ in 0..400 {
        let desired = random_desired(&mut rng);
        let writes = diff(&held, &desired);
        let done = rng.random_range(0..=writes.len());
        for write in writes.iter().take(done) {
            held.follow(write);
        }
        let desired = random_desired(&mut rng);
        for write in diff(&held, &desired) {
            held.follow(&write);
            check_readable(&held);
        }
        check_equal(&held, &desired);
    }
}

#[test]
fn policies_come_before_what_they_protect_and_enrolment_comes_last() {
    let mut rng = StdRng::seed_from_u64(13);
    let mut desired = random_desired(&mut rng);
    while desired.policies.is_empty() || desired.workloads.is_empty() {
        desired = random_desired(&mut rng);
    }
    let writes = diff(&Held::default(), &desired);
    let first = |is: fn(&Write) -> bool| writes.iter().position(is).expect("such a write");
    let last = |is: fn(&Write) -> bool| writes.iter().rposition(is).expect("such a write");
    let policy = last(|write| matches!(write, Write::PutPolicy(..)));
    assert!(policy < first(|write| matches!(write, Write::PutEndpoint(..))));
    let service = last(|write| matches!(write, Write::PutService(..)));
    let enrolment = |write: &Write| matches!(write, Write::PutWorkload(..) | Write::PutCgroup(..));
    assert!(service < first(|write| matches!(write, Write::PutIdentity(..))));
    assert!(last(|write| matches!(write, Write::PutIdentity(..))) < first(enrolment));
}

#[test]
fn slots_in_use_are_never_overwritten_and_go_only_after_their_readers() {
    let mut rng = StdRng::seed_from_u64(14);
    let mut held = Held::default();
    for _ in 0..200 {
        let desired = random_desired(&mut rng);
        let mut stale = Vec::new();
        for write in diff(&held, &desired) {
            match &write {
                Write::PutSlot(key, _) => assert!(!held.slots.contains_key(key)),
                Write::PutService(key, _) | Write::RemoveService(key) => {
                    if let Some(old) = held.services.get(key) {
                        stale.push((old.port_id, old.generation));
                    }
                }
                Write::RemoveSlot(key) => {
                    assert!(!stale.contains(&(key.port_id, key.generation)));
                }
                Write::WaitForReaders => stale.clear(),
                _ => {}
            }
            held.follow(&write);
        }
    }
}
