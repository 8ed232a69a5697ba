//! Random changes from a seed, with what must hold after each of them.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn random_change(random: &mut StdRng) -> Change {
    let kind = Kind::ALL[random.random_range(0..Kind::ALL.len())];
    let name = NAMES[random.random_range(0..4)];
    let version = random.random_bool(0.1).then(|| "1".to_owned());
    if random.random_bool(0.3) {
        return Change::Delete {
            kind,
            key: key(name),
            resource_version: version,
        };
    }
    let other = NAMES[random.random_range(0..4)];
    let number = random.random_range(1..5);
    let spec = match kind {
        Kind::Service => {
            let ports: Vec<_> = (0..number)
                .map(|it| json!({"name": format!("p{it}"), "port": 80 + it}))
                .collect();
            let given = random.random_bool(0.3);
            let addresses = if given {
                json!([format!("10.0.0.{number}")])
            } else {
                json!([])
            };
            let mode = ["auto", "direct", "proxy"][random.random_range(0..3)];
            json!({"ports": ports, "addresses": addresses, "mode": mode})
        }
        Kind::Endpoint => json!({"service": other, "address": format!("10.0.0.{number}"),
            "ports": {format!("p{number}"): 8080}}),
        Kind::Workload => json!({"cgroup": format!("/{other}"), "serviceAccount": other,
            "addresses": [format!("10.0.0.{number}")]}),
        Kind::AuthorizationPolicy => {
            json!({"target": {"kind": "Service", "name": other}, "action": "Allow",
            "rules": [{"from": [{"namespaces": [name]}]}]})
        }
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => {
            let backend = json!({"name": name, "port": 79 + number});
            json!({"parentRefs": [{"group": "", "kind": "Service", "name": other}],
                "rules": [{"backendRefs": [backend]}]})
        }
        Kind::ReferenceGrant => {
            let from = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "far"}]);
            json!({"from": from, "to": [{"group": "", "kind": "Service", "name": other}]})
        }
        Kind::TrafficPolicy => {
            let kind = ["Service", "HTTPRoute"][random.random_range(0..2)];
            json!({"target": {"kind": kind, "name": other}, "retries": {"attempts": number}})
        }
    };
    Change::Put(read(kind, name, &spec))
}

/// Every object has its numbers, no number is given twice, and none is left over.
fn check_numbers(snapshot: &Snapshot) {
    let mut wanted = BTreeSet::new();
    for (key, service) in &snapshot.services {
        wanted.insert(Subject::Service(key.clone()));
        for port in &service.spec.ports {
            wanted.insert(Subject::Port(key.clone(), port.name.clone()));
        }
        for endpoint in snapshot.endpoints_of(key) {
            for port in &service.spec.ports {
                wanted.insert(Subject::Endpoint(endpoint.key(), port.name.clone()));
            }
        }
    }
    wanted.extend(snapshot.workloads.keys().cloned().map(Subject::Workload));
    wanted.extend(snapshot.policies.keys().cloned().map(Subject::Policy));
    let is_name = |it: &Subject| matches!(it, Subject::Namespace(_) | Subject::ServiceAccount(_));
    let numbered = snapshot.ids.iter().map(|(it, _)| it);
    let numbered: BTreeSet<_> = numbered.filter(|it| !is_name(it)).cloned().collect();
    assert_eq!(numbered, wanted);
    let numbers: BTreeSet<u32> = snapshot.ids.iter().map(|(_, number)| number).collect();
    assert_eq!(numbers.len(), snapshot.ids.iter().count());
    assert!(!numbers.contains(&0));
}

/// No virtual address is anybody else's, but for endpoints of the same service.
fn check_addresses(snapshot: &Snapshot) {
    let mut seen = BTreeSet::new();
    for service in snapshot.services.values() {
        assert!(!service.status.addresses.is_empty());
        for address in &service.status.addresses {
            assert!(seen.insert(*address), "{address} belongs to two services");
        }
    }
    for (key, endpoint) in &snapshot.endpoints {
        let service = ObjectKey::new(&key.namespace, &endpoint.spec.service);
        let own = snapshot.services.get(&service);
        let is_own = own.is_some_and(|it| it.status.addresses.contains(&endpoint.spec.address));
        assert!(is_own || !seen.contains(&endpoint.spec.address));
    }
    let workloads = snapshot.workloads.values();
    for address in workloads.flat_map(|it| it.spec.addresses.clone()) {
        assert!(seen.insert(address), "{address} belongs to two");
    }
}

