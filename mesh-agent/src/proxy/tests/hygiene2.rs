//! Hostile HTTP/2, frame by frame, from clients and from endpoints.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::fixture::{Node, http1_server, http2_client, kernel_room, server, text, within};
use crate::proxy::Config;
use crate::proxy::config::Timeouts;
use crate::traffic::path::Mode;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header block of literals that are not indexed: RFC 7541, 6.2.2.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(
                u8::try_from(text.len())
                    .ok()
                    .filter(|length| *length < 127)
                    .expect("short"),
            );
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn request<'f>(more: &[(&'f str, &'f str)]) -> Vec<u8> {
    let pseudo = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "web"),
        (":path", "/"),
    ];
    let pseudo = pseudo
        .into_iter()
        .filter(|(name, _)| !more.iter().any(|(other, _)| other == name));
    let (first, last): (Vec<_>, Vec<_>) = more
        .iter()
        .copied()
        .partition(|(name, _)| name.starts_with(':'));
    let all: Vec<_> = pseudo
        .chain(first)
        .chain(last)
        .filter(|(_, value)| *value != "absent")
        .collect();
    block(&all)
}

/// One peer of a connection of raw frames.
struct Raw(TcpStream);

impl Raw {
    async fn connect(node: &Node) -> Self {
        let mut stream = node.connect().await;
        let hello = [
            PREFACE,
            &frame(SETTINGS, 0, 0, &[]),
            &frame(SETTINGS, ACK, 0, &[]),
        ]
        .concat();
        stream.write_all(&hello).await.expect("writes");
        Self(stream)
    }

    /// The other may have closed: what came of it is read.
    async fn send(&mut self, frames: &[u8]) -> bool {
        within(self.0.write_all(frames)).await.is_ok()
    }

