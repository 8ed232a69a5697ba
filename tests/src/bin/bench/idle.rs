//! What stands and does nothing: memory of an idle agent, and of idle connections.

use std::io;
use std::time::Duration;

use mesh_tests::eventually::{becomes, pause};
use mesh_tests::node::Node;
use mesh_tests::pod::Pod;
use mesh_tests::protocol::{Failure, ServerKind};

use super::loads::Load;
use super::outcome::{Goal, Outcome, Path, Sample, Subject, to_float};
use super::peers::Wire;
use super::process::resident_kib;
use super::rig::{Contender, OURS, Rig, Setup};

/// How long memory may go on changing after the last connection.
const SETTLE: Duration = Duration::from_secs(5);
/// How long connections are silent before they count as idle: whoever lets go of buffers then has done so.
const SILENCE: Duration = Duration::from_secs(10);

/// The agent before anybody has asked it for anything.
pub(crate) fn agent() -> Vec<Outcome> {
    let Some(mut node) = Node::start() else {
        return Vec::new();
    };
    let pid = node.agent().pid();
    let sample = move || {
        Ok(Sample {
            value: settled(|| resident_kib(pid)) / 1_024.0,
            cpu_micros: None,
        })
    };
    let subject = Subject {
        name: "idle agent",
        unit: "MiB",
        paths: vec![Path::new(OURS, sample).reaching(&[Goal::below(24.0)])],
    };
    subject.measure(1)
}

/// Connections that have carried something and are silent now: HTTP/1.1, and opaque ones.
pub(crate) fn connections(count: u64) -> io::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for (wire, name, goal) in [
        (Wire::Http1, "idle HTTP/1.1 connection", [Goal::below(16.0)]),
        (Wire::Tcp, "idle opaque pair", [Goal::below(2.0)]),
    ] {
        let Some(rig) = Rig::open(&Setup::new(wire, ServerKind::Echo))? else {
            return Ok(outcomes);
        };
        let rig = &rig;
        let mut paths = Vec::new();
        for contender in rig.contenders().filter(|contender| contender.is_alone()) {
            let path = Path::new(contender.name, move || cost(rig, contender, wire, count));
            let is_ours = contender.name == OURS;
            paths.push(path.reaching(if is_ours { &goal } else { &[] }));
        }
        let subject = Subject {
            name,
            unit: "KiB",
            paths,
        };
        outcomes.extend(subject.measure(1));
    }
    Ok(outcomes)
}

fn cost(rig: &Rig, contender: &Contender, wire: Wire, count: u64) -> io::Result<Sample> {
    let failed = |failure: Failure| io::Error::other(format!("{failure:?}"));
    let memory = || settled(|| contender.resident_kib().unwrap_or_default());
    let before = memory();
    let hold = |pod: &Pod, address| {
        pod.hold(address, count, wire == Wire::Http1)
            .map_err(failed)?;
        pause(SILENCE);
        let used = memory() - before;
        pod.release().map_err(failed)?;
        let operations = to_float(count);
        Ok(Load {
            value: used / operations,
            operations,
        })
    };
    rig.sample(contender, hold)
}

/// A value once it has stopped changing.
fn settled(value: impl Fn() -> f64) -> f64 {
    let mut last = value();
    let mut same = 0;
    becomes(SETTLE, || {
        let now = value();
        same = if (now - last).abs() < f64::EPSILON {
            same + 1
        } else {
            0
        };
        last = now;
        same > 20
    });
    last
}
