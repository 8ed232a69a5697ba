//! Our proxy beside others, on one processor each in turn, under the same load.

use std::io;
use std::net::SocketAddr;

use mesh_tests::pod::Pod;
use mesh_tests::protocol::ServerKind;

use super::loads::{self, Load};
use super::outcome::{BARE, ENVOY, Goal, NO_MESH, Outcome, Path, Subject};
use super::peers::Wire;
use super::rig::{FAST, FEATURES, OURS, Rig};

/// One comparison.
pub(crate) struct Part {
    /// How it is chosen on the command line.
    pub(crate) name: &'static str,
    title: &'static str,
    unit: &'static str,
    wire: Wire,
    load: fn(&Pod, SocketAddr, u64) -> io::Result<Load>,
    /// What each of ours is to reach.
    goals: fn(&str) -> Vec<Goal>,
}

/// All of them.
pub(crate) const PARTS: [Part; 4] = [
    Part {
        name: "http1",
        title: "HTTP/1.1, 64 connections, 1 KiB",
        unit: "requests/s",
        wire: Wire::Http1,
        load: loads::http1,
        goals: of_requests,
    },
    Part {
        name: "http2",
        title: "HTTP/2, 4 connections of 16 streams, 1 KiB",
        unit: "requests/s",
        wire: Wire::Http2,
        load: loads::http2,
        goals: of_requests,
    },
    Part {
        name: "latency",
        title: "2,000 HTTP/1.1 requests a second, median",
        unit: "us",
        wire: Wire::Http1,
        load: loads::paced,
        goals: of_latency,
    },
    Part {
        name: "bulk",
        title: "one opaque stream; CPU per MB",
        unit: "Gbit/s",
        wire: Wire::Tcp,
        load: loads::bulk,
        goals: of_bulk,
    },
];

fn of_requests(name: &str) -> Vec<Goal> {
    match name {
        OURS => vec![Goal::at_least(0.8, BARE), Goal::at_least(2.0, ENVOY)],
        FAST => vec![Goal::at_least(1.3, OURS)],
        FEATURES => vec![
            Goal::at_least(0.8, BARE),
            Goal::at_least(2.0, ENVOY),
            Goal::at_least(0.9, OURS),
        ],
        _ => Vec::new(),
    }
}

fn of_latency(name: &str) -> Vec<Goal> {
    match name {
        OURS | FEATURES => vec![Goal::adds_at_most(55.0, NO_MESH)],
        _ => Vec::new(),
    }
}

fn of_bulk(name: &str) -> Vec<Goal> {
    match name {
        OURS => vec![Goal::at_least(0.9, BARE)],
        _ => Vec::new(),
    }
}

impl Part {
    pub(crate) fn measure(&self, rounds: usize, millis: u64) -> io::Result<Vec<Outcome>> {
        eprintln!("measuring: {}", self.title);
        let Some(rig) = Rig::open(self.wire, ServerKind::Discard)? else {
            return Ok(Vec::new());
        };
        let rig = &rig;
        let mut paths = Vec::new();
        for contender in rig.contenders() {
            let load = self.load;
            let measure = move || rig.sample(contender, |pod, address| load(pod, address, millis));
            let goals = (self.goals)(contender.name);
            paths.push(Path::new(contender.name, measure).reaching(&goals));
        }
        let subject = Subject {
            name: self.title,
            unit: self.unit,
            paths,
        };
        Ok(subject.measure(rounds))
    }
}
