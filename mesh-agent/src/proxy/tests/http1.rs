//! HTTP/1.1 through the proxy.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::fixture::{
    Node, eventually, http1_server, http2_client, nobody, server, snapshot, text, within,
};
use crate::net::slice;

/// Reads one response with a content-length: head and body.
async fn response(stream: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.expect("reads"));
    }
    let head = String::from_utf8(head).expect("text");
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let mut body = vec![0; length];
    within(stream.read_exact(&mut body)).await.expect("reads");
    (head, String::from_utf8(body).expect("text"))
}

#[tokio::test]
async fn requests_of_one_connection_are_balanced_each_on_its_own() {
    let (one, _one) = http1_server(|_| text("one")).await;
    let (two, _two) = http1_server(|_| text("two")).await;
    for protocol in ["http", "auto"] {
        let node = Node::start(protocol, &[one, two]);
        let mut stream = node.connect().await;
        let mut bodies = Vec::new();
        for _ in 0..4 {
            stream
                .write_all(b"GET /a?b HTTP/1.1\r\nHost: web\r\n\r\n")
                .await
                .expect("writes");
            let (head, body) = response(&mut stream).await;
            assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
            bodies.push(body);
        }
        let distinct: BTreeSet<_> = bodies.iter().collect();
        assert_eq!(distinct.len(), 2, "{bodies:?}");
        assert_eq!(bodies[0], bodies[2]);
        // The pool kept one connection to each endpoint.
        assert_eq!(node.metric(&["mesh_proxy_pool_reused_total"], 2).await, 2);
        let series = [
            "istio_requests_total",
            r#"source_app="browser""#,
            r#"destination_workload="web-0""#,
            r#"destination_version="v0""#,
            r#"response_code="200""#,
        ];
        assert_eq!(node.metric(&series, 2).await, 2);
        node.metric(&["istio_request_duration_milliseconds_count", "web-1"], 2)
            .await;
    }
}

#[tokio::test]
async fn the_endpoint_gets_a_clean_head() {
    let (endpoint, _server) = http1_server(|request| {
        let mut lines: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
            .collect();
        lines.sort();
        text(format!(
            "{} {}\n{}",
            request.method(),
            request.uri(),
            lines.join("\n")
        ))
    })
    .await;
    let node = Node::start("http", &[endpoint]);
    let response = node
        .raw(
            "GET http://Web.shop/x HTTP/1.1\r\nHost: web.SHOP\r\nConnection: close, x-secret\r\nX-Secret: 1\r\n\
             Keep-Alive: 5\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nTE: trailers\r\n\
             X-Request-Id: mine\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
        )
        .await;
    assert!(
        response.contains("\nGET /x\n") || response.contains("GET /x\n"),
        "{response}"
    );
    for expected in [
        "host: web.shop",
        "x-forwarded-for: 10.0.0.2",
        "x-forwarded-proto: http",
        "x-request-id: mine",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ] {
        assert!(response.contains(expected), "{expected} in {response}");
    }
    for removed in ["secret", "6.6.6.6", "keep-alive", "te: trailers", "via"] {
        assert!(
            !response.to_lowercase().contains(removed),
            "{removed} in {response}"
        );
    }
}

#[tokio::test]
async fn ids_are_made_where_the_client_sends_none() {
    let (endpoint, _server) = http1_server(|request| {
        let header = |name: &str| request.headers()[name].to_str().expect("text").to_owned();
        text(format!(
            "{} {}",
            header("x-request-id"),
            header("traceparent")
        ))
    })
    .await;
    let node = Node::start("http", &[endpoint]);
    let mut stream = node.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: web\r\ntraceparent: nonsense\r\n\r\n")
        .await
        .expect("writes");
    let (_, body) = response(&mut stream).await;
    let (id, trace) = body.split_once(' ').expect("two");
    assert!(
        uuid::Uuid::parse_str(id).is_ok_and(|id| id.get_version_num() == 4),
        "{id}"
    );
    assert!(trace.starts_with("00-") && trace.len() == 55, "{trace}");
}

#[tokio::test]
async fn heads_that_can_be_read_in_two_ways_are_refused() {
    let (endpoint, _server) = http1_server(|_| text("reached")).await;
    let node = Node::start("http", &[endpoint]);
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ] {
        let response = node.raw(request).await;
        assert!(
            response.starts_with("HTTP/1.1 400 "),
            "{request:?} gave {response}"
        );
    }
}

#[tokio::test]
async fn a_body_goes_through_chunked_or_sized() {
    let (endpoint, _server) = server(async |mut stream| {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"0\r\n\r\n") {
            stream.read_buf(&mut bytes).await?;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await
    })
    .await;
    let node = Node::start("http", &[endpoint]);
    let answer = node
        .raw("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("abc"),
        "{answer}"
    );
    node.metric(&["istio_request_bytes_sum", "web-0"], 5).await;
    node.metric(&["istio_response_bytes_sum", "web-0"], 3).await;
}

