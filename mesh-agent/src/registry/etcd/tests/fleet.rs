//! A real etcd, and nodes that share it: each with a store and the link, and without a kernel.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio_util::task::AbortOnDropHandle;

use super::super::{Config, Etcd};
use crate::metrics::Registry;
use crate::net::tls::{TlsFiles, fixture};
use crate::registry::Board;
use crate::state::endpoint::Endpoint;
use crate::state::object::{Condition, Kind, ObjectKey};
use crate::state::report::RejectionReport;
use crate::state::service::Service;
use crate::state::{Change, Store, Writer, decode, store};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// The shortest lease that etcd makes.
const TTL: Duration = Duration::from_secs(2);

/// A fleet.
pub(super) struct Fleet {
    pub(super) server: Server,
}

/// A real etcd.
pub(super) struct Server {
    pub(super) port: u16,
    peer_port: u16,
    folder: TempDir,
    is_tls: bool,
    process: Option<Child>,
}

/// A node.
pub(super) struct Member {
    pub(super) store: Arc<Store>,
    pub(super) etcd: Arc<Etcd>,
    pub(super) writer: Writer,
    pub(super) board: Board,
    config: Config,
    _folder: TempDir,
    task: Option<JoinHandle<()>>,
}

/// Stands for a member, until it hangs.
pub(super) struct Relay {
    pub(super) port: u16,
    hangs: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Relay {
    /// Passes everything on to `to`.
    pub(super) async fn start(to: u16) -> Self {
        let listener = net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        let hangs = watch::Sender::new(false);
        let seen = hangs.subscribe();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let mut seen = seen.clone();
                connections.spawn(async move {
                    let pass_on = async {
                        let mut server = net::TcpStream::connect((Ipv4Addr::LOCALHOST, to))
                            .await
                            .unwrap();
                        drop(copy_bidirectional(&mut client, &mut server).await);
                    };
                    tokio::select! {
                        biased;
                        Ok(_) = seen.wait_for(|hangs| *hangs) => {}
                        () = pass_on => return,
                    }
                    // It stays open, and says nothing.
                    std::future::pending::<()>().await;
                });
            }
        });
        Self {
            port,
            hangs,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(super) fn hang(&self) {
        self.hangs.send_replace(true);
    }
}

impl Fleet {
    pub(super) async fn start() -> Option<Self> {
        Self::start_with(false).await
    }

    pub(super) async fn start_tls() -> Option<Self> {
        Self::start_with(true).await
    }

    async fn start_with(is_tls: bool) -> Option<Self> {
        if Command::new("etcd").arg("--version").output().is_err() {
            let is_needed = std::env::var_os("MESH_TESTS_REQUIRE").is_some_and(|it| it != "0");
            assert!(!is_needed, "etcd is missing: install etcd-server");
            eprintln!("skipped: etcd is missing (Debian: etcd-server)");
            return None;
        }
        let mut server = Server {
            port: free_port(),
            peer_port: free_port(),
            folder: tempfile::tempdir().unwrap(),
            is_tls,
            process: None,
        };
        if is_tls {
            fixture::make_certificates(server.folder.path());
        }
        server.start().await;
        Some(Self { server })
    }

    /// A node that has read everything.
    pub(super) async fn node(&self, name: &str) -> Member {
        let node = self.node_unready(name);
        eventually("the node is connected", || {
            node.etcd.report().connected.then_some(())
        })
        .await;
        node
    }

    /// The same, with a lease that lasts that long.
    pub(super) async fn lasting_node(&self, name: &str, ttl: Duration) -> Member {
        let address = format!("etcd://127.0.0.1:{}", self.server.port);
        let node = node_with(name, &address, ttl);
        eventually("the node is connected", || {
            node.etcd.report().connected.then_some(())
        })
        .await;
        node
    }

    /// A node that may never be.
    pub(super) fn node_unready(&self, name: &str) -> Member {
        node_at(
            name,
            &format!("etcd://127.0.0.1:{}", self.server.port),
            None,
        )
    }

