//! Checks are run, and what they show is in the registry; who is critical for too long or has drained is not.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

use super::*;
use crate::net::conn::NoTable;
use crate::net::tls::fixture;
use crate::state::decode;
use crate::state::life::{MADE_FOR_ENDPOINTS, Standing};
use crate::state::object::Kind;
use crate::state::{Manifest, Origin, Source};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// A registry with a runner.
struct Fixture {
    store: Arc<Store>,
    heartbeats: Arc<Heartbeats>,
    is_busy: Arc<AtomicBool>,
    _task: JoinSet<()>,
}

impl Fixture {
    fn new() -> Self {
        Self::over(Arc::new(Store::in_memory()))
    }

    fn over(store: Arc<Store>) -> Self {
        Self::trusting(store, None)
    }

    fn trusting(store: Arc<Store>, authorities: Option<PathBuf>) -> Self {
        let writer = Arc::clone(&store);
        let is_busy = Arc::new(AtomicBool::new(false));
        let busy = Arc::clone(&is_busy);
        let config = Config {
            store: Arc::clone(&store),
            write: Arc::new(move |change| writer.apply(change)),
            is_ours: Arc::new(|_| true),
            table: Arc::new(NoTable),
            host: Arc::new(Netns::current().unwrap()),
            trust: Arc::new(Trust::new(authorities).unwrap()),
            node: Some("here".to_owned()),
            busy: Arc::new(move |_| busy.load(Ordering::Relaxed)),
        };
        let checks = Checks::new(config, &mut Registry::new());
        let heartbeats = checks.heartbeats();
        let mut task = JoinSet::new();
        task.spawn(async move { checks.run().await });
        Self {
            store,
            heartbeats,
            is_busy,
            _task: task,
        }
    }

    fn put(&self, kind: Kind, name: &str, spec: Value) {
        let manifest = decode::manifest(kind, &key(name), json!({ "spec": spec })).unwrap();
        self.store.apply(Change::Put(manifest)).unwrap();
    }

    fn endpoint(&self, name: &str, fields: &Value) {
        let mut spec = json!({"service": "web", "address": "10.0.0.3"});
        for (name, value) in fields.as_object().unwrap() {
            spec[name] = value.clone();
        }
        self.put(Kind::Endpoint, name, spec);
    }

    /// An endpoint by the word of a workload that is at its address.
    fn endpoint_of_workload(&self, name: &str, address: &str, checks: &Value) {
        let spec = json!({"service": "web", "address": address, "checks": checks});
        let manifest = decode::manifest(Kind::Endpoint, &key(name), json!({ "spec": spec }));
        let Ok(Manifest::Endpoint(mut endpoint)) = manifest else {
            panic!("it is an Endpoint");
        };
        Arc::make_mut(&mut endpoint).mark_as_of_workload();
        let change = Change::Put(Manifest::Endpoint(endpoint));
        self.store.apply(change).unwrap();
    }

    fn output(&self, name: &str) -> String {
        let snapshot = self.store.snapshot();
        let checks = &snapshot.endpoints[&key(name)].status.checks;
        checks[0].output.clone()
    }

    fn standing(&self, name: &str) -> Option<Standing> {
        let snapshot = self.store.snapshot();
        snapshot.endpoints.get(&key(name))?.status.standing()
    }

