//! What retries may cost where no policy speaks of them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::fixture::{Node, http1_server, nobody, server, text};
use crate::proxy::Config;

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
const REQUESTS: u64 = 400;

/// Attempts that so many requests may make since `begin`, with every endpoint failing: a quarter more, or 10 more in each
/// second.
fn bound(begin: Instant) -> u64 {
    REQUESTS + REQUESTS / 4 + 10 * (begin.elapsed().as_secs() + 1)
}

#[tokio::test]
async fn a_retry_storm_is_impossible_without_a_policy() {
    let count = Arc::new(AtomicU64::new(0));
    let closing = || {
        let count = Arc::clone(&count);
        server(move |mut stream| {
            let count = Arc::clone(&count);
            async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut request).await?;
                }
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        })
    };
    let (one, _one) = closing().await;
    let (two, _two) = closing().await;
    let (three, _three) = closing().await;
    let node = Node::start("http", &[one, two, three]);
    let begin = Instant::now();
    for _ in 0..REQUESTS {
        assert!(node.raw(GET).await.starts_with("HTTP/1.1 50"));
    }
    let attempts = count.load(Ordering::Relaxed);
    assert!(attempts > REQUESTS, "{attempts}: some are repeated");
    assert!(attempts < bound(begin), "{attempts}");
    node.metric(&["mesh_proxy_retries_refused_total", "budget"], 1)
        .await;
    let shown = node.metric_now(&["mesh_proxy_retries_budget"]);
    assert_eq!(shown, 0, "only the budgets of policies are shown");
}

#[tokio::test]
async fn where_everybody_refuses_few_connections_are_tried_again() {
    for protocol in ["tcp", "http"] {
        let nobody = [nobody().await, nobody().await, nobody().await];
        let node = Node::start(protocol, &nobody);
        let begin = Instant::now();
        for _ in 0..REQUESTS {
            node.raw(GET).await;
        }
        let retries = node.metric(&["mesh_proxy_retries_total", "connect"], 2);
        let attempts = REQUESTS + retries.await;
        assert!(attempts < bound(begin), "{protocol}: {attempts}");
    }
}

/// An endpoint that neither takes nor refuses connections: its queue is full.
async fn silent() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let bind = || -> io::Result<TcpListener> {
        let socket = TcpSocket::new_v4()?;
        socket.bind("127.0.0.1:0".parse().expect("an address"))?;
        socket.listen(1)
    };
    let listener = bind().expect("listens");
    let address = listener.local_addr().expect("bound");
    let mut queue = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queue.push(stream.expect("connects"));
    }
    (address, listener, queue)
}

#[tokio::test]
async fn a_dead_endpoint_costs_no_request_of_a_service_that_had_none_before() {
    let (dead, _listener, _queue) = silent().await;
    let (one, _one) = http1_server(|_| text("ok")).await;
    let (two, _two) = http1_server(|_| text("ok")).await;
    let mut config = Config::default();
    config.timeouts.connect = Duration::from_secs(1);
    let node = Node::start_with("http", &[dead, one, two], config);
    // A third of them finds the dead one, before it is known to be so: more than the budget has.
    let answers = join_all((0..150).map(|_| node.raw(GET))).await;
    let failed = answers.iter().filter(|it| !it.ends_with("ok")).count();
    assert_eq!(failed, 0, "{answers:?}");
    let retried = node.metric_now(&["mesh_proxy_retries_total", "connect"]);
    assert!(retried > 0, "{retried}");
}
