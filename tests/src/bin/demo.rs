//! The demo: a node of network namespaces with real traffic, and what was observed of it.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "shows people what happens, and fails loudly where it does not"
)]

use std::collections::BTreeMap;
use std::io::{self, BufRead as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mesh_tests::api::ADDRESS;
use mesh_tests::eventually::{becomes, eventually};
use mesh_tests::interrupt::clean_up_on_signals;
use mesh_tests::node::Node;
use mesh_tests::pod::Pod;
use mesh_tests::protocol::{Load, Report};
use mesh_tests::registry::{endpoint, policy, service};
use mesh_tests::table::table;
use serde_json::{Value, json};

const WEB: &str = "240.240.0.10:80";
const REDIS: &str = "240.240.0.20:6379";
const DEADLINE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    clean_up_on_signals();
    let is_staying = std::env::args()
        .skip(1)
        .any(|argument| argument == "--stay");
    let begin = Instant::now();
    say(
        "a node of network namespaces: two clients, three web servers, Redis, and who is not wanted",
    );
    let Some(demo) = Demo::open() else {
        return ExitCode::FAILURE;
    };
    let steps = demo.play();
    println!("\n{}", table(&["step", "observed"], &steps.rows()));
    println!("took {:.1} s", begin.elapsed().as_secs_f64());
    if is_staying {
        stay(&demo);
    }
    if steps.all_observed() {
        ExitCode::SUCCESS
    } else {
        println!("not every step was observed");
        ExitCode::FAILURE
    }
}

/// The node. Fields are dropped in order: pods before the node.
struct Demo {
    clients: Vec<Pod>,
    unwanted: Pod,
    webs: Vec<Pod>,
    redis: Pod,
    node: Node,
}

#[derive(Default)]
struct Steps(Vec<(String, bool)>);

impl Steps {
    fn observe(&mut self, what: impl Into<String>, is_observed: bool) {
        let what = what.into();
        say(&format!(
            "{} {what}",
            if is_observed { "ok:" } else { "NOT OBSERVED:" }
        ));
        self.0.push((what, is_observed));
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let word = |is_observed: bool| if is_observed { "yes" } else { "NO" };
        let row = |(what, is_observed): &(String, bool)| {
            vec![what.clone(), word(*is_observed).to_owned()]
        };
        self.0.iter().map(row).collect()
    }

    fn all_observed(&self) -> bool {
        self.0.iter().all(|(_, is_observed)| *is_observed)
    }
}

impl Demo {
    fn open() -> Option<Self> {
        let node = Node::start()?;
        let pods = |names: &[&str]| names.iter().map(|name| node.pod(name)).collect::<Vec<_>>();
        let demo = Self {
            clients: pods(&["client-a", "client-b"]),
            webs: pods(&["web-1", "web-2", "web-3"]),
            unwanted: node.pod("unwanted"),
            redis: node.pod("redis"),
            node,
        };
        for web in &demo.webs {
            web.serve_http(web.name(), 8_080);
        }
        demo.start_redis();
        demo.enrol();
        demo.register();
        Some(demo)
    }

    fn start_redis(&self) {
        let mut server = Command::new("redis-server");
        server
            .args([
                "--port",
                "6379",
                "--bind",
                "0.0.0.0",
                "--protected-mode",
                "no",
            ])
            .args(["--save", "", "--appendonly", "no", "--dir", "/tmp"])
            .stdout(Stdio::null());
        let child = self.redis.spawn(&mut server).expect("redis-server");
        // Its cgroup ends it with the pod.
        drop(child);
        eventually("Redis answers", DEADLINE, || {
            self.redis.connect(self.redis.at(6_379)).ok().map(drop)
        });
    }

    fn enrol(&self) {
        // Both ends of a connection ask for acceleration, or it is not.
        let accelerated = json!({ "acceleration": true });
        self.node.enrol_with(&self.clients[0], &accelerated);
        self.node.enrol_with(&self.redis, &accelerated);
        self.node.enrol(&self.clients[1]);
        self.node.enrol(&self.unwanted);
        say("enrolled: client-a and redis (both with acceleration), client-b, unwanted");
    }

