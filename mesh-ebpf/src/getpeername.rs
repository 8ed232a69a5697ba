//! `getpeername(2)`: a workload sees the address that it dialled.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::conn::{Conn, Direction};
use mesh_common::verdict::Verdict;

use crate::context::{AF_INET, AF_INET6, dialling_socket, set_user_address, stored};
use crate::maps::CONN;

/// The only verdict that the kernel takes from this hook.
const ALLOW: i32 = 1;

/// `getpeername` on an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub(crate) fn mesh_getpeer4(ctx: SockAddrContext) -> i32 {
    show_original(&ctx, AF_INET);
    ALLOW
}

/// `getpeername` on an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub(crate) fn mesh_getpeer6(ctx: SockAddrContext) -> i32 {
    show_original(&ctx, AF_INET6);
    ALLOW
}

/// Only where the connection was sent elsewhere: the hook also runs for accepted sockets (`accept` asks it), and for
/// the agent's.
#[inline(always)]
fn show_original(ctx: &SockAddrContext, family: u32) {
    if let Some(conn) = stored(&CONN, dialling_socket(ctx))
        && conn.direction == Direction::Dialled as u8
        && !conn.has(Conn::OWN)
        && (conn.verdict == Verdict::Direct as u8 || conn.verdict == Verdict::Proxy as u8)
        && (family == AF_INET6 || conn.original.address.is_v4())
    {
        set_user_address(ctx.sock_addr, family, &conn.original);
    }
}
