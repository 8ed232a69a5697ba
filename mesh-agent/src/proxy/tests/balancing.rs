//! Choices of endpoints by what is known of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::fixture::{Node, server, snapshot, text, within};
use crate::state::Snapshot;
use crate::state::endpoint::{Health, HealthStatus};
use crate::state::object::ObjectKey;
use crate::traffic::ejection::{Growth, Terms};

/// A server of HTTP/2 that says its name.
async fn named(name: &'static str) -> (SocketAddr, JoinHandle<()>) {
    server(move |stream| async move {
        let answer = move |_| std::future::ready(Ok::<_, std::io::Error>(text(name)));
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service_fn(answer))
            .await
            .map_err(std::io::Error::other)
    })
    .await
}

/// What so many requests on one connection of HTTP/2 are answered, and how often.
async fn answers(node: &Node, requests: u32) -> BTreeMap<String, u32> {
    let io = TokioIo::new(node.connect().await);
    let shake = http2::handshake(TokioExecutor::new(), io);
    let (mut sender, connection) = within(shake).await.expect("handshake");
    let connection = tokio::spawn(connection);
    let mut answers = BTreeMap::new();
    for _ in 0..requests {
        let request = Request::get("http://web.shop/").body(Empty::<Bytes>::new());
        let response = within(sender.send_request(request.expect("a request"))).await;
        let response = response.expect("answers");
        let status = response.status();
        let body = within(response.into_body().collect()).await.expect("ends");
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        let answer = if status == StatusCode::OK {
            body
        } else {
            status.to_string()
        };
        *answers.entry(answer).or_default() += 1;
    }
    connection.abort();
    answers
}

fn counted(answers: &[(&str, u32)]) -> BTreeMap<String, u32> {
    let owned = answers
        .iter()
        .map(|(text, count)| ((*text).to_owned(), *count));
    owned.collect()
}

/// Says how an endpoint is.
fn found(snapshot: &mut Snapshot, number: usize, status: HealthStatus) {
    let key = ObjectKey::new("shop", format!("web-{number}"));
    let endpoints = &mut snapshot.endpoints;
    let endpoint = Arc::make_mut(endpoints.get_mut(&key).expect("it is there"));
    endpoint.status.health = Some(Health {
        status,
        since: "2026-01-01T00:00:00Z".to_owned(),
        output: "said so".to_owned(),
    });
}

