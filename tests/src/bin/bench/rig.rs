//! A node for one comparison: who asks, who answers, and every proxy between them, all up at once.
//!
//! The client dials a virtual address whoever the proxy is: the kernel takes it to our proxy, or, with a service that
//! is balanced in the kernel, to a peer that listens in the client's own namespace. So all are steered alike. Peers run
//! outside the hooked cgroup: the mesh costs them nothing else.

use std::io;
use std::net::SocketAddr;
use std::path::Path as FilePath;

use mesh_tests::eventually::{DEADLINE, becomes};
use mesh_tests::node::Node;
use mesh_tests::pod::Pod;
use mesh_tests::protocol::ServerKind;
use mesh_tests::registry::{endpoint, service, with};
use serde_json::json;
use tempfile::TempDir;

use super::features;
use super::loads::Load;
use super::outcome::{NO_MESH, Sample};
use super::peers::{Peer, Task, Wire, nginx_file};
use super::process::{
    LOAD_CPU, PROXY_CPU, Running, beside_the_load, cpu_micros, on, pin, resident_kib,
};

/// Ours.
pub(crate) const OURS: &str = "ours";
/// Ours, where the kernel moves bytes from socket to socket.
pub(crate) const FAST: &str = "ours, accelerated";
/// Ours, with every feature of traffic management switched on.
pub(crate) const FEATURES: &str = "ours, all features";

/// Ours, with ten routes.
pub(crate) const FEW_ROUTES: &str = "ours, 10 routes";
/// Ours, with ten thousand.
pub(crate) const MANY_ROUTES: &str = "ours, 10,000 routes";

/// Where what answers listens.
pub(crate) const BACKEND: u16 = 9_000;
/// What the client dials at a virtual address.
pub(crate) const DIALLED: u16 = 8_080;
/// The first port of the peers.
const PEERS: u16 = 10_000;

/// The node. Fields are dropped in order: what runs in pods, pods, the node.
pub(crate) struct Rig {
    contenders: Vec<Contender>,
    processes: Vec<Running>,
    pods: Vec<Pod>,
    node: Node,
    folder: TempDir,
}

/// A way from the client to what answers.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// What the client dials.
    address: SocketAddr,
    /// The client, as a place in `pods`.
    client: usize,
    /// Whose CPU time and memory counts.
    pid: Option<u32>,
}

const CLIENT: usize = 0;
const SERVER: usize = 1;
const FAST_CLIENT: usize = 2;
const FAST_SERVER: usize = 3;
const PLAIN_CLIENT: usize = 4;

impl Rig {
    /// `None`, after saying why, where nodes cannot be made.
    pub(crate) fn open(setup: &Setup) -> io::Result<Option<Self>> {
        let folder = tempfile::tempdir()?;
        let Some(mut node) = start_node(folder.path(), setup.log)? else {
            return Ok(None);
        };
        let pods = vec![
            node.pod("client"),
            node.pod("server"),
            node.pod("fast-client"),
            node.pod("fast-server"),
            node.pod_outside("plain-client"),
        ];
        let agent = node.agent().pid();
        for pod in &pods {
            pin(pod.pid(), LOAD_CPU)?;
        }
        let mut rig = Self {
            contenders: Vec::new(),
            processes: Vec::new(),
            pods,
            node,
            folder,
        };
        rig.answer(setup.wire, &setup.opaque)?;
        rig.enrol_ours(setup, agent);
        if setup.with_peers && !setup.with_routes {
            rig.start_peers(setup.wire, setup.log)?;
        }
        Ok(Some(rig))
    }

    /// Starts what answers.
    fn answer(&mut self, wire: Wire, opaque: &ServerKind) -> io::Result<()> {
        for index in [SERVER, FAST_SERVER] {
            let pod = self.pod(index)?;
            if wire == Wire::Tcp {
                pod.serve(opaque.clone(), BACKEND);
                continue;
            }
            let folder = self.folder.path().join(pod.name());
            std::fs::create_dir_all(&folder)?;
            let mut command = if wire == Wire::Http1 {
                nginx_backend(&folder)?
            } else {
                std::fs::write(folder.join("1k"), [b'x'; 1_024])?;
                let mut command = on(LOAD_CPU, "nghttpd");
                command.args(["--no-tls", "-m", "1024", "-d"]).arg(&folder);
                command.arg(BACKEND.to_string());
                command
            };
            let running = Running::new(pod.spawn(&mut command)?);
            wait_for(pod, SocketAddr::new(pod.v4(), BACKEND))?;
            self.processes.push(running);
        }
        Ok(())
    }

