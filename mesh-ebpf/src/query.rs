//! Questions for names that go to the agent: which of its ports, and which resolver was asked.

use aya_ebpf::bindings::bpf_sock;
use mesh_common::address::SocketAddress;
use mesh_common::conn::Conn;
use mesh_common::flow::{Flow, FlowKey, Query, QueryKey, Way};
use mesh_common::service::{RESOLVER_PORT, RESOLVER_PORTS};
use mesh_common::stats::Counter;
use mesh_common::verdict::{Facts, Reason, Verdict};

use crate::connect::listener;
use crate::context::field;
use crate::count::bump;
use crate::maps::{QUERIES, REPLIES};

/// Set in the answer of [`mesh_port`] if the socket has not asked this resolver before.
pub(crate) const NEW: u32 = 1 << 16;

/// Picks a port of the agent for the resolver that a socket asks, so that its answers can be told from those of other
/// resolvers that the socket asks, and makes them seem to come from there. Where more are asked than there are ports, the
/// first port is taken from whoever has it.
///
/// Exported for the same reason as [`mesh_choose`](crate::tables::mesh_choose).
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn mesh_port(cookie: u64, resolver: *const SocketAddress) -> u32 {
    // SAFETY: the verifier checks what callers pass.
    let Some(resolver) = (unsafe { resolver.as_ref() }) else {
        return 0;
    };
    let flow = Flow {
        address: *resolver,
        endpoint: 0,
    };
    let at = listener(resolver, RESOLVER_PORT);
    let mut back = FlowKey::new(cookie, at, Way::Back);
    let mut number = RESOLVER_PORT;
    while number < RESOLVER_PORT + RESOLVER_PORTS {
        back.address.port = number;
        // SAFETY: entries are replaced whole, and their memory outlives the program's run.
        match unsafe { REPLIES.get(back) } {
            Some(known) if known.address == flow.address => return u32::from(number),
            Some(_) => number += 1,
            None => break,
        }
    }
    if number == RESOLVER_PORT + RESOLVER_PORTS {
        number = RESOLVER_PORT;
    }
    back.address.port = number;
    if REPLIES.insert(back, flow, 0).is_err() {
        bump(0, Counter::MapFull, Reason::Dns);
    }
    u32::from(number) | NEW
}

/// Tells the agent whom a question that arrives from `client` at one of its ports is for.
#[inline(never)]
pub(crate) fn tell(key: &QueryKey, query: &Query) {
    // SAFETY: entries are replaced whole, and their memory outlives the program's run.
    let is_known = matches!(unsafe { QUERIES.get(key) }, Some(known) if known == query);
    if !is_known && QUERIES.insert(key, query, 0).is_err() {
        bump(query.workload, Counter::MapFull, Reason::Dns);
    }
}

/// The same for a socket that is not connected, whose port is known when it sends.
#[inline(never)]
pub(crate) fn tell_unconnected(socket: *mut bpf_sock, facts: &Facts<'_>, number: u16) {
    let address = if facts.bound.is_unspecified() {
        listener(&facts.destination, 0).address
    } else {
        facts.bound
    };
    let key = QueryKey {
        netns: facts.netns,
        client: SocketAddress::new(address, field!(socket, src_port) as u16),
        port: u32::from(number),
    };
    let query = Query {
        resolver: facts.destination,
        workload: facts.workload.id,
    };
    tell(&key, &query);
}

/// The same for a connected socket, which has a port only when it sends.
#[inline(always)]
pub(crate) fn tell_connected(conn: &Conn, client: &SocketAddress, number: u16) {
    if conn.verdict != Verdict::Proxy as u8 || conn.reason != Reason::Dns as u8 {
        return;
    }
    let key = QueryKey {
        netns: conn.netns,
        client: *client,
        port: u32::from(number),
    };
    let query = Query {
        resolver: conn.original,
        workload: conn.workload,
    };
    tell(&key, &query);
}
