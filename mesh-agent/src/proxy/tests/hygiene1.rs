//! Hostile HTTP/1.1, from clients and from endpoints: nothing that two servers could read in two ways gets through.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::fixture::{Node, eventually, server, snapshot, within};
use crate::proxy::Config;
use crate::proxy::config::Timeouts;
use crate::state::http_route::HttpRoute;
use crate::traffic::fixture::Fixture;
use crate::traffic::path::Mode;

/// Heads of requests, with what came of their bodies.
type Seen = Arc<Mutex<Vec<String>>>;

/// An endpoint that notes what it gets until `end`, and gives `answer`, on each connection as often as it is asked.
async fn endpoint(
    end: &'static str,
    answer: &'static str,
) -> (SocketAddr, JoinHandle<()>, Seen, Arc<AtomicUsize>) {
    let seen = Seen::default();
    let connections = Arc::new(AtomicUsize::new(0));
    let (notes, count) = (Arc::clone(&seen), Arc::clone(&connections));
    let (address, task) = server(move |mut stream| {
        let notes = Arc::clone(&notes);
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut bytes = Vec::new();
            while stream.read_buf(&mut bytes).await? > 0 {
                if bytes.ends_with(end.as_bytes()) {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    notes.lock().expect("no panic").push(text);
                    bytes.clear();
                    stream.write_all(answer.as_bytes()).await?;
                    if !answer.contains("ength: 2") {
                        return stream.shutdown().await;
                    }
                }
            }
            Ok(())
        }
    })
    .await;
    (address, task, seen, connections)
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Fields of requests that are refused.
const BAD_FIELDS: &[&str] = &[
    // Hosts.
    "",
    "Host: a\r\nHost: a\r\n",
    "Host: a\r\nhost: b\r\n",
    "Host:\r\n",
    "Host: a, b\r\n",
    "Host: a,b\r\n",
    "Host: me@a\r\n",
    "Host: a b\r\n",
    "Host: a:0\r\n",
    "Host: a:080\r\n",
    "Host: a:65536\r\n",
    "Host: a:b\r\n",
    "Host: a..b\r\n",
    "Host: a%00\r\n",
    "Host: http://a\r\n",
    "Host: a/\r\n",
    "Host : a\r\n",
    // Lengths.
    "Host: a\r\nContent-Length:\r\n",
    "Host: a\r\nContent-Length: +1\r\n",
    "Host: a\r\nContent-Length: -1\r\n",
    "Host: a\r\nContent-Length: 0x1\r\n",
    "Host: a\r\nContent-Length: 1, 1\r\n",
    "Host: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
    "Host: a\r\nContent-Length: 99999999999999999999\r\n",
    "Host: a\r\nContent-Length : 0\r\n",
    // Codings.
    "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n",
    "Host: a\r\nTransfer-Encoding: chunked, gzip\r\n",
    "Host: a\r\nTransfer-Encoding: identity\r\n",
    "Host: a\r\nTransfer-Encoding: identity, chunked\r\n",
    "Host: a\r\nTransfer-Encoding: ,chunked\r\n",
    "Host: a\r\nTransfer-Encoding: chunked,\r\n",
    "Host: a\r\nTransfer-Encoding: chunked;x\r\n",
    "Host: a\r\nTransfer-Encoding: \"chunked\"\r\n",
    "Host: a\r\nTransfer-Encoding: xchunked\r\n",
    "Host: a\r\nTransfer-Encoding:\r\n",
    "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    // Both.
    "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "Host: a\r\ntransfer-encoding: CHUNKED\r\ncontent-length: 0\r\n",
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: a\r\n",
    // Fields.
    "Host: a\r\nX: a\0b\r\n",
    "Host: a\r\nX: a\x01b\r\n",
    "Host: a\r\nX: a\x7fb\r\n",
    "Host: a\r\nX: a\rb\r\n",
    "Host: a\r\nX: a\r\n b\r\n",
    "Host: a\r\nX\0: b\r\n",
    "Host: a\r\n: b\r\n",
    "Host: a\r\nX\r\n",
    " Host: a\r\n",
];

