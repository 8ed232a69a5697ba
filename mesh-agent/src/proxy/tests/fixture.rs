//! A proxy with one service at 240.0.0.1:80, one caller, and endpoints on loopback.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_common::conn::{Conn, Direction};
use mesh_common::verdict::Verdict;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::metrics::Registry;
use crate::net::conn::ConnTable;
use crate::net::netns::Netns;
use crate::proxy::view::cell::Views;
use crate::proxy::{Config, Listeners, Proxy};
use crate::state::Snapshot;
use crate::state::id::{Ids, Subject};
use crate::state::object::ObjectKey;
use crate::telemetry::AccessLog;

/// What every test waits for at most.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What the client dials.
pub(super) const DIALLED: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1)), 80);

/// Answers for the kernel.
#[derive(Default)]
pub(super) struct FixedConnTable {
    pub(super) answer: Mutex<Option<Conn>>,
    pub(super) marks: Mutex<Vec<Conn>>,
}

impl ConnTable for FixedConnTable {
    fn conn(&self, _socket: BorrowedFd<'_>) -> io::Result<Option<Conn>> {
        Ok(*self.answer.lock().expect("no panic"))
    }

    fn mark(&self, _socket: BorrowedFd<'_>, conn: &Conn) -> io::Result<()> {
        self.marks.lock().expect("no panic").push(*conn);
        Ok(())
    }
}

/// A running proxy and its surroundings.
pub(super) struct Node {
    proxy: Option<Proxy>,
    registry: Registry,
    snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) table: Arc<FixedConnTable>,
    pub(super) address: SocketAddr,
    _listeners: Listeners,
}

impl Node {
    /// A proxy before a service that speaks `protocol` at `endpoints`.
    pub(super) fn start(protocol: &str, endpoints: &[SocketAddr]) -> Self {
        Self::start_with(protocol, endpoints, Config::default())
    }

