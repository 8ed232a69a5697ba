//! Bounds, back-pressure, and the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::fixture::{
    Node, PATIENCE, eventually, http1_server, http2_client, kernel_room, server, text, within,
};
use crate::proxy::Config;

#[tokio::test]
async fn connections_beyond_the_limit_of_a_workload_are_reset() {
    let (endpoint, _server) =
        server(async |mut stream| stream.read(&mut [0]).await.map(|_| ())).await;
    let mut config = Config::default();
    config.limits.workload_connections = 2;
    let node = Node::start_with("tcp", &[endpoint], config);
    let first = node.connect().await;
    let _second = node.connect().await;
    eventually("two connections", || node.proxy().connections() == 2).await;
    assert!(node.resets(b"").await);
    node.metric(&["mesh_refused_connections_total", "connection-limit"], 1)
        .await;
    drop(first);
    eventually("one connection", || node.proxy().connections() == 1).await;
    let _third = node.connect().await;
    eventually("two connections", || node.proxy().connections() == 2).await;
}

#[tokio::test]
async fn a_connection_without_buffers_is_reset_and_counted() {
    let (endpoint, _server) = http1_server(|_| text("reached")).await;
    let mut config = Config::default();
    config.limits.workload_buffered_bytes = 1024 * 1024;
    let node = Node::start_with("http2", &[endpoint], config);
    let _first = http2_client::<Full<Bytes>>(&node).await;
    node.metric(&["mesh_proxy_buffered_bytes"], 1024 * 1024)
        .await;
    assert!(node.resets(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await);
    for series in ["mesh_refused_connections_total", "mesh_proxy_errors_total"] {
        let parts = [series, r#"reason="buffer-limit""#];
        assert_eq!(node.metric(&parts, 1).await, 1);
    }
}

#[tokio::test]
async fn connections_are_spread_over_the_workers() {
    let (endpoint, _server) =
        server(async |mut stream| stream.read(&mut [0]).await.map(|_| ())).await;
    let node = Node::start("tcp", &[endpoint]);
    let mut streams = Vec::new();
    for count in 1..=8 {
        streams.push(node.connect().await);
        eventually("one more", || node.proxy().connections() == count).await;
    }
    for worker in ["0", "1"] {
        let label = format!("worker=\"{worker}\"");
        assert_eq!(node.metric(&["mesh_proxy_connections", &label], 4).await, 4);
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_endpoint() {
    let written = Arc::new(AtomicUsize::new(0));
    for protocol in ["http", "tcp"] {
        written.store(0, Ordering::Relaxed);
        let count = Arc::clone(&written);
        let (endpoint, _server) = server(move |mut stream| {
            let count = Arc::clone(&count);
            async move {
                stream.read_buf(&mut Vec::with_capacity(1024)).await?;
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
                    .await?;
                let chunk = vec![b'x'; 65536];
                loop {
                    let more = stream.write(&chunk).await?;
                    count.fetch_add(more, Ordering::Relaxed);
                }
            }
        })
        .await;
        let node = Node::start(protocol, &[endpoint]);
        let mut stream = node.connect().await;
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .expect("writes");
        // Until nothing has moved for a while: everything between here and there is full.
        let mut last = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = written.load(Ordering::Relaxed);
            if now == last && now > 0 {
                break;
            }
            last = now;
        }
        // The sockets on both sides of the proxy hold what they may; the proxy next to nothing.
        assert!(last < 2 * kernel_room() + (4 << 20), "{protocol}: {last}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let (endpoint, _server) = http1_server(|_| text("reached")).await;
    let node = Node::start("http", &[endpoint]);
    let request = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n",
        "x".repeat(70_000)
    );
    let mut stream = node.connect().await;
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = vec![0; 12];
    within(stream.read_exact(&mut answer)).await.expect("reads");
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 431");
}

#[tokio::test]
async fn a_head_that_never_ends_is_given_up() {
    let (endpoint, _server) = http1_server(|_| text("reached")).await;
    let mut config = Config::default();
    config.timeouts.header = Duration::from_millis(100);
    let node = Node::start_with("http", &[endpoint], config);
    let started = tokio::time::Instant::now();
    assert_eq!(node.raw("GET / HTTP/1.1\r\n").await, "");
    assert!(started.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_takes_nothing_new() {
    let (endpoint, _server) = server(async |mut stream| {
        stream.read_buf(&mut Vec::with_capacity(1024)).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
            .await
    })
    .await;
    let node = Node::start("http", &[endpoint]);
    let mut stream = node.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .expect("writes");
    let _idle = node.connect().await;
    eventually("two connections", || node.proxy().connections() == 2).await;
    node.metric(&["mesh_proxy_pool_dialled_total"], 1).await;
    let drain = node.proxy().drain(Duration::from_secs(5));
    let mut answer = String::new();
    let ((), read) =
        within(async { tokio::join!(drain, stream.read_to_string(&mut answer)) }).await;
    read.expect("reads");
    assert!(
        answer.ends_with("late") && answer.contains("connection: close"),
        "{answer}"
    );
    assert_eq!(node.proxy().connections(), 0);
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let (endpoint, _server) =
        server(async |mut stream| stream.read(&mut [0]).await.map(|_| ())).await;
    let node = Node::start("tcp", &[endpoint]);
    let mut stream = node.connect().await;
    eventually("one connection", || node.proxy().connections() == 1).await;
    within(node.proxy().drain(Duration::from_millis(50))).await;
    assert!(!matches!(within(stream.read(&mut [0])).await, Ok(1)));
    eventually("no connection", || node.proxy().connections() == 0).await;
}

/// A server that begins an answer which does not end.
async fn endless() -> (SocketAddr, JoinHandle<()>) {
    server(async |mut stream| {
        stream.read_buf(&mut Vec::with_capacity(1024)).await?;
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc";
        stream.write_all(head).await?;
        tokio::time::sleep(PATIENCE).await;
        Ok(())
    })
    .await
}

/// Sends a request, and waits for the begin of the answer.
async fn begin(node: &Node) -> TcpStream {
    let mut stream = node.connect().await;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(request).await.expect("writes");
    within(stream.read_u8()).await.expect("reads");
    stream
}

#[tokio::test]
async fn a_request_that_the_deadline_of_a_drain_cuts_is_not_put_down_to_its_client() {
    let (endpoint, _server) = endless().await;
    let node = Node::start("http", &[endpoint]);
    let _stream = begin(&node).await;
    within(node.proxy().drain(Duration::from_millis(50))).await;
    node.metric(&["istio_requests_total", r#"response_flags="LR""#], 1)
        .await;
    node.metric(&["mesh_proxy_errors_total", r#"reason="draining""#], 1)
        .await;
}

#[tokio::test]
async fn a_request_that_is_idle_for_too_long_is_not_put_down_to_its_client() {
    let (endpoint, _server) = endless().await;
    let mut config = Config::default();
    config.timeouts.idle = Duration::from_secs(1);
    let node = Node::start_with("http", &[endpoint], config);
    let _stream = begin(&node).await;
    node.metric(&["istio_requests_total", r#"response_flags="SI""#], 1)
        .await;
    node.metric(&["mesh_proxy_errors_total", r#"reason="idle""#], 1)
        .await;
}

#[tokio::test]
async fn the_heart_beats() {
    let node = Node::start("http", &[]);
    let first = node.proxy().heartbeat();
    eventually("another beat", || node.proxy().heartbeat() > first).await;
}

#[test]
fn a_connection_costs_little_memory_while_it_waits() {
    fn size<F: Future>(
        _: impl FnOnce(
            Arc<crate::proxy::worker::Worker>,
            TcpStream,
            Arc<crate::net::netns::Netns>,
            SocketAddr,
        ) -> F,
    ) -> usize {
        size_of::<F>()
    }
    // With what the runtime adds to a task it falls into the class of 256 bytes.
    let size = size(crate::proxy::outbound::serve);
    assert!(size <= 96, "{size} bytes");
}

#[test]
fn an_opaque_connection_costs_little_memory() {
    fn size<F: Future>(
        _: impl FnOnce(
            Arc<crate::proxy::worker::Worker>,
            Box<crate::proxy::caller::Caller>,
            crate::proxy::streams::Routed,
            crate::net::peek::Prefixed<crate::net::stream::Stream>,
            crate::proxy::tcp::Opened,
        ) -> F,
    ) -> usize {
        size_of::<F>()
    }
    // The allocator's classes are of 768 and of 224 bytes.
    let size = size(crate::proxy::tcp::serve::<crate::net::stream::Stream>);
    assert!(size <= 768, "{size} bytes");
    let size = size_of::<crate::proxy::caller::Caller>();
    assert!(size <= 224, "{size} bytes");
}
