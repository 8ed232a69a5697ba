//! The benchmark: what the data path costs, beside a connection without a mesh and beside other proxies, interleaved.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "prints a table, and says what it does meanwhile"
)]

use std::io;
use std::process::ExitCode;

use mesh_tests::interrupt::clean_up_on_signals;
use mesh_tests::table::table;
use serde_json::{Value, json};

mod direct;
mod features;
mod idle;
mod loads;
mod outcome;
mod peers;
mod process;
mod proxied;
mod registry;
mod rig;
mod tails;

use direct::Bench;
use outcome::Outcome;
use registry::Size;

const USAGE: &str = "\
usage: bench [--train | [--quick] [--rounds N] [--millis N] [--connections N] [--only PART]...]
--train: measures nothing, but puts the loads on an agent that counts what its code does
PART: direct, http1, http2, routes, log, latency, bulk, fairness, hedging, idle, registry";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    clean_up_on_signals();
    if arguments == ["--train"] {
        return exit_code(train());
    }
    let Some(effort) = Effort::from_arguments(arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    exit_code(
        measure(&effort).map(|(results, acceleration)| show(&effort, &results, &acceleration)),
    )
}

/// Of what did something, could not, or failed.
fn exit_code(done: io::Result<bool>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether there is something to show.
fn show(effort: &Effort, results: &[Outcome], acceleration: &Value) -> bool {
    if results.is_empty() {
        return false;
    }
    let rows: Vec<Vec<String>> = results.iter().map(Outcome::row).collect();
    println!("\n{}", table(&Outcome::HEADINGS, &rows));
    let results: Vec<Value> = results.iter().map(Outcome::json).collect();
    println!(
        "{}",
        json!({ "rounds": effort.rounds, "acceleration": acceleration, "results": results })
    );
    true
}

fn measure(effort: &Effort) -> io::Result<(Vec<Outcome>, Value)> {
    let mut results = Vec::new();
    let mut acceleration = Value::Null;
    if effort.wants("direct") {
        let Some(bench) = Bench::open() else {
            return Ok((results, acceleration));
        };
        results.extend(bench.measure(effort.rounds, effort.millis));
        let status = bench.node.api().get("/api/v1/status");
        acceleration = status.get("acceleration").cloned().unwrap_or_default();
    }
    if !process::has_two_processors() {
        eprintln!("a comparison of proxies needs two processors");
        return Ok((results, acceleration));
    }
    for part in proxied::PARTS {
        if effort.wants(part.name) {
            results.extend(part.measure(effort.rounds, effort.millis)?);
        }
    }
    if effort.wants("fairness") {
        eprintln!("measuring: fairness");
        results.extend(tails::fairness(effort.rounds, effort.millis)?);
    }
    if effort.wants("hedging") {
        eprintln!("measuring: hedging");
        results.extend(tails::hedging(effort.rounds, effort.millis)?);
    }
    if effort.wants("idle") {
        eprintln!("measuring: what is idle");
        results.extend(idle::agent());
        results.extend(idle::connections(effort.connections)?);
    }
    if effort.wants("registry") {
        results.extend(registry::measure(
            &effort.registry,
            effort.rounds,
            effort.millis,
        )?);
    }
    Ok((results, acceleration))
}

/// How long each load is put on an agent that counts, in milliseconds: what is done most is done a thousand times sooner.
const TRAINING_MILLIS: u64 = 2_000;

/// `false`, after saying why, where nodes cannot be made.
fn train() -> io::Result<bool> {
    if !process::has_two_processors() {
        eprintln!("a load on the agent needs two processors");
        return Ok(false);
    }
    for part in proxied::PARTS {
        if !part.train(TRAINING_MILLIS)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How much is measured.
struct Effort {
    rounds: usize,
    millis: u64,
    connections: u64,
    registry: Size,
    only: Vec<String>,
}

impl Effort {
    fn from_arguments(arguments: Vec<String>) -> Option<Self> {
        let mut effort = Self {
            rounds: 5,
            millis: 2_000,
            connections: 9_000,
            registry: Size::WHOLE,
            only: Vec::new(),
        };
        let mut arguments = arguments.into_iter();
        while let Some(name) = arguments.next() {
            if name == "--quick" {
                effort = Self {
                    rounds: 3,
                    millis: 1_000,
                    connections: 1_000,
                    registry: Size::QUICK,
                    ..effort
                };
                continue;
            }
            let value = arguments.next()?;
            match name.as_str() {
                "--rounds" => effort.rounds = value.parse().ok().filter(|rounds| *rounds > 0)?,
                "--millis" => effort.millis = value.parse().ok().filter(|millis| *millis > 0)?,
                "--connections" => {
                    effort.connections = value.parse().ok().filter(|count| *count > 0)?;
                }
                "--only" => effort.only.push(value),
                _ => return None,
            }
        }
        Some(effort)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }
}
