//! What is attached to what: conditions and what the engines are told, as things come and go.

use super::*;

fn put_route(store: &Store, kind: Kind, name: &str, parent: &Value, backends: &[&str]) {
    let backends: Vec<_> = backends
        .iter()
        .map(|name| json!({"name": name, "port": 80}))
        .collect();
    let spec =
        json!({"parentRefs": [parent], "rules": [{"name": "first", "backendRefs": backends}]});
    put(store, kind, name, &spec);
}

fn web() -> Value {
    json!({"group": "", "kind": "Service", "name": "web"})
}

fn put_traffic(store: &Store, name: &str, kind: &str, target: &str, spec: &Value) {
    let mut spec = spec.clone();
    spec["target"] = json!({"kind": kind, "name": target});
    put(store, Kind::TrafficPolicy, name, &spec);
}

fn delete(store: &Store, kind: Kind, name: &str) {
    let change = Change::Delete {
        kind,
        key: key(name),
        resource_version: None,
    };
    store.apply(change).expect("it is there");
}

/// The routes in force on the first port of a service.
fn routes<R: crate::state::reference::Route>(store: &Store, service: &str) -> Vec<String> {
    let snapshot = store.snapshot();
    let service = &snapshot.services[&key(service)];
    let routes = snapshot.routes_of::<R>(service, &service.spec.ports[0], "shop");
    routes.map(|it| it.metadata().name.clone()).collect()
}

fn in_force(store: &Store, kind: Kind, target: &str) -> Option<String> {
    let snapshot = store.snapshot();
    let policy = snapshot.traffic_policy_for(kind, &key(target), None)?;
    Some(policy.metadata.name.clone())
}

fn is_direct(store: &Store, port: usize) -> bool {
    let snapshot = store.snapshot();
    let service = &snapshot.services[&key("web")];
    snapshot.is_direct(service, &service.spec.ports[port])
}

#[test]
fn dangling_route_is_marked_and_heals_when_the_services_come() {
    let store = Store::in_memory();
    put_route(&store, Kind::HttpRoute, "r", &web(), &["v1", "v2"]);
    let check = |accepted: &str, resolved: &str| {
        assert_eq!(reason(&store, Kind::HttpRoute, "r", "Accepted"), accepted);
        assert_eq!(
            reason(&store, Kind::HttpRoute, "r", "ResolvedRefs"),
            resolved
        );
    };
    check("!NoMatchingParent", "!BackendNotFound");
    put_service(&store, "web", &[("http", 80, "http")]);
    check("Accepted", "!BackendNotFound");
    assert_eq!(routes::<HttpRoute>(&store, "web"), ["r"]);
    put_service(&store, "v1", &[("http", 80, "http")]);
    put_service(&store, "v2", &[("http", 81, "http")]);
    check("Accepted", "!BackendNotFound");
    put_service(&store, "v2", &[("http", 80, "http")]);
    check("Accepted", "ResolvedRefs");
    delete_service(&store, "v1");
    check("Accepted", "!BackendNotFound");
    delete_service(&store, "web");
    check("!NoMatchingParent", "!BackendNotFound");
}

#[test]
fn backend_of_another_kind_is_marked() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("http", 80, "http")]);
    let bucket = json!({"group": "example.com", "kind": "Bucket", "name": "b"});
    let backends = json!([{"name": "web", "port": 80}, bucket]);
    let spec = json!({"parentRefs": [web()], "rules": [{"backendRefs": backends}]});
    put(&store, Kind::HttpRoute, "r", &spec);
    let of = |condition| reason(&store, Kind::HttpRoute, "r", condition);
    assert_eq!(
        [of("Accepted"), of("ResolvedRefs")],
        ["Accepted", "!InvalidKind"]
    );
}

