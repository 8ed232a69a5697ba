//! What rules of routes say of their requests, and what is repeated or asked twice.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use super::fixture::{
    Node, PATIENCE, eventually, http1_server, http2_client, server, snapshot, text, within,
};
use crate::state::grpc_route::GrpcRoute;
use crate::state::http_route::HttpRoute;
use crate::state::traffic_policy::TrafficPolicy;
use crate::traffic::fixture::Fixture;

/// A node whose service `web` has a route `r` with these rules, each for the path of its name.
fn node(endpoint: SocketAddr, rules: &[(&str, Value)], policies: &[Value]) -> Node {
    let rules = rules.iter().map(|(name, more)| {
        let mut rule = more.clone();
        rule["name"] = json!(name);
        rule["matches"] = json!([{"path": {"value": format!("/{name}")}}]);
        rule["backendRefs"] = json!([{"name": "web", "port": 80}]);
        rule
    });
    let spec = json!({"parentRefs": [parent()], "rules": rules.collect::<Vec<_>>()});
    let mut fixture = Fixture::from(snapshot("http", &[endpoint])).object::<HttpRoute>("r", &spec);
    for (number, policy) in policies.iter().enumerate() {
        fixture = fixture.object::<TrafficPolicy>(&format!("p{number}"), policy);
    }
    let node = Node::start("http", &[endpoint]);
    node.change(fixture.snapshot());
    node
}

fn parent() -> Value {
    json!({"group": "", "kind": "Service", "name": "web"})
}

/// The status that a request of HTTP/1.1 gets.
async fn ask(node: &Node, method: &str, path: &str) -> u16 {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n");
    let answer = node.raw(&request).await;
    answer
        .get(9..12)
        .and_then(|it| it.parse().ok())
        .unwrap_or(0)
}

#[tokio::test]
async fn a_rule_ends_its_requests_in_time() {
    let (endpoint, _server) = server(|mut stream| async move {
        stream.read_buf(&mut Vec::with_capacity(1024)).await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        stream.write_all(answer).await
    })
    .await;
    let rules = [
        ("hurried", json!({"timeouts": {"request": "100ms"}})),
        ("patient", json!({})),
    ];
    let node = node(endpoint, &rules, &[]);
    assert_eq!(ask(&node, "GET", "/hurried").await, 504);
    assert_eq!(ask(&node, "GET", "/patient").await, 200);
}

#[tokio::test]
async fn a_rule_repeats_the_codes_that_it_names() {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let (endpoint, _server) = http1_server(move |_| {
        let mut answer = text("ok");
        if counter.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            *answer.status_mut() = StatusCode::IM_A_TEAPOT;
        }
        answer
    })
    .await;
    let retry = |codes: Value| json!({"retry": {"codes": codes, "backoff": "1ms"}});
    let rules = [("own", retry(json!([418]))), ("other", retry(json!([503])))];
    let node = node(endpoint, &rules, &[]);
    assert_eq!(ask(&node, "GET", "/own").await, 200);
    assert_eq!(count.load(Ordering::Relaxed), 2);
    assert_eq!(ask(&node, "GET", "/other").await, 418);
    assert_eq!(count.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_route_and_a_rule_have_limits_of_their_own() {
    let (endpoint, _server) = http1_server(|_| text("ok")).await;
    let limit = |requests: u32| json!([{"requests": requests, "per": "1h"}]);
    let of_route = json!({"target": {"kind": "HTTPRoute", "name": "r"}, "rateLimits": limit(3)});
    let mut of_rule = of_route.clone();
    of_rule["target"]["sectionName"] = json!("a");
    of_rule["rateLimits"] = limit(1);
    let rules = [("a", json!({})), ("b", json!({}))];
    let node = node(endpoint, &rules, &[of_route, of_rule]);
    for (path, status) in [
        ("/a", 200),
        ("/a", 429),
        ("/b", 200),
        ("/b", 200),
        ("/b", 429),
    ] {
        assert_eq!(ask(&node, "GET", path).await, status, "{path}");
    }
}

/// A server of HTTP/2 that says its name in the head of its answers, and ends calls well.
async fn named(name: &'static str) -> (SocketAddr, JoinHandle<()>) {
    server(move |stream| async move {
        let answer = move |_| {
            let mut answer = Response::new(Full::new(Bytes::new()));
            let headers = answer.headers_mut();
            headers.insert("content-type", "application/grpc".parse().unwrap());
            headers.insert("grpc-status", "0".parse().unwrap());
            headers.insert("x-name", name.parse().unwrap());
            std::future::ready(Ok::<_, Infallible>(answer))
        };
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service_fn(answer))
            .await
            .map_err(std::io::Error::other)
    })
    .await
}