/// Puts a policy for the service in force.
fn with_policy(mut snapshot: Snapshot, spec: &Value) -> Snapshot {
    let mut spec = spec.clone();
    spec["target"] = json!({"kind": "Service", "name": "web"});
    let object = json!({"apiVersion": "mesh.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
    let object = serde_json::from_value(object).expect("a policy");
    let policies = &mut snapshot.traffic_policies;
    policies.insert(ObjectKey::new("shop", "web"), Arc::new(object));
    snapshot
}

#[tokio::test]
async fn requests_of_one_http2_connection_reach_every_endpoint() {
    let (one, _one) = named("one").await;
    let (two, _two) = named("two").await;
    let node = Node::start("http2", &[one, two]);
    let expected = counted(&[("one", 10), ("two", 10)]);
    assert_eq!(answers(&node, 20).await, expected);
}

#[tokio::test]
async fn what_checks_have_found_counts_from_the_next_request_on() {
    let (one, _one) = named("one").await;
    let (two, _two) = named("two").await;
    let all = [one, two];
    let node = Node::start("http2", &all);
    let mut changed = snapshot("http2", &all);
    found(&mut changed, 0, HealthStatus::Critical);
    found(&mut changed, 1, HealthStatus::Warning);
    node.change(changed.clone());
    assert_eq!(answers(&node, 10).await, counted(&[("two", 10)]));
    // Both are unfit: better one of them than nobody, unless the policy says otherwise.
    found(&mut changed, 1, HealthStatus::Critical);
    node.change(changed.clone());
    let expected = counted(&[("one", 5), ("two", 5)]);
    assert_eq!(answers(&node, 10).await, expected);
    let never = json!({"loadBalancing": {"panicThreshold": 0}});
    node.change(with_policy(changed.clone(), &never));
    let refused = StatusCode::SERVICE_UNAVAILABLE.to_string();
    assert_eq!(answers(&node, 4).await, counted(&[(&refused, 4)]));
    found(&mut changed, 0, HealthStatus::Passing);
    node.change(with_policy(changed, &never));
    assert_eq!(answers(&node, 10).await, counted(&[("one", 10)]));
}

#[tokio::test]
async fn a_session_is_told_once_and_followed() {
    let (one, _one) = named("one").await;
    let (two, _two) = named("two").await;
    let node = Node::start("http2", &[one, two]);
    let session = json!({"loadBalancing": {"sessionPersistence": {}}});
    node.change(with_policy(snapshot("http2", &[one, two]), &session));
    let io = TokioIo::new(node.connect().await);
    let shake = http2::handshake(TokioExecutor::new(), io);
    let (mut sender, connection) = within(shake).await.expect("handshake");
    let _connection = tokio::spawn(connection);
    let mut ask = async |cookie: Option<&str>| {
        let mut request = Request::get("http://web.shop/");
        if let Some(cookie) = cookie {
            request = request.header("cookie", cookie);
        }
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        let response = within(sender.send_request(request)).await.expect("answers");
        let cookie = response.headers().get("set-cookie").cloned();
        let body = within(response.into_body().collect()).await.expect("ends");
        (body.to_bytes(), cookie)
    };
    let (home, cookie) = ask(None).await;
    let cookie = cookie.expect("a session");
    let cookie = cookie
        .to_str()
        .expect("text")
        .split(';')
        .next()
        .expect("a pair");
    assert!(cookie.starts_with("mesh-session-web="), "{cookie}");
    for _ in 0..5 {
        assert_eq!(ask(Some(cookie)).await, (home.clone(), None));
    }
    let (_, fresh) = ask(Some("mesh-session-web=00000000000000ff-1-1")).await;
    assert!(fresh.is_some(), "nobody has that number");
}

/// A proxy before endpoints that come, or come back, with a small share.
fn slowly_starting(endpoints: &[SocketAddr]) -> Node {
    let node = Node::start("http2", endpoints);
    let slow = json!({"loadBalancing": {"algorithm": "RoundRobin",
        "slowStart": {"window": "30s", "minWeightPercent": 10}}});
    node.change(with_policy(snapshot("http2", endpoints), &slow));
    node
}

#[tokio::test]
async fn a_newcomer_begins_with_a_small_share() {
    let (one, _one) = named("one").await;
    let (two, _two) = named("two").await;
    let node = slowly_starting(&[one, two]);
    let views = node.proxy().shared.views.load();
    let port = views.port(&super::fixture::DIALLED.into()).unwrap();
    port.endpoints[0].live.age(30_000_000_000);
    let answers = answers(&node, 220).await;
    let newcomer = answers.get("two").copied().unwrap_or(0);
    assert!((5..=40).contains(&newcomer), "{answers:?}");
}

#[tokio::test]
async fn who_was_put_aside_comes_back_with_a_small_share() {
    let (one, _one) = named("one").await;
    let (two, _two) = named("two").await;
    let node = slowly_starting(&[one, two]);
    let views = node.proxy().shared.views.load();
    let port = views.port(&super::fixture::DIALLED.into()).unwrap();
    for endpoint in &port.endpoints {
        endpoint.live.age(30_000_000_000);
    }
    let length = Duration::from_millis(50);
    let terms = Terms {
        base: length,
        longest: length,
        growth: Growth::Linear,
    };
    assert!(port.endpoints[1].live.eject_outlier(&terms));
    tokio::time::sleep(length).await;
    // Nobody has asked it when that is found.
    port.endpoints[1].live.vitals.interval_passed();
    let answers = answers(&node, 220).await;
    let returned = answers.get("two").copied().unwrap_or(0);
    assert!((5..=40).contains(&returned), "{answers:?}");
}

#[tokio::test]
async fn choices_that_lead_to_no_attempt_are_not_counted() {
    let mut endpoints = Vec::new();
    let mut servers = Vec::new();
    for status in [500, 500, 200] {
        let (address, server) = super::fixture::http1_server(move |_| {
            let mut answer = text(status.to_string());
            *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
            answer
        })
        .await;
        endpoints.push(address);
        servers.push(server);
    }
    let spec = json!({
        "loadBalancing": {"locality": {"prefer": ["Node"]}, "panicThreshold": 0},
        "circuitBreaker": {"failures": {"consecutive": 1, "openFor": "60s"}},
    });
    let node = Node::guarded("http", &endpoints, &spec);
    let request = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    let open = || node.metric_now(&["mesh_breaker_changes_total", "open"]);
    while open() < 2 {
        node.raw(request).await;
    }
    let went = || node.metric_now(&["mesh_proxy_locality_attempts_total"]);
    let before = went();
    for _ in 0..10 {
        assert!(node.raw(request).await.ends_with("200"));
    }
    assert_eq!(went() - before, 10);
}

#[tokio::test]
async fn a_worker_shows_its_places_before_it_is_busy() {
    let node = Node::start("http", &[]);
    let of_worker = |number: u32| format!("worker=\"{number}\"");
    for number in 0..2 {
        let worker = of_worker(number);
        node.metric(&["mesh_proxy_places", &worker], 1).await;
    }
}