#[test]
fn nothing_is_attached_to_a_headless_service() {
    let store = Store::in_memory();
    let spec =
        |headless: bool| json!({"headless": headless, "ports": [{"name": "http", "port": 80}]});
    put(&store, Kind::Service, "web", &spec(true));
    put_route(&store, Kind::HttpRoute, "r", &web(), &["web"]);
    let accepted = || reason(&store, Kind::HttpRoute, "r", "Accepted");
    assert_eq!(accepted(), "!Headless");
    assert!(routes::<HttpRoute>(&store, "web").is_empty());
    put(&store, Kind::Service, "web", &spec(false));
    assert_eq!(accepted(), "Accepted");
    assert_eq!(routes::<HttpRoute>(&store, "web"), ["r"]);
}

#[test]
fn backend_of_another_protocol_is_marked() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("any", 80, "auto")]);
    for (protocol, resolved) in [
        ("tls", ["!UnsupportedProtocol", "!UnsupportedProtocol"]),
        ("http", ["ResolvedRefs", "!UnsupportedProtocol"]),
        ("grpc", ["ResolvedRefs", "ResolvedRefs"]),
    ] {
        put_service(&store, "v1", &[("main", 80, protocol)]);
        let told = [Kind::HttpRoute, Kind::GrpcRoute].map(|kind| {
            put_route(&store, kind, "r", &web(), &["v1"]);
            reason(&store, kind, "r", "ResolvedRefs")
        });
        assert_eq!(told, resolved, "{protocol}");
    }
}

#[test]
fn route_is_in_force_only_on_ports_that_it_names_and_that_speak_its_protocol() {
    let store = Store::in_memory();
    put_service(
        &store,
        "web",
        &[("http", 80, "http"), ("raw", 81, "tcp"), ("tls", 82, "tls")],
    );
    let kinds = |port: usize| {
        let snapshot = store.snapshot();
        let service = &snapshot.services[&key("web")];
        let port = &service.spec.ports[port];
        [
            snapshot
                .routes_of::<HttpRoute>(service, port, "shop")
                .count(),
            snapshot
                .routes_of::<TcpRoute>(service, port, "shop")
                .count(),
            snapshot
                .routes_of::<TlsRoute>(service, port, "shop")
                .count(),
        ]
    };
    put_route(&store, Kind::HttpRoute, "h", &web(), &["web"]);
    assert_eq!([kinds(0), kinds(1), kinds(2)], [[1, 0, 0], [0; 3], [0; 3]]);
    assert!(is_direct(&store, 1) && is_direct(&store, 2));

    let mut parent = web();
    parent["port"] = json!(81);
    put_route(&store, Kind::TcpRoute, "t", &parent, &["web"]);
    assert_eq!(
        [kinds(0), kinds(1), kinds(2)],
        [[1, 0, 0], [0, 1, 0], [0; 3]]
    );
    assert!(!is_direct(&store, 1) && is_direct(&store, 2));

    put_route(&store, Kind::TlsRoute, "s", &web(), &["web"]);
    assert_eq!(kinds(2), [0, 0, 1]);
    assert!(!is_direct(&store, 2));

    parent["port"] = json!(83);
    put_route(&store, Kind::TcpRoute, "t", &parent, &["web"]);
    assert_eq!(
        reason(&store, Kind::TcpRoute, "t", "Accepted"),
        "!NoMatchingParent"
    );
    parent["port"] = json!(80);
    put_route(&store, Kind::TcpRoute, "t", &parent, &["web"]);
    assert_eq!(
        reason(&store, Kind::TcpRoute, "t", "Accepted"),
        "!NotAllowedByListeners"
    );
    let mut by_name = web();
    by_name["sectionName"] = json!("raw");
    put_route(&store, Kind::TcpRoute, "t", &by_name, &["web"]);
    assert_eq!(reason(&store, Kind::TcpRoute, "t", "Accepted"), "Accepted");
    delete(&store, Kind::TcpRoute, "t");
    assert!(is_direct(&store, 1));
}

