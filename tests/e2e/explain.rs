//! What the agent explains is what the kernel does: random registries, and connections and datagrams of every kind.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use mesh_tests::api::path_of;
use mesh_tests::eventually::{DEADLINE, eventually};
use mesh_tests::node::{Node, has_condition};
use mesh_tests::pod::{Pod, mapped};
use mesh_tests::protocol::ServerKind;
use mesh_tests::registry::{object, with};
use serde_json::{Value, json};

/// Registries.
const ROUNDS: u64 = 10;
/// Connections with each of them.
const CONNECTS: u64 = 100;
/// Where servers listen.
const OPEN_PORT: u16 = 7_000;
/// Where nobody listens.
const CLOSED_PORT: u16 = 7_001;
/// The callers, with their namespaces.
const CALLERS: [(&str, &str); 3] = [("shop", "red"), ("shop", "green"), ("other", "blue")];
/// What refuses at once instead of silently dropping what no service steers.
const UNREACHABLE: &str = "route add unreachable 240.240.0.0/16\n\
    route add unreachable 10.99.0.0/16\n\
    route add unreachable fd00:240:240::/64\n\
    route add unreachable fd99::/64\n";

#[test]
fn explain_says_what_the_kernel_does() {
    let Some(node) = Node::start_with(&["--access-log", "off"]) else {
        return;
    };
    let callers = CALLERS.map(|(_, name)| node.pod(name));
    let servers = ["server-1", "server-2"].map(|name| node.pod(name));
    for pod in callers.iter().chain(&servers) {
        pod.netns().ip_batch(UNREACHABLE);
    }
    for pod in &servers {
        pod.serve(ServerKind::Echo, OPEN_PORT);
        pod.serve_at(ServerKind::Echo, SocketAddr::new(pod.v6(), OPEN_PORT));
    }
    // An inbound policy is asked too.
    node.enrol(&servers[0]);
    let mut world = World {
        random: Random(0x5eed_e4b1_a111_c0de),
        node: &node,
        callers: &callers,
        servers: &servers,
        standing: BTreeSet::new(),
    };
    let mut outcomes = BTreeMap::<(String, String), u64>::new();
    for round in 0..ROUNDS {
        world.change();
        let mut before = world.counts();
        for case in 0..CONNECTS {
            let caller = world.random.below(CALLERS.len());
            let dialled = world.destination();
            let (namespace, name) = CALLERS[caller];
            let (source, destination) = (format!("{namespace}/{name}"), dialled.to_string());
            let explained = if world.random.happens(30) {
                let explained = node.api().explain_datagram(&source, &destination);
                send(&callers[caller], dialled, world.random.happens(50));
                explained
            } else {
                let explained = node.api().explain(&source, &destination);
                let conn = callers[caller].connect(dialled);
                drop(conn.map(mesh_tests::pod::Conn::close));
                explained
            };
            let after = world.counts();
            let text = |field: &str| explained[field].as_str().unwrap_or_default().to_owned();
            let (verdict, reason) = (text("verdict"), text("reason"));
            let series = format!(
                "workload_namespace=\"{namespace}\",workload=\"{name}\",verdict=\"{verdict}\",reason=\"{reason}\""
            );
            assert_eq!(
                grown(&before, &after),
                [(series, 1)],
                "round {round}, case {case}: {name} dials {dialled}, explained as {explained}\n{}",
                world.registry()
            );
            *outcomes.entry((verdict, reason)).or_default() += 1;
            before = after;
        }
    }
    for (verdict, reason) in EXPECTED {
        let count = outcomes.get(&(verdict.to_owned(), reason.to_owned()));
        assert!(count >= Some(&10), "{verdict} {reason} in {outcomes:?}");
    }
}

/// Sends a datagram with a new socket, perhaps a connected one. Whether it arrives does not matter.
fn send(caller: &Pod, to: SocketAddr, connect: bool) {
    if connect {
        drop(caller.connect_datagrams(to));
        return;
    }
    let socket = match to {
        SocketAddr::V4(_) => caller.datagrams(),
        SocketAddr::V6(_) => caller.datagrams_v6(),
    };
    drop(socket.send_to(to, "hello"));
}

/// What the random cases must have led to, each ten times at least: else they say nothing about it.
const EXPECTED: [(&str, &str); 7] = [
    ("proxy", "service"),
    ("direct", "service"),
    ("deny", "policy"),
    ("deny", "no-endpoint"),
    ("deny", "egress-locked"),
    ("pass", "no-service"),
    ("pass", "loopback"),
];

