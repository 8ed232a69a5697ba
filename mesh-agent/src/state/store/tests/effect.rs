//! What traffic policies say of fields that have nothing to act on.

use super::*;
use crate::state::report::FaultReport;

/// Puts a policy for the service `web`, and shows its condition: reason and message.
fn told(store: &Store, condition: &str, spec: &Value) -> (String, String) {
    let mut spec = spec.clone();
    spec["target"] = json!({"kind": "Service", "name": "web"});
    put(store, Kind::TrafficPolicy, "p", &spec);
    said(store, condition)
}

fn said(store: &Store, condition: &str) -> (String, String) {
    let snapshot = store.snapshot();
    let conditions = &snapshot.traffic_policies[&key("p")].status.conditions;
    let found = conditions.iter().find(|it| it.kind == condition).unwrap();
    (
        reason(store, Kind::TrafficPolicy, "p", condition),
        found.message.clone(),
    )
}

fn accepted(message: &str) -> (String, String) {
    ("Accepted".to_owned(), message.to_owned())
}

fn idle(message: &str) -> (String, String) {
    ("!NoEffect".to_owned(), message.to_owned())
}

#[test]
fn what_speaks_of_requests_needs_a_port_with_requests() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("sql", 5432, "tcp")]);
    let faults = json!([{"abort": {"status": 503}}]);
    let why = "no effect, no port of Service shop/web speaks HTTP";
    let spec = json!({"timeouts": {"request": "1s"}, "faults": faults});
    let expected = idle(&format!("spec.timeouts, spec.faults: {why}"));
    assert_eq!(told(&store, "Accepted", &spec), expected);
    assert_eq!(FaultReport::all(&store.snapshot()), []);

    // What is left holds.
    let spec = json!({"loadBalancing": {"algorithm": "PeakEwma"}, "faults": faults});
    let expected = accepted(&format!("spec.faults: {why}"));
    assert_eq!(told(&store, "Accepted", &spec), expected);
    assert_eq!(FaultReport::all(&store.snapshot()), []);
    let spec = json!({"rateLimits": [{"bytes": 1}, {"requests": 1}], "circuitBreaker": {"maxRequests": 1}});
    let fields = "spec.circuitBreaker.maxRequests, spec.rateLimits[1].requests";
    assert_eq!(
        told(&store, "Accepted", &spec),
        accepted(&format!("{fields}: {why}"))
    );
    // A connection that was refused is tried again.
    let spec = json!({"retries": {}, "outlierDetection": {"consecutiveLocalFailures": 1}});
    assert_eq!(told(&store, "Accepted", &spec), accepted(""));
    // Or is not: a route would else lead through a proxy that does so.
    let spec = json!({"retries": {"attempts": 0}});
    assert_eq!(told(&store, "Accepted", &spec), accepted(""));
    let spec = json!({"retries": {"on": ["5xx"]}});
    let expected = idle(&format!("spec.retries: {why}"));
    assert_eq!(told(&store, "Accepted", &spec), expected);

    put_service(&store, "web", &[("http", 80, "http")]);
    told(&store, "Accepted", &json!({"faults": faults}));
    assert_eq!(FaultReport::all(&store.snapshot()).len(), 1);
    let why = "no effect, every port of Service shop/web speaks HTTP";
    assert_eq!(
        told(
            &store,
            "Accepted",
            &json!({"rateLimits": [{"bytes": 1, "per": "1h"}]})
        ),
        idle(&format!("spec.rateLimits[0].bytes: {why}"))
    );
}

#[test]
fn datagrams_are_balanced_and_nothing_more() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("dns", 53, "udp")]);
    let spec = json!({"loadBalancing": {"algorithm": "Random"}, "healthCheck": {"tcp": {}}});
    let why = "no effect, Service shop/web has no port that takes connections";
    let expected = accepted(&format!("spec.healthCheck: {why}"));
    assert_eq!(told(&store, "Accepted", &spec), expected);
    let spec = json!({"rateLimits": [{"connections": 1}]});
    let expected = idle(&format!("spec.rateLimits[0].connections: {why}"));
    assert_eq!(told(&store, "Accepted", &spec), expected);
}