    /// Waits until an endpoint stands so; `None`: until it is gone.
    async fn becomes(&self, name: &str, wanted: Option<Standing>) {
        let wait = async {
            while self.standing(name) != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let is_so = tokio::time::timeout(DEADLINE, wait).await.is_ok();
        assert!(is_so, "{name} is {:?}", self.standing(name));
    }

    async fn beat(&self, name: &str, status: HealthStatus) {
        let heartbeats = Arc::clone(&self.heartbeats);
        let id = (key(name), "alive".to_owned());
        let beat = move || heartbeats.beat(&id, status, "fine".to_owned());
        spawn_blocking(beat).await.unwrap().unwrap();
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

#[tokio::test]
async fn silence_is_critical_and_the_next_word_heals() {
    let fixture = Fixture::new();
    let checks = json!({"checks": [{"id": "alive", "ttl": "1s", "initialStatus": "passing"}]});
    fixture.endpoint("web-1", &checks);
    assert_eq!(fixture.standing("web-1"), Some(Standing::Ready));
    fixture.becomes("web-1", Some(Standing::Critical)).await;
    fixture.beat("web-1", HealthStatus::Warning).await;
    assert_eq!(fixture.standing("web-1"), Some(Standing::Warning));
    fixture.becomes("web-1", Some(Standing::Critical)).await;
    let snapshot = fixture.store.snapshot();
    let health = snapshot.endpoints[&key("web-1")].status.health.clone();
    assert_eq!(health.unwrap().output, "TTL expired (last words: fine)");
}

#[tokio::test]
async fn a_start_of_the_agent_leaves_the_word_alone_for_one_ttl() {
    let fixture = Fixture::new();
    fixture.endpoint("web-1", &json!({"checks": [{"id": "alive", "ttl": "1s"}]}));
    fixture.beat("web-1", HealthStatus::Passing).await;
    let store = Arc::clone(&fixture.store);
    drop(fixture);
    let started = std::time::Instant::now();
    let fixture = Fixture::over(store);
    fixture.becomes("web-1", Some(Standing::Critical)).await;
    assert!(started.elapsed() >= Duration::from_secs(1));
}

/// A server that answers with the status that it is told; 0: it closes.
async fn server() -> (String, Arc<AtomicU16>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let status = Arc::new(AtomicU16::new(200));
    let told = Arc::clone(&status);
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let status = told.load(Ordering::Relaxed);
            if status == 0 {
                continue;
            }
            let mut head = vec![0; 4096];
            drop(stream.read(&mut head).await);
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 4\r\n\r\nbody");
            drop(stream.write_all(answer.as_bytes()).await);
        }
    });
    (address, status, task)
}

#[tokio::test]
async fn a_request_shows_how_it_is() {
    let fixture = Fixture::new();
    let (address, status, _server) = server().await;
    let url = format!("http://{address}/health?deep=1");
    let check = json!({"id": "http", "http": {"url": url}, "interval": "100ms", "timeout": "1s"});
    fixture.endpoint("web-1", &json!({ "checks": [check] }));
    fixture.becomes("web-1", Some(Standing::Ready)).await;
    let snapshot = fixture.store.snapshot();
    let output = snapshot.endpoints[&key("web-1")].status.checks[0]
        .output
        .clone();
    assert_eq!(output, "GET /health?deep=1: 200 OK body");
    status.store(429, Ordering::Relaxed);
    fixture.becomes("web-1", Some(Standing::Warning)).await;
    status.store(500, Ordering::Relaxed);
    fixture.becomes("web-1", Some(Standing::Critical)).await;
    status.store(200, Ordering::Relaxed);
    fixture.becomes("web-1", Some(Standing::Ready)).await;
    status.store(0, Ordering::Relaxed);
    fixture.becomes("web-1", Some(Standing::Critical)).await;
}

#[tokio::test]
async fn what_a_workload_says_is_asked_from_there_only() {
    let fixture = Fixture::new();
    let (address, _, _server) = server().await;
    let check = json!({"id": "tcp", "tcp": {"address": address}, "interval": "100ms", "timeout": "1s",
        "initialStatus": "passing"});
    fixture.endpoint_of_workload("own", "10.0.0.3", &json!([check]));
    fixture.becomes("own", Some(Standing::Critical)).await;
    let output = || fixture.output("own");
    assert!(output().contains("is gone"), "{}", output());
    let here = json!({"addresses": ["10.0.0.3"], "netns": "/proc/self/ns/net"});
    fixture.put(Kind::Workload, "web", here);
    fixture.becomes("own", Some(Standing::Ready)).await;
    let lost = json!({"addresses": ["10.0.0.3"], "netns": "/run/netns/nowhere"});
    fixture.put(Kind::Workload, "web", lost);
    fixture.becomes("own", Some(Standing::Critical)).await;
    assert!(output().contains("/run/netns/nowhere"), "{}", output());
}