/// Requests that are refused.
const BAD_REQUESTS: &[&str] = &[
    "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
    "GET http://me@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a/..%5cb HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a;b/c HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /%c0%ae%c0%ae/a HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a% HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT / HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT http://a:1/ HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 3\r\n\r\nabc",
];

#[tokio::test]
async fn no_ambiguous_request_reaches_an_endpoint() {
    let (address, _server, seen, _) = endpoint("\r\n\r\n", OK).await;
    let config = Config {
        path_normalization: Mode::Strict,
        ..Config::default()
    };
    let node = Node::start_with("http", &[address], config);
    for fields in BAD_FIELDS {
        let request = format!("POST / HTTP/1.1\r\n{fields}\r\n0\r\n\r\n");
        let answer = node.raw(&request).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 "),
            "{fields:?} gave {answer}"
        );
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            1,
            "{fields:?} gave {answer}"
        );
    }
    for request in BAD_REQUESTS {
        let answer = node.raw(request).await;
        let is_refused = answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.0 400 ");
        assert!(is_refused, "{request:?} gave {answer}");
    }
    assert_eq!(*seen.lock().expect("no panic"), [""; 0]);
    let refused = u64::try_from(BAD_FIELDS.len() + BAD_REQUESTS.len()).expect("few");
    node.metric(&["mesh_proxy_errors_total", "bad-request"], refused)
        .await;
}

#[tokio::test]
async fn a_request_that_is_framed_twice_ends_the_connection_in_the_middle_of_others() {
    for protocol in ["http", "auto"] {
        let (address, _server, seen, _) = endpoint("\r\n\r\n", OK).await;
        let node = Node::start(protocol, &[address]);
        let answer = node
        .raw(
            "GET /one HTTP/1.1\r\nHost: a\r\n\r\n\
             POST /two HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n\
             GET /three HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer}");
        assert!(
            answer.contains("HTTP/1.1 200") && answer.contains("HTTP/1.1 400"),
            "{answer}"
        );
        assert!(answer.contains("connection: close"), "{answer}");
        let seen = seen.lock().expect("no panic").concat();
        assert!(
            seen.contains("/one") && !seen.contains("/two") && !seen.contains("/three"),
            "{seen}"
        );
    }
}

#[tokio::test]
async fn the_endpoint_gets_the_path_that_was_judged() {
    let (address, _server, seen, _) = endpoint("\r\n\r\n", OK).await;
    let node = Node::start("http", &[address]);
    for (sent, expected) in [
        ("/a/b?c=/../%2f;//", "/a/b?c=/../%2f;//"),
        ("//x/../a/./%62?c", "/a/b?c"),
        ("/x\\..\\a/b", "/a/b"),
        ("/%2e%2e/a/b", "/a/b"),
        ("http://a//a//b", "/a/b"),
        ("http://a", "/"),
        ("/%c3%a9", "/%C3%A9"),
        // What comes behind # is no part of a target; hyper takes it off.
        ("/a/b#/../../x", "/a/b"),
    ] {
        let request = format!("GET {sent} HTTP/1.1\r\nHost: A.:80\r\nConnection: close\r\n\r\n");
        let answer = node.raw(&request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{sent}: {answer}");
        let got = seen.lock().expect("no panic").pop().expect("a request");
        assert!(
            got.starts_with(&format!("GET {expected} HTTP/1.1\r\n")),
            "{sent}: {got}"
        );
        let host = if sent.starts_with("http:") {
            "a"
        } else {
            "a:80"
        };
        assert!(got.contains(&format!("host: {host}\r\n")), "{sent}: {got}");
    }
    let answer = node
        .raw("OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_path_that_servers_read_in_two_ways_is_refused_where_rules_tell_paths_apart() {
    let (address, _server, _, _) = endpoint("\r\n\r\n", OK).await;
    let node = Node::start("http", &[address]);
    let routed = |path: &str| {
        let spec = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [{"matches": [{"path": {"value": path}}], "backendRefs": [{"name": "web", "port": 80}]}]});
        Fixture::from(snapshot("http", &[address])).object::<HttpRoute>("r", &spec)
    };
    let status = async |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        node.raw(&request).await.get(9..12).map(str::to_owned)
    };
    let ambiguous = ["/a;b/c", "/a%2fb", "/a/..%5cb"];
    for path in ambiguous {
        assert_eq!(status(path).await.as_deref(), Some("200"), "{path}");
    }
    node.change(routed("/").snapshot());
    for path in ambiguous {
        assert_eq!(status(path).await.as_deref(), Some("200"), "{path}");
    }
    node.change(routed("/a").snapshot());
    for path in ambiguous {
        assert_eq!(status(path).await.as_deref(), Some("400"), "{path}");
    }
    assert_eq!(status("//a/b").await.as_deref(), Some("200"));
}

