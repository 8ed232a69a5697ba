//! The proxy's HTTP: both versions, gRPC, upgrades, headers, errors, retries, backpressure.

use std::time::{Duration, Instant};

use mesh_tests::assert_eventually;
use mesh_tests::eventually::pause;
use mesh_tests::registry::{endpoint, service, with};
use serde_json::{Value, json};

use crate::shop::{Shop, WEB, steady, web};

#[test]
fn requests_of_one_connection_reach_every_server() {
    let Some(shop) = Shop::open(3) else { return };
    shop.open_web();
    let mut load = steady(true, web(), true);
    load.millis = 2_000;
    let report = shop.client.load(load).wait();
    assert_eq!(report.failed, 0, "{report:?}");
    assert_eq!(report.by_server.len(), 3, "{report:?}");
    let fewest = report.by_server.values().min().unwrap();
    assert!(fewest * 6 > report.succeeded, "{report:?}");
}

#[test]
fn http2_and_grpc_with_trailers_are_carried() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    shop.node.apply(&[
        service("grpc", &["240.240.0.11"], "grpc", 80, "grpc"),
        endpoint("grpc-1", "grpc", shop.server().v4(), "grpc", 8_080),
        service("auto", &["240.240.0.12"], "any", 80, "auto"),
        endpoint("auto-1", "auto", shop.server().v4(), "any", 8_080),
    ]);
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    for url in ["http://240.240.0.11/a.B/C", "http://240.240.0.12/a.B/C"] {
        let answer = shop
            .client
            .request_http2("POST", url, &grpc, "message")
            .unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "message"));
        assert_eq!(answer.trailer("grpc-status"), "0");
        assert_eq!(answer.trailer("grpc-message"), "fine");
    }
    let answer = shop.client.get("http://240.240.0.12/");
    assert_eq!(answer.json()["version"], "HTTP/1.1");
}

#[test]
fn a_connection_that_was_silent_serves_on() {
    // More than two looks of the agent, which finds that nothing moves and takes the connection apart.
    const SILENCE: Duration = Duration::from_millis(4_500);
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    let conn = shop.client.connect(web()).unwrap();
    let answer = || {
        let mut text = String::new();
        while !text.ends_with("\r\n0\r\n\r\n") {
            let more = conn.receive(1).unwrap();
            assert!(!more.is_empty(), "{text}");
            text.push_str(&more);
        }
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    };
    // Whole requests, one that pauses in its middle, and two at once.
    let request = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";
    conn.send(request).unwrap();
    answer();
    pause(SILENCE);
    let (first, second) = request.split_at(20);
    conn.send(first).unwrap();
    pause(SILENCE);
    conn.send(second).unwrap();
    answer();
    pause(SILENCE);
    conn.send(&request.repeat(2)).unwrap();
    answer();
    answer();
}

#[test]
fn an_upgraded_connection_is_a_stream() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    let conn = shop.client.connect(web()).unwrap();
    conn.send(
        "GET /chat HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    )
    .unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let more = conn.receive(1).unwrap();
        assert!(!more.is_empty(), "{head}");
        head.push_str(&more);
    }
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    conn.echo("frames").unwrap();
    conn.finish_sending().unwrap();
    assert_eq!(conn.receive(1).unwrap(), "", "half-close is passed on");
}

#[test]
fn headers_that_end_at_a_hop_are_removed_and_identity_is_added() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    let sent = [
        ("connection", "x-private"),
        ("x-private", "1"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-kept", "yes"),
    ];
    let answer = shop.client.request("GET", WEB, &sent, "").unwrap();
    let seen = answer.json();
    let seen = |name: &str| field(&seen, name);
    assert_eq!(seen("x-private"), None);
    assert_eq!(seen("via"), None);
    assert_eq!(seen("x-kept").as_deref(), Some("yes"));
    assert_eq!(seen("host").as_deref(), Some("240.240.0.10"));
    assert_eq!(seen("x-forwarded-for"), Some(shop.client.v4().to_string()));
    assert!(seen("x-request-id").is_some());
    assert!(seen("traceparent").is_some_and(|value| value.starts_with("00-")));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = shop
        .client
        .request("GET", WEB, &[("traceparent", trace)], "")
        .unwrap();
    let traceparent = field(&answer.json(), "traceparent").unwrap();
    assert_eq!(traceparent[..36], trace[..36], "the trace goes on");
}