    /// The next frame: kind, flags, stream, payload.
    async fn receive(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        within(self.0.read_exact(&mut head)).await.ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        within(self.0.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    /// What becomes of stream 1: its status, or how it or the connection ended.
    async fn outcome(&mut self) -> String {
        while let Some((kind, _, stream, payload)) = self.receive().await {
            match (kind, stream) {
                (HEADERS, 1) => return status(&payload),
                (RST_STREAM, 1) => return format!("reset {}", payload[3]),
                (GOAWAY, _) => return format!("goaway {}", payload[7]),
                _ => {}
            }
        }
        "closed".to_owned()
    }

    /// The code of the GOAWAY or nothing, once the connection is closed.
    async fn end(&mut self) -> Option<u8> {
        let mut code = None;
        while let Some((kind, _, _, payload)) = self.receive().await {
            if kind == GOAWAY {
                code = Some(payload[7]);
            }
        }
        code
    }
}

/// The status at the begin of a block that h2 has made.
fn status(block: &[u8]) -> String {
    // RFC 7541, appendix A.
    match block {
        [0x88, ..] => "200".to_owned(),
        [0x8c, ..] => "400".to_owned(),
        // Literal, indexed by name 8, three digits in Huffman code or plain.
        [0x48, 0x03, digits @ ..] => String::from_utf8_lossy(&digits[..3]).into_owned(),
        other => format!("status {:x?}", &other[..other.len().min(6)]),
    }
}

/// Says what a request was: its target, fields and trailers.
async fn tell(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let fields = request.headers().iter();
    let fields: Vec<_> = fields
        .map(|(name, value)| format!("{name}: {value:?}\n"))
        .collect();
    let head = format!(
        "{} {}\n{}",
        request.method(),
        request.uri(),
        fields.concat()
    );
    let body = request.into_body().collect().await;
    let trailers = body.ok().and_then(|body| body.trailers().cloned());
    let seen = format!("{head}trailers {trailers:?}");
    Ok(text(seen))
}

async fn echo() -> (SocketAddr, JoinHandle<()>) {
    server(|stream| async {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service_fn(tell))
            .await
            .map_err(io::Error::other)
    })
    .await
}

type Case = (&'static [(&'static str, &'static str)], &'static str);

/// Fields of requests, and what becomes of the stream.
const MALFORMED: &[Case] = &[
    (&[("x", "y")], "200"),
    (&[("x", " y")], "400"),
    (&[("x", "y ")], "400"),
    (&[("x", "\ty")], "400"),
    (&[("x", "a\0b")], "reset 1"),
    (&[("x", "a\nb")], "reset 1"),
    (&[("x", "a\rb")], "reset 1"),
    (&[("X", "y")], "reset 1"),
    (&[("x y", "z")], "reset 1"),
    (&[("", "z")], "reset 1"),
    (&[("connection", "close")], "reset 1"),
    (&[("transfer-encoding", "chunked")], "reset 1"),
    (&[("upgrade", "x")], "reset 1"),
    (&[("te", "gzip")], "reset 1"),
    (&[("host", "other")], "400"),
    (&[("host", "web"), ("host", "web")], "400"),
    (&[("host", "WEB:80")], "200"),
    (&[(":authority", "me@web")], "400"),
    (&[(":authority", "a,b")], "400"),
    (&[(":authority", "web:080")], "400"),
    (&[(":authority", "")], "reset 1"),
    (&[(":authority", "absent"), ("host", "a b")], "400"),
    (&[(":path", "")], "reset 1"),
    (&[(":path", "a")], "reset 1"),
    (&[(":path", "*")], "400"),
    (&[(":path", "/a%2fb")], "400"),
    (&[(":path", "/a/..;/b")], "400"),
    (&[(":path", "/a b")], "reset 1"),
    (&[(":path", "absent")], "reset 1"),
    (&[(":scheme", "ftp")], "400"),
    (&[(":scheme", "absent")], "reset 1"),
    (&[(":method", "absent")], "reset 1"),
    (&[(":status", "200")], "reset 1"),
    (&[(":unknown", "1")], "reset 1"),
    (
        &[
            (":method", "CONNECT"),
            (":scheme", "absent"),
            (":path", "absent"),
            (":authority", "absent"),
        ],
        "400",
    ),
    (
        &[
            (":method", "CONNECT"),
            (":scheme", "absent"),
            (":path", "absent"),
            (":authority", "web"),
        ],
        "400",
    ),
    (
        &[(":method", "CONNECT"), (":protocol", "websocket")],
        "reset 1",
    ),
    // There is no body.
    (&[("content-length", "5")], "reset 1"),
    (&[("content-length", "+0")], "reset 1"),
    (&[("content-length", "")], "400"),
    (
        &[("content-length", "0"), ("content-length", "5")],
        "reset 1",
    ),
];

#[tokio::test]
async fn malformed_requests_reach_no_endpoint() {
    let (address, _server) = echo().await;
    let node = Node::start_with(
        "http2",
        &[address],
        Config {
            path_normalization: Mode::Strict,
            ..Config::default()
        },
    );
    let mut surprises = Vec::new();
    for (fields, expected) in MALFORMED {
        let mut raw = Raw::connect(&node).await;
        raw.send(&frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            1,
            &request(fields),
        ))
        .await;
        let outcome = raw.outcome().await;
        // A connection error is as good as one of the stream.
        let is_reset = expected.starts_with("reset") && outcome.starts_with("goaway");
        if outcome != *expected && !is_reset {
            surprises.push(format!("{fields:?} gave {outcome}, not {expected}"));
        }
    }
    assert_eq!(surprises, [""; 0]);
}

#[tokio::test]
async fn a_body_that_differs_from_its_length_is_refused() {
    let (address, _server) = echo().await;
    let node = Node::start("http2", &[address]);
    for (length, body) in [("5", "abc"), ("1", "abc"), ("0", "abc")] {
        let mut raw = Raw::connect(&node).await;
        let head = frame(
            HEADERS,
            END_HEADERS,
            1,
            &request(&[("content-length", length)]),
        );
        raw.send(&[head, frame(DATA, END_STREAM, 1, body.as_bytes())].concat())
            .await;
        let outcome = raw.outcome().await;
        assert!(outcome.starts_with("reset 1"), "{length} gave {outcome}");
    }
}