#[test]
fn grpc_routes_have_a_port_to_themselves() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("http", 80, "http"), ("rpc", 81, "grpc")]);
    let at = |port: u16| {
        let mut parent = web();
        parent["port"] = json!(port);
        parent
    };
    put_route(&store, Kind::HttpRoute, "h", &at(80), &["web"]);
    put_route(&store, Kind::HttpRoute, "both", &web(), &["web"]);
    let told = || ["both", "h"].map(|name| reason(&store, Kind::HttpRoute, name, "Accepted"));
    let in_force = || routes::<HttpRoute>(&store, "web");
    assert_eq!(told(), ["Accepted", "Accepted"]);

    put_route(&store, Kind::GrpcRoute, "g", &at(80), &["web"]);
    assert_eq!(told(), ["Accepted", "!Conflicted"], "one has another port");
    assert!(in_force().is_empty());
    let snapshot = store.snapshot();
    let message = &snapshot.http_routes[&key("h")].status.conditions[0].message;
    assert!(
        message.contains("GRPCRoute shop/g goes before it"),
        "{message}"
    );

    put_route(&store, Kind::GrpcRoute, "g", &web(), &["web"]);
    assert_eq!(told(), ["!Conflicted", "!Conflicted"]);
    put_route(&store, Kind::GrpcRoute, "g", &at(81), &["web"]);
    assert_eq!(told(), ["Accepted", "Accepted"]);
    assert_eq!(in_force(), ["both", "h"]);
    put_route(&store, Kind::GrpcRoute, "g", &web(), &["web"]);
    delete(&store, Kind::GrpcRoute, "g");
    assert_eq!(told(), ["Accepted", "Accepted"]);

    // What a namespace has for its own callers is another matter.
    let parent = json!({"group": "", "kind": "Service", "name": "web", "namespace": "shop"});
    put_far(
        &store,
        Kind::GrpcRoute,
        "g",
        &json!({"parentRefs": [parent], "rules": [{}]}),
    );
    assert_eq!(told(), ["Accepted", "Accepted"]);
}

#[test]
fn only_routes_of_the_most_specific_kind_are_in_force_for_a_port() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("any", 80, "auto"), ("tls", 81, "tls")]);
    let kinds = [
        Kind::TcpRoute,
        Kind::TlsRoute,
        Kind::HttpRoute,
        Kind::GrpcRoute,
    ];
    let told = || kinds.map(|kind| reason(&store, kind, "r", "Accepted"));
    let in_force = || {
        [
            routes::<TcpRoute>(&store, "web"),
            routes::<TlsRoute>(&store, "web"),
            routes::<HttpRoute>(&store, "web"),
            routes::<GrpcRoute>(&store, "web"),
        ]
        .map(|it| it.len())
    };
    let mut first = web();
    first["port"] = json!(80);
    for kind in kinds {
        let name = if kind == Kind::TcpRoute { "s" } else { "r" };
        put_route(&store, kind, name, &first, &["web"]);
    }
    // This one comes last, and has the other port too.
    put_route(&store, Kind::TcpRoute, "r", &web(), &["web"]);
    let conflicted = "!Conflicted";
    assert_eq!(told(), ["Accepted", conflicted, conflicted, "Accepted"]);
    assert_eq!(in_force(), [0, 0, 0, 1]);
    delete(&store, Kind::GrpcRoute, "r");
    assert_eq!(in_force(), [0, 0, 1, 0]);
    delete(&store, Kind::HttpRoute, "r");
    assert_eq!(in_force(), [0, 1, 0, 0]);
    let of_first = || reason(&store, Kind::TcpRoute, "s", "Accepted");
    assert_eq!(of_first(), conflicted);
    let snapshot = store.snapshot();
    let message = &snapshot.tcp_routes[&key("s")].status.conditions[0].message;
    assert!(
        message.contains("TLSRoute shop/r goes before it"),
        "{message}"
    );
    put_route(&store, Kind::TlsRoute, "r", &web(), &["web"]);
    assert_eq!(reason(&store, Kind::TcpRoute, "r", "Accepted"), conflicted);
    delete(&store, Kind::TlsRoute, "r");
    assert_eq!(in_force(), [2, 0, 0, 0]);
    assert_eq!(of_first(), "Accepted");
}

