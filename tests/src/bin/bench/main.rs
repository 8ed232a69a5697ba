//! The benchmark: costs of the data path as ratios to a connection without a mesh, interleaved on one node.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    reason = "prints a table, and fails loudly where it cannot measure"
)]

use std::net::SocketAddr;
use std::process::ExitCode;

use mesh_tests::interrupt::clean_up_on_signals;
use mesh_tests::node::Node;
use mesh_tests::pod::Pod;
use mesh_tests::protocol::{Load, ServerKind, Task};
use mesh_tests::registry::{endpoint, service};
use mesh_tests::table::table;
use serde_json::{Value, json};

mod outcome;

use outcome::{Outcome, Path, Subject, per_second, to_float};

const USAGE: &str = "usage: bench [--rounds N] [--millis N]";

/// Ports of the servers, on every server pod.
const HTTP: u16 = 8_080;
const ECHO: u16 = 7_000;
const SINK: u16 = 7_001;

fn main() -> ExitCode {
    let Some(effort) = Effort::from_arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    clean_up_on_signals();
    let Some(bench) = Bench::open() else {
        return ExitCode::FAILURE;
    };
    let results = bench.measure(&effort);
    let rows: Vec<Vec<String>> = results.iter().map(Outcome::row).collect();
    let headings = [
        "measured",
        "path",
        "median",
        "unit",
        "ratio to no mesh",
        "to reach",
    ];
    println!("\n{}", table(&headings, &rows));
    let results: Vec<Value> = results.iter().map(Outcome::json).collect();
    let status = bench.node.api().get("/api/v1/status");
    let acceleration = status.get("acceleration");
    println!(
        "{}",
        json!({ "rounds": effort.rounds, "acceleration": acceleration, "results": results })
    );
    ExitCode::SUCCESS
}

/// How much is measured.
struct Effort {
    rounds: usize,
    millis: u64,
}

impl Effort {
    fn from_arguments() -> Option<Self> {
        let mut effort = Self {
            rounds: 7,
            millis: 1_000,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next()?;
            match name.as_str() {
                "--rounds" => effort.rounds = value.parse().ok().filter(|rounds| *rounds > 0)?,
                "--millis" => effort.millis = value.parse().ok().filter(|millis| *millis > 0)?,
                _ => return None,
            }
        }
        Some(effort)
    }
}

/// A client and the server that it reaches.
struct Pair {
    client: Pod,
    server: Pod,
}

/// The node. Fields are dropped in order: pods before the node.
struct Bench {
    /// Outside the hooked cgroup: no mesh at all.
    plain: Pair,
    /// Enrolled.
    meshed: Pair,
    /// Enrolled, with acceleration.
    accelerated: Pair,
    node: Node,
}

impl Bench {
    fn open() -> Option<Self> {
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

    fn measure(&self, effort: &Effort) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for subject in self.subjects(effort.millis) {
            eprintln!("measuring: {}", subject.name);
            outcomes.extend(subject.measure(effort.rounds));
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
            Path::new(name, &pair.client, Task::Load(load), per_second)
        };
        Subject {
            name: "HTTP/1.1 keep-alive",
            unit: "requests/s",
            is_less_better: false,
            paths: vec![
                path("no mesh", &self.plain, self.plain.server.at(HTTP)),
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
            Path::new(name, &pair.client, task, |report| {
                to_float(report.p50_nanos) / 1_000.0
            })
        };
        Subject {
            name: "round trip of 64 bytes",
            unit: "us",
            is_less_better: true,
            paths: vec![
                path("no mesh", &self.plain, self.plain.server.at(ECHO)),
                path("direct", &self.meshed, service_at(1, 2, ECHO)).reaching(1.05),
                path(
                    "direct, accelerated",
                    &self.accelerated,
                    service_at(2, 2, ECHO),
                )
                .reaching(0.70),
            ],
        }
    }

    fn throughput<'a>(&'a self, millis: u64) -> Subject<'a> {
        let path = |name, pair: &'a Pair, address| {
            let task = Task::Stream { address, millis };
            Path::new(name, &pair.client, task, |report| {
                to_float(report.bytes) * 8.0 / to_float(report.elapsed_micros) / 1_000.0
            })
        };
        Subject {
            name: "one stream",
            unit: "Gbit/s",
            is_less_better: false,
            paths: vec![
                path("no mesh", &self.plain, self.plain.server.at(SINK)),
                path("direct", &self.meshed, service_at(1, 3, SINK)).reaching(0.95),
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
            Path::new(name, &pair.client, task, per_second)
        };
        Subject {
            name: "new connections",
            unit: "connections/s",
            is_less_better: false,
            paths: vec![
                path("no mesh", &self.plain, self.plain.server.at(ECHO)),
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