#[test]
fn headless_service_is_checked_and_guarded_where_somebody_sends_to_it() {
    let store = Store::in_memory();
    let ports = json!([{"name": "http", "port": 80, "protocol": "http"}]);
    let headless = json!({"ports": ports, "headless": true});
    put(&store, Kind::Service, "web", &headless);
    let check = json!({"healthCheck": {"tcp": {}}});
    assert_eq!(told(&store, "Accepted", &check), accepted(""));
    let spec = json!({"retries": {}, "loadBalancing": {"algorithm": "Random"}});
    let why = "no effect, Service shop/web is headless: who dials it passes the proxy by";
    let nothing = idle(&format!(
        "spec.loadBalancing.algorithm, spec.retries: {why}"
    ));
    assert_eq!(told(&store, "Accepted", &spec), nothing);

    put_service(&store, "front", &[("http", 80, "http")]);
    let route = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "front"}],
        "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]});
    let delete = |kind, name| {
        let change = Change::Delete {
            kind,
            key: key(name),
            resource_version: None,
        };
        store.apply(change).expect("it is there");
    };
    put(&store, Kind::HttpRoute, "r", &route);
    let not_dialled = "no effect, Service shop/web is headless: for who is sent there by a route holds what is said of the \
         Service that was dialled";
    let but_retries = accepted(&format!("spec.retries: {not_dialled}"));
    assert_eq!(said(&store, "Accepted"), but_retries);
    delete(Kind::HttpRoute, "r");
    assert_eq!(said(&store, "Accepted"), nothing);

    let failover = json!({"target": {"kind": "Service", "name": "front"},
        "loadBalancing": {"failover": [{"service": "web"}]}});
    put(&store, Kind::TrafficPolicy, "front", &failover);
    assert_eq!(said(&store, "Accepted"), but_retries);
    delete(Kind::TrafficPolicy, "front");
    assert_eq!(said(&store, "Accepted"), nothing);

    put(&store, Kind::HttpRoute, "r", &route);
    let spec = json!({"retries": {}, "timeouts": {"request": "1s"}, "hedging": {"after": "p95"},
        "priority": "High"});
    let fields = "spec.retries, spec.timeouts, spec.hedging, spec.priority";
    let expected = idle(&format!("{fields}: {not_dialled}"));
    assert_eq!(told(&store, "Accepted", &spec), expected);
    let spec = json!({"faults": [{"abort": {"status": 503}}], "rateLimits": [{"requests": 1}]});
    assert_eq!(told(&store, "Accepted", &spec), accepted(""));
}

#[test]
fn subset_that_no_endpoint_is_in_is_told() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("http", 80, "http")]);
    let put_version = |version: &str| {
        let spec = json!({"service": "web", "address": "10.0.0.3", "version": version});
        put(&store, Kind::Endpoint, "web-1", &spec);
    };
    put_version("v1");
    let resolved = ("ResolvedRefs".to_owned(), String::new());
    let subsets = json!([{"version": "v1"}, {"version": "v9", "labels": {"track": "canary"}}]);
    let missing = |index: usize, what: &str| {
        let field = format!("spec.loadBalancing.subsets[{index}]");
        let message = format!("{field}: no endpoint of Service shop/web has {what}");
        ("!EndpointNotFound".to_owned(), message)
    };
    assert_eq!(
        told(
            &store,
            "ResolvedRefs",
            &json!({"loadBalancing": {"subsets": subsets}})
        ),
        missing(1, "version v9, track=canary")
    );
    let spec = json!({"loadBalancing": {"subsets": [{"version": "v2"}]}});
    let nobody = missing(0, "version v2");
    assert_eq!(told(&store, "ResolvedRefs", &spec), nobody);
    put_version("v2");
    assert_eq!(said(&store, "ResolvedRefs"), resolved);
    put_version("v3");
    assert_eq!(said(&store, "ResolvedRefs"), nobody);
}
