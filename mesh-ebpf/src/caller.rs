//! Who calls `connect`, or sends a datagram: the workload of the network namespace or, in the agent's own, of the cgroup.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie};
use aya_ebpf::programs::SockAddrContext;
use mesh_common::service::{TCP, UDP};
use mesh_common::settings::Settings;
use mesh_common::verdict::Facts;
use mesh_common::workload::{CGROUP_LEVELS, Workload};

use crate::context::{SOCK_DGRAM, SOCK_STREAM, bound_address, field, user_address};
use crate::maps::{CGROUPS, WORKLOADS};
use crate::tables::settings;

/// What is known of the call, if a workload of the mesh makes it.
#[inline(always)]
pub(crate) fn facts(
    ctx: &SockAddrContext,
    socket: *mut bpf_sock,
    family: u32,
) -> Option<Facts<'static>> {
    // SAFETY: the kernel passes a valid context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    Some(Facts {
        workload: workload_in(netns)?,
        destination: user_address(ctx.sock_addr, family),
        bound: bound_address(socket, family),
        netns,
        protocol: protocol(ctx),
        is_answer: false,
        endpoint: 0,
        is_bound_to_device: field!(socket, bound_dev_if) != 0,
    })
}

/// The workload of the mesh that makes the call.
#[inline(always)]
pub(crate) fn workload(ctx: &SockAddrContext) -> Option<&'static Workload> {
    // SAFETY: the kernel passes a valid context.
    workload_in(unsafe { bpf_get_netns_cookie(ctx.as_ptr()) })
}

#[inline(always)]
fn workload_in(netns: u64) -> Option<&'static Workload> {
    let settings = settings()?;
    if settings.has(Settings::PASS_ALL) {
        return None;
    }
    if netns == settings.host_netns {
        return workload_of_task();
    }
    // SAFETY: entries are replaced whole, and their memory outlives the program's run.
    unsafe { WORKLOADS.get(netns) }
}

/// What the socket speaks. Datagram sockets may also speak ICMP or UDP-Lite, stream sockets MPTCP.
#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> u8 {
    match field!(ctx.sock_addr, type_) {
        SOCK_STREAM => TCP,
        SOCK_DGRAM if field!(ctx.sock_addr, protocol) == u32::from(UDP) => UDP,
        _ => 0,
    }
}

/// The workload whose cgroup the calling process is in, deepest first.
#[inline(always)]
fn workload_of_task() -> Option<&'static Workload> {
    let mut level = i32::from(CGROUP_LEVELS);
    while level > 0 {
        level -= 1;
        // SAFETY: the helper has no conditions; it answers zero where there is no such level.
        let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if cgroup != 0
            // SAFETY: entries are replaced whole, and their memory outlives the program's run.
            && let Some(workload) = unsafe { CGROUPS.get(cgroup) }
        {
            return Some(workload);
        }
    }
    None
}
