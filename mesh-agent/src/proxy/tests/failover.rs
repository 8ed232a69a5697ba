//! Services that take over for others, and what guards them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::fixture::{DIALLED, Node, eventually, http1_server, nobody, server, snapshot, text};
use crate::state::Snapshot;
use crate::state::endpoint::{Health, HealthStatus};
use crate::state::object::ObjectKey;
use crate::state::traffic_policy::TrafficPolicy;
use crate::traffic::fixture::Fixture;

const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";

/// The service `web`, which checks have found unwell, and two that take over for it in this order: `spare`, of which
/// `spec` holds, and `last`, if it has an address.
async fn node(protocol: &str, spare: SocketAddr, last: Option<SocketAddr>, spec: &Value) -> Node {
    let web = nobody().await;
    let mut snapshot = snapshot(protocol, &[web]);
    let key = ObjectKey::new("shop", "web-0");
    let endpoint = Arc::make_mut(snapshot.endpoints.get_mut(&key).unwrap());
    endpoint.status.health = Some(Health {
        status: HealthStatus::Critical,
        since: String::new(),
        output: "it is dead".to_owned(),
    });
    let last = last.map(|last| ("last", last));
    let others: Vec<_> = [("spare", spare)].into_iter().chain(last).collect();
    take_over(protocol, (web, snapshot), &others, (json!({}), spec))
}

/// The service `web` of which `own` holds, and a spare that takes over for it, of which `spec` holds.
fn with_spare(
    protocol: &str,
    web: SocketAddr,
    spare: SocketAddr,
    own: Value,
    spec: &Value,
) -> Node {
    let snapshot = snapshot(protocol, &[web]);
    take_over(protocol, (web, snapshot), &[("spare", spare)], (own, spec))
}

/// The service `web`, and `others` that take over for it.
fn take_over(
    protocol: &str,
    (web, snapshot): (SocketAddr, Snapshot),
    others: &[(&str, SocketAddr)],
    (mut own, spec): (Value, &Value),
) -> Node {
    let mut fixture = Fixture::from(snapshot);
    let ports = json!([{"name": "main", "port": DIALLED.port(), "protocol": protocol}]);
    for (name, address) in others {
        let endpoint =
            json!({"service": name, "address": address.ip(), "ports": {"main": address.port()}});
        fixture = fixture
            .service(name, &json!({"addresses": [], "ports": ports}))
            .endpoint(&format!("{name}-0"), &["main"], &endpoint);
    }
    let failover = json!([{"service": "spare"}, {"service": "last"}]);
    let of = |name: &str, mut spec: Value| {
        spec["target"] = json!({"kind": "Service", "name": name});
        spec
    };
    own["loadBalancing"] = json!({"failover": failover});
    let registry = fixture
        .object::<TrafficPolicy>("p", &of("web", own))
        .object::<TrafficPolicy>("spare", &of("spare", spec.clone()));
    let node = Node::start(protocol, &[web]);
    node.change(registry.snapshot());
    node
}

/// A server whose requests wait until they are let go.
async fn slow() -> (SocketAddr, Arc<Notify>, Arc<AtomicUsize>, JoinHandle<()>) {
    let (go, seen) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (gate, count) = (Arc::clone(&go), Arc::clone(&seen));
    let (address, task) = server(move |mut stream| {
        let (gate, count) = (Arc::clone(&gate), Arc::clone(&count));
        async move {
            let go = gate.notified();
            stream.read_buf(&mut Vec::with_capacity(4096)).await?;
            count.fetch_add(1, Ordering::Relaxed);
            go.await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nslow";
            stream.write_all(answer).await
        }
    })
    .await;
    (address, go, seen, task)
}

/// What a second request is answered while the first is under way at the spare.
async fn second(last: Option<SocketAddr>, spec: &Value) -> (Node, String) {
    let (spare, go, seen, _spare) = slow().await;
    let node = node("http", spare, last, spec).await;
    let ask = async {
        eventually("the first is there", || seen.load(Ordering::Relaxed) == 1).await;
        let answer = node.raw(GET).await;
        go.notify_waiters();
        answer
    };
    let (first, second) = tokio::join!(node.raw(GET), ask);
    assert!(first.ends_with("slow"), "{first}");
    (node, second)
}

#[tokio::test]
async fn who_takes_over_gets_no_more_requests_than_it_may() {
    for (spec, reason) in [
        (json!({"circuitBreaker": {"maxRequests": 1}}), "overflow"),
        (
            json!({"adaptiveConcurrency": {"minRequests": 1, "maxRequests": 1}}),
            "concurrency",
        ),
    ] {
        let (_node, answer) = second(None, &spec).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        let told = format!("x-mesh-error: {reason}");
        assert!(answer.contains(&told), "{answer}");
    }
}

#[tokio::test]
async fn where_one_who_takes_over_refuses_the_next_is_asked() {
    let (last, _last) = http1_server(|_| text("last")).await;
    let full = json!({"circuitBreaker": {"maxRequests": 1}});
    let (node, answer) = second(Some(last), &full).await;
    assert!(answer.ends_with("last"), "{answer}");
    let failovers = |to: &str| node.metric_now(&["mesh_proxy_failovers_total", to]);
    assert_eq!((failovers("spare.shop"), failovers("last.shop")), (1, 1));
}

#[tokio::test]
async fn what_a_limit_lets_through_is_given_once_for_each_request() {
    let (spare, _spare) = http1_server(|_| text("spare")).await;
    let limited = json!({"rateLimits": [{"requests": 2, "per": "1h"}]});
    let node = node("http", spare, None, &limited).await;
    for left in [1, 0] {
        let answer = node.raw(GET).await;
        assert!(answer.ends_with("spare"), "{answer}");
        let told = format!("ratelimit: \"spare\";r={left};");
        assert!(answer.contains(&told), "{answer}");
    }
    let answer = node.raw(GET).await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert!(answer.contains("retry-after: "), "{answer}");
}