    fn enrol_ours(&mut self, setup: &Setup, agent: u32) {
        let protocol = match setup.wire {
            Wire::Http1 => "http",
            Wire::Http2 => "http2",
            Wire::Tcp => "tcp",
        };
        let with_routes = setup.with_routes;
        let with_features = !with_routes && setup.wire != Wire::Tcp && features::are_there();
        let ways = [
            (OURS, "plain", CLIENT, SERVER, !with_routes),
            (FAST, "fast", FAST_CLIENT, FAST_SERVER, !with_routes),
            (FEATURES, "features", CLIENT, SERVER, with_features),
            (FEW_ROUTES, "few", CLIENT, SERVER, with_routes),
            (MANY_ROUTES, "many", CLIENT, SERVER, with_routes),
        ];
        for (index, pod) in self.pods.iter().enumerate().take(PLAIN_CLIENT) {
            let is_fast = index == FAST_CLIENT || index == FAST_SERVER;
            let fields = json!({ "acceleration": is_fast });
            self.node.enrol_with(pod, &fields);
        }
        for ((name, object, client, server, is_there), host) in ways.into_iter().zip(1..) {
            let Some(server) = self.pods.get(server).filter(|_| is_there) else {
                continue;
            };
            let address = virtual_address(host);
            let wanted = service(
                object,
                &[&address.ip().to_string()],
                "main",
                DIALLED,
                protocol,
            );
            self.node.apply(&[
                with(wanted, &json!({ "mode": "proxy" })),
                endpoint(object, object, server.v4(), "main", BACKEND),
            ]);
            self.contenders.push(Contender {
                name,
                address,
                client,
                pid: Some(agent),
            });
        }
        if with_features {
            features::apply(&self.node);
        }
        if with_routes {
            self.node.apply(&features::routes("few", "/1k", 10));
            self.node.apply(&features::routes("many", "/1k", 10_000));
        }
    }

    fn start_peers(&mut self, wire: Wire, log: Log) -> io::Result<()> {
        let plain = Contender {
            name: NO_MESH,
            address: SocketAddr::new(self.pod(SERVER)?.v4(), BACKEND),
            client: PLAIN_CLIENT,
            pid: None,
        };
        self.contenders.insert(0, plain);
        for (peer, number) in Peer::ALL.into_iter().zip(10_u8..) {
            let (client, server) = (self.pod(CLIENT)?, self.pod(SERVER)?);
            let folder = self.folder.path().join(number.to_string());
            std::fs::create_dir_all(&folder)?;
            let task = Task {
                wire,
                is_logging: log == Log::On,
                listen: SocketAddr::new(client.v4(), PEERS + u16::from(number)),
                endpoint: SocketAddr::new(server.v4(), BACKEND),
                folder: &folder,
            };
            let mut command = match peer.command(&task) {
                Ok(Some(command)) => command,
                Ok(None) => continue,
                Err(error) => {
                    eprintln!("without {}: {error}", peer.name());
                    continue;
                }
            };
            let running = Running::new(self.node.spawn_beside(client, &mut command)?);
            if let Err(error) = wait_for(client, task.listen) {
                eprintln!("without {}: {error}", peer.name());
                continue;
            }
            let address = virtual_address(number);
            let name = format!("peer-{number}");
            let steered = service(&name, &[&address.ip().to_string()], "main", DIALLED, "tcp");
            self.node.apply(&[
                with(steered, &json!({ "mode": "direct" })),
                endpoint(&name, &name, client.v4(), "main", task.listen.port()),
            ]);
            self.contenders.push(Contender {
                name: peer.name(),
                address,
                client: CLIENT,
                pid: Some(running.pid()),
            });
            self.processes.push(running);
        }
        Ok(())
    }

