//! The API over loopback, as a client sees it.

mod access;
mod consul;
mod fleet;
mod large;
mod objects;
mod views;
mod watching;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::objects::paths as objects_paths;
use super::{Config, ConsulConfig, Metrics, Node, NodeError, Server};
use crate::state::endpoint::HealthStatus;
use crate::state::graph::{self, Graph, Observed};
use crate::state::object::{Kind, ObjectKey};
use crate::state::report::{
    BpfReport, BreakerList, ConnectionList, CoverageList, Explanation, RequestExplanation,
    RequestQuestion, Status, Transport,
};
use crate::state::{Change, Refusal, Snapshot, Store};

/// A node that has fixed answers.
#[derive(Default)]
pub(super) struct FixedNode {
    is_draining: AtomicBool,
    store: Option<Arc<Store>>,
}

impl Node for FixedNode {
    fn status(&self) -> Status {
        Status {
            version: "test".to_owned(),
            draining: self.is_draining.load(Ordering::Relaxed),
            ..Status::default()
        }
    }

    fn coverage(&self) -> Result<CoverageList, NodeError> {
        Ok(CoverageList::default())
    }

    fn connections(&self) -> Result<ConnectionList, NodeError> {
        Ok(ConnectionList::default())
    }

    fn graph(&self, namespace: Option<&str>) -> Result<Graph, NodeError> {
        let snapshot = Snapshot::default();
        Ok(graph::graph(&snapshot, &Observed::new(), namespace))
    }

    fn breakers(&self) -> BreakerList {
        BreakerList::default()
    }

    fn explain(
        &self,
        _: &ObjectKey,
        destination: SocketAddr,
        transport: Transport,
        request: Option<&RequestQuestion>,
    ) -> Result<Explanation, NodeError> {
        let verb = match transport {
            Transport::Tcp => "dialled",
            Transport::Udp => "sent",
        };
        let shown = |it: &RequestQuestion| RequestExplanation {
            path: it.path.clone(),
            reason: it.method.clone(),
            filters: it.headers.iter().map(|(k, v)| format!("{k}={v}")).collect(),
            ..RequestExplanation::default()
        };
        Ok(Explanation {
            request: request.map(shown),
            verdict: "pass".to_owned(),
            reason: format!("{verb}-{}", destination.port()),
            ..Explanation::default()
        })
    }

    fn bpf(&self) -> Result<BpfReport, NodeError> {
        Err(NodeError::Unavailable {
            message: "the kernel programs are not loaded".to_owned(),
        })
    }

    fn config_dump(&self) -> Value {
        json!({"workers": 2})
    }

    fn set_log_level(&self, level: &str) -> Result<(), NodeError> {
        if level == "debug" {
            return Ok(());
        }
        Err(NodeError::Invalid {
            field: "level".to_owned(),
            message: format!("{level:?} is no level"),
        })
    }

    fn beat(
        &self,
        (endpoint, id): &(ObjectKey, String),
        status: HealthStatus,
        output: String,
    ) -> Result<(), Refusal> {
        let change = Change::Check {
            endpoint: endpoint.clone(),
            id: id.clone(),
            status,
            output,
        };
        let store = self.store.as_ref().expect("a registry");
        store.apply(change).map(|_applied| ())
    }

    fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    fn pending(&self) -> Vec<String> {
        if self.is_draining.load(Ordering::Relaxed) {
            return vec!["draining".to_owned()];
        }
        Vec::new()
    }

    fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }
}

/// A running API.
struct Fixture {
    address: SocketAddr,
    metrics: SocketAddr,
    /// What the server counts.
    counted: Metrics,
    store: Arc<Store>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// Status, field and reason of a problem.
    fn problem(&self) -> (u16, String, String) {
        assert_eq!(self.headers[CONTENT_TYPE], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["type"], "about:blank");
        assert!(problem["title"].is_string() && problem["detail"].is_string());
        let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
        (self.status.as_u16(), text("field"), text("reason"))
    }
}

