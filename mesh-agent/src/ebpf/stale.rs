//! Resets direct connections whose endpoint is gone, has moved, or has failed for good: their clients would wait for a
//! dead address. Connected datagram sockets stay: of those the kernel does not tell what the hooks have stored.
//!
//! A socket is chosen by what the kernel remembers of its connect (verdict direct, and the number of the endpoint), never
//! by address alone: an upstream connection of the agent, or one that was passed, may lead to the same place. The numbers
//! of endpoints are never given twice, so what was removed while no agent ran is known too. An endpoint that gets another
//! address keeps its number; its old connections are told by where they lead. One that is known by another name now, or
//! whose service was made anew, has another number, and its connections are as well as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::conn::{Conn, Direction};
use mesh_common::service::TCP;
use mesh_common::verdict::Verdict;

use super::inet_diag::{self, Storages, TcpSocket, state};
use crate::net::netns::Netns;
use crate::state::Snapshot;
use crate::state::endpoint::Endpoint;
use crate::state::id::Subject;
use crate::state::object::Kind;

/// Endpoints that are dead, or were left behind at an old address, while connections still lead there.
#[derive(Debug)]
pub struct Stale {
    grace_ns: u64,
    /// When the connections to each will be reset, on the monotonic clock.
    due_ns: BTreeMap<u32, u64>,
}

impl Stale {
    /// Connections have `grace` to end by themselves.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self {
            grace_ns: u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX),
            due_ns: BTreeMap::new(),
        }
    }

    /// When to look again, if there is a reason to, on the monotonic clock.
    #[must_use]
    pub fn next_look_ns(&self) -> Option<u64> {
        self.due_ns.values().min().copied()
    }

    /// Looks at the connections in `namespaces`, resets those whose time has come, and says how many. Blocks while the
    /// kernel lists its sockets. A namespace that cannot be entered any more has no sockets either.
    pub fn look(
        &mut self,
        snapshot: &Snapshot,
        namespaces: &[Arc<Netns>],
        storages: Storages<'_>,
        now_ns: u64,
    ) -> usize {
        let found: Vec<_> = namespaces
            .iter()
            .map(|netns| (netns, dead_ends(netns, storages, snapshot)))
            .collect();
        let dead = found.iter().flat_map(|(_, sockets)| sockets);
        let due = self.due(dead.filter_map(endpoint_of).collect(), now_ns);
        let mut count = 0;
        for (netns, sockets) in found {
            let is_due =
                |socket: &&TcpSocket| endpoint_of(socket).is_some_and(|it| due.contains(&it));
            let ended = netns.run(|| sockets.iter().filter(is_due).filter(|it| reset(it)).count());
            count += ended.unwrap_or(0);
        }
        count
    }

    /// Which of the endpoints that are dead have been so for the time of grace.
    fn due(&mut self, dead: BTreeSet<u32>, now_ns: u64) -> BTreeSet<u32> {
        self.due_ns.retain(|number, _| dead.contains(number));
        for number in dead {
            let due = now_ns.saturating_add(self.grace_ns);
            self.due_ns.entry(number).or_insert(due);
        }
        let due: BTreeSet<u32> = self
            .due_ns
            .iter()
            .filter(|(_, due)| **due <= now_ns)
            .map(|(number, _)| *number)
            .collect();
        self.due_ns.retain(|number, _| !due.contains(number));
        due
    }
}

/// Whether a connection may go on: it may not where its endpoint is elsewhere now, unless another is there. To a critical
/// one it may only where no other of its service is better.
fn is_living(snapshot: &Snapshot, conn: &Conn, remote: SocketAddr) -> bool {
    is_as_chosen(snapshot, conn.endpoint, remote)
        .unwrap_or_else(|| has_heir(snapshot, conn.service, remote))
}

/// Whether the endpoint with a number is well; nothing, where it is not at `remote`.
fn is_as_chosen(snapshot: &Snapshot, number: u32, remote: SocketAddr) -> Option<bool> {
    let Some(Subject::Endpoint(key, port)) = snapshot.ids.subject(number) else {
        return None;
    };
    let endpoint = snapshot.endpoints.get(key)?;
    let service = endpoint.service_key();
    let ports = snapshot
        .services
        .get(&service)
        .map(|it| it.spec.ports.iter());
    let port = ports.and_then(|mut ports| ports.find(|it| it.name == *port));
    let is_there = endpoint.spec.address.to_canonical() == remote.ip().to_canonical()
        && port.is_none_or(|port| endpoint.spec.port_of(port) == remote.port());
    let is_well =
        || !endpoint.has_failed() || snapshot.endpoints_of(&service).all(|it| it.has_failed());
    is_there.then(is_well)
}