    fn register(&self) {
        let mut objects = vec![
            service("web", &["240.240.0.10"], "http", 80, "http"),
            service("redis", &["240.240.0.20"], "tcp", 6_379, "tcp"),
            endpoint("redis-1", "redis", self.redis.v4(), "tcp", 6_379),
        ];
        for web in &self.webs {
            objects.push(endpoint(web.name(), "web", web.v4(), "http", 8_080));
        }
        let clients = json!({ "serviceAccounts": ["client-a", "client-b"] });
        for name in ["web", "redis"] {
            let only = format!("{name}-only-clients");
            objects.push(policy(&only, "Allow", ("Service", name), &clients));
        }
        self.node.apply(&objects);
        say(&format!(
            "registered: web at {WEB} (through the proxy), redis at {REDIS} (direct)"
        ));
    }

    fn play(&self) -> Steps {
        let mut steps = Steps::default();
        self.web_under_load(&mut steps);
        self.redis_direct(&mut steps);
        self.who_is_not_wanted(&mut steps);
        self.coverage();
        steps
    }

    fn web_under_load(&self, steps: &mut Steps) {
        say("HTTP load from both clients; web-3 is killed meanwhile");
        let load = |keep_alive| Load {
            http: true,
            address: WEB.parse().expect("an address"),
            connections: 4,
            keep_alive,
            millis: 60_000,
            pause_micros: 2_000,
        };
        let first = self.clients[0].load(load(false));
        let second = self.clients[1].load(load(true));
        self.wait_for_captured(300);
        self.webs[2].kill();
        self.wait_for_captured(600);
        let (first, second) = (first.stop(), second.stop());
        let mut rows = Vec::new();
        for web in &self.webs {
            let count = |report: &Report| report.by_server.get(web.name()).copied().unwrap_or(0);
            let (first, second) = (count(&first), count(&second));
            let cells = [first, second, first + second].map(|count| count.to_string());
            rows.push([vec![web.name().to_owned()], cells.into()].concat());
        }
        let cells = [first.failed, second.failed, first.failed + second.failed];
        rows.push(
            [
                vec!["failures".to_owned()],
                cells.map(|count| count.to_string()).into(),
            ]
            .concat(),
        );
        println!(
            "\n{}",
            table(&["requests", "client-a", "client-b", "both"], &rows)
        );
        for (error, count) in first.errors.iter().chain(&second.errors) {
            println!("  {count} x {error}");
        }
        let servers: BTreeMap<_, _> = first.by_server.iter().chain(&second.by_server).collect();
        steps.observe(
            "HTTP requests reach all three web servers",
            servers.len() == 3,
        );
        steps.observe(
            "no request fails while a server is killed",
            first.failed + second.failed == 0,
        );
    }

    fn wait_for_captured(&self, count: u64) {
        eventually("requests go through the proxy", DEADLINE, || {
            let coverage = self.node.api().coverage("shop", "client-a");
            (coverage["captured"].as_u64()? >= count).then_some(())
        });
    }

    fn redis_direct(&self, steps: &mut Steps) {
        say("redis-benchmark against the virtual address");
        let mut rows = Vec::new();
        for client in &self.clients {
            let begin = Instant::now();
            let output = client.run(Command::new("redis-benchmark").args([
                "-h",
                "240.240.0.20",
                "-p",
                "6379",
                "-c",
                "8",
                "-n",
                "20000",
                "-d",
                "64",
                "-t",
                "get",
                "-q",
            ]));
            let works = output.is_ok_and(|output| output.status.success());
            let rate = 20_000.0 / begin.elapsed().as_secs_f64();
            rows.push(vec![
                client.name().to_owned(),
                "20000".to_owned(),
                format!("{rate:.0}"),
            ]);
            let is_direct = becomes(DEADLINE, || self.count(client, "direct") >= 8);
            steps.observe(
                format!(
                    "{} reaches Redis over connections that the kernel balances",
                    client.name()
                ),
                works && is_direct,
            );
        }
        println!(
            "\n{}",
            table(&["redis-benchmark", "requests", "per second"], &rows)
        );
        let status = self.node.api().get("/api/v1/status");
        let bytes = self.node.metrics().sum("mesh_accelerated_bytes_total", &[]);
        if status["acceleration"]["enabled"] == true {
            steps.observe(
                format!("{bytes:.0} bytes moved from socket to socket"),
                bytes > 0.0,
            );
        } else {
            let reason = &status["acceleration"]["reason"];
            steps.observe(
                format!("acceleration is off on this node: {reason}"),
                bytes == 0.0,
            );
        }
    }

