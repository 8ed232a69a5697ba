//! Fleet: nodes that reach each other over a switch, and an etcd beside them.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::Request;
use http_body_util::Full;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cgroup::Cgroup;
use crate::eventually::eventually;
use crate::http_client::exchange;
use crate::leftovers::PREFIX;
use crate::netns::NetNs;
use crate::node::Node;
use crate::pod::enter;
use crate::requirements;

/// Where etcd is, as the nodes see it.
const ETCD: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 78, 0, 254)), 2_379);

/// How long etcd may take to start or to answer.
const DEADLINE: Duration = Duration::from_secs(20);

/// Pods that each node may have.
const PODS: u32 = 10;

/// A switch with an etcd. Everything it is made of goes when it is dropped; drop its nodes before.
#[derive(Debug)]
pub struct Fleet {
    etcd: Mutex<Option<Child>>,
    switch: NetNs,
    cgroup: Cgroup,
    folder: TempDir,
    is_tls: bool,
}

impl Fleet {
    /// A fleet without nodes whose etcd answers; with `is_tls`, over TLS only. `None`, after saying why, where it cannot be
    /// made.
    #[must_use]
    #[track_caller]
    pub fn start(is_tls: bool) -> Option<Self> {
        static FLEETS: AtomicU32 = AtomicU32::new(0);
        if !requirements::met(true) {
            return None;
        }
        let number = FLEETS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-fleet{number}", std::process::id());
        let switch = NetNs::new(name.clone());
        switch.ip_batch(&format!(
            "link add switch type bridge\naddr add {}/24 dev switch\nlink set switch up\n",
            ETCD.ip()
        ));
        let folder = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir();
        let fleet = Self {
            etcd: Mutex::default(),
            switch,
            cgroup: Cgroup::new(&name),
            folder: folder.expect("a folder for etcd"),
            is_tls,
        };
        if is_tls {
            fleet.make_certificates();
        }
        fleet.start_etcd();
        Some(fleet)
    }

    /// Where the registry is, for `--registry`.
    #[must_use]
    pub fn registry(&self) -> String {
        let scheme = if self.is_tls { "etcds" } else { "etcd" };
        format!("{scheme}://{ETCD}/fleet")
    }

    /// Connects a node, the `number`th of at most 20, from 1. Its pods have addresses of their own.
    #[track_caller]
    pub fn connect(&self, node: &Node, number: u8) {
        node.skip_pods((u32::from(number) - 1) * PODS);
        let peer = format!("node{number}");
        node.netns().ip_batch(&format!(
            "link add switch type veth peer name {peer} netns {}\n\
             addr add 10.78.0.{number}/24 dev switch\n\
             link set switch up\n",
            self.switch.name()
        ));
        self.switch.ip_batch(&format!(
            "link set {peer} master switch\nlink set {peer} up\n"
        ));
        for other in (1..=20).filter(|other| *other != number) {
            let first = (u32::from(other) - 1) * PODS + 1;
            let routes: Vec<String> = (first..first + PODS)
                .map(|pod| format!("route add 10.77.{pod}.0/24 via 10.78.0.{other}\n"))
                .collect();
            node.netns().ip_batch(&routes.concat());
        }
    }

    /// Starts etcd on what an earlier one has left, and waits until it answers.
    #[track_caller]
    pub fn start_etcd(&self) {
        let scheme = if self.is_tls { "https" } else { "http" };
        let clients = format!("{scheme}://{ETCD}");
        let log = File::create(self.file("log")).expect("a log");
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.file("data"))
            .args([
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &clients,
            ])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
            .args(["--initial-advertise-peer-urls", "http://127.0.0.1:2380"])
            .args([
                "--initial-cluster",
                "default=http://127.0.0.1:2380",
                "--unsafe-no-fsync",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if self.is_tls {
            command.arg("--cert-file").arg(self.file("server.pem"));
            command.arg("--key-file").arg(self.file("server.key"));
            command
                .arg("--trusted-ca-file")
                .arg(self.file("authority.pem"));
            command.arg("--client-cert-auth");
        }
        enter(&mut command, &self.switch, &self.cgroup);
        *self.etcd.lock().unwrap() = Some(command.spawn().expect("etcd: install etcd-server"));
        eventually("etcd listens", DEADLINE, || {
            self.switch.run(|| TcpStream::connect(ETCD).ok()).map(drop)
        });
    }

    /// Kills etcd.
    pub fn kill_etcd(&self) {
        let etcd = self.etcd.lock().unwrap().take();
        if let Some(mut etcd) = etcd {
            drop(etcd.kill());
            drop(etcd.wait());
        }
    }

    /// Stops etcd from running, without ending it.
    #[track_caller]
    pub fn freeze_etcd(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it run again.
    #[track_caller]
    pub fn thaw_etcd(&self) {
        self.signal(Signal::SIGCONT);
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        let pid = self.etcd.lock().unwrap().as_ref().expect("etcd runs").id();
        kill(Pid::from_raw(pid.cast_signed()), signal).expect("etcd runs");
    }

    /// Asks etcd itself. Not over TLS.
    #[track_caller]
    pub fn ask(&self, path: &str, body: &Value) -> Value {
        let stream = self
            .switch
            .run(|| TcpStream::connect(ETCD))
            .expect("etcd answers");
        let request = Request::post(format!("/v3/{path}"))
            .header("host", ETCD.to_string())
            .body(Full::from(body.to_string()))
            .expect("a request");
        let answer = exchange(stream, request, DEADLINE).expect("etcd answers");
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    /// Has etcd ask for a password from now on.
    #[track_caller]
    pub fn protect(&self, user: &str, password: &str) {
        // Base64 of a zero byte: with it as its end, a range goes on to the last key.
        let permission = json!({"permType": "READWRITE", "key": "AA==", "range_end": "AA=="});
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
            self.ask(path, &body);
        }
    }

    /// A file of the fleet: `authority.pem`, `node.pem`, `node.key`.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    #[track_caller]
    fn make_certificates(&self) {
        let names = format!("subjectAltName=IP:{}\n", ETCD.ip());
        std::fs::write(self.file("names"), names).expect("a file");
        let new = "-newkey rsa:2048 -nodes";
        self.openssl(&format!(
            "req -x509 {new} -days 1 -subj /CN=authority -keyout authority.key -out authority.pem"
        ));
        for name in ["server", "node"] {
            self.openssl(&format!(
                "req -new {new} -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ));
            self.openssl(&format!(
                "x509 -req -in {name}.csr -CA authority.pem -CAkey authority.key -CAcreateserial \
                 -days 1 -extfile names -out {name}.pem"
            ));
        }
    }

    #[track_caller]
    fn openssl(&self, words: &str) {
        let mut command = Command::new("openssl");
        let made = command
            .args(words.split_whitespace())
            .current_dir(self.folder.path())
            .output()
            .expect("openssl");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.kill_etcd();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.file("log")).unwrap_or_default();
            eprintln!("log of etcd:\n{log}");
        }
    }
}