/// `ResolvedRefs` says whether the service is there.
fn check_references(snapshot: &Snapshot) {
    let resolved = |conditions: &[Condition]| {
        let found = conditions
            .iter()
            .find(|it| it.kind == "ResolvedRefs")
            .unwrap();
        found.reason.clone()
    };
    for endpoint in snapshot.endpoints.values() {
        let service = snapshot.services.get(&key(&endpoint.spec.service));
        let expected = match service {
            None => "ServiceNotFound",
            Some(service) => {
                let known = service.spec.ports.iter().map(|it| &it.name);
                let known: BTreeSet<_> = known.collect();
                let all = endpoint.spec.ports.keys().all(|it| known.contains(it));
                if all { "ResolvedRefs" } else { "PortNotFound" }
            }
        };
        assert_eq!(resolved(&endpoint.status.conditions), expected);
    }
    for policy in snapshot.policies.values() {
        let exists = snapshot
            .services
            .contains_key(&key(&policy.spec.target.name));
        let expected = if exists {
            "ResolvedRefs"
        } else {
            "TargetNotFound"
        };
        assert_eq!(resolved(&policy.status.conditions), expected);
    }
}

/// Conditions of routes and traffic policies say what the engines are told, and would be the same were all objects
/// judged anew; the index of references is the one that all objects give.
fn check_attachments(snapshot: &Snapshot) {
    let anew = Snapshot {
        links: std::sync::OnceLock::new(),
        ..snapshot.clone()
    };
    let accepted = |conditions: &[Condition]| {
        let found = conditions.iter().find(|it| it.kind == "Accepted");
        found.unwrap().status == ConditionStatus::True
    };
    for (key, route) in &snapshot.http_routes {
        let in_force = anew.services.values().any(|service| {
            let mut ports = service.spec.ports.iter();
            ports.any(|port| {
                anew.routes_of::<HttpRoute>(service, port, &service.metadata.namespace)
                    .any(|it| it.key() == *key)
            })
        });
        assert_eq!(accepted(&route.status.conditions), in_force, "{route:?}");
    }
    let mut in_force = 0;
    for (key, policy) in &snapshot.traffic_policies {
        let target = &policy.spec.target;
        let found = anew.traffic_policy_for(target.kind, &self::key(&target.name), None);
        let is_this = found.is_some_and(|it| it.key() == *key);
        assert_eq!(accepted(&policy.status.conditions), is_this, "{policy:?}");
        in_force += usize::from(is_this);
    }
    let targets: BTreeSet<_> = snapshot
        .traffic_policies
        .values()
        .map(|it| &it.spec.target.name)
        .collect();
    assert!(in_force <= 2 * targets.len());
    assert_eq!(
        format!("{:?}", snapshot.links()),
        format!("{:?}", anew.links())
    );
}

#[test]
fn whatever_happens_the_registry_is_whole_and_watchers_have_the_same() {
    for seed in 0..8 {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), Config::default()).unwrap();
        let mut notices = store.subscribe();
        let mut replica: BTreeMap<(Kind, ObjectKey), Manifest> = BTreeMap::new();
        let mut random = StdRng::seed_from_u64(seed);
        for step in 0..120 {
            let before = store.snapshot();
            let applied = store.apply(random_change(&mut random));
            let snapshot = store.snapshot();
            if applied.is_err() {
                assert!(Arc::ptr_eq(&before, &snapshot), "seed {seed} step {step}");
            }
            while let Ok(notice) = notices.try_recv() {
                let place = (notice.object.kind(), notice.object.key());
                match notice.event {
                    NoticeKind::Added => assert!(replica.insert(place, notice.object).is_none()),
                    NoticeKind::Modified => assert!(replica.insert(place, notice.object).is_some()),
                    NoticeKind::Deleted => assert!(replica.remove(&place).is_some()),
                }
            }
            assert!(snapshot.manifests().eq(replica.values().cloned()));
            check_numbers(&snapshot);
            check_addresses(&snapshot);
            check_references(&snapshot);
            check_attachments(&snapshot);
            if step % 20 == 19 {
                drop(store);
                store = Store::open(directory.path(), Config::default()).unwrap();
                let restored = store.snapshot();
                assert_eq!(restored.revision, snapshot.revision);
                assert_eq!(restored.ids, snapshot.ids);
                assert!(restored.manifests().eq(snapshot.manifests()));
                notices = store.subscribe();
            }
        }
    }
}