#[tokio::test]
async fn trailers_reach_the_endpoint_without_what_has_no_place_there() {
    let (address, _server) = echo().await;
    let node = Node::start("http2", &[address]);
    let mut raw = Raw::connect(&node).await;
    let trailers = [
        (":path", "/admin"),
        (":status", "200"),
        ("x-sum", "9"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x_real_ip", "6.6.6.6"),
        ("host", "evil"),
        ("content-length", "7"),
        ("x-blank", " 1"),
    ];
    let frames = [
        frame(HEADERS, END_HEADERS, 1, &request(&[])),
        frame(DATA, 0, 1, b"abc"),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&trailers)),
    ];
    raw.send(&frames.concat()).await;
    let mut seen = Vec::new();
    while let Some((kind, flags, stream, payload)) = raw.receive().await {
        assert!(kind != RST_STREAM && kind != GOAWAY, "{payload:?}");
        if kind == DATA && stream == 1 {
            seen.extend(payload);
            if flags & END_STREAM != 0 {
                break;
            }
        }
    }
    let seen = String::from_utf8(seen).expect("text");
    assert!(
        seen.ends_with(r#"trailers Some({"x-sum": "9", "x-blank": "1"})"#),
        "{seen}"
    );
    assert!(seen.starts_with("POST http://web/\n"), "{seen}");
}

/// Sends `flood(n)` for n = 0, 1, .. until the proxy has had enough; tells when that was.
async fn flood(
    node: &Node,
    opening: &[u8],
    limit: u32,
    flood: impl Fn(u32) -> Vec<u8>,
) -> (u32, Option<u8>) {
    let mut raw = Raw::connect(node).await;
    raw.send(opening).await;
    let mut count = 0;
    while count < limit {
        let batch: Vec<u8> = (count..count + 50).flat_map(&flood).collect();
        if !raw.send(&batch).await {
            break;
        }
        count += 50;
        tokio::task::yield_now().await;
    }
    (count, raw.end().await)
}

#[tokio::test]
async fn floods_of_frames_end_the_connection_and_nobody_elses() {
    let (address, _server) = echo().await;
    let node = Node::start("http2", &[address]);
    let head = |stream, flags, more: &[(&str, &str)]| frame(HEADERS, flags, stream, &request(more));
    let open = head(1, END_HEADERS, &[]);

    // Rapid reset (CVE-2023-44487): max_pending_accept_reset_streams.
    let (_, code) = flood(&node, &[], 20_000, |number| {
        let stream = 2 * number + 1;
        let cancel = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        [head(stream, END_HEADERS | END_STREAM, &[]), cancel].concat()
    })
    .await;
    assert_eq!(code, Some(11));

    // Made you reset (CVE-2025-8671): max_local_error_reset_streams.
    let (_, code) = flood(&node, &[], 20_000, |number| {
        let stream = 2 * number + 1;
        let zero = frame(WINDOW_UPDATE, 0, stream, &[0; 4]);
        [head(stream, END_HEADERS | END_STREAM, &[]), zero].concat()
    })
    .await;
    assert!(code.is_some_and(|code| code == 1 || code == 11), "{code:?}");

    // CONTINUATION (CVE-2024-27316): bounded by max_header_list_size.
    for piece in [
        &[][..],
        &block(&[("x-y", "z")]),
        &block(&[(
            "x",
            "123456789012345678901234567890123456789012345678901234567890",
        )]),
    ] {
        let begin = head(1, 0, &[]);
        let (_, code) = flood(&node, &begin, 20_000, |_| frame(CONTINUATION, 0, 1, piece)).await;
        assert!(code.is_some(), "{piece:?}");
    }

    // Empty DATA (RUSTSEC-2026-0258): h2's own bound.
    let (_, code) = flood(&node, &open, 20_000, |_| frame(DATA, 0, 1, &[])).await;
    assert_eq!(code, Some(11));

    // Fields that are named in two bytes and stored in many: max_header_list_size.
    let indexed: Vec<u8> = [
        &request(&[])[..],
        &[0x40, 1, b'x', 100],
        &[b'y'; 100],
        &[0xbe; 4_000],
    ]
    .concat();
    let mut raw = Raw::connect(&node).await;
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &indexed))
        .await;
    let outcome = raw.outcome().await;
    assert!(
        outcome == "431"
            || outcome.starts_with("reset")
            || outcome.starts_with("goaway")
            || outcome.starts_with("status"),
        "{outcome}"
    );

    let mut client = http2_client(&node).await;
    assert_eq!(ask(&mut client).await.expect("answers"), StatusCode::OK);
    node.metric(&["mesh_proxy_errors_total", "protocol-violation"], 5)
        .await;
}