#[tokio::test]
async fn a_body_goes_through_though_its_method_has_seldom_one() {
    let (endpoint, _server) = http1_echo().await;
    let node = Node::start("http", &[endpoint]);
    for method in ["GET", "HEAD", "OPTIONS"] {
        let answer = node
            .raw(&format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
            .await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{method}: {answer}");
        assert!(answer.contains("x-body: hello\r\n"), "{method}: {answer}");
    }
    let mut client = http2_client(&node).await;
    let frame = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"hello")));
    // No length is told.
    let body = StreamBody::new(futures_util::stream::iter([frame]));
    let request = Request::get("http://web/").body(body).expect("a request");
    let response = within(client.send_request(request)).await.expect("answers");
    assert_eq!(response.headers()["x-body"], "hello");
}

/// An endpoint that tells the body of the request in a field.
async fn http1_echo() -> (SocketAddr, JoinHandle<()>) {
    server(async |stream| {
        let service = service_fn(async |request: Request<Incoming>| {
            let body = request.into_body().collect().await?.to_bytes();
            let mut response = text("");
            let body = HeaderValue::from_maybe_shared(body).expect("a value");
            response.headers_mut().insert("x-body", body);
            Ok::<_, hyper::Error>(response)
        });
        let serving = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        serving.await.map_err(io::Error::other)
    })
    .await
}

#[tokio::test]
async fn a_refused_connection_is_tried_at_another_endpoint() {
    let (alive, _server) = http1_server(|_| text("alive")).await;
    let node = Node::start("http", &[nobody().await, alive, nobody().await]);
    let begin = Instant::now();
    let mut stream = node.connect().await;
    for _ in 0..9 {
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
            .await
            .expect("writes");
        let (head, body) = response(&mut stream).await;
        assert_eq!(body, "alive", "{head}");
    }
    // Each is asked again when a second is over.
    let ejections = node.metric(&["mesh_proxy_ejections_total"], 2).await;
    let most = 2 * (1 + begin.elapsed().as_secs());
    assert!(ejections <= most, "{ejections}, not {most}");
}

#[tokio::test]
async fn a_request_without_effect_is_repeated_when_its_endpoint_dies() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let (dying, _dying) = server(move |mut stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { stream.read_exact(&mut [0; 3]).await.map(|_| ()) }
    })
    .await;
    let (alive, _alive) = http1_server(|_| text("alive")).await;
    let node = Node::start("http", &[dying, alive]);
    let mut stream = node.connect().await;
    for _ in 0..4 {
        assert_eq!(get(&mut stream).await, "alive");
    }
    assert!(tries.load(Ordering::Relaxed) > 0);
    // What may have an effect is not.
    let mut failed = 0;
    for _ in 0..2 {
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
            .await
            .expect("writes");
        let (head, _) = response(&mut stream).await;
        failed += usize::from(
            head.starts_with("HTTP/1.1 502") && head.contains("x-mesh-error: upstream"),
        );
    }
    assert_eq!(failed, 1);
}