#[tokio::test]
async fn for_a_workload_nobody_else_is_asked() {
    let fixture = Fixture::new();
    let (address, _, _server) = server().await;
    let here = json!({"addresses": ["10.0.0.3"], "netns": "/proc/self/ns/net"});
    fixture.put(Kind::Workload, "web", here);
    // A name may mean anybody, also where it means loopback now.
    for elsewhere in ["192.0.2.1:80", "ip6-localhost:80", "[2001:db8::1]:80"] {
        for check in [
            json!({"tcp": {"address": elsewhere}}),
            json!({"grpc": {"address": elsewhere}}),
            json!({"http": {"url": format!("http://{elsewhere}/")}}),
        ] {
            let mut check = check;
            check["id"] = json!("asks");
            check["initialStatus"] = json!("passing");
            fixture.endpoint_of_workload("own", "10.0.0.3", &json!([check]));
            fixture.becomes("own", Some(Standing::Critical)).await;
            let output = fixture.output("own");
            assert!(output.contains("its own addresses"), "{check}: {output}");
            let at_home = json!([{"id": "asks", "tcp": {"address": address}}]);
            fixture.endpoint_of_workload("own", "10.0.0.3", &at_home);
            fixture.becomes("own", Some(Standing::Ready)).await;
        }
    }
}

#[tokio::test]
async fn silence_of_the_one_holds_up_no_check_of_another() {
    /// The silent ones run out of time much later.
    const SOON: Duration = Duration::from_mins(1);
    let fixture = Fixture::new();
    let (address, _, _server) = server().await;
    // Connections are taken by the kernel, and nobody reads.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let silence =
        (0..32).map(|it| json!({"id": it.to_string(), "http": {"url": url}, "timeout": "10m"}));
    let silence: Value = silence.collect();
    for (address, netns) in [("10.0.0.3", "self"), ("10.0.0.4", "thread-self")] {
        let netns = format!("/proc/{netns}/ns/net");
        let own = json!({"addresses": [address], "netns": netns});
        fixture.put(Kind::Workload, address, own);
    }
    for name in ["silent-1", "silent-2"] {
        fixture.endpoint(name, &json!({ "checks": silence }));
    }
    for name in ["own-1", "own-2"] {
        fixture.endpoint_of_workload(name, "10.0.0.3", &silence);
    }
    let begun = std::time::Instant::now();
    let heartbeat = json!([{"id": "alive", "ttl": "200ms", "initialStatus": "passing"}]);
    fixture.endpoint("ttl", &json!({ "checks": heartbeat }));
    let tcp = json!([{"id": "tcp", "tcp": {"address": address}}]);
    fixture.endpoint_of_workload("other", "10.0.0.4", &tcp);
    let leaving = json!({"lifecycle": "draining", "drainFor": "1s"});
    fixture.endpoint("leaving", &leaving);

    fixture.becomes("ttl", Some(Standing::Critical)).await;
    fixture.becomes("other", Some(Standing::Ready)).await;
    fixture.becomes("leaving", None).await;

    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_connection_shows_that_somebody_listens() {
    let fixture = Fixture::new();
    let (address, _, server) = server().await;
    let address = address.replace("127.0.0.1", "localhost");
    let check =
        json!({"id": "tcp", "tcp": {"address": address}, "interval": "100ms", "timeout": "1s"});
    fixture.endpoint("web-1", &json!({ "checks": [check] }));
    fixture.becomes("web-1", Some(Standing::Ready)).await;
    drop(server);
    fixture.becomes("web-1", Some(Standing::Critical)).await;
}

/// A server behind TLS that speaks `protocol`, and says in the words of gRPC that it is well.
async fn tls_server(folder: &Path, protocol: &'static str) -> (String, JoinSet<()>) {
    let acceptor = fixture::acceptor(folder, protocol);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let asked = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            let io = TokioIo::new(stream);
            // A client that goes is no failure.
            match asked.as_deref() {
                Some(b"http/1.1") => drop(
                    http1::Builder::new()
                        .serve_connection(io, service_fn(serving))
                        .await,
                ),
                Some(b"h2") => drop(
                    http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, service_fn(serving))
                        .await,
                ),
                _ => {}
            }
        }
    });
    (address, task)
}

async fn serving(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = Full::new(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]));
    let mut response = Response::new(body);
    let fields = response.headers_mut();
    fields.insert("grpc-status", HeaderValue::from_static("0"));
    Ok(response)
}

