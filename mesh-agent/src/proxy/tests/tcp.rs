//! Opaque connections.

use std::time::{Duration, Instant};

use mesh_common::conn::{Conn, Direction};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::fixture::{
    DIALLED, Node, PATIENCE, access_log, eventually, http1_server, nobody, server, snapshot, text,
    within,
};
use crate::proxy::Config;

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_at_once() {
    for protocol in ["tcp", "auto"] {
        let (endpoint, _server) =
            server(async |mut stream| stream.write_all(b"220 welcome\r\n").await).await;
        let node = Node::start(protocol, &[endpoint]);
        for _ in 0..2 {
            let mut stream = node.connect().await;
            let mut greeting = Vec::new();
            within(stream.read_to_end(&mut greeting))
                .await
                .expect("reads");
            assert_eq!(greeting, b"220 welcome\r\n", "{protocol}");
        }
    }
}

#[tokio::test]
async fn a_half_closed_client_gets_the_whole_answer() {
    let (endpoint, _server) = server(async |mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).await?;
        question.reverse();
        stream.write_all(&question).await
    })
    .await;
    let node = Node::start("tcp", &[endpoint]);
    let mut stream = node.connect().await;
    stream.write_all(b"abc").await.expect("writes");
    stream.shutdown().await.expect("closes");
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer))
        .await
        .expect("reads");
    assert_eq!(answer, b"cba");
    let labels = [
        r#"source_workload="client""#,
        r#"destination_service="web.shop.mesh""#,
        r#"destination_workload="web-0""#,
        r#"request_protocol="tcp""#,
        r#"response_flags="-""#,
    ];
    let metric = |name| [&[name][..], &labels].concat();
    assert_eq!(
        node.metric(&metric("istio_tcp_connections_closed_total"), 1)
            .await,
        1
    );
    assert_eq!(
        node.metric(&metric("istio_tcp_connections_opened_total"), 1)
            .await,
        1
    );
    assert_eq!(
        node.metric(&metric("istio_tcp_received_bytes_total"), 3)
            .await,
        3
    );
    assert_eq!(
        node.metric(&metric("istio_tcp_sent_bytes_total"), 3).await,
        3
    );
}

#[tokio::test]
async fn an_unknown_protocol_of_the_client_is_passed_through_whole() {
    let (endpoint, _server) = server(async |mut stream| {
        let mut command = [0; 14];
        stream.read_exact(&mut command).await?;
        stream.write_all(&command).await
    })
    .await;
    let node = Node::start("auto", &[endpoint]);
    let mut stream = node.connect().await;
    stream
        .write_all(b"*1\r\n$4\r\nPING\r\n")
        .await
        .expect("writes");
    let mut echo = [0; 14];
    within(stream.read_exact(&mut echo)).await.expect("reads");
    assert_eq!(&echo, b"*1\r\n$4\r\nPING\r\n");
    assert_eq!(
        node.metric(&["mesh_proxy_detected_total", "opaque"], 1)
            .await,
        1
    );
}

#[tokio::test]
async fn a_beginning_that_could_be_http_does_not_stall() {
    let (endpoint, _server) = server(async |mut stream| {
        let mut command = [0; 3];
        stream.read_exact(&mut command).await?;
        stream.write_all(b"yes").await
    })
    .await;
    let mut config = Config::default();
    config.timeouts.detect = Duration::from_millis(50);
    let node = Node::start_with("auto", &[endpoint], config);
    let mut stream = node.connect().await;
    stream.write_all(b"GET").await.expect("writes");
    let mut answer = [0; 3];
    within(stream.read_exact(&mut answer)).await.expect("reads");
    assert_eq!(&answer, b"yes");
}

#[tokio::test]
async fn a_refused_connection_is_tried_at_another_endpoint() {
    let (alive, _server) = server(async |mut stream| stream.write_all(b"alive").await).await;
    let node = Node::start("tcp", &[nobody().await, alive]);
    let begin = Instant::now();
    for _ in 0..4 {
        let mut stream = node.connect().await;
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer))
            .await
            .expect("reads");
        assert_eq!(answer, "alive");
    }
    // It is asked again when a second is over.
    let most = 1 + begin.elapsed().as_secs();
    let ejections = node.metric(&["mesh_proxy_ejections_total"], 1).await;
    let retries = ["mesh_proxy_retries_total", "connect"];
    assert!(ejections <= most, "{ejections}, not {most}");
    assert_eq!(node.metric(&retries, ejections).await, ejections);
}

