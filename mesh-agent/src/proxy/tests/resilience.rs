//! Retries, deadlines, hedges, breakers and outliers through the proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::fixture::{Node, eventually, http1_server, nobody, server, snapshot, text, within};
use super::shaping::slow_server;
use crate::proxy::Config;
use crate::state::http_route::HttpRoute;
use crate::state::traffic_policy::TrafficPolicy;
use crate::traffic::fixture::Fixture;

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";

fn failing(status: u16) -> Response<Full<Bytes>> {
    let mut response = text("sorry");
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    response
}

/// A server that counts its requests and answers with `status`.
async fn counting(
    status: u16,
) -> (
    std::net::SocketAddr,
    Arc<AtomicUsize>,
    tokio::task::JoinHandle<()>,
) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let (address, task) = http1_server(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        failing(status)
    })
    .await;
    (address, count, task)
}

/// A server that answers after `delay`.
async fn slow(delay: Duration) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    server(move |stream| async move {
        let answer = move |_: Request<Incoming>| async move {
            tokio::time::sleep(delay).await;
            Ok::<_, std::convert::Infallible>(text("slow"))
        };
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(answer))
            .await
            .map_err(std::io::Error::other)
    })
    .await
}

#[tokio::test]
async fn a_bad_answer_is_tried_at_another_endpoint() {
    let (bad, bad_count, _bad) = counting(503).await;
    let (good, _good) = http1_server(|_| text("good")).await;
    let node = Node::guarded("http", &[bad, good], &json!({"retries": {"on": ["5xx"]}}));
    for _ in 0..4 {
        let response = node.raw(GET).await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    }
    let bad = u64::try_from(bad_count.load(Ordering::Relaxed)).unwrap();
    assert!(bad > 0);
    let retried = ["mesh_proxy_retries_total", "status"];
    assert_eq!(node.metric(&retried, bad).await, bad);
}

