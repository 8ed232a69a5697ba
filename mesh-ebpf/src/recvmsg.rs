//! `recvmsg(2)` with room for the source: a workload sees answers come from where it sent its datagrams to.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::address::SocketAddress;
use mesh_common::conn::{Conn, Direction};
use mesh_common::flow::{Flow, FlowKey, Way};
use mesh_common::policy::PolicyKey;
use mesh_common::service::UDP;
use mesh_common::stats::Counter;
use mesh_common::verdict::{Reason, Verdict};
use mesh_common::workload::Workload;

use crate::caller::workload;
use crate::context::{
    AF_INET, AF_INET6, dialling_socket, is_connected_to, set_user_address, stored, stored_or_zero,
    user_address,
};
use crate::count::bump;
use crate::maps::{CONN, POLICY, REPLIES};

/// The only verdict that the kernel takes from this hook.
const ALLOW: i32 = 1;

/// An IPv4 socket has received.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn mesh_recvmsg4(ctx: SockAddrContext) -> i32 {
    receive(&ctx, AF_INET);
    ALLOW
}

/// An IPv6 socket has received, perhaps from a v4-mapped address.
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn mesh_recvmsg6(ctx: SockAddrContext) -> i32 {
    receive(&ctx, AF_INET6);
    ALLOW
}

#[inline(always)]
fn receive(ctx: &SockAddrContext, family: u32) {
    let socket = dialling_socket(ctx);
    let source = user_address(ctx.sock_addr, family);
    let known = stored(&CONN, socket);
    if let Some(conn) = &known {
        if conn.is_own() {
            return;
        }
        if conn.direction == Direction::Dialled as u8
            && (conn.verdict == Verdict::Direct as u8 || conn.verdict == Verdict::Proxy as u8)
            && is_connected_to(socket, family, &source)
        {
            show(ctx, family, &conn.original);
            return;
        }
    }
    // SAFETY: the kernel passes a valid context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if matches!(&known, Some(conn) if conn.has(Conn::TRANSLATED)) {
        let key = FlowKey::new(cookie, source, Way::Back);
        // SAFETY: entries are replaced whole, and their memory outlives the program's run.
        if let Some(flow) = unsafe { REPLIES.get(key) } {
            show(ctx, family, &flow.address);
            return;
        }
    }
    if (is_protected(&source) || is_locked(ctx))
        && let Some(conn) = stored_or_zero(&CONN, socket)
    {
        conn.flags |= Conn::CALLED;
        note_caller(cookie, &source);
    }
}

#[inline(always)]
fn show(ctx: &SockAddrContext, family: u32, original: &SocketAddress) {
    if family == AF_INET6 || original.address.is_v4() {
        set_user_address(ctx.sock_addr, family, original);
    }
}

/// Whether only answers may leave the workload.
#[inline(always)]
fn is_locked(ctx: &SockAddrContext) -> bool {
    workload(ctx).is_some_and(|it| it.has(Workload::EGRESS_LOCKED))
}

/// Whether a policy says who may send to where the datagram came from: an answer needs no leave.
#[inline(never)]
fn is_protected(source: &SocketAddress) -> bool {
    // SAFETY: only asked whether it is there.
    unsafe {
        POLICY.get(PolicyKey::workload(source.address)).is_some()
            || POLICY.get(PolicyKey::port(source, UDP)).is_some()
    }
}

#[inline(never)]
fn note_caller(cookie: u64, source: &SocketAddress) {
    let key = FlowKey::new(cookie, *source, Way::Caller);
    // SAFETY: only asked whether it is there.
    let is_known = unsafe { REPLIES.get(key) }.is_some();
    if !is_known && REPLIES.insert(key, Flow::default(), 0).is_err() {
        bump(0, Counter::MapFull, Reason::Policy);
    }
}
