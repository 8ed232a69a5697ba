//! Opaque connections on the ways that routes give them.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use super::fixture::{Node, PATIENCE, access_log, eventually, nobody, server, snapshot, within};
use crate::proxy::Config;
use crate::proxy::detect::client_hello::tests::hello;
use crate::state::Snapshot;
use crate::state::stream_route::{TcpRoute, TlsRoute};
use crate::state::traffic_policy::TrafficPolicy;
use crate::traffic::fixture::Fixture;

/// A server that says its name when it has been told something.
async fn named(name: &'static str) -> (SocketAddr, JoinHandle<()>) {
    server(move |mut stream| async move {
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).await?;
        let told = format!("{name} {length}");
        stream.write_all(told.as_bytes()).await
    })
    .await
}

/// The service `web` that is dialled, which speaks `protocol`, and others that routes send to.
pub(super) fn registry(protocol: &str, web: SocketAddr, others: &[(&str, SocketAddr)]) -> Fixture {
    let mut fixture = Fixture::from(snapshot(protocol, &[web]));
    for (number, (name, address)) in (2..).zip(others) {
        let ports = json!([{"name": "main", "port": 80, "protocol": "tcp"}]);
        let spec = json!({"addresses": [format!("240.0.0.{number}")], "ports": ports});
        fixture = fixture.service(name, &spec);
        let spec =
            json!({"service": name, "address": address.ip(), "ports": {"main": address.port()}});
        fixture = fixture.endpoint(&format!("{name}-0"), &["main"], &spec);
    }
    fixture
}

pub(super) fn route(hosts: &[&str], backends: Value) -> Value {
    let mut spec = json!({
        "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
        "rules": [{"backendRefs": backends}],
    });
    if !hosts.is_empty() {
        spec["hostnames"] = json!(hosts);
    }
    spec
}

async fn node(registry: Snapshot) -> Node {
    let node = Node::start("tls", &[nobody().await]);
    node.change(registry);
    node
}

