//! 2,000 proxied requests a second: alone, beside 100 changes a second, and beside those and all who wait for them, at the
//! agent or, to tell its part from the machine's, at somebody else.

use std::io;
use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::thread;
use std::time::Duration;

use mesh_tests::api::ADDRESS;
use mesh_tests::eventually::{DEADLINE, becomes};
use mesh_tests::node::Node;
use mesh_tests::pod::Pod;
use mesh_tests::protocol::{Pace, Task};
use mesh_tests::registry::{endpoint, service, with};
use serde_json::json;

use super::changes::{Changes, RATE};
use super::{elsewhere, replay, storm};
use crate::loads;
use crate::outcome::{Goal, Outcome, Subject, to_float};
use crate::process::Running;
use crate::rig::{BACKEND, DIALLED, nginx_backend, wait_for};

const ALONE: &str = "alone";
const CHANGES: &str = "beside changes";
const ELSEWHERE: &str = "beside changes, and lookups elsewhere";
const STORM: &str = "beside changes and lookups";

/// What a tail takes to show, in times of what a rate takes.
const LONGER: u64 = 4;

/// Who asks through the proxy, and who answers. Fields are dropped in order.
pub(super) struct Traffic<'a> {
    _backend: Running,
    client: Pod,
    _server: Pod,
    node: &'a Node,
    address: SocketAddr,
}

/// The median and the 99th in 100, in microseconds.
type Tail = [f64; 2];

/// One of the two.
type Part = fn(&Tail) -> f64;

impl<'a> Traffic<'a> {
    pub(super) fn open(node: &'a Node, folder: &FilePath) -> io::Result<Self> {
        let (client, server) = (node.pod("client"), node.pod("server"));
        let backend = Running::new(server.spawn(&mut nginx_backend(folder)?)?);
        wait_for(&server, (server.v4(), BACKEND).into())?;
        node.enrol(&client);
        // No service that is allotted an address gets this one.
        let address = SocketAddr::from(([10, 127, 0, 1], DIALLED));
        let wanted = service("web", &[&address.ip().to_string()], "main", DIALLED, "http");
        node.apply(&[
            with(wanted, &json!({ "mode": "proxy" })),
            endpoint("web", "web", server.v4(), "main", BACKEND),
        ]);
        // The proxy may hear of the endpoint after the kernel.
        let url = format!("http://{address}/");
        if !becomes(DEADLINE, || client.get(&url).status == 200) {
            return Err(io::Error::other("nobody answers through the proxy"));
        }
        Ok(Self {
            _backend: backend,
            client,
            _server: server,
            node,
            address,
        })
    }

    /// Measures all four in every round.
    pub(super) fn measure(
        &self,
        changes: &mut Changes,
        clients: u32,
        (rounds, millis): (usize, u64),
    ) -> io::Result<Vec<Outcome>> {
        let time = Duration::from_millis(millis * LONGER);
        let services = changes.services();
        let (mut alone, mut beside_changes) = (Vec::new(), Vec::new());
        let (mut beside_elsewhere, mut beside_all) = (Vec::new(), Vec::new());
        let (mut answers, mut answers_elsewhere) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            alone.push(self.tail(time)?);
            beside_changes.push(self.tail_beside(changes, time)?);
            let beside = self.elsewhere(&services, |address| {
                storm::beside(self.node, address, clients, &services, || {
                    self.tail_beside(changes, time)
                })
            })?;
            beside_elsewhere.push(beside.0);
            answers_elsewhere.push(to_float(beside.1) / time.as_secs_f64());
            let beside = storm::beside(self.node, ADDRESS, clients, &services, || {
                self.tail_beside(changes, time)
            })?;
            beside_all.push(beside.0);
            answers.push(to_float(beside.1) / time.as_secs_f64());
        }
        let mut outcomes = Vec::new();
        let subjects: [(_, Part, _); 2] = [
            ("2,000 requests/s, half", |tail| tail[0], 1.1),
            ("2,000 requests/s, 99 in 100", |tail| tail[1], 1.5),
        ];
        for (name, of, bound) in subjects {
            let path = |path, tails: &[Tail]| replay(path, tails.iter().map(of).collect());
            let subject = Subject {
                name,
                unit: "us",
                paths: vec![
                    path(ALONE, &alone),
                    path(CHANGES, &beside_changes).reaching(&[Goal::at_most(bound, ALONE)]),
                    path(ELSEWHERE, &beside_elsewhere),
                    path(STORM, &beside_all).reaching(&[
                        Goal::at_most(bound, CHANGES),
                        Goal::at_most(bound, ELSEWHERE),
                    ]),
                ],
            };
            outcomes.extend(subject.measure(rounds));
        }
        let subject = Subject {
            name: "lookups that waited",
            unit: "answers/s",
            paths: vec![replay(ELSEWHERE, answers_elsewhere), replay(STORM, answers)],
        };
        outcomes.extend(subject.measure(rounds));
        Ok(outcomes)
    }

    /// Has somebody else answer the lookups of the same services, with what the agent says of one of them, as often as
    /// services change.
    fn elsewhere<T>(
        &self,
        services: &[(String, String)],
        work: impl FnOnce(SocketAddr) -> io::Result<T>,
    ) -> io::Result<T> {
        let (namespace, service) = services.first().ok_or(io::ErrorKind::NotFound)?;
        let path = storm::path(namespace, service) + "0";
        let answer = self.node.api().get(&path).to_string();
        let pause = Duration::from_secs(1) / RATE;
        elsewhere::beside(self.node, answer, services.len(), pause, work)
    }

    fn tail(&self, time: Duration) -> io::Result<Tail> {
        let pace = Pace {
            address: self.address,
            rate: 2_000,
            connections: 32,
            millis: u64::try_from(time.as_millis()).map_err(io::Error::other)?,
        };
        let report = loads::task(&self.client, Task::Paced(pace))?;
        Ok([report.p50_nanos, report.p99_nanos].map(|nanos| to_float(nanos) / 1_000.0))
    }

    fn tail_beside(&self, changes: &mut Changes, time: Duration) -> io::Result<Tail> {
        thread::scope(|scope| {
            // The load warms up for a while before it counts.
            let made = scope.spawn(|| changes.run(self.node, time + time / 4));
            let tail = self.tail(time);
            let made = made.join();
            made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            tail
        })
    }
}