/// The series that differ, and by how much.
fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let growth = after.iter().map(|(series, count)| {
        let old = before.get(series).copied().unwrap_or(0);
        (series.clone(), count - old)
    });
    growth.filter(|(_, growth)| *growth > 0).collect()
}

/// A node whose registry changes at random.
struct World<'a> {
    random: Random,
    node: &'a Node,
    callers: &'a [Pod],
    servers: &'a [Pod],
    /// Paths of the objects that come and go, of those that are there.
    standing: BTreeSet<String>,
}

impl World<'_> {
    /// Changes every object, or lets it come or go.
    fn change(&mut self) {
        for index in 0..CALLERS.len() {
            let workload = self.workload(index);
            self.node.api().apply(&workload);
            let path = path_of(&workload);
            eventually("the caller is enrolled", DEADLINE, || {
                has_condition(&self.node.api().get(&path), "Enrolled").then_some(())
            });
        }
        for index in 0..6 {
            let service = self.service(index);
            self.put_or_delete(&service, 90);
        }
        for index in 0..12 {
            let endpoint = self.endpoint(index);
            self.put_or_delete(&endpoint, 85);
        }
        for index in 0..6 {
            let policy = self.policy(index);
            self.put_or_delete(&policy, 60);
        }
        self.node.settle();
    }

    fn put_or_delete(&mut self, object: &Value, percent: usize) {
        let path = path_of(object);
        if self.random.happens(percent) {
            self.node.api().apply(object);
            self.standing.insert(path);
        } else if self.standing.remove(&path) {
            self.node.api().delete(object);
        }
    }

    fn workload(&mut self, index: usize) -> Value {
        let (namespace, name) = CALLERS[index];
        let pod = &self.callers[index];
        let spec = json!({
            "netns": pod.netns().path(),
            "addresses": [pod.v4(), pod.v6()],
            "serviceAccount": self.random.of(&["one", "two"]),
            "failMode": self.random.of(&["open", "closed"]),
            "egress": self.random.of(&["open", "open", "locked"]),
        });
        let mut workload = object("Workload", name, &spec);
        workload["metadata"]["namespace"] = namespace.into();
        workload
    }

    fn service(&mut self, index: usize) -> Value {
        let addresses = [service_v4(index).ip(), service_v6(index).ip()];
        let addresses = match index {
            0 => &addresses[..1],
            1 => &addresses[1..],
            _ => &addresses[..],
        };
        let ports = json!([
            { "name": "one", "port": 80, "protocol": self.random.of(&["http", "tcp", "auto"]) },
            { "name": "two", "port": 443, "protocol": self.random.of(&["tls", "tcp", "grpc"]) },
            { "name": "three", "port": 80, "protocol": "udp" },
        ]);
        let spec = json!({
            "addresses": addresses,
            "ports": ports,
            "mode": self.random.of(&["auto", "direct", "direct", "proxy"]),
            // Where chance picks among several endpoints nobody can foretell what policy says of the picked one.
            "balancing": if index < 4 { "RoundRobin" } else { "LeastRequest" },
        });
        object("Service", &format!("service-{index}"), &spec)
    }

    /// Services that pick by chance have one endpoint per family at most.
    fn endpoint(&mut self, index: usize) -> Value {
        let service = match index {
            0 | 1 => 4,
            2 => 5,
            _ => self.random.below(4),
        };
        let far = ["10.99.0.1".parse().unwrap(), "fd99::1".parse().unwrap()];
        let pod = &self.servers[self.random.below(2)];
        let address = match (index, self.random.happens(85)) {
            (0, _) => pod.v4(),
            (1, _) => pod.v6(),
            (_, true) => *self.random.of(&[pod.v4(), pod.v4(), pod.v6()]),
            (_, false) => *self.random.of(&far),
        };
        let ports = [OPEN_PORT, OPEN_PORT, CLOSED_PORT];
        let spec = json!({
            "service": format!("service-{service}"),
            "address": address,
            "ports": {
                "one": self.random.of(&ports),
                "two": self.random.of(&ports),
                "three": self.random.of(&ports),
            },
            "weight": self.random.below(4),
            "draining": self.random.happens(5),
        });
        object("Endpoint", &format!("endpoint-{index}"), &spec)
    }

    fn policy(&mut self, index: usize) -> Value {
        let target = if self.random.happens(75) {
            json!({ "kind": "Service", "name": format!("service-{}", self.random.below(6)) })
        } else {
            let names = ["server-1", "server-1", "red"];
            json!({ "kind": "Workload", "name": self.random.of(&names) })
        };
        let rules: Vec<Value> = (0..self.random.below(3)).map(|_| self.rule()).collect();
        let spec = json!({
            "target": target,
            "action": self.random.of(&["Allow", "Deny"]),
            "rules": rules,
        });
        let policy = object("AuthorizationPolicy", &format!("policy-{index}"), &spec);
        let mode = *self.random.of(&["Enforce", "Enforce", "Enforce", "Audit"]);
        with(policy, &json!({ "mode": mode }))
    }

    fn rule(&mut self) -> Value {
        let from: Vec<Value> = (0..self.random.below(3)).map(|_| self.source()).collect();
        let mut to = Vec::new();
        if self.random.happens(40) {
            let ports = [80, 443, OPEN_PORT, CLOSED_PORT];
            to.push(
                json!({ "ports": [self.random.of(&ports), self.random.of(&[443, OPEN_PORT])] }),
            );
        }
        let mut rule = json!({});
        for (field, items) in [("from", from), ("to", to)] {
            if !items.is_empty() {
                rule[field] = json!(items);
            }
        }
        rule
    }

    fn source(&mut self) -> Value {
        let mut source = json!({});
        if self.random.happens(40) {
            source["namespaces"] = json!([self.random.of(&["shop", "other", "nobody"])]);
        }
        if self.random.happens(40) {
            source["serviceAccounts"] = json!([self.random.of(&["one", "two", "three"])]);
        }
        if self.random.happens(40) {
            let caller = &self.callers[self.random.below(CALLERS.len())];
            let networks = [
                format!("{}/32", caller.v4()),
                format!("{}/128", caller.v6()),
                "10.77.0.0/16".to_owned(),
                "fd77::/16".to_owned(),
                "0.0.0.0/0".to_owned(),
            ];
            source["cidrs"] = json!([self.random.of(&networks)]);
        }
        source
    }

    /// Something to dial: mostly services, then endpoints, strangers and the pod itself.
    fn destination(&mut self) -> SocketAddr {
        let index = self.random.below(6);
        let port = *self.random.of(&[80, 80, 443, 443, 81]);
        let pod = &self.servers[self.random.below(2)];
        let place = *self.random.of(&[OPEN_PORT, CLOSED_PORT, 9]);
        let with_port = |mut address: SocketAddr| {
            address.set_port(port);
            address
        };
        match self.random.below(16) {
            0..=4 => with_port(service_v4(index)),
            5 | 6 => with_port(service_v6(index)),
            7 => mapped(with_port(service_v4(index))),
            8 | 9 => pod.at(place),
            10 | 11 => pod.at_v6(place),
            12 => mapped(pod.at(place)),
            13 => self.callers[0].at(place),
            14 => *self
                .random
                .of(&["10.99.0.1:7000", "[fd99::1]:7000"].map(parsed)),
            _ => *self.random.of(&[
                "127.0.0.1:9",
                "[::1]:9",
                "0.0.0.0:9",
                "[::ffff:127.0.0.1]:9",
            ]
            .map(parsed)),
        }
    }

    /// What the kernel has counted, by series.
    fn counts(&self) -> BTreeMap<String, u64> {
        let metrics = self.node.metrics();
        let lines = metrics.text().lines();
        let series = lines.filter_map(|line| line.strip_prefix("mesh_connections_total{"));
        series
            .filter_map(|line| line.rsplit_once("} "))
            .map(|(labels, count)| (labels.to_owned(), count.parse().unwrap()))
            .collect()
    }

    /// The registry, for who looks into a failure.
    fn registry(&self) -> String {
        let paths = [
            "services",
            "endpoints",
            "workloads",
            "authorizationpolicies",
        ];
        let lists = paths.map(|path| self.node.api().get(&format!("/api/v1/{path}")));
        lists.map(|list| list.to_string()).join("\n")
    }
}

fn service_v4(index: usize) -> SocketAddr {
    parsed(&format!("240.240.0.{}:80", 50 + index))
}

fn service_v6(index: usize) -> SocketAddr {
    parsed(&format!("[fd00:240:240::{}]:80", 50 + index))
}

#[track_caller]
fn parsed(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// The same numbers in every run (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % end
    }

    fn happens(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn of<'v, T>(&mut self, values: &'v [T]) -> &'v T {
        &values[self.below(values.len())]
    }
}