#[tokio::test]
async fn normalization_can_be_switched_off() {
    let (address, _server, seen, _) = endpoint("\r\n\r\n", OK).await;
    let config = Config {
        path_normalization: Mode::Off,
        ..Config::default()
    };
    let node = Node::start_with("http", &[address], config);
    let answer = node
        .raw("GET //a/../b;c%2Fd%00 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let got = seen.lock().expect("no panic").concat();
    assert!(
        got.starts_with("GET //a/../b;c%2Fd%00 HTTP/1.1\r\n"),
        "{got}"
    );
}

#[tokio::test]
async fn bodies_are_framed_anew_and_their_trailers_are_clean() {
    let (address, _server, seen, _) = endpoint("x-sum: 9\r\n\r\n", OK).await;
    let node = Node::start("http", &[address]);
    let answer = node
        .raw(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: Chunked\r\n\
             Trailer: x-sum, x-forwarded-for, content-length\r\n\r\n\
             3;ext=1\r\nabc\r\n0\r\nX-Sum: 9\r\nX-Forwarded-For: 6.6.6.6\r\nContent-Length: 4\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let got = seen.lock().expect("no panic").concat();
    assert!(got.contains("transfer-encoding: chunked\r\n"), "{got}");
    assert!(
        got.ends_with("\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 9\r\n\r\n"),
        "{got}"
    );
}

#[tokio::test]
async fn a_response_that_can_be_read_in_two_ways_is_an_error() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 5\r\n\r\nabcde",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nabcde",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nabcde",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
    ] {
        let (address, _server, _, _) = endpoint("\r\n\r\n", answer).await;
        let node = Node::start("http", &[address]);
        let got = node
            .raw("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await;
        assert!(got.starts_with("HTTP/1.1 502 "), "{answer:?} gave {got}");
        let is_told =
            got.contains("x-mesh-error: bad-response") || got.contains("x-mesh-error: upstream");
        assert!(is_told, "{answer:?} gave {got}");
    }
}

#[tokio::test]
async fn a_body_that_an_endpoint_breaks_off_does_not_look_whole() {
    for (answer, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "abc"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "3\r\nabc\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
            "3\r\nabc\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
            "3\r\nabc\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
            "3\r\nabc\r\n",
        ),
    ] {
        let (address, _server, _, _) = endpoint("\r\n\r\n", answer).await;
        let node = Node::start("http", &[address]);
        let got = node.raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(got.starts_with("HTTP/1.1 200 "), "{answer:?} gave {got}");
        assert!(
            got.ends_with(&format!("\r\n\r\n{body}")),
            "{answer:?} gave {got}"
        );
        node.metric(&["istio_requests_total", r#"response_flags="UC""#], 1)
            .await;
    }
}

/// Reads until `end` has come.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        text.push(within(stream.read_u8()).await.expect("reads"));
    }
    String::from_utf8(text).expect("text")
}

