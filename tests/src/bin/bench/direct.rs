//! The paths without a mesh, without a proxy, and through ours, on one node: all programs where the kernel puts them.

use std::net::SocketAddr;

use mesh_tests::node::Node;
use mesh_tests::pod::Pod;
use mesh_tests::protocol::{Load, Report, ServerKind, Task};
use mesh_tests::registry::{endpoint, service};
use serde_json::json;

use super::loads::{gigabits, per_second, task};
use super::outcome::{Goal, NO_MESH, Outcome, Path, Sample, Subject, to_float};

/// Ports of the servers, on every server pod.
const HTTP: u16 = 8_080;
const ECHO: u16 = 7_000;
const SINK: u16 = 7_001;

/// A client and the server that it reaches.
struct Pair {
    client: Pod,
    server: Pod,
}

/// The node. Fields are dropped in order: pods before the node.
pub(crate) struct Bench {
    /// Outside the hooked cgroup: no mesh at all.
    plain: Pair,
    /// Enrolled.
    meshed: Pair,
    /// Enrolled, with acceleration.
    accelerated: Pair,
    pub(crate) node: Node,
}

impl Bench {
    /// `None`, after saying why, where nodes cannot be made.
    pub(crate) fn open() -> Option<Self> {
        let node = Node::start()?;
        let bench = Self {
            plain: Pair {
                client: node.pod_outside("plain-client"),
                server: node.pod_outside("plain-server"),
            },
            meshed: Pair {
                client: node.pod("client"),
                server: node.pod("server"),
            },
            accelerated: Pair {
                client: node.pod("fast-client"),
                server: node.pod("fast-server"),
            },
            node,
        };
        for pair in [&bench.plain, &bench.meshed, &bench.accelerated] {
            let name = pair.server.name().to_owned();
            pair.server.serve(ServerKind::Http { name }, HTTP);
            pair.server.serve(ServerKind::BlockingEcho, ECHO);
            pair.server.serve(ServerKind::Sink, SINK);
        }
        bench.enrol();
        Some(bench)
    }

    fn enrol(&self) {
        for (pair, is_accelerated, network) in
            [(&self.meshed, false, 1), (&self.accelerated, true, 2)]
        {
            let fields = json!({ "acceleration": is_accelerated });
            self.node.enrol_with(&pair.client, &fields);
            self.node.enrol_with(&pair.server, &fields);
            for (name, host, port, protocol) in [
                ("http", 1, HTTP, "http"),
                ("echo", 2, ECHO, "tcp"),
                ("sink", 3, SINK, "tcp"),
            ] {
                let name = format!("{name}-{network}");
                let address = format!("240.240.{network}.{host}");
                self.node.apply(&[
                    service(&name, &[&address], "main", port, protocol),
                    endpoint(&name, &name, pair.server.v4(), "main", port),
                ]);
            }
        }
    }

    pub(crate) fn measure(&self, rounds: usize, millis: u64) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for subject in self.subjects(millis) {
            eprintln!("measuring: {}", subject.name);
            outcomes.extend(subject.measure(rounds));
        }
        outcomes
    }

    fn subjects(&self, millis: u64) -> [Subject<'_>; 4] {
        [
            self.requests(millis),
            self.round_trips(millis),
            self.throughput(millis),
            self.connections(millis),
        ]
    }

    fn requests<'a>(&'a self, millis: u64) -> Subject<'a> {
        let path = |name, pair: &'a Pair, address: SocketAddr| {
            let load = Load {
                http: true,
                address,
                connections: 16,
                keep_alive: true,
                millis,
                pause_micros: 0,
            };
            way(name, &pair.client, Task::Load(load), per_second)
        };
        Subject {
            name: "HTTP/1.1 keep-alive",
            unit: "requests/s",
            paths: vec![
                path(NO_MESH, &self.plain, self.plain.server.at(HTTP)),
                path("proxied", &self.meshed, service_at(1, 1, HTTP)),
                path(
                    "proxied, accelerated",
                    &self.accelerated,
                    service_at(2, 1, HTTP),
                ),
            ],
        }
    }

    fn round_trips<'a>(&'a self, millis: u64) -> Subject<'a> {
        let path = |name, pair: &'a Pair, address| {
            let size = 64;
            let task = Task::RoundTrips {
                address,
                size,
                millis,
            };
            way(name, &pair.client, task, |report| {
                to_float(report.p50_nanos) / 1_000.0
            })
        };
        Subject {
            name: "round trip of 64 bytes",
            unit: "us",
            paths: vec![
                path(NO_MESH, &self.plain, self.plain.server.at(ECHO)),
                path("direct", &self.meshed, service_at(1, 2, ECHO))
                    .reaching(&[Goal::at_most(1.05, NO_MESH)]),
                path(
                    "direct, accelerated",
                    &self.accelerated,
                    service_at(2, 2, ECHO),
                )
                .reaching(&[Goal::at_most(0.70, NO_MESH)]),
            ],
        }
    }

    fn throughput<'a>(&'a self, millis: u64) -> Subject<'a> {
        let path = |name, pair: &'a Pair, address| {
            let task = Task::Stream { address, millis };
            way(name, &pair.client, task, gigabits)
        };
        Subject {
            name: "one stream",
            unit: "Gbit/s",
            paths: vec![
                path(NO_MESH, &self.plain, self.plain.server.at(SINK)),
                path("direct", &self.meshed, service_at(1, 3, SINK))
                    .reaching(&[Goal::at_least(0.95, NO_MESH)]),
                path(
                    "direct, accelerated",
                    &self.accelerated,
                    service_at(2, 3, SINK),
                ),
            ],
        }
    }

    fn connections<'a>(&'a self, millis: u64) -> Subject<'a> {
        let path = |name, pair: &'a Pair, address| {
            let task = Task::ManyConnects {
                address,
                connections: millis,
                threads: 2,
            };
            way(name, &pair.client, task, per_second)
        };
        Subject {
            name: "new connections",
            unit: "connections/s",
            paths: vec![
                path(NO_MESH, &self.plain, self.plain.server.at(ECHO)),
                path("direct", &self.meshed, service_at(1, 2, ECHO)),
                path(
                    "direct, accelerated",
                    &self.accelerated,
                    service_at(2, 2, ECHO),
                ),
            ],
        }
    }
}

fn service_at(network: u8, host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([240, 240, network, host], port))
}

fn way<'a>(name: &'static str, client: &'a Pod, work: Task, value: fn(&Report) -> f64) -> Path<'a> {
    Path::new(name, move || {
        let report = task(client, work.clone())?;
        Ok(Sample {
            value: value(&report),
            cpu_micros: None,
        })
    })
}