#[tokio::test]
async fn of_a_limit_that_keeps_another_from_taking_over_nobody_is_told_who_gets_an_answer() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let (web, _web) = http1_server(move |_| {
        let mut answer = text("web");
        if count.fetch_add(1, Ordering::Relaxed) < 2 {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        answer
    })
    .await;
    let (spare, _spare) = http1_server(|_| text("spare")).await;
    let own = json!({"retries": {"attempts": 1, "on": ["503"]}});
    let limited = json!({"rateLimits": [{"requests": 1, "per": "1h"}]});
    let node = with_spare("http", web, spare, own, &limited);
    let answer = node.raw(GET).await;
    assert!(answer.ends_with("spare"), "{answer}");
    let answer = node.raw(GET).await;
    assert!(answer.ends_with("web"), "{answer}");
    assert!(!answer.contains("retry-after"), "{answer}");
    assert!(!answer.contains("ratelimit"), "{answer}");
    node.metric(&["mesh_proxy_rate_limited_total", "spare"], 1)
        .await;
}

#[tokio::test]
async fn a_limit_by_a_header_knows_an_upload_whose_first_endpoint_was_not_reached() {
    let (spare, _spare) = http1_server(|_| text("spare")).await;
    let limited = json!({"rateLimits": [{"requests": 1, "per": "1h", "by": ["header:x-user"]}]});
    let node = with_spare("http", nobody().await, spare, json!({}), &limited);
    let post = |user: &str| {
        let head = format!("POST / HTTP/1.1\r\nhost: web\r\nx-user: {user}\r\n");
        head + "content-length: 2\r\nconnection: close\r\n\r\nhi"
    };
    // The first finds that nobody is there; whoever comes soon after is sent to the spare at once.
    for (user, status) in [("a", "200"), ("a", "429"), ("b", "200"), ("b", "429")] {
        let answer = node.raw(&post(user)).await;
        let expected = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&expected), "{user}: {answer}");
    }
}

#[tokio::test]
async fn who_takes_over_is_not_waited_for_longer_than_the_request_has_time() {
    let (web, _web) = http1_server(|_| {
        let mut answer = text("sorry");
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        answer
    })
    .await;
    let (spare, _spare) = http1_server(|_| text("spare")).await;
    let own = json!({"retries": {"attempts": 1, "on": ["503"]}, "timeouts": {"request": "8s"}});
    let limit = json!({"requests": 1, "per": "1h", "mode": "Smooth", "maxDelay": "2h"});
    let node = with_spare("http", web, spare, own, &json!({"rateLimits": [limit]}));
    for expected in ["spare", "sorry"] {
        let answer = node.raw(GET).await;
        assert!(answer.ends_with(expected), "{answer}");
    }
}

#[tokio::test]
async fn failures_of_one_who_takes_over_open_its_breaker() {
    let (spare, _spare) = http1_server(|_| {
        let mut answer = text("sorry");
        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        answer
    })
    .await;
    let (last, _last) = http1_server(|_| text("last")).await;
    let failures = json!({"per": "Service", "consecutive": 2, "openFor": "60s"});
    let breaker = json!({"circuitBreaker": {"failures": failures}});
    let node = node("http", spare, Some(last), &breaker).await;
    for expected in ["sorry", "sorry", "last"] {
        let answer = node.raw(GET).await;
        assert!(answer.ends_with(expected), "{answer}");
    }
}

#[tokio::test]
async fn nobody_is_blamed_who_was_to_take_over_and_was_not_asked() {
    let (failing, _failing) = http1_server(|_| {
        let mut answer = text("sorry");
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        answer
    })
    .await;
    let (spare, _spare) = http1_server(|_| text("spare")).await;
    let failures = json!({"per": "Service", "consecutive": 1, "openFor": "60s"});
    let breaker = json!({"circuitBreaker": {"failures": failures}});
    for (protocol, web) in [("http", failing), ("tcp", nobody().await)] {
        let budget = json!({"percent": 0, "minPerSecond": 0});
        let retries = json!({"attempts": 1, "on": ["503", "connect-failure"], "budget": budget});
        let own = json!({"retries": retries});
        let node = with_spare(protocol, web, spare, own, &breaker);
        if protocol == "http" {
            let answer = node.raw(GET).await;
            assert!(answer.ends_with("sorry"), "{answer}");
        } else {
            assert!(node.resets(b"x").await);
        }
        node.metric(&["mesh_proxy_retries_refused_total", "budget"], 1)
            .await;
        let breakers = node.proxy().breakers();
        let states: Vec<_> = breakers.iter().map(|it| it.state.as_str()).collect();
        assert_eq!(states, ["closed"], "{protocol}");
    }
}

#[tokio::test]
async fn who_takes_over_gets_no_more_connections_than_it_may() {
    for (spec, reason) in [
        (json!({"circuitBreaker": {"maxConnections": 1}}), "overflow"),
        (
            json!({"rateLimits": [{"connections": 1, "per": "1h"}]}),
            "rate-limited",
        ),
    ] {
        let (spare, _spare) =
            server(async |mut stream| stream.read(&mut [0]).await.map(|_| ())).await;
        let node = node("tcp", spare, None, &spec).await;
        let first = node.connect().await;
        node.metric(&["istio_tcp_connections_opened_total"], 1)
            .await;
        assert!(node.resets(b"x").await, "{spec}");
        node.metric(&["mesh_proxy_errors_total", reason], 1).await;
        drop(first);
    }
}