#[tokio::test]
async fn empty_frames_that_a_client_does_not_take_are_not_stored() {
    let head = frame(HEADERS, END_HEADERS, 1, &block(&[(":status", "200")]));
    let flood = frame(DATA, 0, 1, &[]).repeat(50);
    let (address, _server, cut) = hostile(head, flood).await;
    let node = Node::start("http2", &[address]);
    let mut client = http2_client(&node).await;
    let request = Request::get("http://web/").body(Full::default());
    let response = client.send_request(request.expect("a request"));
    // Its head may be overtaken by what comes of the flood.
    let _unread = within(response).await;
    super::fixture::eventually("the end", || cut.lock().expect("no panic").contains(&true)).await;
}

/// The status of a whole response.
async fn ask(client: &mut SendRequest<Full<Bytes>>) -> Result<StatusCode, hyper::Error> {
    let request = Request::get("http://web/")
        .body(Full::default())
        .expect("a request");
    let response = within(client.send_request(request)).await?;
    let status = response.status();
    within(response.into_body().collect()).await?;
    Ok(status)
}

/// An endpoint of raw frames: it greets, waits for the first request, and sends `answer` and then `flood` until it is cut.
async fn hostile(
    answer: Vec<u8>,
    flood: Vec<u8>,
) -> (SocketAddr, JoinHandle<()>, Arc<Mutex<Vec<bool>>>) {
    let cut = Arc::new(Mutex::new(Vec::new()));
    let ends = Arc::clone(&cut);
    let (address, task) = server(move |mut stream| {
        let (answer, flood) = (answer.clone(), flood.clone());
        let ends = Arc::clone(&ends);
        async move {
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await?;
            stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
            stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await?;
            let mut raw = Raw(stream);
            while let Some((kind, ..)) = raw.receive().await {
                if kind == HEADERS {
                    break;
                }
            }
            raw.send(&answer).await;
            let mut is_cut = flood.is_empty();
            for _ in 0..20_000 {
                if is_cut || !raw.send(&flood).await {
                    is_cut = true;
                    break;
                }
            }
            ends.lock().expect("no panic").push(is_cut);
            raw.end().await;
            Ok(())
        }
    })
    .await;
    (address, task, cut)
}

#[tokio::test]
async fn an_endpoint_that_floods_is_cut_off() {
    let ok = block(&[(":status", "200")]);
    let open = frame(HEADERS, END_HEADERS, 1, &ok);
    let begin = frame(HEADERS, 0, 1, &ok);
    let repeat = |frame: Vec<u8>| frame.repeat(50);
    for (what, answer, flood) in [
        (
            "continuation",
            begin.clone(),
            repeat(frame(CONTINUATION, 0, 1, &[])),
        ),
        (
            "fields",
            begin,
            repeat(frame(CONTINUATION, 0, 1, &block(&[("x-y", "z")]))),
        ),
        (
            "push",
            open.clone(),
            repeat(frame(
                PUSH_PROMISE,
                END_HEADERS,
                1,
                &[&[0, 0, 0, 2][..], &request(&[])].concat(),
            )),
        ),
        (
            "idle streams",
            open,
            repeat(frame(WINDOW_UPDATE, 0, 99, &[0, 0, 0, 1])),
        ),
    ] {
        let (address, _server, cut) = hostile(answer, flood).await;
        let node = Node::start("http2", &[address]);
        let mut client = http2_client(&node).await;
        let result = ask(&mut client).await;
        assert!(!matches!(result, Ok(StatusCode::OK)), "{what}: {result:?}");
        super::fixture::eventually(what, || cut.lock().expect("no panic").contains(&true)).await;
    }
}

#[tokio::test]
async fn a_body_that_an_endpoint_breaks_off_does_not_look_whole() {
    let head = |fields: &[(&str, &str)]| {
        let all = [&[(":status", "200")], fields].concat();
        frame(HEADERS, END_HEADERS, 1, &block(&all))
    };
    let data = |flags| frame(DATA, flags, 1, b"abc");
    let reset = |code| frame(RST_STREAM, 0, 1, &[0, 0, 0, code]);
    let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 2]);
    for (what, answer) in [
        ("reset", [head(&[]), data(0), reset(8)].concat()),
        (
            "reset without error",
            [head(&[]), data(0), reset(0)].concat(),
        ),
        ("goaway", [head(&[]), data(0), goaway].concat()),
        (
            "short",
            [head(&[("content-length", "10")]), data(END_STREAM)].concat(),
        ),
        (
            "long",
            [head(&[("content-length", "1")]), data(END_STREAM)].concat(),
        ),
    ] {
        let (address, _server, _) = hostile(answer, Vec::new()).await;
        let node = Node::start("http2", &[address]);
        let mut client = http2_client(&node).await;
        let result = ask(&mut client).await;
        assert!(!matches!(result, Ok(StatusCode::OK)), "{what}: {result:?}");
    }
}

