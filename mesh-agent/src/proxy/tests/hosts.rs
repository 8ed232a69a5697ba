//! Policies that name the field `host`: what a request names, by whatever version of HTTP and in whatever spelling.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;

use super::fixture::{Node, http1_server, http2_client, server, text, within};

type Client = SendRequest<Empty<Bytes>>;

/// What a client of HTTP/2 is told at a host: status and body.
async fn ask(client: &mut Client, host: &str) -> (StatusCode, String) {
    let request = Request::get(format!("http://{host}/")).body(Empty::new());
    let response = within(client.send_request(request.unwrap())).await.unwrap();
    let status = response.status();
    let body = within(response.into_body().collect()).await.unwrap();
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    (status, body)
}

/// The status that a client of HTTP/1.1 gets.
async fn ask_http1(node: &Node, host: &str) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = node.raw(&request).await;
    answer[9..12].parse().unwrap()
}

#[tokio::test]
async fn a_fault_for_a_host_hits_its_requests() {
    let (endpoint, _server) = http1_server(|_| text("ok")).await;
    let host = json!({"name": "Host", "value": "Web.shop"});
    let faults = json!({"faults": [{"headers": [host], "abort": {"status": 418}}]});
    let node = Node::guarded("http", &[endpoint], &faults);
    let mut client = http2_client(&node).await;
    for (host, status) in [("web.shop", 418), ("WEB.shop.", 418), ("other.shop", 200)] {
        assert_eq!(ask(&mut client, host).await.0, status, "{host}");
        assert_eq!(ask_http1(&node, host).await, status, "{host}");
    }
}

#[tokio::test]
async fn each_host_has_one_bucket() {
    let (endpoint, _server) = http1_server(|_| text("ok")).await;
    let limit = json!({"requests": 1, "per": "1h", "by": ["header:host"]});
    let node = Node::guarded("http", &[endpoint], &json!({"rateLimits": [limit]}));
    let mut client = http2_client(&node).await;
    for host in ["web.shop", "other.shop"] {
        assert_eq!(ask(&mut client, host).await.0, 200, "{host}");
        assert_eq!(ask(&mut client, host).await.0, 429, "{host}");
    }
    for host in ["web.shop", "WEB.shop", "web.shop."] {
        assert_eq!(ask_http1(&node, host).await, 429, "{host}");
    }
}

#[tokio::test]
async fn each_host_has_one_endpoint() {
    let named = |name: &'static str| {
        server(move |stream| async move {
            let answer = move |_| std::future::ready(Ok::<_, std::io::Error>(text(name)));
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await
                .map_err(std::io::Error::other)
        })
    };
    let (a, _a) = named("a").await;
    let (b, _b) = named("b").await;
    let (c, _c) = named("c").await;
    let spec = json!({"loadBalancing": {"algorithm": "Maglev", "hashOn": {"header": "host"}}});
    let node = Node::guarded("http2", &[a, b, c], &spec);
    let mut client = http2_client(&node).await;
    let mut homes = std::collections::BTreeSet::new();
    for number in 0..20 {
        let host = format!("host-{number}");
        let (_, home) = ask(&mut client, &host).await;
        for _ in 0..5 {
            assert_eq!(ask(&mut client, &host).await.1, home, "{host}");
        }
        homes.insert(home);
    }
    assert!(homes.len() > 1, "{homes:?}");
}
