//! The node that most tests start from: an enrolled client and servers, with a web and a cache service.

use std::net::SocketAddr;

use mesh_tests::node::Node;
use mesh_tests::pod::Pod;
use mesh_tests::protocol::{Load, ServerKind};
use mesh_tests::registry::{endpoint, service};
use serde_json::{Value, json};

/// What clients dial for HTTP, which the proxy reads.
pub(crate) const WEB: &str = "http://240.240.0.10/";
/// The same over IPv6.
pub(crate) const WEB_V6: &str = "http://[fd00:240:240::10]:80/";
/// Port of the web servers.
const WEB_PORT: u16 = 8_080;
/// Port of the echo servers.
pub(crate) const CACHE_PORT: u16 = 7_000;

/// A node with pods. Fields are dropped in order: pods before the node.
pub(crate) struct Shop {
    /// Enrolled.
    pub(crate) client: Pod,
    /// Not enrolled.
    pub(crate) servers: Vec<Pod>,
    /// The node.
    pub(crate) node: Node,
}

impl Shop {
    /// A client and so many servers.
    #[track_caller]
    pub(crate) fn open(servers: usize) -> Option<Self> {
        Self::open_with(servers, &json!({}))
    }

    /// The same with more fields for the client's workload.
    #[track_caller]
    pub(crate) fn open_with(servers: usize, client_fields: &Value) -> Option<Self> {
        let node = Node::start()?;
        let client = node.pod("client");
        let servers = (1..=servers).map(|number| node.pod(&format!("server-{number}")));
        let shop = Self {
            servers: servers.collect(),
            client,
            node,
        };
        shop.node.enrol_with(&shop.client, client_fields);
        Some(shop)
    }

    /// The web service: HTTP through the proxy, over both families.
    #[track_caller]
    pub(crate) fn open_web(&self) {
        let addresses = ["240.240.0.10", "fd00:240:240::10"];
        let mut objects = vec![service("web", &addresses, "http", 80, "http")];
        for (index, pod) in self.servers.iter().enumerate() {
            let name = format!("web-{}", index + 1);
            pod.serve_http(&name, WEB_PORT);
            let kind = ServerKind::Http { name: name.clone() };
            pod.serve_at(kind, SocketAddr::new(pod.v6(), WEB_PORT));
            let name_v6 = format!("{name}-v6");
            objects.push(endpoint(&name, "web", pod.v4(), "http", WEB_PORT));
            objects.push(endpoint(&name_v6, "web", pod.v6(), "http", WEB_PORT));
        }
        self.node.apply(&objects);
    }

    /// The cache service: opaque TCP, direct, over both families.
    #[track_caller]
    pub(crate) fn open_cache(&self) {
        self.open_cache_with(&ServerKind::Echo);
    }

    /// The same with other servers.
    #[track_caller]
    pub(crate) fn open_cache_with(&self, kind: &ServerKind) {
        let addresses = ["240.240.0.20", "fd00:240:240::20"];
        let mut objects = vec![service("cache", &addresses, "tcp", 6_379, "tcp")];
        for (index, pod) in self.servers.iter().enumerate() {
            pod.serve(kind.clone(), CACHE_PORT);
            pod.serve_at(kind.clone(), SocketAddr::new(pod.v6(), CACHE_PORT));
            let name = format!("cache-{}", index + 1);
            let name_v6 = format!("{name}-v6");
            objects.push(endpoint(&name, "cache", pod.v4(), "tcp", CACHE_PORT));
            objects.push(endpoint(&name_v6, "cache", pod.v6(), "tcp", CACHE_PORT));
        }
        self.node.apply(&objects);
    }

    /// The first server.
    pub(crate) fn server(&self) -> &Pod {
        &self.servers[0]
    }

    /// Coverage of the client.
    #[track_caller]
    pub(crate) fn coverage(&self) -> Value {
        self.node.api().coverage("shop", "client")
    }

    /// Why a condition of a workload is as it is; empty before it is told.
    #[track_caller]
    pub(crate) fn reason(&self, workload: &str, condition: &str) -> String {
        let path = format!("/api/v1/namespaces/shop/workloads/{workload}");
        let conditions = self.node.api().get(&path)["status"]["conditions"].clone();
        let mut conditions = conditions.as_array().into_iter().flatten();
        let found = conditions.find(|it| it["type"] == condition);
        found.map_or_else(String::new, |it| it["reason"].as_str().unwrap().to_owned())
    }

    /// Packets are spread over all processors, everywhere.
    #[track_caller]
    pub(crate) fn spread_packets(&self) {
        let mut pods = vec![&self.client];
        pods.extend(&self.servers);
        self.node.spread_packets(&pods);
    }
}

/// What clients dial for TCP, which the kernel balances.
pub(crate) fn cache() -> SocketAddr {
    "240.240.0.20:6379".parse().unwrap()
}

/// The same over IPv6.
pub(crate) fn cache_v6() -> SocketAddr {
    "[fd00:240:240::20]:6379".parse().unwrap()
}

/// The web service's address and port.
pub(crate) fn web() -> SocketAddr {
    "240.240.0.10:80".parse().unwrap()
}

/// A steady load until it is stopped.
pub(crate) const fn steady(http: bool, address: SocketAddr, keep_alive: bool) -> Load {
    Load {
        http,
        address,
        connections: 4,
        keep_alive,
        millis: 60_000,
        pause_micros: 500,
    }
}