#[tokio::test]
async fn over_tls_a_check_believes_whom_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    fixture::make_certificates(folder.path());
    let store = Arc::new(Store::in_memory());
    let authority = folder.path().join("authority.pem");
    let fixture = Fixture::trusting(store, Some(authority));
    let (http, _http) = tls_server(folder.path(), "http/1.1").await;
    let (grpc, _grpc) = tls_server(folder.path(), "h2").await;
    let url = format!("https://{http}/");
    for (name, target, tls) in [
        ("http", json!({ "url": url }), json!({})),
        (
            "http",
            json!({ "url": url }),
            json!({"serverName": "server.test"}),
        ),
        (
            "http",
            json!({ "url": url }),
            json!({"serverName": "elsewhere.test", "insecureSkipVerify": true}),
        ),
        ("grpc", json!({ "address": grpc }), json!({})),
        ("tcp", json!({ "address": http }), json!({})),
    ] {
        let check = json!({"id": "tls", name: target, "tls": tls, "interval": "100ms"});
        fixture.endpoint("web-1", &json!({ "checks": [check] }));
        fixture.becomes("web-1", Some(Standing::Ready)).await;
        fixture.endpoint("web-1", &json!({}));
    }
    let elsewhere = json!({"serverName": "elsewhere.test"});
    for (name, target) in [
        ("http", json!({ "url": url })),
        ("tcp", json!({ "address": http })),
    ] {
        let check = json!({"id": "tls", name: target, "tls": elsewhere, "interval": "100ms", "initialStatus": "passing"});
        fixture.endpoint("web-1", &json!({ "checks": [check] }));
        fixture.becomes("web-1", Some(Standing::Critical)).await;
        let snapshot = fixture.store.snapshot();
        let output = &snapshot.endpoints[&key("web-1")].status.checks[0].output;
        assert!(
            output.contains("no TLS") && output.contains("elsewhere.test"),
            "{output}"
        );
        fixture.endpoint("web-1", &json!({}));
    }
}

#[tokio::test]
async fn what_runs_on_another_node_is_not_asked_from_here() {
    let fixture = Fixture::new();
    let (address, _, _server) = server().await;
    let check = json!({"id": "tcp", "tcp": {"address": address}, "interval": "100ms"});
    let elsewhere = json!({"checks": [check], "locality": {"node": "there"}});
    fixture.endpoint("web-1", &elsewhere);
    let here = json!({"checks": [check], "locality": {"node": "here"}});
    fixture.endpoint("web-2", &here);
    fixture.becomes("web-2", Some(Standing::Ready)).await;
    assert_eq!(fixture.standing("web-1"), Some(Standing::Critical));
}

#[tokio::test]
async fn an_alias_follows_the_service() {
    let fixture = Fixture::new();
    let ports = json!({"ports": [{"name": "main", "port": 5432}]});
    fixture.put(Kind::Service, "db", ports);
    let check = json!({"id": "db", "alias": {"service": "db"}});
    fixture.endpoint("web-1", &json!({ "checks": [check] }));
    fixture.becomes("web-1", Some(Standing::Critical)).await;
    let db = json!({"service": "db", "address": "10.0.0.4"});
    fixture.put(Kind::Endpoint, "db-1", db.clone());
    fixture.becomes("web-1", Some(Standing::Ready)).await;
    let mut maintained = db;
    maintained["maintenance"] = json!({"reason": "new disk"});
    fixture.put(Kind::Endpoint, "db-1", maintained);
    fixture.becomes("web-1", Some(Standing::Critical)).await;
}