/// What a client of HTTP/1.1 reads of an answer that an endpoint of HTTP/2 breaks off.
#[tokio::test]
async fn a_body_that_an_endpoint_of_http2_breaks_off_does_not_look_whole_in_http1() {
    let head = |fields: &[(&str, &str)]| {
        let all = [&[(":status", "200")], fields].concat();
        frame(HEADERS, END_HEADERS, 1, &block(&all))
    };
    let data = frame(DATA, 0, 1, b"abc");
    let reset = |code| frame(RST_STREAM, 0, 1, &[0, 0, 0, code]);
    for (what, answer) in [
        ("reset", [head(&[]), data.clone(), reset(8)].concat()),
        (
            "reset without error",
            [head(&[]), data.clone(), reset(0)].concat(),
        ),
        (
            "short",
            [
                head(&[("content-length", "10")]),
                frame(DATA, END_STREAM, 1, b"abc"),
            ]
            .concat(),
        ),
    ] {
        let (address, _server, _) = hostile(answer, Vec::new()).await;
        let node = Node::start("http2", &[address]);
        let got = node.raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        // What hyper has not sent when a body breaks off is lost with it.
        assert!(
            got.is_empty() || got.starts_with("HTTP/1.1 200 "),
            "{what} gave {got}"
        );
        let counted = ["mesh_proxy_errors_total", r#"reason="upstream""#];
        node.metric(&counted, 1).await;
        let is_whole = got.ends_with("0\r\n\r\n") || got.contains("content-length: 3\r\n");
        assert!(!is_whole, "{what} gave {got}");
    }
}

/// What a client of HTTP/2 reads of an answer that an endpoint of HTTP/1.1 breaks off.
#[tokio::test]
async fn a_body_that_an_endpoint_of_http1_breaks_off_does_not_look_whole_in_http2() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    ] {
        let (address, _server) = server(move |mut stream| async move {
            stream.read_buf(&mut Vec::with_capacity(4096)).await?;
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await
        })
        .await;
        let node = Node::start("http", &[address]);
        let mut client = http2_client(&node).await;
        let result = ask(&mut client).await;
        assert!(
            !matches!(result, Ok(StatusCode::OK)),
            "{answer:?}: {result:?}"
        );
        let counted = ["mesh_proxy_errors_total", r#"reason="upstream""#];
        node.metric(&counted, 1).await;
    }
}

#[tokio::test]
async fn an_upload_that_a_client_breaks_off_does_not_look_whole() {
    for code in [0, 8] {
        let ends = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&ends);
        let begun = Arc::new(Notify::new());
        let begins = Arc::clone(&begun);
        let (address, _server) = server(move |mut stream| {
            let (notes, begun) = (Arc::clone(&notes), Arc::clone(&begins));
            async move {
                stream.read_exact(&mut [0; 24]).await?;
                let hello = [frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])];
                stream.write_all(&hello.concat()).await?;
                let mut raw = Raw(stream);
                while let Some((kind, flags, stream, _)) = raw.receive().await {
                    let is_whole = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
                    if stream == 1 && kind == DATA {
                        begun.notify_one();
                    }
                    if stream == 1 && (is_whole || kind == RST_STREAM) {
                        notes.lock().expect("no panic").push(is_whole);
                    }
                }
                Ok(())
            }
        })
        .await;
        let node = Node::start("http2", &[address]);
        let mut raw = Raw::connect(&node).await;
        let head = frame(HEADERS, END_HEADERS, 1, &request(&[]));
        raw.send(&[head, frame(DATA, 0, 1, b"abc")].concat()).await;
        within(begun.notified()).await;
        raw.send(&frame(RST_STREAM, 0, 1, &[0, 0, 0, code])).await;
        super::fixture::eventually("the end", || !ends.lock().expect("no panic").is_empty()).await;
        assert_eq!(*ends.lock().expect("no panic"), [false], "{code}");
    }
}

