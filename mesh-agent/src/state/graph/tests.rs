//! Graphs of small meshes.

use serde_json::json;

use super::*;
use crate::state::object::Condition;
use crate::state::{Change, Store, decode};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn put(store: &Store, kind: Kind, name: &str, spec: &serde_json::Value) {
    let document = json!({ "spec": spec });
    let manifest = decode::manifest(kind, &key(name), document).expect("it can be decoded");
    store.apply(Change::Put(manifest)).expect("it is right");
}

fn service(store: &Store, name: &str, needs: &[&str]) {
    let needs: Vec<_> = needs.iter().map(|name| json!({ "name": name })).collect();
    let ports = json!([{"name": "http", "port": 80}]);
    let spec = json!({"ports": ports, "dependencies": needs});
    put(store, Kind::Service, name, &spec);
}

fn endpoint(store: &Store, service: &str, address: &str) {
    let spec = json!({"service": service, "address": address});
    put(store, Kind::Endpoint, &format!("{service}-1"), &spec);
}

fn delete(store: &Store, kind: Kind, name: &str) {
    let change = Change::Delete {
        kind,
        key: key(name),
        resource_version: None,
    };
    store.apply(change).expect("it is there");
}

/// What a service says of its dependencies.
fn resolved(store: &Store, name: &str) -> Option<Condition> {
    let service = Service::clone(&store.snapshot().services[&key(name)]);
    let conditions = service.status.conditions.iter();
    let mut found = conditions.filter(|it| it.kind == "DependenciesResolved");
    found.next().cloned()
}

fn reason(store: &Store, name: &str) -> String {
    resolved(store, name).map_or_else(|| "-".to_owned(), |it| it.reason)
}

/// A web service that needs a cache, both with a workload that serves them, and a client that serves nothing.
fn shop() -> Store {
    let store = Store::in_memory();
    service(&store, "web", &["cache"]);
    service(&store, "cache", &[]);
    service(&store, "db", &[]);
    endpoint(&store, "web", "10.0.0.1");
    endpoint(&store, "cache", "10.0.0.2");
    for (name, address) in [("web", "10.0.0.1"), ("client", "10.0.0.9")] {
        let spec = json!({"netns": format!("/run/netns/{name}"), "addresses": [address]});
        put(&store, Kind::Workload, name, &spec);
    }
    store
}

fn seen(pairs: &[(&str, &str)]) -> Observed {
    let traffic = Traffic {
        connections: BTreeMap::from([("proxy".to_owned(), 2)]),
        requests: 5,
        ..Traffic::default()
    };
    let pairs = pairs.iter();
    pairs
        .map(|(workload, service)| ((key(workload), key(service)), traffic.clone()))
        .collect()
}

/// `kind name -> name`, with what is said of it.
fn edges(graph: &Graph) -> Vec<String> {
    let edges = graph.edges.iter();
    edges
        .map(|it| {
            let words = [
                (it.declared, " declared"),
                (it.observed, " seen"),
                (it.undeclared, " UNDECLARED"),
            ];
            let said: String = words.iter().filter(|it| it.0).map(|it| it.1).collect();
            let (from, to) = (&it.source, &it.destination);
            format!("{} {} -> {}{said}", from.kind, from.name, to.name)
        })
        .collect()
}

#[test]
fn what_is_declared_and_what_was_seen_are_joined() {
    let store = shop();
    let observed = seen(&[("web", "cache"), ("web", "db"), ("client", "web")]);

    let graph = graph(&store.snapshot(), &observed, None);

    assert_eq!(
        edges(&graph),
        [
            "Service web -> cache declared seen",
            "Service web -> db seen UNDECLARED",
            "Workload client -> web seen",
            "Workload web -> cache declared seen",
            "Workload web -> db seen UNDECLARED",
        ]
    );
    let to_db = &graph.edges[1];
    assert_eq!((to_db.connections, to_db.requests), (2, 5));
    assert_eq!(to_db.verdicts["proxy"], 2);
    let web = graph
        .nodes
        .iter()
        .find(|it| it.kind == Kind::Workload && it.name == "web");
    assert_eq!(web.expect("a node").serves, ["shop/web"]);
    let cache = graph.nodes.iter().find(|it| it.name == "cache");
    assert_eq!(cache.map(|it| (it.endpoints, it.passing)), Some((1, 1)));

    let found = undeclared(&store.snapshot(), &observed);
    let found: Vec<_> = found
        .iter()
        .map(|it| (&*it.source.name, &*it.destination.name))
        .collect();
    assert_eq!(found, [("web", "db")]);
}