    pub(super) fn start_with(protocol: &str, endpoints: &[SocketAddr], config: Config) -> Self {
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot(protocol, endpoints)));
        let netns = Arc::new(Netns::current().expect("opens"));
        let number = |subject| snapshot.load().ids.number(&subject);
        let table = Arc::new(FixedConnTable::default());
        *table.answer.lock().expect("no panic") = Some(Conn {
            original: DIALLED.into(),
            verdict: Verdict::Proxy as u8,
            direction: Direction::Accepted as u8,
            workload: number(Subject::Workload(ObjectKey::new("shop", "client"))),
            netns: netns.cookie(),
            ..Conn::default()
        });
        let source = Arc::clone(&snapshot);
        let views = Views::new(config.locality.clone(), move || source.load_full());
        let mut registry = Registry::new();
        let config = Config {
            workers: 2,
            port: 0,
            ..config
        };
        let fixed: Arc<dyn ConnTable> = Arc::<FixedConnTable>::clone(&table);
        let proxy = Proxy::start_with(config, views, None, fixed, &mut registry).expect("starts");
        let listeners = proxy.listen(netns).expect("listens");
        let descriptor = listeners.v4.as_ref().expect("IPv4");
        let address = SockRef::from(descriptor)
            .local_addr()
            .expect("bound")
            .as_socket();
        Self {
            proxy: Some(proxy),
            registry,
            snapshot,
            table,
            address: address.expect("an IP address"),
            _listeners: listeners,
        }
    }

    /// A proxy before a service whose traffic policy says `spec`.
    pub(super) fn guarded(
        protocol: &str,
        endpoints: &[SocketAddr],
        spec: &serde_json::Value,
    ) -> Self {
        let node = Self::start(protocol, endpoints);
        node.guard(protocol, endpoints, spec);
        node
    }

    /// Puts another traffic policy in force.
    pub(super) fn guard(&self, protocol: &str, endpoints: &[SocketAddr], spec: &serde_json::Value) {
        let mut snapshot = snapshot(protocol, endpoints);
        let mut object = serde_json::json!({"apiVersion": "mesh.dev/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
        object["spec"]["target"] = serde_json::json!({"kind": "Service", "name": "web"});
        let policy = serde_json::from_value(object).expect("a traffic policy");
        snapshot
            .traffic_policies
            .insert(ObjectKey::new("shop", "p"), Arc::new(policy));
        self.change(snapshot);
    }

    /// The number of a subject of the registry.
    pub(super) fn number(&self, subject: Subject) -> u32 {
        self.snapshot.load().ids.number(&subject)
    }

    pub(super) fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("running")
    }

    /// The registry that is in force.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot::clone(&self.snapshot.load())
    }

    /// Puts another registry in force.
    pub(super) fn change(&self, mut snapshot: Snapshot) {
        snapshot.revision = self.snapshot.load().revision + 1;
        self.snapshot.store(Arc::new(snapshot));
        self.proxy().shared.views.refresh();
    }

    /// Dials the proxy as a client would be sent to it.
    pub(super) async fn connect(&self) -> TcpStream {
        within(TcpStream::connect(self.address))
            .await
            .expect("connects")
    }

    /// Whether a new connection is reset before it brings anything; `word` is what its client says first.
    pub(super) async fn resets(&self, word: &[u8]) -> bool {
        let talk = async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(word).await?;
            stream.read(&mut [0]).await
        };
        matches!(within(talk).await, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
    }

    /// Sends raw bytes on a new connection and reads until the proxy closes.
    pub(super) async fn raw(&self, request: &str) -> String {
        let mut response = Vec::new();
        // A reset is as good an end as any, and who is refused may hear of it at any step.
        let talk = async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_end(&mut response).await
        };
        drop(within(talk).await);
        String::from_utf8_lossy(&response).into_owned()
    }

    /// The value of the series whose line holds all of `parts`, once it is at least `least`.
    pub(super) async fn metric(&self, parts: &[&str], least: u64) -> u64 {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let value = self.metric_now(parts);
            if value >= least {
                return value;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{parts:?} is {value}, in\n{}",
                self.registry.encode().expect("encodes")
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The same as it is now.
    pub(super) fn metric_now(&self, parts: &[&str]) -> u64 {
        let text = self.registry.encode().expect("encodes");
        text.lines()
            .filter(|line| parts.iter().all(|part| line.contains(part)))
            .filter_map(|line| {
                line.rsplit(' ')
                    .next()?
                    .split('.')
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .sum()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Off the test's runtime: stopping joins threads.
        if let Some(proxy) = self.proxy.take() {
            proxy.stop();
        }
    }
}

/// An access log, and what is written to it.
pub(super) fn access_log() -> (AccessLog, std::sync::mpsc::Receiver<String>) {
    let (sender, lines) = std::sync::mpsc::channel();
    (AccessLog::to(Lines(sender)), lines)
}

/// Sends what is written to it.
struct Lines(std::sync::mpsc::Sender<String>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        self.0.send(text).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits, but not for ever.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

/// Asserts that something becomes so.
pub(super) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !check() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the kernel keeps at most of what goes one way on a connection whose end is not read, at both ends together.
pub(super) fn kernel_room() -> usize {
    let most = |name: &str| {
        let sizes = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        let sizes = sizes.expect("a setting of the kernel");
        let most = sizes.split_whitespace().last().expect("three sizes");
        most.parse::<usize>().expect("a number")
    };
    most("tcp_wmem") + most("tcp_rmem")
}

/// The registry: service `shop/web`, its endpoints `web-0`.., and the caller `shop/client`.
pub(super) fn snapshot(protocol: &str, endpoints: &[SocketAddr]) -> Snapshot {
    let mut snapshot = Snapshot {
        revision: 1,
        ..Snapshot::default()
    };
    let mut ids = Ids::default();
    let service = ObjectKey::new("shop", "web");
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
    let object = json(format!(
        r#"{{"apiVersion":"mesh.dev/v1alpha1","kind":"Service","metadata":{{"name":"web","namespace":"shop"}},
        "spec":{{"addresses":["{}"],"ports":[{{"name":"main","port":{},"protocol":"{protocol}"}}],"balancing":"RoundRobin"}}}}"#,
        DIALLED.ip(),
        DIALLED.port(),
    ));
    let parsed = serde_json::from_value(object).expect("a service");
    snapshot.services.insert(service.clone(), Arc::new(parsed));
    ids.assign(Subject::Service(service.clone()));
    ids.assign(Subject::Port(service, "main".to_owned()));
    for (index, address) in endpoints.iter().enumerate() {
        let key = ObjectKey::new("shop", format!("web-{index}"));
        let object = json(format!(
            r#"{{"apiVersion":"mesh.dev/v1alpha1","kind":"Endpoint","metadata":{{"name":"web-{index}","namespace":"shop"}},
            "spec":{{"service":"web","address":"{}","ports":{{"main":{}}},"version":"v{index}"}}}}"#,
            address.ip(),
            address.port(),
        ));
        ids.assign(Subject::Endpoint(key.clone(), "main".to_owned()));
        let parsed = serde_json::from_value(object).expect("an endpoint");
        snapshot.endpoints.insert(key, Arc::new(parsed));
    }
    let caller = ObjectKey::new("shop", "client");
    let object = json(
        r#"{"apiVersion":"mesh.dev/v1alpha1","kind":"Workload","metadata":{"name":"client","namespace":"shop","labels":{"app":"browser"}},
        "spec":{"netns":"/run/netns/client","addresses":["10.0.0.2"]}}"#
            .to_owned(),
    );
    let parsed = serde_json::from_value(object).expect("a workload");
    ids.assign(Subject::Workload(caller.clone()));
    snapshot.workloads.insert(caller, Arc::new(parsed));
    snapshot.ids = ids;
    snapshot
}

/// A server of raw bytes: every connection is handled by `serve`.
pub(super) async fn server<F, R>(serve: F) -> (SocketAddr, JoinHandle<()>)
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    (address, task)
}

/// A client of HTTP/2 on a connection of its own.
pub(super) async fn http2_client<B>(node: &Node) -> SendRequest<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Unpin + Send + 'static,
{
    let io = TokioIo::new(node.connect().await);
    let (sender, connection) = within(http2::handshake(TokioExecutor::new(), io))
        .await
        .expect("handshake");
    tokio::spawn(connection);
    sender
}

/// An address where nobody listens.
pub(super) async fn nobody() -> SocketAddr {
    let socket = TcpSocket::new_v4().expect("a socket");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(any).expect("binds");
    let address = socket.local_addr().expect("bound");
    assert!(TcpStream::connect(address).await.is_err());
    // A port that were free again would soon be somebody else's: of this test, or of another.
    std::mem::forget(socket);
    address
}

/// A server of HTTP/1.1 whose every request is answered by `answer`.
pub(super) async fn http1_server<F>(answer: F) -> (SocketAddr, JoinHandle<()>)
where
    F: Fn(Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
{
    server(move |stream| {
        let answer = answer.clone();
        async move {
            let service =
                service_fn(move |request| std::future::ready(Ok::<_, Infallible>(answer(request))));
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            serving.await.map_err(io::Error::other)
        }
    })
    .await
}

/// Answers with the body `text`.
pub(super) fn text(text: impl Into<String>) -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::from(text.into())))
}
