//! Copies of requests.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::io::AsyncWriteExt as _;

use super::super::fixture::{eventually, kernel_room, server, within};
use super::*;

fn mirrored(percent: u32) -> Value {
    let mirror = json!({"type": "RequestMirror",
        "requestMirror": {"backendRef": {"name": "shadow", "port": 80}, "percent": percent}});
    json!([{"filters": [mirror], "backendRefs": to("web")}])
}

/// A server that keeps the bodies of its requests; whether they came to their end.
async fn shadow() -> (SocketAddr, Arc<Mutex<Vec<(String, bool)>>>, JoinHandle<()>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let (address, task) = server(move |stream| {
        let kept = Arc::clone(&kept);
        async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let kept = Arc::clone(&kept);
                async move {
                    let target = request.uri().to_string();
                    let body = request.into_body().collect().await;
                    let body = body.map(|body| body.to_bytes().len());
                    let line = format!("{target} {}", body.as_ref().copied().unwrap_or(0));
                    kept.lock().unwrap().push((line, body.is_ok()));
                    Ok::<_, std::convert::Infallible>(text("thrown away"))
                }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let serving = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
            serving.await.map_err(std::io::Error::other)
        }
    })
    .await;
    (address, seen, task)
}

async fn post(node: &Node, body: &str) -> String {
    let length = body.len();
    node.raw(&format!(
        "POST /p HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
    .await
}

#[tokio::test]
async fn a_copy_arrives_with_its_body_and_its_answer_is_thrown_away() {
    let (web, _web) = named("web").await;
    let (address, seen, _shadow) = shadow().await;
    let node = node(registry(
        web,
        &[("shadow", address)],
        &[("r", mirrored(100))],
    ))
    .await;
    for body in ["", "four"] {
        let response = post(&node, body).await;
        assert!(response.contains("web /p"), "{response}");
    }
    assert!(get(&node, "/g", "").await.contains("web /g"));
    eventually("the copies arrive", || seen.lock().unwrap().len() == 3).await;
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    let expected = ["/g 0", "/p 0", "/p 4"].map(|line| (line.to_owned(), true));
    assert_eq!(seen, expected);
    let sent = ["mesh_proxy_mirrored_total", r#"outcome="sent""#];
    assert_eq!(node.metric(&sent, 3).await, 3);
}

#[tokio::test]
async fn a_copy_of_a_request_whose_end_is_told_otherwise_is_whole() {
    let (web, _web) = named("web").await;
    let (address, seen, _shadow) = shadow().await;
    let node = node(registry(
        web,
        &[("shadow", address)],
        &[("r", mirrored(100))],
    ))
    .await;
    let head = "POST /t HTTP/1.1\r\nhost: web\r\nconnection: close\r\ntransfer-encoding: chunked";
    let body = "4\r\nfour\r\n0\r\nx-sum: 4\r\n\r\n";
    let response = node.raw(&format!("{head}\r\n\r\n{body}")).await;
    assert!(response.contains("web /t"), "{response}");

    let shake = h2::client::handshake(node.connect().await);
    let (sender, connection) = within(shake).await.unwrap();
    tokio::spawn(connection);
    let mut sender = within(sender.ready()).await.unwrap();
    let request = Request::post("http://web/l").header("content-length", "4");
    let (response, mut body) = sender
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    body.send_data(Bytes::from_static(b"four"), false).unwrap();
    // The answer comes before the end, for which nobody waits.
    assert_eq!(within(response).await.unwrap().status(), 200);

    eventually("the copies arrive", || seen.lock().unwrap().len() == 2).await;
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    let expected = ["/l 4", "/t 4"].map(|line| (line.to_owned(), true));
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_copy_is_changed_by_the_filters_of_the_level_that_asks_for_it() {
    let (web, _web) = named("web").await;
    let (address, seen, _shadow) = shadow().await;
    let mirror = |name: &str| json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": name, "port": 80}}});
    let rewrite = |path: &str| {
        json!({"type": "URLRewrite",
        "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": path}}})
    };
    let rules = json!([{
        "filters": [mirror("shadow"), rewrite("/rule")],
        "backendRefs": [{"name": "web", "port": 80, "filters": [mirror("shadow"), rewrite("/backend")]}],
    }]);
    let node = node(registry(web, &[("shadow", address)], &[("r", rules)])).await;
    let response = post(&node, "four").await;
    assert!(response.contains("web /backend"), "{response}");
    eventually("the copies arrive", || seen.lock().unwrap().len() == 2).await;
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    let expected = ["/backend 4", "/rule 4"].map(|line| (line.to_owned(), true));
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_share_is_copied() {
    let (web, _web) = named("web").await;
    let (address, seen, _shadow) = shadow().await;
    let node = node(registry(
        web,
        &[("shadow", address)],
        &[("r", mirrored(50))],
    ))
    .await;
    for _ in 0..100 {
        get(&node, "/", "").await;
    }
    node.metric(&["mesh_proxy_mirrored_total", "sent"], 20)
        .await;
    assert!((20..=80).contains(&seen.lock().unwrap().len()));
}

#[tokio::test]
async fn a_copy_that_nobody_answers_delays_nothing() {
    let (web, seen, _web) = shadow().await;
    // Takes connections, and never reads.
    let (address, _shadow) = server(|mut stream| async move {
        stream.flush().await?;
        std::future::pending().await
    })
    .await;
    let node = node(registry(
        web,
        &[("shadow", address)],
        &[("r", mirrored(100))],
    ))
    .await;
    // More than the kernel takes off the proxy's hands.
    let body = "x".repeat(kernel_room() + (4 << 20));
    let length = body.len();
    let response = node
        .raw(&format!(
            "POST /p HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await;
    assert!(response.contains("thrown away"), "{response}");
    assert_eq!(seen.lock().unwrap()[..], [(format!("/p {length}"), true)]);
    // The copy was cut off when it fell behind.
    node.metric(&["mesh_proxy_mirrored_total", "failed"], 1)
        .await;
}

#[tokio::test]
async fn a_copy_for_nobody_is_counted() {
    let (web, _web) = named("web").await;
    let node = node(registry(web, &[], &[("r", mirrored(100))])).await;
    assert!(get(&node, "/", "").await.contains("web /"));
    assert_eq!(
        node.metric(&["mesh_proxy_mirrored_total", "dropped"], 1)
            .await,
        1
    );
}