#[test]
fn parents_that_are_no_services_of_the_namespace_attach_nothing() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("http", 80, "http")]);
    let gateway = json!({"name": "web"});
    put_route(&store, Kind::HttpRoute, "g", &gateway, &["web"]);
    assert_eq!(
        reason(&store, Kind::HttpRoute, "g", "Accepted"),
        "!NotSupported"
    );
    let mut far = web();
    far["namespace"] = json!("far");
    put_route(&store, Kind::HttpRoute, "f", &far, &["web"]);
    assert_eq!(
        reason(&store, Kind::HttpRoute, "f", "Accepted"),
        "!NoMatchingParent"
    );
    assert!(routes::<HttpRoute>(&store, "web").is_empty());

    let spec = json!({"parentRefs": [gateway, web()], "rules": [{"backendRefs": [
        {"name": "web", "port": 80, "namespace": "far"}]}]});
    put(&store, Kind::HttpRoute, "g", &spec);
    assert_eq!(reason(&store, Kind::HttpRoute, "g", "Accepted"), "Accepted");
    assert_eq!(
        reason(&store, Kind::HttpRoute, "g", "ResolvedRefs"),
        "!RefNotPermitted"
    );
    assert_eq!(routes::<HttpRoute>(&store, "web"), ["g"]);
}

#[test]
fn policy_waits_for_its_target_and_for_the_rule_that_it_names() {
    let store = Store::in_memory();
    put_traffic(&store, "p", "HTTPRoute", "r", &json!({"priority": "Low"}));
    let spec = json!({"target": {"kind": "HTTPRoute", "name": "r", "sectionName": "first"}, "priority": "High"});
    put(&store, Kind::TrafficPolicy, "q", &spec);
    let both = || ["p", "q"].map(|name| reason(&store, Kind::TrafficPolicy, name, "Accepted"));
    assert_eq!(both(), ["!TargetNotFound", "!TargetNotFound"]);
    assert_eq!(
        reason(&store, Kind::TrafficPolicy, "p", "ResolvedRefs"),
        "!TargetNotFound"
    );

    put_route(&store, Kind::HttpRoute, "r", &web(), &["web"]);
    assert_eq!(both(), ["Accepted", "Accepted"]);
    let route = key("r");
    let of_rule = store.snapshot();
    let of_rule = of_rule.traffic_policy_for(Kind::HttpRoute, &route, Some("first"));
    assert_eq!(of_rule.unwrap().metadata.name, "q");
    assert_eq!(in_force(&store, Kind::HttpRoute, "r").as_deref(), Some("p"));

    put(
        &store,
        Kind::HttpRoute,
        "r",
        &json!({"parentRefs": [web()], "rules": [{"name": "second"}]}),
    );
    assert_eq!(both(), ["Accepted", "!TargetNotFound"]);
    delete(&store, Kind::HttpRoute, "r");
    assert_eq!(both(), ["!TargetNotFound", "!TargetNotFound"]);
}

#[test]
fn of_two_policies_for_one_target_the_older_is_in_force_until_it_leaves() {
    let clock = || "2026-01-02T03:04:05Z".parse().unwrap();
    let store = Store::in_memory().with_clock(clock);
    put_service(&store, "web", &[("http", 80, "http")]);
    put_traffic(&store, "b", "Service", "web", &json!({"priority": "Low"}));
    put_traffic(&store, "a", "Service", "web", &json!({"priority": "High"}));
    let both = || ["a", "b"].map(|name| reason(&store, Kind::TrafficPolicy, name, "Accepted"));
    // Made in the same second: the name decides.
    assert_eq!(both(), ["Accepted", "!Conflicted"]);
    assert_eq!(in_force(&store, Kind::Service, "web").as_deref(), Some("a"));

    put_traffic(&store, "a", "Service", "db", &json!({}));
    assert_eq!(both(), ["!TargetNotFound", "Accepted"]);
    put_traffic(&store, "a", "Service", "web", &json!({}));
    assert_eq!(both(), ["Accepted", "!Conflicted"]);
    delete(&store, Kind::TrafficPolicy, "a");
    assert_eq!(
        reason(&store, Kind::TrafficPolicy, "b", "Accepted"),
        "Accepted"
    );
    assert_eq!(in_force(&store, Kind::Service, "web").as_deref(), Some("b"));
}

