//! A large registry: how long a start takes and what it holds in memory, how long a change takes to the kernel, and what
//! lookups cost the traffic beside.

mod changes;
mod content;
mod elsewhere;
mod kernel;
mod storm;
mod traffic;
mod wire;

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io;
use std::path::Path as FilePath;
use std::time::{Duration, Instant};

use mesh_tests::eventually::becomes;
use mesh_tests::node::Node;
use serde_json::json;

use super::outcome::{Goal, Outcome, Path, Sample, Subject, to_float};
use super::process::resident_kib;
use changes::{Changes, quantile};
use traffic::Traffic;

pub(crate) use content::Size;

/// How long the registry may take to be filled, or an agent to start; far more than is to be reached.
const PATIENCE: Duration = Duration::from_mins(15);
/// Objects that are imported one by one.
const IMPORTED: u32 = 100;

/// Fills a registry, starts an agent on it, changes it, and asks for changes.
pub(crate) fn measure(size: &Size, rounds: usize, millis: u64) -> io::Result<Vec<Outcome>> {
    let folder = tempfile::tempdir()?;
    let Some(mut node) = Node::without_agent_yet(&[]) else {
        return Ok(Vec::new());
    };
    let mut outcomes = start(&mut node, size, folder.path())?;
    eprintln!("measuring: changes of the registry");
    let mut changes = Changes::new(&node, size)?;
    let part = to_the_kernel(&mut node, size, &mut changes);
    outcomes.extend(part.unwrap_or_else(failed));
    eprintln!("measuring: traffic beside lookups");
    let part = Traffic::open(&node, folder.path())
        .and_then(|traffic| traffic.measure(&mut changes, size.clients, (rounds, millis)));
    outcomes.extend(part.unwrap_or_else(failed));
    eprintln!("measuring: import of the registry");
    let part = import(&node, folder.path());
    outcomes.extend(part.unwrap_or_else(failed));
    Ok(outcomes)
}

/// The row of a part that has failed: the others go on.
fn failed(error: io::Error) -> Vec<Outcome> {
    let error = error.to_string();
    let path = Path::new("", move || Err(io::Error::other(error.clone())));
    let subject = Subject {
        name: "large registry",
        unit: "",
        paths: vec![path],
    };
    subject.measure(1)
}

/// Fills the storage through a folder of files, which is the fastest way there is, and starts on that storage alone: once
/// while the kernel holds nothing, as after a boot, and once while it holds everything.
fn start(node: &mut Node, size: &Size, folder: &FilePath) -> io::Result<Vec<Outcome>> {
    const FLAGS: [&str; 4] = ["--workers", "1", "--access-log", "off"];
    let source = folder.join("source");
    std::fs::create_dir(&source)?;
    size.write(&source)?;
    let source = source.to_string_lossy().into_owned();
    let mut flags = FLAGS.to_vec();
    flags.extend(["--source", &source]);
    eprintln!("filling the registry");
    let filled = start_once(node, &flags)?;
    node.agent().stop();
    // The objects are given to the API.
    start_once(node, &FLAGS)?;
    let status = node.api().get("/api/v1/status");
    let count = |path: &str| status.pointer(path)?.as_u64();
    let found = (count("/objects/services"), count("/objects/endpoints"));
    if found != (Some(size.services.into()), Some(size.endpoints().into())) {
        return Err(io::Error::other(format!("not all is there: {status}")));
    }
    eprintln!("measuring: start");
    node.agent().stop();
    std::fs::remove_dir_all(node.pin_dir())?;
    let cold = start_once(node, &FLAGS)?;
    node.agent().stop();
    let warm = start_once(node, &FLAGS)?;
    let pid = node.agent().pid();
    let memory = settled(|| resident_kib(pid)) / 1_024.0;
    let maps = kernel::map_mebibytes(pid)?;
    let goal = [Goal::below(10.0)];
    let mut outcomes = shown(
        "large registry: start to ready",
        "s",
        &[
            ("empty kernel", cold, &goal),
            ("kernel has it", warm, &goal),
            ("from files, first time", filled, &[]),
        ],
    );
    outcomes.extend(shown(
        "large registry: memory after the start",
        "MiB",
        &[
            ("agent", memory, &[Goal::below(400.0)]),
            ("maps in the kernel", maps, &[]),
        ],
    ));
    Ok(outcomes)
}

