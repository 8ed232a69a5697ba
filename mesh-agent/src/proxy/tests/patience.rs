//! Clients of HTTP/1 that go away, or do not read; and answers whose end they cannot see.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::fixture::{Node, eventually, server, snapshot, within};
use crate::state::http_route::HttpRoute;
use crate::traffic::fixture::Fixture;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// An endpoint that says `parts` with `pause` before each once it is asked, and then nothing; how many of its connections
/// were closed.
async fn slow(
    parts: &'static [&'static str],
    pause: Duration,
) -> (SocketAddr, JoinHandle<()>, Arc<AtomicUsize>) {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&closed);
    let (address, task) = server(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            let mut bytes = [0; 1024];
            if stream.read(&mut bytes).await? > 0 {
                for part in parts {
                    sleep(pause).await;
                    stream.write_all(part.as_bytes()).await?;
                }
            }
            while stream.read(&mut bytes).await.is_ok_and(|length| length > 0) {}
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    })
    .await;
    (address, task, closed)
}

#[tokio::test]
async fn a_request_ends_when_its_client_is_gone() {
    let (address, _server, closed) = slow(&[], Duration::ZERO).await;
    for is_reset in [false, true] {
        let node = Node::start("http", &[address]);
        let mut stream = node.connect().await;
        stream.write_all(REQUEST).await.expect("writes");
        node.metric(&["mesh_proxy_pool_dialled_total"], 1).await;
        if is_reset {
            crate::net::socket::reset_on_close(&stream).expect("sets");
        }
        let before = closed.load(Ordering::Relaxed);
        drop(stream);
        eventually("the request ends", || {
            closed.load(Ordering::Relaxed) > before
        })
        .await;
        node.metric(&["istio_requests_total", r#"response_flags="DC""#], 1)
            .await;
    }
}

#[tokio::test]
async fn who_only_has_said_all_gets_what_comes_soon() {
    // Longer in all than such a client is waited for.
    const PARTS: &[&str] = &[
        "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n",
        "one",
        "two",
        "three",
        "end",
    ];
    let (address, _server, _) = slow(PARTS, Duration::from_millis(350)).await;
    let node = Node::start("http", &[address]);
    let mut stream = node.connect().await;
    stream.write_all(REQUEST).await.expect("writes");
    stream.shutdown().await.expect("closes");
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer))
        .await
        .expect("reads");
    assert!(answer.ends_with("\r\n\r\nonetwothreeend"), "{answer}");
}

#[tokio::test]
async fn who_does_not_read_is_cut_off_when_the_time_of_the_request_is_over() {
    let (address, _server) = server(|mut stream: TcpStream| async move {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        loop {
            stream.write_all(&[b'x'; 8 * 1024]).await?;
        }
    })
    .await;
    let node = Node::start("http", &[address]);
    let spec = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
        "rules": [{"timeouts": {"request": "1s"}, "backendRefs": [{"name": "web", "port": 80}]}]});
    let fixture = Fixture::from(snapshot("http", &[address]));
    node.change(fixture.object::<HttpRoute>("r", &spec).snapshot());
    let mut stream = node.connect().await;
    stream.write_all(REQUEST).await.expect("writes");
    node.metric(&["istio_requests_total", r#"response_flags="UT""#], 1)
        .await;
    node.metric(&["mesh_proxy_errors_total", r#"reason="deadline""#], 1)
        .await;
    eventually("no connection", || node.proxy().connections() == 0).await;
}

/// What a client that says `request` gets until the end of the connection, and that end; says `go` when it has `last`.
async fn read_all(
    node: &Node,
    request: &str,
    last: &str,
    go: &Notify,
) -> (String, io::Result<usize>) {
    let mut stream = node.connect().await;
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut bytes = Vec::new();
    while !bytes.ends_with(last.as_bytes()) {
        let read = within(stream.read_buf(&mut bytes)).await.expect("reads");
        assert!(read > 0, "{}", String::from_utf8_lossy(&bytes));
    }
    go.notify_one();
    let end = within(stream.read_to_end(&mut bytes)).await;
    (String::from_utf8_lossy(&bytes).into_owned(), end)
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole_where_its_end_is_that_of_the_connection() {
    for (answer, is_whole) in [
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            true,
        ),
        ("HTTP/1.1 200 OK\r\n\r\nabc", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", true),
    ] {
        let go = Arc::new(Notify::new());
        let told = Arc::clone(&go);
        let (address, _server) = server(move |mut stream| {
            let told = Arc::clone(&told);
            async move {
                let length = stream.read(&mut [0; 1024]).await?;
                assert!(length > 0);
                stream.write_all(answer.as_bytes()).await?;
                // What has not been read may be lost with the reset.
                told.notified().await;
                stream.shutdown().await
            }
        })
        .await;
        let node = Node::start("http", &[address]);
        let request = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
        let (got, end) = read_all(&node, request, "\r\n\r\nabc", &go).await;
        assert!(got.ends_with("\r\n\r\nabc"), "{answer:?} gave {got}");
        match end {
            Ok(_) => assert!(is_whole, "{answer:?}"),
            Err(error) => {
                assert!(!is_whole, "{answer:?}: {error}");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
        }
    }
}