#[test]
fn direct_service_takes_neither_routes_nor_policies_that_need_the_proxy() {
    let store = Store::in_memory();
    let ports = json!([{"name": "http", "port": 80, "protocol": "http"}]);
    put(
        &store,
        Kind::Service,
        "web",
        &json!({"ports": ports, "mode": "direct"}),
    );
    put_route(&store, Kind::HttpRoute, "r", &web(), &["web"]);
    put_traffic(&store, "p", "Service", "web", &json!({"retries": {}}));
    let both = || {
        let route = reason(&store, Kind::HttpRoute, "r", "Accepted");
        [route, reason(&store, Kind::TrafficPolicy, "p", "Accepted")]
    };
    assert_eq!(both(), ["!DirectMode", "!DirectMode"]);
    assert!(routes::<HttpRoute>(&store, "web").is_empty());
    assert_eq!(in_force(&store, Kind::Service, "web"), None);

    put_traffic(
        &store,
        "p",
        "Service",
        "web",
        &json!({"loadBalancing": {"algorithm": "Random"}, "healthCheck": {"tcp": {}}}),
    );
    assert_eq!(both(), ["!DirectMode", "Accepted"]);
    put(&store, Kind::Service, "web", &json!({"ports": ports}));
    assert_eq!(both(), ["Accepted", "Accepted"]);
}

#[test]
fn policy_takes_an_opaque_port_through_the_proxy_only_where_it_needs_it() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("raw", 80, "tcp")]);
    let direct_with = |spec: Value| {
        put_traffic(&store, "p", "Service", "web", &spec);
        is_direct(&store, 0)
    };
    assert!(direct_with(
        json!({"loadBalancing": {"algorithm": "RoundRobin"}, "healthCheck": {"tcp": {}}})
    ));
    assert!(direct_with(
        json!({"loadBalancing": {"panicThreshold": 10}})
    ));
    for nothing in [
        json!({"timeouts": {}}),
        json!({"circuitBreaker": {}, "loadBalancing": {}}),
        json!({"timeouts": {"request": "1s"}, "hedging": {"after": "p95"}, "priority": "Low"}),
        json!({"rateLimits": [{"requests": 3}], "circuitBreaker": {"maxRequests": 3}}),
    ] {
        assert!(direct_with(nothing.clone()), "{nothing}");
    }
    for spec in [
        json!({"loadBalancing": {"algorithm": "PeakEwma"}}),
        json!({"loadBalancing": {"slowStart": {"window": "10s"}}}),
        json!({"loadBalancing": {"locality": {}}}),
        json!({"loadBalancing": {"subsets": [{"version": "1"}]}}),
        json!({"rateLimits": [{"connections": 3}]}),
        json!({"circuitBreaker": {"maxConnections": 3}}),
        json!({"outlierDetection": {"consecutiveLocalFailures": 3}}),
        json!({"retries": {}}),
    ] {
        assert!(!direct_with(spec.clone()), "{spec}");
    }
}

#[test]
fn failover_and_port_of_checks_are_references_too() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("http", 80, "http")]);
    put_traffic(
        &store,
        "p",
        "Service",
        "web",
        &json!({
        "loadBalancing": {"failover": [{"service": "spare"}]}, "healthCheck": {"tcp": {}, "port": "http"}}),
    );
    let resolved = || reason(&store, Kind::TrafficPolicy, "p", "ResolvedRefs");
    assert_eq!(resolved(), "!BackendNotFound");
    assert_eq!(
        reason(&store, Kind::TrafficPolicy, "p", "Accepted"),
        "Accepted"
    );
    put_service(&store, "spare", &[("http", 80, "http")]);
    assert_eq!(resolved(), "ResolvedRefs");
    put_service(&store, "web", &[("other", 80, "http")]);
    assert_eq!(resolved(), "!PortNotFound");
}

