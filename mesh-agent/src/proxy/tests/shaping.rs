//! What is limited, shed and injected.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::fixture::{
    Node, PATIENCE, eventually, http1_server, nobody, server, snapshot, text, within,
};
use crate::proxy::Config;
use crate::state::object::ObjectKey;

const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";

/// A node whose service has a traffic policy.
fn node(protocol: &str, endpoint: SocketAddr, spec: &Value) -> Node {
    let node = Node::start(protocol, &[endpoint]);
    put(&node, protocol, endpoint, spec);
    node
}

fn put(node: &Node, protocol: &str, endpoint: SocketAddr, spec: &Value) {
    let mut snapshot = snapshot(protocol, &[endpoint]);
    let mut spec = spec.clone();
    spec["target"] = json!({"kind": "Service", "name": "web"});
    let object = json!({"apiVersion": "mesh.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": "tight", "namespace": "shop"}, "spec": spec});
    let object = serde_json::from_value(object).unwrap();
    snapshot
        .traffic_policies
        .insert(ObjectKey::new("shop", "tight"), Arc::new(object));
    node.change(snapshot);
}

fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

fn status(answer: &str) -> u16 {
    answer
        .get(9..12)
        .and_then(|it| it.parse().ok())
        .unwrap_or(0)
}

/// A server whose requests wait until they are let go, all or one by one.
pub(super) async fn slow_server() -> (SocketAddr, Arc<Notify>, Arc<AtomicUsize>) {
    let (go, seen) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (gate, count) = (Arc::clone(&go), Arc::clone(&seen));
    let (address, _task) = server(move |mut stream| {
        let (gate, count) = (Arc::clone(&gate), Arc::clone(&count));
        async move {
            stream.read_buf(&mut Vec::with_capacity(4096)).await?;
            count.fetch_add(1, Ordering::Relaxed);
            gate.notified().await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            stream.write_all(answer).await
        }
    })
    .await;
    (address, go, seen)
}

#[tokio::test]
async fn a_limit_is_exact_over_all_workers_and_tells_what_is_left() {
    let (endpoint, _server) = http1_server(|_| text("ok")).await;
    let spec = json!({"rateLimits": [{"requests": 10, "per": "1h", "burst": 5}]});
    let node = node("http", endpoint, &spec);
    let answers = join_all((0..40).map(|_| node.raw(GET))).await;
    let (admitted, refused): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| status(answer) == 200);
    assert_eq!((admitted.len(), refused.len()), (5, 35));
    for answer in &admitted {
        let told = field(answer, "ratelimit").unwrap();
        assert!(told.starts_with("\"tight\";r="), "{told}");
        assert_eq!(
            field(answer, "ratelimit-policy"),
            Some("\"tight\";q=10;w=3600")
        );
        assert_eq!(field(answer, "ratelimit-limit"), None);
    }
    for answer in &refused {
        assert_eq!(status(answer), 429);
        assert_eq!(field(answer, "x-mesh-error"), Some("rate-limited"));
        assert_eq!(field(answer, "ratelimit-limit"), Some("10"));
        assert_eq!(field(answer, "ratelimit-remaining"), Some("0"));
        let seconds: u64 = field(answer, "retry-after").unwrap().parse().unwrap();
        assert!((350..=360).contains(&seconds), "{seconds}");
        let told = field(answer, "ratelimit").unwrap();
        assert_eq!(told, format!("\"tight\";r=0;t={seconds}"));
    }
    let parts = [
        "mesh_proxy_rate_limited_total",
        "policy_name=\"tight\"",
        "requests",
        "refused",
    ];
    assert_eq!(node.metric(&parts, 35).await, 35);
    node.metric(&["istio_requests_total", "response_flags=\"RL\""], 35)
        .await;
}