#[test]
fn a_namespace_keeps_only_what_touches_it_and_a_missing_service_is_shown() {
    let store = shop();
    service(&store, "db", &["nowhere"]);
    assert_eq!(
        graph(&store.snapshot(), &Observed::new(), Some("other")),
        Graph::default()
    );

    let graph = graph(&store.snapshot(), &Observed::new(), Some("shop"));

    let nowhere = graph.nodes.iter().find(|it| it.name == "nowhere");
    assert!(!nowhere.expect("a node").exists);
}

#[test]
fn missing_dependency_is_said_and_heals() {
    let store = Store::in_memory();
    service(&store, "web", &["cache"]);
    let said = resolved(&store, "web").expect("it is said");
    assert_eq!(said.reason, "DependencyNotFound");
    assert_eq!(said.message, "there is no Service shop/cache");

    service(&store, "cache", &[]);
    assert_eq!(reason(&store, "web"), "Resolved");
    assert_eq!(reason(&store, "cache"), "-", "it needs nothing");
    delete(&store, Kind::Service, "cache");
    assert_eq!(reason(&store, "web"), "DependencyNotFound");
    service(&store, "web", &[]);
    assert_eq!(reason(&store, "web"), "-");
}

#[test]
fn cycle_is_said_of_its_members_only_and_heals() {
    let store = Store::in_memory();
    service(&store, "a", &["b"]);
    service(&store, "b", &["c"]);
    service(&store, "outside", &["a"]);
    service(&store, "c", &["a"]);

    let said = resolved(&store, "a").expect("it is said");
    assert_eq!(said.reason, "DependencyCycle");
    assert_eq!(
        said.message,
        "it needs itself: shop/a needs shop/b needs shop/c needs shop/a"
    );
    for name in ["b", "c"] {
        assert_eq!(reason(&store, name), "DependencyCycle", "{name}");
    }
    assert_eq!(reason(&store, "outside"), "Resolved");
    let written = store.snapshot().services[&key("c")]
        .metadata
        .resource_version
        .clone();

    service(&store, "b", &[]);
    for (name, wanted) in [("a", "Resolved"), ("b", "-"), ("c", "Resolved")] {
        assert_eq!(reason(&store, name), wanted, "{name}");
    }
    let now = store.snapshot().services[&key("c")]
        .metadata
        .resource_version
        .clone();
    assert_ne!(written, now, "watchers are told");
    service(&store, "a", &["a"]);
    assert_eq!(reason(&store, "a"), "DependencyCycle");
}

#[test]
fn dependency_of_another_namespace_is_found() {
    let store = Store::in_memory();
    let ports = json!([{"name": "http", "port": 80}]);
    let needs = json!([{"name": "web", "namespace": "shop"}]);
    let spec = json!({"ports": ports, "dependencies": needs});
    let far = ObjectKey::new("far", "front");
    let manifest = decode::manifest(Kind::Service, &far, json!({ "spec": spec }));
    store
        .apply(Change::Put(manifest.expect("it is right")))
        .expect("it is right");
    let reason = || store.snapshot().services[&far].status.conditions.clone();
    assert!(reason().iter().any(|it| it.reason == "DependencyNotFound"));

    service(&store, "web", &[]);

    assert!(
        reason()
            .iter()
            .any(|it| it.kind == "DependenciesResolved" && it.reason == "Resolved")
    );
}

#[test]
fn readiness_follows_what_is_needed_to_the_end() {
    let store = shop();
    service(&store, "cache", &["db"]);
    let snapshot = store.snapshot();
    let web = readiness::readiness(&snapshot, &key("web")).expect("it is there");
    assert!(!web.ready);
    let states: Vec<_> = web
        .dependencies
        .iter()
        .map(|it| (&*it.name, &*it.reason))
        .collect();
    assert_eq!(states, [("cache", "Ready"), ("db", "NoEndpoint")]);
    assert_eq!(web.dependencies[1].needed_by, "shop/cache");

    endpoint(&store, "db", "10.0.0.3");
    let web =
        |store: &Store| readiness::readiness(&store.snapshot(), &key("web")).expect("it is there");
    assert!(web(&store).ready);
    let spec = json!({"service": "db", "address": "10.0.0.3", "maintenance": {"reason": "x"}});
    put(&store, Kind::Endpoint, "db-1", &spec);
    assert_eq!(web(&store).dependencies[1].reason, "NoPassingEndpoint");
    assert_eq!(readiness::readiness(&snapshot, &key("no")), None);
    // A cycle ends where it began.
    service(&store, "db", &["web"]);
    assert_eq!(web(&store).dependencies.len(), 2);
}
