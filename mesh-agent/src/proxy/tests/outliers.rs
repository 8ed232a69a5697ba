//! Endpoints that answer badly, put aside.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::fixture::{Node, http1_server, text, within};
use crate::proxy::outliers;
use crate::state::endpoint::Lifecycle;
use crate::state::object::ObjectKey;

const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";

/// A server that answers all with `status` and its name.
async fn answering(status: u16, name: &'static str) -> (SocketAddr, JoinHandle<()>) {
    http1_server(move |_| {
        let mut answer = text(name);
        *answer.status_mut() = http::StatusCode::from_u16(status).unwrap();
        answer
    })
    .await
}

fn ejections(node: &Node, reason: &str) -> u64 {
    node.metric_now(&["mesh_proxy_ejections_total", reason])
}

/// A policy that puts aside for longer than any test takes, and relies on nobody who is out.
fn policy(mut detection: Value) -> Value {
    detection["baseEjection"] = json!("10m");
    detection["maxEjection"] = json!("10m");
    json!({"outlierDetection": detection, "loadBalancing": {"panicThreshold": 0}})
}

#[tokio::test]
async fn no_more_are_put_aside_than_may_be() {
    let (bad, _bad) = answering(500, "bad").await;
    let spec = policy(json!({"consecutive5xx": 1, "maxEjectedPercent": 50}));
    let node = Node::guarded("http", &[bad; 4], &spec);
    for _ in 0..12 {
        let answer = node.raw(GET).await;
        assert!(answer.ends_with("bad"), "{answer}");
    }
    assert_eq!(ejections(&node, "consecutive-5xx"), 2);
}

#[tokio::test]
async fn those_that_take_no_part_leave_no_room_for_others() {
    let (bad, _bad) = answering(500, "bad").await;
    let spec = policy(json!({"consecutive5xx": 1, "maxEjectedPercent": 50}));
    let node = Node::guarded("http", &[bad; 4], &spec);
    let mut snapshot = node.snapshot();
    for name in ["web-2", "web-3"] {
        let endpoint = snapshot.endpoints.get_mut(&ObjectKey::new("shop", name));
        Arc::make_mut(endpoint.unwrap()).spec.lifecycle = Lifecycle::Draining;
    }
    node.change(snapshot);
    for _ in 0..12 {
        let answer = node.raw(GET).await;
        assert!(answer.ends_with("bad"), "{answer}");
    }
    assert_eq!(ejections(&node, "consecutive-5xx"), 1);
}

/// Asks until the bad one of four is put aside for `reason`; then nobody meets it any more.
async fn put_aside_for(reason: &str, detection: Value) {
    let (bad, _bad) = answering(500, "bad").await;
    let (good, _good) = answering(200, "good").await;
    let node = Node::guarded("http", &[good, bad, good, good], &policy(detection));
    let shared = &node.proxy().shared;
    let asking = async {
        while ejections(&node, reason) == 0 {
            for _ in 0..4 {
                node.raw(GET).await;
            }
        }
    };
    let looking = outliers::run(&shared.views, &shared.metrics);
    within(async {
        tokio::select! {
            () = looking => {}
            () = asking => {}
        }
    })
    .await;
    for _ in 0..8 {
        let answer = node.raw(GET).await;
        assert!(answer.ends_with("good"), "{answer}");
    }
    assert_eq!(ejections(&node, ""), 1);
}

#[tokio::test]
async fn who_answers_worse_than_the_others_is_put_aside() {
    let rate = json!({"minimumEndpoints": 4, "minimumRequests": 3, "deviationThousandths": 1000});
    put_aside_for(
        "success-rate",
        json!({"successRate": rate, "interval": "1s"}),
    )
    .await;
}

#[tokio::test]
async fn who_answers_too_often_badly_is_put_aside() {
    let share = json!({"threshold": 60, "minimumEndpoints": 2, "minimumRequests": 3});
    put_aside_for(
        "failure-percentage",
        json!({"failurePercentage": share, "interval": "1s"}),
    )
    .await;
}