#[tokio::test]
async fn who_is_shed_takes_nothing_of_a_limit() {
    let (endpoint, go, seen) = slow_server().await;
    let mut config = Config::default();
    config.limits.requests = 1;
    config.limits.workload_requests = 1;
    config.limits.queued_requests = 1;
    config.timeouts.queue = Duration::from_millis(100);
    let node = Node::start_with("http", &[endpoint], config);
    let spec = json!({"rateLimits": [{"requests": 4, "per": "1h"}]});
    put(&node, "http", endpoint, &spec);
    // One worker each has its hands full; of those that follow none gets a place.
    let rest = async {
        eventually("two requests", || seen.load(Ordering::Relaxed) == 2).await;
        for _ in 0..4 {
            let shed = node.raw(GET).await;
            assert_eq!(status(&shed), 503, "{shed}");
            assert_eq!(field(&shed, "ratelimit"), None);
        }
        go.notify_waiters();
        node.metric(&["istio_requests_total", "response_code=\"200\""], 2)
            .await;
        let both = async { tokio::join!(node.raw(GET), node.raw(GET)) };
        let release = async {
            eventually("all four", || {
                go.notify_waiters();
                seen.load(Ordering::Relaxed) == 4
            })
            .await;
            go.notify_waiters();
        };
        let ((third, fourth), ()) = tokio::join!(both, release);
        assert_eq!((status(&third), status(&fourth)), (200, 200));
        assert_eq!(status(&node.raw(GET).await), 429);
    };
    let (first, second, ()) = tokio::join!(node.raw(GET), node.raw(GET), rest);
    assert_eq!((status(&first), status(&second)), (200, 200));
}

#[tokio::test]
async fn a_policy_that_changes_elsewhere_does_not_fill_the_buckets() {
    let (endpoint, _server) = http1_server(|_| text("ok")).await;
    let limits = json!([{"requests": 1, "per": "1h"}]);
    let node = node("http", endpoint, &json!({"rateLimits": limits}));
    assert_eq!(status(&node.raw(GET).await), 200);
    let spec = json!({"rateLimits": limits, "timeouts": {"request": "5s"}});
    put(&node, "http", endpoint, &spec);
    assert_eq!(status(&node.raw(GET).await), 429);
    let spec = json!({"rateLimits": [{"requests": 2, "per": "1h"}]});
    put(&node, "http", endpoint, &spec);
    assert_eq!(status(&node.raw(GET).await), 200);
}

#[tokio::test]
async fn each_value_of_a_header_has_its_bucket_and_who_is_refused_by_one_limit_takes_of_no_other() {
    let (endpoint, _server) = http1_server(|_| text("ok")).await;
    let spec = json!({"rateLimits": [
        {"requests": 4, "per": "1h"},
        {"requests": 2, "per": "1h", "by": ["header:X-User", "sourceWorkload", "sourceIdentity"]},
    ]});
    let node = node("http", endpoint, &spec);
    let ask = |user: &str| {
        let request = GET.replace("host", &format!("x-user: {user}\r\nhost"));
        let node = &node;
        async move { status(&node.raw(&request).await) }
    };
    for user in ["a", "b"] {
        let mut admitted = 0;
        for _ in 0..10 {
            admitted += usize::from(ask(user).await == 200);
        }
        assert_eq!(admitted, 2, "{user}");
    }
    assert_eq!(ask("c").await, 429, "the limit of all");
}

#[tokio::test]
async fn a_call_of_grpc_is_told_in_its_own_words() {
    let (endpoint, _server) = http1_server(|_| text("ok")).await;
    let spec = json!({"rateLimits": [{"requests": 1, "per": "1h"}]});
    let node = node("http", endpoint, &spec);
    node.raw(GET).await;
    let request = GET.replace("GET", "POST").replace(
        "host",
        "content-type: application/grpc\r\ncontent-length: 0\r\nhost",
    );
    let answer = node.raw(&request).await;
    assert_eq!(status(&answer), 200);
    assert_eq!(field(&answer, "grpc-status"), Some("8"));
    assert!(field(&answer, "retry-after").is_some());
}

#[tokio::test]
async fn smoothing_delays_and_refuses_only_who_would_wait_too_long() {
    let (endpoint, _server) = http1_server(|_| text("ok")).await;
    let limit =
        json!({"requests": 1, "per": "1s", "burst": 1, "mode": "Smooth", "maxDelay": "2100ms"});
    let node = node("http", endpoint, &json!({"rateLimits": [limit]}));
    let begin = Instant::now();
    let answers = join_all((0..4).map(|_| node.raw(GET))).await;
    let took = begin.elapsed();
    let admitted = answers.iter().filter(|it| status(it) == 200).count();
    assert_eq!(admitted, 3, "at once, after one second and after two");
    assert!(took >= Duration::from_millis(1995), "{took:?}");
    let parts = ["mesh_proxy_rate_limited_total", "delayed"];
    assert_eq!(node.metric(&parts, 2).await, 2);
}

