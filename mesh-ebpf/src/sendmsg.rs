//! `sendmsg(2)` with an address: decides about a datagram of a socket that is not connected.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::conn::Conn;
use mesh_common::flow::{Flow, FlowKey, Way};
use mesh_common::stats::Counter;
use mesh_common::verdict::{Decision, Facts, Reason, Verdict};

use crate::caller::facts;
use crate::connect::{ALLOW, count_and_report, listener, refuse, remember, settle};
use crate::context::{AF_INET, AF_INET6, dialling_socket, is_connected, set_user_address, stored};
use crate::count;
use crate::count::bump;
use crate::maps::{CONN, REPLIES};
use crate::query;

/// A datagram to an IPv4 address; the socket may be an IPv6 one, and the address v4-mapped.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn mesh_sendmsg4(ctx: SockAddrContext) -> i32 {
    send(&ctx, AF_INET)
}

/// A datagram to an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn mesh_sendmsg6(ctx: SockAddrContext) -> i32 {
    send(&ctx, AF_INET6)
}

#[inline(always)]
fn send(ctx: &SockAddrContext, family: u32) -> i32 {
    let socket = dialling_socket(ctx);
    let known = stored(&CONN, socket);
    if matches!(&known, Some(conn) if conn.is_own()) {
        return ALLOW;
    }
    let Some(mut facts) = facts(ctx, socket, family) else {
        return ALLOW;
    };
    let flags = known.as_ref().map_or(0, |conn| conn.flags);
    // SAFETY: the kernel passes a valid context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    look_back(cookie, flags, &mut facts);
    if let Some(conn) = &known
        && is_connected(socket)
        && conn.verdict == Verdict::Direct as u8
        && conn.original == facts.destination
    {
        // A connected socket hears only whom it is connected to.
        facts.endpoint = conn.endpoint;
    }
    let mut decision = Decision::default();
    settle(&facts, &mut decision);
    let mut port = 0;
    let is_new = match decision.verdict {
        Verdict::Direct => follow(cookie, &facts, &decision),
        Verdict::Proxy => {
            port = query::mesh_port(cookie, &raw const facts.destination);
            query::tell_unconnected(socket, &facts, port as u16);
            port & query::NEW != 0
        }
        _ => !matches!(&known, Some(conn) if is_repeated(conn, &facts, &decision)),
    };
    if is_new {
        let flags = kept(flags, &decision);
        match known {
            // It is connected to somebody else.
            Some(conn) if is_connected(socket) => conn.flags |= flags,
            _ => remember(ctx, &facts, &decision, flags),
        }
        count_and_report(&facts, &decision);
    } else if matches!(decision.verdict, Verdict::Deny) {
        let (verdict, reason) = (decision.verdict as u16, decision.reason as u16);
        count::add(facts.workload.id, verdict, reason, 1);
    }
    match decision.verdict {
        Verdict::Pass => ALLOW,
        Verdict::Direct => {
            set_user_address(ctx.sock_addr, family, &decision.destination);
            ALLOW
        }
        Verdict::Proxy => {
            set_user_address(
                ctx.sock_addr,
                family,
                &listener(&facts.destination, port as u16),
            );
            ALLOW
        }
        Verdict::Deny => refuse(),
    }
}

/// What the socket exchanged with the destination before.
#[inline(never)]
fn look_back(cookie: u64, flags: u8, facts: &mut Facts<'_>) {
    let mut key = FlowKey::new(cookie, facts.destination, Way::Out);
    if flags & Conn::TRANSLATED != 0 {
        // SAFETY: entries are replaced whole, and their memory outlives the program's run.
        facts.endpoint = unsafe { REPLIES.get(key) }.map_or(0, |flow| flow.endpoint);
    }
    if flags & Conn::CALLED != 0 {
        key.way = Way::Caller as u32;
        // SAFETY: as above.
        facts.is_answer = unsafe { REPLIES.get(key) }.is_some();
    }
}

/// Whether the socket's last datagram went to the same place with the same verdict: it was counted.
#[inline(always)]
fn is_repeated(conn: &Conn, facts: &Facts<'_>, decision: &Decision) -> bool {
    conn.verdict == decision.verdict as u8
        && conn.reason == decision.reason as u8
        && conn.original == facts.destination
}

/// Flags of the socket after this datagram.
#[inline(always)]
fn kept(flags: u8, decision: &Decision) -> u8 {
    let kept = flags & (Conn::TRANSLATED | Conn::CALLED);
    if matches!(decision.verdict, Verdict::Direct | Verdict::Proxy) {
        kept | Conn::TRANSLATED
    } else {
        kept
    }
}

/// Makes the socket's next datagrams go to the same endpoint, and its answers show where this one was sent. Says
/// whether that is new.
#[inline(never)]
fn follow(cookie: u64, facts: &Facts<'_>, decision: &Decision) -> bool {
    let is_new = facts.endpoint != decision.endpoint;
    let back = FlowKey::new(cookie, decision.destination, Way::Back);
    let flow = Flow {
        address: facts.destination,
        endpoint: decision.endpoint,
    };
    // SAFETY: entries are replaced whole, and their memory outlives the program's run.
    let is_known = matches!(unsafe { REPLIES.get(back) }, Some(known) if *known == flow);
    let mut is_full = !is_known && REPLIES.insert(back, flow, 0).is_err();
    if is_new {
        let out = FlowKey::new(cookie, facts.destination, Way::Out);
        let flow = Flow {
            address: decision.destination,
            endpoint: decision.endpoint,
        };
        is_full |= REPLIES.insert(out, flow, 0).is_err();
    }
    if is_full {
        bump(0, Counter::MapFull, Reason::Service);
    }
    is_new
}