#[tokio::test]
async fn a_call_goes_where_its_grpc_route_sends_it() {
    let (web, _web) = named("web").await;
    let (cart, _cart) = named("cart").await;
    let ports = json!([{"name": "main", "port": 80, "protocol": "grpc"}]);
    let address = json!({"service": "cart", "address": cart.ip(), "ports": {"main": cart.port()}});
    let to = |name: &str, method: Value| json!({"matches": [{"method": method}], "backendRefs": [{"name": name, "port": 80}]});
    let rules = [
        to("cart", json!({"service": "shop.Cart"})),
        to("web", json!({"service": "shop.Cart", "method": "List"})),
    ];
    let registry = Fixture::from(snapshot("grpc", &[web]))
        .service("cart", &json!({"addresses": ["240.0.0.2"], "ports": ports}))
        .endpoint("cart-0", &["main"], &address)
        .object::<GrpcRoute>("r", &json!({"parentRefs": [parent()], "rules": rules}));
    let node = Node::start("grpc", &[web]);
    node.change(registry.snapshot());
    let mut client = http2_client(&node).await;
    for (method, status, name) in [
        ("shop.Cart/Add", "0", Some("cart")),
        ("shop.Cart/List", "0", Some("web")),
        // UNIMPLEMENTED: no rule is for it.
        ("shop.Till/Pay", "12", None),
    ] {
        let call = Request::post(format!("http://web.shop/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let answer = within(client.send_request(call)).await.unwrap();
        let headers = answer.headers();
        assert_eq!(headers["grpc-status"], status, "{method}");
        let found = headers.get("x-name").map(|it| it.to_str().unwrap());
        assert_eq!(found, name, "{method}");
    }
}

#[tokio::test]
async fn a_refused_stream_is_repeated_elsewhere_whatever_the_method() {
    let refused = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&refused);
    let (refusing, _refusing) = server(move |stream| {
        let counter = Arc::clone(&counter);
        async move {
            let connection = h2::server::handshake(stream).await;
            let mut connection = connection.map_err(std::io::Error::other)?;
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
            Ok(())
        }
    })
    .await;
    let (good, _good) = named("good").await;
    let node = Node::start("http2", &[refusing, good]);
    let mut client = http2_client(&node).await;
    for _ in 0..4 {
        let request = Request::post("http://web.shop/").body(Empty::<Bytes>::new());
        let answer = within(client.send_request(request.unwrap())).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-name"], "good");
        drop(within(answer.into_body().collect()).await);
    }
    assert!(refused.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn only_what_may_be_repeated_is_hedged_and_who_loses_is_let_go() {
    let (asked, let_go) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let stuck = || {
        let (asked, let_go) = (Arc::clone(&asked), Arc::clone(&let_go));
        server(move |mut stream| {
            let (asked, let_go) = (Arc::clone(&asked), Arc::clone(&let_go));
            async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut request).await?;
                }
                let is_first = asked.fetch_add(1, Ordering::Relaxed) == 0;
                let is_post = request.starts_with(b"POST");
                let patience = if is_post {
                    Duration::from_millis(300)
                } else if is_first {
                    PATIENCE
                } else {
                    Duration::ZERO
                };
                let left = tokio::time::timeout(patience, stream.read(&mut [0])).await;
                if matches!(left, Ok(Ok(0))) {
                    let_go.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
                stream.write_all(answer).await
            }
        })
    };
    let (one, _one) = stuck().await;
    let (two, _two) = stuck().await;
    let all = json!({"percent": 100, "minPerSecond": 0});
    let spec = json!({"hedging": {"after": "30ms"}, "retries": {"attempts": 0, "budget": all}});
    let node = Node::guarded("http", &[one, two], &spec);
    // Half of the budget is for hedges: two requests for each.
    for _ in 0..4 {
        asked.store(1, Ordering::Relaxed);
        assert_eq!(ask(&node, "POST", "/").await, 200);
        assert_eq!(asked.load(Ordering::Relaxed), 2, "it is not asked twice");
    }
    asked.store(0, Ordering::Relaxed);
    assert_eq!(ask(&node, "GET", "/").await, 200);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    eventually("the loser is let go", || {
        let_go.load(Ordering::Relaxed) == 1
    })
    .await;
    node.metric(&["mesh_proxy_hedges_total", "won"], 1).await;
}
