//! The life of a TCP socket: hands over what connect decided, counts open connections, reports closed ones.

use aya_ebpf::bindings::{
    BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
    BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING, BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK, BPF_TCP_SYN_SENT,
};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use mesh_common::conn::{Conn, Direction, Tuple};
use mesh_common::event::{Event, Kind};
use mesh_common::stats::Counter;
use mesh_common::verdict::Reason;

use crate::context::{AF_INET, AF_INET6, field, full_socket, store, stored, tuple};
use crate::count::{add_to, bump, emit};
use crate::maps::{CONN, OPEN, PEERS, PENDING, REDIRECTS};
use crate::pair::pair;
use crate::tables::pending;

/// What the kernel takes from this hook: nothing to say.
const CONTINUE: u32 = 1;

/// Something happens to a TCP socket.
#[sock_ops]
pub(crate) fn mesh_sock_ops(ctx: SockOpsContext) -> u32 {
    let family = field!(ctx.ops, family);
    if family == AF_INET || family == AF_INET6 {
        match field!(ctx.ops, op) {
            BPF_SOCK_OPS_TCP_CONNECT_CB => dials(&ctx),
            BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => is_connected(&ctx),
            BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => is_accepted(&ctx),
            BPF_SOCK_OPS_STATE_CB if field!(ctx.ops, __bindgen_anon_1.args[1]) == BPF_TCP_CLOSE => {
                closes(&ctx);
            }
            _ => {}
        }
    }
    CONTINUE
}

/// The SYN is about to leave, so whoever accepts the connection finds what is published here.
#[inline(always)]
fn dials(ctx: &SockOpsContext) {
    let Some(socket) = full_socket(ctx) else {
        return;
    };
    let tuple = tuple(ctx);
    let Some(conn) = stored(&CONN, socket) else {
        // Of an earlier connection by this name; what follows must not adopt it.
        let _absent = PENDING.remove(tuple);
        return;
    };
    if conn.endpoint != 0 && !conn.has(Conn::COUNTED) && opened(conn.endpoint) {
        conn.flags |= Conn::COUNTED;
    }
    let mut published = *conn;
    // SAFETY: the helper has no conditions.
    published.started_ns = unsafe { bpf_ktime_get_ns() };
    if PENDING.insert(tuple, published, 0).is_err() {
        bump(conn.workload, Counter::MapFull, Reason::NoVerdict);
    }
    watch_state(ctx);
}

/// The caller's end is established.
#[inline(always)]
fn is_connected(ctx: &SockOpsContext) {
    if let Some(socket) = full_socket(ctx)
        && let Some(conn) = stored(&CONN, socket)
        && conn.has(Conn::ACCELERATED)
    {
        pair(ctx, socket, &tuple(ctx), conn.service);
    }
}

/// The callee's end is established: if the caller is on this node, its verdict comes along.
/// The entry stays: with SYN cookies the kernel may come here twice for one connection.
#[inline(always)]
fn is_accepted(ctx: &SockOpsContext) {
    let Some(socket) = full_socket(ctx) else {
        return;
    };
    let tuple = tuple(ctx);
    let Some(pending) = pending(&tuple.reversed()) else {
        return;
    };
    let conn = pending.accepted();
    if store(&CONN, socket, &conn) && conn.has(Conn::ACCELERATED) {
        watch_state(ctx);
        pair(ctx, socket, &tuple, conn.service);
    }
}

/// The socket closes: no more is said of it.
#[inline(always)]
fn closes(ctx: &SockOpsContext) {
    let Some(socket) = full_socket(ctx) else {
        return;
    };
    let Some(conn) = stored(&CONN, socket) else {
        return;
    };
    if conn.has(Conn::COUNTED) {
        conn.flags &= !Conn::COUNTED;
        closed(conn.endpoint);
    }
    let tuple = tuple(ctx);
    if conn.direction == Direction::Dialled as u8 && !conn.has(Conn::OWN) {
        let sent = stored(&REDIRECTS, socket).map_or(0, |redirect| redirect.bytes);
        report(ctx, conn, &tuple, sent);
    }
    if conn.has(Conn::ACCELERATED) {
        let _absent = PEERS.remove(tuple);
    }
}

#[inline(always)]
fn watch_state(ctx: &SockOpsContext) {
    let flags = field!(ctx.ops, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG;
    // It fails only for sockets that are no full ones, whose state does not change either.
    let _set = ctx.set_cb_flags(flags.cast_signed());
}

/// Counts a connection of `endpoint`, unless there is no room to count it.
#[inline(always)]
fn opened(endpoint: u32) -> bool {
    if OPEN.get_ptr_mut(endpoint).is_none() {
        // Another CPU may have been faster; what counts is the look-up below.
        let _raced = OPEN.insert(endpoint, 0, u64::from(BPF_NOEXIST));
    }
    let Some(open) = OPEN.get_ptr_mut(endpoint) else {
        bump(0, Counter::MapFull, Reason::NoEndpoint);
        return false;
    };
    add_to(open, 1);
    true
}

/// Takes the count back; the agent may have removed the endpoint, and its count with it.
#[inline(always)]
fn closed(endpoint: u32) {
    if let Some(open) = OPEN.get_ptr_mut(endpoint)
        // SAFETY: the pointer comes from a map look-up and is valid until the program ends.
        && unsafe { open.read_volatile() } > 0
    {
        add_to(open, u64::MAX);
    }
}

/// Sends the final values of a dialled connection to the agent.
#[inline(never)]
fn report(ctx: &SockOpsContext, conn: &Conn, tuple: &Tuple, redirected: u64) {
    let previous = field!(ctx.ops, __bindgen_anon_1.args[0]);
    // SAFETY: the entry is this socket's own, removed only by it.
    let handed = unsafe { PEERS.get(tuple) }.map_or(0, |peer| peer.received);
    emit(&Event {
        kind: Kind::Closed as u8,
        verdict: conn.verdict,
        reason: conn.reason,
        flags: conn.flags,
        workload: conn.workload,
        service: conn.service,
        endpoint: conn.endpoint,
        source: tuple.local,
        original: conn.original,
        destination: tuple.remote,
        pid: conn.pid,
        cookie: conn.cookie,
        // SAFETY: the helper has no conditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        started_ns: conn.started_ns,
        bytes_sent: field!(ctx.ops, bytes_acked).saturating_sub(numbers_sent(previous))
            + redirected,
        bytes_received: field!(ctx.ops, bytes_received).saturating_sub(numbers_received(previous))
            + handed,
        rtt_micros: field!(ctx.ops, srtt_us) >> 3,
        retransmits: field!(ctx.ops, total_retrans),
    });
}

/// Sequence numbers that SYN and FIN took and that the kernel counts as bytes.
#[inline(always)]
fn numbers_sent(previous: u32) -> u64 {
    match previous {
        BPF_TCP_SYN_SENT => 0,
        BPF_TCP_FIN_WAIT2 | BPF_TCP_LAST_ACK | BPF_TCP_CLOSING => 2,
        _ => 1,
    }
}

/// The same for the peer's FIN.
#[inline(always)]
fn numbers_received(previous: u32) -> u64 {
    match previous {
        BPF_TCP_CLOSE_WAIT | BPF_TCP_LAST_ACK | BPF_TCP_CLOSING => 1,
        _ => 0,
    }
}