#[tokio::test]
async fn a_connection_too_many_is_told_so_in_its_own_language() {
    let (endpoint, _server) = http1_server(|_| text("ok")).await;
    let spec = json!({"rateLimits": [{"connections": 1, "per": "1h"}]});
    let http = node("http", endpoint, &spec);
    let twice = GET.replace("connection: close\r\n", "").repeat(2);
    assert_eq!(status(&http.raw(GET).await), 200);
    let answer = within(http.raw(&twice)).await;
    assert_eq!(status(&answer), 429);
    assert_eq!(
        answer.matches("HTTP/1.1 429").count(),
        1,
        "and it is closed"
    );
    assert_eq!(field(&answer, "connection"), Some("close"));
    let wait: u32 = field(&answer, "retry-after").unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&wait), "{wait}");
    let policy = Some("\"tight\";q=1;w=3600");
    assert_eq!(field(&answer, "ratelimit-policy"), policy);
    let left = field(&answer, "ratelimit").unwrap();
    assert!(left.starts_with("\"tight\";r=0;t=3"), "{left}");

    let (endpoint, _server) = server(async |mut stream| stream.write_all(b"hello").await).await;
    let tcp = node("tcp", endpoint, &spec);
    assert_eq!(tcp.raw("").await, "hello");
    assert!(tcp.resets(b"word").await);
    let parts = ["mesh_proxy_rate_limited_total", "connections", "refused"];
    assert_eq!(tcp.metric(&parts, 1).await, 1);
}

#[tokio::test]
async fn bytes_of_an_opaque_connection_take_their_time_and_arrive_whole() {
    let (endpoint, _server) = server(async |mut stream| {
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await?;
        stream.write_all(&received).await
    })
    .await;
    let limit = json!({"bytes": 1_000_000, "burst": 20_000});
    let node = node("tcp", endpoint, &json!({"rateLimits": [limit]}));
    let mut stream = node.connect().await;
    let sent: Vec<u8> = (0..300_000_u32).map(|index| (index % 251) as u8).collect();
    let begin = Instant::now();
    let talk = async {
        stream.write_all(&sent).await?;
        stream.shutdown().await?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await?;
        Ok::<_, io::Error>(received)
    };
    let received = within(talk).await.unwrap();
    let took = begin.elapsed();
    assert_eq!(received, sent);
    // There and back: 600,000 bytes less the burst.
    assert!(took >= Duration::from_millis(570), "{took:?}");
    assert!(took <= PATIENCE / 2, "{took:?}");
}

#[tokio::test]
async fn faults_hit_whom_they_are_for() {
    let (endpoint, _server) = http1_server(|_| text("ok")).await;
    let spec = json!({"faults": [
        {"headers": [{"name": "x-test", "value": "abort"}], "abort": {"status": 418}},
        {"headers": [{"name": "x-test", "value": "grpc"}], "abort": {"grpc": "UNAVAILABLE"}},
        {"headers": [{"name": "x-test", "value": "delay"}], "sources": [{"workload": "client"}], "delay": {"fixed": "300ms"}},
        {"sources": [{"workload": "other"}], "abort": {"status": 500}},
    ]});
    let node = node("http", endpoint, &spec);
    let ask = |what: &str| {
        let request = GET.replace("host", &format!("x-test: {what}\r\nhost"));
        let node = &node;
        async move { node.raw(&request).await }
    };
    assert_eq!(status(&node.raw(GET).await), 200);
    let aborted = ask("abort").await;
    assert_eq!(status(&aborted), 418);
    assert_eq!(field(&aborted, "x-mesh-error"), Some("fault"));
    assert_eq!(status(&ask("grpc").await), 503);
    let begin = Instant::now();
    assert_eq!(status(&ask("delay").await), 200);
    assert!(begin.elapsed() >= Duration::from_millis(300));
    node.metric(&["mesh_proxy_faults_total", "abort"], 2).await;
    node.metric(&["mesh_proxy_faults_total", "delay"], 1).await;
    node.metric(&["istio_requests_total", "response_flags=\"FI\""], 2)
        .await;
}

