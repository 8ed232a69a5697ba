//! Services and endpoints that take requests and never answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;

use super::fixture::{DIALLED, Node, http1_server, server, snapshot, text};
use crate::net::clock;
use crate::state::http_route::HttpRoute;
use crate::state::traffic_policy::TrafficPolicy;
use crate::traffic::fixture::Fixture;

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";

/// A server that reads and says nothing; counts its connections.
async fn hung() -> (SocketAddr, Arc<AtomicUsize>, JoinHandle<()>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let (address, task) = server(move |mut stream| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move {
            while stream.read(&mut [0; 1024]).await? > 0 {}
            Ok(())
        }
    })
    .await;
    (address, count, task)
}

#[tokio::test]
async fn a_breaker_of_a_service_that_hangs_opens_within_deadlines() {
    let (endpoint, count, _server) = hung().await;
    let policy = json!({"timeouts": {"request": "500ms"},
        "circuitBreaker": {"failures": {"per": "Service", "consecutive": 2, "openFor": "60s"}}});
    let node = Node::guarded("http", &[endpoint], &policy);
    for reason in ["deadline", "deadline", "breaker-open"] {
        let answer = node.raw(GET).await;
        let expected = format!("x-mesh-error: {reason}");
        assert!(answer.contains(&expected), "{answer}");
    }
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_endpoint_that_never_answers_is_the_slowest_of_all() {
    let (hung, count, _hung) = hung().await;
    let (good, _good) = http1_server(|_| text("good")).await;
    let policy = json!({"loadBalancing": {"algorithm": "PeakEwma"},
        "retries": {"on": ["timeout"], "perTryTimeout": "1s", "budget": {"percent": 100}}});
    let node = Node::guarded("http", &[hung, good], &policy);
    for _ in 0..20 {
        let answer = node.raw(GET).await;
        assert!(answer.ends_with("good"), "{answer}");
    }
    let asked = count.load(Ordering::Relaxed);
    assert!(asked <= 3, "{asked}");
}

#[tokio::test]
async fn a_wait_before_a_retry_makes_no_endpoint_slow() {
    let (bad, _bad) = http1_server(|_| {
        let mut response = text("bad");
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        response
    })
    .await;
    let (good, _good) = http1_server(|_| text("good")).await;
    let policy = json!({"loadBalancing": {"algorithm": "PeakEwma"},
        "retries": {"on": ["503"], "backoff": {"base": "1s", "max": "1s"}, "budget": {"percent": 100}}});
    let node = Node::guarded("http", &[bad, good], &policy);
    while node.metric_now(&["mesh_proxy_retries_total"]) < 8 {
        let answer = node.raw(GET).await;
        assert!(answer.ends_with("good"), "{answer}");
    }
    let views = node.proxy().shared.views.load();
    let port = views.port(&DIALLED.into()).expect("a service");
    let cost_ns = port.endpoints[1]
        .live
        .latency
        .cost(0, 1.0, clock::monotonic_ns());
    assert!(cost_ns < 250e6, "{cost_ns}");
}

#[tokio::test]
async fn what_a_rule_says_of_an_attempt_goes_before_what_the_service_says() {
    let (endpoint, _count, _server) = hung().await;
    let node = Node::start("http", &[endpoint]);
    let parent = json!({"group": "", "kind": "Service", "name": "web"});
    let rule = json!({"timeouts": {"backendRequest": "500ms"}, "retry": {"attempts": 1},
        "backendRefs": [{"name": "web", "port": 80}]});
    let policy = json!({"target": {"kind": "Service", "name": "web"},
        "retries": {"on": ["5xx"], "perTryTimeout": "60s"}});
    let registry = Fixture::from(snapshot("http", &[endpoint]))
        .object::<HttpRoute>("r", &json!({"parentRefs": [parent], "rules": [rule]}))
        .object::<TrafficPolicy>("p", &policy);
    node.change(registry.snapshot());
    let started = Instant::now();
    let answer = node.raw(GET).await;
    assert!(
        answer.contains("x-mesh-error: response-timeout"),
        "{answer}"
    );
    assert!(started.elapsed() < Duration::from_secs(5));
}