#[test]
fn failover_that_can_take_over_for_no_port_is_told() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("http", 80, "http"), ("rpc", 90, "grpc")]);
    let told = |ports: &[(&str, u16, &str)], port: Option<u16>| {
        put_service(&store, "spare", ports);
        let mut failover = json!({"service": "spare"});
        if let Some(port) = port {
            failover["port"] = json!(port);
        }
        let spec = json!({"loadBalancing": {"failover": [failover]}});
        put_traffic(&store, "p", "Service", "web", &spec);
        let policy = &store.snapshot().traffic_policies[&key("p")];
        let mut conditions = policy.status.conditions.iter();
        let resolved = conditions.find(|it| it.kind == "ResolvedRefs").unwrap();
        resolved.message.clone()
    };
    let field = "spec.loadBalancing.failover[0]: ";
    let other = [("http", 8088, "http")];
    let missing = told(&other, None);
    assert_eq!(missing, format!("{field}Service shop/spare has no port 80"));
    assert_eq!(told(&other, Some(8088)), "");
    let another = told(&[("http", 80, "tcp")], None);
    let words = "port 80 of Service shop/spare is tcp, and cannot take over for http";
    assert_eq!(another, format!("{field}{words}"));
    let datagrams = told(&[("dns", 80, "udp")], None);
    let words = "Service shop/spare has no port that takes connections";
    assert_eq!(datagrams, format!("{field}{words}"));
    // One of the ports is enough, and so is another version of HTTP/2.
    assert_eq!(told(&[("rpc", 90, "http2")], None), "");
    assert_eq!(
        reason(&store, Kind::TrafficPolicy, "p", "ResolvedRefs"),
        "ResolvedRefs"
    );
}

#[test]
fn a_change_writes_only_what_it_touches() {
    let store = Store::in_memory();
    for name in ["web", "db"] {
        put_service(&store, name, &[("http", 80, "http")]);
        let parent = json!({"group": "", "kind": "Service", "name": name});
        put_route(&store, Kind::HttpRoute, name, &parent, &[name]);
    }
    let before = store.snapshot();
    put_service(&store, "web", &[("http", 80, "http"), ("more", 81, "http")]);
    let after = store.snapshot();
    assert_eq!(after.revision, before.revision + 1);
    for name in ["web", "db"] {
        let routes = [&before, &after].map(|it| Arc::clone(&it.http_routes[&key(name)]));
        assert!(Arc::ptr_eq(&routes[0], &routes[1]));
    }
}

/// Puts an object of another namespace.
fn put_far(store: &Store, kind: Kind, name: &str, spec: &Value) {
    let key = ObjectKey::new("far", name);
    let manifest = decode::manifest(kind, &key, json!({ "spec": spec })).expect("it is decoded");
    store.apply(Change::Put(manifest)).expect("it is accepted");
}

fn grant(kind: &str, namespace: &str) -> Value {
    json!({"from": [{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": namespace}],
        "to": [{"group": "", "kind": "Service", "name": "db"}]})
}

#[test]
fn a_backend_of_another_namespace_needs_a_grant_there() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("http", 80, "http")]);
    let ports = json!({"ports": [{"name": "http", "port": 80, "protocol": "http"}]});
    put_far(&store, Kind::Service, "db", &ports);
    let spec = json!({"parentRefs": [web()], "rules": [{"backendRefs": [
        {"name": "db", "port": 80, "namespace": "far"}]}]});
    put(&store, Kind::HttpRoute, "r", &spec);
    let resolved = || reason(&store, Kind::HttpRoute, "r", "ResolvedRefs");
    assert_eq!(resolved(), "!RefNotPermitted");
    put_far(
        &store,
        Kind::ReferenceGrant,
        "g",
        &grant("GRPCRoute", "shop"),
    );
    assert_eq!(resolved(), "!RefNotPermitted", "for another kind");
    put_far(
        &store,
        Kind::ReferenceGrant,
        "g",
        &grant("HTTPRoute", "shop"),
    );
    assert_eq!(resolved(), "ResolvedRefs");
    let change = |kind, name| Change::Delete {
        kind,
        key: ObjectKey::new("far", name),
        resource_version: None,
    };
    store.apply(change(Kind::Service, "db")).unwrap();
    assert_eq!(resolved(), "!BackendNotFound");
    put_far(&store, Kind::Service, "db", &ports);
    assert_eq!(resolved(), "ResolvedRefs");
    store.apply(change(Kind::ReferenceGrant, "g")).unwrap();
    assert_eq!(resolved(), "!RefNotPermitted");
}

