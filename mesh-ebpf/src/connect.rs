//! `connect(2)`: decides about a workload's connection, and sends it there.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_set_retval,
    bpf_sk_storage_delete,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::address::{Address, SocketAddress};
use mesh_common::conn::{Conn, Direction};
use mesh_common::event::{Event, Kind};
use mesh_common::service::{OUTBOUND_PORT, RESOLVER_PORT};
use mesh_common::stats::Counter;
use mesh_common::verdict::{Decision, Facts, Reason, Verdict, decide};

use crate::caller::facts;
use crate::context::{AF_INET, AF_INET6, dialling_socket, set_user_address, store, stored};
use crate::count;
use crate::count::bump;
use crate::maps::CONN;
use crate::tables::Maps;

/// Verdict of a connect or sendmsg program: carry on with the call.
pub(crate) const ALLOW: i32 = 1;
/// Verdict of a connect or sendmsg program: the call fails.
const REFUSE: i32 = 0;
/// Its error.
const ECONNREFUSED: i32 = 111;

/// `connect` on an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub(crate) fn mesh_connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, AF_INET)
}

/// `connect` on an IPv6 socket, whose destination may be a v4-mapped address.
#[cgroup_sock_addr(connect6)]
pub(crate) fn mesh_connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, AF_INET6)
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, family: u32) -> i32 {
    let socket = dialling_socket(ctx);
    let known = stored(&CONN, socket);
    let is_known = known.is_some();
    if matches!(known, Some(conn) if conn.is_own()) {
        return ALLOW;
    }
    let Some(facts) = facts(ctx, socket, family) else {
        if is_known {
            // A socket may be dialled again after its workload has left the mesh.
            // SAFETY: the verifier checks map and socket.
            let _absent = unsafe {
                bpf_sk_storage_delete((&raw const CONN).cast_mut().cast(), socket.cast())
            };
        }
        return ALLOW;
    };
    let mut decision = Decision::default();
    settle(&facts, &mut decision);
    if facts.protocol != 0 {
        remember(ctx, &facts, &decision, 0);
    }
    count_and_report(&facts, &decision);
    match decision.verdict {
        Verdict::Pass => ALLOW,
        Verdict::Direct => {
            set_user_address(ctx.sock_addr, family, &decision.destination);
            ALLOW
        }
        Verdict::Proxy => {
            let port = match decision.reason {
                Reason::Dns => RESOLVER_PORT,
                _ => OUTBOUND_PORT,
            };
            set_user_address(ctx.sock_addr, family, &listener(&facts.destination, port));
            ALLOW
        }
        Verdict::Deny => refuse(),
    }
}

/// Makes the call fail.
#[inline(always)]
pub(crate) fn refuse() -> i32 {
    // SAFETY: the helper has no conditions.
    let _set = unsafe { bpf_set_retval(-ECONNREFUSED) };
    REFUSE
}

/// Where the agent listens in the workload's namespace, on loopback of the destination's family.
#[inline(always)]
pub(crate) fn listener(destination: &SocketAddress, port: u16) -> SocketAddress {
    let address = if destination.address.is_v4() {
        Address::LOOPBACK_V4
    } else {
        Address::LOOPBACK_V6
    };
    SocketAddress::new(address, port)
}

/// A function of its own, for the sake of the kernel's limit on the stack of one function.
#[inline(never)]
pub(crate) fn settle(facts: &Facts<'_>, decision: &mut Decision) {
    *decision = decide(&Maps, facts);
}

/// Writes down the verdict, who asked, and `flags`, for the hooks that follow and for the agent.
#[inline(never)]
pub(crate) fn remember(ctx: &SockAddrContext, facts: &Facts<'_>, decision: &Decision, flags: u8) {
    let conn = Conn {
        original: facts.destination,
        verdict: decision.verdict as u8,
        reason: decision.reason as u8,
        direction: Direction::Dialled as u8,
        flags: if decision.is_accelerated {
            flags | Conn::ACCELERATED
        } else {
            flags
        },
        workload: facts.workload.id,
        service: decision.service,
        endpoint: decision.endpoint,
        caller: facts.workload.caller,
        pid: ctx.tgid(),
        netns: facts.netns,
        // SAFETY: the kernel passes a valid context.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        // SAFETY: the helper has no conditions.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        // SAFETY: the helper has no conditions.
        started_ns: unsafe { bpf_ktime_get_ns() },
    };
    store(&CONN, dialling_socket(ctx), &conn);
}

#[inline(never)]
pub(crate) fn count_and_report(facts: &Facts<'_>, decision: &Decision) {
    let subject = facts.workload.id;
    count::add(subject, decision.verdict as u16, decision.reason as u16, 1);
    let kind = if matches!(decision.verdict, Verdict::Deny) {
        Kind::Denied
    } else if decision.is_audited {
        Kind::AuditDenied
    } else {
        return;
    };
    if decision.is_audited {
        bump(subject, Counter::AuditDeny, decision.reason);
    }
    // SAFETY: the helper has no conditions.
    let now = unsafe { bpf_ktime_get_ns() };
    count::emit(&Event {
        kind: kind as u8,
        verdict: decision.verdict as u8,
        reason: decision.reason as u8,
        workload: subject,
        service: decision.service,
        endpoint: decision.endpoint,
        source: SocketAddress::new(facts.source(), 0),
        original: facts.destination,
        destination: decision.destination,
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        time_ns: now,
        started_ns: now,
        ..Event::default()
    });
}
