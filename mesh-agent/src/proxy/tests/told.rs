//! What is told of refusals, and of everything in the access log.

use std::sync::Arc;

use crate::proxy::Direct;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;

use super::fixture::{DIALLED, Node, access_log, eventually, http1_server, snapshot, text};

#[tokio::test]
async fn a_caller_that_policy_refuses_at_an_endpoint_is_told_so() {
    let (endpoint, _server) = http1_server(|_| text("reached")).await;
    for (protocol, status) in [("http", "HTTP/1.1 403 "), ("tcp", "")] {
        let node = Node::start(protocol, &[endpoint]);
        node.change(denying(protocol, &[endpoint]));
        let answer = node
            .raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await;
        assert!(
            answer.starts_with(status) && !answer.contains("reached"),
            "{answer}"
        );
        assert_eq!(answer.contains("x-mesh-error: policy"), protocol == "http");
        assert_eq!(
            node.metric(&["mesh_proxy_errors_total", "policy"], 1).await,
            1
        );
        assert!(
            node.table.marks.lock().expect("no panic").is_empty(),
            "nothing was dialled"
        );
    }
}

/// The registry with a policy that refuses everybody.
fn denying(protocol: &str, endpoints: &[std::net::SocketAddr]) -> crate::state::Snapshot {
    let mut snapshot = snapshot(protocol, endpoints);
    let policy = serde_json::json!({
        "apiVersion": "mesh.dev/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "nobody", "namespace": "shop"},
        "spec": {"target": {"kind": "Service", "name": "web"}, "action": "Deny", "rules": [{}]},
    });
    let key = ObjectKey::new("shop", "nobody");
    let policy = serde_json::from_value(policy).expect("a policy");
    snapshot.policies.insert(key, Arc::new(policy));
    snapshot
}