fn field(seen: &Value, name: &str) -> Option<String> {
    let fields = seen["headers"].as_array().unwrap();
    let field = fields.iter().find(|field| field[0] == name)?;
    field[1].as_str().map(ToOwned::to_owned)
}

#[test]
fn a_refused_connection_is_retried_on_another_endpoint() {
    let Some(shop) = Shop::open(2) else { return };
    shop.open_web();
    shop.servers[1].kill();
    for _ in 0..20 {
        assert_eq!(shop.client.get(WEB).header("x-server"), "web-1");
    }
}

#[test]
fn a_server_that_dies_under_load_fails_no_new_request() {
    let Some(shop) = Shop::open(3) else { return };
    shop.open_web();
    let load = shop.client.load(steady(true, web(), false));
    assert_eventually!(shop.coverage()["captured"].as_u64() > Some(100));
    shop.servers[2].kill();
    let before = shop.coverage()["captured"].as_u64().unwrap();
    assert_eventually!(shop.coverage()["captured"].as_u64() > Some(before + 200));
    let report = load.stop();
    // Requests that the dead server had already read may fail; no later one.
    assert!(report.failed <= 4, "{report:?}");
}

#[test]
fn errors_of_the_proxy_say_so() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    let answer = shop
        .client
        .request("GET", WEB, &[("x-status", "503")], "")
        .unwrap();
    assert_eq!(
        (answer.status, answer.header("x-mesh-error")),
        (503, ""),
        "the server's own"
    );
    shop.server().kill();
    let answer = shop.client.get(WEB);
    assert_eq!(answer.status, 503);
    assert!(!answer.header("x-mesh-error").is_empty());
    assert_eventually!(shop.node.metrics().sum("mesh_proxy_errors_total", &[]) >= 1.0);
}

#[test]
fn ambiguous_requests_are_refused() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    ] {
        let conn = shop.client.connect(web()).unwrap();
        conn.send(head).unwrap();
        let answer = conn.receive(12).unwrap();
        assert_eq!(answer, "HTTP/1.1 400", "{head:?}");
    }
}

#[test]
fn a_request_that_is_framed_twice_is_framed_once_for_the_server() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    let conn = shop.client.connect(web()).unwrap();
    conn.send(
        "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\
         transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    )
    .unwrap();
    let answer = conn.receive(16_384).unwrap();
    let is_refused = answer.starts_with("HTTP/1.1 400");
    let is_framed_once =
        answer.contains("\"bodyBytes\":3") && !answer.contains("[\"content-length\",\"1\"]");
    assert!(is_refused || is_framed_once, "{answer}");
}

#[test]
fn a_silent_client_or_server_stalls_nobody_else() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    let silent = shop.client.connect(web()).unwrap();
    let begin = Instant::now();
    assert_eq!(shop.client.get(WEB).status, 200);
    // A silent client has ten seconds.
    assert!(begin.elapsed() < Duration::from_secs(5));
    silent.close();
}

#[test]
fn a_slow_reader_of_a_large_body_costs_the_agent_little_memory() {
    let Some(mut shop) = Shop::open(1) else {
        return;
    };
    shop.open_web();
    assert_eq!(shop.client.get(WEB).status, 200);
    let idle = shop.node.agent().resident_bytes();
    let conn = shop.client.connect(web()).unwrap();
    conn.send("GET / HTTP/1.1\r\nhost: web\r\nx-body-bytes: 1073741824\r\n\r\n")
        .unwrap();
    for _ in 0..30 {
        assert_eq!(conn.receive(1_024).unwrap().len(), 1_024);
        pause(Duration::from_millis(50));
        let now = shop.node.agent().resident_bytes();
        assert!(now < idle + (64 << 20), "{idle} bytes idle, {now} now");
    }
}

#[test]
fn a_service_port_of_any_protocol_can_be_forced_through_the_proxy() {
    let Some(shop) = Shop::open(1) else { return };
    shop.open_web();
    let forced = with(
        service("forced", &["240.240.0.13"], "tcp", 80, "tcp"),
        &json!({ "mode": "proxy" }),
    );
    shop.node.apply(&[
        forced,
        endpoint("forced-1", "forced", shop.server().v4(), "tcp", 8_080),
    ]);
    assert_eq!(
        shop.client.get("http://240.240.0.13/").header("x-server"),
        "web-1"
    );
    assert_eventually!(shop.coverage()["captured"] == 1);
}
