//! Read-only values that the agent sets before it loads the programs.
//!
//! The kernel sees them as constants and drops the branches that they rule out, so that a program may name a helper
//! that this kernel lacks.

use aya_ebpf::Global;

/// Whether `bpf_get_netns_cookie` may be called by `cgroup_skb` programs: 1 if so.
#[unsafe(no_mangle)]
pub(crate) static HAS_SKB_NETNS: Global<u32> = Global::new(0);

/// Whether the offsets below are those of the running kernel: 1 if so; else nothing is redirected.
#[unsafe(no_mangle)]
pub(crate) static HAS_OFFSETS: Global<u32> = Global::new(0);

/// Offset in `struct sock` of `sk_backlog.rmem_alloc`: bytes that wait for the reader.
#[unsafe(no_mangle)]
pub(crate) static RMEM_ALLOC: Global<u32> = Global::new(0);

/// Offset in `struct sock` of `sk_rcvbuf`: how many bytes may wait.
#[unsafe(no_mangle)]
pub(crate) static RCVBUF: Global<u32> = Global::new(0);

/// Offset in `struct sock` of `sk_write_pending`: how many calls wait in the middle of a send.
#[unsafe(no_mangle)]
pub(crate) static WRITE_PENDING: Global<u32> = Global::new(0);

/// Offset in `struct sock` of `__sk_common.skc_cookie`.
#[unsafe(no_mangle)]
pub(crate) static COOKIE: Global<u32> = Global::new(0);
