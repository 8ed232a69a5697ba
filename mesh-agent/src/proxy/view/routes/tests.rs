//! What is compiled again, and what stays.

use std::net::SocketAddr;

use http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::*;
use crate::proxy::view::{ServicePort, View};
use crate::state::reference_grant::ReferenceGrant;
use crate::state::traffic_policy::TrafficPolicy;
use crate::traffic::fixture::Fixture;
use crate::traffic::route::split::{Stranger, Target};

fn route(parent: &Value, path: &str) -> Value {
    json!({
        "parentRefs": [parent],
        "rules": [{
            "name": "only",
            "matches": [{"path": {"value": path}}],
            "backendRefs": [{"name": "web", "port": 80}],
        }],
    })
}

fn web() -> Value {
    json!({"group": "", "kind": "Service", "name": "web"})
}

fn fixture() -> Fixture {
    let ports = json!([{"name": "main", "port": 80}, {"name": "other", "port": 81}]);
    Fixture::default()
        .service(
            "web",
            &json!({"addresses": ["240.240.0.1"], "ports": ports}),
        )
        .service(
            "cache",
            &json!({"addresses": ["240.240.0.2"], "ports": ports}),
        )
        .object::<HttpRoute>("a", &route(&web(), "/a"))
        .object::<HttpRoute>("b", &route(&web(), "/b"))
}

fn port(view: &View, number: u8, port: u16) -> &Arc<ServicePort> {
    let dialled = SocketAddr::from(([240, 240, 0, number], port));
    view.port(&dialled.into()).expect("it is there")
}

fn chosen(view: &View, port_number: u16, path: &str) -> Option<String> {
    chosen_for(view, "shop", port_number, path)
}

/// The rule for a caller of a namespace.
fn chosen_for(view: &View, caller: &str, port_number: u16, path: &str) -> Option<String> {
    let http = port(view, 1, port_number).http_routes(caller)?;
    let choice = http.choose(&Request {
        host: None,
        authority: None,
        path,
        query: None,
        method: &Method::GET,
        headers: &HeaderMap::new(),
        is_grpc: false,
    });
    choice.map(|choice| choice.rule.label.to_string())
}

fn compiled(view: &View, name: &str) -> Arc<CompiledRoute> {
    let (_, compiled) = &view.routes.http[&ObjectKey::new("shop", name)];
    Arc::clone(compiled)
}

#[test]
fn a_change_of_one_route_compiles_one() {
    let fixture = fixture();
    let before = View::default().next(&fixture.snapshot());
    assert_eq!(chosen(&before, 80, "/b").as_deref(), Some("shop/b/only"));
    let after = before.next(
        &fixture
            .object::<HttpRoute>("b", &route(&web(), "/c"))
            .snapshot(),
    );
    assert!(Arc::ptr_eq(&compiled(&before, "a"), &compiled(&after, "a")));
    assert!(!Arc::ptr_eq(
        &compiled(&before, "b"),
        &compiled(&after, "b")
    ));
    assert!(Arc::ptr_eq(port(&before, 2, 80), port(&after, 2, 80)));
    assert_eq!(chosen(&after, 80, "/b"), None);
    assert_eq!(chosen(&after, 80, "/c").as_deref(), Some("shop/b/only"));
}

#[test]
fn what_says_the_same_is_not_compiled_again() {
    let mut snapshot = fixture().snapshot();
    let before = View::default().next(&snapshot);
    let routes = &mut snapshot.http_routes;
    let route = routes.get_mut(&ObjectKey::new("shop", "a")).unwrap();
    *route = Arc::new(HttpRoute::clone(route));
    let after = before.next(&snapshot);
    assert!(Arc::ptr_eq(port(&before, 1, 80), port(&after, 1, 80)));
}

#[test]
fn a_route_is_for_the_ports_that_its_parent_names() {
    let mut parent = web();
    parent["port"] = json!(81);
    let fixture = fixture().object::<HttpRoute>("b", &route(&parent, "/b"));
    let view = View::default().next(&fixture.snapshot());
    assert_eq!(chosen(&view, 80, "/b"), None);
    assert_eq!(chosen(&view, 81, "/b").as_deref(), Some("shop/b/only"));
    assert!(port(&view, 2, 80).routes.is_none());
}

#[test]
fn the_policy_of_a_rule_is_one_for_all_ports_and_outlives_a_view() {
    let target = json!({"kind": "HTTPRoute", "name": "a", "sectionName": "only"});
    let policy = json!({"target": target, "timeouts": {"request": "3s"}});
    let fixture = fixture().object::<TrafficPolicy>("p", &policy);
    let policy = |view: &View, number| {
        let port = port(view, 1, number);
        let attached = &port.http_routes("shop").unwrap().attached[0];
        Arc::clone(&attached.rules[0].whole)
    };
    let before = View::default().next(&fixture.snapshot());
    let first = policy(&before, 80);
    assert_eq!(first.timeouts.request.map(|it| it.as_secs()), Some(3));
    assert!(Arc::ptr_eq(&first, &policy(&before, 81)));
    let after = before.next(
        &fixture
            .object::<HttpRoute>("b", &route(&web(), "/c"))
            .snapshot(),
    );
    assert!(Arc::ptr_eq(&first, &policy(&after, 80)));
}

