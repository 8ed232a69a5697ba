//! Bodies that are kept to be sent again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::fixture::{Node, eventually, server, text, within};
use crate::proxy::Config;

/// What a connection of HTTP/1.1 sets aside, whatever is sent on it.
const RESERVED: usize = 32 * 1024;

/// A server that refuses a first request when it has read it and `leave` lets it, and tells how long the body of the
/// second was.
async fn refusing(leave: Arc<Semaphore>) -> (std::net::SocketAddr, JoinHandle<()>) {
    let has_refused = Arc::new(AtomicBool::new(false));
    server(move |stream| {
        let (leave, has_refused) = (Arc::clone(&leave), Arc::clone(&has_refused));
        async move {
            let answer = move |request: Request<Incoming>| {
                let (leave, has_refused) = (Arc::clone(&leave), Arc::clone(&has_refused));
                async move {
                    let body = request.into_body().collect().await?.to_bytes();
                    if has_refused.swap(true, Ordering::Relaxed) {
                        return Ok::<_, hyper::Error>(text(body.len().to_string()));
                    }
                    drop(leave.acquire().await);
                    let mut response = Response::new(Full::new(Bytes::new()));
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    Ok(response)
                }
            };
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await
                .map_err(std::io::Error::other)
        }
    })
    .await
}

/// A proxy whose workloads have room for `room` bytes in buffers.
fn node(endpoint: std::net::SocketAddr, room: usize) -> Node {
    let mut config = Config::default();
    config.limits.workload_buffered_bytes = room;
    let node = Node::start_with("http", &[endpoint], config);
    let policy = json!({"retries": {"on": ["503"], "maxBodyBytes": 65_536}});
    node.guard("http", &[endpoint], &policy);
    node
}

/// Sends a body of `count` chunks of one byte.
async fn send(stream: &mut TcpStream, count: usize) {
    let head = "PUT / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = "1\r\nx\r\n".repeat(count);
    let request = [head, &body, "0\r\n\r\n"].concat();
    within(stream.write_all(request.as_bytes())).await.unwrap();
}

async fn answer(stream: &mut TcpStream, end: &[u8]) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(end) {
        let read = within(stream.read_buf(&mut answer)).await;
        assert!(read.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_body_of_tiny_chunks_is_kept_in_little_room_that_is_counted() {
    let leave = Arc::new(Semaphore::new(0));
    let (endpoint, _server) = refusing(Arc::clone(&leave)).await;
    let node = node(endpoint, 1 << 20);
    let usage = Arc::clone(&node.proxy().shared.usage);
    let mut stream = node.connect().await;
    send(&mut stream, 60_000).await;
    let seen = AtomicUsize::new(0);
    eventually("the body is counted", || {
        seen.store(usage.buffered(), Ordering::Relaxed);
        usage.buffered() >= RESERVED + 60_000
    })
    .await;
    assert!(seen.load(Ordering::Relaxed) <= RESERVED + 65_536);
    leave.add_permits(1);
    let answer = answer(&mut stream, b"60000").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    eventually("it is given back", || usage.buffered() == RESERVED).await;
}

#[tokio::test]
async fn a_body_for_which_there_is_no_room_is_sent_once() {
    let leave = Arc::new(Semaphore::new(1));
    let (endpoint, _server) = refusing(leave).await;
    let node = node(endpoint, RESERVED + 4096);
    let mut stream = node.connect().await;
    send(&mut stream, 10_000).await;
    let answer = answer(&mut stream, b"\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let usage = &node.proxy().shared.usage;
    assert_eq!(usage.buffered(), RESERVED);
    send(&mut stream, 1000).await;
    let answer = self::answer(&mut stream, b"1000").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