#[tokio::test]
async fn what_an_endpoint_that_goes_has_not_looked_at_goes_elsewhere() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let (address, _server) = server(move |mut stream| {
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            stream.read_exact(&mut [0; 24]).await?;
            let hello = [frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])];
            stream.write_all(&hello.concat()).await?;
            let mut raw = Raw(stream);
            while let Some((kind, ..)) = raw.receive().await {
                if kind == HEADERS && is_first {
                    // The last stream that was looked at is none, and there is no error.
                    raw.send(&frame(GOAWAY, 0, 0, &[0; 8])).await;
                } else if kind == HEADERS {
                    let ok = block(&[(":status", "200")]);
                    let flags = END_HEADERS | END_STREAM;
                    raw.send(&frame(HEADERS, flags, 1, &ok)).await;
                }
            }
            Ok(())
        }
    })
    .await;
    let node = Node::start("http2", &[address]);
    let mut raw = Raw::connect(&node).await;
    let post = frame(HEADERS, END_HEADERS | END_STREAM, 1, &request(&[]));
    raw.send(&post).await;
    assert_eq!(raw.outcome().await, "200");
    assert_eq!(connections.load(Ordering::Relaxed), 2);
    node.metric(&["mesh_proxy_retries_total"], 1).await;
    let plain = ["istio_requests_total", r#"response_flags="-""#];
    node.metric(&plain, 1).await;
}

#[tokio::test]
async fn an_answer_whose_end_comes_late_is_whole_when_its_bytes_are() {
    let (address, _server) = server(|mut stream| async move {
        stream.read_exact(&mut [0; 24]).await?;
        let hello = [frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])];
        stream.write_all(&hello.concat()).await?;
        let mut raw = Raw(stream);
        while let Some((kind, ..)) = raw.receive().await {
            if kind == HEADERS {
                let ok = block(&[(":status", "200"), ("content-length", "2")]);
                let head = frame(HEADERS, END_HEADERS, 1, &ok);
                // The end of the stream never comes.
                raw.send(&[head, frame(DATA, 0, 1, b"ok")].concat()).await;
            }
        }
        Ok(())
    })
    .await;
    let node = Node::start("http2", &[address]);
    let answer = node
        .raw("GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    let counted = [
        "istio_requests_total",
        r#"response_code="200""#,
        r#"response_flags="-""#,
    ];
    assert_eq!(node.metric(&counted, 1).await, 1);
}

#[tokio::test]
async fn white_space_in_a_response_is_an_error() {
    let fields = block(&[(":status", "200"), ("x", " y")]);
    let answer = frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields);
    let (address, _server, _) = hostile(answer, Vec::new()).await;
    let node = Node::start("http2", &[address]);
    let status = ask(&mut http2_client(&node).await).await;
    assert_eq!(status.expect("answers"), StatusCode::BAD_GATEWAY);
    node.metric(&["mesh_proxy_errors_total", "bad-response"], 1)
        .await;
}

#[tokio::test]
async fn white_space_around_a_message_of_grpc_is_cut_off() {
    let failed = [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "5"),
        ("grpc-message", "not found: "),
    ];
    let at_once = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&failed));
    let [status, kind, code, message] = failed;
    let head = frame(HEADERS, END_HEADERS, 1, &block(&[status, kind]));
    let trailers = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &block(&[code, message]),
    );
    for answer in [at_once, [head, trailers].concat()] {
        let (address, _server, _) = hostile(answer, Vec::new()).await;
        let node = Node::start("grpc", &[address]);
        let request = Request::post("http://web/a.B/C").header("content-type", "application/grpc");
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        let mut client = http2_client(&node).await;
        let response = within(client.send_request(request)).await.expect("answers");
        let (head, body) = response.into_parts();
        let body = within(body.collect()).await.expect("ends");
        let fields = body.trailers().unwrap_or(&head.headers);
        assert_eq!(fields["grpc-status"], "5");
        assert_eq!(fields["grpc-message"], "not found:");
    }
}

fn hasty() -> Config {
    let timeouts = Timeouts {
        first_byte: Duration::from_millis(500),
        header: Duration::from_millis(500),
        ..Timeouts::default()
    };
    Config {
        timeouts,
        ..Config::default()
    }
}