#[test]
fn a_failover_to_another_namespace_needs_a_grant_there() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("http", 80, "http")]);
    let ports = json!({"ports": [{"name": "http", "port": 80, "protocol": "http"}]});
    put_far(&store, Kind::Service, "db", &ports);
    let to = json!([{"service": "db", "namespace": "far"}]);
    put_traffic(
        &store,
        "p",
        "Service",
        "web",
        &json!({"loadBalancing": {"failover": to}}),
    );
    let resolved = || reason(&store, Kind::TrafficPolicy, "p", "ResolvedRefs");
    assert_eq!(resolved(), "!RefNotPermitted");
    let mut granted = grant("TrafficPolicy", "shop");
    granted["from"][0]["group"] = json!("mesh.dev");
    put_far(&store, Kind::ReferenceGrant, "g", &granted);
    assert_eq!(resolved(), "ResolvedRefs");
}

#[test]
fn a_route_of_another_namespace_is_for_callers_of_that_namespace() {
    let store = Store::in_memory();
    let ports = [("http", 80, "http"), ("raw", 81, "tcp")];
    put_service(&store, "web", &ports);
    put_route(&store, Kind::HttpRoute, "own", &web(), &["web"]);
    let parent = json!({"group": "", "kind": "Service", "name": "web", "namespace": "shop"});
    let backend = json!({"name": "web", "port": 80, "namespace": "shop"});
    let spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": [backend]}]});
    put_far(&store, Kind::HttpRoute, "consumer", &spec);
    let snapshot = store.snapshot();
    let route = &snapshot.http_routes[&ObjectKey::new("far", "consumer")];
    for condition in &route.status.conditions {
        // The service that it is attached to needs no grant.
        assert_eq!(condition.status, ConditionStatus::True, "{condition:?}");
    }
    let service = &snapshot.services[&key("web")];
    let names = |namespace: &str| {
        let routes = snapshot.routes_of::<HttpRoute>(service, &service.spec.ports[0], namespace);
        let names = routes.map(|it| it.metadata.name.clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!([names("shop"), names("far")], [["own"], ["consumer"]]);
    assert_eq!(names("third"), [""; 0]);
    assert_eq!(snapshot.consumers_of(&key("web")), ["far"].into());
    assert!(is_direct(&store, 1));
    put_far(&store, Kind::TcpRoute, "raw", &spec);
    assert!(!is_direct(&store, 1), "the proxy tells callers apart");
}

#[test]
fn each_parent_has_its_own_status() {
    let store = Store::in_memory();
    put_service(&store, "web", &[("http", 80, "http")]);
    let gateway = json!({"name": "edge"});
    let spec = json!({"parentRefs": [web(), gateway], "rules": [{"backendRefs": [
        {"name": "web", "port": 80}]}]});
    put(&store, Kind::HttpRoute, "r", &spec);
    let told = || {
        let snapshot = store.snapshot();
        let parents = &snapshot.http_routes[&key("r")].status.parents;
        let told = parents.iter().map(|parent| {
            assert_eq!(parent.controller_name, "mesh.dev/agent");
            let reasons = parent.conditions.iter().map(|it| it.reason.clone());
            (parent.parent_ref.name.clone(), reasons.collect::<Vec<_>>())
        });
        told.collect::<Vec<_>>()
    };
    let of = |name: &str, reasons: [&str; 2]| (name.to_owned(), reasons.map(str::to_owned).into());
    // What is no Service is another controller's to tell of.
    assert_eq!(told(), [of("web", ["Accepted", "ResolvedRefs"])]);
    let snapshot = store.snapshot();
    let accepted = &snapshot.http_routes[&key("r")].status.conditions[0];
    assert!(accepted.message.contains("no Gateway"), "{accepted:?}");
    delete_service(&store, "web");
    assert_eq!(told(), [of("web", ["NoMatchingParent", "BackendNotFound"])]);
}