    /// A node with six virtual addresses.
    pub(super) async fn narrow_node(&self, name: &str) -> Member {
        let config = store::Config {
            virtual_ranges: vec!["10.9.0.0/29".parse().unwrap()],
        };
        let address = format!("etcd://127.0.0.1:{}", self.server.port);
        let node = Member::new(name, &address, None, TTL, config);
        eventually("the node is connected", || {
            node.etcd.report().connected.then_some(())
        })
        .await;
        node
    }
}

pub(super) fn node_at(name: &str, address: &str, tls: Option<TlsFiles>) -> Member {
    Member::new(name, address, tls, TTL, store::Config::default())
}

/// A node whose lease lasts that long.
pub(super) fn node_with(name: &str, address: &str, ttl: Duration) -> Member {
    Member::new(name, address, None, ttl, store::Config::default())
}

impl Member {
    fn new(
        name: &str,
        address: &str,
        tls: Option<TlsFiles>,
        ttl: Duration,
        config: store::Config,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::in_memory_with(config));
        let config = Config {
            address: address.parse().unwrap(),
            tls,
            ttl,
            node: name.to_owned(),
            state_dir: folder.path().to_owned(),
        };
        let board = Board::default();
        let (etcd, writer) = open(&config, &store, &board);
        let mut node = Self {
            store,
            etcd,
            writer,
            board,
            config,
            _folder: folder,
            task: None,
        };
        node.resume();
        node
    }

    /// What is refused.
    pub(super) fn rejections(&self) -> Vec<RejectionReport> {
        let mut reports = self.board.read();
        reports.pop().unwrap().rejections
    }

    pub(super) fn service(&self, name: &str) -> Option<Arc<Service>> {
        self.store.snapshot().services.get(&key(name)).cloned()
    }

    pub(super) fn endpoint(&self, name: &str) -> Option<Arc<Endpoint>> {
        self.store.snapshot().endpoints.get(&key(name)).cloned()
    }

    /// Stops the link, as the end of the agent does.
    pub(super) async fn stop(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        drop(task.await);
    }

    /// Lets a new agent go on with the same store.
    pub(super) fn run(&mut self) {
        (self.etcd, self.writer) = open(&self.config, &self.store, &self.board);
        self.resume();
    }

    /// Lets the same agent go on.
    pub(super) fn resume(&mut self) {
        let etcd = Arc::clone(&self.etcd);
        self.task = Some(tokio::spawn(async move {
            etcd.run().await.unwrap();
        }));
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn open(config: &Config, store: &Arc<Store>, board: &Board) -> (Arc<Etcd>, Writer) {
    let mut registry = Registry::new();
    let (etcd, writer) = Etcd::open(
        config.clone(),
        Arc::clone(store),
        board.clone(),
        &mut registry,
    )
    .unwrap();
    (Arc::new(etcd), writer)
}

impl Server {
    /// Starts it, on what an earlier one has left, and waits until it answers.
    pub(super) async fn start(&mut self) {
        let scheme = if self.is_tls { "https" } else { "http" };
        let clients = format!("{scheme}://127.0.0.1:{}", self.port);
        let peers = format!("http://127.0.0.1:{}", self.peer_port);
        let log = File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args([
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &clients,
            ])
            .args([
                "--listen-peer-urls",
                &peers,
                "--initial-advertise-peer-urls",
                &peers,
            ])
            .args([
                "--initial-cluster",
                &format!("default={peers}"),
                "--unsafe-no-fsync",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if self.is_tls {
            let file = |name: &str| self.folder.path().join(name);
            command.arg("--cert-file").arg(file("server.pem"));
            command.arg("--key-file").arg(file("server.key"));
        }
        self.process = Some(command.spawn().unwrap());
        let port = self.port;
        eventually("etcd listens", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        })
        .await;
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }

    pub(super) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(super) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.process.as_ref().unwrap().id();
        kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
    }

    /// Asks the gateway, without the client under test.
    pub(super) fn post(&self, path: &str, body: &Value) -> Value {
        post(self.port, path, body)
    }

    pub(super) fn put(&self, key: &str, value: &str) {
        let [key, value] = [key, value].map(|it| STANDARD.encode(it.as_bytes()));
        self.post("kv/put", &json!({"key": key, "value": value}));
    }

    /// Writes a key again and again until the answer is dropped.
    pub(super) fn keep_writing(&self, key: &str) -> AbortOnDropHandle<()> {
        let (port, body) = (self.port, json!({"key": STANDARD.encode(key.as_bytes())}));
        AbortOnDropHandle::new(tokio::task::spawn(async move {
            loop {
                let body = body.clone();
                drop(spawn_blocking(move || post(port, "kv/put", &body)).await);
            }
        }))
    }

    pub(super) fn delete(&self, key: &str) {
        let key = STANDARD.encode(key.as_bytes());
        self.post("kv/deleterange", &json!({"key": key}));
    }

    pub(super) fn get(&self, key: &str) -> Option<Value> {
        serde_json::from_str(&self.text(key)?).ok()
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        let answer = self.post("kv/range", &json!({"key": STANDARD.encode(key.as_bytes())}));
        let value = STANDARD.decode(answer["kvs"][0]["value"].as_str()?).ok()?;
        String::from_utf8(value).ok()
    }

    /// Loses everything that a server which is dead has kept.
    pub(super) fn forget(&self) {
        std::fs::remove_dir_all(self.folder.path().join("data")).unwrap();
    }

    /// Asks for a password from now on.
    pub(super) fn protect(&self, user: &str, password: &str) {
        let all = STANDARD.encode(b"\0");
        let permission = json!({"permType": "READWRITE", "key": all, "range_end": all});
        for (path, body) in [
            ("auth/user/add", json!({"name": "root", "password": "root"})),
            ("auth/role/add", json!({"name": "root"})),
            ("auth/user/grant", json!({"user": "root", "role": "root"})),
            ("auth/user/add", json!({"name": user, "password": password})),
            ("auth/role/add", json!({"name": "mesh"})),
            (
                "auth/role/grant",
                json!({"name": "mesh", "perm": permission}),
            ),
            ("auth/user/grant", json!({"user": user, "role": "mesh"})),
            ("auth/enable", json!({})),
        ] {
            self.post(path, &body);
        }
    }

    /// Who is trusted: `authority`, or `other`, who has signed nothing.
    pub(super) fn tls(&self, authority: &str) -> TlsFiles {
        TlsFiles {
            authorities: Some(self.folder.path().join(format!("{authority}.pem"))),
            own: None,
        }
    }
}

fn post(port: u16, path: &str, body: &Value) -> Value {
    let body = body.to_string();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let head = format!(
        "POST /v3/{path} HTTP/1.0\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{path}: {answer}");
    serde_json::from_str(body).unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens on, below those that the kernel gives to clients.
pub(super) fn free_port() -> u16 {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 40).unwrap() * 256;
    loop {
        let port = first + u16::from(NEXT.fetch_add(1, Ordering::Relaxed));
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Waits until there is something.
pub(super) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(super) fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

pub(super) fn put(kind: Kind, name: &str, spec: &Value) -> Change {
    Change::Put(decode::manifest(kind, &key(name), json!({"spec": spec})).unwrap())
}

pub(super) fn delete(kind: Kind, name: &str) -> Change {
    Change::Delete {
        kind,
        key: key(name),
        resource_version: None,
    }
}

pub(super) fn service() -> Value {
    json!({"ports": [{"name": "http", "port": 80}]})
}

pub(super) fn endpoint(address: &str) -> Value {
    json!({"service": "web", "address": address})
}

/// The reason of a condition.
pub(super) fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a str> {
    let found = conditions.iter().find(|it| it.kind == kind)?;
    Some(&found.reason)
}