pub(super) fn config() -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        unix: None,
        metrics: Some("127.0.0.1:0".parse().unwrap()),
        token_file: None,
        allowed_hosts: vec!["agent.example".to_owned()],
        consul: ConsulConfig {
            node: "here".to_owned(),
            address: || "10.0.0.9".parse().ok(),
            locality: None,
        },
        counts: Metrics::default(),
    }
}

impl Fixture {
    async fn new() -> Self {
        Self::with(config()).await
    }

    async fn with(config: Config) -> Self {
        let store = Arc::new(Store::in_memory());
        let node = Arc::new(FixedNode {
            store: Some(Arc::clone(&store)),
            ..FixedNode::default()
        });
        let counted = config.counts.clone();
        let server = Server::bind(config, Arc::clone(&store), node).await;
        let server = server.unwrap();
        let stop = CancellationToken::new();
        Self {
            address: server.address(),
            metrics: server.metrics_address().unwrap(),
            counted,
            store,
            stop: stop.clone(),
            task: tokio::spawn(server.run(stop)),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(request(Method::PUT, path, body)).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path).body(Body::empty()).unwrap())
            .await
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        send(self.address, request).await
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task)
            .await
            .expect("the server stops")
            .unwrap();
    }
}

fn request(method: Method, path: &str, body: &Value) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()))
        .unwrap()
}

async fn send(address: SocketAddr, mut request: Request<Body>) -> Answer {
    if !request.headers().contains_key(HOST) {
        let host = address.to_string().parse().unwrap();
        request.headers_mut().insert(HOST, host);
    }
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(_) => Bytes::new(),
    };
    connection.abort();
    Answer {
        status: parts.status,
        headers: parts.headers,
        text: String::from_utf8(bytes.to_vec()).unwrap(),
    }
}

fn service() -> Value {
    json!({"spec": {"ports": [{"name": "http", "port": 80, "protocol": "http"}]}})
}

const WEB: &str = "/api/v1/namespaces/shop/services/web";

/// Path and method of everything that the document lists.
fn documented(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap();
    let rows = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().keys();
        methods.map(move |method| (path.clone(), method.clone()))
    });
    rows.collect()
}

#[tokio::test]
async fn every_documented_route_is_there() {
    let fixture = Fixture::new().await;
    let document = fixture.get("/openapi.json").await.json();
    for (path, method) in documented(&document) {
        let path = path
            .replace("{namespace}", "shop")
            .replace("{name}", "nobody");
        let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let body = if method == Method::PUT {
            Body::from("{}")
        } else {
            Body::empty()
        };
        let request = Request::builder().method(&method).uri(&path).body(body);
        let answer = fixture.send(request.unwrap()).await;
        assert_ne!(answer.status, 405, "{method} {path}");
        if !path.ends_with("/nobody") {
            assert_ne!(answer.status, 404, "{method} {path}");
        }
    }
    fixture.stop().await;
}

#[tokio::test]
async fn every_route_is_documented() {
    let fixture = Fixture::new().await;

    let document = fixture.get("/openapi.json").await.json();

    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let documented = documented(&document);
    let has = |method: &str, path: &str| {
        let row = (path.to_owned(), method.to_owned());
        assert!(documented.contains(&row), "{method} {path}");
    };
    for kind in Kind::ALL {
        let [object, namespaced, all] = objects_paths(kind);
        for method in ["get", "put", "delete"] {
            has(method, &object);
        }
        has("get", &namespaced);
        has("get", &all);
    }
    let views = "status coverage connections breakers config_dump explain bpf";
    for view in views.split(' ') {
        has("get", &format!("/api/v1/{view}"));
    }
    has("put", "/api/v1/log-level");
    has("post", "/api/v1/drain");
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"] {
        has("get", path);
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "no schema {name}");
    }
    fixture.stop().await;
}
