//! What is compiled again, and what stays.

use std::net::SocketAddr;

use http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::*;
use crate::proxy::view::{ServicePort, View};
use crate::state::traffic_policy::TrafficPolicy;
use crate::traffic::fixture::Fixture;
use crate::traffic::route::split::Target;

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
    let http = port(view, 1, port_number).routes.as_ref()?.http.as_ref()?;
    let choice = http.choose(&Request {
        host: None,
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
    let routes = Arc::make_mut(&mut snapshot.http_routes);
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
        let routes = port(view, 1, number).routes.clone().unwrap();
        let attached = &routes.http.as_ref().unwrap().attached[0];
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
        let target = Target { service, port };
        view.backend(&target).map(|it| it.port)
    };
    assert_eq!(find(Some(81)), Some(81));
    assert_eq!(find(None), Some(80));
    assert_eq!(find(Some(82)), None);
}