#[tokio::test]
async fn blocks_that_do_not_end_are_closed() {
    let (address, _server) = echo().await;
    let node = Node::start_with("http2", &[address], hasty());
    let mut unfinished = Raw::connect(&node).await;
    unfinished.send(&frame(HEADERS, 0, 1, &request(&[]))).await;
    let mut cut = Raw::connect(&node).await;
    let head = frame(HEADERS, END_HEADERS, 1, &request(&[]));
    cut.send(&head[..head.len() - 1]).await;
    let mut preface = Raw(node.connect().await);
    preface.send(&PREFACE[..10]).await;
    let mut silent = Raw(node.connect().await);
    for raw in [&mut unfinished, &mut cut, &mut preface, &mut silent] {
        raw.end().await;
    }
}

#[tokio::test]
async fn a_tunnel_does_not_end_the_watch_over_its_connection() {
    let (address, _server) = server(|stream| async move {
        let mut connection = h2::server::handshake(stream)
            .await
            .map_err(io::Error::other)?;
        while let Some(asked) = connection.accept().await {
            let (_request, mut respond) = asked.map_err(io::Error::other)?;
            let granted = respond.send_response(Response::new(()), false);
            granted.map(std::mem::forget).map_err(io::Error::other)?;
        }
        Ok(())
    })
    .await;
    let node = Node::start_with("http2", &[address], hasty());
    let mut raw = Raw::connect(&node).await;
    let connect = block(&[(":method", "CONNECT"), (":authority", "web:80")]);
    raw.send(&frame(HEADERS, END_HEADERS, 1, &connect)).await;
    assert_eq!(raw.outcome().await, "200");
    raw.send(&frame(HEADERS, 0, 3, &request(&[]))).await;
    raw.end().await;
}

#[tokio::test]
async fn an_old_or_idle_connection_ends_though_its_client_does_not_answer() {
    let (address, _server) = echo().await;
    for timeouts in [
        Timeouts {
            max_age: Duration::from_secs(1),
            ..hasty().timeouts
        },
        Timeouts {
            keep_alive: Duration::from_secs(1),
            ..hasty().timeouts
        },
    ] {
        let config = Config {
            timeouts,
            ..Config::default()
        };
        let node = Node::start_with("http2", &[address], config);
        let mut raw = Raw::connect(&node).await;
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request(&[])))
            .await;
        assert_eq!(raw.outcome().await, "200");
        // The PING that comes with GOAWAY is not answered.
        assert_eq!(raw.end().await, Some(0));
    }
}

#[tokio::test]
async fn a_drain_leaves_slow_clients_the_whole_answer() {
    // What a client takes that says nothing of its windows, and what it takes in steps.
    const AT_ONCE: usize = 65_535;
    const STEPS: usize = 25;
    const STEP: usize = 400;
    let body = "x".repeat(AT_ONCE + STEPS * STEP);
    let (address, _server) = http1_server(move |_| text(body.clone())).await;
    let config = Config {
        timeouts: Timeouts {
            header: Duration::from_secs(1),
            ..Timeouts::default()
        },
        ..Config::default()
    };
    let node = Node::start_with("http", &[address], config);
    let mut raw = Raw::connect(&node).await;
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request(&[])))
        .await;
    // Its last part waits in the proxy.
    node.metric(&["istio_requests_total", r#"response_code="200""#], 1)
        .await;
    let reading = async {
        let mut came = 0;
        for step in 0..=STEPS {
            while came < AT_ONCE + step * STEP {
                let (kind, _, _, payload) = raw.receive().await.expect("the whole answer");
                if kind == DATA {
                    came += payload.len();
                }
            }
            // In all more than twice as long as a client is waited for that takes nothing.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let more = u32::try_from(STEP).expect("small").to_be_bytes();
            raw.send(
                &[
                    frame(WINDOW_UPDATE, 0, 0, &more),
                    frame(WINDOW_UPDATE, 0, 1, &more),
                ]
                .concat(),
            )
            .await;
        }
    };
    let drain = node.proxy().drain(super::fixture::PATIENCE);
    within(async { tokio::join!(drain, reading) }).await;
}

#[tokio::test]
async fn pings_and_settings_of_a_client_that_does_not_read_are_not_stored() {
    let (address, _server) = echo().await;
    let node = Node::start("http2", &[address]);
    let mut raw = Raw::connect(&node).await;
    let pings = [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])]
        .concat()
        .repeat(1_000);
    let mut sent = 0;
    // The kernel's buffers fill; then the proxy, which cannot answer, reads no more.
    while let Ok(result) =
        tokio::time::timeout(Duration::from_secs(1), raw.0.write_all(&pings)).await
    {
        if result.is_err() {
            break;
        }
        sent += pings.len();
        assert!(sent < 512 << 20, "it reads for ever");
    }
}