#[tokio::test]
async fn each_request_and_connection_makes_one_line() {
    let (endpoint, _server) = http1_server(|_| text("hello")).await;
    for (protocol, has_status) in [("http", true), ("tcp", false)] {
        let (access_log, lines) = access_log();
        let config = crate::proxy::Config {
            access_log,
            ..crate::proxy::Config::default()
        };
        let node = Node::start_with(protocol, &[endpoint], config);
        node.raw("GET /a?secret HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
            .await;
        eventually("no connection", || node.proxy().connections() == 0).await;
        drop(node);
        let written: String = lines.iter().collect();
        let [line] = written.lines().collect::<Vec<_>>()[..] else {
            panic!("{written}");
        };
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(line["protocol"], protocol);
        assert_eq!(line["verdict"], "proxy");
        assert_eq!(line["src.workload"], "client");
        assert_eq!(line["src.identity"], "shop/default");
        assert_eq!(line["dst.addr"], endpoint.to_string());
        assert_eq!(line["dst.service"], "shop/web");
        assert_eq!(line["dst.endpoint"], "shop/web-0");
        assert_eq!(line["original"], DIALLED.to_string());
        let duration = line["duration"].as_str().expect("text");
        assert!(duration.ends_with("ms"), "{duration}");
        assert_eq!(line["reason"], "ok");
        assert_eq!(line.get("error"), None);
        if has_status {
            assert_eq!(
                (&line["status"], &line["path"]),
                (&200.into(), &"/a".into())
            );
            assert_eq!(line["bytes_recv"], 5);
        }
    }
}

#[tokio::test]
async fn a_client_cannot_make_long_lines() {
    let (endpoint, _server) = http1_server(|_| text("hello")).await;
    let (access_log, lines) = access_log();
    let config = crate::proxy::Config {
        access_log,
        ..crate::proxy::Config::default()
    };
    let node = Node::start_with("http", &[endpoint], config);
    let agent = "x".repeat(60_000);
    let head = format!("GET / HTTP/1.1\r\nHost: web\r\nUser-Agent: {agent}\r\n");
    node.raw(&format!("{head}Connection: close\r\n\r\n")).await;
    eventually("no connection", || node.proxy().connections() == 0).await;
    drop(node);
    let written: String = lines.iter().collect();
    assert!(written.len() < 8 << 10, "{} bytes", written.len());
    let line: serde_json::Value = serde_json::from_str(&written).expect("JSON");
    let told = line["user_agent"].as_str().expect("a text");
    assert!(line["status"] == 200 && told.len() == 1024, "{written}");
}

#[tokio::test]
async fn a_server_cannot_make_series_with_statuses_of_its_own() {
    let (endpoint, _server) = http1_server(|request| {
        let status = request.uri().path()[1..].parse().expect("a number");
        let mut answer = text("");
        *answer.status_mut() = http::StatusCode::from_u16(status).expect("a status");
        answer
    })
    .await;
    let node = Node::start("http", &[endpoint]);
    for status in [200, 299, 298, 418, 599, 700, 999] {
        let head = format!("GET /{status} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n");
        let answer = node.raw(&head).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    let counted = [("200", 3), ("418", 1), ("500", 3)];
    for (code, count) in counted {
        let label = format!("response_code=\"{code}\"");
        let parts = ["istio_requests_total", &label];
        assert_eq!(node.metric(&parts, count).await, count, "{code}");
    }
    assert_eq!(node.metric_now(&["istio_requests_total"]), 7);
}

#[tokio::test]
async fn a_new_version_of_an_endpoint_is_counted_as_such() {
    let (endpoint, _server) = http1_server(|_| text("hello")).await;
    let node = Node::start("http", &[endpoint]);
    let counted = async |version: &str, least| {
        let label = format!("destination_version=\"{version}\"");
        let parts = ["istio_requests_total", &label];
        node.metric(&parts, least).await
    };
    let request = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    node.raw(request).await;
    assert_eq!(counted("v0", 1).await, 1);
    let mut next = snapshot("http", &[endpoint]);
    let changed = next.endpoints.get_mut(&ObjectKey::new("shop", "web-0"));
    let changed = Arc::make_mut(changed.expect("it is there"));
    changed.spec.version = Some("v9".to_owned());
    node.change(next);
    node.raw(request).await;
    assert_eq!(counted("v9", 1).await, 1);
    assert_eq!(counted("v0", 1).await, 1);
}

#[tokio::test]
async fn direct_connections_have_the_series_of_opaque_ones() {
    let endpoint = "10.0.0.9:5432".parse().expect("an address");
    let node = Node::start("tcp", &[endpoint]);
    let closed = Direct {
        workload: node.number(Subject::Workload(ObjectKey::new("shop", "client"))),
        original: DIALLED,
        destination: endpoint,
        bytes_sent: 7,
        bytes_received: 11,
    };
    node.proxy().count_direct(&closed);
    node.proxy().count_direct(&closed);
    let labels = [
        r#"reporter="source""#,
        r#"source_workload="client""#,
        r#"destination_service_name="web""#,
        r#"destination_workload="web-0""#,
        r#"request_protocol="tcp""#,
        r#"response_flags="-""#,
    ];
    let series = async |family: &str| {
        let mut parts = vec![family];
        parts.extend(labels);
        node.metric(&parts, 1).await
    };
    assert_eq!(series("istio_tcp_connections_opened_total").await, 2);
    assert_eq!(series("istio_tcp_connections_closed_total").await, 2);
    assert_eq!(series("istio_tcp_received_bytes_total").await, 14);
    assert_eq!(series("istio_tcp_sent_bytes_total").await, 22);
}

#[tokio::test]
async fn a_direct_connection_counts_after_its_service_and_caller_are_gone() {
    let node = Node::start("tcp", &[]);
    node.proxy().count_direct(&Direct {
        workload: 99,
        original: "240.0.0.77:80".parse().expect("an address"),
        destination: "10.0.0.9:5432".parse().expect("an address"),
        bytes_sent: 1,
        bytes_received: 0,
    });
    let parts = [
        "istio_tcp_connections_closed_total",
        r#"source_workload="unknown""#,
        r#"destination_service_name="unknown""#,
    ];
    assert_eq!(node.metric(&parts, 1).await, 1);
}