#[tokio::test]
async fn an_open_breaker_of_an_endpoint_costs_a_connection_no_attempt() {
    let (alive, _server) = server(async |mut stream| stream.write_all(b"alive").await).await;
    let refused = nobody().await;
    let policy = json!({"retries": {"attempts": 0},
        "circuitBreaker": {"failures": {"consecutive": 1, "openFor": "60s"}}});
    let node = Node::guarded("tcp", &[refused, alive], &policy);
    let mut refusals = 0;
    for _ in 0..4 {
        refusals += u32::from(node.resets(b"").await);
    }
    // It is no longer put aside, but its breaker lets nobody through yet.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    for _ in 0..4 {
        refusals += u32::from(node.resets(b"").await);
    }
    assert_eq!(refusals, 1, "the one that has opened the breaker");
}

#[tokio::test]
async fn a_connection_that_nobody_takes_is_reset() {
    let node = Node::start("tcp", &[nobody().await]);
    assert!(node.resets(b"").await);
    assert_eq!(
        node.metric(&["mesh_proxy_errors_total", "connect"], 1)
            .await,
        1
    );
}

#[tokio::test]
async fn a_reset_of_the_endpoint_reaches_the_client() {
    let (endpoint, _server) = server(async |mut stream| {
        stream.read_exact(&mut [0]).await?;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))
    })
    .await;
    let node = Node::start("tcp", &[endpoint]);
    assert!(node.resets(b"x").await);
}

#[tokio::test]
async fn sockets_to_endpoints_are_marked_as_the_agents_own() {
    let (endpoint, _server) = server(async |mut stream| stream.write_all(b"x").await).await;
    let node = Node::start("tcp", &[endpoint]);
    let mut stream = node.connect().await;
    within(stream.read_to_end(&mut Vec::new()))
        .await
        .expect("reads");
    let marks = node.table.marks.lock().expect("no panic").clone();
    let asked = node.table.answer.lock().expect("no panic").expect("set");
    let [mark] = marks[..] else {
        panic!("{marks:?}")
    };
    assert!(mark.has(Conn::OWN) && mark.has(Conn::AUTHORIZED) && !mark.has(Conn::COUNTED));
    assert_eq!(mark.direction, Direction::Dialled as u8);
    assert_eq!(
        (mark.verdict, mark.workload, mark.netns),
        (0, asked.workload, asked.netns)
    );
    assert!(mark.endpoint != 0 && mark.service != 0);
}