    fn pod(&self, index: usize) -> io::Result<&Pod> {
        self.pods
            .get(index)
            .ok_or_else(|| io::Error::other("no such pod"))
    }

    /// Every way that there is.
    pub(crate) fn contenders(&self) -> impl Iterator<Item = &Contender> {
        self.contenders.iter()
    }

    /// Ends the agent in its own way: so it writes what it has counted.
    pub(crate) fn close(mut self) -> io::Result<()> {
        match self.node.agent().stop() {
            0 => Ok(()),
            code => Err(io::Error::other(format!("the agent ended with {code}"))),
        }
    }

    /// Puts a load on one way, and says what the proxy on it has used for one operation.
    pub(crate) fn sample(
        &self,
        contender: &Contender,
        load: impl FnOnce(&Pod, SocketAddr) -> io::Result<Load>,
    ) -> io::Result<Sample> {
        let before = contender.pid.map(cpu_micros);
        let done = load(self.pod(contender.client)?, contender.address)?;
        let used = contender.pid.map(cpu_micros).zip(before);
        Ok(Sample {
            value: done.value,
            cpu_micros: used.map(|(after, before)| (after - before) / done.operations),
        })
    }
}

impl Contender {
    /// Whether there is a proxy on this way, which is on no earlier one.
    pub(crate) fn is_alone(&self) -> bool {
        self.pid.is_some() && (self.name == OURS || !self.name.starts_with(OURS))
    }

    /// Memory of the proxy on this way, in KiB.
    pub(crate) fn resident_kib(&self) -> Option<f64> {
        self.pid.map(resident_kib)
    }
}

/// What is compared.
pub(crate) struct Setup {
    pub(crate) wire: Wire,
    /// What answers where bytes are opaque.
    pub(crate) opaque: ServerKind,
    pub(crate) log: Log,
    /// Only ours, with few routes and with many.
    pub(crate) with_routes: bool,
    /// Others beside ours.
    pub(crate) with_peers: bool,
}

impl Setup {
    /// The usual.
    pub(crate) const fn new(wire: Wire, opaque: ServerKind) -> Self {
        Self {
            wire,
            opaque,
            log: Log::Off,
            with_routes: false,
            with_peers: true,
        }
    }
}

/// Whether the agent logs every request, to a pipe that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Log {
    Off,
    On,
}

/// A node whose agent has one worker and one processor.
pub(crate) fn start_node(folder: &FilePath, log: Log) -> io::Result<Option<Node>> {
    let config = folder.join("agent.yaml");
    std::fs::write(&config, "proxy: { maxConnectionsPerWorkload: 16384 }\n")?;
    let config = config.to_string_lossy();
    let log = if log == Log::On { "on" } else { "off" };
    let flags = ["--workers", "1", "--access-log", log, "--config", &config];
    // What reads the access log must not take the processor of the proxy.
    let Some(mut node) = beside_the_load(|| Node::start_with(&flags))? else {
        return Ok(None);
    };
    pin(node.agent().pid(), PROXY_CPU)?;
    Ok(Some(node))
}

/// The objects of the node are in 240.240.0.0/16.
pub(crate) fn virtual_address(host: u8) -> SocketAddr {
    SocketAddr::from(([240, 240, 9, host], DIALLED))
}

/// What answers HTTP/1.1 with 1 KiB, whatever it is asked for.
pub(crate) fn nginx_backend(folder: &FilePath) -> io::Result<std::process::Command> {
    let body = "x".repeat(1_024);
    let server = format!(
        "server {{ listen {BACKEND} backlog=16384; location / {{ return 200 \"{body}\"; }} }}"
    );
    let path = folder.join("nginx.conf");
    std::fs::write(&path, nginx_file(folder, &server))?;
    let mut command = on(LOAD_CPU, "nginx");
    command.arg("-c").arg(path);
    Ok(command)
}

/// Waits until somebody listens.
pub(crate) fn wait_for(pod: &Pod, address: SocketAddr) -> io::Result<()> {
    let is_up = becomes(DEADLINE, || {
        pod.netns()
            .run(|| std::net::TcpStream::connect(address))
            .is_ok()
    });
    if is_up {
        Ok(())
    } else {
        Err(io::Error::other(format!("nobody listens at {address}")))
    }
}
