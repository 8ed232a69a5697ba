//! Tests of syncs against maps that are full.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_common::endpoint::State;
use mesh_common::names::map;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use super::{Kernel, Mirror};
use crate::ebpf::metrics::Metrics;
use crate::ebpf::mirror::desired::{Enrolled, Place, desired};
use crate::ebpf::mirror::diff::tests::{check_equal, check_readable, random_node};
use crate::ebpf::mirror::{Held, Write};
use crate::state::Snapshot;
use crate::state::affected::Affected;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::traffic::fixture::Fixture;

/// Maps in memory, some of them full at times.
#[derive(Default)]
struct Maps {
    held: RefCell<Held>,
    capacity: BTreeMap<&'static str, usize>,
}

#[derive(Debug, thiserror::Error)]
#[error("the map is full")]
struct Full;

fn entries(held: &Held, name: &str) -> usize {
    match name {
        map::POLICY => held.policies.len(),
        map::ENDPOINTS => held.endpoints.len(),
        map::OPEN => held.open.len(),
        map::CURSORS => held.cursors.len(),
        map::SLOTS => held.slots.len(),
        map::SERVICES => held.services.len(),
        map::IDENTITIES => held.identities.len(),
        map::WORKLOADS => held.workloads.len(),
        map::CGROUPS => held.cgroups.len(),
        other => panic!("{other} is not mirrored"),
    }
}

impl Kernel for Maps {
    type Error = Full;

    fn write(&self, write: &Write) -> Result<(), Full> {
        let mut after = self.held.borrow().clone();
        after.follow(write);
        check_readable(&after);
        let is_full = self
            .capacity
            .get(write.map())
            .is_some_and(|capacity| entries(&after, write.map()) > *capacity);
        if is_full && entries(&after, write.map()) > entries(&self.held.borrow(), write.map()) {
            return Err(Full);
        }
        *self.held.borrow_mut() = after;
        Ok(())
    }
}

fn mirror() -> Mirror {
    Mirror {
        held: Held::default(),
        garbage: Vec::new(),
        basis: None,
        metrics: Metrics::default(),
    }
}

fn web(endpoints: u8) -> Fixture {
    let mut fixture = Fixture::default().service(
        "web",
        &json!({"addresses": ["240.240.0.1"], "ports": [{"name": "main", "port": 80, "protocol": "tcp"}]}),
    );
    for n in 0..endpoints {
        fixture = fixture.endpoint(
            &format!("e{n}"),
            &["main"],
            &json!({"service": "web", "address": format!("10.0.0.{n}")}),
        );
    }
    fixture
}

#[test]
fn a_sync_writes_once_and_then_nothing() {
    let maps = Maps::default();
    let mut mirror = mirror();
    assert!(!mirror.is_kernel_populated());
    let snapshot = Arc::new(web(3).snapshot());
    let report = mirror.sync(&maps, &snapshot, &Enrolled::default());
    assert!(report.is_complete() && report.written > 0);
    assert_eq!(
        mirror.sync(&maps, &snapshot, &Enrolled::default()).written,
        0
    );
    assert!(mirror.is_kernel_populated());
    assert_eq!(*mirror.held(), *maps.held.borrow());
}

#[test]
fn a_full_map_keeps_the_old_service_and_names_the_object() {
    let mut maps = Maps::default();
    let mut mirror = mirror();
    let small = Arc::new(web(3).snapshot());
    mirror.sync(&maps, &small, &Enrolled::default());
    let before = maps.held.borrow().services.clone();

    maps.capacity.insert(map::SLOTS, 6);
    let large = Arc::new(web(5).snapshot());
    let report = mirror.sync(&maps, &large, &Enrolled::default());
    assert!(report.failed > 0 && report.held_back > 0);
    assert_eq!(maps.held.borrow().services, before);
    let failure = report.failures.first().unwrap();
    assert_eq!(failure.map, map::SLOTS);
    let port = Subject::Port(ObjectKey::new("shop", "web"), "main".to_owned());
    assert_eq!(failure.subject, Some(port));

    maps.capacity.clear();
    let report = mirror.sync(&maps, &large, &Enrolled::default());
    assert!(report.is_complete());
    mirror.sweep(&maps);
    assert_eq!(
        maps.held.borrow().slots.len(),
        5,
        "what was left over is gone"
    );
}

#[test]
fn a_service_is_not_opened_when_its_policy_does_not_fit() {
    let mut maps = Maps::default();
    maps.capacity.insert(map::POLICY, 0);
    let snapshot = web(1)
        .policy(
            "p",
            &json!({"target": {"kind": "Service", "name": "web"}, "action": "Allow"}),
        )
        .snapshot();
    let snapshot = Arc::new(snapshot);
    let report = mirror().sync(&maps, &snapshot, &Enrolled::default());
    assert!(!report.is_complete());
    assert!(maps.held.borrow().services.is_empty() && maps.held.borrow().endpoints.is_empty());
    let key = |name| ObjectKey::new("shop", name);
    let held_back = [
        Subject::Policy(key("p")),
        Subject::Service(key("web")),
        Subject::Endpoint(key("e0"), "main".to_owned()),
    ];
    let is_told = |it: &Subject| report.unwritten.contains(it);
    assert!(held_back.iter().all(is_told), "{:?}", report.unwritten);
}

