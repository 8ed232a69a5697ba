//! Live connections: the sockets of each namespace, joined with what the hooks stored about them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::conn::{Conn, Direction};
use mesh_common::verdict::Verdict;

use super::inet_diag::{self, Storages, TcpSocket, state};
use super::numbers::Numbers;
use crate::net::netns::Netns;
use crate::state::object::ObjectKey;
use crate::state::report::{Connection, Party};

#[cfg(test)]
mod tests;

/// Most connections in one answer.
pub const MAX_CONNECTIONS: usize = 10_000;

/// The live connections that workloads dialled from any of `namespaces`, at most [`MAX_CONNECTIONS`].
///
/// Blocks while the kernel lists its sockets, in each namespace in turn: for a thread that may. A namespace that cannot
/// be entered any more is left out. The agent's own namespace belongs to `namespaces` too: it has the other ends of
/// connections that are accelerated, and the workloads that are known by cgroup.
pub fn connections(
    numbers: &Numbers,
    namespaces: &[Arc<Netns>],
    storages: Storages<'_>,
) -> Vec<Connection> {
    let mut sockets = Vec::new();
    for netns in namespaces {
        if let Err(error) = collect(netns, storages, &mut sockets) {
            let inode = netns.inode();
            tracing::debug!(%error, inode, "cannot list the sockets of a network namespace");
        }
    }
    join(numbers, &sockets)
}

/// Most sockets that are looked at: both ends of each connection may be on the node.
const MAX_SOCKETS: usize = 2 * MAX_CONNECTIONS;

fn collect(netns: &Netns, storages: Storages<'_>, sockets: &mut Vec<TcpSocket>) -> io::Result<()> {
    netns.run(|| {
        inet_diag::visit(OPEN_STATES, Some(storages), |socket| {
            if socket.conn.is_some() {
                sockets.push(socket);
            }
            sockets.len() < MAX_SOCKETS
        })
    })?
}

/// All states but listening and those without an open socket.
const OPEN_STATES: u32 = 1 << state::ESTABLISHED
    | 1 << state::SYN_SENT
    | 1 << state::FIN_WAIT1
    | 1 << state::FIN_WAIT2
    | 1 << state::CLOSE_WAIT;

/// Joins dialled sockets with the objects and with the sockets at their other ends.
fn join(numbers: &Numbers, sockets: &[TcpSocket]) -> Vec<Connection> {
    // What a socket received past the stack is what its peers redirected to it.
    let mut redirected_to: BTreeMap<u64, u64> = BTreeMap::new();
    for redirect in sockets.iter().filter_map(|socket| socket.redirect) {
        if redirect.peer != 0 {
            *redirected_to.entry(redirect.peer).or_default() += redirect.bytes;
        }
    }
    sockets
        .iter()
        .filter_map(|socket| Some((socket, socket.conn?)))
        .filter(|(_, conn)| conn.direction == Direction::Dialled as u8 && !conn.has(Conn::OWN))
        .take(MAX_CONNECTIONS)
        .map(|(socket, conn)| {
            let received = redirected_to.get(&socket.cookie).copied();
            connection(numbers, socket, &conn, received.unwrap_or_default())
        })
        .collect()
}

fn connection(
    numbers: &Numbers,
    socket: &TcpSocket,
    conn: &Conn,
    redirected_here: u64,
) -> Connection {
    let original = SocketAddr::from(conn.original);
    let verdict = Verdict::from_number(conn.verdict);
    let redirected = socket.redirect.map_or(0, |redirect| redirect.bytes);
    Connection {
        source: Party {
            workload: name(numbers.workload(conn.workload)),
            address: socket.local,
        },
        destination: destination(verdict, original, socket.remote),
        original,
        service: numbers.service(conn.service).map(ToString::to_string),
        verdict: verdict.map_or("unknown", Verdict::as_str).to_owned(),
        protocol: protocol(numbers, conn.service, original.port()),
        bytes_sent: socket.info.bytes_sent + redirected,
        bytes_received: socket.info.bytes_received + redirected_here,
        rtt_micros: socket.info.rtt_micros,
        retransmits: socket.info.retransmits,
        accelerated: redirected + redirected_here > 0,
        closed: false,
    }
}

/// Where a connection went. Of one that goes through the proxy the socket knows the listener only, and the proxy may
/// choose an endpoint anew for each request: what was dialled says more.
pub(super) fn destination(
    verdict: Option<Verdict>,
    original: SocketAddr,
    remote: SocketAddr,
) -> SocketAddr {
    match verdict {
        Some(Verdict::Proxy) => original,
        // Refused before an endpoint was chosen.
        _ if remote.ip().is_unspecified() => original,
        _ => remote,
    }
}

pub(super) fn name(key: Option<&ObjectKey>) -> String {
    key.map_or_else(|| "unknown".to_owned(), ToString::to_string)
}

pub(super) fn protocol(numbers: &Numbers, service: u32, port: u16) -> String {
    numbers
        .protocol(service, port)
        .unwrap_or_else(|| "unknown".to_owned())
}