/// Whether an endpoint of the service with a number, of any if that is forgotten, serves TCP at `remote` and has not
/// failed.
fn has_heir(snapshot: &Snapshot, service: u32, remote: SocketAddr) -> bool {
    let service = match snapshot.ids.subject(service) {
        Some(Subject::Service(key)) => Some(key),
        _ => None,
    };
    let serves = |endpoint: &Endpoint| {
        let key = endpoint.service_key();
        let ports = snapshot.services.get(&key).map(|it| it.spec.ports.iter());
        let mut ports = ports.into_iter().flatten();
        service.is_none_or(|service| *service == key)
            && ports.any(|port| {
                port.protocol.transport() == TCP && endpoint.spec.port_of(port) == remote.port()
            })
    };
    snapshot
        .holders_of(remote.ip())
        .filter(|(kind, _)| *kind == Kind::Endpoint)
        .filter_map(|(_, key)| snapshot.endpoints.get(key))
        .any(|endpoint| !endpoint.has_failed() && serves(endpoint))
}

/// The sockets of a namespace that the kernel sent to an endpoint that is not living, or not there any more.
fn dead_ends(netns: &Netns, storages: Storages<'_>, snapshot: &Snapshot) -> Vec<TcpSocket> {
    let list = || -> io::Result<Vec<TcpSocket>> {
        let mut sockets = Vec::new();
        inet_diag::visit(OPEN_STATES, Some(storages), |socket| {
            let chosen = direct(&socket);
            if chosen.is_some_and(|conn| !is_living(snapshot, &conn, socket.remote)) {
                sockets.push(socket);
            }
            true
        })?;
        Ok(sockets)
    };
    netns
        .run(list)
        .and_then(|listed| listed)
        .unwrap_or_else(|error| {
            tracing::debug!(%error, inode = netns.inode(), "cannot list the sockets of a network namespace");
            Vec::new()
        })
}

/// The endpoint that the kernel chose for a workload's socket.
fn endpoint_of(socket: &TcpSocket) -> Option<u32> {
    direct(socket).map(|conn| conn.endpoint)
}

/// What is known of a workload's socket for which the kernel chose an endpoint.
fn direct(socket: &TcpSocket) -> Option<Conn> {
    let conn = socket.conn?;
    let is_direct = conn.verdict == Verdict::Direct as u8
        && conn.direction == Direction::Dialled as u8
        && !conn.has(Conn::OWN);
    (is_direct && conn.endpoint != 0).then_some(conn)
}

fn reset(socket: &TcpSocket) -> bool {
    inet_diag::destroy(socket).unwrap_or_else(|error| {
        tracing::warn!(%error, local = %socket.local, remote = %socket.remote, "cannot reset a stale connection");
        false
    })
}

