//! What is said before an answer over HTTP/2.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::fixture::{Node, http1_server, server, text, within};
use super::hygiene1;

async fn client(node: &Node) -> SendRequest<Bytes> {
    let shake = h2::client::handshake(node.connect().await);
    let (sender, connection) = within(shake).await.unwrap();
    tokio::spawn(connection);
    within(sender.ready()).await.unwrap()
}

/// What is said next before the answer.
async fn said(response: &mut ResponseFuture) -> Option<Response<()>> {
    let said = within(poll_fn(|cx| response.poll_informational(cx))).await;
    said.map(Result::unwrap)
}

/// An endpoint that says so many hints, and answers with what it has read when `go` says so.
async fn hinting(hints: usize) -> (SocketAddr, JoinHandle<()>, Arc<Notify>) {
    let go = Arc::new(Notify::new());
    let told = Arc::clone(&go);
    let (address, task) = server(move |stream| {
        let told = Arc::clone(&told);
        async move {
            let shake = h2::server::handshake(stream).await;
            let mut connection = shake.map_err(io::Error::other)?;
            while let Some(asked) = connection.accept().await {
                let (request, mut respond) = asked.map_err(io::Error::other)?;
                let told = Arc::clone(&told);
                tokio::spawn(async move {
                    for (status, count) in [(100, 1), (103, hints)] {
                        for _ in 0..count {
                            let hint = Response::builder().status(status);
                            let hint = hint.header("link", "</a>").header("x-mesh-error", "x");
                            respond.send_informational(hint.body(())?)?;
                        }
                    }
                    told.notified().await;
                    let mut body = request.into_body();
                    let mut read = Vec::new();
                    while let Some(data) = body.data().await {
                        read.extend(data?);
                    }
                    let response = Response::new(());
                    let mut sending = respond.send_response(response, false)?;
                    sending.send_data(read.into(), true)?;
                    Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
                });
            }
            Ok(())
        }
    })
    .await;
    (address, task, go)
}

#[tokio::test]
async fn who_waits_for_100_before_it_sends_a_body_gets_it() {
    let (old, _old) = http1_server(|_| text("old")).await;
    let (new, _new, go) = hinting(0).await;
    for (protocol, address) in [("http", old), ("http2", new)] {
        let node = Node::start(protocol, &[address]);
        let mut client = client(&node).await;
        let request = Request::post("http://web/").header("expect", "100-Continue");
        let request = request.header("content-length", "4").body(()).unwrap();
        let (mut response, mut body) = client.send_request(request, false).unwrap();
        let first = said(&mut response).await.expect("something is said");
        assert_eq!(first.status(), StatusCode::CONTINUE, "{protocol}");
        assert!(first.headers().is_empty(), "{:?}", first.headers());
        body.send_data(Bytes::from_static(b"body"), true).unwrap();
        go.notify_one();
        assert!(said(&mut response).await.is_none(), "{protocol}: once");
        let response = within(response).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{protocol}");
    }
}

#[tokio::test]
async fn who_is_refused_or_has_not_asked_gets_no_100() {
    let (address, _server, go) = hinting(0).await;
    for (endpoints, expects) in [(&[][..], true), (&[address][..], false)] {
        let node = Node::start("http2", endpoints);
        let mut client = client(&node).await;
        let mut request = Request::post("http://web/");
        if expects {
            request = request.header("expect", "100-continue");
        }
        let request = request.body(()).unwrap();
        let (mut response, mut body) = client.send_request(request, false).unwrap();
        if !expects {
            // Late, so that it is waited for.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            body.send_data(Bytes::from_static(b"body"), true).unwrap();
            go.notify_one();
        }
        assert!(said(&mut response).await.is_none());
        let status = within(response).await.unwrap().status();
        let refused = if expects { 503 } else { 200 };
        assert_eq!(status, refused);
    }
}

#[tokio::test]
async fn hints_of_an_endpoint_of_http2_reach_clients_before_the_answer() {
    let (address, _server, go) = hinting(1).await;
    let node = Node::start("http2", &[address]);
    let mut client = client(&node).await;
    let request = Request::get("http://web/").body(()).unwrap();
    let (mut response, _) = client.send_request(request, true).unwrap();
    let hint = said(&mut response).await.expect("a hint");
    assert_eq!(hint.status(), StatusCode::EARLY_HINTS);
    assert_eq!(hint.headers()["link"], "</a>");
    assert_eq!(hint.headers().len(), 1, "{:?}", hint.headers());
    go.notify_one();
    assert!(said(&mut response).await.is_none());
    assert_eq!(within(response).await.unwrap().status(), StatusCode::OK);

    let mut stream = node.connect().await;
    let asked = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    within(stream.write_all(asked)).await.unwrap();
    let mut hint = Vec::new();
    while !hint.ends_with(b"\r\n\r\n") {
        hint.push(within(stream.read_u8()).await.unwrap());
    }
    assert_eq!(hint, b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    go.notify_one();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");

    go.notify_one();
    let answer = node.raw("GET / HTTP/1.0\r\nHost: web\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn hints_of_an_endpoint_of_http_1_1_reach_clients_of_http2_before_the_answer() {
    let hint = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Mesh-Error: x\r\n\r\n";
    let (address, _server, go) = hygiene1::hinting(hint).await;
    let node = Node::start("http", &[address]);
    let mut client = client(&node).await;
    for round in 0..2 {
        let request = Request::get("http://web/").body(()).unwrap();
        let (mut response, _) = client.send_request(request, true).unwrap();
        let hint = said(&mut response).await.expect("a hint");
        assert_eq!(hint.status(), StatusCode::EARLY_HINTS, "{round}");
        assert_eq!(hint.headers()["link"], "</a>", "{round}");
        assert_eq!(hint.headers().len(), 1, "{:?}", hint.headers());
        go.notify_one();
        assert!(said(&mut response).await.is_none(), "{round}");
        let status = within(response).await.unwrap().status();
        assert_eq!(status, StatusCode::OK, "{round}");
    }
}

#[tokio::test]
async fn hints_are_passed_on_within_a_bound() {
    const HINTS: usize = 5_000;
    let many = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(HINTS);
    let (old, _old, go_old) = hygiene1::hinting(many.leak()).await;
    let (new, _new, go_new) = hinting(HINTS).await;
    for (protocol, address, go) in [("http", old, go_old), ("http2", new, go_new)] {
        let node = Node::start(protocol, &[address]);
        let mut client = client(&node).await;
        let request = Request::get("http://web/").body(()).unwrap();
        let (mut response, _) = client.send_request(request, true).unwrap();
        go.notify_one();
        let mut count = 0;
        while said(&mut response).await.is_some() {
            count += 1;
        }
        assert!(count > 0 && count < HINTS / 10, "{protocol}: {count}");
        let status = within(response).await.unwrap().status();
        assert_eq!(status, StatusCode::OK, "{protocol}");
    }
}
