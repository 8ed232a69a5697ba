//! Three nodes that share a registry, each with a server and a client.

use std::net::SocketAddr;

use mesh_tests::eventually::{DEADLINE, eventually};
use mesh_tests::fleet::Fleet;
use mesh_tests::node::Node;
use mesh_tests::pod::Pod;
use mesh_tests::registry::endpoint;
use serde_json::Value;

/// Three nodes of a fleet, each with a pod that serves under the node's name and one that calls.
pub(crate) struct Three {
    pub(crate) clients: Vec<Pod>,
    pub(crate) servers: Vec<Pod>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) fleet: Fleet,
}

const NAMES: [&str; 3] = ["red", "green", "blue"];

impl Three {
    pub(crate) fn start(ttl: &str) -> Option<Self> {
        let fleet = Fleet::start(false)?;
        let registry = fleet.registry();
        let mut three = Self {
            clients: Vec::new(),
            servers: Vec::new(),
            nodes: Vec::new(),
            fleet,
        };
        for (number, name) in (1..).zip(NAMES) {
            let flags = [
                "--registry",
                &registry,
                "--node",
                name,
                "--registry-ttl",
                ttl,
            ];
            let mut node = Node::without_agent_yet(&flags)?;
            three.fleet.connect(&node, number);
            node.start_agent();
            let client = node.pod("client");
            let server = node.pod("server");
            server.serve_http(name, 8_080);
            node.enrol(&client);
            three.clients.push(client);
            three.servers.push(server);
            three.nodes.push(node);
        }
        Some(three)
    }

    /// Registers the server of a node at this node.
    pub(crate) fn register(&self, index: usize) {
        let name = format!("web-{}", NAMES[index]);
        let server = endpoint(&name, "web", self.servers[index].v4(), "http", 8_080);
        self.nodes[index].api().apply(&server);
    }

    /// The address of the service at a node, once the node knows it.
    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        let path = "/api/v1/namespaces/shop/services/web";
        eventually("the service is known", DEADLINE, || {
            let answer = self.nodes[index]
                .api()
                .try_call("GET", path, &Value::Null)
                .ok()?;
            let address = answer.json()["status"]["addresses"][0]
                .as_str()?
                .parse()
                .ok()?;
            Some(SocketAddr::new(address, 80))
        })
    }

    /// Who answers a caller of a node, as long as anybody does.
    pub(crate) fn answer(&self, index: usize) -> Option<String> {
        let url = format!("http://{}/", self.address(index));
        let answer = self.clients[index].try_get(&url).ok()?;
        (answer.status == 200).then(|| answer.header("x-server").to_owned())
    }

    pub(crate) fn endpoints(&self, index: usize) -> Vec<String> {
        let list = self.nodes[index].api().get("/api/v1/endpoints");
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|it| it["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(crate) fn registry(&self, index: usize) -> Value {
        self.nodes[index].api().get("/api/v1/status")["registry"].clone()
    }
}
