//! The guard: a SYN that leaves a workload without a verdict is counted and, where egress is locked, dropped. Besides, a
//! connected socket's questions for names are announced to the agent.
//!
//! It sees sockets that are older than the enrolment, raw sockets, and what runs outside the hooks' reach. It does not
//! see packet sockets (`AF_PACKET`).

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id,
};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use mesh_common::address::{Address, SocketAddress};
use mesh_common::conn::{Conn, Direction};
use mesh_common::event::{Event, Kind};
use mesh_common::settings::Settings;
use mesh_common::stats::Counter;
use mesh_common::verdict::{Reason, Tables as _};
use mesh_common::workload::{CGROUP_LEVELS, Workload};

use crate::context::{SOCK_STREAM, field, is_connected, store, stored};
use crate::count::{bump, emit};
use crate::globals::HAS_SKB_NETNS;
use crate::maps::{CGROUPS, CONN, WORKLOADS};
use crate::packet::opening;
use crate::query;
use crate::tables::{Maps, settings};

/// Verdict of an egress program: the packet leaves.
const ALLOW: i32 = 1;
/// Verdict of an egress program: it does not.
const DROP: i32 = 0;

/// A packet leaves.
#[cgroup_skb(egress)]
pub(crate) fn mesh_egress(ctx: SkBuffContext) -> i32 {
    let skb: *mut __sk_buff = ctx.skb.skb;
    let Some(opening) = opening(skb) else {
        return ALLOW;
    };
    let (source, destination) = (opening.source, opening.destination);
    if !opening.is_connection {
        if let Some(socket) = sender(skb)
            && is_connected(socket)
            && let Some(conn) = stored(&CONN, socket)
        {
            query::tell_connected(conn, &source, destination.port);
        }
        return ALLOW;
    }
    if destination.address.is_loopback() || has_verdict(skb) {
        return ALLOW;
    }
    let Some(workload) = workload(&ctx, skb, &source.address) else {
        return ALLOW;
    };
    guard(skb, &workload, &source, &destination)
}

/// The socket that sends the packet, if it has a full one.
#[inline(always)]
fn sender(skb: *mut __sk_buff) -> Option<*mut bpf_sock> {
    let socket = field!(skb, __bindgen_anon_2.sk);
    if socket.is_null() {
        return None;
    }
    // SAFETY: the verifier checks the socket.
    let socket = unsafe { bpf_sk_fullsock(socket) };
    if socket.is_null() { None } else { Some(socket) }
}

#[inline(always)]
fn has_verdict(skb: *mut __sk_buff) -> bool {
    sender(skb)
        .and_then(|socket| stored(&CONN, socket))
        .is_some_and(|conn| conn.reason != Reason::NoVerdict as u8)
}

/// The workload that the packet comes from.
#[inline(always)]
fn workload(ctx: &SkBuffContext, skb: *mut __sk_buff, source: &Address) -> Option<Workload> {
    let settings = settings()?;
    if settings.has(Settings::PASS_ALL) {
        return None;
    }
    if HAS_SKB_NETNS.load() == 1 {
        // SAFETY: the kernel passes a valid context.
        let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
        if netns != settings.host_netns {
            // SAFETY: entries are replaced whole, and their memory outlives the program's run.
            return unsafe { WORKLOADS.get(netns) }.copied();
        }
        return workload_of_cgroup(skb);
    }
    workload_of_cgroup(skb).or_else(|| Maps.identity(source))
}

/// The workload whose cgroup the sending socket was made in, deepest first.
#[inline(always)]
fn workload_of_cgroup(skb: *mut __sk_buff) -> Option<Workload> {
    let mut level = i32::from(CGROUP_LEVELS);
    while level > 0 {
        level -= 1;
        // SAFETY: the kernel passes a valid context; the helper answers zero where there is no such level.
        let cgroup = unsafe { bpf_skb_ancestor_cgroup_id(skb, level) };
        if cgroup != 0
            // SAFETY: entries are replaced whole, and their memory outlives the program's run.
            && let Some(workload) = unsafe { CGROUPS.get(cgroup) }
        {
            return Some(*workload);
        }
    }
    None
}

/// Counts the connection once, and says whether its SYN may leave.
#[inline(always)]
fn guard(
    skb: *mut __sk_buff,
    workload: &Workload,
    source: &SocketAddress,
    destination: &SocketAddress,
) -> i32 {
    if is_first_syn(skb, workload, destination) {
        bump(workload.id, Counter::Bypass, Reason::NoVerdict);
        // SAFETY: the helper has no conditions.
        let now = unsafe { bpf_ktime_get_ns() };
        emit(&Event {
            kind: Kind::Bypassed as u8,
            reason: Reason::NoVerdict as u8,
            workload: workload.id,
            source: *source,
            original: *destination,
            destination: *destination,
            time_ns: now,
            started_ns: now,
            ..Event::default()
        });
    }
    if workload.has(Workload::EGRESS_LOCKED) && !Maps.may_leave(workload.id, destination) {
        DROP
    } else {
        ALLOW
    }
}

/// A stream socket is marked at its first SYN, so that those sent again are not counted. Every SYN of a raw socket is
/// taken for a connection.
#[inline(always)]
fn is_first_syn(skb: *mut __sk_buff, workload: &Workload, destination: &SocketAddress) -> bool {
    let Some(socket) = sender(skb) else {
        return true;
    };
    if field!(socket, type_) != SOCK_STREAM {
        return true;
    }
    if stored(&CONN, socket).is_some() {
        return false;
    }
    let conn = Conn {
        original: *destination,
        reason: Reason::NoVerdict as u8,
        direction: Direction::Dialled as u8,
        workload: workload.id,
        caller: workload.caller,
        ..Conn::default()
    };
    store(&CONN, socket, &conn);
    true
}
