//! Services that may have fewer connections than are wanted.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::fixture::{Node, PATIENCE, http2_client, server, within};

type Client = SendRequest<Empty<Bytes>>;
type Body = BoxBody<Bytes, Infallible>;

/// A server of HTTP/2 that answers with its name; what it answers first after `is_held` was set does not end.
async fn named(name: &'static str, is_held: Arc<AtomicBool>) -> (SocketAddr, JoinHandle<()>) {
    server(move |stream| {
        let is_held = Arc::clone(&is_held);
        async move {
            let answer = move |_: Request<Incoming>| {
                let text = Bytes::from_static(name.as_bytes());
                let body: Body = if is_held.swap(false, Ordering::Relaxed) {
                    let first = stream::iter([Ok(Frame::data(text))]);
                    BodyExt::boxed(StreamBody::new(first.chain(stream::pending())))
                } else {
                    Full::new(text).boxed()
                };
                std::future::ready(Ok::<_, Infallible>(Response::new(body)))
            };
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await
                .map_err(io::Error::other)
        }
    })
    .await
}

async fn ask(mut client: Client) -> Response<Incoming> {
    let request = Request::get("http://web.shop/").body(Empty::new());
    within(client.send_request(request.unwrap())).await.unwrap()
}

async fn body(response: Response<Incoming>) -> Bytes {
    let body = within(response.into_body().collect()).await;
    body.unwrap().to_bytes()
}

/// Whether nobody was blamed for anything.
fn is_blameless(node: &Node) -> bool {
    let is_closed = |state: &str| state == "closed";
    node.metric_now(&["mesh_proxy_ejections_total"]) == 0
        && node
            .proxy()
            .breakers()
            .iter()
            .all(|it| is_closed(&it.state))
}

#[tokio::test]
async fn requests_wait_together_for_the_place_of_a_connection() {
    let never = Arc::new(AtomicBool::new(false));
    let (one, _one) = named("one", Arc::clone(&never)).await;
    let (two, _two) = named("two", never).await;
    let policy = json!({"circuitBreaker": {"maxConnections": 1, "failures": {"consecutive": 1}},
        "outlierDetection": {"consecutive5xx": 1}});
    let node = Node::guarded("http2", &[one, two], &policy);
    let client = http2_client(&node).await;
    let started = Instant::now();
    let answers = join_all((0..20).map(|_| ask(client.clone()))).await;
    // One after the other they would wait for a second each.
    let took = started.elapsed();
    assert!(took < PATIENCE / 2, "{took:?}");
    for answer in answers {
        assert_eq!(answer.status(), StatusCode::OK);
    }
    assert!(is_blameless(&node));
}

#[tokio::test]
async fn who_finds_no_room_for_a_connection_gets_the_next_stream_that_is_free() {
    let (endpoint, _server) = server(|stream| async move {
        let answer = |_: Request<Incoming>| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"in turn"))))
        };
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(2)
            .serve_connection(TokioIo::new(stream), service_fn(answer))
            .await
            .map_err(io::Error::other)
    })
    .await;
    let policy = json!({"circuitBreaker": {"maxConnections": 1}});
    let node = Node::guarded("http2", &[endpoint], &policy);
    let client = http2_client(&node).await;
    // More than come to their turn while idle connections are looked for.
    let asked = (0..40).map(|_| async { ask(client.clone()).await.status() });
    for status in join_all(asked).await {
        assert_eq!(status, StatusCode::OK);
    }
}

#[tokio::test]
async fn another_caller_gets_the_place_of_a_connection_that_is_idle() {
    let (one, _one) = named("one", Arc::default()).await;
    let policy = json!({"circuitBreaker": {"maxConnections": 1}});
    let node = Node::guarded("http2", &[one], &policy);
    let first = http2_client(&node).await;
    assert_eq!(body(ask(first.clone()).await).await, "one");
    let mut other = node.table.answer.lock().unwrap().unwrap();
    other.workload = 0;
    *node.table.answer.lock().unwrap() = Some(other);
    // One at each worker.
    for _ in 0..2 {
        let second = http2_client(&node).await;
        assert_eq!(body(ask(second).await).await, "one");
        assert_eq!(body(ask(first.clone()).await).await, "one");
    }
    assert_eq!(node.metric(&["mesh_proxy_pool_dialled"], 5).await, 5);
}

#[tokio::test]
async fn a_connection_that_takes_longer_than_an_attempt_may_comes_to_stand_all_the_same() {
    let (dials, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, told) = (Arc::clone(&dials), Arc::clone(&go));
    let (endpoint, _server) = server(move |stream| {
        count.fetch_add(1, Ordering::Relaxed);
        let told = Arc::clone(&told);
        async move {
            told.notified().await;
            let answer = |_: Request<Incoming>| {
                std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))))
            };
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await
                .map_err(io::Error::other)
        }
    })
    .await;
    let policy = json!({"retries": {"on": [], "perTryTimeout": "150ms"}});
    let node = Node::guarded("http2", &[endpoint], &policy);
    let client = http2_client(&node).await;
    let mut refused = 0;
    while ask(client.clone()).await.status() != StatusCode::OK {
        refused += 1;
        assert!(refused < 20, "no connection");
        go.notify_one();
    }
    assert!(refused > 0, "it has come too soon");
    assert_eq!(dials.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_connection_that_nobody_waits_for_gives_its_place_to_who_does() {
    let (hung, _hung) = server(|stream| async move {
        tokio::time::sleep(PATIENCE).await;
        drop(stream);
        Ok(())
    })
    .await;
    let (one, _one) = named("one", Arc::default()).await;
    let policy = json!({"circuitBreaker": {"maxConnections": 1},
        "retries": {"on": ["timeout"], "perTryTimeout": "1s"}});
    let node = Node::guarded("http2", &[hung, one], &policy);
    let client = http2_client(&node).await;
    for _ in 0..2 {
        assert_eq!(body(ask(client.clone()).await).await, "one");
    }
}

#[tokio::test]
async fn an_endpoint_is_not_blamed_for_a_place_that_is_not_free() {
    let is_held = Arc::new(AtomicBool::new(true));
    let (one, _one) = named("one", Arc::clone(&is_held)).await;
    let (two, _two) = named("two", is_held).await;
    let policy = json!({"circuitBreaker": {"maxConnections": 1, "failures": {"consecutive": 1}},
        "outlierDetection": {"consecutive5xx": 1}, "retries": {"on": [], "perTryTimeout": "1s"}});
    let node = Node::guarded("http2", &[one, two], &policy);
    let client = http2_client(&node).await;
    // Its body holds the connection.
    let held = ask(client.clone()).await;
    assert_eq!(held.status(), StatusCode::OK);
    let mut refused = 0;
    for _ in 0..4 {
        let answer = ask(client.clone()).await;
        if answer.status() != StatusCode::OK {
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(answer.headers()["x-mesh-error"], "overflow");
            refused += 1;
        }
    }
    assert_eq!(refused, 2, "the other is asked in its turn");
    assert!(is_blameless(&node));
    node.metric(&["mesh_breaker_overflows_total", "connections"], 2)
        .await;
    drop(held);
    let is_served = async {
        // In turn: both.
        while ask(client.clone()).await.status() != StatusCode::OK
            || ask(client.clone()).await.status() != StatusCode::OK
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(is_served).await;
}