#[tokio::test]
async fn errors_of_the_proxy_say_so() {
    let node = Node::start("http", &[]);
    let answer = node
        .raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("x-mesh-error: no-endpoint"),
        "{answer}"
    );
    node.metric(&["mesh_proxy_errors_total", "no-endpoint"], 1)
        .await;
    node.metric(
        &[
            "istio_requests_total",
            r#"response_code="503""#,
            r#"response_flags="UH""#,
        ],
        1,
    )
    .await;

    node.change(snapshot("http", &[nobody().await]));
    let answer = node
        .raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("x-mesh-error: connect"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_error_that_an_endpoint_claims_for_the_proxy_is_removed() {
    let (endpoint, _server) = http1_server(|_| {
        let mut response = text("mine");
        response
            .headers_mut()
            .insert("x-mesh-error", HeaderValue::from_static("policy"));
        response
    })
    .await;
    let node = Node::start("http", &[endpoint]);
    let answer = node
        .raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    assert!(
        answer.contains("mine") && !answer.contains("x-mesh-error"),
        "{answer}"
    );
}

#[tokio::test]
async fn endpoints_change_under_a_living_connection() {
    let (one, _one) = http1_server(|_| text("one")).await;
    let (two, _two) = http1_server(|_| text("two")).await;
    let node = Node::start("http", &[one]);
    let mut stream = node.connect().await;
    for (endpoint, expected) in [(one, "one"), (two, "two")] {
        node.change(snapshot("http", &[endpoint]));
        assert_eq!(get(&mut stream).await, expected);
    }
}

/// Reads a request's head, switches protocols, and echoes.
async fn switch(mut stream: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_buf(&mut head).await?;
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let answer = if head.starts_with("connect ") {
        "HTTP/1.1 200 OK\r\n\r\n"
    } else {
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    };
    stream.write_all(answer.as_bytes()).await?;
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

#[tokio::test]
async fn websocket_and_connect_become_tunnels() {
    let (endpoint, _server) = server(switch).await;
    let node = Node::start("http", &[endpoint]);
    for (request, status) in [
        (
            "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "101",
        ),
        (
            "CONNECT db.shop:5432 HTTP/1.1\r\nHost: db.shop:5432\r\n\r\n",
            "200",
        ),
    ] {
        let mut stream = node.connect().await;
        stream.write_all(request.as_bytes()).await.expect("writes");
        let (head, _) = response(&mut stream).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        assert_eq!(
            head.to_lowercase().contains("upgrade: websocket"),
            status == "101",
            "{head}"
        );
        stream.write_all(b"ping").await.expect("writes");
        let mut echo = [0; 4];
        within(stream.read_exact(&mut echo)).await.expect("reads");
        assert_eq!(&echo, b"ping");
        stream.shutdown().await.expect("closes");
        assert_eq!(within(stream.read(&mut echo)).await.expect("reads"), 0);
        let code = format!("response_code=\"{status}\"");
        node.metric(&["istio_requests_total", &code, r#"response_flags="-""#], 1)
            .await;
    }
}

#[tokio::test]
async fn a_tunnel_that_the_deadline_of_a_drain_cuts_is_told_so() {
    let (endpoint, _server) = server(switch).await;
    let node = Node::start("http", &[endpoint]);
    let mut stream = node.connect().await;
    let request = b"CONNECT db.shop:5432 HTTP/1.1\r\nHost: db.shop:5432\r\n\r\n";
    stream.write_all(request).await.expect("writes");
    response(&mut stream).await;
    stream.write_all(b"ping").await.expect("writes");
    let mut echo = [0; 4];
    within(stream.read_exact(&mut echo)).await.expect("reads");
    within(node.proxy().drain(Duration::from_millis(50))).await;
    node.metric(&["istio_requests_total", r#"response_flags="LR""#], 1)
        .await;
    node.metric(&["mesh_proxy_errors_total", r#"reason="draining""#], 1)
        .await;
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_an_error() {
    let (endpoint, _server) = server(switch).await;
    let node = Node::start("http", &[endpoint]);
    let answer = node
        .raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("unasked-upgrade"),
        "{answer}"
    );
    // An upgrade to HTTP/2 is not passed on, so the switch is unasked again.
    let answer = node
        .raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    // The endpoint chooses what was not among the offers.
    let answer = node
        .raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: other, h2c\r\n\r\n")
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("unasked-upgrade"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_offer_of_tls_changes_nothing() {
    let (endpoint, _server) = http1_server(|request| {
        let is_passed_on = request.headers().contains_key("upgrade");
        text(format!("{is_passed_on}"))
    })
    .await;
    let node = Node::start("http", &[endpoint]);
    let mut stream = node.connect().await;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: TLS/1.2\r\n\r\n";
    for _ in 0..3 {
        stream.write_all(request).await.expect("writes");
        assert_eq!(response(&mut stream).await.1, "false");
    }
    // The connection to the endpoint serves others as usual.
    assert_eq!(node.metric(DIALLED, 1).await, 1);
}

#[tokio::test]
async fn a_silent_client_of_an_unknown_protocol_may_take_its_time() {
    let (endpoint, _server) = http1_server(|_| text("here")).await;
    let node = Node::start("auto", &[endpoint]);
    let mut stream = node.connect().await;
    // The endpoint has been dialled, in case it speaks first.
    node.metric(&["mesh_proxy_pool_dialled_total"], 1).await;
    assert_eq!(get(&mut stream).await, "here");
}

#[tokio::test]
async fn a_connection_that_has_rested_serves_on() {
    let (one, _one) = http1_server(|_| text("one")).await;
    let node = Node::start("http", &[one]);
    let mut stream = node.connect().await;
    let request = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";
    // Some of these silences are long enough, some end while it is looked at.
    for silence in [300, 50, 100, 49, 51, 300] {
        tokio::time::sleep(Duration::from_millis(silence)).await;
        stream
            .write_all(&[*request; 2].concat())
            .await
            .expect("writes");
        for _ in 0..2 {
            assert_eq!(response(&mut stream).await.1, "one");
        }
    }
    drop(stream);
    eventually("no connection", || node.proxy().connections() == 0).await;
}

/// Connections that were made.
const DIALLED: &[&str] = &["mesh_proxy_pool_dialled_total"];
/// Connections that wait for a request.
const KEPT: &[&str] = &["mesh_proxy_pool_idle "];

/// The body that a request is answered with.
async fn get(stream: &mut TcpStream) -> String {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(request).await.expect("writes");
    response(stream).await.1
}

/// Reads the head of a request.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(())
}

#[tokio::test]
async fn a_client_may_send_all_before_it_reads_an_early_answer() {
    // More than all sockets on the way hold.
    const LENGTH: usize = 64 << 20;
    let (endpoint, _server) = server(|mut stream| async move {
        read_head(&mut stream).await?;
        let (mut read, mut write) = stream.split();
        let answer = async {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
            write.write_all(head.as_bytes()).await?;
            write.write_all(&vec![b'a'; LENGTH]).await
        };
        let mut body = vec![0; LENGTH];
        tokio::try_join!(answer, read.read_exact(&mut body))?;
        Ok(())
    })
    .await;
    let node = Node::start("http", &[endpoint]);
    let mut stream = node.connect().await;
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n");
    let all = async {
        stream.write_all(head.as_bytes()).await.expect("writes");
        stream.write_all(&vec![b'q'; LENGTH]).await.expect("writes");
    };
    within(all).await;
    let (head, body) = response(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(body.len(), LENGTH);
}

/// An endpoint that answers one request on each connection. At `go` it does what comes `next` and tells `done`.
async fn once<F, R>(next: F) -> (SocketAddr, JoinHandle<()>, Arc<Notify>, Arc<Notify>)
where
    F: Fn(TcpStream) -> R + Copy + Send + Sync + 'static,
    R: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    let (go, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let shared = (Arc::clone(&go), Arc::clone(&done));
    let (endpoint, task) = server(move |mut stream| {
        let (go, done) = shared.clone();
        async move {
            read_head(&mut stream).await?;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await?;
            go.notified().await;
            let mut stream = next(stream).await?;
            done.notify_one();
            // Held until the proxy lets go of it.
            read_head(&mut stream).await
        }
    })
    .await;
    (endpoint, task, go, done)
}

#[tokio::test]
async fn what_an_endpoint_says_unasked_is_no_answer() {
    const EVIL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let (endpoint, _server, go, done) = once(|mut stream| async {
        stream.write_all(EVIL).await?;
        Ok(stream)
    })
    .await;
    let node = Node::start("http", &[endpoint]);
    let mut stream = node.connect().await;
    for connections in 1..=3 {
        assert_eq!(get(&mut stream).await, "ok");
        assert_eq!(node.metric_now(DIALLED), connections);
        go.notify_one();
        within(done.notified()).await;
    }
}

#[tokio::test]
async fn a_connection_that_its_endpoint_closes_is_not_kept() {
    let (endpoint, _server, go, _done) = once(|mut stream| async {
        stream.shutdown().await?;
        Ok(stream)
    })
    .await;
    let node = Node::start("http", &[endpoint]);
    let mut stream = node.connect().await;
    for connections in 1..=2 {
        assert_eq!(get(&mut stream).await, "ok");
        assert_eq!(node.metric_now(DIALLED), connections);
        node.metric(KEPT, 1).await;
        go.notify_one();
        // Also where no request finds out.
        eventually("nothing is kept", || node.metric_now(KEPT) == 0).await;
    }
}

#[tokio::test]
async fn a_worker_asks_for_short_turns_on_its_processor() {
    let node = Node::start("http", &[nobody().await]);
    let is_worker = |thread: &i32| {
        let name = std::fs::read_to_string(format!("/proc/self/task/{thread}/comm"));
        name.is_ok_and(|name| name.trim_end() == "proxy-0")
    };
    // Those of other tests are among them: some may end while they are asked.
    eventually("a worker with short turns", || {
        let threads = std::fs::read_dir("/proc/self/task").expect("threads");
        let names = threads.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut workers = names.filter_map(|name| name.parse().ok()).filter(is_worker);
        workers.any(|worker| slice::is_short(worker).is_ok_and(|it| it != Some(false)))
    })
    .await;
    drop(node);
}

#[tokio::test]
async fn a_tunnel_is_a_connection_of_its_service() {
    let (endpoint, _server) = server(switch).await;
    let policy = json!({"circuitBreaker": {"maxConnections": 1, "maxPending": 1}});
    let node = Node::guarded("http", &[endpoint], &policy);
    let upgrade =
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut stream = node.connect().await;
    stream.write_all(upgrade.as_bytes()).await.expect("writes");
    let (head, _) = response(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut second = pin!(node.raw("GET / HTTP/1.0\r\nHost: a\r\n\r\n"));
    let early = timeout(Duration::from_millis(200), second.as_mut()).await;
    assert!(early.is_err(), "there is no room: {early:?}");
    stream.shutdown().await.expect("closes");
    assert_eq!(within(stream.read(&mut [0])).await.expect("reads"), 0);
    let answer = second.await;
    assert!(answer.contains("x-mesh-error: unasked-upgrade"), "{answer}");
}
