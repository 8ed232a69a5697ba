//! HTTP/2 and gRPC through the proxy.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinHandle;

use super::fixture::{Node, http1_server, http2_client, nobody, server, text, within};
use crate::proxy::Config;

type Frames =
    StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

/// A gRPC server that answers with the bytes of the request, and a status in the trailers.
async fn echo(request: Request<Incoming>) -> Result<Response<Frames>, Infallible> {
    let te = request.headers().get("te").cloned();
    let path = request.uri().to_string();
    let body = request
        .into_body()
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("5"));
    let frames = vec![
        Ok(Frame::data(body.unwrap_or_default())),
        Ok(Frame::trailers(trailers)),
    ];
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("x-path", HeaderValue::try_from(path).expect("a value"));
    if let Some(te) = te {
        headers.insert("x-te", te);
    }
    Ok(response)
}

async fn grpc_server(
    max_streams: u32,
    connections: Arc<AtomicUsize>,
) -> (SocketAddr, JoinHandle<()>) {
    server(move |stream| {
        connections.fetch_add(1, Ordering::Relaxed);
        async move {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(max_streams)
                .initial_connection_window_size(16 << 20)
                .serve_connection(TokioIo::new(stream), service_fn(echo))
                .await
                .map_err(io::Error::other)
        }
    })
    .await
}

fn call(body: &'static str) -> Request<Full<Bytes>> {
    Request::post("http://web.shop/Service/Method")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .expect("a request")
}

#[tokio::test]
async fn a_grpc_call_keeps_its_trailers() {
    let (endpoint, _server) = grpc_server(100, Arc::default()).await;
    for protocol in ["grpc", "http2", "auto"] {
        let node = Node::start(protocol, &[endpoint]);
        let mut client = http2_client(&node).await;
        let response = within(client.send_request(call("hello")))
            .await
            .expect("answers");
        assert_eq!(response.headers()["x-te"], "trailers");
        assert_eq!(
            response.headers()["x-path"],
            "http://web.shop/Service/Method"
        );
        let body = within(response.into_body().collect()).await.expect("ends");
        assert_eq!(body.trailers().expect("trailers")["grpc-status"], "5");
        assert_eq!(body.to_bytes(), "hello");
        let series = [
            "istio_requests_total",
            r#"request_protocol="grpc""#,
            r#"grpc_response_status="5""#,
        ];
        assert_eq!(node.metric(&series, 1).await, 1);
    }
}

#[tokio::test]
async fn streams_share_connections_within_the_limit_of_the_endpoint() {
    let connections = Arc::new(AtomicUsize::new(0));
    let (endpoint, _server) = grpc_server(100, Arc::clone(&connections)).await;
    let node = Node::start("grpc", &[endpoint]);
    let client = http2_client(&node).await;
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move {
                within(client.send_request(call("x")))
                    .await
                    .map(|response| response.status())
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("runs").expect("answers"), StatusCode::OK);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_client_of_one_version_reaches_endpoints_of_the_other() {
    let (old, _old) = http1_server(|_| text("old")).await;
    let node = Node::start("http", &[old]);
    let mut client = http2_client(&node).await;
    let response = within(client.send_request(call("x"))).await;
    let body = within(response.expect("answers").into_body().collect()).await;
    assert_eq!(body.expect("ends").to_bytes(), "old");

    let (new, _new) = grpc_server(100, Arc::default()).await;
    let node = Node::start("http2", &[new]);
    let request =
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
    let answer = node.raw(request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("hello"), "{answer}");
}

#[tokio::test]
async fn an_offer_to_switch_is_passed_over_where_the_service_cannot() {
    let (endpoint, _server) = grpc_server(100, Arc::default()).await;
    let node = Node::start("http2", &[endpoint]);
    for (offer, status) in [("TLS/1.2", "200"), ("x", "200"), ("websocket", "400")] {
        let answer = node
            .raw(&format!(
                "GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade, close\r\nUpgrade: {offer}\r\n\r\n"
            ))
            .await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{offer}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_small_limit_of_the_endpoint_is_respected() {
    let connections = Arc::new(AtomicUsize::new(0));
    let (endpoint, _server) = grpc_server(2, Arc::clone(&connections)).await;
    let node = Node::start("grpc", &[endpoint]);
    let first = http2_client(&node).await;
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let mut client = first.clone();
            tokio::spawn(async move {
                let response = within(client.send_request(call("x"))).await?;
                response
                    .into_body()
                    .collect()
                    .await
                    .map(http_body_util::Collected::to_bytes)
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("runs").expect("answers"), "x");
    }
    assert!(connections.load(Ordering::Relaxed) > 1);
}

#[tokio::test]
async fn an_error_of_the_proxy_is_a_status_to_a_grpc_client() {
    let node = Node::start("grpc", &[nobody().await]);
    let mut client = http2_client(&node).await;
    let response = within(client.send_request(call("x")))
        .await
        .expect("answers");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["x-mesh-error"], "connect");
    let request = Request::get("http://web.shop/")
        .body(Full::default())
        .expect("a request");
    let response = within(client.send_request(request)).await.expect("answers");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn an_authority_and_a_host_that_differ_are_refused() {
    let (endpoint, _server) = grpc_server(100, Arc::default()).await;
    let node = Node::start("http2", &[endpoint]);
    let mut client = http2_client(&node).await;
    let mut request = call("x");
    request
        .headers_mut()
        .insert("host", HeaderValue::from_static("other"));
    request.headers_mut().remove("content-type");
    let response = within(client.send_request(request)).await.expect("answers");
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn thousands_of_small_messages_do_not_end_a_connection() {
    let (endpoint, _server) = grpc_server(100, Arc::default()).await;
    let node = Node::start("grpc", &[endpoint]);
    let mut sender = http2_client(&node).await;
    let frames: Vec<_> = (0..20_000)
        .map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"ab"))))
        .collect();
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let request = Request::post("http://web/").body(body).expect("a request");
    let response = within(sender.send_request(request)).await.expect("answers");
    let body = within(response.into_body().collect()).await.expect("ends");
    assert_eq!(body.to_bytes().len(), 40_000);
}

#[tokio::test]
async fn those_who_wait_for_an_endpoint_that_never_greets_wait_together() {
    let dials = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dials);
    let (endpoint, _server) = server(move |stream| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(super::fixture::PATIENCE).await;
            drop(stream);
            Ok(())
        }
    })
    .await;
    let mut config = Config::default();
    config.timeouts.header = Duration::from_millis(500);
    let node = Node::start_with("http2", &[endpoint], config);
    let client = http2_client::<Full<Bytes>>(&node).await;
    let asked = (0..5).map(|_| {
        let mut client = client.clone();
        async move {
            let request = Request::get("http://web/").body(Full::default()).unwrap();
            within(client.send_request(request)).await.unwrap().status()
        }
    });
    for status in futures_util::future::join_all(asked).await {
        assert!(status.is_server_error(), "{status}");
    }
    assert_eq!(dials.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn who_asks_for_a_head_gets_no_body_of_the_proxy() {
    let node = Node::start("http2", &[]);
    let mut client = http2_client::<Full<Bytes>>(&node).await;
    for (method, is_told) in [("HEAD", false), ("GET", true)] {
        let request = Request::builder().method(method).uri("http://web/");
        let request = request.body(Full::default()).unwrap();
        let response = within(client.send_request(request)).await.unwrap();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["x-mesh-error"], "no-endpoint");
        let body = within(response.into_body().collect()).await.unwrap();
        assert_eq!(!body.to_bytes().is_empty(), is_told, "{method}");
    }
}