#[tokio::test]
async fn a_service_gets_no_more_requests_than_its_concurrency() {
    let (endpoint, go, seen) = slow_server().await;
    let spec = json!({"adaptiveConcurrency": {"minRequests": 1, "maxRequests": 2}});
    let node = node("http", endpoint, &spec);
    let release = async {
        eventually("two requests", || seen.load(Ordering::Relaxed) == 2).await;
        assert_eq!(status(&node.raw(GET).await), 503);
        go.notify_waiters();
    };
    let (first, second, ()) = tokio::join!(node.raw(GET), node.raw(GET), release);
    assert_eq!((status(&first), status(&second)), (200, 200));
    node.metric(&["mesh_proxy_concurrency_refused_total", "web"], 1)
        .await;
}

#[tokio::test]
async fn the_concurrency_that_is_shown_is_that_of_now() {
    let endpoint = nobody().await;
    let spec = |most: u32| json!({"adaptiveConcurrency": {"minRequests": 1, "maxRequests": most}});
    let node = node("http", endpoint, &spec(7));
    let shown = || node.metric_now(&["mesh_proxy_concurrency_limit{", "service_name=\"web\""]);
    assert_eq!(shown(), 7, "before anybody was refused");
    put(&node, "http", endpoint, &spec(9));
    assert_eq!(shown(), 9);
    put(&node, "http", endpoint, &json!({}));
    assert_eq!(shown(), 0);
}

#[tokio::test]
async fn who_has_a_lower_priority_makes_room_in_the_queue() {
    let (endpoint, go, seen) = slow_server().await;
    let mut config = Config::default();
    config.limits.requests = 1;
    config.limits.workload_requests = 1;
    config.limits.queued_requests = 1;
    config.timeouts.queue = Duration::from_secs(10);
    let node = Node::start_with("http", &[endpoint], config);
    let node = &node;
    let queued = || {
        let workers = node.proxy().workers.iter();
        workers
            .map(|(worker, _)| worker.places.queued())
            .sum::<usize>()
    };
    // Each of the two workers serves one, and one waits at each; the fifth goes to either.
    let low = async {
        eventually("two requests", || seen.load(Ordering::Relaxed) == 2).await;
        put(node, "http", endpoint, &json!({"priority": "Low"}));
        tokio::join!(node.raw(GET), node.raw(GET))
    };
    let high = async {
        eventually("two that wait", || queued() == 2).await;
        put(node, "http", endpoint, &json!({"priority": "High"}));
        node.raw(GET).await
    };
    let release = async {
        node.metric(&["mesh_proxy_shed_total", "queue-full"], 1)
            .await;
        eventually("all are answered", || {
            go.notify_waiters();
            seen.load(Ordering::Relaxed) == 4
        })
        .await;
        go.notify_waiters();
    };
    let (first, second, low, high, ()) =
        tokio::join!(node.raw(GET), node.raw(GET), low, high, release);
    assert_eq!((status(&first), status(&second)), (200, 200));
    let mut low = [status(&low.0), status(&low.1)];
    low.sort_unstable();
    assert_eq!((low, status(&high)), ([200, 503], 200));
}

#[tokio::test]
async fn who_finds_no_place_waits_for_one_or_is_shed() {
    let (endpoint, go, seen) = slow_server().await;
    let mut config = Config::default();
    config.limits.requests = 1;
    config.limits.workload_requests = 1;
    config.limits.queued_requests = 1;
    config.timeouts.queue = Duration::from_millis(400);
    let node = Node::start_with("http", &[endpoint], config);
    // One worker each; a third connection goes to either, and finds its place taken.
    let release = async {
        eventually("two requests", || seen.load(Ordering::Relaxed) == 2).await;
        let shed = node.raw(GET).await;
        assert_eq!(status(&shed), 503, "it has waited in vain");
        assert_eq!(field(&shed, "x-mesh-error"), Some("overload"));
        assert_eq!(field(&shed, "retry-after"), Some("1"));
        let waiting = node.raw(GET);
        let go = async {
            node.metric(&["mesh_proxy_shed_total", "timeout"], 1).await;
            go.notify_waiters();
            eventually("a third", || seen.load(Ordering::Relaxed) == 3).await;
            go.notify_waiters();
        };
        let (served, ()) = tokio::join!(waiting, go);
        assert_eq!(status(&served), 200);
    };
    let (first, second, ()) = tokio::join!(node.raw(GET), node.raw(GET), release);
    assert_eq!((status(&first), status(&second)), (200, 200));
}