#[tokio::test]
async fn who_was_not_sent_here_is_refused() {
    let (endpoint, _server) = server(async |mut stream| stream.write_all(b"secret").await).await;
    let node = Node::start("tcp", &[endpoint]);
    let good = node.table.answer.lock().expect("no panic").expect("set");
    let bad = [
        (None, "no-connection"),
        (Some(Conn { verdict: 1, ..good }), "not-proxied"),
        (
            Some(Conn {
                direction: Direction::Dialled as u8,
                ..good
            }),
            "not-proxied",
        ),
        (
            Some(Conn {
                netns: good.netns + 1,
                ..good
            }),
            "not-proxied",
        ),
    ];
    for (answer, reason) in bad {
        *node.table.answer.lock().expect("no panic") = answer;
        assert!(node.resets(b"").await);
        node.metric(&["mesh_refused_connections_total", reason], 1)
            .await;
    }
    assert!(node.table.marks.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn a_service_that_is_gone_is_not_guessed() {
    let (endpoint, _server) = server(async |mut stream| stream.write_all(b"x").await).await;
    let (access_log, lines) = access_log();
    let config = Config {
        access_log,
        ..Config::default()
    };
    let node = Node::start_with("tcp", &[endpoint], config);
    let mut gone = snapshot("tcp", &[endpoint]);
    gone.services.clear();
    node.change(gone);
    assert!(node.resets(b"\0\0\0\0").await);
    node.metric(&["mesh_refused_connections_total", "no-service"], 1)
        .await;
    let response = node
        .raw("GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
        .await;
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(response.contains("x-mesh-error: no-service"), "{response}");
    assert!(response.contains(&DIALLED.to_string()), "{response}");
    eventually("no connection", || node.proxy().connections() == 0).await;
    drop(node);
    let written: Vec<_> = lines.iter().collect();
    for protocol in ["tcp", "http"] {
        let protocol = format!("\"protocol\":\"{protocol}\"");
        let is_told = |line: &&String| line.contains(&protocol) && line.contains("no-service");
        assert_eq!(written.iter().filter(is_told).count(), 1, "{written:?}");
    }
}

#[tokio::test]
async fn a_port_whose_server_has_spoken_first_is_looked_into_again() {
    let (greeter, _greeter) =
        server(async |mut stream| stream.write_all(b"220 welcome\r\n").await).await;
    let (right, _right) = http1_server(|_| text("right")).await;
    let mut config = Config::default();
    config.timeouts.detected = Duration::from_millis(300);
    let node = Node::start_with("auto", &[greeter], config);
    assert!(node.raw("").await.starts_with("220"));
    node.metric(&["mesh_proxy_detected_total", "server-first"], 1)
        .await;
    // It was the wrong one.
    node.change(snapshot("auto", &[right]));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while node.metric_now(&["istio_requests_total"]) == 0 {
        assert!(tokio::time::Instant::now() < deadline, "it stays opaque");
        node.raw("GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
            .await;
    }
}

#[tokio::test]
async fn what_servers_of_http_say_to_a_silent_client_makes_no_port_opaque() {
    let greetings: [&[u8]; 2] = [
        b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n",
        b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64",
    ];
    for greeting in greetings {
        let (endpoint, _server) = server(move |mut stream| async move {
            stream.write_all(greeting).await?;
            // It has said it before anybody has asked.
            stream.read(&mut [0]).await.map(|_| ())
        })
        .await;
        let node = Node::start("auto", &[endpoint]);
        let mut silent = node.connect().await;
        eventually("a dialled endpoint", || {
            !node.table.marks.lock().expect("no panic").is_empty()
        })
        .await;
        let (endpoint, _server) = http1_server(|_| text("hello")).await;
        node.change(snapshot("auto", &[endpoint]));
        let ask = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
        assert!(node.raw(ask).await.ends_with("hello"));
        node.metric(&["mesh_proxy_detected_total", "http1"], 1)
            .await;
        // The silent one is served as well when it asks.
        silent.write_all(ask.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        within(silent.read_to_string(&mut answer))
            .await
            .expect("reads");
        assert!(answer.ends_with("hello"), "{answer}");
    }
}

#[tokio::test]
async fn a_port_where_clients_speak_http_stays_one() {
    let (endpoint, _server) = server(async |mut stream| {
        let mut first = [0; 3];
        let asked = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut first));
        match asked.await {
            Ok(_) => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await,
            Err(_) => stream.write_all(b"bored").await,
        }
    })
    .await;
    let mut config = Config::default();
    config.timeouts.detect = Duration::from_millis(20);
    let node = Node::start_with("auto", &[endpoint], config);
    let ask = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    assert!(node.raw(ask).await.starts_with("HTTP/1.1 204 "));
    assert_eq!(node.raw("").await, "bored");
    assert!(node.raw(ask).await.starts_with("HTTP/1.1 204 "));
    node.metric(&["mesh_proxy_detected_total", "http1"], 2)
        .await;
    assert_eq!(
        node.metric_now(&["mesh_proxy_detected_total", "learned"]),
        0
    );
}

#[tokio::test]
async fn a_drain_does_not_wait_for_who_has_said_nothing() {
    let (endpoint, _server) =
        server(async |mut stream| stream.read(&mut [0]).await.map(|_| ())).await;
    let node = Node::start("auto", &[endpoint]);
    let _silent = node.connect().await;
    eventually("a dialled endpoint", || {
        !node.table.marks.lock().expect("no panic").is_empty()
    })
    .await;
    let started = tokio::time::Instant::now();
    within(node.proxy().drain(PATIENCE)).await;
    assert!(started.elapsed() < PATIENCE / 2);
}

#[tokio::test]
async fn what_ends_a_connection_before_its_protocol_is_known_is_counted_as_such() {
    // The first is refused while the client is silent: nothing else is known of it than the service.
    let node = Node::start("auto", &[nobody().await]);
    assert!(node.resets(b"").await);
    let closed = [
        "istio_tcp_connections_closed_total",
        r#"destination_service="web.shop.mesh""#,
        r#"response_flags="UF""#,
    ];
    assert_eq!(node.metric(&closed, 1).await, 1);
    // The second is of no service, and silent too.
    let mut gone = snapshot("auto", &[]);
    gone.services.clear();
    node.change(gone);
    assert!(node.resets(b"").await);
    node.metric(&["mesh_refused_connections_total", "no-service"], 1)
        .await;
    assert_eq!(
        node.metric_now(&["mesh_refused_connections_total", "idle"]),
        0
    );
}