#[tokio::test]
async fn who_is_critical_for_too_long_goes_with_the_service_that_was_made_for_it() {
    let fixture = Fixture::new();
    let made = json!({"metadata": {"annotations": {(MADE_FOR_ENDPOINTS): "true"}},
        "spec": {"ports": [{"name": "main", "port": 80}]}});
    let manifest = decode::manifest(Kind::Service, &key("web"), made).unwrap();
    fixture.store.apply(Change::Put(manifest)).unwrap();
    let check = json!({"id": "alive", "ttl": "100ms", "deregisterCriticalAfter": "1s"});
    fixture.endpoint("web-1", &json!({ "checks": [check] }));
    let started = std::time::Instant::now();
    fixture.beat("web-1", HealthStatus::Passing).await;
    fixture.becomes("web-1", None).await;
    assert!(started.elapsed() >= Duration::from_secs(1));
    let is_gone = async {
        while fixture.store.snapshot().services.contains_key(&key("web")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, is_gone).await.unwrap();
}

#[tokio::test]
async fn what_a_file_says_stays_and_nobody_tries_again() {
    let store = Arc::new(Store::in_memory());
    let origin = Origin {
        source: Source::Files,
        place: "web.yaml".to_owned(),
    };
    let critical =
        json!({"checks": [{"id": "alive", "ttl": "1h", "deregisterCriticalAfter": "1s"}]});
    let draining = json!({"lifecycle": "draining", "drainFor": "1s"});
    for (name, mut spec) in [("web-1", critical), ("web-2", draining)] {
        spec["service"] = json!("web");
        spec["address"] = json!("10.0.0.3");
        let spec = json!({ "spec": spec });
        let manifest = decode::manifest(Kind::Endpoint, &key(name), spec).unwrap();
        let change = (origin.clone(), Change::Put(manifest));
        store.apply_all([change]).remove(0).unwrap();
    }
    let (writer, tries) = (Arc::clone(&store), Arc::new(AtomicU16::new(0)));
    let tried = Arc::clone(&tries);
    let write: Write = Arc::new(move |change| {
        tried.fetch_add(
            u16::from(matches!(change, Change::Delete { .. })),
            Ordering::Relaxed,
        );
        writer.apply(change)
    });
    let leaver = |name: &str| Leaver {
        key: key(name),
        store: Arc::clone(&store),
        write: Arc::clone(&write),
        busy: Arc::new(|_| false),
        metrics: Metrics::register(&mut Registry::new()),
    };
    assert_eq!(leaver("web-1").reap("alive").await, None);
    assert_eq!(leaver("web-2").leave(true).await, None);
    assert_eq!(tries.load(Ordering::Relaxed), 2, "both were due");
    assert_eq!(store.snapshot().endpoints.len(), 2);
}

#[tokio::test]
async fn who_drains_goes_when_nothing_is_under_way_or_time_is_up() {
    let fixture = Fixture::new();
    fixture.is_busy.store(true, Ordering::Relaxed);
    let draining = |time: &str| json!({"lifecycle": "draining", "drainFor": time});
    fixture.endpoint("web-1", &draining("1h"));
    fixture.endpoint("web-2", &draining("2s"));
    fixture.endpoint("web-3", &json!({"lifecycle": "draining"}));
    fixture.becomes("web-2", None).await;
    assert_eq!(fixture.standing("web-1"), Some(Standing::Draining));
    fixture.is_busy.store(false, Ordering::Relaxed);
    fixture.becomes("web-1", None).await;
    assert_eq!(fixture.standing("web-3"), Some(Standing::Draining));
}

#[tokio::test]
async fn address_that_left_its_name_goes_with_its_last_connection_however_long_that_takes() {
    let store = Arc::new(Store::in_memory());
    let left = json!({
        "metadata": {"annotations": {"mesh.dev/resolved-for": "web", "mesh.dev/left-name": "true"}},
        "spec": {"service": "web", "address": "10.0.0.3", "lifecycle": "draining"},
    });
    let manifest = decode::manifest(Kind::Endpoint, &key("web.10-0-0-3"), left).unwrap();
    store.apply(Change::Put(manifest)).unwrap();
    let is_busy = Arc::new(AtomicBool::new(true));
    let busy = Arc::clone(&is_busy);
    let leaver = Leaver {
        key: key("web.10-0-0-3"),
        store: Arc::clone(&store),
        write: Arc::new(|_| panic!("other nodes know nothing of it")),
        busy: Arc::new(move |_| busy.load(Ordering::Relaxed)),
        metrics: Metrics::register(&mut Registry::new()),
    };
    assert_eq!(leaver.leave(false).await, Some(SLOW_LOOK));
    assert_eq!(store.snapshot().endpoints.len(), 1);
    is_busy.store(false, Ordering::Relaxed);
    assert_eq!(leaver.leave(false).await, None);
    assert_eq!(store.snapshot().endpoints.len(), 0);
}