/// The states in which a program may wait for its peer.
const OPEN_STATES: u32 = 1 << state::ESTABLISHED
    | 1 << state::SYN_SENT
    | 1 << state::FIN_WAIT1
    | 1 << state::FIN_WAIT2
    | 1 << state::CLOSE_WAIT;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::state::endpoint::{Health, HealthStatus};
    use crate::state::object::ObjectKey;
    use crate::traffic::fixture::Fixture;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_dead_endpoint_has_its_time_of_grace() {
        let mut stale = Stale::new(Duration::from_secs(10));
        let dead = || BTreeSet::from([4, 7]);
        assert!(stale.due(dead(), 0).is_empty());
        assert_eq!(stale.next_look_ns(), Some(10 * SECOND));
        assert!(stale.due(BTreeSet::from([4, 7, 9]), 9 * SECOND).is_empty());
        assert_eq!(stale.due(BTreeSet::from([4, 7, 9]), 10 * SECOND), dead());
        assert_eq!(stale.next_look_ns(), Some(19 * SECOND));
    }

    #[test]
    fn who_comes_back_to_life_starts_anew() {
        let mut stale = Stale::new(Duration::from_secs(10));
        assert!(stale.due(BTreeSet::from([4]), 0).is_empty());
        assert!(stale.due(BTreeSet::new(), 5 * SECOND).is_empty());
        assert_eq!(stale.next_look_ns(), None);
        assert!(stale.due(BTreeSet::from([4]), 10 * SECOND).is_empty());
    }

    #[test]
    fn a_critical_endpoint_is_dead_only_if_another_is_better() {
        let endpoint =
            |number: u8| json!({"service": "web", "address": format!("10.0.0.{number}")});
        let mut snapshot = Fixture::default()
            .service("web", &json!({"ports": [{"name": "main", "port": 80}]}))
            .endpoint("one", &["main"], &endpoint(1))
            .endpoint("two", &["main"], &endpoint(2))
            .snapshot();
        let living = |snapshot: &Snapshot| {
            [("one", "10.0.0.1:80"), ("two", "10.0.0.2:80")].map(|(name, remote)| {
                is_living(snapshot, &conn(snapshot, name), remote.parse().unwrap())
            })
        };
        let fail = |snapshot: &mut Snapshot, name: &str| {
            let endpoints = &mut snapshot.endpoints;
            let endpoint = endpoints.get_mut(&ObjectKey::new("shop", name)).unwrap();
            Arc::make_mut(endpoint).status.health = Some(Health {
                status: HealthStatus::Critical,
                since: String::new(),
                output: String::new(),
            });
        };
        assert_eq!(living(&snapshot), [true, true]);
        fail(&mut snapshot, "one");
        assert_eq!(living(&snapshot), [false, true]);
        fail(&mut snapshot, "two");
        assert_eq!(living(&snapshot), [true, true]);
        snapshot.endpoints.clear();
        assert_eq!(living(&snapshot), [false, false]);
    }

    #[test]
    fn a_connection_to_the_old_address_of_an_endpoint_that_moved_is_dead() {
        let mut fixture =
            Fixture::default().service("web", &json!({"ports": [{"name": "main", "port": 80}]}));
        let mut living = |spec, remote: &str| {
            let moved = std::mem::take(&mut fixture).endpoint("one", &["main"], &spec);
            let snapshot = moved.snapshot();
            fixture = moved;
            let conn = conn(&snapshot, "one");
            is_living(&snapshot, &conn, remote.parse().unwrap())
        };
        let first = || json!({"service": "web", "address": "10.0.0.1"});
        let elsewhere = || json!({"service": "web", "address": "10.0.0.2", "port": 8080});
        assert!(living(first(), "10.0.0.1:80"));
        assert!(living(first(), "[::ffff:10.0.0.1]:80"));
        assert!(!living(elsewhere(), "10.0.0.1:80"));
        assert!(!living(elsewhere(), "10.0.0.2:80"));
        assert!(living(elsewhere(), "10.0.0.2:8080"));
    }

    #[test]
    fn a_connection_is_as_well_as_who_is_there_under_another_number() {
        let ports = |name: &str| json!({"ports": [{"name": name, "port": 80, "protocol": "tcp"}]});
        let at = |service: &str| json!({"service": service, "address": "10.0.0.1", "port": 8080});
        let before = Fixture::default()
            .service("web", &ports("main"))
            .endpoint("one", &["main"], &at("web"))
            .snapshot();
        let chosen = conn(&before, "one");
        let living = |fixture: Fixture, remote: &str| {
            let next = fixture.snapshot();
            // Numbers are never given twice; of what was there before the service is known, if it still is.
            let web = Subject::Service(ObjectKey::new("shop", "web"));
            let mut conn = chosen;
            conn.endpoint = next.ids.last() + 1;
            conn.service = match next.ids.number(&web) {
                0 => next.ids.last() + 2,
                number => number,
            };
            is_living(&next, &conn, remote.parse().unwrap())
        };
        let renamed = || Fixture::default().service("web", &ports("http"));
        let other = || renamed().service("other", &ports("main"));
        let there = "10.0.0.1:8080";
        assert!(living(
            renamed().endpoint("one", &["http"], &at("web")),
            there
        ));
        assert!(living(
            renamed().endpoint("again", &["http"], &at("web")),
            there
        ));
        assert!(!living(
            renamed().endpoint("again", &["http"], &at("web")),
            "10.0.0.1:80"
        ));
        assert!(!living(renamed(), there));
        // Another service's endpoint is none of this one, while this one is known.
        assert!(!living(
            other().endpoint("theirs", &["main"], &at("other")),
            there
        ));
        let anew = Fixture::default().service("other", &ports("main"));
        assert!(living(
            anew.endpoint("theirs", &["main"], &at("other")),
            there
        ));
    }

    fn conn(snapshot: &Snapshot, endpoint: &str) -> Conn {
        let key = |name: &str| ObjectKey::new("shop", name);
        let subject = Subject::Endpoint(key(endpoint), "main".to_owned());
        Conn {
            endpoint: snapshot.ids.number(&subject),
            service: snapshot.ids.number(&Subject::Service(key("web"))),
            ..Conn::default()
        }
    }
}