#[test]
fn full_maps_never_leave_something_unreadable_and_later_syncs_repair() {
    let names = [
        map::POLICY,
        map::ENDPOINTS,
        map::OPEN,
        map::CURSORS,
        map::SLOTS,
        map::SERVICES,
    ];
    let mut rng = StdRng::seed_from_u64(15);
    let mut maps = Maps::default();
    let mut mirror = mirror();
    for round in 0..90 {
        maps.capacity.clear();
        if round % 3 != 2 {
            for name in names {
                let entries = entries(&maps.held.borrow(), name);
                maps.capacity.insert(name, entries + rng.random_range(0..6));
            }
        }
        let (snapshot, enrolled) = random_node(&mut rng);
        let report = mirror.sync(&maps, &snapshot, &enrolled);
        if maps.capacity.is_empty() {
            assert!(report.is_complete());
            mirror.sweep(&maps);
            check_equal(&maps.held.borrow(), &desired(&snapshot, &enrolled));
            assert_eq!(*mirror.held(), *maps.held.borrow());
        }
    }
}

#[test]
fn a_step_leads_to_the_same_as_a_comparison_of_everything() {
    let mut rng = StdRng::seed_from_u64(16);
    let maps = Maps::default();
    let mut mirror = mirror();
    let (mut snapshot, mut enrolled) = random_node(&mut rng);
    for round in 0..300 {
        let (other, places) = random_node(&mut rng);
        // Sometimes little changes, sometimes everything.
        match round % 4 {
            0 => snapshot = other,
            1 => enrolled = places,
            kind => {
                let mut next = Snapshot::clone(&snapshot);
                if kind == 2 {
                    next.endpoints.clone_from(&other.endpoints);
                } else {
                    next.policies.clone_from(&other.policies);
                    next.workloads.clone_from(&other.workloads);
                }
                snapshot = Arc::new(next.without_links());
            }
        }
        let report = mirror.sync(&maps, &snapshot, &enrolled);
        assert!(report.is_complete());
        assert!(mirror.basis.is_some(), "the next one is a step");
        if rng.random_bool(0.3) {
            mirror.sweep(&maps);
            check_equal(&maps.held.borrow(), &desired(&snapshot, &enrolled));
        }
        check_equal(mirror.held(), &desired(&snapshot, &enrolled));
    }
}

#[test]
fn a_change_costs_what_it_touches() {
    let maps = Maps::default();
    let mut mirror = mirror();
    let fixture = (0..50).fold(web(3), |fixture, n| {
        let ports = json!([{"name": "main", "port": 80, "protocol": "tcp"}]);
        let addresses = [format!("240.240.1.{n}")];
        fixture.service(
            &format!("s{n}"),
            &json!({"addresses": addresses, "ports": ports}),
        )
    });
    let before = Arc::new(fixture.snapshot());
    mirror.sync(&maps, &before, &Enrolled::default());
    let spec = json!({"service": "web", "address": "10.0.0.9"});
    let after = Arc::new(fixture.endpoint("e9", &["main"], &spec).snapshot());
    let step = Affected::between(&before, &after);
    assert_eq!(step.services, [ObjectKey::new("shop", "web")].into());
    let report = mirror.sync(&maps, &after, &Enrolled::default());
    // The endpoint and its count, four slots and the service; the three old slots are garbage.
    assert_eq!(report.written, 2 + 4 + 1 + 3);
    assert_eq!(mirror.sweep(&maps), 3);
}

#[test]
fn a_place_of_two_workloads_stays_enrolled_when_one_of_them_goes() {
    let maps = Maps::default();
    let mut mirror = mirror();
    let both = Fixture::default()
        .workload("a", &json!({"netns": "/run/netns/a"}))
        .workload("b", &json!({"netns": "/proc/7/ns/net"}))
        .snapshot();
    let (a, b) = (ObjectKey::new("shop", "a"), ObjectKey::new("shop", "b"));
    let mut enrolled = Enrolled::default();
    enrolled.places.insert(a.clone(), Place::Netns(7));
    enrolled.places.insert(b.clone(), Place::Netns(7));
    let number = |key: &ObjectKey| both.ids.number(&Subject::Workload(key.clone()));
    let at_place = || maps.held.borrow().workloads.get(&7).map(|it| it.id);
    mirror.sync(&maps, &Arc::new(both.clone()), &enrolled);
    assert_eq!(at_place(), Some(number(&a)));
    let mut one = both.clone();
    one.workloads.remove(&a);
    enrolled.places.remove(&a);
    mirror.sync(&maps, &Arc::new(one), &enrolled);
    assert_eq!(at_place(), Some(number(&b)));
}

#[test]
fn a_socket_that_remembers_an_endpoint_sees_at_once_that_it_is_gone() {
    let maps = Maps::default();
    let mut mirror = mirror();
    mirror.sync(&maps, &Arc::new(web(3).snapshot()), &Enrolled::default());
    let numbers = |held: &Held| held.endpoints.keys().copied().collect::<BTreeSet<u32>>();
    let before = numbers(mirror.held());
    mirror.sync(&maps, &Arc::new(web(2).snapshot()), &Enrolled::default());
    let gone: Vec<u32> = before
        .difference(&numbers(mirror.held()))
        .copied()
        .collect();
    let state = |id: &u32| maps.held.borrow().endpoints.get(id).map(|it| it.state);
    assert_eq!(
        gone.iter().map(state).collect::<Vec<_>>(),
        [Some(State::Failed as u8)]
    );
    mirror.sweep(&maps);
    assert_eq!(gone.iter().map(state).collect::<Vec<_>>(), [None]);
}