#[tokio::test]
async fn bodies_that_come_behind_refusals_do_not_end_a_connection() {
    let go = Arc::new(Notify::new());
    let told = Arc::clone(&go);
    let (address, _server) = server(move |stream| {
        let told = Arc::clone(&told);
        async move {
            let service = service_fn(move |_| {
                let told = Arc::clone(&told);
                async move {
                    told.notified().await;
                    Ok::<_, Infallible>(text("late"))
                }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let serving = builder.serve_connection(TokioIo::new(stream), service);
            serving.await.map_err(io::Error::other)
        }
    })
    .await;
    let spec = json!({"rateLimits": [{"requests": 1, "per": "1h"}]});
    let node = Node::guarded("http2", &[address], &spec);
    let mut raw = Raw::connect(&node).await;
    let flags = END_HEADERS | END_STREAM;
    raw.send(&frame(HEADERS, flags, 1, &request(&[]))).await;
    let mut late = Vec::new();
    for stream in (3..).step_by(2).take(1_300) {
        let head = frame(HEADERS, END_HEADERS, stream, &request(&[]));
        raw.send(&[late, head].concat()).await;
        late = frame(DATA, END_STREAM, stream, b"late");
        while let Some((kind, _, of, payload)) = raw.receive().await {
            assert_ne!(kind, GOAWAY, "{stream}: {payload:?}");
            // The endpoint answers none.
            if kind == HEADERS && of == stream {
                break;
            }
        }
    }
    raw.send(&late).await;
    go.notify_one();
    assert_eq!(raw.outcome().await, "200");
}

/// An endpoint whose answers have 1 MiB, which counts what it may send of them.
async fn plenty() -> (SocketAddr, JoinHandle<()>, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let (address, task) = server(move |stream| {
        let count = Arc::clone(&count);
        async move {
            let shake = h2::server::handshake(stream).await;
            let mut connection = shake.map_err(io::Error::other)?;
            while let Some(asked) = connection.accept().await {
                let (_, mut respond) = asked.map_err(io::Error::other)?;
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let mut body = respond.send_response(Response::new(()), false)?;
                    let mut left = 1 << 20;
                    while left > 0 {
                        body.reserve_capacity(left.min(16_384));
                        let more = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
                        let more = more.transpose()?.unwrap_or(left).min(left);
                        body.send_data(Bytes::from(vec![7; more]), more == left)?;
                        count.fetch_add(more, Ordering::Relaxed);
                        left -= more;
                    }
                    Ok::<_, h2::Error>(())
                });
            }
            Ok(())
        }
    })
    .await;
    (address, task, sent)
}

#[tokio::test]
async fn what_a_client_with_endless_windows_does_not_read_is_bounded() {
    const STREAMS: u32 = 250;
    const MIB: usize = 1 << 20;
    const ENDLESS: u32 = (1 << 31) - 1;
    let (address, _server, sent) = plenty().await;
    let node = Node::start("http2", &[address]);
    let mut raw = Raw::connect(&node).await;
    let window = [&[0, 4][..], &ENDLESS.to_be_bytes()].concat();
    let of_all = (ENDLESS - 65_535).to_be_bytes();
    raw.send(&frame(SETTINGS, 0, 0, &window)).await;
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &of_all)).await;
    let get = request(&[(":method", "GET")]);
    for number in 0..STREAMS {
        let flags = END_HEADERS | END_STREAM;
        raw.send(&frame(HEADERS, flags, 2 * number + 1, &get)).await;
    }
    let mut before = 0;
    let settled = loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = sent.load(Ordering::Relaxed);
        if now > 16 * MIB && now == before {
            break now;
        }
        before = now;
    };
    // The window of the endpoint's connection; of each answer what h2 keeps, 32 KiB, and two frames; and what the kernel
    // keeps.
    let most = 16 * MIB + 250 * (32 + 2 * 16) * 1024 + kernel_room();
    assert!(settled <= most, "{} MiB", settled / MIB);
}