#[tokio::test]
async fn a_connection_that_was_asked_to_switch_serves_nobody_else() {
    let (address, _server, seen, connections) = endpoint("\r\n\r\n", OK).await;
    let node = Node::start("http", &[address]);
    let mut stream = node.connect().await;
    for (request, expected) in [
        ("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        // Answered with 200: who knows what the endpoint makes of the next bytes.
        (
            "GET /3 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            1,
        ),
        ("GET /4 HTTP/1.1\r\nHost: a\r\n\r\n", 2),
        ("GET /5 HTTP/1.1\r\nHost: a\r\n\r\n", 2),
    ] {
        stream.write_all(request.as_bytes()).await.expect("writes");
        read_until(&mut stream, "ok").await;
        assert_eq!(connections.load(Ordering::Relaxed), expected, "{request}");
    }
    assert_eq!(seen.lock().expect("no panic").len(), 5);
}

#[tokio::test]
async fn an_answer_to_a_connect_has_no_length() {
    let (address, _server, _, connections) = endpoint("\r\n\r\n", OK).await;
    let node = Node::start("http", &[address]);
    for round in 1..3 {
        let mut stream = node.connect().await;
        stream
            .write_all(b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n")
            .await
            .expect("writes");
        let answer = read_until(&mut stream, "ok").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(!answer.contains("content-length"), "{answer}");
        assert_eq!(connections.load(Ordering::Relaxed), round);
    }
}

#[tokio::test]
async fn an_upload_that_a_client_breaks_off_does_not_look_whole_and_is_its_own_fault() {
    let seen = Seen::default();
    let notes = Arc::clone(&seen);
    let (address, _server) = server(move |mut stream| {
        let notes = Arc::clone(&notes);
        async move {
            let mut bytes = Vec::new();
            let result = stream.read_to_end(&mut bytes).await;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            notes.lock().expect("no panic").push(text);
            result.map(|_| ())
        }
    })
    .await;
    let node = Node::start("http", &[address]);
    let chunks = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let mut stream = node.connect().await;
    stream.write_all(chunks.as_bytes()).await.expect("writes");
    node.metric(&["mesh_proxy_pool_dialled_total"], 1).await;
    stream.shutdown().await.expect("closes");
    eventually("the end", || !seen.lock().expect("no panic").is_empty()).await;
    let upload = seen.lock().expect("no panic").concat();
    assert!(!upload.contains("\r\n0\r\n"), "{upload}");
    let mut stream = node.connect().await;
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        .await
        .expect("writes");
    node.metric(&["mesh_proxy_pool_dialled_total"], 2).await;
    stream.shutdown().await.expect("closes");
    node.metric(&["istio_requests_total", r#"response_flags="DC""#], 2)
        .await;
    assert_eq!(
        node.metric(&["istio_requests_total", r#"response_flags="UC""#], 0)
            .await,
        0
    );
}

/// An endpoint that says `interim` at once, and answers when `go` says so.
pub(super) async fn hinting(interim: &'static str) -> (SocketAddr, JoinHandle<()>, Arc<Notify>) {
    let go = Arc::new(Notify::new());
    let told = Arc::clone(&go);
    let (address, task) = server(move |mut stream| {
        let told = Arc::clone(&told);
        async move {
            let mut bytes = Vec::new();
            while stream.read_buf(&mut bytes).await? > 0 {
                if bytes.ends_with(b"\r\n\r\n") {
                    bytes.clear();
                    stream.write_all(interim.as_bytes()).await?;
                    told.notified().await;
                    stream.write_all(OK.as_bytes()).await?;
                }
            }
            Ok(())
        }
    })
    .await;
    (address, task, go)
}

#[tokio::test]
async fn hints_reach_a_client_of_http_1_1_before_the_answer() {
    let hint = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-y\r\nX-Y: 1\r\nContent-Length: 7\r\n\r\n";
    let (address, _server, go) = hinting(hint).await;
    let node = Node::start("http", &[address]);
    let mut stream = node.connect().await;
    for _ in 0..3 {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .expect("writes");
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert_eq!(head, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        go.notify_one();
        let answer = read_until(&mut stream, "ok").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    // What comes together goes in order, also to a client that sends its requests at once.
    go.notify_one();
    let twice = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2);
    stream.write_all(twice.as_bytes()).await.expect("writes");
    for round in 0..2 {
        let answer = read_until(&mut stream, "ok").await;
        let hints = answer.matches("HTTP/1.1 103 ").count();
        assert!(
            answer.starts_with("HTTP/1.1 103 ") && hints == 1,
            "{round}: {answer}"
        );
        assert_eq!(
            answer.matches("HTTP/1.1 200 ").count(),
            1,
            "{round}: {answer}"
        );
        go.notify_one();
    }
    let old = async {
        let answer = node.raw("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        assert!(
            answer.contains(" 200 ") && !answer.contains("103"),
            "{answer}"
        );
    };
    go.notify_one();
    old.await;
}

#[tokio::test]
async fn hints_of_an_endpoint_that_was_given_up_are_dropped() {
    let (address, _server, _go) = hinting("HTTP/1.1 103 Early Hints\r\n\r\n").await;
    let config = Config {
        timeouts: Timeouts {
            response: Duration::from_millis(500),
            ..Timeouts::default()
        },
        ..Config::default()
    };
    let node = Node::start_with("http", &[address], config);
    let answer = node
        .raw("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer}");
    assert!(
        answer.starts_with("HTTP/1.1 103 ") && answer.contains("HTTP/1.1 504 "),
        "{answer}"
    );
}

async fn limited(timeouts: Timeouts) -> (Node, JoinHandle<()>) {
    let (address, server) = server(async |mut stream: TcpStream| -> io::Result<()> {
        let mut bytes = Vec::new();
        loop {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            if bytes.ends_with(b"\r\n\r\n") && bytes.starts_with(b"GET") {
                bytes.clear();
                stream.write_all(OK.as_bytes()).await?;
            }
        }
    })
    .await;
    let config = Config {
        timeouts,
        ..Config::default()
    };
    (Node::start_with("http", &[address], config), server)
}

#[tokio::test]
async fn a_body_that_falls_silent_is_given_up() {
    let timeouts = Timeouts {
        body: Duration::from_millis(100),
        ..Timeouts::default()
    };
    let (node, _server) = limited(timeouts).await;
    let answer = node
        .raw("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 10\r\n\r\nabc")
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("x-mesh-error: silent-body"),
        "{answer}"
    );
    node.metric(&["mesh_proxy_errors_total", "silent-body"], 1)
        .await;
}

#[tokio::test]
async fn silent_and_dripping_clients_are_closed() {
    let timeouts = Timeouts {
        first_byte: Duration::from_millis(500),
        header: Duration::from_millis(500),
        ..Timeouts::default()
    };
    let (node, _server) = limited(timeouts).await;
    let (mut silent, mut dripping) = (node.connect().await, node.connect().await);
    dripping.write_all(b"GET / HT").await.expect("writes");
    assert_eq!(within(silent.read(&mut [0])).await.expect("an end"), 0);
    assert_eq!(within(dripping.read(&mut [0])).await.expect("an end"), 0);
}

#[tokio::test]
async fn an_old_connection_is_told_so_with_a_response() {
    let timeouts = Timeouts {
        max_age: Duration::from_millis(100),
        ..Timeouts::default()
    };
    let (node, _server) = limited(timeouts).await;
    let mut stream = node.connect().await;
    let mut told = String::new();
    for _ in 0..1000 {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .expect("writes");
        told = read_until(&mut stream, "ok").await;
        if told.contains("connection: close") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(told.contains("connection: close"), "{told}");
    assert_eq!(within(stream.read(&mut [0])).await.expect("an end"), 0);
}