/// What a client is told that says `words`.
async fn say(node: &Node, words: &[u8]) -> String {
    let mut stream = node.connect().await;
    stream.write_all(words).await.unwrap();
    let mut told = String::new();
    within(stream.read_to_string(&mut told)).await.unwrap();
    told
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_decides() {
    let (web, _web) = named("web").await;
    let (a, _a) = named("a").await;
    let (b, _b) = named("b").await;
    let to = |name: &str| json!([{"name": name, "port": 80}]);
    for protocol in ["tls", "auto"] {
        let node = node(
            registry(protocol, web, &[("a", a), ("b", b)])
                .object::<TlsRoute>("a", &route(&["a.example"], to("a")))
                .object::<TlsRoute>("b", &route(&["*.b.example"], to("b")))
                .object::<TlsRoute>("gone", &route(&["gone.example"], to("gone")))
                .snapshot(),
        )
        .await;
        for (name, expected) in [("a.example", "a"), ("X.b.example", "b")] {
            let words = hello(Some(name), 10_000);
            let told = say(&node, &words).await;
            assert_eq!(told, format!("{expected} {}", words.len()), "{protocol}");
        }
        for (name, reason) in [("other", "no-route"), ("gone.example", "bad-backend")] {
            assert!(node.resets(&hello(Some(name), 10_000)).await, "{name}");
            node.metric(&["mesh_proxy_errors_total", reason], 1).await;
        }
        let closed = [
            "istio_tcp_connections_closed_total",
            r#"response_flags="NR""#,
        ];
        assert_eq!(node.metric(&closed, 1).await, 1);
    }
}

#[tokio::test]
async fn connections_are_split_by_weight() {
    let (web, _web) = named("web").await;
    let (a, _a) = named("a").await;
    let (b, _b) = named("b").await;
    let shares = json!([
        {"name": "a", "port": 80, "weight": 3},
        {"name": "b", "port": 80, "weight": 1},
        {"name": "web", "port": 80, "weight": 0},
    ]);
    let registry = registry("tcp", web, &[("a", a), ("b", b)]);
    let registry = registry.object::<TcpRoute>("r", &route(&[], shares));
    let node = node(registry.snapshot()).await;
    let mut counts = [0_u32; 2];
    for _ in 0..200 {
        match say(&node, b"x").await.as_str() {
            "a 1" => counts[0] += 1,
            "b 1" => counts[1] += 1,
            other => panic!("{other}"),
        }
    }
    // Five standard deviations of a binomial distribution of 200 and 1/4.
    assert!((19..=81).contains(&counts[1]), "{counts:?}");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_reached_by_a_route_too() {
    let (web, _web) = named("web").await;
    let (greeter, _greeter) =
        server(|mut stream| async move { stream.write_all(b"hello").await }).await;
    let shares = json!([{"name": "greeter", "port": 80}]);
    let registry = registry("auto", web, &[("greeter", greeter)]);
    let registry = registry.object::<TcpRoute>("r", &route(&[], shares));
    let node = node(registry.snapshot()).await;
    assert_eq!(say(&node, b"").await, "hello");
}

#[tokio::test]
async fn a_tcp_route_has_requests_too() {
    let (web, _web) = named("web").await;
    let (a, _a) = named("a").await;
    let request = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";
    for (backend, expected) in [("a", Some("a 29")), ("gone", None)] {
        let registry = registry("auto", web, &[("a", a)]);
        let shares = json!([{"name": backend, "port": 80}]);
        let registry = registry.object::<TcpRoute>("r", &route(&[], shares));
        let node = node(registry.snapshot()).await;
        match expected {
            Some(expected) => assert_eq!(say(&node, request).await, expected),
            None => assert!(node.resets(request).await),
        }
    }
}

#[tokio::test]
async fn a_drain_does_not_wait_for_who_has_not_said_where_to() {
    let (web, _web) = named("web").await;
    let (a, _a) = named("a").await;
    let shares = json!([{"name": "a", "port": 80}]);
    let registry = registry("tls", web, &[("a", a)]);
    let registry = registry.object::<TlsRoute>("r", &route(&["a.example"], shares));
    let node = node(registry.snapshot()).await;
    let _silent = node.connect().await;
    eventually("one connection", || node.proxy().connections() == 1).await;
    let started = tokio::time::Instant::now();
    within(node.proxy().drain(PATIENCE)).await;
    assert!(started.elapsed() < PATIENCE / 2);
}

/// What is said of a service.
fn of(service: &str, mut spec: Value) -> Value {
    spec["target"] = json!({"kind": "Service", "name": service});
    spec
}

#[tokio::test]
async fn the_limits_of_both_services_hold_for_a_connection() {
    let (web, _web) = named("web").await;
    let (a, _a) = named("a").await;
    let one = json!({"circuitBreaker": {"maxConnections": 1}});
    let rate = json!({"rateLimits": [{"connections": 1, "per": "1h"}]});
    for (service, spec, reason) in [
        ("web", &one, "overflow"),
        ("a", &one, "overflow"),
        ("web", &rate, "rate-limited"),
        ("a", &rate, "rate-limited"),
    ] {
        let shares = json!([{"name": "a", "port": 80}]);
        let registry = registry("tcp", web, &[("a", a)])
            .object::<TcpRoute>("r", &route(&[], shares))
            .object::<TrafficPolicy>("p", &of(service, spec.clone()));
        let (access_log, lines) = access_log();
        let config = Config {
            access_log,
            ..Config::default()
        };
        let node = Node::start_with("tls", &[nobody().await], config);
        node.change(registry.snapshot());
        let mut first = node.connect().await;
        eventually("it is there", || {
            node.metric_now(&["istio_tcp_connections_opened_total"]) == 1
        })
        .await;
        assert!(node.resets(b"x").await, "{service} {spec}");
        node.metric(&["mesh_proxy_errors_total", reason], 1).await;
        first.write_all(b"x").await.unwrap();
        let mut told = String::new();
        within(first.read_to_string(&mut told)).await.unwrap();
        assert_eq!(told, "a 1");
        drop(first);
        let flags = if reason == "overflow" { "UO" } else { "RL" };
        let flags = format!("response_flags=\"{flags}\"");
        let closed = ["istio_tcp_connections_closed_total", &flags];
        assert_eq!(node.metric(&closed, 1).await, 1, "{service} {spec}");
        eventually("no connection", || node.proxy().connections() == 0).await;
        drop(node);
        let refused = lines.iter().filter(|line| line.contains(reason)).count();
        assert_eq!(refused, 1, "{service} {spec}");
    }
}

#[tokio::test]
async fn the_retries_of_the_service_that_was_dialled_hold_where_a_route_leads_elsewhere() {
    let (web, _web) = named("web").await;
    let (a, _a) = named("a").await;
    let gone = nobody().await;
    for (service, resets) in [("web", 1), ("a", 0)] {
        let shares = json!([{"name": "a", "port": 80}]);
        let ports = json!([{"name": "main", "port": 80, "protocol": "tcp"}]);
        let in_turn =
            json!({"addresses": ["240.0.0.2"], "ports": ports, "balancing": "RoundRobin"});
        let dead = json!({"service": "a", "address": gone.ip(), "ports": {"main": gone.port()}});
        let once = of(service, json!({"retries": {"attempts": 0}}));
        let registry = registry("tcp", web, &[("a", a)])
            .service("a", &in_turn)
            .endpoint("a-1", &["main"], &dead)
            .object::<TcpRoute>("r", &route(&[], shares))
            .object::<TrafficPolicy>("p", &once);
        let node = node(registry.snapshot()).await;
        let begin = Instant::now();
        let mut found = 0;
        for _ in 0..4 {
            found += u64::from(node.resets(b"x").await);
        }
        // The dead one is tried again when a second is over.
        let most = resets * (1 + begin.elapsed().as_secs());
        assert!((resets..=most).contains(&found), "{service}: {found}");
    }
}

#[tokio::test]
async fn the_breakers_of_the_service_that_was_dialled_hold_where_a_route_leads_elsewhere() {
    let (web, _web) = named("web").await;
    let gone = nobody().await;
    let shares = json!([{"name": "a", "port": 80}]);
    let failures = json!({"per": "Service", "consecutive": 2, "openFor": "60s"});
    let policy = of("web", json!({"circuitBreaker": {"failures": failures}}));
    let registry = registry("tcp", web, &[("a", gone)])
        .object::<TcpRoute>("r", &route(&[], shares))
        .object::<TrafficPolicy>("p", &policy);
    let node = node(registry.snapshot()).await;
    for _ in 0..3 {
        assert!(node.resets(b"x").await);
    }
    node.metric(&["mesh_proxy_errors_total", "breaker-open"], 1)
        .await;
}