/// Seconds until an agent with these flags is ready.
fn start_once(node: &mut Node, flags: &[&str]) -> io::Result<f64> {
    node.set_flags(flags);
    let started = Instant::now();
    node.start_agent_within(PATIENCE);
    let took = started.elapsed().as_secs_f64();
    let is_settled = becomes(PATIENCE, || {
        let status = node.api().get("/api/v1/status");
        let revision = |name: &str| status.get(name)?.as_u64();
        revision("programmedRevision") >= revision("revision")
    });
    if is_settled {
        Ok(took)
    } else {
        Err(io::Error::other("the kernel does not get to know all"))
    }
}

/// 100 changes a second, until each is in the kernel's map.
fn to_the_kernel(node: &mut Node, size: &Size, changes: &mut Changes) -> io::Result<Vec<Outcome>> {
    let writes = |node: &Node| node.metrics().sum("mesh_map_writes_total", &[]);
    let before = writes(node);
    let report = changes.run(node, Duration::from_secs(size.seconds.into()))?;
    let count = to_float(report.programmed.len() as u64);
    let writes = (writes(node) - before) / count;
    let memory = resident_kib(node.agent().pid()) / 1_024.0;
    let mut outcomes = shown(
        "large registry: change to kernel",
        "ms",
        &[
            (
                "half of them",
                quantile(&report.programmed, 50),
                &[Goal::below(10.0)],
            ),
            (
                "99 in 100",
                quantile(&report.programmed, 99),
                &[Goal::below(50.0)],
            ),
            ("slowest", quantile(&report.programmed, 100), &[]),
            ("half, answered", quantile(&report.answered, 50), &[]),
            ("99 in 100, answered", quantile(&report.answered, 99), &[]),
        ],
    );
    let rate = count / report.elapsed.as_secs_f64();
    outcomes.extend(shown(
        "large registry: under changes",
        "",
        &[
            ("changes a second", rate, &[]),
            // As many as one service has slots, twice, and a handful.
            ("map writes a change", writes, &[Goal::below(40.0)]),
            ("memory of the agent, MiB", memory, &[Goal::below(400.0)]),
        ],
    ));
    Ok(outcomes)
}

/// What one import of one object costs where there are so many already.
fn import(node: &Node, folder: &FilePath) -> io::Result<Vec<Outcome>> {
    let mut text = String::new();
    for number in 0..IMPORTED {
        let spec = json!({ "service": "imported", "address": content::address(1 << 20 | number), "port": 80 });
        let name = format!("imported-{number}");
        let object = content::object("Endpoint", ("imported", &name), &json!({}), &spec);
        writeln!(text, "---\n{object}").map_err(io::Error::other)?;
    }
    let path = folder.join("import.yaml");
    std::fs::write(&path, text)?;
    let path = path.to_string_lossy();
    let started = Instant::now();
    let output = node.command(&["registry", "import", &path]).output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(text.into_owned()));
    }
    let rate = f64::from(IMPORTED) / started.elapsed().as_secs_f64();
    Ok(shown(
        "large registry: import",
        "objects/s",
        &[("one by one", rate, &[])],
    ))
}

/// Rows of what was measured already.
fn shown(
    name: &'static str,
    unit: &'static str,
    rows: &[(&'static str, f64, &[Goal])],
) -> Vec<Outcome> {
    let paths = rows
        .iter()
        .map(|(path, value, goals)| replay(path, vec![*value]).reaching(goals))
        .collect();
    Subject { name, unit, paths }.measure(1)
}

/// A path whose samples are there already, one for each round.
fn replay<'a>(name: &'static str, values: Vec<f64>) -> Path<'a> {
    let values = RefCell::new(values.into_iter());
    Path::new(name, move || {
        let value = values.borrow_mut().next();
        let value = value.ok_or_else(|| io::Error::other("there was no such round"))?;
        Ok(Sample {
            value,
            cpu_micros: None,
        })
    })
}

/// A value once it has stopped falling for two seconds.
fn settled(value: impl Fn() -> f64) -> f64 {
    let mut least = value();
    let mut since = Instant::now();
    becomes(Duration::from_secs(10), || {
        let now = value();
        if now < least - 1_024.0 {
            (least, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(2)
    });
    value()
}
