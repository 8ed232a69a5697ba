//! The harness itself: pods reach each other, and everything goes when it is dropped.

use std::path::Path;
use std::process::Command;

use mesh_tests::node::Node;
use mesh_tests::pod::mapped;
use mesh_tests::protocol::{Load, ServerKind, Task};

#[test]
fn pods_reach_each_other_over_ipv4_ipv6_and_mapped_addresses() {
    let Some(node) = Node::without_agent() else {
        return;
    };
    let client = node.pod("client");
    let server = node.pod("server");
    let v4 = server.serve_echo(7_000);
    server.serve_v6(ServerKind::Echo, 7_001);
    for address in [
        server.at(7_000),
        server.at_v6(7_001),
        mapped(server.at(7_000)),
    ] {
        let conn = client.connect(address).unwrap();
        conn.echo("hello").unwrap();
        assert_eq!(conn.peer(), address);
        conn.close();
    }
    let seen = v4.seen();
    assert_eq!(seen.connections, 2);
    assert_eq!(seen.sources[&client.v4().to_string()], 2);
}

#[test]
fn http_requests_of_both_versions_say_which_server_answered() {
    let Some(node) = Node::without_agent() else {
        return;
    };
    let client = node.pod("client");
    let server = node.pod("server");
    server.serve_http("web", 8_080);
    let url = format!("http://{}/path?q=1", server.at(8_080));
    let answer = client.get(&url);
    assert_eq!((answer.status, answer.header("x-server")), (200, "web"));
    assert_eq!(answer.json()["uri"], "/path?q=1");
    let call = [("content-type", "application/grpc")];
    let answer = client
        .request_http2("POST", &url, &call, "message")
        .unwrap();
    assert_eq!(answer.body, "message");
    assert_eq!(answer.trailer("grpc-status"), "0");
}

#[test]
fn loads_and_streams_report_what_came_of_them() {
    let Some(node) = Node::without_agent() else {
        return;
    };
    let client = node.pod("client");
    let server = node.pod("server");
    node.spread_packets(&[&client, &server]);
    server.serve_http("web", 8_080);
    server.serve_echo(7_000);
    server.serve(ServerKind::Sink, 7_001);
    server.serve(ServerKind::Deaf, 7_002);
    let load = client.load(Load {
        http: true,
        address: server.at(8_080),
        connections: 4,
        keep_alive: true,
        millis: 60_000,
        pause_micros: 100,
    });
    let report = client.many_connects(server.at(7_000), 1_000, 4);
    assert_eq!((report.succeeded, report.failed), (1_000, 0));
    let upload = Task::Upload {
        address: server.at(7_001),
        bytes: 10_000_000,
        chunk: 50_000,
    };
    client.measure(upload).unwrap();
    let filled = client.fill(server.at(7_002), 1 << 30).unwrap();
    assert!(filled < 64 << 20, "{filled}");
    let report = load.stop();
    assert!(report.by_server["web"] > 10, "{report:?}");
    assert_eq!(report.failed, 0);
}

#[test]
fn round_trips_and_streams_are_measured() {
    let Some(node) = Node::without_agent() else {
        return;
    };
    let client = node.pod("client");
    let server = node.pod("server");
    server.serve(ServerKind::BlockingEcho, 7_000);
    server.serve(ServerKind::Sink, 7_001);
    let round_trips = Task::RoundTrips {
        address: server.at(7_000),
        size: 64,
        millis: 1_000,
    };
    let report = client.measure(round_trips).unwrap();
    assert!(report.succeeded > 10 && report.p50_nanos > 0 && report.p99_nanos >= report.p50_nanos);
    let stream = Task::Stream {
        address: server.at(7_001),
        millis: 1_000,
    };
    let report = client.measure(stream).unwrap();
    assert!(report.bytes > 1_000_000, "{report:?}");
    let echo = Task::Echo {
        address: server.at(7_000),
        bytes: 3_000_000,
        chunk: 997,
    };
    assert_eq!(client.measure(echo).unwrap().bytes, 3_000_000);
}

#[test]
fn commands_run_inside_a_pod() {
    let Some(node) = Node::without_agent() else {
        return;
    };
    let pod = node.pod("pod");
    let output = pod
        .run(Command::new("ip").args(["-4", "addr", "show", "eth0"]))
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&pod.v4().to_string()), "{text}");
    let output = pod
        .run(Command::new("cat").arg("/proc/self/cgroup"))
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("/hooked/pod-pod"), "{text}");
}

#[test]
fn a_refused_connection_says_so() {
    let Some(node) = Node::without_agent() else {
        return;
    };
    let client = node.pod("client");
    let failure = client.connect(client.at(1)).unwrap_err();
    assert_eq!(failure.kind, "ConnectionRefused");
}

#[test]
fn everything_goes_when_it_is_dropped() {
    let Some(node) = Node::without_agent() else {
        return;
    };
    let pod = node.pod("pod");
    let host = node.host_pod("host", &pod);
    host.serve_echo(7_000);
    pod.connect(host.at(7_000)).unwrap().echo("hello").unwrap();
    let paths = [
        node.netns().path(),
        pod.netns().path(),
        pod.cgroup().to_owned(),
        node.hooked().path().to_owned(),
        node.state_dir().to_owned(),
    ];
    assert!(paths.iter().all(|path| path.exists()));
    drop((pod, host));
    drop(node);
    let left: Vec<&Path> = paths
        .iter()
        .map(AsRef::as_ref)
        .filter(|path: &&Path| path.exists())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