#[test]
fn the_backend_of_a_route_is_found_by_its_port() {
    let view = View::default().next(&fixture().snapshot());
    let find = |port| {
        let service = ObjectKey::new("shop", "web");
        let target = Target {
            service,
            port,
            kind: Kind::HttpRoute,
            stranger: None,
        };
        view.backend(&target).map(|it| it.port)
    };
    assert_eq!(find(Some(81)), Some(81));
    assert_eq!(find(None), Some(80));
    assert_eq!(find(Some(82)), None);
}

#[test]
fn a_route_sends_to_no_port_whose_protocol_is_not_its_own() {
    let protocols = ["auto", "http", "http2", "grpc", "tcp", "tls"];
    let ports = (80..).zip(protocols);
    let ports: Vec<_> = ports
        .map(|(port, name)| json!({"name": name, "port": port, "protocol": name}))
        .collect();
    let spec = json!({"addresses": ["240.240.0.1"], "ports": ports});
    let view = View::default().next(&Fixture::default().service("web", &spec).snapshot());
    let reached = |kind| {
        let is_reached = |port: &u16| {
            let target = Target {
                service: ObjectKey::new("shop", "web"),
                port: Some(*port),
                kind,
                stranger: None,
            };
            view.backend(&target).is_some()
        };
        let reached = (80_u16..).zip(protocols);
        let reached = reached.filter(|(port, _)| is_reached(port));
        reached.map(|(_, name)| name).collect::<Vec<_>>()
    };
    let http = ["auto", "http", "http2", "grpc", "tcp"];
    assert_eq!(reached(Kind::HttpRoute), http);
    assert_eq!(reached(Kind::GrpcRoute), ["auto", "http2", "grpc", "tcp"]);
    assert_eq!(reached(Kind::TcpRoute), protocols);
}

#[test]
fn callers_of_a_namespace_with_routes_of_its_own_use_those() {
    let parent = json!({"group": "", "kind": "Service", "name": "web", "namespace": "shop"});
    let consumer = |path: &str| {
        let mut spec = route(&parent, path);
        spec["rules"][0]["backendRefs"][0]["namespace"] = json!("shop");
        let object = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "c", "namespace": "far"}, "spec": spec});
        let object: HttpRoute = serde_json::from_value(object).unwrap();
        let mut snapshot = fixture().snapshot();
        snapshot.http_routes.insert(object.key(), Arc::new(object));
        snapshot
    };
    let before = View::default().next(&consumer("/c"));
    let chosen = |view: &View, caller: &str, path| chosen_for(view, caller, 80, path);
    assert_eq!(chosen(&before, "far", "/c").as_deref(), Some("far/c/only"));
    assert_eq!(chosen(&before, "far", "/a"), None);
    for caller in ["shop", "third"] {
        assert_eq!(
            chosen(&before, caller, "/a").as_deref(),
            Some("shop/a/only")
        );
        assert_eq!(chosen(&before, caller, "/c"), None);
    }
    let changed = consumer("/d");
    let after = before.next(&changed);
    assert_eq!(chosen(&after, "far", "/d").as_deref(), Some("far/c/only"));
    let own = |view: &View| std::ptr::from_ref(port(view, 1, 80).http_routes("shop").unwrap());
    assert_eq!(own(&before), own(&after), "the others stay as they are");
    let kept = after.next(&changed);
    assert!(Arc::ptr_eq(port(&after, 1, 80), port(&kept, 1, 80)));
    let target = |view: &View| {
        let http = port(view, 1, 80).http_routes("far").unwrap();
        let rule = &http.attached[0].route.rules[0];
        let (backend, _) = rule.backends.iter().next().unwrap();
        let target = backend.target.as_ref().unwrap();
        view.backend(target).is_some()
    };
    assert!(
        target(&after),
        "the service that it is attached to needs no grant"
    );
}

#[test]
fn a_service_of_another_namespace_takes_requests_only_if_it_permits_them() {
    let key = ObjectKey::new("shop", "web");
    let stranger = Stranger {
        kind: Kind::HttpRoute,
        namespace: "far".to_owned(),
    };
    let target = Target {
        service: key,
        port: Some(80),
        kind: Kind::HttpRoute,
        stranger: Some(Box::new(stranger)),
    };
    let before = View::default().next(&fixture().snapshot());
    assert!(before.backend(&target).is_none());
    let from =
        json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "far"});
    let grant = json!({"from": [from], "to": [{"group": "", "kind": "Service"}]});
    let granted = fixture().object::<ReferenceGrant>("g", &grant);
    let after = before.next(&granted.snapshot());
    assert!(after.backend(&target).is_some());
}