#[tokio::test]
async fn where_all_fail_the_last_answer_is_what_the_client_gets() {
    let (bad, count, _bad) = counting(503).await;
    let node = Node::guarded(
        "http",
        &[bad],
        &json!({"retries": {"attempts": 2, "on": ["503"]}}),
    );
    let response = node.raw(GET).await;
    assert!(
        response.starts_with("HTTP/1.1 503") && response.ends_with("sorry"),
        "{response}"
    );
    assert_eq!(
        count.load(Ordering::Relaxed),
        3,
        "the only endpoint is tried again"
    );
    node.metric(&["istio_requests_total", r#"response_flags="URX""#], 1)
        .await;
}

#[tokio::test]
async fn what_is_not_idempotent_is_not_repeated() {
    let (bad, count, _bad) = counting(503).await;
    let refused = nobody().await;
    let policy = json!({"retries": {"on": ["5xx", "connect-failure"]}});
    let node = Node::guarded("http", &[refused, bad], &policy);
    let post = "POST / HTTP/1.1\r\nHost: web\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab";
    for _ in 0..2 {
        let response = node.raw(post).await;
        assert!(response.starts_with("HTTP/1.1 503"), "{response}");
        assert!(
            response.ends_with("sorry"),
            "a refused connection is no answer: {response}"
        );
    }
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_retry_storm_is_impossible() {
    let (bad, count, _bad) = counting(503).await;
    let (worse, more, _worse) = counting(503).await;
    let node = Node::guarded(
        "http",
        &[bad, worse],
        // What is granted by the second would depend on how long the test takes.
        &json!({"retries": {"attempts": 3, "on": ["5xx"], "backoff": {"base": "1ms", "max": "1ms"},
            "budget": {"percent": 20, "minPerSecond": 0}}}),
    );
    let mut stream = node.connect().await;
    let requests = 400;
    for _ in 0..requests {
        let request = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";
        within(stream.write_all(request)).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"sorry") {
            answer.push(within(stream.read_u8()).await.unwrap());
        }
    }
    let attempts = count.load(Ordering::Relaxed) + more.load(Ordering::Relaxed);
    assert!(
        attempts * 100 < requests * 125,
        "{attempts} attempts for {requests} requests"
    );
    assert!(attempts > requests, "{attempts}");
    node.metric(&["mesh_proxy_retries_refused_total", "budget"], 1)
        .await;
}

/// The body of a PUT that a server of two has refused after it had read it.
async fn put(body: &str, chunked: bool) -> (usize, String) {
    let (tries, seen) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&Arc::default()));
    let seen: Arc<std::sync::Mutex<String>> = seen;
    let (counter, note) = (Arc::clone(&tries), Arc::clone(&seen));
    let (endpoint, _server) = server(move |stream| {
        let (counter, note) = (Arc::clone(&counter), Arc::clone(&note));
        async move {
            let answer = move |request: Request<Incoming>| {
                let (counter, note) = (Arc::clone(&counter), Arc::clone(&note));
                async move {
                    let body = request.into_body().collect().await?.to_bytes();
                    *note.lock().unwrap() = String::from_utf8_lossy(&body).into_owned();
                    let is_first = counter.fetch_add(1, Ordering::Relaxed) == 0;
                    Ok::<_, hyper::Error>(if is_first {
                        failing(503)
                    } else {
                        text("stored")
                    })
                }
            };
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await
                .map_err(std::io::Error::other)
        }
    })
    .await;
    let policy = json!({"retries": {"on": ["5xx"], "maxBodyBytes": 100}});
    let node = Node::guarded("http", &[endpoint], &policy);
    let request = if chunked {
        let (one, two) = body.split_at(body.len() / 2);
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
        format!(
            "PUT / HTTP/1.1\r\nHost: web\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{}{}0\r\n\r\n",
            chunk(one),
            chunk(two)
        )
    } else {
        format!(
            "PUT / HTTP/1.1\r\nHost: web\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let response = node.raw(&request).await;
    let status = response.get(9..12).unwrap_or_default().to_owned();
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen, body, "{response}");
    (tries.load(Ordering::Relaxed), status)
}

#[tokio::test]
async fn a_body_is_sent_again_up_to_a_bound() {
    for chunked in [false, true] {
        assert_eq!(put(&"x".repeat(100), chunked).await, (2, "200".to_owned()));
        assert_eq!(put(&"x".repeat(101), chunked).await, (1, "503".to_owned()));
    }
}

#[tokio::test]
async fn a_slow_attempt_is_given_up_within_the_deadline_of_the_request() {
    let (slow, _slow) = slow(Duration::from_secs(30)).await;
    let (good, _good) = http1_server(|_| text("good")).await;
    let policy = json!({"retries": {"on": ["timeout"], "perTryTimeout": "1s"}});
    let node = Node::guarded("http", &[slow, good], &policy);
    for _ in 0..2 {
        let response = node.raw(GET).await;
        assert!(response.ends_with("good"), "{response}");
    }
    let policy =
        json!({"timeouts": {"request": "100ms"}, "retries": {"on": ["timeout"], "attempts": 10}});
    node.guard("http", &[slow], &policy);
    let started = Instant::now();
    let response = node.raw(GET).await;
    assert!(response.starts_with("HTTP/1.1 504"), "{response}");
    assert!(response.contains("x-mesh-error: deadline"), "{response}");
    assert!(started.elapsed() < Duration::from_secs(5));
    node.metric(&["istio_requests_total", r#"response_flags="UT""#], 1)
        .await;
}

#[tokio::test]
async fn a_deadline_cuts_off_a_body_that_does_not_end() {
    let (endpoint, _server) = server(|mut stream| async move {
        stream.read_u8().await?;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
            .await?;
        tokio::time::sleep(Duration::from_mins(1)).await;
        Ok(())
    })
    .await;
    let node = Node::guarded("http", &[endpoint], &json!({"timeouts": {"request": "1s"}}));
    let response = node.raw(GET).await;
    assert!(response.ends_with("\r\n\r\nabc"), "{response}");
    node.metric(&["istio_requests_total", r#"response_flags="UT""#], 1)
        .await;
}

#[tokio::test]
async fn a_slow_endpoint_is_hedged_within_half_of_the_budget() {
    let (slow, _slow) = slow(Duration::from_secs(1)).await;
    let (good, _good) = http1_server(|_| text("good")).await;
    let hedging = json!({"hedging": {"after": "100ms"}, "retries": {"budget": {"percent": 100}}});
    let node = Node::guarded("http", &[slow, good], &hedging);
    let mut good_answers = 0;
    for _ in 0..12 {
        let response = node.raw(GET).await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        good_answers += u64::from(response.ends_with("good"));
    }
    let sent = node.metric(&["mesh_proxy_hedges_total", "sent"], 3).await;
    let won = node.metric(&["mesh_proxy_hedges_total", "won"], 3).await;
    assert!(sent <= 6 && won <= sent, "{sent} {won}");
    assert!(good_answers >= won, "{good_answers} {won}");
}

#[tokio::test]
async fn a_lone_slow_endpoint_is_waited_for() {
    let (slow, _slow) = slow(Duration::from_millis(50)).await;
    let hedging = json!({"hedging": {"after": "1ms"}, "retries": {"budget": {"percent": 100}}});
    let node = Node::guarded("http", &[slow], &hedging);
    for _ in 0..4 {
        assert!(node.raw(GET).await.ends_with("slow"));
    }
}

#[tokio::test]
async fn a_breaker_of_a_service_opens_tries_and_closes() {
    let is_well = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let (endpoint, _server) = http1_server(move |_| {
        if well.load(Ordering::Relaxed) {
            text("good")
        } else {
            failing(500)
        }
    })
    .await;
    let policy = json!({"circuitBreaker": {"failures": {"per": "Service", "consecutive": 3, "openFor": "1s"}}});
    let node = Node::guarded("http", &[endpoint], &policy);
    for _ in 0..3 {
        assert!(node.raw(GET).await.starts_with("HTTP/1.1 500"));
    }
    let response = node.raw(GET).await;
    assert!(
        response.contains("x-mesh-error: breaker-open"),
        "{response}"
    );
    assert!(response.starts_with("HTTP/1.1 503"), "{response}");
    node.metric(&["istio_requests_total", r#"response_flags="UO""#], 1)
        .await;
    node.metric(&["mesh_breaker_changes_total", "open"], 1)
        .await;
    is_well.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + super::fixture::PATIENCE;
    while !node.raw(GET).await.ends_with("good") {
        assert!(Instant::now() < deadline, "it stays open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.metric(&["mesh_breaker_changes_total", "half-open"], 1)
        .await;
    node.metric(&["mesh_breaker_changes_total", "closed"], 1)
        .await;
}

#[tokio::test]
async fn a_breaker_of_a_route_is_seen_by_its_name() {
    let (endpoint, _server) = http1_server(|_| failing(500)).await;
    let node = Node::start("http", &[endpoint]);
    let route = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
        "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]});
    let policy = json!({"target": {"kind": "HTTPRoute", "name": "r"}, "retries": {"on": ["reset"]},
        "circuitBreaker": {"failures": {"per": "Route", "consecutive": 2, "openFor": "60s"}}});
    let registry = Fixture::from(snapshot("http", &[endpoint]))
        .object::<HttpRoute>("r", &route)
        .object::<TrafficPolicy>("p", &policy);
    node.change(registry.snapshot());
    for _ in 0..2 {
        assert!(node.raw(GET).await.starts_with("HTTP/1.1 500"));
    }
    let refused = node.raw(GET).await;
    assert!(refused.contains("x-mesh-error: breaker-open"), "{refused}");
    let seen = node.proxy().breakers();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(
        (seen[0].kind.as_str(), seen[0].name.as_str()),
        ("HTTPRoute", "r")
    );
    assert_eq!(seen[0].state, "open");
    let labels = [
        "mesh_breaker_state",
        r#"kind="HTTPRoute""#,
        r#"service="r""#,
    ];
    assert_eq!(node.metric(&labels, 2).await, 2);
    let labels = ["mesh_proxy_retries_budget", r#"kind="HTTPRoute""#];
    node.metric(&labels, 1).await;
}

#[tokio::test]
async fn a_breaker_of_a_route_stops_no_other_route() {
    let (endpoint, _server) = http1_server(|request| match request.uri().path() {
        "/reports" => failing(500),
        _ => text("good"),
    })
    .await;
    let node = Node::start("http", &[endpoint]);
    let route = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
        "rules": [{"matches": [{"path": {"value": "/reports"}}], "backendRefs": [{"name": "web", "port": 80}]}]});
    let other = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
        "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]});
    let policy = json!({"target": {"kind": "HTTPRoute", "name": "r"},
        "circuitBreaker": {"failures": {"consecutive": 2, "openFor": "60s"}}});
    let registry = Fixture::from(snapshot("http", &[endpoint]))
        .object::<HttpRoute>("r", &route)
        .object::<HttpRoute>("s", &other)
        .object::<TrafficPolicy>("p", &policy);
    node.change(registry.snapshot());
    let reports = GET.replace(" / ", " /reports ");
    for _ in 0..2 {
        assert!(node.raw(&reports).await.starts_with("HTTP/1.1 500"));
    }
    let refused = node.raw(&reports).await;
    assert!(refused.contains("x-mesh-error: breaker-open"), "{refused}");
    let answer = node.raw(GET).await;
    assert!(answer.ends_with("good"), "{answer}");
}

#[tokio::test]
async fn a_wait_of_the_proxy_ends_at_the_deadline_and_blames_nobody() {
    let (endpoint, count, _server) = counting(200).await;
    let policy = json!({"timeouts": {"request": "200ms"},
        "faults": [{"delay": {"fixed": "60s", "percent": 100}}],
        "circuitBreaker": {"failures": {"consecutive": 1, "openFor": "60s"}}});
    let node = Node::guarded("http", &[endpoint], &policy);
    for _ in 0..2 {
        let answer = node.raw(GET).await;
        assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
        assert!(answer.contains("x-mesh-error: deadline"), "{answer}");
    }
    assert_eq!(count.load(Ordering::Relaxed), 0);
    assert!(
        node.proxy()
            .breakers()
            .iter()
            .all(|it| it.state == "closed")
    );
}

#[tokio::test]
async fn a_retry_takes_a_place_only_until_it_is_answered() {
    let (bad, _bad_count, _bad) = counting(503).await;
    let (good, _good) = server(|mut stream| async move {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut request).await?;
        }
        // It never ends.
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin";
        stream.write_all(answer).await?;
        tokio::time::sleep(super::fixture::PATIENCE).await;
        Ok(())
    })
    .await;
    let policy = json!({"retries": {"on": ["5xx"]}, "circuitBreaker": {"maxRetries": 1},
        "loadBalancing": {"algorithm": "RoundRobin"}});
    let node = Node::guarded("http", &[bad, good], &policy);
    let mut begun = Vec::new();
    for _ in 0..6 {
        let mut stream = node.connect().await;
        stream.write_all(GET.as_bytes()).await.unwrap();
        let mut head = [0; 15];
        within(stream.read_exact(&mut head)).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        begun.push(stream);
    }
    node.metric(&["mesh_proxy_retries_total", "status"], 2)
        .await;
}

#[tokio::test]
async fn an_answer_that_is_the_last_is_not_cut_off_by_a_retry_that_may_not_be() {
    let (bad, _server) = server(|mut stream| async move {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut request).await?;
            if let Some(end) = request.windows(4).position(|it| it == b"\r\n\r\n") {
                request.truncate(end + 4);
            }
        }
        let head = b"HTTP/1.1 503 Busy\r\nContent-Length: 10\r\n\r\n01234";
        stream.write_all(head).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(b"56789").await?;
        // What is still sent is read.
        while stream.read_buf(&mut request).await? > 0 {}
        Ok(())
    })
    .await;
    let policy = json!({"retries": {"on": ["5xx"]}, "circuitBreaker": {"maxRetries": 0}});
    let node = Node::guarded("http", &[bad, bad], &policy);
    let mut stream = node.connect().await;
    let head = "PUT / HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nabc";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"0123456789") {
        let read = within(stream.read_buf(&mut answer)).await.unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
    }
    node.metric(&["mesh_proxy_retries_refused_total", "limit"], 1)
        .await;
}

#[tokio::test]
async fn the_budget_of_a_rule_that_speaks_of_retries_itself_is_seen_by_its_name() {
    let (endpoint, _server) = http1_server(|_| text("good")).await;
    let node = Node::start("http", &[endpoint]);
    let rule = |name: &str, more: Value| {
        let mut rule = json!({"name": name, "backendRefs": [{"name": "web", "port": 80}]});
        rule["matches"] = json!([{"path": {"value": format!("/{name}")}}]);
        for (field, value) in more.as_object().unwrap() {
            rule[field] = value.clone();
        }
        rule
    };
    let rules = [
        rule("own", json!({"retry": {"codes": [503]}})),
        rule("late", json!({"timeouts": {"request": "1s"}})),
    ];
    let route =
        json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": rules});
    let registry = Fixture::from(snapshot("http", &[endpoint])).object::<HttpRoute>("r", &route);
    node.change(registry.snapshot());
    let own = [
        "mesh_proxy_retries_budget",
        r#"kind="HTTPRoute""#,
        r#"service="r""#,
        r#"rule="own""#,
    ];
    // What is left without any request: the default of 10 a second.
    assert_eq!(node.metric(&own, 10).await, 10);
    assert_eq!(
        node.metric(&["mesh_proxy_retries_budget"], 10).await,
        10,
        "the other has none"
    );
}

#[tokio::test]
async fn a_rule_without_a_limit_waits_longer_than_the_proxy_would() {
    let (endpoint, _server) = slow(Duration::from_millis(1500)).await;
    let mut config = Config::default();
    config.timeouts.response = Duration::from_millis(200);
    let node = Node::start_with("http", &[endpoint], config);
    for (timeouts, status) in [(json!({}), "504"), (json!({"backendRequest": "0s"}), "200")] {
        let parent = json!({"group": "", "kind": "Service", "name": "web"});
        let rule = json!({"timeouts": timeouts, "backendRefs": [{"name": "web", "port": 80}]});
        let spec = json!({"parentRefs": [parent], "rules": [rule]});
        let registry = Fixture::from(snapshot("http", &[endpoint]));
        node.change(registry.object::<HttpRoute>("r", &spec).snapshot());
        let response = node.raw(GET).await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status}")),
            "{timeouts}: {response}"
        );
    }
}

#[tokio::test]
async fn an_answer_is_waited_for_from_the_end_of_the_request_on() {
    let (endpoint, _server) = server(|mut stream| async move {
        let mut request = Vec::new();
        while !request.ends_with(b"0123456789") {
            stream.read_buf(&mut request).await?;
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        stream.write_all(answer).await
    })
    .await;
    let mut config = Config::default();
    config.timeouts.response = Duration::from_secs(1);
    let node = Node::start_with("http", &[endpoint], config);
    let head = "POST / HTTP/1.1\r\nHost: web\r\nConnection: close\r\nContent-Length: 10\r\n\r\n";
    let upload = async |bytes: &[u8]| {
        let mut stream = node.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let started = Instant::now();
        for byte in bytes {
            tokio::time::sleep(Duration::from_millis(150)).await;
            stream.write_all(&[*byte]).await.unwrap();
        }
        let mut answer = String::new();
        // Who is refused in the middle may hear of it by a reset, behind the answer.
        drop(within(stream.read_to_string(&mut answer)).await);
        (answer, started.elapsed())
    };
    let (answer, took) = upload(b"0123456789").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(took > Duration::from_millis(1250), "{took:?}");
    // It stops in the middle: nothing moves, and the endpoint says nothing.
    let (answer, took) = upload(b"012").await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_breaker_of_an_endpoint_sends_requests_to_the_others() {
    let (bad, count, _bad) = counting(500).await;
    let (good, _good) = http1_server(|_| text("good")).await;
    let policy = json!({"circuitBreaker": {"failures": {"consecutive": 2, "openFor": "60s"}}});
    let node = Node::guarded("http", &[bad, good], &policy);
    for _ in 0..12 {
        node.raw(GET).await;
    }
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_outlier_is_put_aside() {
    let (bad, count, _bad) = counting(500).await;
    let (good, _good) = http1_server(|_| text("good")).await;
    let policy = json!({"outlierDetection": {"consecutive5xx": 3}});
    let node = Node::guarded("http", &[bad, good], &policy);
    for _ in 0..12 {
        node.raw(GET).await;
    }
    assert_eq!(count.load(Ordering::Relaxed), 3);
    node.metric(&["mesh_proxy_ejections_total", "consecutive-5xx"], 1)
        .await;
}

#[tokio::test]
async fn limits_refuse_what_is_too_much() {
    let (slow, go, seen) = slow_server().await;
    let policy = json!({"circuitBreaker": {"maxRequests": 1}});
    let node = Node::guarded("http", &[slow], &policy);
    let come = async |count: usize| {
        eventually("a request", || seen.load(Ordering::Relaxed) == count).await;
    };
    let second = async {
        come(1).await;
        let second = node.raw(GET).await;
        go.notify_waiters();
        second
    };
    let (first, second) = tokio::join!(node.raw(GET), second);
    assert!(first.ends_with("ok"), "{first}");
    assert!(second.starts_with("HTTP/1.1 503"), "{second}");
    assert!(second.contains("x-mesh-error: overflow"), "{second}");
    node.metric(&["mesh_breaker_overflows_total", "requests"], 1)
        .await;
    let release = async {
        come(2).await;
        go.notify_waiters();
    };
    let (third, ()) = tokio::join!(node.raw(GET), release);
    assert!(third.ends_with("ok"), "there is room again: {third}");
}

#[tokio::test]
async fn who_finds_no_room_for_a_connection_waits_for_one() {
    let (slow, _slow) = slow(Duration::from_millis(100)).await;
    let policy = json!({"circuitBreaker": {"maxConnections": 1, "maxPending": 2}});
    let node = Node::guarded("http", &[slow], &policy);
    let (one, two) = tokio::join!(node.raw(GET), node.raw(GET));
    assert!(
        one.ends_with("slow") && two.ends_with("slow"),
        "{one}\n{two}"
    );
    let policy = json!({"circuitBreaker": {"maxConnections": 1, "maxPending": 0}});
    node.guard("http", &[slow], &policy);
    let response = node.raw(GET).await;
    assert!(response.ends_with("slow"), "{response}");
}

#[tokio::test]
async fn where_nobody_may_wait_for_a_connection_one_is_dialled_all_the_same() {
    let (slow, go, seen) = slow_server().await;
    let policy = json!({"circuitBreaker": {"maxConnections": 1, "maxPending": 0}});
    let node = Node::guarded("http", &[slow], &policy);
    let second = async {
        eventually("the first", || seen.load(Ordering::Relaxed) == 1).await;
        let second = node.raw(GET).await;
        go.notify_waiters();
        second
    };
    let (first, second) = tokio::join!(node.raw(GET), second);
    assert!(first.ends_with("ok"), "{first}");
    assert!(second.contains("x-mesh-error: overflow"), "{second}");
    node.metric(&["mesh_breaker_overflows_total", "pending"], 1)
        .await;
}

#[tokio::test]
async fn retries_that_have_ended_take_no_place_from_the_next() {
    let count = Arc::new(AtomicUsize::new(0));
    let (endpoint, _server) = http1_server(move |_| {
        if count.fetch_add(1, Ordering::Relaxed) < 2 {
            failing(503)
        } else {
            text("good")
        }
    })
    .await;
    let policy = json!({"retries": {"on": ["503"], "attempts": 3},
        "circuitBreaker": {"maxRetries": 1}});
    let node = Node::guarded("http", &[endpoint], &policy);
    let response = node.raw(GET).await;
    assert!(response.ends_with("good"), "{response}");
}

/// A gRPC server that answers the first call with UNAVAILABLE, and tells what time it was given.
async fn grpc_server(
    calls: Arc<AtomicUsize>,
) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    server(move |stream| {
        let calls = Arc::clone(&calls);
        async move {
            let answer = move |request: Request<Incoming>| {
                let is_first = calls.fetch_add(1, Ordering::Relaxed) == 0;
                let code = if is_first { "14" } else { "0" };
                let time = request.headers().get("grpc-timeout").cloned();
                let mut response = Response::new(Full::new(Bytes::new()));
                let headers = response.headers_mut();
                headers.insert("content-type", "application/grpc".parse().unwrap());
                headers.insert("grpc-status", code.parse().unwrap());
                if let Some(time) = time {
                    headers.insert("x-time", time);
                }
                std::future::ready(Ok::<_, std::convert::Infallible>(response))
            };
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await
                .map_err(std::io::Error::other)
        }
    })
    .await
}

#[tokio::test]
async fn a_code_of_grpc_is_tried_again_with_the_time_that_is_left() {
    let calls = Arc::new(AtomicUsize::new(0));
    let (endpoint, _server) = grpc_server(Arc::clone(&calls)).await;
    let policy = json!({"retries": {"on": ["grpc:UNAVAILABLE"]}});
    let node = Node::guarded("grpc", &[endpoint], &policy);
    let io = TokioIo::new(node.connect().await);
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let call = Request::post("http://web.shop/A/B")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "20S")
        .body(Full::new(Bytes::from_static(b"message")))
        .unwrap();
    let response = within(client.send_request(call)).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "0");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let time = response.headers()["x-time"].to_str().unwrap();
    let micros: u64 = time.strip_suffix('u').unwrap().parse().unwrap();
    assert!((10_000_000..20_000_000).contains(&micros), "{time}");
}
