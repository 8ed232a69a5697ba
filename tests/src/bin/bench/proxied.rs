//! Our proxy beside others, on one processor each in turn, under the same load.

use std::io;
use std::net::SocketAddr;

use mesh_tests::pod::Pod;
use mesh_tests::protocol::ServerKind;

use super::loads::{self, Load};
use super::outcome::{BARE, ENVOY, Goal, NO_MESH, Outcome, Path, Subject};
use super::peers::Wire;
use super::rig::{FAST, FEATURES, FEW_ROUTES, Log, MANY_ROUTES, OURS, Rig, Setup};

/// One comparison.
pub(crate) struct Part {
    /// How it is chosen on the command line.
    pub(crate) name: &'static str,
    title: &'static str,
    unit: &'static str,
    wire: Wire,
    log: Log,
    with_routes: bool,
    load: fn(&Pod, SocketAddr, u64) -> io::Result<Load>,
    /// What each of ours is to reach.
    goals: fn(&str) -> Vec<Goal>,
}

/// All of them.
pub(crate) const PARTS: [Part; 6] = [
    Part {
        name: "http1",
        title: "HTTP/1.1, 64 connections, 1 KiB",
        unit: "requests/s",
        wire: Wire::Http1,
        log: Log::Off,
        with_routes: false,
        load: loads::http1,
        goals: of_requests,
    },
    Part {
        name: "http2",
        title: "HTTP/2, 4 connections of 16 streams, 1 KiB",
        unit: "requests/s",
        wire: Wire::Http2,
        log: Log::Off,
        with_routes: false,
        load: loads::http2,
        goals: of_requests,
    },
    Part {
        name: "routes",
        title: "the same HTTP/1.1, with routes",
        unit: "requests/s",
        wire: Wire::Http1,
        log: Log::Off,
        with_routes: true,
        load: loads::http1,
        goals: of_requests,
    },
    Part {
        name: "log",
        title: "the same HTTP/1.1, with the access log on",
        unit: "requests/s",
        wire: Wire::Http1,
        log: Log::On,
        with_routes: false,
        load: loads::http1,
        goals: of_requests,
    },
    Part {
        name: "latency",
        title: "2,000 HTTP/1.1 requests a second, median",
        unit: "us",
        wire: Wire::Http1,
        log: Log::Off,
        with_routes: false,
        load: loads::paced,
        goals: of_latency,
    },
    Part {
        name: "bulk",
        title: "one opaque stream; CPU per MB",
        unit: "Gbit/s",
        wire: Wire::Tcp,
        log: Log::Off,
        with_routes: false,
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
        MANY_ROUTES => vec![Goal::at_least(0.95, FEW_ROUTES)],
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
        let Some(rig) = Rig::open(&self.setup())? else {
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

    /// Puts the load on every way, once. `false`, after saying why, where nodes cannot be made.
    pub(crate) fn train(&self, millis: u64) -> io::Result<bool> {
        eprintln!("training: {}", self.title);
        let setup = Setup {
            with_peers: false,
            ..self.setup()
        };
        let Some(rig) = Rig::open(&setup)? else {
            return Ok(false);
        };
        for contender in rig.contenders() {
            rig.sample(contender, |pod, address| (self.load)(pod, address, millis))?;
        }
        rig.close().map(|()| true)
    }

    fn setup(&self) -> Setup {
        Setup {
            log: self.log,
            with_routes: self.with_routes,
            ..Setup::new(self.wire, ServerKind::Discard)
        }
    }
}
