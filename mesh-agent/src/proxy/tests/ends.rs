//! Ends of bodies that come late, or behind trailers.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::fixture::{Node, http2_client, server, within};

/// A server of HTTP/2 whose every request is handled by `answer`.
async fn endpoint<F, R>(answer: F) -> (SocketAddr, JoinHandle<()>)
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), h2::Error>> + Send + 'static,
{
    server(move |stream| {
        let answer = answer.clone();
        async move {
            let shake = h2::server::handshake(stream).await;
            let mut connection = shake.map_err(io::Error::other)?;
            while let Some(asked) = connection.accept().await {
                let (request, respond) = asked.map_err(io::Error::other)?;
                tokio::spawn(answer(request, respond));
            }
            Ok(())
        }
    })
    .await
}

#[tokio::test]
async fn a_download_whose_end_comes_late_is_not_cancelled_at_the_endpoint() {
    let (tell, mut told) = mpsc::channel(1);
    let (address, _server) = endpoint(move |_, mut respond| {
        let tell = tell.clone();
        async move {
            let response = Response::builder().header("content-length", "5");
            let mut body = respond.send_response(response.body(()).unwrap(), false)?;
            body.send_data(Bytes::from_static(b"hello"), false)?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let reset = poll_fn(|cx| Poll::Ready(body.poll_reset(cx))).await;
            tell.send(reset.is_pending()).await.unwrap();
            body.send_data(Bytes::new(), true)
        }
    })
    .await;
    let node = Node::start("http2", &[address]);
    let asked = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    for _ in 0..2 {
        let answer = node.raw(asked).await;
        assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
        assert_eq!(within(told.recv()).await, Some(true), "was reset");
    }
}

/// An endpoint of HTTP/1.1 whose answers have trailers.
async fn with_trailers() -> (SocketAddr, JoinHandle<()>, Arc<AtomicUsize>) {
    let dials = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dials);
    let (address, task) = server(move |mut stream| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut bytes = Vec::new();
            while stream.read_buf(&mut bytes).await? > 0 {
                if bytes.ends_with(b"\r\n\r\n") {
                    bytes.clear();
                    let head =
                        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n";
                    let body = "2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n";
                    stream
                        .write_all((head.to_owned() + body).as_bytes())
                        .await?;
                }
            }
            Ok(())
        }
    })
    .await;
    (address, task, dials)
}

async fn ends_well(node: &Node, count: u64) {
    let requests = "istio_requests_total";
    let well = [requests, r#"response_flags="-""#];
    assert_eq!(node.metric(&well, count).await, count);
    assert_eq!(node.metric_now(&[requests]), count);
}

#[tokio::test]
async fn an_answer_with_trailers_has_ended_and_its_connection_is_kept() {
    let (address, _server, dials) = with_trailers().await;
    let node = Node::start("http", &[address]);
    // A worker has a pool of its own.
    let mut stream = node.connect().await;
    for count in 1..4 {
        let asked = "GET / HTTP/1.1\r\nHost: web\r\nTE: trailers\r\n\r\n";
        within(stream.write_all(asked.as_bytes())).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"0\r\nx-sum: 1\r\n\r\n") {
            assert!(within(stream.read_buf(&mut answer)).await.unwrap() > 0);
        }
        ends_well(&node, count).await;
    }
    assert_eq!(dials.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_answer_with_trailers_has_ended_for_a_client_of_http2() {
    let (address, _server, dials) = with_trailers().await;
    let node = Node::start("http", &[address]);
    let mut client = http2_client(&node).await;
    for count in 1..4 {
        let request = Request::get("http://web/").body(Full::<Bytes>::default());
        let response = within(client.send_request(request.unwrap())).await;
        let body = within(response.unwrap().into_body().collect()).await;
        assert_eq!(body.unwrap().trailers().unwrap()["x-sum"], "1");
        ends_well(&node, count).await;
    }
    assert_eq!(dials.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_answer_with_trailers_ends_in_good_order_for_a_client_of_http_1_0() {
    let (address, _server, _) = with_trailers().await;
    let node = Node::start("http", &[address]);
    let mut stream = node.connect().await;
    let asked = b"GET / HTTP/1.0\r\nHost: web\r\n\r\n";
    within(stream.write_all(asked)).await.unwrap();
    let mut answer = String::new();
    // A reset would be an error.
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    ends_well(&node, 1).await;
}
