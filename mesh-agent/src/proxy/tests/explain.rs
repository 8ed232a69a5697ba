//! What is told of where a request would go.

use serde_json::{Value, json};

use super::fixture::{DIALLED, Node, http1_server, nobody, snapshot, text};
use crate::state::object::ObjectKey;
use crate::state::report::{BackendExplanation, RequestQuestion};
use crate::state::traffic_policy::TrafficPolicy;
use crate::traffic::fixture::Fixture;

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";

/// The only backend of a request to the service.
fn backend(node: &Node) -> BackendExplanation {
    let question = RequestQuestion {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        headers: Vec::new(),
    };
    let source = ObjectKey::new("shop", "client");
    let explained = node.proxy().explain(&source, DIALLED, &question);
    let explained = explained.expect("a request").expect("a service");
    let mut backends = explained.backends.into_iter();
    backends.next().expect("a backend")
}

/// The endpoints, and how they are.
fn candidates(backend: &BackendExplanation) -> Vec<(&str, &str)> {
    let endpoints = backend.endpoints.iter();
    endpoints
        .map(|it| (it.name.as_str(), it.state.as_str()))
        .collect()
}

#[tokio::test]
async fn only_endpoints_of_the_subsets_are_candidates() {
    let (endpoint, _server) = http1_server(|_| text("hello")).await;
    let version = |it: u32| json!({"version": format!("v{it}")});
    let none = json!({"version": "v0", "weight": 0});
    let spec = json!({"loadBalancing": {"subsets": [version(1), none]}});
    let node = Node::guarded("http", &[endpoint, endpoint, endpoint], &spec);
    assert_eq!(candidates(&backend(&node)), [("shop/web-1", "ready")]);
}

#[tokio::test]
async fn open_breaker_of_an_endpoint_is_its_state() {
    let (endpoint, _server) = http1_server(|_| {
        let mut answer = text("sorry");
        *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        answer
    })
    .await;
    let spec = json!({"circuitBreaker": {"failures": {"consecutive": 1, "openFor": "60s"}}});
    let node = Node::guarded("http", &[endpoint], &spec);
    assert_eq!(candidates(&backend(&node)), [("shop/web-0", "ready")]);
    node.raw(GET).await;
    assert_eq!(
        candidates(&backend(&node)),
        [("shop/web-0", "breaker-open")]
    );
}

#[tokio::test]
async fn services_that_take_over_are_shown_in_order() {
    let (endpoint, spare) = (nobody().await, nobody().await);
    let service = |port: Value| json!({"addresses": [], "ports": [port]});
    let port = json!({"name": "main", "port": DIALLED.port(), "protocol": "http"});
    let other = json!({"name": "main", "port": DIALLED.port(), "protocol": "tcp"});
    let failover = json!([{"service": "other"}, {"service": "spare"}]);
    let target = json!({"kind": "Service", "name": "web"});
    let registry = Fixture::from(snapshot("http", &[endpoint]))
        .service("other", &service(other))
        .service("spare", &service(port))
        .endpoint(
            "spare-0",
            &["main"],
            &json!({"service": "spare", "address": spare.ip(), "ports": {"main": spare.port()}}),
        )
        .object::<TrafficPolicy>(
            "p",
            &json!({"target": target, "loadBalancing": {"failover": failover}}),
        );
    let node = Node::start("http", &[endpoint]);
    node.change(registry.snapshot());
    let shown = backend(&node).failover;
    let [other, spare] = shown.as_slice() else {
        panic!("{shown:?}");
    };
    let service = |name: &str| format!("shop/{name}:{}", DIALLED.port());
    assert_eq!(
        (&other.service, other.is_missing),
        (&service("other"), true)
    );
    assert_eq!(
        (&spare.service, spare.is_missing),
        (&service("spare"), false)
    );
    assert_eq!(spare.endpoints[0].name, "shop/spare-0");
}