    fn who_is_not_wanted(&self, steps: &mut Steps) {
        let mut rows = Vec::new();
        for address in [WEB, REDIS] {
            let dialled: SocketAddr = address.parse().expect("an address");
            let failure = self.unwanted.connect(dialled).err();
            let saw = failure.map_or_else(|| "connected".to_owned(), |failure| failure.kind);
            let explanation = self.node.api().explain("shop/unwanted", address);
            let said = |field: &str| match &explanation[field] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let is_refused = saw == "ConnectionRefused"
                && said("verdict") == "deny"
                && said("reason") == "policy";
            rows.push(vec![
                address.to_owned(),
                saw,
                said("verdict"),
                said("reason"),
                said("policy"),
            ]);
            steps.observe(
                format!("who is not wanted is refused at {address}, by policy"),
                is_refused,
            );
        }
        let headings = ["unwanted dials", "it sees", "verdict", "reason", "policy"];
        println!("\n{}", table(&headings, &rows));
        let is_counted = becomes(DEADLINE, || self.count(&self.unwanted, "denied") == 2);
        steps.observe("both refusals are counted", is_counted);
    }

    fn count(&self, pod: &Pod, verdict: &str) -> u64 {
        let coverage = self.node.api().coverage("shop", pod.name());
        coverage[verdict].as_u64().unwrap_or_default()
    }

    fn coverage(&self) {
        let list = self.node.api().get("/api/v1/coverage");
        let verdicts = ["captured", "direct", "passed", "denied", "bypassed"];
        let mut rows = Vec::new();
        for item in list["items"].as_array().expect("items") {
            let mut row = vec![item["name"].as_str().unwrap_or_default().to_owned()];
            row.extend(verdicts.map(|verdict| item[verdict].to_string()));
            row.push(item["reasons"].to_string());
            rows.push(row);
        }
        let headings = [&["connections of"][..], &verdicts, &["reasons"]].concat();
        println!("\n{}", table(&headings, &rows));
    }
}

/// Shows the API on this machine until Enter or an interrupt.
fn stay(demo: &Demo) {
    let listener =
        TcpListener::bind("127.0.0.1:15000").or_else(|_| TcpListener::bind("127.0.0.1:0"));
    let listener = listener.expect("a port for the API");
    let address = listener.local_addr().expect("its address");
    println!("\nthe API's documentation: http://{address}/docs");
    println!(
        "inside the node:         ip netns exec {} bash",
        demo.node.netns().name()
    );
    println!(
        "inside a client:         ip netns exec {} bash",
        demo.clients[0].netns().name()
    );
    println!("Enter or Ctrl-C ends the demo and removes everything");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                // A visitor that goes away is no trouble of ours.
                drop(forward(demo, stream));
            }
        });
        let ended = io::stdin().lock().lines().next();
        if ended.is_none() {
            // No terminal: only a signal ends it.
            loop {
                std::thread::park();
            }
        }
        stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(address));
    });
}

/// Copies both ways on threads that end with the connection.
fn forward(demo: &Demo, visitor: TcpStream) -> io::Result<()> {
    let api = demo.node.netns().run(|| TcpStream::connect(ADDRESS))?;
    for (mut from, mut to) in [(visitor.try_clone()?, api.try_clone()?), (api, visitor)] {
        drop(std::thread::spawn(move || {
            drop(io::copy(&mut from, &mut to));
            drop(to.shutdown(std::net::Shutdown::Write));
        }));
    }
    Ok(())
}

fn say(text: &str) {
    println!("* {text}");
}
